//! How much memory a session needs, known before it exists.

use super::KvFormat;
use super::sequences::Books;
use crate::error::{Error, Field, Result};
use crate::exec::Executor;
use crate::kernel::{Precision, kernels};
use crate::model::llama::{Config, Llama, forward};
use crate::nn::Size;
use crate::tensor::workspace::Pointers;

/// What a session must have room for. [`for_model`](Self::for_model) fills in what suits a model
/// and the machine; [`new`](Self::new) the least, for firmware that counts every byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The longest sequence, in tokens.
    pub context: usize,
    /// Sequences side by side. Default: 1.
    pub batch: usize,
    /// Prompt tokens computed at once. Default: 32.
    pub prefill_chunk: usize,
    /// How keys and values are kept. Default: f16.
    pub kv_format: KvFormat,
    /// How products treat their activations. Default: [`Precision::Exact`]; with
    /// [`for_model`](Self::for_model) [`Precision::default_for`] the model, which is several times
    /// faster where it is `Fast`.
    pub precision: Precision,
    /// Parts that products are split into. Default: 1; with [`for_model`](Self::for_model) the
    /// executor's [`threads`](Executor::threads). With fewer than those, threads of the executor stay
    /// idle: with 1 everything is serial, whatever the executor.
    pub threads: usize,
    /// Adapters that one sequence can have at a time. Default: 2.
    pub max_active: usize,
    /// The sum of their ranks. Default: 64.
    pub max_total_rank: usize,
    /// Tokens of a guess that a step can read along with its own
    /// ([`step_with_draft`](super::Sequences::step_with_draft)), at most [`MOST_DRAFT`]. Each takes
    /// room for its logits. Default: 0.
    pub draft: usize,
}

/// The longest draft.
pub const MOST_DRAFT: usize = 32;

impl Limits {
    /// One sequence of `context` tokens with the precision that `model` is served in and all
    /// threads of `executor`, as the command line runs it; otherwise as [`new`](Self::new).
    pub fn for_model(model: &Llama<'_>, context: usize, executor: &dyn Executor) -> Self {
        let weights = model.layer(0).q.weight.format();
        Self {
            precision: Precision::default_for(kernels(), weights),
            threads: executor.threads(),
            ..Self::new(context)
        }
    }

    /// One sequence of `context` tokens, exact and serial, with up to two adapters of rank 64
    /// together.
    pub const fn new(context: usize) -> Self {
        Self {
            context,
            batch: 1,
            prefill_chunk: 32,
            kv_format: KvFormat::F16,
            precision: Precision::Exact,
            threads: 1,
            max_active: 2,
            max_total_rank: 64,
            draft: 0,
        }
    }

    /// Checks the limits against the model's.
    ///
    /// # Errors
    /// [`Error::Limit`] with the field, the number and the most that is allowed.
    pub fn check(&self, config: &Config) -> Result<()> {
        within(Field::Context, self.context, config.context)?;
        within(Field::PrefillChunk, self.prefill_chunk, MANY)?;
        within(Field::Draft, self.draft.max(1), MOST_DRAFT)?;
        check_common(self.batch, self.threads, self.max_active, self.max_total_rank)
    }

    /// What passes must have room for.
    pub(super) const fn size(&self) -> Size {
        Size {
            rows: rows(rows(self.batch, self.prefill_chunk), self.drafted()),
            batch: self.batch,
            context: self.context,
            threads: self.threads,
            max_total_rank: self.max_total_rank,
            precision: self.precision,
            kv_format: self.kv_format,
        }
    }

    /// Rows of logits beside those of the sequences: of a token and its draft.
    pub(super) const fn drafted(&self) -> usize {
        if self.draft == 0 { 0 } else { self.draft.saturating_add(1) }
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

/// The workspace that a session over a model with `config` needs under `limits`. Exact: one byte
/// less is an error.
pub const fn need(config: &Config, limits: &Limits) -> Need {
    need_with(config, limits, Pointers::Here)
}

/// The same on a target with 32-bit pointers, wherever it is asked: what a host tells about its
/// firmware.
pub const fn need_on_32_bits(config: &Config, limits: &Limits) -> Need {
    need_with(config, limits, Pointers::Narrow)
}

const fn need_with(config: &Config, limits: &Limits, pointers: Pointers) -> Need {
    let size = limits.size();
    let (active, drafted) = (limits.max_active, limits.drafted());
    let books = Books::bytes(&size, active, config.vocab, drafted, limits.context, pointers);
    Need {
        bytes: books.saturating_add(forward::Buffers::bytes(config, &size, pointers)),
        kv_bytes: forward::Buffers::kv_bytes(config, &size, pointers),
    }
}

/// What passes of `batch` sequences, or of `chunk` tokens of one, compute at once.
pub(super) const fn rows(batch: usize, chunk: usize) -> usize {
    if chunk > batch { chunk } else { batch }
}

/// The most of anything that has no limit of its own.
pub(super) const MANY: usize = 1 << 16;

/// Is `found` in 1 to `most`?
pub(super) fn within(field: Field, found: usize, most: usize) -> Result<()> {
    if (1..=most).contains(&found) { Ok(()) } else { Err(Error::Limit { field, found, most }) }
}

/// Checks what sessions of every kind have limits for.
pub(super) fn check_common(
    batch: usize,
    threads: usize,
    max_active: usize,
    max_total_rank: usize,
) -> Result<()> {
    within(Field::Batch, batch, MANY)?;
    within(Field::Threads, threads, 1024)?;
    within(Field::MaxActive, max_active.max(1), 1024)?;
    within(Field::MaxTotalRank, max_total_rank.max(1), MANY)
}
