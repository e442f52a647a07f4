//! How much memory a recurrent session needs, known before it exists.

use super::Need;
use super::limits::{round, times};
use super::recurrent::Sequence;
use super::sample::Candidate;
use super::selection::Handle;
use crate::error::{Error, Field, Result};
use crate::kernel::{GROUP, Precision};
use crate::model::lstm::Config;
use crate::nn::Segment;
use crate::nn::inner;

/// What a recurrent session must have room for. There is no context: a state takes the same memory
/// after any number of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecurrentLimits {
    /// Sequences side by side.
    pub batch: usize,
    /// Tokens of one sequence computed at once.
    pub prefill_chunk: usize,
    /// How products treat their activations.
    pub precision: Precision,
    /// Parts that products are split into; [`Executor::lanes`](super::Executor::lanes) of the
    /// executor.
    pub lanes: usize,
    /// Adapters that one sequence can have at a time.
    pub max_active: usize,
    /// The sum of their ranks.
    pub max_total_rank: usize,
}

impl RecurrentLimits {
    /// One sequence on one lane, with up to two adapters of rank 64 together.
    pub const fn new() -> Self {
        Self {
            batch: 1,
            prefill_chunk: 32,
            precision: Precision::Exact,
            lanes: 1,
            max_active: 2,
            max_total_rank: 64,
        }
    }

    /// Checks the limits.
    ///
    /// # Errors
    /// [`Error::Limit`] with the field, the number and the most that is allowed.
    pub fn check(&self) -> Result<()> {
        const MANY: usize = 1 << 16;
        let within = |field, found: usize, most: usize| {
            if (1..=most).contains(&found) {
                Ok(())
            } else {
                Err(Error::Limit { field, found, most })
            }
        };
        within(Field::Batch, self.batch, MANY)?;
        within(Field::PrefillChunk, self.prefill_chunk, MANY)?;
        within(Field::Lanes, self.lanes, 1024)?;
        within(Field::MaxActive, self.max_active.max(1), 1024)?;
        within(Field::MaxTotalRank, self.max_total_rank.max(1), MANY)
    }
}

impl Default for RecurrentLimits {
    fn default() -> Self {
        Self::new()
    }
}

/// The lengths of a recurrent session's buffers, in elements.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    /// Rows computed at once.
    pub(super) rows: usize,
    /// h and c of all layers.
    pub(super) states: usize,
    pub(super) handles: usize,
    pub(super) x: usize,
    pub(super) gates: usize,
    pub(super) recurrent: usize,
    pub(super) before: usize,
    pub(super) low_rank: usize,
    /// Activations as integers; none in `Precision::Exact`.
    pub(super) quantized: usize,
    /// Their scales.
    pub(super) scales: usize,
    pub(super) logits: usize,
}

impl Plan {
    pub(super) const fn new(config: &Config, limits: &RecurrentLimits) -> Self {
        let rows =
            if limits.prefill_chunk > limits.batch { limits.prefill_chunk } else { limits.batch };
        let quantized = match limits.precision {
            Precision::Exact => 0,
            Precision::Fast => times(rows, config.widest()),
        };
        let gates = times(4, config.hidden);
        Self {
            rows,
            states: times(times(limits.batch, config.layers), times(2, config.hidden)),
            handles: times(limits.batch, limits.max_active),
            x: times(rows, config.widest()),
            gates: times(rows, gates),
            recurrent: times(limits.batch, gates),
            before: times(limits.batch, config.hidden),
            low_rank: inner::need(rows, 1, limits.max_total_rank, limits.lanes),
            quantized,
            scales: quantized.div_ceil(GROUP),
            logits: times(limits.batch, config.outputs),
        }
    }
}

/// The workspace that a recurrent session over a model with `config` needs under `limits`. Exact:
/// one byte less is an error.
pub const fn recurrent_need(config: &Config, limits: &RecurrentLimits) -> Need {
    let plan = Plan::new(config, limits);
    // One entry per buffer that the session takes, in its order.
    let sizes = [
        times(plan.states, 4),
        times(plan.x, 4),
        times(plan.gates, 4),
        times(plan.recurrent, 4),
        times(plan.before, 4),
        times(limits.batch, size_of::<Segment>()),
        times(plan.low_rank, 4),
        plan.quantized,
        times(plan.scales, 4),
        times(plan.logits, 4),
        times(limits.batch, size_of::<Sequence>()),
        times(plan.handles, size_of::<Handle<'static>>()),
        times(plan.rows, 4),
        times(limits.batch, size_of::<Segment>()),
        times(config.outputs, size_of::<Candidate>()),
    ];
    let (mut bytes, mut i) = (0usize, 0);
    while i < sizes.len() {
        bytes = bytes.saturating_add(round(sizes[i]));
        i += 1;
    }
    Need { bytes, kv_bytes: 0 }
}
