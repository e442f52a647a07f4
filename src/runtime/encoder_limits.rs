//! How much memory an encoder needs, known before it exists.

use super::encoder::Texts;
use super::limits::{MANY, check_common, within};
use super::{KvFormat, Need};
use crate::error::{Field, Result};
use crate::kernel::Precision;
use crate::model::bert::{Config, forward};
use crate::nn::Size;
use crate::tensor::workspace::Pointers;

/// What an encoder must have room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncoderLimits {
    /// The longest text, in tokens.
    pub context: usize,
    /// Texts encoded at once.
    pub batch: usize,
    /// Tokens of all those texts together: they are packed, so this is what memory depends on.
    pub tokens: usize,
    /// How products treat their activations.
    pub precision: Precision,
    /// Parts that products are split into; [`Executor::lanes`](super::Executor::lanes) of the
    /// executor.
    pub lanes: usize,
    /// Adapters that one text can have at a time.
    pub max_active: usize,
    /// The sum of their ranks.
    pub max_total_rank: usize,
}

impl EncoderLimits {
    /// One text of `context` tokens on one lane, with up to two adapters of rank 64 together.
    pub const fn new(context: usize) -> Self {
        Self {
            context,
            batch: 1,
            tokens: context,
            precision: Precision::Exact,
            lanes: 1,
            max_active: 2,
            max_total_rank: 64,
        }
    }

    /// Checks the limits against the model's.
    ///
    /// # Errors
    /// [`Error::Limit`](crate::Error::Limit) with the field, the number and the most that is allowed.
    pub fn check(&self, config: &Config) -> Result<()> {
        within(Field::Context, self.context, config.context)?;
        within(Field::Tokens, self.tokens, MANY * 256)?;
        check_common(self.batch, self.lanes, self.max_active, self.max_total_rank)
    }

    /// What passes must have room for.
    pub(super) const fn size(&self) -> Size {
        Size {
            rows: self.tokens,
            batch: self.batch,
            context: self.context,
            lanes: self.lanes,
            max_total_rank: self.max_total_rank,
            precision: self.precision,
            kv_format: KvFormat::F32,
        }
    }
}

/// The workspace that an encoder over a model with `config` needs under `limits`. Exact: one byte
/// less is an error.
pub const fn encoder_need(config: &Config, limits: &EncoderLimits) -> Need {
    let (size, here) = (limits.size(), Pointers::Here);
    let texts = Texts::bytes(&size, limits.max_active, here);
    let bytes = texts.saturating_add(forward::Buffers::bytes(config, &size, here));
    Need { bytes, kv_bytes: 0 }
}
