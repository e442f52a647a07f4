//! Sessions over LSTM layers on the CPU: what a sequence leaves behind is a state, not its tokens,
//! so it has no longest length.

use core::ops::Range;

use super::runner::Runner;
use super::sequences::Sequences;
use super::{RecurrentLimits, Sampler, recurrent_need};
use crate::adapter::Handle;
use crate::archive::Fingerprint;
use crate::error::{Error, Result};
use crate::exec::Executor;
use crate::model::lstm::{Lstm, forward};
use crate::nn::{Engine, Segment};
use crate::tensor::workspace::Workspace;

/// Sequences that an LSTM base reads, in memory that the caller lends for `'w`; model and borrowed
/// adapters live for `'m`.
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
pub type Recurrent<'w, 'm> = Sequences<'w, 'm, LstmCpu<'w, 'm>>;

/// LSTM layers with their working buffers and the states of their sequences.
pub struct LstmCpu<'w, 'm> {
    model: Lstm<'m>,
    limits: RecurrentLimits,
    engine: Engine<'w>,
    buffers: forward::Buffers<'w>,
}

impl<'m> Runner for LstmCpu<'_, 'm> {
    type Model = Lstm<'m>;

    fn model(&self) -> &Lstm<'m> {
        &self.model
    }

    fn fingerprint(&self) -> Fingerprint {
        self.model.fingerprint()
    }

    fn vocab(&self) -> usize {
        self.model.config().vocab
    }

    fn outputs(&self) -> usize {
        self.model.config().outputs
    }

    fn run(&mut self, tokens: &[u32], _: &[usize], segments: &[Segment], active: &[Handle<'_>]) {
        let pass = self.engine.pass(segments, active);
        forward::feed(&self.model, &pass, tokens, &mut self.buffers);
    }

    fn logits(&mut self, segments: &mut [Segment], active: &[Handle<'_>], out: &mut [f32]) {
        let Self { model, engine, buffers, .. } = self;
        forward::logits(model, engine, active, segments, buffers, out);
    }

    /// States are kept as they are computed.
    fn check(&self, _: usize, _: usize, _: &[f32]) -> Result<()> {
        Ok(())
    }

    fn forget(&mut self, sequence: usize) {
        let states = self.states(sequence);
        self.buffers.states[states].fill(0.0);
    }
}

impl LstmCpu<'_, '_> {
    /// Where the states of a sequence lie, `[layers, 2, hidden]`.
    fn states(&self, sequence: usize) -> Range<usize> {
        let each = self.buffers.states.len() / self.limits.batch;
        sequence * each..(sequence + 1) * each
    }

    /// Where the last layer's h of a sequence lies.
    fn last_state(&self, sequence: usize) -> Range<usize> {
        let (end, hidden) = (self.states(sequence).end, self.model.config().hidden);
        end - 2 * hidden..end - hidden
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
        let mut w = Workspace::new(memory, recurrent_need(config, limits).bytes)?;
        let size = limits.size();
        let buffers = forward::Buffers::carve(&mut w, config, &size);
        let engine = Engine::new(executor, limits.threads, limits.max_active);
        let runner = LstmCpu { model, limits: *limits, engine, buffers };
        Ok(Self::with(runner, &mut w, &size, limits.max_active, 0, (usize::MAX, 0)))
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
        self.sample_from(sequence, sampler, Some(history))
    }

    /// The last layer's h after the last token of a sequence, `[hidden]`: what heads and
    /// classifiers read.
    ///
    /// # Errors
    /// [`Error::NoSuchSequence`]; [`Error::NoLogits`] if it has read no token.
    pub fn hidden(&self, sequence: usize) -> Result<&[f32]> {
        if self.position(sequence)? == 0 {
            return Err(Error::NoLogits { sequence });
        }
        Ok(&self.runner.buffers.states[self.runner.last_state(sequence)])
    }

    /// The logit of each label of the adapter's classifier into `logits`, `[labels]`. The adapter's
    /// weight does not scale it.
    ///
    /// # Errors
    /// Those of [`hidden`](Self::hidden) and [`classifier`](Self::classifier); [`Error::Length`] if
    /// `logits` has not one place per label.
    pub fn classify(&mut self, sequence: usize, logits: &mut [f32]) -> Result<()> {
        self.hidden(sequence)?;
        let classifier = self.selection.classifier(sequence)?;
        if logits.len() != classifier.len() {
            return Err(Error::Length { have: logits.len(), need: classifier.len() });
        }
        let state = self.runner.last_state(sequence);
        let one = [Segment { first: 0, rows: 1, sequence }];
        let LstmCpu { engine, buffers, .. } = &mut self.runner;
        let pass = engine.pass(&one, self.selection.handles());
        classifier.linear().forward(&pass, &buffers.states[state], logits, &mut buffers.scratch);
        Ok(())
    }

    /// Gives sequence `to` the adapters and the state of `from`, so that a beginning that several
    /// share is read once. What `to` held is forgotten. There are no logits until more tokens come.
    ///
    /// # Errors
    /// [`Error::NoSuchSequence`]; [`Error::DuplicateSequence`] if the two are one.
    pub fn fork(&mut self, from: usize, to: usize) -> Result<()> {
        self.copy_books(from, to, self.position(from)?)?;
        let (source, target) = (self.runner.states(from), self.runner.states(to));
        self.runner.buffers.states.copy_within(source, target.start);
        Ok(())
    }

    /// The model.
    pub fn model(&self) -> &Lstm<'m> {
        &self.runner.model
    }

    /// The limits it was made for.
    pub fn limits(&self) -> &RecurrentLimits {
        &self.runner.limits
    }
}
