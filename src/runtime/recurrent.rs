//! A recurrent session: sequences of tokens that LSTM layers read, each with a state of its own and
//! under its own adapters.
//!
//! All memory is the caller's and taken at the start; nothing here allocates. Tokens are not kept:
//! the state is all that a sequence leaves behind, so it has no longest length.

use core::ops::Range;

use super::engine::Engine;
use super::recurrent_limits::Plan;
use super::selection::{self, Handle};
use super::workspace::Workspace;
use super::{Candidate, Executor, RecurrentLimits, Sampler, recurrent_need};
use crate::adapter::{Choice, Classifier, Resolve};
use crate::error::{Error, Result};
use crate::model::lstm::{Lstm, forward};
use crate::nn::{Scratch, Segment};

/// What is known of one sequence besides its state and adapters.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sequence {
    /// Tokens read.
    position: usize,
    has_logits: bool,
}

/// Sequences that an LSTM base reads, in memory that the caller lends for `'w`; model and adapters
/// live for `'m`.
///
/// ```
/// # use lowrank::{model::lstm::Lstm, runtime::*};
/// # fn generate(archive: &[u8], memory: &mut [u8]) -> Result<(), lowrank::Error> {
/// let model = Lstm::open(archive)?;
/// let mut session = Recurrent::new(model, &RecurrentLimits::new(), memory, &Serial)?;
/// session.prefill(0, &[1, 2, 3])?;
/// let token = session.sample(0, &mut Sampler::greedy(), &[1, 2, 3])?;
/// session.step(&[(0, token)])?;
/// # Ok(()) }
/// ```
pub struct Recurrent<'w, 'm> {
    model: Lstm<'m>,
    limits: RecurrentLimits,
    engine: Engine<'w>,
    /// `[batch, layers, 2, hidden]`: h, then c.
    states: &'w mut [f32],
    buffers: forward::Buffers<'w>,
    /// `[batch, outputs]`.
    logits: &'w mut [f32],
    sequences: &'w mut [Sequence],
    active: &'w mut [Handle<'m>],
    tokens: &'w mut [u32],
    segments: &'w mut [Segment],
    candidates: &'w mut [Candidate],
}

impl core::fmt::Debug for Recurrent<'_, '_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let sequences = &self.sequences;
        f.debug_struct("Recurrent")
            .field("model", &self.model)
            .field("sequences", sequences)
            .finish_non_exhaustive()
    }
}

impl<'w, 'm> Recurrent<'w, 'm> {
    /// A session over `memory`, which starts on a 64-byte boundary and has at least
    /// [`recurrent_need`] bytes; what it holds does not matter.
    ///
    /// # Errors
    /// [`Error::Limit`], [`Error::Misaligned`], [`Error::WorkspaceTooSmall`].
    pub fn new(
        model: Lstm<'m>,
        limits: &RecurrentLimits,
        memory: &'w mut [u8],
        executor: &'w dyn Executor,
    ) -> Result<Self> {
        limits.check()?;
        let config = model.config();
        let plan = Plan::new(config, limits);
        let mut w = Workspace::new(memory, recurrent_need(config, limits).bytes)?;
        Ok(Self {
            limits: *limits,
            engine: Engine::new(executor, limits.lanes, limits.max_active),
            states: w.values(plan.states, 0.0)?,
            buffers: forward::Buffers {
                x: w.numbers(plan.x)?,
                gates: w.numbers(plan.gates)?,
                recurrent: w.numbers(plan.recurrent)?,
                before: w.numbers(plan.before)?,
                steps: w.values(limits.batch, Segment::default())?,
                scratch: Scratch {
                    low_rank: w.numbers(plan.low_rank)?,
                    width: limits.max_total_rank,
                    values: w.numbers(plan.quantized)?,
                    scales: w.numbers(plan.scales)?,
                },
            },
            logits: w.numbers(plan.logits)?,
            sequences: w.values(limits.batch, Sequence { position: 0, has_logits: false })?,
            active: w.values(plan.handles, None)?,
            tokens: w.numbers(plan.rows)?,
            segments: w.values(limits.batch, Segment::default())?,
            candidates: w.values(config.outputs, Candidate::NONE)?,
            model,
        })
    }

    /// Chooses the adapters of a sequence. The session keeps the handles: later swaps in `set` do
    /// not touch it.
    ///
    /// # Errors
    /// [`Error::CacheOfOtherAdapters`] if the sequence has a state; [`Error::OtherBase`],
    /// [`Error::TooManyActive`], [`Error::TotalRank`], [`Error::NoSuchSequence`], and those of
    /// [`Resolve::resolve`]. The previous selection then stays.
    pub fn select(
        &mut self,
        sequence: usize,
        set: &impl Resolve<'m>,
        choices: &[Choice],
    ) -> Result<()> {
        let position = self.sequence(sequence)?.position;
        let most = self.limits.max_active;
        selection::check(set, choices, self.model.fingerprint(), most, self.limits.max_total_rank)?;
        if position > 0 {
            return Err(Error::CacheOfOtherAdapters { sequence, position });
        }
        for (i, handle) in self.active[sequence * most..][..most].iter_mut().enumerate() {
            *handle = choices.get(i).map(|choice| set.resolve(choice)).transpose()?;
        }
        Ok(())
    }

    /// Reads tokens, [`RecurrentLimits::prefill_chunk`] at a time, and computes the head's logits
    /// after the last one.
    ///
    /// # Errors
    /// [`Error::NoSuchSequence`], [`Error::Length`] for no tokens, [`Error::Token`]; then nothing
    /// changed.
    pub fn prefill(&mut self, sequence: usize, tokens: &[u32]) -> Result<()> {
        self.check_tokens(sequence, tokens)?;
        let mut last_row = 0;
        for chunk in tokens.chunks(self.limits.prefill_chunk) {
            self.feed_chunk(sequence, chunk);
            last_row = chunk.len() - 1;
        }
        self.segments[0] = Segment { first: 0, rows: 1, sequence };
        self.compute_logits(last_row..last_row + 1, 1, sequence);
        self.sequences[sequence].has_logits = true;
        Ok(())
    }

    /// Reads one token in each of several sequences, in one pass, and computes their logits.
    ///
    /// # Errors
    /// [`Error::NoSuchSequence`], [`Error::DuplicateSequence`], [`Error::Length`] for no tokens or
    /// more than the batch, [`Error::Token`]; then nothing changed.
    pub fn step(&mut self, tokens: &[(usize, u32)]) -> Result<()> {
        if tokens.is_empty() || tokens.len() > self.limits.batch {
            return Err(Error::Length { have: tokens.len(), need: self.limits.batch });
        }
        for (i, &(sequence, token)) in tokens.iter().enumerate() {
            self.check_tokens(sequence, &[token])?;
            if tokens[..i].iter().any(|&(other, _)| other == sequence) {
                return Err(Error::DuplicateSequence { sequence });
            }
        }
        for (row, &(sequence, token)) in tokens.iter().enumerate() {
            self.tokens[row] = token;
            self.segments[row] = Segment { first: row, rows: 1, sequence };
        }
        self.feed(tokens.len(), tokens.len());
        // Neighbouring sequences have neighbouring logits: one product for each run of them.
        let mut first = 0;
        while first < tokens.len() {
            let start = tokens[first].0;
            let run = tokens[first..]
                .iter()
                .zip(start..)
                .take_while(|((sequence, _), expected)| sequence == expected)
                .count();
            for row in 0..run {
                self.segments[row] = Segment { first: row, rows: 1, sequence: start + row };
            }
            self.compute_logits(first..first + run, run, start);
            self.sequences[start..start + run]
                .iter_mut()
                .for_each(|sequence| sequence.has_logits = true);
            first += run;
        }
        Ok(())
    }

    /// Reads tokens like [`prefill`](Self::prefill) and hands the head's logits after each of them
    /// to `see(index, logits)`. The logits of other sequences are lost.
    ///
    /// # Errors
    /// As [`prefill`](Self::prefill); [`Error::NoHead`].
    pub fn score(
        &mut self,
        sequence: usize,
        tokens: &[u32],
        mut see: impl FnMut(usize, &[f32]),
    ) -> Result<()> {
        self.check_tokens(sequence, tokens)?;
        let (outputs, batch) = (self.outputs()?, self.limits.batch);
        for (i, chunk) in tokens.chunks(self.limits.prefill_chunk).enumerate() {
            self.feed_chunk(sequence, chunk);
            for first in (0..chunk.len()).step_by(batch) {
                let rows = batch.min(chunk.len() - first);
                self.segments[0] = Segment { first: 0, rows, sequence };
                self.compute_logits(first..first + rows, 1, 0);
                for (row, logits) in self.logits.chunks_exact(outputs).take(rows).enumerate() {
                    see(i * self.limits.prefill_chunk + first + row, logits);
                }
            }
        }
        self.sequences.iter_mut().for_each(|sequence| sequence.has_logits = false);
        Ok(())
    }

    /// The head's logits after the last token of a sequence, `[outputs]`: of the next token, or of
    /// the base's own labels.
    ///
    /// # Errors
    /// [`Error::NoSuchSequence`], [`Error::NoHead`], [`Error::NoLogits`].
    pub fn logits(&self, sequence: usize) -> Result<&[f32]> {
        let outputs = self.outputs()?;
        if !self.sequence(sequence)?.has_logits {
            return Err(Error::NoLogits { sequence });
        }
        Ok(&self.logits[sequence * outputs..][..outputs])
    }

    /// Chooses the next token of a sequence; does not feed it. `history` are the tokens that a
    /// repetition penalty counts.
    ///
    /// # Errors
    /// Those of [`logits`](Self::logits) and [`Sampler::sample`].
    pub fn sample(
        &mut self,
        sequence: usize,
        sampler: &mut Sampler,
        history: &[u32],
    ) -> Result<u32> {
        self.logits(sequence)?;
        let outputs = self.outputs()?;
        sampler.sample(&self.logits[sequence * outputs..][..outputs], history, self.candidates)
    }

    /// The last layer's h after the last token of a sequence, `[hidden]`: what heads and
    /// classifiers read.
    ///
    /// # Errors
    /// [`Error::NoSuchSequence`]; [`Error::NoLogits`] if it has read no token.
    pub fn hidden(&self, sequence: usize) -> Result<&[f32]> {
        if self.sequence(sequence)?.position == 0 {
            return Err(Error::NoLogits { sequence });
        }
        Ok(&self.states[self.last_state(sequence)])
    }

    /// The classifier of a sequence: that of the one adapter among its active ones which brings
    /// one.
    ///
    /// # Errors
    /// [`Error::NoSuchSequence`], [`Error::Classifiers`].
    pub fn classifier(&self, sequence: usize) -> Result<Classifier<'m>> {
        self.sequence(sequence)?;
        let most = self.limits.max_active;
        selection::classifier(sequence, &self.active[sequence * most..][..most])
    }

    /// The logit of each label of the adapter's classifier into `logits`, `[labels]`. The adapter's
    /// weight does not scale it.
    ///
    /// # Errors
    /// Those of [`hidden`](Self::hidden) and [`classifier`](Self::classifier); [`Error::Length`] if
    /// `logits` has not one place per label.
    pub fn classify(&mut self, sequence: usize, logits: &mut [f32]) -> Result<()> {
        self.hidden(sequence)?;
        let classifier = self.classifier(sequence)?;
        if logits.len() != classifier.len() {
            return Err(Error::Length { have: logits.len(), need: classifier.len() });
        }
        let state = self.last_state(sequence);
        let one = [Segment { first: 0, rows: 1, sequence }];
        let pass = self.engine.pass(&one, self.active);
        classifier.linear().forward(&pass, &self.states[state], logits, &mut self.buffers.scratch);
        Ok(())
    }

    /// Forgets what a sequence has read. Its adapters stay chosen.
    ///
    /// # Errors
    /// [`Error::NoSuchSequence`].
    pub fn reset(&mut self, sequence: usize) -> Result<()> {
        self.sequence(sequence)?;
        self.sequences[sequence] = Sequence { position: 0, has_logits: false };
        let each = self.states.len() / self.limits.batch;
        self.states[sequence * each..][..each].fill(0.0);
        Ok(())
    }

    /// How many tokens a sequence has read.
    ///
    /// # Errors
    /// [`Error::NoSuchSequence`].
    pub fn position(&self, sequence: usize) -> Result<usize> {
        Ok(self.sequence(sequence)?.position)
    }

    /// The model.
    pub fn model(&self) -> &Lstm<'m> {
        &self.model
    }

    /// The limits it was made for.
    pub fn limits(&self) -> &RecurrentLimits {
        &self.limits
    }

    fn sequence(&self, sequence: usize) -> Result<&Sequence> {
        self.sequences
            .get(sequence)
            .ok_or(Error::NoSuchSequence { sequence, batch: self.limits.batch })
    }

    fn outputs(&self) -> Result<usize> {
        match self.model.config().outputs {
            0 => Err(Error::NoHead),
            outputs => Ok(outputs),
        }
    }

    /// Where the last layer's h of a sequence lies.
    fn last_state(&self, sequence: usize) -> Range<usize> {
        let c = self.model.config();
        let start = ((sequence + 1) * c.layers - 1) * 2 * c.hidden;
        start..start + c.hidden
    }

    fn check_tokens(&self, sequence: usize, tokens: &[u32]) -> Result<()> {
        self.sequence(sequence)?;
        if tokens.is_empty() {
            return Err(Error::Length { have: 0, need: 1 });
        }
        let vocab = self.model.config().vocab;
        match tokens.iter().find(|&&token| token as usize >= vocab) {
            Some(&token) => Err(Error::Token { token, vocab: vocab as u32 }),
            None => Ok(()),
        }
    }

    /// Reads a chunk of one sequence.
    fn feed_chunk(&mut self, sequence: usize, chunk: &[u32]) {
        self.tokens[..chunk.len()].copy_from_slice(chunk);
        self.segments[0] = Segment { first: 0, rows: chunk.len(), sequence };
        self.feed(chunk.len(), 1);
    }

    fn feed(&mut self, rows: usize, segments: usize) {
        let segments = &self.segments[..segments];
        for segment in segments {
            let state = &mut self.sequences[segment.sequence];
            *state = Sequence {
                position: state.position.saturating_add(segment.rows),
                has_logits: false,
            };
        }
        let pass = self.engine.pass(segments, self.active);
        forward::feed(&self.model, &pass, &self.tokens[..rows], self.states, &mut self.buffers);
    }

    /// The logits of `rows` of the last pass, of which `sequence` has the first. They become rows
    /// 0.. of the head's product, so the first `segments` segments are numbered from there.
    /// Nothing without a head.
    fn compute_logits(&mut self, rows: Range<usize>, segments: usize, sequence: usize) {
        let outputs = self.model.config().outputs;
        let pass = self.engine.pass(&self.segments[..segments], self.active);
        let logits = &mut self.logits[sequence * outputs..][..rows.len() * outputs];
        forward::logits(&self.model, &pass, rows, &mut self.buffers, logits);
    }
}
