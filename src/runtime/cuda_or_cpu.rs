//! Sessions over decoders that are on a device or on the CPU: which, is known at run time. For the C
//! interface, whose sessions are of one type.

use std::sync::Arc;

use super::cuda::{LlamaCuda, check_on_device};
use super::runner::Runner;
use super::sequences::Sequences;
use super::session::{Decoder, LlamaCpu, of};
use super::{CudaSession, Limits, Need, need};
use crate::adapter::{Handle, Selection};
use crate::archive::Fingerprint;
use crate::cuda::{CudaError, Model};
use crate::error::Result;
use crate::exec::Executor;
use crate::model::llama::{Config, Llama};
use crate::nn::Segment;
use crate::tensor::workspace::Workspace;

/// A session on a device or on the CPU.
pub(crate) type AnySession<'w, 'm> = Sequences<'w, 'm, LlamaAny<'w, 'm>>;

/// A decoder on a device or on the CPU.
pub(crate) enum LlamaAny<'w, 'm> {
    Cpu(LlamaCpu<'w, 'm>),
    Cuda(LlamaCuda<'w, 'm>),
}

macro_rules! either {
    ($any:expr, $runner:ident => $use:expr) => {
        match $any {
            LlamaAny::Cpu($runner) => $use,
            LlamaAny::Cuda($runner) => $use,
        }
    };
}

impl<'m> Runner for LlamaAny<'_, 'm> {
    type Model = Llama<'m>;

    fn model(&self) -> &Llama<'m> {
        either!(self, runner => runner.model())
    }

    fn fingerprint(&self) -> Fingerprint {
        either!(self, runner => runner.fingerprint())
    }

    fn vocab(&self) -> usize {
        either!(self, runner => runner.vocab())
    }

    fn outputs(&self) -> usize {
        either!(self, runner => runner.outputs())
    }

    fn run(
        &mut self,
        tokens: &[u32],
        positions: &[usize],
        segments: &[Segment],
        active: &[Handle<'_>],
    ) {
        either!(self, runner => runner.run(tokens, positions, segments, active));
    }

    fn logits(&mut self, segments: &mut [Segment], active: &[Handle<'_>], out: &mut [f32]) {
        either!(self, runner => runner.logits(segments, active, out));
    }

    fn check(&self, sequence: usize, seen: usize, logits: &[f32]) -> Result<()> {
        either!(self, runner => runner.check(sequence, seen, logits))
    }

    fn forget(&mut self, sequence: usize) {
        either!(self, runner => runner.forget(sequence));
    }

    fn alive(&self) -> Result<()> {
        either!(self, runner => runner.alive())
    }
}

impl Decoder for LlamaAny<'_, '_> {
    fn limits(&self) -> &Limits {
        either!(self, runner => runner.limits())
    }

    fn copy(&mut self, from: usize, to: usize, length: usize) {
        either!(self, runner => runner.copy(from, to, length));
    }

    fn classify(
        &mut self,
        row: &mut [Segment; 1],
        selection: &Selection<'_, '_>,
        logits: &mut [f32],
    ) -> Result<()> {
        either!(self, runner => runner.classify(row, selection, logits))
    }
}

impl<'w, 'm> AnySession<'w, 'm> {
    /// The workspace of such a session; refuses limits that the model does not allow.
    pub(crate) fn need(config: &Config, limits: &Limits, on_device: bool) -> Result<Need> {
        if on_device {
            check_on_device(config, limits)?;
            return Ok(CudaSession::need(config, limits));
        }
        limits.check(config)?;
        Ok(need(config, limits))
    }

    /// A session on the CPU.
    pub(crate) fn on_cpu(
        model: Llama<'m>,
        limits: &Limits,
        memory: &'w mut [u8],
        executor: &'w dyn Executor,
    ) -> Result<Self> {
        let bytes = Self::need(model.config(), limits, false)?.bytes;
        let mut w = Workspace::new(memory, bytes)?;
        let runner = LlamaCpu::carve(model, limits, &mut w, executor);
        Ok(of(LlamaAny::Cpu(runner), &mut w, limits))
    }

    /// A session on a device, which keeps the model.
    pub(crate) fn on_device(
        model: Arc<Model<'m>>,
        limits: &Limits,
        memory: &'w mut [u8],
    ) -> Result<Self, CudaError> {
        let bytes = Self::need(model.llama().config(), limits, true)?.bytes;
        let mut w = Workspace::new(memory, bytes)?;
        Ok(of(LlamaAny::Cuda(LlamaCuda::shared(model, limits)?), &mut w, limits))
    }

    /// The driver's words about what ended the session, if something did.
    pub(crate) fn device_error(&self) -> Option<&CudaError> {
        match &self.runner {
            LlamaAny::Cuda(runner) => runner.failure(),
            LlamaAny::Cpu(_) => None,
        }
    }
}
