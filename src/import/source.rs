//! What every foreign model format offers, under the names of transformers.

use std::path::Path;

use crate::file::FileError;
use crate::model::llama::Config;
use crate::quant::{Format, OwnedMatrix};

/// A tensor of a source.
#[derive(Debug, Clone, PartialEq)]
pub enum Tensor {
    /// Values as f32, exactly as the source's own runtime would dequantize them.
    Dense {
        /// The shape, outermost first: `[out, in]` for a weight, `[n]` for a norm or bias.
        shape: Vec<usize>,
        /// The values, row-major.
        values: Vec<f32>,
    },
    /// Codes and scales that are taken over as they are (bitsandbytes NF4).
    Packed(OwnedMatrix),
}

/// A float tensor of a source that is read piece by piece, so that it never stands in memory as a
/// whole.
pub struct Pieces<'s> {
    /// The shape, outermost first.
    pub shape: Vec<usize>,
    /// Fills its second argument with the values of the flattened tensor, as f32, from the first
    /// on, a multiple of 65,536; as many follow, or the tensor ends.
    pub read: Box<Read<'s>>,
}

/// Fills its second argument with the values from the first on.
pub type Read<'s> = dyn FnMut(usize, &mut [f32]) + 's;

impl std::fmt::Debug for Pieces<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pieces").field("shape", &self.shape).finish_non_exhaustive()
    }
}

/// The tokenizer of a source; see `archive::schema::Text`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TextParts {
    /// `tokenizer.json`, or empty if the source has none.
    pub tokenizer: Vec<u8>,
    /// The chat template (Jinja), or empty.
    pub chat_template: String,
    /// The begin-of-sequence token.
    pub bos: Option<u32>,
    /// Is it put before every prompt?
    pub add_bos: bool,
    /// Tokens that end a turn (end-of-sequence, end-of-turn).
    pub stop: Vec<u32>,
}

impl TextParts {
    /// Without the tokens that a vocabulary of `vocab` does not have.
    pub(crate) fn within(mut self, vocab: usize) -> Self {
        let is_known = |id: &u32| (*id as usize) < vocab;
        self.bos = self.bos.filter(is_known);
        self.stop.retain(is_known);
        self
    }
}

/// A Llama-family model in a foreign format.
///
/// Tensors are asked for by transformers' names (`model.layers.0.self_attn.q_proj.weight`,
/// `model.embed_tokens.weight`, `model.norm.weight`, `lm_head.weight`, `….bias`, `….q_norm.weight`)
/// and come in transformers' order: a source whose format permutes rows (GGUF's q and k) undoes it.
pub trait Source {
    /// The file or directory, for error messages.
    fn path(&self) -> &Path;

    /// The model's name for people.
    fn name(&self) -> String;

    /// The numbers. Features that change the mathematics and are not supported are refused here, by
    /// name.
    ///
    /// # Errors
    /// A [`FileError`] that names the key.
    fn config(&self) -> Result<Config, FileError>;

    /// Tokenizer, template and special tokens.
    ///
    /// # Errors
    /// A [`FileError`] that names the key.
    fn text(&self) -> Result<TextParts, FileError>;

    /// What is known of the tokenizer when no tokenizer is read: the tokens that the model's
    /// configuration states by id.
    ///
    /// # Errors
    /// A [`FileError`] that names the key.
    fn text_without_tokenizer(&self) -> Result<TextParts, FileError> {
        Ok(TextParts::default())
    }

    /// The tensor called `name`, or `None` if the model has none of that name.
    ///
    /// # Errors
    /// A [`FileError`] that names the tensor.
    fn tensor(&self, name: &str) -> Result<Option<Tensor>, FileError>;

    /// The float matrix called `name`, to be read piece by piece. `None` leaves it to
    /// [`tensor`](Self::tensor), as this method does unless a source has its own.
    ///
    /// # Errors
    /// As [`tensor`](Self::tensor).
    fn pieces(&self, name: &str) -> Result<Option<Pieces<'_>>, FileError> {
        let _ = name;
        Ok(None)
    }

    /// Of a quantized source: the format of a weight that was left as it is on purpose
    /// (bitsandbytes' skipped modules), [`Format::F16`] or [`Format::F32`].
    fn kept(&self, name: &str) -> Option<Format> {
        let _ = name;
        None
    }

    /// The names of all tensors, so that one that nobody asked for can be reported.
    fn names(&self) -> Vec<String>;
}
