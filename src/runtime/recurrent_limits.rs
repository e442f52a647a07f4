//! How much memory a recurrent session needs, known before it exists.

use super::limits::{MANY, check_common, rows, within};
use super::sequences::Books;
use super::{KvFormat, Need};
use crate::error::{Field, Result};
use crate::exec::Executor;
use crate::kernel::Precision;
use crate::model::lstm::{Config, forward};
use crate::nn::Size;
use crate::tensor::workspace::Pointers;

/// What a recurrent session must have room for. There is no context: a state takes the same memory
/// after any number of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecurrentLimits {
    /// Sequences side by side. Default: 1.
    pub batch: usize,
    /// Tokens of one sequence computed at once. Default: 32.
    pub prefill_chunk: usize,
    /// How products treat their activations. Default: [`Precision::Exact`].
    pub precision: Precision,
    /// Parts that products are split into. Default: 1; with [`for_executor`](Self::for_executor) the
    /// executor's [`threads`](Executor::threads). With 1 everything is serial, whatever the executor.
    pub threads: usize,
    /// Adapters that one sequence can have at a time. Default: 2.
    pub max_active: usize,
    /// The sum of their ranks. Default: 64.
    pub max_total_rank: usize,
}

impl RecurrentLimits {
    /// One sequence on all threads of `executor`, as the command line runs it; otherwise as
    /// [`new`](Self::new).
    pub fn for_executor(executor: &dyn Executor) -> Self {
        Self { threads: executor.threads(), ..Self::new() }
    }

    /// One sequence, exact and serial, with up to two adapters of rank 64 together.
    pub const fn new() -> Self {
        Self {
            batch: 1,
            prefill_chunk: 32,
            precision: Precision::Exact,
            threads: 1,
            max_active: 2,
            max_total_rank: 64,
        }
    }

    /// Checks the limits.
    ///
    /// # Errors
    /// [`Error::Limit`](crate::Error::Limit) with the field, the number and the most that is allowed.
    pub fn check(&self) -> Result<()> {
        within(Field::PrefillChunk, self.prefill_chunk, MANY)?;
        check_common(self.batch, self.threads, self.max_active, self.max_total_rank)
    }

    /// What passes must have room for.
    pub(super) const fn size(&self) -> Size {
        Size {
            rows: rows(self.batch, self.prefill_chunk),
            batch: self.batch,
            context: 0,
            threads: self.threads,
            max_total_rank: self.max_total_rank,
            precision: self.precision,
            kv_format: KvFormat::F32,
        }
    }
}

impl Default for RecurrentLimits {
    fn default() -> Self {
        Self::new()
    }
}

/// The workspace that a recurrent session over a model with `config` needs under `limits`. Exact:
/// one byte less is an error.
pub const fn recurrent_need(config: &Config, limits: &RecurrentLimits) -> Need {
    let (size, here) = (limits.size(), Pointers::Here);
    let books = Books::bytes(&size, limits.max_active, config.outputs, 0, 0, here);
    let bytes = books.saturating_add(forward::Buffers::bytes(config, &size, here));
    Need { bytes, kv_bytes: 0 }
}
