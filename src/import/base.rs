//! From any source to a base archive: tensors are asked for one by one, quantized, and written.
//!
//! Matrices are read and quantized piece by piece where the source can, and only their finished
//! form is kept.

use std::path::Path;

use super::huggingface_text::with_hint;
use super::reader::{Layer, Reader};
use super::{Source, TextParts};
use crate::archive::{Buffer, Header, schema, to_buffer, write_file};
use crate::error::Error;
use crate::file::{FileError, Kind, ToOutput};
use crate::model::llama::{Config, Site};
use crate::quant::{BLOCK, Format, OwnedMatrix};

/// How a base is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct BaseOptions {
    /// The format of the blocks' linear layers.
    pub weights: Format,
    /// The format of the embedding of tokens and the output head.
    pub embedding: Format,
    /// Weights per block: a power of two from 32 to 4096.
    pub block: usize,
    /// Linear layers that a bitsandbytes checkpoint left in float (`llm_int8_skip_modules`) stay
    /// so where `weights` is a quantized format.
    pub keep_skipped_weights: bool,
    /// The same of the output head, where `embedding` is a quantized format; and of the embedding
    /// if it is the head too or is named there.
    pub keep_skipped_embedding: bool,
    /// Write an archive without text border if the source has no tokenizer, instead of refusing.
    pub allow_missing_tokenizer: bool,
    /// Read no tokenizer at all, whether the source has one or not.
    pub without_tokenizer: bool,
    /// The content version in the header.
    pub content_version: u64,
}

impl Default for BaseOptions {
    fn default() -> Self {
        Self {
            weights: Format::Nf4,
            embedding: Format::Int8,
            block: BLOCK,
            keep_skipped_weights: true,
            keep_skipped_embedding: true,
            allow_missing_tokenizer: false,
            without_tokenizer: false,
            content_version: 1,
        }
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

/// Imports `source` into the file `output`, a path or an [`Output`](crate::file::Output) that was
/// tried: whole or not at all.
///
/// # Errors
/// A [`FileError`] that names the file and the tensor or key; before any tensor is read, what
/// speaks against writing there.
pub fn write_base(
    source: &dyn Source,
    options: &BaseOptions,
    output: impl ToOutput,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Header, FileError> {
    let output = output.output(Kind::Base, &[source.path()])?;
    let config = source.config()?;
    config.check().map_err(|error| FileError::core(source.path(), "config", error))?;
    output.check_room(least_bytes(&config, options))?;
    Parts::read(source, options, progress)?
        .with_root(|root| write_file(root, options.content_version, &output))
}

/// Bytes that the linear layers of a base will take at least.
fn least_bytes(config: &Config, options: &BaseOptions) -> u64 {
    let of = |site: Site, format: Format| {
        let (rows, cols) = site.shape(config);
        let (values, scales, nested) =
            format.payload(rows as u64 * cols as u64, options.block as u64);
        values.saturating_add(scales).saturating_add(nested)
    };
    let sites = [Site::Q, Site::K, Site::V, Site::O, Site::Gate, Site::Up, Site::Down];
    let block: u64 = sites.iter().map(|site| of(site(0), options.weights)).sum();
    block
        .saturating_mul(config.layers as u64)
        .saturating_add(of(Site::Embedding, options.embedding))
}

/// Imports `source` into memory.
///
/// # Errors
/// As [`write_base`].
pub fn base_to_buffer(
    source: &dyn Source,
    options: &BaseOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Buffer, FileError> {
    let wrap = |error| FileError::core(source.path(), "", error);
    Parts::read(source, options, progress)?
        .with_root(|root| to_buffer(root, options.content_version).map_err(wrap))
}

/// The text border of a source, if it fits a vocabulary of `vocab` tokens; a refusal says how to do
/// without.
pub(super) fn checked_text(
    path: &Path,
    text: Result<TextParts, FileError>,
    vocab: usize,
    options: &BaseOptions,
) -> Result<TextParts, FileError> {
    let text = text.map_err(with_hint)?;
    if text.tokenizer.is_empty() && !options.allow_missing_tokenizer {
        let reason = "the model comes without a tokenizer";
        return Err(with_hint(FileError::format(path, "tokenizer", reason)));
    }
    let mut special = text.bos.iter().chain(&text.stop);
    if let Some(&token) = special.find(|&&id| id as usize >= vocab) {
        let error = Error::Token { token, vocab: vocab as u32 };
        return Err(with_hint(FileError::core(path, "special tokens", error)));
    }
    Ok(text)
}

/// One decoder block, finished: q, k, v, o, gate, up, down; attention, feed-forward, query and key
/// norms.
struct Block {
    linears: [Layer; 7],
    norms: [Vec<f32>; 4],
}

/// A base, finished.
struct Parts {
    name: String,
    config: Config,
    text: TextParts,
    blocks: Vec<Block>,
    embedding: OwnedMatrix,
    norm: Vec<f32>,
    head: Option<OwnedMatrix>,
}

impl Parts {
    fn read(
        source: &dyn Source,
        options: &BaseOptions,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Self, FileError> {
        let config = source.config()?;
        config.check().map_err(|error| FileError::core(source.path(), "config", error))?;
        let text = if options.without_tokenizer {
            source.text_without_tokenizer()?.within(config.vocab)
        } else {
            checked_text(source.path(), source.text(), config.vocab, options)?
        };
        let mut reader = Reader::new(source, options, progress);
        let blocks = (0..config.layers)
            .map(|layer| block(&mut reader, &config, layer))
            .collect::<Result<_, _>>()?;
        let edge = |site: Site| (format!("{site}"), site.shape(&config));
        let ((path, shape), (head_path, head_shape)) = (edge(Site::Embedding), edge(Site::Head));
        let embedding = reader.weight(&path, shape, reader.edge_format(&path))?;
        let norm = reader.vector("model.norm.weight", config.dim)?;
        let head =
            reader.optional_weight(&head_path, head_shape, reader.edge_format(&head_path))?;
        // Buffers that are computed anew.
        reader.refuse_leftovers(|name| {
            name.ends_with("rotary_emb.inv_freq") || name.ends_with("attention.masked_bias")
        })?;
        Ok(Self { name: source.name(), config, text, blocks, embedding, norm, head })
    }

    /// Lends the parts as a root.
    fn with_root<T>(&self, use_it: impl FnOnce(&schema::Llama<'_>) -> T) -> T {
        fn lend(block: &Block) -> schema::LlamaLayer<'_> {
            let [q, k, v, o, gate, up, down] = block.linears.each_ref().map(Layer::view);
            let [attention_norm, feed_forward_norm, q_norm, k_norm] =
                block.norms.each_ref().map(Vec::as_slice);
            schema::LlamaLayer {
                attention_norm,
                q,
                k,
                v,
                o,
                q_norm,
                k_norm,
                feed_forward_norm,
                gate,
                up,
                down,
            }
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

fn block(
    reader: &mut Reader<'_, dyn Source + '_>,
    config: &Config,
    layer: usize,
) -> Result<Block, FileError> {
    let sites: [fn(usize) -> Site; 7] =
        [Site::Q, Site::K, Site::V, Site::O, Site::Gate, Site::Up, Site::Down];
    let mut linears = Vec::with_capacity(7);
    for site in sites.map(|site| site(layer)) {
        linears.push(reader.linear(&site.to_string(), site.shape(config))?);
    }
    let Ok(linears) = <[Layer; 7]>::try_from(linears) else {
        unreachable!("seven sites give seven layers")
    };
    let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
    let norms = [
        reader.vector(&name("input_layernorm"), config.dim)?,
        reader.vector(&name("post_attention_layernorm"), config.dim)?,
        reader.optional_vector(&name("self_attn.q_norm"), config.head_dim)?.unwrap_or_default(),
        reader.optional_vector(&name("self_attn.k_norm"), config.head_dim)?.unwrap_or_default(),
    ];
    Ok(Block { linears, norms })
}
