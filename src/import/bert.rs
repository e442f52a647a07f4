//! Hugging Face directories of BERT encoders: config.json, safetensors, tokenizer.json, and
//! sentence-transformers' pooling.
//!
//! Heads of pre-training (`cls.…`) are no part of an encoder and are left out; heads of tasks are
//! refused: they come with adapters. The configuration is read by `bert_config`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::base::{BaseOptions, Progress};
use super::bitsandbytes::Quantization;
use super::huggingface::{model_name, open_shards};
use super::json::Json;
use super::reader::{Layer, Reader, Tensors};
use super::safetensors::{Shards, dense, pieces};
use super::{Pieces, Tensor, bert_config, huggingface_text};
use crate::archive::schema::bert::{Bert, BertLayer, LayerNorm};
use crate::archive::{Buffer, Header, schema, to_buffer, write_file};
use crate::file::{FileError, Kind, ToOutput};
use crate::model::bert::{Config, Site};
use crate::quant::{Format, OwnedMatrix};

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
        let (config, max_length) = bert_config::read(directory, &json)?;
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
    pub(super) fn with_tokenizer_as_it_is(self) -> Self {
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

impl Tensors for HuggingFaceBert {
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
    Parts::read(source, options, progress)?
        .with_root(|root| write_file(root, options.content_version, &output))
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
    let wrap = |error| FileError::core(&source.directory, "", error);
    Parts::read(source, options, progress)?
        .with_root(|root| to_buffer(root, options.content_version).map_err(wrap))
}

/// A LayerNorm, finished: weight and bias.
type Norm = [Vec<f32>; 2];

/// One encoder block, finished: q, k, v, o, up, down; the norms after attention and feed-forward
/// part.
struct Block {
    linears: [Layer; 6],
    norms: [Norm; 2],
}

/// A base, finished.
struct Parts {
    name: String,
    config: Config,
    max_length: usize,
    tokenizer: Vec<u8>,
    blocks: Vec<Block>,
    /// Word, position and token-type embedding.
    embeddings: [OwnedMatrix; 3],
    embedding_norm: Norm,
    pooler: Option<Layer>,
}

type BertReader<'r> = Reader<'r, HuggingFaceBert>;

impl Parts {
    fn read(
        source: &HuggingFaceBert,
        options: &BaseOptions,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Self, FileError> {
        let config = source.config;
        let tokenizer = if options.without_tokenizer {
            Vec::new()
        } else {
            let (directory, as_it_is) = (&source.directory, source.tokenizer_as_it_is);
            huggingface_text::encoder_tokenizer(directory, &source.json, as_it_is)
                .map_err(huggingface_text::with_hint)?
        };
        let may_lack = options.allow_missing_tokenizer || options.without_tokenizer;
        if tokenizer.is_empty() && !may_lack {
            let reason = "the model comes without tokenizer.json (transformers' save_pretrained of its fast tokenizer writes one)";
            let error = FileError::format(&source.directory, "tokenizer", reason);
            return Err(huggingface_text::with_hint(error));
        }
        let mut reader = Reader::new(source, options, progress);
        let blocks = (0..config.layers)
            .map(|layer| block(&mut reader, &config, layer))
            .collect::<Result<_, _>>()?;
        let embeddings = [
            reader.weight(
                &Site::Embedding.to_string(),
                (config.vocab, config.dim),
                options.embedding,
            )?,
            reader.weight(
                "embeddings.position_embeddings",
                (config.context, config.dim),
                Format::F32,
            )?,
            reader.weight(
                "embeddings.token_type_embeddings",
                (config.token_types, config.dim),
                Format::F32,
            )?,
        ];
        let embedding_norm = norm(&mut reader, "embeddings.LayerNorm", config.dim)?;
        let path = Site::Pooler.to_string();
        let pooler = reader
            .has(&format!("{path}.weight"))
            .then(|| reader.biased_linear(&path, Site::Pooler.shape(&config)));
        let pooler = pooler.transpose()?;
        reader.refuse_leftovers(|name| name == "embeddings.position_ids")?;
        let name = model_name(&source.json, &source.directory);
        Ok(Self {
            name,
            config,
            max_length: source.max_length,
            tokenizer,
            blocks,
            embeddings,
            embedding_norm,
            pooler,
        })
    }

    /// Lends the parts as a root.
    fn with_root<T>(&self, use_it: impl FnOnce(&Bert<'_>) -> T) -> T {
        fn norm([weight, bias]: &Norm) -> LayerNorm<'_> {
            LayerNorm { weight, bias }
        }
        fn lend(block: &Block) -> BertLayer<'_> {
            let [q, k, v, o, up, down] = block.linears.each_ref().map(Layer::view);
            let [attention_norm, output_norm] = block.norms.each_ref().map(norm);
            BertLayer { q, k, v, o, attention_norm, up, down, output_norm }
        }
        let layers: Vec<_> = self.blocks.iter().map(lend).collect();
        let [embedding, positions, token_types] =
            self.embeddings.each_ref().map(|matrix| matrix.view().into());
        use_it(&Bert {
            name: &self.name,
            config: self.config.to_schema(),
            max_length: self.max_length as u32,
            text: schema::Text { tokenizer: &self.tokenizer, ..schema::Text::default() },
            embedding,
            positions,
            token_types,
            embedding_norm: norm(&self.embedding_norm),
            layers: &layers,
            pooler: self.pooler.as_ref().map(Layer::view),
        })
    }
}

fn block(reader: &mut BertReader<'_>, config: &Config, layer: usize) -> Result<Block, FileError> {
    let sites: [fn(usize) -> Site; 6] = [Site::Q, Site::K, Site::V, Site::O, Site::Up, Site::Down];
    let mut linears = Vec::with_capacity(6);
    for site in sites.map(|site| site(layer)) {
        linears.push(reader.biased_linear(&site.to_string(), site.shape(config))?);
    }
    let Ok(linears) = <[Layer; 6]>::try_from(linears) else {
        unreachable!("six sites give six layers")
    };
    let norms = [
        norm(reader, &format!("encoder.layer.{layer}.attention.output.LayerNorm"), config.dim)?,
        norm(reader, &format!("encoder.layer.{layer}.output.LayerNorm"), config.dim)?,
    ];
    Ok(Block { linears, norms })
}

fn norm(reader: &mut BertReader<'_>, path: &str, dim: usize) -> Result<Norm, FileError> {
    Ok([
        reader.vector(&format!("{path}.weight"), dim)?,
        reader.vector(&format!("{path}.bias"), dim)?,
    ])
}
