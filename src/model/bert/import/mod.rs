//! Hugging Face directories of BERT encoders: config.json, safetensors, tokenizer.json, and
//! sentence-transformers' pooling.
//!
//! Heads of pre-training (`cls.…`) are no part of an encoder and are left out; heads of tasks are
//! refused: they come with adapters. The configuration is read by `config`.

pub(crate) mod config;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::schema::ArchivedBert;
use super::{Config, Site, norm_vectors, tables};
use crate::archive::{Buffer, Header};
use crate::file::{FileError, Kind, ToOutput};
use crate::import::base::{BaseOptions, Finished, Progress, Tensors};
use crate::import::bitsandbytes::Quantization;
use crate::import::huggingface::{model_name, open_shards};
use crate::import::json::Json;
use crate::import::reader::{self, Reader};
use crate::import::safetensors::{Shards, dense, pieces};
use crate::import::{Pieces, Tensor, TextParts, huggingface_text};
use crate::quant::Format;

/// A directory with a BERT encoder.
#[derive(Debug)]
pub struct HuggingFaceBert {
    directory: PathBuf,
    json: Json,
    config: Config,
    max_length: usize,
    shards: Shards,
    quantization: Option<Quantization>,
    /// Names of `BertModel` to those in the files.
    names: BTreeMap<String, String>,
    tokenizer_as_it_is: bool,
}

impl HuggingFaceBert {
    /// Opens a directory: reads the configuration and maps the weights.
    ///
    /// # Errors
    /// A [`FileError`] that names the file and the key or tensor: missing or damaged files, another
    /// model type, a field that changes the mathematics and is not supported, a pooling that is
    /// not the mean or the first token, the head of a task.
    pub fn open(directory: impl AsRef<Path>) -> Result<Self, FileError> {
        let directory = directory.as_ref();
        let json = Json::read(&directory.join("config.json"))?;
        let (config, max_length) = config::read(directory, &json)?;
        let quantization = json
            .object("quantization_config")?
            .map(|json| Quantization::read(&json))
            .transpose()?;
        let shards = open_shards(directory)?;
        let names = names(directory, &shards, quantization.is_some())?;
        Ok(Self {
            directory: directory.to_owned(),
            json,
            config,
            max_length,
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
        &self.config
    }
}

/// `BertModel`'s names: without the prefix that task models put in front, and with the norms' names
/// of today.
fn names(
    directory: &Path,
    shards: &Shards,
    quantized: bool,
) -> Result<BTreeMap<String, String>, FileError> {
    let is_prefixed = shards.names().any(|name| name.starts_with("bert."));
    let mut names = BTreeMap::new();
    for stored in shards.names() {
        if stored.starts_with("cls.") || quantized && Quantization::is_companion(stored) {
            continue;
        }
        let name = stored.strip_prefix("bert.").unwrap_or(stored);
        if is_prefixed && name == stored
            || ["classifier", "qa_outputs"].iter().any(|head| name.starts_with(head))
        {
            let reason = "the head of a task is no part of an encoder; classifiers are imported with their adapters";
            return Err(FileError::format(directory, stored, reason));
        }
        let renamed =
            |old: &str, new: &str| name.strip_suffix(old).map(|stem| format!("{stem}{new}"));
        let name = renamed("LayerNorm.gamma", "LayerNorm.weight")
            .or_else(|| renamed("LayerNorm.beta", "LayerNorm.bias"));
        let name =
            name.unwrap_or_else(|| stored.strip_prefix("bert.").unwrap_or(stored).to_owned());
        if let Some(other) = names.insert(name, stored.to_owned()) {
            return Err(FileError::format(
                directory,
                stored,
                format!("{other} is the same part of the model: one of the two is too many"),
            ));
        }
    }
    Ok(names)
}

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
        Ok(dense(&self.shards, stored)?.map(|(shape, values)| Tensor::Dense { shape, values }))
    }

    fn pieces(&self, name: &str) -> Result<Option<Pieces<'_>>, FileError> {
        let Some(stored) = self.names.get(name) else { return Ok(None) };
        match &self.quantization {
            Some(quantization) if quantization.is_packed(&self.shards, stored) => Ok(None),
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
    let config = source.config;
    let text = TextParts { tokenizer: tokenizer(source, options)?, ..TextParts::default() };
    let mut reader = Reader::new(source, options, progress);
    let (mut tensors, layers) = (Tensors::default(), config.layers);
    for site in Site::linears(layers) {
        let layer = reader.biased_linear(&site.to_string(), site.shape(&config))?;
        tensors.places.insert(site.number(layers), layer);
    }
    let [positions, token_types] = tables(layers);
    for (place, path, rows, format) in [
        (Site::Embedding.number(layers), "word_embeddings", config.vocab, options.embedding),
        (positions, "position_embeddings", config.context, Format::F32),
        (token_types, "token_type_embeddings", config.token_types, Format::F32),
    ] {
        let shape = (rows, config.dim);
        let weight = reader.weight(&format!("embeddings.{path}"), shape, format)?;
        tensors.places.insert(place, weight.into());
    }
    for norm in 0..=2 * layers {
        let path = norm_path(norm);
        for (number, part) in norm_vectors(norm).into_iter().zip(["weight", "bias"]) {
            let values = reader.vector(&format!("{path}.{part}"), config.dim)?;
            tensors.vectors.insert(number, values);
        }
    }
    let path = Site::Pooler.to_string();
    if reader.has(&format!("{path}.weight")) {
        let pooler = reader.biased_linear(&path, Site::Pooler.shape(&config))?;
        tensors.places.insert(Site::Pooler.number(layers), pooler);
    }
    reader.refuse_leftovers(|name| name == "embeddings.position_ids")?;
    let name = model_name(&source.json, &source.directory);
    let (config, max_length) = (config.to_schema(), source.max_length);
    Ok(Finished { name, config, layers, text, labels: Vec::new(), max_length, tensors })
}

/// tokenizer.json, or nothing where that is allowed.
fn tokenizer(source: &HuggingFaceBert, options: &BaseOptions) -> Result<Vec<u8>, FileError> {
    if options.without_tokenizer {
        return Ok(Vec::new());
    }
    let (directory, as_it_is) = (&source.directory, source.tokenizer_as_it_is);
    let tokenizer = huggingface_text::encoder_tokenizer(directory, &source.json, as_it_is)
        .map_err(huggingface_text::with_hint)?;
    if tokenizer.is_empty() && !options.allow_missing_tokenizer {
        let reason = "the model comes without tokenizer.json (transformers' save_pretrained of its \
                      fast tokenizer writes one)";
        let error = FileError::format(directory, "tokenizer", reason);
        return Err(huggingface_text::with_hint(error));
    }
    Ok(tokenizer)
}

/// The module path of a norm in transformers' `BertModel`.
pub(crate) fn norm_path(norm: usize) -> String {
    match norm {
        0 => "embeddings.LayerNorm".to_owned(),
        odd if !odd.is_multiple_of(2) => {
            format!("encoder.layer.{}.attention.output.LayerNorm", odd / 2)
        }
        even => format!("encoder.layer.{}.output.LayerNorm", even / 2 - 1),
    }
}
