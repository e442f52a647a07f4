//! From any source to a base archive: tensors are asked for one by one, quantized, and written.
//!
//! Only the finished form of each tensor is kept: the peak is below the size of the result plus two tensors as f32.

use std::collections::BTreeSet;
use std::path::Path;

use super::{Source, Tensor};
use crate::archive::{Buffer, Header, schema, to_buffer, write_file};
use crate::error::Error;
use crate::file::FileError;
use crate::model::llama::{Config, Site};
use crate::quant::{BLOCK, Format, Layout, OwnedMatrix};

/// How a base is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct BaseOptions {
    /// The format of the decoder blocks' linear layers.
    pub weights: Format,
    /// The format of the embedding and the output head.
    pub embedding: Format,
    /// Weights per block: a power of two from 32 to 4096.
    pub block: usize,
    /// Write an archive without text border if the source has no tokenizer, instead of refusing.
    pub allow_missing_tokenizer: bool,
    /// The content version in the header.
    pub content_version: u64,
}

impl Default for BaseOptions {
    fn default() -> Self {
        Self { weights: Format::Nf4, embedding: Format::Int8, block: BLOCK, allow_missing_tokenizer: false, content_version: 1 }
    }
}

/// How far an import is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress<'p> {
    /// Tensors done.
    pub done: usize,
    /// Tensors in all.
    pub total: usize,
    /// The tensor that comes next.
    pub name: &'p str,
}

/// Imports `source` into the file `output`, whole or not at all.
///
/// # Errors
/// A [`FileError`] that names the file and the tensor or key.
pub fn write_base(
    source: &dyn Source,
    options: &BaseOptions,
    output: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Header, FileError> {
    Parts::read(source, options, progress)?.with_root(|root| write_file(root, options.content_version, output))
}

/// Imports `source` into memory.
///
/// # Errors
/// As [`write_base`].
pub fn base_to_buffer(source: &dyn Source, options: &BaseOptions, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Buffer, FileError> {
    let wrap = |error| FileError::core(source.path(), "", error);
    Parts::read(source, options, progress)?.with_root(|root| to_buffer(root, options.content_version).map_err(wrap))
}

/// A linear layer, finished.
struct Layer {
    weight: OwnedMatrix,
    bias: Vec<f32>,
}

impl Layer {
    fn view(&self) -> schema::Linear<'_> {
        schema::Linear { weight: self.weight.view().into(), bias: &self.bias }
    }
}

/// One decoder block, finished: q, k, v, o, gate, up, down; attention, feed-forward, query and key norms.
struct Block {
    linears: [Layer; 7],
    norms: [Vec<f32>; 4],
}

/// A base, finished.
struct Parts {
    name: String,
    config: Config,
    text: super::TextParts,
    blocks: Vec<Block>,
    embedding: OwnedMatrix,
    norm: Vec<f32>,
    head: Option<OwnedMatrix>,
}

impl Parts {
    fn read(source: &dyn Source, options: &BaseOptions, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Self, FileError> {
        let config = source.config()?;
        config.check().map_err(|error| FileError::core(source.path(), "config", error))?;
        let text = source.text()?;
        if text.tokenizer.is_empty() && !options.allow_missing_tokenizer {
            return Err(FileError::format(source.path(), "tokenizer", "the model comes without a tokenizer"));
        }
        if let Some(&token) = text.bos.iter().chain(&text.stop).find(|&&id| id as usize >= config.vocab) {
            let error = Error::Token { token, vocab: config.vocab as u32 };
            return Err(FileError::core(source.path(), "special tokens", error));
        }
        let mut reader = Reader { source, options, config, left: source.names().into_iter().collect(), done: 0, total: 0, progress };
        reader.total = reader.left.len();
        let blocks = (0..config.layers).map(|layer| reader.block(layer)).collect::<Result<_, _>>()?;
        let embedding = reader.weight(Site::Embedding)?;
        let norm = reader.vector("model.norm.weight", config.dim)?;
        let head = reader.optional_weight(Site::Head)?;
        reader.refuse_leftovers()?;
        Ok(Self { name: source.name(), config, text, blocks, embedding, norm, head })
    }

    /// Lends the parts as a root.
    fn with_root<T>(&self, use_it: impl FnOnce(&schema::Llama<'_>) -> T) -> T {
        fn lend(block: &Block) -> schema::LlamaLayer<'_> {
            let [q, k, v, o, gate, up, down] = block.linears.each_ref().map(Layer::view);
            let [attention_norm, feed_forward_norm, q_norm, k_norm] = block.norms.each_ref().map(Vec::as_slice);
            schema::LlamaLayer { attention_norm, q, k, v, o, q_norm, k_norm, feed_forward_norm, gate, up, down }
        }
        let layers: Vec<_> = self.blocks.iter().map(lend).collect();
        use_it(&schema::Llama {
            name: &self.name,
            config: self.config.to_schema(),
            text: schema::Text {
                tokenizer: &self.text.tokenizer,
                chat_template: &self.text.chat_template,
                bos: self.text.bos,
                add_bos: self.text.add_bos,
                stop: &self.text.stop,
            },
            embedding: self.embedding.view().into(),
            layers: &layers,
            norm: &self.norm,
            head: self.head.as_ref().map(|head| head.view().into()),
        })
    }
}

/// Asks a source for tensors and finishes them.
struct Reader<'r> {
    source: &'r dyn Source,
    options: &'r BaseOptions,
    config: Config,
    /// Names that nobody has asked for yet.
    left: BTreeSet<String>,
    done: usize,
    total: usize,
    progress: &'r mut dyn FnMut(Progress<'_>),
}

impl Reader<'_> {
    fn block(&mut self, layer: usize) -> Result<Block, FileError> {
        let sites: [fn(usize) -> Site; 7] = [Site::Q, Site::K, Site::V, Site::O, Site::Gate, Site::Up, Site::Down];
        let mut linears = Vec::with_capacity(7);
        for site in sites {
            linears.push(self.linear(site(layer))?);
        }
        let Ok(linears) = <[Layer; 7]>::try_from(linears) else { unreachable!("seven sites give seven layers") };
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        let (dim, head_dim) = (self.config.dim, self.config.head_dim);
        let norms = [
            self.vector(&name("input_layernorm"), dim)?,
            self.vector(&name("post_attention_layernorm"), dim)?,
            self.optional_vector(&name("self_attn.q_norm"), head_dim)?.unwrap_or_default(),
            self.optional_vector(&name("self_attn.k_norm"), head_dim)?.unwrap_or_default(),
        ];
        Ok(Block { linears, norms })
    }

    fn linear(&mut self, site: Site) -> Result<Layer, FileError> {
        let rows = site.shape(&self.config).0;
        let bias = self.optional_vector(&format!("{site}.bias"), rows)?.unwrap_or_default();
        Ok(Layer { weight: self.weight(site)?, bias })
    }

    fn weight(&mut self, site: Site) -> Result<OwnedMatrix, FileError> {
        self.optional_weight(site)?.ok_or_else(|| self.missing(&format!("{site}.weight")))
    }

    /// The weight at `site` in its final format.
    fn optional_weight(&mut self, site: Site) -> Result<Option<OwnedMatrix>, FileError> {
        let name = format!("{site}.weight");
        let (rows, cols) = site.shape(&self.config);
        let is_edge = matches!(site, Site::Embedding | Site::Head);
        let format = if is_edge { self.options.embedding } else { self.options.weights };
        match self.take(&name)? {
            None => Ok(None),
            Some(Tensor::Dense { shape, values }) => {
                self.check_shape(&name, &shape, &[rows, cols])?;
                OwnedMatrix::quantize(format, self.options.block, rows, cols, &values).map(Some).map_err(|error| self.refused(&name, error))
            }
            Some(Tensor::Packed(matrix)) => {
                let view = matrix.view();
                self.check_shape(&name, &[view.rows(), view.cols()], &[rows, cols])?;
                if matches!(format, Format::Nf4 | Format::Nf4Plain) {
                    return Ok(Some(matrix.with_layout(Layout::Split64)));
                }
                let mut values = vec![0.0; rows * cols];
                values.chunks_exact_mut(cols).enumerate().for_each(|(row, out)| view.read(row, 0, out));
                OwnedMatrix::quantize(format, self.options.block, rows, cols, &values).map(Some).map_err(|error| self.refused(&name, error))
            }
        }
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>, FileError> {
        self.optional_vector(name, len)?.ok_or_else(|| self.missing(name))
    }

    fn optional_vector(&mut self, name: &str, len: usize) -> Result<Option<Vec<f32>>, FileError> {
        let values = match self.take(name)? {
            None => return Ok(None),
            Some(Tensor::Dense { shape, values }) => {
                self.check_shape(name, &shape, &[len])?;
                values
            }
            Some(Tensor::Packed(_)) => {
                return Err(FileError::format(self.source.path(), name, "a norm or bias cannot be packed in 4 bits"));
            }
        };
        if let Some(index) = values.iter().position(|value| !value.is_finite()) {
            return Err(self.refused(name, Error::Range { index: index as u64, value: values[index] }));
        }
        Ok(Some(values))
    }

    fn take(&mut self, name: &str) -> Result<Option<Tensor>, FileError> {
        if !self.left.remove(name) {
            return Ok(None);
        }
        (self.progress)(Progress { done: self.done, total: self.total, name });
        self.done += 1;
        self.source.tensor(name)
    }

    fn check_shape(&self, name: &str, found: &[usize], expected: &[usize]) -> Result<(), FileError> {
        if found == expected {
            return Ok(());
        }
        let reason = format!("the tensor has shape {found:?}, the configuration asks for {expected:?}");
        Err(FileError::format(self.source.path(), name, reason))
    }

    /// What the core said of `name`; no format holds a value that is not finite, so none is recommended.
    fn refused(&self, name: &str, error: Error) -> FileError {
        match error {
            Error::Range { index, value } if !value.is_finite() => {
                FileError::format(self.source.path(), name, format!("value {index} is {value}; weights must be finite"))
            }
            other => FileError::core(self.source.path(), name, other),
        }
    }

    fn missing(&self, name: &str) -> FileError {
        FileError::format(self.source.path(), name, "the tensor is missing")
    }

    /// A tensor that nobody asked for would change the model silently. Buffers that are computed anew are no such thing.
    fn refuse_leftovers(&self) -> Result<(), FileError> {
        let harmless = |name: &&String| !name.ends_with("rotary_emb.inv_freq") && !name.ends_with("attention.masked_bias");
        match self.left.iter().find(harmless) {
            None => Ok(()),
            Some(name) => Err(FileError::format(self.source.path(), name, "this build does not know what the tensor is for")),
        }
    }
}
