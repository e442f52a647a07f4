//! How much memory an encoder needs, known before it exists.

use super::Need;
use super::limits::{round, times};
use super::selection::Handle;
use crate::error::{Error, Field, Result};
use crate::kernel::{GROUP, Precision};
use crate::model::bert::Config;
use crate::nn::Segment;
use crate::nn::inner;

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
    /// [`Error::Limit`] with the field, the number and the most that is allowed.
    pub fn check(&self, config: &Config) -> Result<()> {
        const MANY: usize = 1 << 16;
        let within = |field, found: usize, most: usize| {
            if (1..=most).contains(&found) {
                Ok(())
            } else {
                Err(Error::Limit { field, found, most })
            }
        };
        within(Field::Context, self.context, config.context)?;
        within(Field::Batch, self.batch, MANY)?;
        within(Field::Tokens, self.tokens, MANY * 256)?;
        within(Field::Lanes, self.lanes, 1024)?;
        within(Field::MaxActive, self.max_active.max(1), 1024)?;
        within(Field::MaxTotalRank, self.max_total_rank.max(1), MANY)
    }
}

/// The lengths of an encoder's buffers, in elements.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) handles: usize,
    pub(super) x: usize,
    pub(super) hidden: usize,
    pub(super) low_rank: usize,
    /// Activations as integers; none in `Precision::Exact`.
    pub(super) quantized: usize,
    /// Their scales.
    pub(super) scales: usize,
    pub(super) scores: usize,
}

impl Plan {
    pub(super) const fn new(config: &Config, limits: &EncoderLimits) -> Self {
        let quantized = match limits.precision {
            Precision::Exact => 0,
            Precision::Fast => times(limits.tokens, config.widest()),
        };
        Self {
            handles: times(limits.batch, limits.max_active),
            x: times(limits.tokens, config.dim),
            hidden: times(limits.tokens, config.hidden),
            low_rank: inner::need(
                limits.tokens,
                inner::SIDE_BY_SIDE,
                limits.max_total_rank,
                limits.lanes,
            ),
            quantized,
            scales: quantized.div_ceil(GROUP),
            scores: times(limits.lanes, limits.context),
        }
    }
}

/// The workspace that an encoder over a model with `config` needs under `limits`. Exact: one byte
/// less is an error.
pub const fn encoder_need(config: &Config, limits: &EncoderLimits) -> Need {
    let plan = Plan::new(config, limits);
    // One entry per buffer that the encoder takes, in its order.
    let sizes = [
        times(plan.x, 4),
        times(plan.x, 4),
        times(plan.x, 4),
        times(plan.x, 4),
        times(plan.x, 4),
        times(plan.x, 4),
        times(plan.hidden, 4),
        times(plan.low_rank, 4),
        plan.quantized,
        times(plan.scales, 4),
        times(plan.scores, 4),
        times(config.dim, 4),
        times(plan.handles, size_of::<Handle<'static>>()),
        times(limits.tokens, 4),
        times(limits.tokens, 4),
        times(limits.batch, size_of::<Segment>()),
    ];
    let (mut bytes, mut i) = (0usize, 0);
    while i < sizes.len() {
        bytes = bytes.saturating_add(round(sizes[i]));
        i += 1;
    }
    Need { bytes, kv_bytes: 0 }
}
