//! Sessions over Llama-family decoders on an NVIDIA GPU: the books are those of any session, the
//! model and its keys and values are on the device.

use super::runner::Runner;
use super::sequences::{Books, Sequences};
use super::session::{Decoder, of};
use super::{Candidate, Limits, Need, Sampler};
use crate::adapter::{Classifier, Handle, Selection};
use crate::archive::Fingerprint;
use crate::cuda::{CudaError, Model, State};
use crate::error::{Error, Field, Result};
use crate::kernel::kernels;
use crate::model::llama::{Config, Llama};
use crate::nn::Segment;
use crate::tensor::workspace::{Pointers, Workspace};

/// Sequences that a decoder on a device continues; see [`Session`](super::Session). The books are
/// in memory that the caller lends for `'w`.
///
/// What goes wrong on the device is told by the call that it happens in, as [`Error::Device`], and
/// [`device_error`](Self::device_error) has the driver's words. After that the session gives
/// nothing but this error; sessions on the CPU go on.
pub type CudaSession<'w, 'm> = Sequences<'w, 'm, LlamaCuda<'w, 'm>>;

/// What a classifier says of a vector: `logits`, `[labels]`.
pub(super) fn classified(classifier: &Classifier<'_>, x: &[f32], logits: &mut [f32]) {
    let mut row = vec![0.0; x.len()];
    for (label, logit) in logits.iter_mut().enumerate() {
        classifier.weight().read(label, 0, &mut row);
        *logit = kernels().dot(&row, x) + classifier.bias().get(label).copied().unwrap_or(0.0);
    }
}

/// A model that somebody else keeps, or that its sessions do.
pub(super) enum Held<'w, M> {
    Lent(&'w M),
    #[cfg(feature = "capi")]
    Shared(std::sync::Arc<M>),
}

impl<M> core::ops::Deref for Held<'_, M> {
    type Target = M;

    fn deref(&self) -> &M {
        match self {
            Self::Lent(model) => model,
            #[cfg(feature = "capi")]
            Self::Shared(model) => model,
        }
    }
}

/// A decoder on a device and the memory of its sequences there.
pub struct LlamaCuda<'w, 'm> {
    model: Held<'w, Model<'m>>,
    limits: Limits,
    state: State,
    /// What ended the session.
    failure: Option<CudaError>,
    /// A sequence whose cache could not hold a number.
    overflow: Option<usize>,
}

impl<'m> LlamaCuda<'_, 'm> {
    /// Works on the device unless it failed before, and notes if it fails now.
    fn attempt<T>(
        &mut self,
        work: impl FnOnce(&Model<'m>, &mut State) -> Result<T, CudaError>,
    ) -> Option<T> {
        if self.failure.is_some() {
            return None;
        }
        match work(&self.model, &mut self.state) {
            Ok(done) => Some(done),
            Err(error) => {
                self.failure = Some(error);
                None
            }
        }
    }

    /// Asks whether NaN came from a cache that could not hold a number.
    fn find_overflow(&mut self, sequence: usize) {
        if self.attempt(|model, state| model.overflowed(state, sequence)) == Some(true) {
            self.overflow = Some(sequence);
        }
    }
}

impl<'m> Runner for LlamaCuda<'_, 'm> {
    type Model = Llama<'m>;

    fn model(&self) -> &Llama<'m> {
        self.model.llama()
    }

    fn fingerprint(&self) -> Fingerprint {
        self.model.llama().fingerprint()
    }

    fn vocab(&self) -> usize {
        self.model.llama().config().vocab
    }

    fn outputs(&self) -> usize {
        self.vocab()
    }

    fn run(
        &mut self,
        tokens: &[u32],
        positions: &[usize],
        segments: &[Segment],
        active: &[Handle<'_>],
    ) {
        self.attempt(|model, state| model.run(state, tokens, positions, segments, active));
    }

    /// The adapters are those of the last run.
    fn logits(&mut self, segments: &mut [Segment], _: &[Handle<'_>], out: &mut [f32]) {
        if self.attempt(|model, state| model.logits(state, segments, out)).is_none() {
            return out.fill(f32::NAN);
        }
        let rows = segments.iter().flat_map(|segment| vec![segment.sequence; segment.rows]);
        for (sequence, logits) in rows.zip(out.chunks_exact(self.vocab())) {
            if logits[0].is_nan() {
                self.find_overflow(sequence);
            }
        }
    }

    fn check(&self, sequence: usize, _: usize, logits: &[f32]) -> Result<()> {
        self.alive()?;
        let is_nan = logits.first().is_some_and(|logit| logit.is_nan());
        if is_nan && self.overflow == Some(sequence) {
            return Err(Error::CacheOverflow { sequence });
        }
        Ok(())
    }

    fn forget(&mut self, sequence: usize) {
        self.attempt(|model, state| model.forget(state, sequence));
    }

    fn alive(&self) -> Result<()> {
        if self.failure.is_none() { Ok(()) } else { Err(Error::Device) }
    }
}

impl Decoder for LlamaCuda<'_, '_> {
    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn copy(&mut self, from: usize, to: usize, _: usize) {
        self.attempt(|model, state| model.copy(state, from, to));
    }

    /// The hidden state comes from the device; the classifier, a few rows, is the CPU's.
    fn classify(
        &mut self,
        row: &mut [Segment; 1],
        selection: &Selection<'_, '_>,
        logits: &mut [f32],
    ) -> Result<()> {
        let Some(state) = self.attempt(|model, state| model.state(state, row)) else {
            return self.alive();
        };
        let sequence = row[0].sequence;
        classified(&selection.classifier(sequence)?, &state, logits);
        if logits[0].is_nan() {
            self.find_overflow(sequence);
        }
        Ok(())
    }
}

impl<'w, 'm> LlamaCuda<'w, 'm> {
    fn new(model: Held<'w, Model<'m>>, limits: &Limits) -> Result<Self, CudaError> {
        let state = State::new(&model, &limits.size(), limits.max_active)?;
        Ok(Self { model, limits: *limits, state, failure: None, overflow: None })
    }

    /// A decoder whose sessions keep the model.
    #[cfg(feature = "capi")]
    pub(super) fn shared(
        model: std::sync::Arc<Model<'m>>,
        limits: &Limits,
    ) -> Result<Self, CudaError> {
        Self::new(Held::Shared(model), limits)
    }

    /// What ended the session, if something did.
    pub(super) fn failure(&self) -> Option<&CudaError> {
        self.failure.as_ref()
    }
}

/// A card has no room for the logits of drafts.
pub(super) fn check_on_device(config: &Config, limits: &Limits) -> Result<()> {
    match limits.draft {
        0 => limits.check(config),
        found => Err(Error::Limit { field: Field::Draft, found, most: 0 }),
    }
}

impl<'w, 'm> CudaSession<'w, 'm> {
    /// The bytes of books that a session over a model with `config` needs under `limits`; keys,
    /// values and activations are on the device.
    pub fn need(config: &Config, limits: &Limits) -> Need {
        let (outputs, drafted, history) = (config.vocab, limits.drafted(), limits.context);
        let (size, active) = (limits.size(), limits.max_active);
        let bytes = Books::bytes(&size, active, outputs, drafted, history, Pointers::Here);
        Need { bytes, kv_bytes: 0 }
    }

    /// A session over `memory`, which starts on a 64-byte boundary and has at least
    /// [`need`](Self::need) bytes. Precision is always exact; threads do not matter.
    ///
    /// # Errors
    /// [`Error::Limit`], [`Error::Misaligned`], [`Error::WorkspaceTooSmall`] in a
    /// [`CudaError`]'s place; what the driver says, most often that there is too little memory.
    pub fn new(
        model: &'w Model<'m>,
        limits: &Limits,
        memory: &'w mut [u8],
    ) -> Result<Self, CudaError> {
        let mut w = Workspace::new(memory, Self::checked_need(model, limits)?.bytes)?;
        let runner = LlamaCuda::new(Held::Lent(model), limits)?;
        Ok(of(runner, &mut w, limits))
    }

    fn checked_need(model: &Model<'_>, limits: &Limits) -> Result<Need> {
        let config = model.llama().config();
        check_on_device(config, limits)?;
        Ok(Self::need(config, limits))
    }

    /// Appends one token to each of several sequences and chooses the most likely next ones on the
    /// device, into `next`, `[tokens]`: all that comes back is a number for each. There are no
    /// logits afterwards.
    ///
    /// # Errors
    /// As [`step`](Sequences::step); [`Error::Length`] if `next` has not one place per token;
    /// [`Error::Device`]; [`Error::CacheOverflow`] or [`Error::BadLogits`] where a logit is NaN or
    /// infinite.
    pub fn step_greedy(&mut self, tokens: &[(usize, u32)], next: &mut [u32]) -> Result<()> {
        if next.len() != tokens.len() {
            return Err(Error::Length { have: next.len(), need: tokens.len() });
        }
        let segments = self.feed_each(tokens)?;
        if self.runner.attempt(|model, state| model.best(state, &segments, next)).is_none() {
            return self.runner.alive();
        }
        let bad = next.iter().position(|&token| token == u32::MAX);
        bad.map_or(Ok(()), |bad| self.bad(tokens[bad].0))
    }

    /// Appends one token to each of several sequences and chooses the next ones, each with its
    /// sampler, into `next`, `[tokens]`. If all samplers look at no more than the 64 most likely
    /// tokens (greedy, or top-k) and none has a repetition penalty, the card chooses these, they are
    /// all that comes back, and there are no logits afterwards. Else the logits come back, as with
    /// [`step`](Sequences::step) and [`sample`](Sequences::sample), whose tokens these are either
    /// way.
    ///
    /// # Errors
    /// As [`step_greedy`](Self::step_greedy), and [`Error::Length`] if there is not one sampler per
    /// token.
    pub fn step_sampled(
        &mut self,
        tokens: &[(usize, u32)],
        samplers: &mut [Sampler],
        next: &mut [u32],
    ) -> Result<()> {
        let need = tokens.len();
        if let Some(have) = [samplers.len(), next.len()].into_iter().find(|&have| have != need) {
            return Err(Error::Length { have, need });
        }
        let few = samplers.iter().map(Sampler::few);
        let Some(k) = few.reduce(|a, b| Some(a?.max(b?))).flatten() else {
            self.step(tokens)?;
            for ((next, sampler), &(sequence, _)) in next.iter_mut().zip(samplers).zip(tokens) {
                *next = self.sample(sequence, sampler)?;
            }
            return Ok(());
        };
        let segments = self.feed_each(tokens)?;
        let (mut logits, mut places) = (vec![0.0; need * k], vec![0; need * k]);
        let chosen = self.runner.attempt(|model, state| {
            model.candidates(state, &segments, k, &mut logits, &mut places)
        });
        if chosen.is_none() {
            return self.runner.alive();
        }
        let rows = logits.chunks_exact(k).zip(places.chunks_exact(k));
        for (i, ((next, sampler), (logits, places))) in
            next.iter_mut().zip(samplers).zip(rows).enumerate()
        {
            if places[0] == u32::MAX {
                return self.bad(tokens[i].0);
            }
            // A small vocabulary may have fewer.
            let those = logits.iter().zip(places).filter(|(_, place)| **place < u32::MAX - 1);
            let mut few: Vec<Candidate> =
                those.map(|(&logit, &token)| Candidate::new(logit, token)).collect();
            few.truncate(sampler.few().unwrap_or(k));
            *next = sampler.sample_few(&mut few)?;
        }
        Ok(())
    }

    /// What is wrong with a sequence that has a logit which is NaN or +∞.
    fn bad(&mut self, sequence: usize) -> Result<()> {
        self.runner.find_overflow(sequence);
        self.runner.check(sequence, 0, &[f32::NAN])?;
        Err(Error::BadLogits { index: 0 })
    }

    /// The driver's words about what ended the session, if something did.
    pub fn device_error(&self) -> Option<&CudaError> {
        self.runner.failure()
    }
}
