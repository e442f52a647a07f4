//! How much memory an encoder needs, known before it exists.

use super::limits::{MANY, check_common, within};
use super::texts::Books;
use super::{KvFormat, Need};
use crate::error::{Field, Result};
use crate::exec::Executor;
use crate::kernel::Precision;
use crate::model::bert::{Bert, Config, forward};
use crate::nn::Size;
use crate::tensor::workspace::Pointers;

/// Texts and tokens that are encoded at once where nothing else is asked for.
const BATCH: usize = 32;
const TOKENS: usize = 2048;

/// What an encoder must have room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncoderLimits {
    /// The longest text, in tokens.
    pub context: usize,
    /// Texts encoded at once. Default: 1; with [`for_model`](Self::for_model) 32.
    pub batch: usize,
    /// Tokens of all those texts together: they are packed, so this is what memory depends on.
    /// Default: one text's; with [`for_model`](Self::for_model) at least 2048.
    pub tokens: usize,
    /// How products treat their activations. Default: [`Precision::Exact`].
    pub precision: Precision,
    /// Parts that products are split into. Default: 1; with [`for_model`](Self::for_model) the
    /// executor's [`threads`](Executor::threads). With 1 everything is serial, whatever the executor.
    pub threads: usize,
    /// Adapters that one text can have at a time. Default: 2.
    pub max_active: usize,
    /// The sum of their ranks. Default: 64.
    pub max_total_rank: usize,
}

impl EncoderLimits {
    /// Batches of texts as long as `model` reads them, on all threads of `executor`, as the command
    /// line embeds them; otherwise as [`new`](Self::new).
    pub fn for_model(model: &Bert<'_>, executor: &dyn Executor) -> Self {
        let context = model.max_length();
        Self {
            batch: BATCH,
            tokens: TOKENS.max(context),
            threads: executor.threads(),
            ..Self::new(context)
        }
    }

    /// One text of `context` tokens, exact and serial, with up to two adapters of rank 64 together.
    pub const fn new(context: usize) -> Self {
        Self {
            context,
            batch: 1,
            tokens: context,
            precision: Precision::Exact,
            threads: 1,
            max_active: 2,
            max_total_rank: 64,
        }
    }

    /// For these texts, of token ids, and no others: exact, on all threads of `executor`, and with no
    /// room for adapters. [`batches`](Self::batches) are those that fit at once.
    pub fn for_texts<T: AsRef<[u32]>>(
        model: &Bert<'_>,
        texts: &[T],
        executor: &dyn Executor,
    ) -> Self {
        let lengths = || texts.iter().map(|text| text.as_ref().len());
        let (longest, limits) = (lengths().max().unwrap_or(1), Self::for_model(model, executor));
        Self {
            context: longest,
            batch: limits.batch.min(texts.len()),
            tokens: lengths().sum::<usize>().min(limits.tokens).max(longest),
            max_active: 0,
            max_total_rank: 0,
            ..limits
        }
    }

    /// Consecutive texts that fit into an encoder together, in their order; none is longer than
    /// [`tokens`](Self::tokens).
    pub fn batches<'t, T: AsRef<[u32]>>(
        &self,
        texts: &'t [T],
    ) -> impl Iterator<Item = &'t [T]> + use<'t, T> {
        let (mut left, Self { batch, tokens, .. }) = (texts, *self);
        core::iter::from_fn(move || {
            let mut together = 0;
            let fits = |text: &&T| {
                together += text.as_ref().len();
                together <= tokens
            };
            let count = left.iter().take(batch).take_while(fits).count();
            let (now, rest) = left.split_at(count);
            left = rest;
            Some(now).filter(|now| !now.is_empty())
        })
    }

    /// Checks the limits against the model's.
    ///
    /// # Errors
    /// [`Error::Limit`](crate::Error::Limit) with the field, the number and the most that is allowed.
    pub fn check(&self, config: &Config) -> Result<()> {
        within(Field::Context, self.context, config.context)?;
        within(Field::Tokens, self.tokens, MANY * 256)?;
        check_common(self.batch, self.threads, self.max_active, self.max_total_rank)
    }

    /// What passes must have room for.
    pub(super) const fn size(&self) -> Size {
        Size {
            rows: self.tokens,
            batch: self.batch,
            context: self.context,
            threads: self.threads,
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
    let books = Books::bytes(&size, limits.max_active, here);
    let bytes = books.saturating_add(forward::Buffers::bytes(config, &size, here));
    Need { bytes, kv_bytes: 0 }
}
