//! Hugging Face directories of encoders: config.json, safetensors, tokenizer.json, and
//! sentence-transformers' pooling.
//!
//! BERT, RoBERTa, XLM-R, CamemBERT and DistilBERT differ in what `config` and `names` read, and
//! nothing else here depends on which it is. A classifier of texts is no part of the base: `head`
//! makes an adapter of it.

pub(crate) mod config;
pub(crate) mod head;
mod names;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::schema::ArchivedBert;
use super::{Architecture, Config, Site, norm_vectors, tables};
use crate::archive::{Buffer, Header};
use crate::file::{FileError, Kind, ToOutput};
use crate::import::base::{BaseOptions, Finished, Progress, Tensors};
use crate::import::bitsandbytes::Quantization;
use crate::import::huggingface::{model_name, open_shards};
use crate::import::json::Json;
use crate::import::reader::{self, Reader};
use crate::import::safetensors::{Shards, dense, pieces};
use crate::import::{Pieces, Tensor, TextParts, huggingface_text};
use crate::quant::{BLOCK, Format, OwnedMatrix};
use crate::text::PADS;
use crate::text::gate::GuardedTokenizer;
use config::Facts;
use names::CLASSIFIER;

/// A directory with an encoder of the BERT family.
#[derive(Debug)]
pub struct HuggingFaceBert {
    directory: PathBuf,
    json: Json,
    facts: Facts,
    shards: Shards,
    quantization: Option<Quantization>,
    /// Names of the bare model to those in the files.
    names: BTreeMap<String, String>,
    tokenizer_as_it_is: bool,
}

impl HuggingFaceBert {
    /// Opens a directory: reads the configuration and maps the weights.
    ///
    /// # Errors
    /// A [`FileError`] that names the file and the key or tensor: missing or damaged files, another
    /// model type, a field that changes the mathematics and is not supported, a pooling that is
    /// not the mean or the first token, the head of a task other than classifying texts.
    pub fn open(directory: impl AsRef<Path>) -> Result<Self, FileError> {
        let directory = directory.as_ref();
        let json = Json::read(&directory.join("config.json"))?;
        let facts = config::read(directory, &json)?;
        let quantization = json
            .object("quantization_config")?
            .map(|json| Quantization::read(&json))
            .transpose()?;
        let shards = open_shards(directory)?;
        let architecture = facts.config.architecture;
        let names = names::read(&json, architecture, &shards, quantization.is_some())?;
        Ok(Self {
            directory: directory.to_owned(),
            json,
            facts,
            shards,
            quantization,
            names,
            tokenizer_as_it_is: false,
        })
    }

    /// Takes tokenizer.json as it is, whatever class transformers would read it with.
    pub(crate) fn with_tokenizer_as_it_is(self) -> Self {
        Self { tokenizer_as_it_is: true, ..self }
    }

    /// The numbers.
    pub fn config(&self) -> &Config {
        &self.facts.config
    }

    /// Does it classify texts? [`import_peft`](crate::import::import_peft) makes an adapter of its
    /// classifier, which is no part of the base.
    pub fn has_classifier(&self) -> bool {
        self.holds_classifier() && head::labels(self).is_ok()
    }

    /// Is there a classifier, of whatever kind?
    fn holds_classifier(&self) -> bool {
        self.names.contains_key(&format!("{CLASSIFIER}.weight"))
    }

    /// The rows of a tensor that no token reads, and that are left out: positions before the first.
    fn unread_rows(&self, name: &str) -> usize {
        if name == POSITIONS { self.facts.first_position } else { 0 }
    }
}

/// The table of positions.
const POSITIONS: &str = "embeddings.position_embeddings.weight";

impl reader::Tensors for HuggingFaceBert {
    fn path(&self) -> &Path {
        &self.directory
    }

    fn names(&self) -> Vec<String> {
        self.names.keys().cloned().collect()
    }

    fn tensor(&self, name: &str) -> Result<Option<Tensor>, FileError> {
        let Some(stored) = self.names.get(name) else { return Ok(None) };
        if let Some(quantization) = &self.quantization
            && let Some(matrix) = quantization.packed(&self.shards, stored)?
        {
            return Ok(Some(Tensor::Packed(matrix)));
        }
        Ok(dense(&self.shards, stored)?.map(|(mut shape, mut values)| {
            let unread = self.unread_rows(name);
            if let ([rows, cols], 1..) = (&mut shape[..], unread) {
                *rows = rows.saturating_sub(unread);
                values.drain(..values.len().min(unread.saturating_mul(*cols)));
            }
            Tensor::Dense { shape, values }
        }))
    }

    fn pieces(&self, name: &str) -> Result<Option<Pieces<'_>>, FileError> {
        let Some(stored) = self.names.get(name) else { return Ok(None) };
        match &self.quantization {
            Some(quantization) if quantization.is_packed(&self.shards, stored) => Ok(None),
            _ if self.unread_rows(name) > 0 => Ok(None),
            _ => pieces(&self.shards, stored),
        }
    }

    fn kept(&self, name: &str) -> Option<Format> {
        // Only linear layers are quantized by bitsandbytes.
        self.quantization.as_ref()?.kept(&self.shards, self.names.get(name)?)
    }
}

/// Imports `source` into the file `output`, a path or an [`Output`](crate::file::Output) that was
/// tried: whole or not at all.
///
/// # Errors
/// A [`FileError`] that names the file and the tensor or key; before any tensor is read, what
/// speaks against writing there.
pub fn write_bert(
    source: &HuggingFaceBert,
    options: &BaseOptions,
    output: impl ToOutput,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Header, FileError> {
    let output = output.output(Kind::Base, &[&source.directory])?;
    read(source, options, progress)?.write(options, &output)
}

/// Imports `source` into memory.
///
/// # Errors
/// As [`write_bert`].
pub fn bert_to_buffer(
    source: &HuggingFaceBert,
    options: &BaseOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Buffer, FileError> {
    read(source, options, progress)?.to_buffer(options, &source.directory)
}

fn read(
    source: &HuggingFaceBert,
    options: &BaseOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Finished<ArchivedBert<'static>>, FileError> {
    let Facts { config, max_length, .. } = source.facts;
    let architecture = config.architecture;
    let text = TextParts { tokenizer: tokenizer(source, options)?, ..TextParts::default() };
    let mut reader = Reader::new(source, options, progress);
    let (mut tensors, layers) = (Tensors::default(), config.layers);
    for site in Site::linears(layers) {
        let layer = reader.biased_linear(&architecture.path(site), site.shape(&config))?;
        tensors.places.insert(site.number(layers), layer);
    }
    let [positions, token_types] = tables(layers);
    for (place, path, rows, format) in [
        (Site::Embedding.number(layers), "word_embeddings", config.vocab, options.embedding),
        (positions, "position_embeddings", config.context, Format::F32),
        (token_types, "token_type_embeddings", config.token_types, Format::F32),
    ] {
        if place == token_types && architecture == Architecture::DistilBert {
            tensors.places.insert(place, no_types(source, config.dim)?.into());
            continue;
        }
        let shape = (rows, config.dim);
        let weight = reader.weight(&format!("embeddings.{path}"), shape, format)?;
        tensors.places.insert(place, weight.into());
    }
    for norm in 0..=2 * layers {
        let path = architecture.norm_path(norm);
        for (number, part) in norm_vectors(norm).into_iter().zip(["weight", "bias"]) {
            let values = reader.vector(&format!("{path}.{part}"), config.dim)?;
            tensors.vectors.insert(number, values);
        }
    }
    let path = architecture.path(Site::Pooler);
    if reader.has(&format!("{path}.weight")) {
        let pooler = reader.biased_linear(&path, Site::Pooler.shape(&config))?;
        tensors.places.insert(Site::Pooler.number(layers), pooler);
    }
    reader.refuse_leftovers(|name| {
        name == "embeddings.position_ids" || name.starts_with(CLASSIFIER)
    })?;
    let name = model_name(&source.json, &source.directory);
    let config = config.to_schema();
    Ok(Finished { name, config, layers, text, labels: Vec::new(), max_length, tensors })
}

/// The table of a model without token types: one row of zeros. In f16, because what is trained with
/// a base are its tables in f32.
fn no_types(source: &HuggingFaceBert, dim: usize) -> Result<OwnedMatrix, FileError> {
    OwnedMatrix::quantize(Format::F16, BLOCK, 1, dim, &vec![0.0; dim])
        .map_err(|error| FileError::core(&source.directory, "token types", error))
}

/// RoBERTa counts no position at the token `pad`, which therefore must be one that texts do not have.
fn check_pad(source: &HuggingFaceBert, tokenizer: &[u8], pad: usize) -> Result<(), FileError> {
    let library = GuardedTokenizer::from_json(tokenizer).ok();
    let token = library.and_then(|library| library.id_to_token(u32::try_from(pad).ok()?));
    if token.as_ref().is_none_or(|token| PADS.contains(&token.as_str())) {
        return Ok(());
    }
    let reason = format!(
        "{pad} is the token {:?}, which texts contain and at which the model would count no \
         position: the id of <pad> was expected",
        token.unwrap_or_default()
    );
    Err(source.json.error("pad_token_id", reason))
}

/// tokenizer.json, or nothing where that is allowed.
fn tokenizer(source: &HuggingFaceBert, options: &BaseOptions) -> Result<Vec<u8>, FileError> {
    if options.without_tokenizer {
        return Ok(Vec::new());
    }
    let (directory, as_it_is) = (&source.directory, source.tokenizer_as_it_is);
    let tokenizer = huggingface_text::encoder_tokenizer(directory, &source.json, as_it_is)
        .map_err(huggingface_text::with_hint)?;
    if let Some(pad) = source.facts.first_position.checked_sub(1) {
        check_pad(source, &tokenizer, pad)?;
    }
    if tokenizer.is_empty() && !options.allow_missing_tokenizer {
        let reason = "the model comes without tokenizer.json (transformers' save_pretrained of its \
                      fast tokenizer writes one)";
        let error = FileError::format(directory, "tokenizer", reason);
        return Err(huggingface_text::with_hint(error));
    }
    Ok(tokenizer)
}
