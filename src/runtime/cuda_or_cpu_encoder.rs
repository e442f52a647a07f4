//! Encoders that are on a device or on the CPU: which, is known at run time. For the C interface, whose
//! encoders are of one type.

use std::sync::Arc;

use super::cuda::Held;
use super::cuda_encoder::BertCuda;
use super::encoder::BertCpu;
use super::runner::Encode;
use super::texts::Texts;
use super::{CudaEncoder, EncoderLimits, Need, encoder_need};
use crate::adapter::{Handle, Selection};
use crate::cuda::{CudaError, EncoderModel};
use crate::error::Result;
use crate::exec::Executor;
use crate::model::bert::{Bert, Config, Pooling};
use crate::nn::Segment;
use crate::tensor::workspace::Workspace;

/// An encoder on a device or on the CPU.
pub(crate) type AnyEncoder<'w, 'm> = Texts<'w, 'm, BertAny<'w, 'm>>;

/// What runs it.
pub(crate) enum BertAny<'w, 'm> {
    Cpu(BertCpu<'w, 'm>),
    Cuda(BertCuda<'w, 'm>),
}

macro_rules! either {
    ($any:expr, $runner:ident => $use:expr) => {
        match $any {
            BertAny::Cpu($runner) => $use,
            BertAny::Cuda($runner) => $use,
        }
    };
}

impl<'m> Encode<'m> for BertAny<'_, 'm> {
    fn model(&self) -> &Bert<'m> {
        either!(self, runner => runner.model())
    }

    fn encode(
        &mut self,
        tokens: &[u32],
        types: &[u32],
        segments: &[Segment],
        active: &[Handle<'_>],
    ) -> Result<()> {
        either!(self, runner => runner.encode(tokens, types, segments, active))
    }

    fn hidden(&self, segments: &[Segment], sequence: usize) -> Result<&[f32]> {
        either!(self, runner => runner.hidden(segments, sequence))
    }

    fn vector(
        &mut self,
        segments: &[Segment],
        sequence: usize,
        pooling: (Pooling, bool),
        active: &[Handle<'_>],
    ) -> Result<&[f32]> {
        either!(self, runner => runner.vector(segments, sequence, pooling, active))
    }

    fn classify(
        &mut self,
        segments: &[Segment],
        sequence: usize,
        selection: &Selection<'_, '_>,
        logits: &mut [f32],
    ) -> Result<()> {
        either!(self, runner => runner.classify(segments, sequence, selection, logits))
    }
}

impl<'w, 'm> AnyEncoder<'w, 'm> {
    /// The workspace of such an encoder; refuses limits that the model does not allow.
    pub(crate) fn need(config: &Config, limits: &EncoderLimits, on_device: bool) -> Result<Need> {
        limits.check(config)?;
        Ok(if on_device { CudaEncoder::need(limits) } else { encoder_need(config, limits) })
    }

    /// An encoder on the CPU.
    pub(crate) fn on_cpu(
        model: Bert<'m>,
        limits: &EncoderLimits,
        memory: &'w mut [u8],
        executor: &'w dyn Executor,
    ) -> Result<Self> {
        let bytes = Self::need(model.config(), limits, false)?.bytes;
        let mut w = Workspace::new(memory, bytes)?;
        let runner = BertCpu::carve(model, limits, &mut w, executor);
        Ok(Self::with(BertAny::Cpu(runner), &mut w, limits))
    }

    /// An encoder on a device, which keeps the model.
    pub(crate) fn on_device(
        model: Arc<EncoderModel<'m>>,
        limits: &EncoderLimits,
        memory: &'w mut [u8],
    ) -> Result<Self, CudaError> {
        let bytes = Self::need(model.bert().config(), limits, true)?.bytes;
        let mut w = Workspace::new(memory, bytes)?;
        let runner = BertCuda::new(Held::Shared(model), limits)?;
        Ok(Self::with(BertAny::Cuda(runner), &mut w, limits))
    }

    /// The driver's words about what ended the encoder, if something did.
    pub(crate) fn device_error(&self) -> Option<&CudaError> {
        match &self.runner {
            BertAny::Cuda(runner) => runner.failure(),
            BertAny::Cpu(_) => None,
        }
    }
}
