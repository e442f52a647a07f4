//! Encoders on the CPU.

use core::ops::Range;

use super::runner::Encode;
use super::texts::Texts;
use super::{EncoderLimits, encoder_need};
use crate::adapter::{Handle, Selection};
use crate::error::Result;
use crate::exec::Executor;
use crate::model::bert::{Bert, Pooling, Site, forward};
use crate::nn::{Engine, Linear, Segment};
use crate::tensor::math;
use crate::tensor::workspace::Workspace;

/// Encodes texts with a BERT-family base, in memory that the caller lends for `'w`; model and
/// adapters live for `'m`.
///
/// Text i of a batch is sequence i: it uses the adapters that were chosen for that number.
///
/// ```
/// # use lowrank::{model::bert::Bert, runtime::*};
/// # fn embed(archive: &[u8], memory: &mut [u8]) -> Result<(), lowrank::Error> {
/// let model = Bert::open(archive)?;
/// let limits = EncoderLimits { batch: 2, tokens: 256, ..EncoderLimits::new(128) };
/// let mut encoder = Encoder::new(model, &limits, memory, &Serial)?;
/// encoder.encode(&[&[101, 7592, 102], &[101, 2088, 102]])?;
/// let vector: &[f32] = encoder.embedding(1)?;
/// # Ok(()) }
/// ```
pub type Encoder<'w, 'm> = Texts<'w, 'm, BertCpu<'w, 'm>>;

/// An encoder with its working buffers.
pub struct BertCpu<'w, 'm> {
    model: Bert<'m>,
    engine: Engine<'w>,
    buffers: forward::Buffers<'w>,
}

impl<'w, 'm> Encoder<'w, 'm> {
    /// An encoder over `memory`, which starts on a 64-byte boundary and has at least
    /// [`encoder_need`] bytes; what it holds does not matter.
    ///
    /// # Errors
    /// [`Error::Limit`](crate::Error::Limit), [`Error::Misaligned`](crate::Error::Misaligned),
    /// [`Error::WorkspaceTooSmall`](crate::Error::WorkspaceTooSmall).
    pub fn new(
        model: Bert<'m>,
        limits: &EncoderLimits,
        memory: &'w mut [u8],
        executor: &'w dyn Executor,
    ) -> Result<Self> {
        let config = model.config();
        limits.check(config)?;
        let mut w = Workspace::new(memory, encoder_need(config, limits).bytes)?;
        Ok(Self::with(BertCpu::carve(model, limits, &mut w, executor), &mut w, limits))
    }
}

fn rows(segments: &[Segment], sequence: usize) -> Range<usize> {
    let Segment { first, rows, .. } = segments[sequence];
    first..first + rows
}

impl<'w, 'm> BertCpu<'w, 'm> {
    /// An encoder with its part of the workspace, under limits that were checked.
    pub(super) fn carve(
        model: Bert<'m>,
        limits: &EncoderLimits,
        w: &mut Workspace<'w>,
        executor: &'w dyn Executor,
    ) -> Self {
        let buffers = forward::Buffers::carve(w, model.config(), &limits.size());
        let engine = Engine::new(executor, limits.threads, limits.max_active);
        Self { model, engine, buffers }
    }

    /// A text's vector into `buffers.pooled`.
    fn pool(
        &mut self,
        segments: &[Segment],
        sequence: usize,
        pooling: (Pooling, Option<Linear<'_>>),
        active: &[Handle<'_>],
    ) -> Result<()> {
        let one = [Segment { first: 0, rows: 1, sequence }];
        let pass = self.engine.pass(&one, active);
        forward::pool(&self.model, &pass, pooling, rows(segments, sequence), &mut self.buffers)
    }
}

impl<'m> Encode<'m> for BertCpu<'_, 'm> {
    fn model(&self) -> &Bert<'m> {
        &self.model
    }

    fn encode(
        &mut self,
        tokens: &[u32],
        types: &[u32],
        segments: &[Segment],
        active: &[Handle<'_>],
    ) -> Result<()> {
        let pass = self.engine.pass(segments, active);
        forward::encode(&self.model, &pass, tokens, types, &mut self.buffers);
        Ok(())
    }

    fn hidden(&self, segments: &[Segment], sequence: usize) -> Result<&[f32]> {
        let (rows, dim) = (rows(segments, sequence), self.model.config().dim);
        Ok(&self.buffers.x[rows.start * dim..rows.end * dim])
    }

    fn vector(
        &mut self,
        segments: &[Segment],
        sequence: usize,
        (pooling, normalize): (Pooling, bool),
        active: &[Handle<'_>],
    ) -> Result<&[f32]> {
        self.pool(segments, sequence, (pooling, self.model.pooler()), active)?;
        let pooled = &mut *self.buffers.pooled;
        if normalize {
            // As torch.nn.functional.normalize: a vector of zeros stays one.
            let length = math::sqrt(self.engine.kernels.dot(pooled, pooled)).max(1e-12);
            pooled.iter_mut().for_each(|value| *value /= length);
        }
        Ok(pooled)
    }

    fn classify(
        &mut self,
        segments: &[Segment],
        sequence: usize,
        selection: &Selection<'_, '_>,
        logits: &mut [f32],
    ) -> Result<()> {
        let pooling = match selection.pooler(sequence) {
            Some((weight, bias)) => {
                let site = Site::Pooler.number(self.model.config().layers);
                (Pooling::Pooler, Some(Linear { weight, bias, site }))
            }
            None => (self.model.classifier_pooling(), self.model.pooler()),
        };
        self.pool(segments, sequence, pooling, selection.handles())?;
        let one = [Segment { first: 0, rows: 1, sequence }];
        let pass = self.engine.pass(&one, selection.handles());
        let classifier = selection.classifier(sequence)?;
        classifier.linear().forward(&pass, self.buffers.pooled, logits, &mut self.buffers.scratch);
        Ok(())
    }
}
