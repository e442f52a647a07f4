//! A predictor: rows of features in, outputs and labels out, each row under its own adapters.
//!
//! All memory is the caller's and taken at the start; nothing here allocates.

use super::limits::check_common;
use super::{KvFormat, Need};
use crate::adapter::{Choice, Classifier, Handle, Resolve, Rules, Selection};
use crate::error::{Error, Result};
use crate::exec::Executor;
use crate::kernel::Precision;
use crate::model::mlp::{Config, Mlp, forward};
use crate::nn::{Engine, Segment, Size};
use crate::tensor::workspace::{Pointers, Workspace, times, workspace};

/// What a predictor must have room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PredictorLimits {
    /// Rows of features computed at once.
    pub batch: usize,
    /// How products treat their activations. Default: [`Precision::Exact`].
    pub precision: Precision,
    /// Parts that products are split into. Default: 1; with [`for_executor`](Self::for_executor) the
    /// executor's [`threads`](Executor::threads). With 1 everything is serial, whatever the executor.
    pub threads: usize,
    /// Adapters that one row can have at a time. Default: 2.
    pub max_active: usize,
    /// The sum of their ranks. Default: 64.
    pub max_total_rank: usize,
}

impl PredictorLimits {
    /// `batch` rows on all threads of `executor`; otherwise as [`new`](Self::new).
    pub fn for_executor(batch: usize, executor: &dyn Executor) -> Self {
        Self { threads: executor.threads(), ..Self::new(batch) }
    }

    /// `batch` rows, exact and serial, with up to two adapters of rank 64 together.
    pub const fn new(batch: usize) -> Self {
        Self { batch, precision: Precision::Exact, threads: 1, max_active: 2, max_total_rank: 64 }
    }

    /// Checks the limits.
    ///
    /// # Errors
    /// [`Error::Limit`] with the field, the number and the most that is allowed.
    pub fn check(&self) -> Result<()> {
        check_common(self.batch, self.threads, self.max_active, self.max_total_rank)
    }

    /// What passes must have room for.
    const fn size(&self) -> Size {
        Size {
            rows: self.batch,
            batch: self.batch,
            context: 0,
            threads: self.threads,
            max_total_rank: self.max_total_rank,
            precision: self.precision,
            kv_format: KvFormat::F32,
        }
    }
}

workspace! {
    /// What a predictor keeps of a batch of rows.
    struct Rows<'w, 'm>(size: &Size, max_active: usize, outputs: usize) {
        /// `[batch, max_active]`.
        active: [Handle<'m>; times(size.batch, max_active)] = None,
        segments: [Segment; size.batch] = Segment::default(),
        /// `[batch, outputs]`.
        outputs: [f32; times(size.batch, outputs)],
    }
}

/// The workspace that a predictor over a model with `config` needs under `limits`. Exact: one byte
/// less is an error.
pub const fn predictor_need(config: &Config, limits: &PredictorLimits) -> Need {
    let (size, here) = (limits.size(), Pointers::Here);
    let rows = Rows::bytes(&size, limits.max_active, config.outputs, here);
    let bytes = rows.saturating_add(forward::Buffers::bytes(config, &size, here));
    Need { bytes, kv_bytes: 0 }
}

/// Runs rows of features through a multilayer perceptron, in memory that the caller lends for `'w`;
/// model and adapters live for `'m`.
///
/// Row i of a batch is sequence i: it uses the adapters that were chosen for that number.
///
/// ```
/// # use lowrank::{model::mlp::Mlp, runtime::*};
/// # fn predict(archive: &[u8], memory: &mut [u8]) -> Result<(), lowrank::Error> {
/// let model = Mlp::open(archive)?;
/// let mut predictor = Predictor::new(model, &PredictorLimits::new(2), memory, &Serial)?;
/// predictor.infer(&[5.1, 3.5, 1.4, 0.2, 6.2, 2.9, 4.3, 1.3])?;
/// let second: &[f32] = predictor.outputs(1)?;
/// # Ok(()) }
/// ```
pub struct Predictor<'w, 'm> {
    model: Mlp<'m>,
    limits: PredictorLimits,
    engine: Engine<'w>,
    buffers: forward::Buffers<'w>,
    /// `[batch, outputs]`; the first `rows` are valid.
    outputs: &'w mut [f32],
    rows: usize,
    selection: Selection<'w, 'm>,
    segments: &'w mut [Segment],
}

impl core::fmt::Debug for Predictor<'_, '_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Predictor")
            .field("model", &self.model)
            .field("rows", &self.rows)
            .finish_non_exhaustive()
    }
}

impl<'w, 'm> Predictor<'w, 'm> {
    /// A predictor over `memory`, which starts on a 64-byte boundary and has at least
    /// [`predictor_need`] bytes; what it holds does not matter.
    ///
    /// # Errors
    /// [`Error::Limit`], [`Error::Misaligned`], [`Error::WorkspaceTooSmall`].
    pub fn new(
        model: Mlp<'m>,
        limits: &PredictorLimits,
        memory: &'w mut [u8],
        executor: &'w dyn Executor,
    ) -> Result<Self> {
        limits.check()?;
        let config = model.config();
        let mut w = Workspace::new(memory, predictor_need(config, limits).bytes)?;
        let size = limits.size();
        let buffers = forward::Buffers::carve(&mut w, config, &size);
        let Rows { active, segments, outputs } =
            Rows::carve(&mut w, &size, limits.max_active, config.outputs);
        Ok(Self {
            buffers,
            outputs,
            rows: 0,
            selection: Selection::new(
                active,
                Rules {
                    base: model.fingerprint(),
                    batch: limits.batch,
                    max_active: limits.max_active,
                    max_total_rank: limits.max_total_rank,
                },
            ),
            segments,
            limits: *limits,
            engine: Engine::new(executor, limits.threads, limits.max_active),
            model,
        })
    }

    /// Chooses the adapters of row `sequence` for the batches to come; what was computed is
    /// forgotten. The predictor keeps the handles: later swaps in `set` do not touch it.
    ///
    /// # Errors
    /// [`Error::NoSuchSequence`], [`Error::OtherBase`], [`Error::TooManyActive`],
    /// [`Error::TotalRank`], and those of [`Resolve::resolve`]. The previous selection then
    /// stays.
    pub fn select(
        &mut self,
        sequence: usize,
        set: &impl Resolve<'m>,
        choices: &[Choice],
    ) -> Result<()> {
        self.selection.check(sequence, set, choices)?;
        self.rows = 0;
        self.selection.choose(sequence, set, choices)
    }

    /// Computes the outputs of some rows: features `[rows, inputs]`. A feature that is not finite
    /// gives outputs that are not.
    ///
    /// # Errors
    /// [`Error::Length`] for no rows, a part of one, or more than the batch; nothing is computed
    /// then.
    pub fn infer(&mut self, features: &[f32]) -> Result<()> {
        self.rows = 0;
        let (inputs, outputs) = (self.model.config().inputs, self.model.config().outputs);
        let (have, rows) = (features.len(), features.len() / inputs);
        if rows == 0 || !have.is_multiple_of(inputs) || rows > self.limits.batch {
            return Err(Error::Length { have, need: rows.clamp(1, self.limits.batch) * inputs });
        }
        for (sequence, segment) in self.segments[..rows].iter_mut().enumerate() {
            *segment = Segment { first: sequence, rows: 1, sequence };
        }
        let pass = self.engine.pass(&self.segments[..rows], self.selection.handles());
        forward::run(
            &self.model,
            &pass,
            features,
            &mut self.buffers,
            &mut self.outputs[..rows * outputs],
        );
        self.rows = rows;
        Ok(())
    }

    /// The outputs of a row, `[outputs]`: the last layer as it is, one logit per label if the base
    /// has label names.
    ///
    /// # Errors
    /// [`Error::NotComputed`].
    pub fn outputs(&self, sequence: usize) -> Result<&[f32]> {
        self.check(sequence)?;
        let outputs = self.model.config().outputs;
        Ok(&self.outputs[sequence * outputs..][..outputs])
    }

    /// What the last layer read of a row, `[dim]`: what classifiers of adapters read too.
    ///
    /// # Errors
    /// [`Error::NotComputed`].
    pub fn hidden(&self, sequence: usize) -> Result<&[f32]> {
        self.check(sequence)?;
        let dim = self.model.config().dim;
        Ok(&self.buffers.x[sequence * dim..][..dim])
    }

    /// The classifier of a row: that of the one adapter among its active ones which brings one.
    ///
    /// # Errors
    /// [`Error::NoSuchSequence`], [`Error::Classifiers`].
    pub fn classifier(&self, sequence: usize) -> Result<Classifier<'_>> {
        self.selection.classifier(sequence)
    }

    /// The logit of each label of the adapter's classifier into `logits`, `[labels]`. It takes the
    /// place of the last layer; the adapter's weight does not scale it.
    ///
    /// # Errors
    /// [`Error::NotComputed`], [`Error::Classifiers`], [`Error::Length`] if `logits` has not one
    /// place per label.
    pub fn classify(&mut self, sequence: usize, logits: &mut [f32]) -> Result<()> {
        self.check(sequence)?;
        let classifier = self.selection.classifier(sequence)?;
        if logits.len() != classifier.len() {
            return Err(Error::Length { have: logits.len(), need: classifier.len() });
        }
        let one = [Segment { first: 0, rows: 1, sequence }];
        let pass = self.engine.pass(&one, self.selection.handles());
        let dim = self.model.config().dim;
        classifier.linear().forward(
            &pass,
            &self.buffers.x[sequence * dim..][..dim],
            logits,
            &mut self.buffers.scratch,
        );
        Ok(())
    }

    /// The model.
    pub fn model(&self) -> &Mlp<'m> {
        &self.model
    }

    /// The limits it was made for.
    pub fn limits(&self) -> &PredictorLimits {
        &self.limits
    }

    fn check(&self, sequence: usize) -> Result<()> {
        if sequence < self.rows {
            Ok(())
        } else {
            Err(Error::NotComputed { row: sequence, rows: self.rows })
        }
    }
}
