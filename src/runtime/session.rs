//! Sessions over Llama-family decoders on the CPU.

use super::runner::Runner;
use super::sequences::Sequences;
use super::{Limits, Sampler, need};
use crate::adapter::{Handle, Selection};
use crate::archive::Fingerprint;
use crate::error::{Error, Result};
use crate::exec::Executor;
use crate::model::llama::{Llama, Site, forward};
use crate::nn::{Engine, Heads, Linear, Segment, Size, room};
use crate::tensor::workspace::Workspace;

/// Sequences that a decoder continues, in memory that the caller lends for `'w`; model and
/// borrowed adapters live for `'m`.
///
/// ```
/// # fn main() -> Result<(), lowrank::Error> {
/// use lowrank::{model::llama::Llama, runtime::*};
///
/// static ARCHIVE: &[u8] = lowrank::include_archive!(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/tiny.lrk"));
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
#[doc(alias = "generate")]
#[doc(alias = "inference")]
pub type Session<'w, 'm> = Sequences<'w, 'm, LlamaCpu<'w, 'm>>;

/// A decoder with its working buffers and the keys and values of its sequences.
pub struct LlamaCpu<'w, 'm> {
    model: Llama<'m>,
    limits: Limits,
    size: Size,
    engine: Engine<'w>,
    buffers: forward::Buffers<'w>,
}

impl<'m> Runner for LlamaCpu<'_, 'm> {
    type Model = Llama<'m>;

    fn model(&self) -> &Llama<'m> {
        &self.model
    }

    fn fingerprint(&self) -> Fingerprint {
        self.model.fingerprint()
    }

    fn vocab(&self) -> usize {
        self.model.config().vocab
    }

    fn outputs(&self) -> usize {
        self.model.config().vocab
    }

    fn run(
        &mut self,
        tokens: &[u32],
        positions: &[usize],
        segments: &[Segment],
        active: &[Handle<'_>],
    ) {
        let pass = self.engine.pass(segments, active);
        forward::blocks(&self.model, &pass, tokens, positions, &self.size, &mut self.buffers);
    }

    fn logits(&mut self, segments: &mut [Segment], active: &[Handle<'_>], out: &mut [f32]) {
        let site = Site::Head.number(self.model.config().layers);
        let head = Linear { weight: self.model.head(), bias: &[], site };
        let Self { model, engine, buffers, .. } = self;
        forward::project(model, engine, active, segments, &head, buffers, out);
    }

    /// A key or value that did not fit an f16 cache: the first layer with something that is not
    /// finite then holds infinities alone. Where the model's own numbers are not finite, NaN come
    /// first.
    fn check(&self, sequence: usize, seen: usize, logits: &[f32]) -> Result<()> {
        // What reaches the final norm reaches every logit.
        if !logits.first().is_some_and(|logit| logit.is_nan()) {
            return Ok(());
        }
        let (keys, values) = (&self.buffers.keys, &self.buffers.values);
        let layer = |index| self.heads(index).overflow(sequence, seen, keys, values);
        match (0..self.model.config().layers).find_map(layer) {
            Some(true) => Err(Error::CacheOverflow { sequence }),
            _ => Ok(()),
        }
    }

    /// Keys and values are overwritten when tokens come.
    fn forget(&mut self, _: usize) {}
}

/// What sessions over decoders ask of their runner besides.
pub(crate) trait Decoder: Runner {
    /// The limits that it was made for.
    fn limits(&self) -> &Limits;
    /// Copies the keys and values of the first `length` positions of a sequence to another.
    fn copy(&mut self, from: usize, to: usize, length: usize);
    /// The logits of a sequence's classifier over a row of the last run, as many as it has labels.
    fn classify(
        &mut self,
        row: &mut [Segment; 1],
        selection: &Selection<'_, '_>,
        logits: &mut [f32],
    ) -> Result<()>;
}

impl Decoder for LlamaCpu<'_, '_> {
    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn copy(&mut self, from: usize, to: usize, length: usize) {
        for layer in 0..self.model.config().layers {
            let sizes = self.heads(layer);
            let (from, to) = (sizes.line(from, 0), sizes.line(to, 0));
            self.buffers.keys.copy(&sizes, from, to, sizes.kv_heads, length);
            self.buffers.values.copy(&sizes, from, to, sizes.kv_heads, length);
        }
    }

    fn classify(
        &mut self,
        row: &mut [Segment; 1],
        selection: &Selection<'_, '_>,
        logits: &mut [f32],
    ) -> Result<()> {
        let linear = selection.classifier(row[0].sequence)?.linear();
        let Self { model, engine, buffers, .. } = self;
        forward::project(model, engine, selection.handles(), row, &linear, buffers, logits);
        Ok(())
    }
}

impl<'w, 'm> LlamaCpu<'w, 'm> {
    /// A decoder with its part of the workspace, under limits that were checked.
    pub(super) fn carve(
        model: Llama<'m>,
        limits: &Limits,
        w: &mut Workspace<'w>,
        executor: &'w dyn Executor,
    ) -> Self {
        let (config, size) = (model.config(), limits.size());
        let buffers = forward::Buffers::carve(w, config, &size);
        config.frequencies(buffers.frequencies);
        let engine = Engine::new(executor, limits.threads, limits.max_active);
        Self { model, limits: *limits, size, engine, buffers }
    }

    /// How a layer lies in the cache.
    fn heads(&self, layer: usize) -> Heads {
        forward::heads(self.model.config(), layer, self.size.batch, room(self.size.context))
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
        let config = model.config();
        limits.check(config)?;
        let mut w = Workspace::new(memory, need(config, limits).bytes)?;
        let runner = LlamaCpu::carve(model, limits, &mut w, executor);
        Ok(of(runner, &mut w, limits))
    }
}

/// The books of a runner for a decoder.
pub(super) fn of<'w, 'm, R: Decoder>(
    runner: R,
    w: &mut Workspace<'w>,
    limits: &Limits,
) -> Sequences<'w, 'm, R> {
    let (drafted, context) = (limits.drafted(), limits.context);
    Sequences::with(runner, w, &limits.size(), limits.max_active, drafted, (context, context))
}

#[allow(private_bounds, reason = "runners are the crate's own")]
impl<'m, R: Decoder<Model = Llama<'m>>> Sequences<'_, 'm, R> {
    /// The model.
    pub fn model(&self) -> &Llama<'m> {
        self.runner.model()
    }
}

#[allow(private_bounds, reason = "runners are the crate's own")]
impl<R: Decoder> Sequences<'_, '_, R> {
    /// Appends tokens to a sequence like [`prefill`](Self::prefill), but computes the logit of each
    /// label after the last one, into `logits`, `[labels]`: the classifier over the last token's
    /// hidden state behind the final norm, which is the token that transformers'
    /// `…ForSequenceClassification` of a decoder pools. The output head is not computed, so the
    /// sequence has no logits of a next token afterwards. The adapter's weight does not scale
    /// the classifier.
    ///
    /// # Errors
    /// Those of [`prefill`](Self::prefill) and [`classifier`](Self::classifier); [`Error::Length`]
    /// if `logits` has not one place per label; then nothing changed. [`Error::CacheOverflow`] as
    /// of [`logits`](Self::logits), when the tokens have been appended; [`Error::Device`].
    pub fn classify(&mut self, sequence: usize, tokens: &[u32], logits: &mut [f32]) -> Result<()> {
        self.runner.alive()?;
        self.check_tokens(sequence, tokens)?;
        let need = self.classifier(sequence)?.len();
        if logits.len() != need {
            return Err(Error::Length { have: logits.len(), need });
        }
        let first = self.feed_all(sequence, tokens);
        let mut row = [Segment { first, rows: 1, sequence }];
        self.runner.classify(&mut row, &self.selection, logits)?;
        self.runner.check(sequence, self.position(sequence)?, logits)
    }

    /// Chooses the next token of a sequence; does not append it.
    ///
    /// # Errors
    /// Those of [`logits`](Self::logits) and [`Sampler::sample`].
    pub fn sample(&mut self, sequence: usize, sampler: &mut Sampler) -> Result<u32> {
        self.sample_from(sequence, sampler, None)
    }

    /// Forgets all but the first `length` tokens of a sequence, whose keys and values stay: prompts
    /// that begin alike are computed once. There are no logits until more tokens come.
    ///
    /// # Errors
    /// [`Error::NoSuchSequence`]; [`Error::Length`] if the sequence has fewer tokens.
    pub fn rewind(&mut self, sequence: usize, length: usize) -> Result<()> {
        self.cut(sequence, length)
    }

    /// Makes sequence `to` begin with the first `length` tokens of `from`, under the same adapters:
    /// their keys and values are copied, so that a prompt that several requests share is computed
    /// once. What `to` held is forgotten. There are no logits until more tokens come.
    ///
    /// # Errors
    /// [`Error::NoSuchSequence`]; [`Error::DuplicateSequence`] if the two are one;
    /// [`Error::Length`] if `from` has fewer tokens; then nothing changed. [`Error::Device`] where one
    /// fails.
    pub fn fork(&mut self, from: usize, to: usize, length: usize) -> Result<()> {
        self.copy_books(from, to, length)?;
        self.runner.copy(from, to, length);
        self.runner.alive()
    }

    /// The tokens of a sequence.
    ///
    /// # Errors
    /// [`Error::NoSuchSequence`].
    pub fn tokens(&self, sequence: usize) -> Result<&[u32]> {
        self.kept_tokens(sequence)
    }

    /// How many more tokens a sequence can take.
    ///
    /// # Errors
    /// [`Error::NoSuchSequence`].
    pub fn room(&self, sequence: usize) -> Result<usize> {
        Ok(self.limits().context - self.position(sequence)?)
    }

    /// The limits it was made for.
    pub fn limits(&self) -> &Limits {
        self.runner.limits()
    }
}
