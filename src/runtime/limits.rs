//! How much memory a session needs, known before it exists.

use super::sample::Candidate;
use super::selection::Handle;
use super::session::Sequence;
use crate::error::{Error, Field, Result};
use crate::kernel::{GROUP, Precision};
use crate::model::llama::Config;
use crate::nn::inner;
use crate::nn::{Segment, room};

/// How keys and values are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum KvFormat {
    /// 4 bytes a number.
    F32,
    /// 2 bytes a number.
    #[default]
    F16,
    /// 1 byte a number, and 4 for the scale of each token and head. Large biases of keys and
    /// values, as Qwen2 has them, cost no precision of other channels; for that the session keeps
    /// half a number per key channel and layer beside the cache.
    Int8,
}

impl KvFormat {
    const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
            Self::Int8 => 1,
        }
    }
}

/// What a session must have room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The longest sequence, in tokens.
    pub context: usize,
    /// Sequences side by side.
    pub batch: usize,
    /// Prompt tokens computed at once.
    pub prefill_chunk: usize,
    /// How keys and values are kept.
    pub kv_format: KvFormat,
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

impl Limits {
    /// One sequence of `context` tokens on one lane, with up to two adapters of rank 64 together.
    pub const fn new(context: usize) -> Self {
        Self {
            context,
            batch: 1,
            prefill_chunk: 32,
            kv_format: KvFormat::F16,
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
        within(Field::PrefillChunk, self.prefill_chunk, MANY)?;
        within(Field::Lanes, self.lanes, 1024)?;
        within(Field::MaxActive, self.max_active.max(1), 1024)?;
        within(Field::MaxTotalRank, self.max_total_rank.max(1), MANY)
    }
}

/// The size of a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// Bytes, of a buffer that starts on a 64-byte boundary.
    pub bytes: usize,
    /// The part of them that keeps keys and values.
    pub kv_bytes: usize,
}

/// The lengths of a session's buffers, in elements.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    /// Rows computed at once.
    pub(super) rows: usize,
    /// Keys (or values) of all layers.
    pub(super) kv: usize,
    /// Their scales.
    pub(super) kv_scales: usize,
    pub(super) handles: usize,
    pub(super) tokens: usize,
    pub(super) x: usize,
    pub(super) q: usize,
    pub(super) kv_rows: usize,
    pub(super) hidden: usize,
    pub(super) low_rank: usize,
    /// Activations as integers; none in `Precision::Exact`.
    pub(super) quantized: usize,
    /// Their scales.
    pub(super) scales: usize,
    pub(super) frequencies: usize,
    pub(super) angles: usize,
    /// Of the keys' rotary pairs; none but for an int8 cache.
    pub(super) key_factors: usize,
    pub(super) logits: usize,
}

/// Lengths too large for the address space saturate; the total then fits nothing.
pub(super) const fn times(a: usize, b: usize) -> usize {
    a.saturating_mul(b)
}

impl Plan {
    pub(super) const fn new(config: &Config, limits: &Limits) -> Self {
        let rows =
            if limits.prefill_chunk > limits.batch { limits.prefill_chunk } else { limits.batch };
        let slots = times(limits.batch, limits.context);
        let quantized = match limits.precision {
            Precision::Exact => 0,
            Precision::Fast => times(rows, config.widest()),
        };
        let lines =
            times(times(times(limits.batch, room(limits.context)), config.layers), config.kv_heads);
        let (kv_scales, key_factors) = match limits.kv_format {
            KvFormat::Int8 => (lines, times(config.layers, config.kv_dim() / 2)),
            KvFormat::F32 | KvFormat::F16 => (0, 0),
        };
        Self {
            rows,
            kv: times(lines, config.head_dim),
            kv_scales,
            handles: times(limits.batch, limits.max_active),
            tokens: slots,
            x: times(rows, config.dim),
            q: times(rows, config.q_dim()),
            kv_rows: times(rows, config.kv_dim()),
            hidden: times(rows, config.hidden),
            low_rank: inner::need(rows, inner::SIDE_BY_SIDE, limits.max_total_rank, limits.lanes),
            quantized,
            scales: quantized.div_ceil(GROUP),
            frequencies: config.head_dim / 2,
            angles: times(rows, config.head_dim),
            key_factors,
            logits: times(limits.batch, config.vocab),
        }
    }
}

/// The sizes of what a session keeps besides numbers; they depend on the width of pointers.
#[derive(Clone, Copy)]
struct Sizes {
    sequence: usize,
    handle: usize,
    index: usize,
    segment: usize,
}

impl Sizes {
    const HERE: Self = Self {
        sequence: size_of::<Sequence>(),
        handle: size_of::<Handle<'static>>(),
        index: size_of::<usize>(),
        segment: size_of::<Segment>(),
    };
    /// With 32-bit pointers, as on microcontrollers. Builds for such targets compare it with what
    /// the compiler does.
    const NARROW: Self = Self { sequence: 8, handle: 32, index: 4, segment: 12 };
}

#[cfg(target_pointer_width = "32")]
const _: () = assert!(
    Sizes::HERE.sequence == Sizes::NARROW.sequence
        && Sizes::HERE.handle == Sizes::NARROW.handle
        && Sizes::HERE.index == Sizes::NARROW.index
        && Sizes::HERE.segment == Sizes::NARROW.segment,
    "need_on_32_bits has other sizes than this target: change Sizes::NARROW"
);

/// The workspace that a session over a model with `config` needs under `limits`. Exact: one byte
/// less is an error.
pub const fn need(config: &Config, limits: &Limits) -> Need {
    need_with(config, limits, Sizes::HERE)
}

/// The same on a target with 32-bit pointers, wherever it is asked: what a host tells about its
/// firmware.
pub const fn need_on_32_bits(config: &Config, limits: &Limits) -> Need {
    need_with(config, limits, Sizes::NARROW)
}

const fn need_with(config: &Config, limits: &Limits, sizes: Sizes) -> Need {
    let plan = Plan::new(config, limits);
    let keys = round(times(plan.kv, limits.kv_format.bytes()))
        .saturating_add(round(times(plan.kv_scales, 4)));
    let kv_bytes = times(2, keys);
    let mut bytes = kv_bytes;
    // One entry per buffer that the session takes, in its order.
    let floats =
        [plan.x, plan.x, plan.q, plan.q, plan.kv_rows, plan.kv_rows, plan.hidden, plan.hidden];
    let more =
        [plan.low_rank, plan.scales, plan.frequencies, plan.angles, plan.key_factors, plan.logits];
    let mut i = 0;
    while i < floats.len() {
        bytes = bytes.saturating_add(round(times(floats[i], 4)));
        i += 1;
    }
    i = 0;
    while i < more.len() {
        bytes = bytes.saturating_add(round(times(more[i], 4)));
        i += 1;
    }
    let others = [
        times(limits.batch, sizes.sequence),
        times(plan.handles, sizes.handle),
        plan.quantized,
        times(plan.tokens, 4),
        times(plan.rows, 4),
        times(plan.rows, sizes.index),
        times(plan.rows, sizes.segment),
        times(config.vocab, size_of::<Candidate>()),
    ];
    i = 0;
    while i < others.len() {
        bytes = bytes.saturating_add(round(others[i]));
        i += 1;
    }
    Need { bytes, kv_bytes }
}

/// Buffers start on cache lines.
pub(super) const fn round(bytes: usize) -> usize {
    match bytes.checked_next_multiple_of(64) {
        Some(rounded) => rounded,
        None => usize::MAX,
    }
}
