//! The books of a session: sequences of tokens that a model continues, each under its own adapters.
//!
//! All memory is the caller's and taken at the start; nothing here allocates. What is computed, and
//! where, is a [`Runner`]'s matter.

use core::slice::from_ref;

mod draft;
mod rows;

use super::runner::Runner;
use super::{Candidate, Sampler};
use crate::adapter::{Choice, Classifier, Handle, Resolve, Rules, Selection};
use crate::error::{Error, Result};
use crate::nn::{Segment, Size};
use crate::tensor::workspace::{Workspace, stored, times, workspace};

/// What is known of one sequence besides its tokens and adapters.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sequence {
    /// Tokens that the model has read.
    position: usize,
    /// Tokens of a draft behind them that it has read and nobody has confirmed.
    ahead: usize,
    /// Which of the rows its logits are.
    row: usize,
    has_logits: bool,
    /// Named by the call that is being checked.
    is_named: bool,
}

impl Sequence {
    const EMPTY: Self = Self { position: 0, ahead: 0, row: 0, has_logits: false, is_named: false };
}

stored! { Sequence: 16; }

workspace! {
    /// The buffers of the books.
    pub(super) struct Books<'w, 'm>(
        size: &Size,
        max_active: usize,
        outputs: usize,
        drafted: usize,
        history: usize
    ) {
        sequences: [Sequence; size.batch] = Sequence::EMPTY,
        /// `[batch, max_active]`.
        active: [Handle<'m>; times(size.batch, max_active)] = None,
        /// `[batch, history]`: the tokens of each sequence, if they are kept.
        history: [u32; times(size.batch, history)],
        /// The rows of a pass.
        tokens: [u32; size.rows],
        positions: [usize; size.rows],
        segments: [Segment; size.rows] = Segment::default(),
        /// `[batch + drafted, outputs]`: of each sequence, and of a token and its draft.
        logits: [f32; times(size.batch.saturating_add(drafted), outputs)],
        candidates: [Candidate; outputs] = Candidate::NONE,
    }
}

/// Sequences that a model continues, in memory that the caller lends for `'w`; model and borrowed
/// adapters live for `'m`. See [`Session`](super::Session) and [`Recurrent`](super::Recurrent).
pub struct Sequences<'w, 'm, R> {
    pub(super) runner: R,
    /// Sequences side by side.
    batch: usize,
    /// The longest sequence.
    context: usize,
    pub(super) selection: Selection<'w, 'm>,
    sequences: &'w mut [Sequence],
    history: &'w mut [u32],
    tokens: &'w mut [u32],
    positions: &'w mut [usize],
    segments: &'w mut [Segment],
    logits: &'w mut [f32],
    candidates: &'w mut [Candidate],
}

#[allow(private_bounds, reason = "runners are the crate's own")]
impl<R: Runner> core::fmt::Debug for Sequences<'_, '_, R>
where
    R::Model: core::fmt::Debug,
{
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Session")
            .field("model", self.runner.model())
            .field("sequences", &self.sequences)
            .finish_non_exhaustive()
    }
}

#[allow(private_bounds, reason = "runners are the crate's own")]
impl<'w, 'm, R: Runner> Sequences<'w, 'm, R> {
    /// The books of `runner` in `w`, with `drafted` rows of logits besides and at most `context`
    /// tokens a sequence, which are kept if `history` is `context` too.
    pub(super) fn with(
        runner: R,
        w: &mut Workspace<'w>,
        size: &Size,
        max_active: usize,
        drafted: usize,
        (context, history): (usize, usize),
    ) -> Self {
        let books = Books::carve(w, size, max_active, runner.outputs(), drafted, history);
        Self {
            batch: size.batch,
            context,
            selection: Selection::new(
                books.active,
                Rules {
                    base: runner.fingerprint(),
                    batch: size.batch,
                    max_active,
                    max_total_rank: size.max_total_rank,
                },
            ),
            sequences: books.sequences,
            history: books.history,
            tokens: books.tokens,
            positions: books.positions,
            segments: books.segments,
            logits: books.logits,
            candidates: books.candidates,
            runner,
        }
    }

    /// Chooses the adapters of a sequence. The session keeps them: later swaps in `set` do not
    /// touch it, and with `std` adapters of a [`SharedSet`](crate::adapter::SharedSet) that were
    /// made after the session may be chosen too.
    ///
    /// # Errors
    /// [`Error::CacheOfOtherAdapters`] if the sequence holds tokens that were computed under
    /// another selection; [`Error::OtherBase`], [`Error::TooManyActive`], [`Error::TotalRank`],
    /// [`Error::NoSuchSequence`], and those of [`Resolve::resolve`]. The previous selection
    /// then stays.
    pub fn select(
        &mut self,
        sequence: usize,
        set: &impl Resolve<'m>,
        choices: &[Choice],
    ) -> Result<()> {
        self.selection.check(sequence, set, choices)?;
        let position = self.sequences[sequence].position;
        if position > 0 && !self.selection.is(sequence, set, choices)? {
            return Err(Error::CacheOfOtherAdapters { sequence, position });
        }
        self.selection.choose(sequence, set, choices)
    }

    /// Appends tokens to several sequences and computes the logits after the last one of each: any
    /// mix of prompts, parts of prompts and single steps. Rows of different sequences share a pass,
    /// as many as the limits' rows at a time (the larger of batch and prefill chunk). What a
    /// sequence gets does not depend on who its neighbours are, only its last bits on whether a
    /// pass has one row, which is added up in another order, or several. Sequences with the same
    /// adapters are cheapest side by side.
    ///
    /// # Errors
    /// [`Error::NoSuchSequence`], [`Error::DuplicateSequence`], [`Error::Length`] for no entries,
    /// more than the batch, or one without tokens, [`Error::Token`], [`Error::ContextFull`]; then
    /// nothing changed. [`Error::Device`] where one fails; then the session gives nothing else.
    pub fn advance(&mut self, entries: &[(usize, &[u32])]) -> Result<()> {
        self.run_all(entries.len(), &|i| entries[i])
    }

    /// [`advance`](Self::advance) of `count` entries that are asked for one by one.
    #[cfg(feature = "capi")]
    pub(crate) fn advance_by<'t>(
        &mut self,
        count: usize,
        entry: &dyn Fn(usize) -> (usize, &'t [u32]),
    ) -> Result<()> {
        self.run_all(count, entry)
    }

    /// Appends tokens to one sequence, a chunk at a time, and computes the logits after the last
    /// one: [`advance`](Self::advance) of one entry.
    ///
    /// # Errors
    /// As [`advance`](Self::advance).
    pub fn prefill(&mut self, sequence: usize, tokens: &[u32]) -> Result<()> {
        self.run_all(1, &|_| (sequence, tokens))
    }

    /// Appends one token to each of several sequences, in one pass, and computes their logits.
    ///
    /// # Errors
    /// As [`advance`](Self::advance).
    pub fn step(&mut self, tokens: &[(usize, u32)]) -> Result<()> {
        self.run_all(tokens.len(), &|i| (tokens[i].0, from_ref(&tokens[i].1)))
    }

    /// Appends tokens like [`prefill`](Self::prefill) and hands the logits after each of them to
    /// `see(index, logits)`. The logits of other sequences are lost.
    ///
    /// # Errors
    /// As [`prefill`](Self::prefill); [`Error::NoHead`]; [`Error::CacheOverflow`], after which the
    /// sequence holds the tokens up to there and must be reset.
    pub fn score(
        &mut self,
        sequence: usize,
        tokens: &[u32],
        mut see: impl FnMut(usize, &[f32]),
    ) -> Result<()> {
        self.runner.alive()?;
        self.check_tokens(sequence, tokens)?;
        let (outputs, most) = (self.outputs()?, self.segments.len());
        for (i, chunk) in tokens.chunks(most).enumerate() {
            self.feed(sequence, chunk);
            for first in (0..chunk.len()).step_by(self.batch) {
                let rows = self.batch.min(chunk.len() - first);
                let logits = &mut self.logits[..rows * outputs];
                let mut one = [Segment { first, rows, sequence }];
                self.runner.logits(&mut one, self.selection.handles(), logits);
                self.runner.check(sequence, self.sequences[sequence].position, logits)?;
                for (row, logits) in logits.chunks_exact(outputs).enumerate() {
                    see(i * most + first + row, logits);
                }
            }
        }
        self.sequences.iter_mut().for_each(|sequence| sequence.has_logits = false);
        Ok(())
    }

    /// The logits after the last token of a sequence, `[outputs]`: of the next token, or of the
    /// base's own labels.
    ///
    /// # Errors
    /// [`Error::NoSuchSequence`], [`Error::NoHead`], [`Error::NoLogits`];
    /// [`Error::CacheOverflow`] if they are NaN because the cache could not hold a key or value.
    pub fn logits(&self, sequence: usize) -> Result<&[f32]> {
        let outputs = self.outputs()?;
        let &Sequence { position, row, has_logits, .. } = self.sequence(sequence)?;
        if !has_logits {
            return Err(Error::NoLogits { sequence });
        }
        let logits = &self.logits[row * outputs..][..outputs];
        self.runner.check(sequence, position, logits)?;
        Ok(logits)
    }

    /// Chooses the next token of a sequence; does not append it. `history` are the tokens that a
    /// repetition penalty counts; `None` for those that are kept.
    pub(super) fn sample_from(
        &mut self,
        sequence: usize,
        sampler: &mut Sampler,
        history: Option<&[u32]>,
    ) -> Result<u32> {
        self.logits(sequence)?;
        let (outputs, kept) = (self.runner.outputs(), self.kept(sequence));
        let logits = &self.logits[self.sequences[sequence].row * outputs..][..outputs];
        sampler.sample(logits, history.unwrap_or(&self.history[kept]), self.candidates)
    }

    /// The classifier of a sequence: that of the one adapter among its active ones which brings
    /// one.
    ///
    /// # Errors
    /// [`Error::NoSuchSequence`], [`Error::Classifiers`].
    pub fn classifier(&self, sequence: usize) -> Result<Classifier<'_>> {
        self.selection.classifier(sequence)
    }

    /// Forgets a sequence's tokens. Its adapters stay chosen; [`cancel`](Self::cancel) lets go of
    /// them too, for the base alone.
    ///
    /// # Errors
    /// [`Error::NoSuchSequence`]; [`Error::Device`] where one has failed.
    pub fn reset(&mut self, sequence: usize) -> Result<()> {
        self.sequence(sequence)?;
        self.sequences[sequence] = Sequence::EMPTY;
        self.runner.forget(sequence);
        self.runner.alive()
    }

    /// Ends a sequence: forgets its tokens and lets go of its adapters, so that those with an
    /// owner are freed with their last user. Its place is free for another.
    ///
    /// # Errors
    /// [`Error::NoSuchSequence`].
    pub fn cancel(&mut self, sequence: usize) -> Result<()> {
        let reset = self.reset(sequence);
        if sequence < self.batch {
            self.selection.clear(sequence);
        }
        reset
    }

    /// How many tokens a sequence has read.
    ///
    /// # Errors
    /// [`Error::NoSuchSequence`].
    pub fn position(&self, sequence: usize) -> Result<usize> {
        Ok(self.sequence(sequence)?.position)
    }

    fn sequence(&self, sequence: usize) -> Result<&Sequence> {
        self.sequences.get(sequence).ok_or(Error::NoSuchSequence { sequence, batch: self.batch })
    }

    fn outputs(&self) -> Result<usize> {
        match self.runner.outputs() {
            0 => Err(Error::NoHead),
            outputs => Ok(outputs),
        }
    }

    /// Where the tokens of a sequence are kept; empty where none are.
    pub(super) fn kept(&self, sequence: usize) -> core::ops::Range<usize> {
        let each = self.history.len() / self.batch;
        sequence * each..sequence * each + self.sequences[sequence].position.min(each)
    }

    /// The tokens of a sequence, as far as they are kept.
    pub(super) fn kept_tokens(&self, sequence: usize) -> Result<&[u32]> {
        self.sequence(sequence)?;
        Ok(&self.history[self.kept(sequence)])
    }

    /// Forgets all but the first `length` tokens; what the runner keeps of the others is
    /// overwritten when more come.
    pub(super) fn cut(&mut self, sequence: usize, length: usize) -> Result<()> {
        let have = self.sequence(sequence)?.position;
        if length > have {
            return Err(Error::Length { have, need: length });
        }
        self.sequences[sequence] = Sequence { position: length, ..Sequence::EMPTY };
        Ok(())
    }

    /// Gives sequence `to` the adapters and the first `length` tokens of `from`; the runner has
    /// still to copy what it keeps.
    pub(super) fn copy_books(&mut self, from: usize, to: usize, length: usize) -> Result<()> {
        let have = self.sequence(from)?.position;
        self.sequence(to)?;
        if from == to {
            return Err(Error::DuplicateSequence { sequence: to });
        }
        if length > have {
            return Err(Error::Length { have, need: length });
        }
        self.selection.copy(from, to);
        self.sequences[to] = Sequence { position: length, ..Sequence::EMPTY };
        let (source, target) = (self.kept(from).start, self.kept(to));
        self.history.copy_within(source..source + target.len(), target.start);
        Ok(())
    }
}
