//! What every import of a base shares: its options, the finished parts, and writing them. What is read
//! under which name is in the family's `import`.
//!
//! Matrices are read and quantized piece by piece where the source can, and only their finished
//! form is kept.

use std::collections::BTreeMap;
use std::path::Path;

use super::TextParts;
use super::huggingface_text::with_hint;
use super::reader::Layer;
use crate::archive::{Buffer, Header, schema, to_buffer, write_file};
use crate::error::Error;
use crate::file::{FileError, ToOutput};
use crate::model::Family;
use crate::model::stored::{Frame, Parts};
use crate::quant::{BLOCK, BlockScale, Format};

/// How a base is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct BaseOptions {
    /// The format of the blocks' linear layers.
    pub weights: Format,
    /// The format of the embedding of tokens and the output head.
    pub embedding: Format,
    /// Weights per block: a power of two from 32 to 4096.
    pub block: usize,
    /// How NF4 chooses the scale of a block. [`BlockScale::Fitted`] refuses weights that are in NF4
    /// already.
    pub scale: BlockScale,
    /// Linear layers that a bitsandbytes checkpoint left in float (`llm_int8_skip_modules`) stay
    /// so where `weights` is a quantized format.
    pub keep_skipped_weights: bool,
    /// The same of the output head, where `embedding` is a quantized format; and of the embedding
    /// if it is the head too or is named there.
    pub keep_skipped_embedding: bool,
    /// Write an archive without tokenizer if the source has no tokenizer, instead of refusing.
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
            scale: BlockScale::Absmax,
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

/// The tokenizer of a source, if it fits a vocabulary of `vocab` tokens; a refusal says how to do
/// without.
pub(crate) fn checked_text(
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

/// Everything that the root of a base holds, finished.
pub(crate) struct Finished<F: Family> {
    pub(crate) name: String,
    pub(crate) config: F::StoredConfig,
    pub(crate) layers: usize,
    pub(crate) text: TextParts,
    pub(crate) labels: Vec<String>,
    /// Of an encoder: the longest text that the source's own pipeline reads, in tokens.
    pub(crate) max_length: usize,
    pub(crate) tensors: Tensors,
}

/// The tensors of a base, finished, by their family's numbers.
#[derive(Default)]
pub(crate) struct Tensors {
    pub(crate) places: BTreeMap<u32, Layer>,
    pub(crate) vectors: BTreeMap<u32, Vec<f32>>,
}

impl Parts for Tensors {
    fn linear(&self, place: u32) -> Option<schema::Linear<'_>> {
        self.places.get(&place).map(Layer::view)
    }

    fn vector(&self, number: u32) -> &[f32] {
        self.vectors.get(&number).map_or(&[], Vec::as_slice)
    }
}

impl<F: Family> Finished<F> {
    /// Writes the archive.
    pub(crate) fn write(
        &self,
        options: &BaseOptions,
        output: impl ToOutput,
    ) -> Result<Header, FileError> {
        self.with_root(|root| write_file(root, options.content_version, output))
    }

    /// The archive of the source at `path` in memory.
    pub(crate) fn to_buffer(
        &self,
        options: &BaseOptions,
        path: &Path,
    ) -> Result<Buffer, FileError> {
        self.with_root(|root| to_buffer(root, options.content_version))
            .map_err(|error| FileError::core(path, "", error))
    }

    fn with_root<T>(&self, use_it: impl FnOnce(&F::Stored<'_>) -> T) -> T {
        let labels = self.labels.join("\n");
        let frame = Frame {
            name: &self.name,
            config: self.config,
            layers: self.layers,
            text: schema::Text {
                tokenizer: &self.text.tokenizer,
                chat_template: &self.text.chat_template,
                bos: self.text.bos,
                add_bos: self.text.add_bos,
                stop: &self.text.stop,
            },
            labels: &labels,
            max_length: self.max_length as u32,
        };
        F::with_root(&frame, &self.tensors, use_it)
    }
}
