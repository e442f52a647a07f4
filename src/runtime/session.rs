//! A session: sequences of tokens that a model continues, each under its own adapters.
//!
//! All memory is the caller's and taken at the start; nothing here allocates. A session shows
//! tokens and logits, never its key-value cache, so that a device can stand behind the same type.

use super::engine::Engine;
use super::limits::Plan;
use super::selection::{self, Handle};
use super::workspace::Workspace;
use super::{Candidate, Executor, KvFormat, Limits, Sampler, need};
use crate::adapter::{Choice, Classifier, Resolve};
use crate::error::{Error, Result};
use crate::model::llama::{Llama, forward};
use crate::nn::{Cache, Scratch, Segment, room};

/// What is known of one sequence besides its tokens and adapters.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sequence {
    /// Tokens in the cache.
    position: usize,
    has_logits: bool,
}

/// Sequences that a model continues, in memory that the caller lends for `'w`; model and adapters
/// live for `'m`.
///
/// ```
/// # fn main() -> Result<(), lowrank::Error> {
/// use lowrank::{model::llama::Llama, runtime::*};
///
/// static ARCHIVE: &[u8] =
///     lowrank::include_archive!(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/tiny.lrk"));
///
/// #[repr(align(64))]
/// struct Aligned([u8; 1 << 18]);
/// let mut memory = Aligned([0; 1 << 18]);
///
/// let model = Llama::open(ARCHIVE)?;
/// let limits = Limits::new(128);
/// let mut session = Session::new(model, &limits, &mut memory.0, &Serial)?;
/// let mut sampler = Sampler::greedy();
/// session.prefill(0, &[256, 68, 117, 99, 107])?; // begin, "Duck"
/// let token = session.sample(0, &mut sampler)?;
/// assert_eq!(token, u32::from(b' '));
/// session.step(&[(0, token)])?;
/// # Ok(()) }
/// ```
pub struct Session<'w, 'm> {
    model: Llama<'m>,
    limits: Limits,
    engine: Engine<'w>,
    sequences: &'w mut [Sequence],
    active: &'w mut [Handle<'m>],
    /// `[batch, context]`.
    tokens: &'w mut [u32],
    keys: Cache<'w>,
    values: Cache<'w>,
    rows: forward::Rows<'w>,
    buffers: forward::Buffers<'w>,
    /// `[batch, vocab]`.
    logits: &'w mut [f32],
    candidates: &'w mut [Candidate],
}

impl core::fmt::Debug for Session<'_, '_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let sequences = &self.sequences;
        f.debug_struct("Session")
            .field("model", &self.model)
            .field("sequences", sequences)
            .finish_non_exhaustive()
    }
}

impl<'w, 'm> Session<'w, 'm> {
    /// A session over `memory`, which starts on a 64-byte boundary and has at least [`need`] bytes;
    /// what it holds does not matter.
    ///
    /// # Errors
    /// [`Error::Limit`], [`Error::Misaligned`], [`Error::WorkspaceTooSmall`].
    pub fn new(
        model: Llama<'m>,
        limits: &Limits,
        memory: &'w mut [u8],
        executor: &'w dyn Executor,
    ) -> Result<Self> {
        limits.check(model.config())?;
        let config = model.config();
        let plan = Plan::new(config, limits);
        let mut w = Workspace::new(memory, need(config, limits).bytes)?;
        let mut cache = || {
            Ok(match limits.kv_format {
                KvFormat::F32 => Cache::F32(w.numbers(plan.kv)?),
                KvFormat::F16 => Cache::F16(w.numbers(plan.kv)?),
                KvFormat::Int8 => Cache::Int8(w.numbers(plan.kv)?, w.numbers(plan.kv_scales)?),
            })
        };
        let (keys, values) = (cache()?, cache()?);
        let buffers = forward::Buffers {
            x: w.numbers(plan.x)?,
            normed: w.numbers(plan.x)?,
            q: w.numbers(plan.q)?,
            attended: w.numbers(plan.q)?,
            k: w.numbers(plan.kv_rows)?,
            v: w.numbers(plan.kv_rows)?,
            gate: w.numbers(plan.hidden)?,
            up: w.numbers(plan.hidden)?,
            scratch: Scratch {
                low_rank: w.numbers(plan.low_rank)?,
                width: limits.max_total_rank,
                values: w.numbers(plan.quantized)?,
                scales: w.numbers(plan.scales)?,
            },
            frequencies: w.numbers(plan.frequencies)?,
            angles: w.numbers(plan.angles)?,
            key_factors: w.numbers(plan.key_factors)?,
        };
        config.frequencies(buffers.frequencies);
        buffers.key_factors.fill(forward::UNKNOWN_FACTOR);
        Ok(Self {
            limits: *limits,
            engine: Engine::new(executor, limits.lanes, limits.max_active),
            keys,
            values,
            buffers,
            logits: w.numbers(plan.logits)?,
            sequences: w.values(limits.batch, Sequence { position: 0, has_logits: false })?,
            active: w.values(plan.handles, None)?,
            tokens: w.numbers(plan.tokens)?,
            rows: forward::Rows {
                tokens: w.numbers(plan.rows)?,
                positions: w.numbers(plan.rows)?,
                segments: w.values(plan.rows, Segment::default())?,
            },
            candidates: w.values(config.vocab, Candidate::NONE)?,
            model,
        })
    }

    /// Chooses the adapters of a sequence. The session keeps the handles: later swaps in `set` do
    /// not touch it.
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
        let position = self.sequence(sequence)?.position;
        let most = self.limits.max_active;
        selection::check(set, choices, self.model.fingerprint(), most, self.limits.max_total_rank)?;
        let handles = &mut self.active[sequence * most..][..most];
        if position > 0 {
            let unchanged = handles.iter().flatten().count() == choices.len();
            for (handle, choice) in handles.iter().flatten().zip(choices) {
                if !unchanged || !handle.same_as(&set.resolve(choice)?) {
                    return Err(Error::CacheOfOtherAdapters { sequence, position });
                }
            }
            if !unchanged {
                return Err(Error::CacheOfOtherAdapters { sequence, position });
            }
        }
        for (i, handle) in handles.iter_mut().enumerate() {
            *handle = choices.get(i).map(|choice| set.resolve(choice)).transpose()?;
        }
        Ok(())
    }

    /// Appends tokens to a sequence, [`Limits::prefill_chunk`] at a time, and computes the logits
    /// after the last one.
    ///
    /// # Errors
    /// [`Error::NoSuchSequence`], [`Error::Length`] for no tokens, [`Error::Token`],
    /// [`Error::ContextFull`]; then nothing changed.
    pub fn prefill(&mut self, sequence: usize, tokens: &[u32]) -> Result<()> {
        self.check_tokens(sequence, tokens)?;
        let last_row = self.feed_all(sequence, tokens);
        self.rows.segments[0] = Segment { first: 0, rows: 1, sequence };
        self.compute_logits(last_row..last_row + 1, 1, sequence);
        self.sequences[sequence].has_logits = true;
        Ok(())
    }

    /// Appends one token to each of several sequences, in one pass, and computes their logits.
    ///
    /// # Errors
    /// [`Error::NoSuchSequence`], [`Error::DuplicateSequence`], [`Error::Length`] for no tokens or
    /// more than the batch, [`Error::Token`], [`Error::ContextFull`]; then nothing changed.
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
            self.append(row, sequence, token);
            self.rows.segments[row] = Segment { first: row, rows: 1, sequence };
        }
        self.forward(tokens.len(), tokens.len());
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
                self.rows.segments[row] = Segment { first: row, rows: 1, sequence: start + row };
            }
            self.compute_logits(first..first + run, run, start);
            self.sequences[start..start + run]
                .iter_mut()
                .for_each(|sequence| sequence.has_logits = true);
            first += run;
        }
        Ok(())
    }

    /// Appends tokens like [`prefill`](Self::prefill) and hands the logits after each of them to
    /// `see(index, logits)`. The logits of other sequences are lost.
    ///
    /// # Errors
    /// As [`prefill`](Self::prefill); [`Error::CacheOverflow`], after which the sequence holds the
    /// tokens up to there and must be reset.
    pub fn score(
        &mut self,
        sequence: usize,
        tokens: &[u32],
        mut see: impl FnMut(usize, &[f32]),
    ) -> Result<()> {
        self.check_tokens(sequence, tokens)?;
        let (vocab, batch) = (self.model.config().vocab, self.limits.batch);
        for (i, chunk) in tokens.chunks(self.limits.prefill_chunk).enumerate() {
            self.feed(sequence, chunk);
            for first in (0..chunk.len()).step_by(batch) {
                let rows = batch.min(chunk.len() - first);
                self.rows.segments[0] = Segment { first: 0, rows, sequence };
                self.compute_logits(first..first + rows, 1, 0);
                self.check_cache(sequence, &self.logits[..rows * vocab])?;
                for (row, logits) in self.logits.chunks_exact(vocab).take(rows).enumerate() {
                    see(i * self.limits.prefill_chunk + first + row, logits);
                }
            }
        }
        self.sequences.iter_mut().for_each(|sequence| sequence.has_logits = false);
        Ok(())
    }

    /// The logits after the last token of a sequence, `[vocab]`.
    ///
    /// # Errors
    /// [`Error::NoSuchSequence`], [`Error::NoLogits`]; [`Error::CacheOverflow`] if they are NaN
    /// because the cache could not hold a key or value.
    pub fn logits(&self, sequence: usize) -> Result<&[f32]> {
        if !self.sequence(sequence)?.has_logits {
            return Err(Error::NoLogits { sequence });
        }
        let vocab = self.model.config().vocab;
        let logits = &self.logits[sequence * vocab..][..vocab];
        self.check_cache(sequence, logits)?;
        Ok(logits)
    }

    /// Chooses the next token of a sequence; does not append it.
    ///
    /// # Errors
    /// Those of [`logits`](Self::logits) and [`Sampler::sample`].
    pub fn sample(&mut self, sequence: usize, sampler: &mut Sampler) -> Result<u32> {
        self.logits(sequence)?;
        let vocab = self.model.config().vocab;
        let history =
            &self.tokens[sequence * self.limits.context..][..self.sequences[sequence].position];
        sampler.sample(&self.logits[sequence * vocab..][..vocab], history, self.candidates)
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

    /// Appends tokens to a sequence like [`prefill`](Self::prefill), but computes the logit of each
    /// label after the last one, into `logits`, `[labels]`: the classifier over the last
    /// token's hidden state behind the final norm, which is the token that transformers'
    /// `…ForSequenceClassification` of a decoder pools. The output head is not computed, so the
    /// sequence has no logits of a next token afterwards. The adapter's weight does not scale
    /// the classifier.
    ///
    /// # Errors
    /// Those of [`prefill`](Self::prefill) and [`classifier`](Self::classifier); [`Error::Length`]
    /// if `logits` has not one place per label; then nothing changed. [`Error::CacheOverflow`] as
    /// of [`logits`](Self::logits), when the tokens have been appended.
    pub fn classify(&mut self, sequence: usize, tokens: &[u32], logits: &mut [f32]) -> Result<()> {
        self.check_tokens(sequence, tokens)?;
        let classifier = self.classifier(sequence)?;
        if logits.len() != classifier.len() {
            return Err(Error::Length { have: logits.len(), need: classifier.len() });
        }
        let last_row = self.feed_all(sequence, tokens);
        let one = [Segment { first: 0, rows: 1, sequence }];
        let pass = self.engine.pass(&one, self.active);
        forward::project(
            &self.model,
            &pass,
            last_row..last_row + 1,
            &classifier.linear(),
            &mut self.buffers,
            logits,
        );
        self.check_cache(sequence, logits)
    }

    /// Forgets a sequence's tokens. Its adapters stay chosen.
    ///
    /// # Errors
    /// [`Error::NoSuchSequence`].
    pub fn reset(&mut self, sequence: usize) -> Result<()> {
        self.sequence(sequence)?;
        self.sequences[sequence] = Sequence { position: 0, has_logits: false };
        Ok(())
    }

    /// Forgets all but the first `length` tokens of a sequence, whose keys and values stay: prompts
    /// that begin alike are computed once. There are no logits until more tokens come.
    ///
    /// # Errors
    /// [`Error::NoSuchSequence`]; [`Error::Length`] if the sequence has fewer tokens.
    pub fn rewind(&mut self, sequence: usize, length: usize) -> Result<()> {
        let position = self.sequence(sequence)?.position;
        if length > position {
            return Err(Error::Length { have: position, need: length });
        }
        self.sequences[sequence] = Sequence { position: length, has_logits: false };
        Ok(())
    }

    /// The tokens of a sequence.
    ///
    /// # Errors
    /// [`Error::NoSuchSequence`].
    pub fn tokens(&self, sequence: usize) -> Result<&[u32]> {
        let position = self.sequence(sequence)?.position;
        Ok(&self.tokens[sequence * self.limits.context..][..position])
    }

    /// How many more tokens a sequence can take.
    ///
    /// # Errors
    /// [`Error::NoSuchSequence`].
    pub fn room(&self, sequence: usize) -> Result<usize> {
        Ok(self.limits.context - self.sequence(sequence)?.position)
    }

    /// The model.
    pub fn model(&self) -> &Llama<'m> {
        &self.model
    }

    /// The limits it was made for.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Refuses `logits` of `sequence` that are NaN because a key or value did not fit the cache:
    /// the first layer with something that is not finite then holds infinities alone. Where the
    /// model's own numbers are not finite, NaN come first.
    #[inline(never)]
    fn check_cache(&self, sequence: usize, logits: &[f32]) -> Result<()> {
        // What reaches the final norm reaches every logit.
        if !logits.first().is_some_and(|logit| logit.is_nan()) {
            return Ok(());
        }
        let (c, batch, room) = (self.model.config(), self.limits.batch, room(self.limits.context));
        let seen = self.sequence(sequence)?.position;
        let layer = |index| {
            forward::heads(c, index, batch, room).overflow(sequence, seen, &self.keys, &self.values)
        };
        match (0..c.layers).find_map(layer) {
            Some(true) => Err(Error::CacheOverflow { sequence }),
            _ => Ok(()),
        }
    }

    fn sequence(&self, sequence: usize) -> Result<&Sequence> {
        self.sequences
            .get(sequence)
            .ok_or(Error::NoSuchSequence { sequence, batch: self.limits.batch })
    }

    fn check_tokens(&self, sequence: usize, tokens: &[u32]) -> Result<()> {
        let (position, context) = (self.sequence(sequence)?.position, self.limits.context);
        if tokens.is_empty() {
            return Err(Error::Length { have: 0, need: 1 });
        }
        let vocab = self.model.config().vocab;
        if let Some(&token) = tokens.iter().find(|&&token| token as usize >= vocab) {
            return Err(Error::Token { token, vocab: vocab as u32 });
        }
        if tokens.len() > context - position {
            return Err(Error::ContextFull { asked: position + tokens.len(), context });
        }
        Ok(())
    }

    /// Computes tokens of one sequence chunk by chunk; returns the last one's row of the last pass.
    fn feed_all(&mut self, sequence: usize, tokens: &[u32]) -> usize {
        let mut last_row = 0;
        for chunk in tokens.chunks(self.limits.prefill_chunk) {
            self.feed(sequence, chunk);
            last_row = chunk.len() - 1;
        }
        last_row
    }

    /// Computes a chunk of one sequence.
    fn feed(&mut self, sequence: usize, chunk: &[u32]) {
        for (row, &token) in chunk.iter().enumerate() {
            self.append(row, sequence, token);
        }
        self.rows.segments[0] = Segment { first: 0, rows: chunk.len(), sequence };
        self.forward(chunk.len(), 1);
    }

    /// Makes `token` the next of `sequence` and row `row` of the pass.
    fn append(&mut self, row: usize, sequence: usize, token: u32) {
        let state = &mut self.sequences[sequence];
        self.rows.tokens[row] = token;
        self.rows.positions[row] = state.position;
        self.tokens[sequence * self.limits.context + state.position] = token;
        *state = Sequence { position: state.position + 1, has_logits: false };
    }

    fn forward(&mut self, rows: usize, segments: usize) {
        let pass = self.engine.pass(&self.rows.segments[..segments], self.active);
        let (batch, room) = (self.limits.batch, room(self.limits.context));
        let cache =
            forward::KeyValues { keys: &mut self.keys, values: &mut self.values, batch, room };
        forward::blocks(
            &self.model,
            &pass,
            &self.rows.tokens[..rows],
            &self.rows.positions[..rows],
            cache,
            &mut self.buffers,
        );
    }

    /// The logits of `rows` of the last pass, of which `sequence` has the first. They become rows
    /// 0.. of the head's product, so the first `segments` segments are numbered from there.
    fn compute_logits(&mut self, rows: core::ops::Range<usize>, segments: usize, sequence: usize) {
        let vocab = self.model.config().vocab;
        let pass = self.engine.pass(&self.rows.segments[..segments], self.active);
        let logits = &mut self.logits[sequence * vocab..][..rows.len() * vocab];
        forward::logits(&self.model, &pass, rows, &mut self.buffers, logits);
    }
}
