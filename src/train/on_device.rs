//! Asking a model that is on an NVIDIA GPU, as `evaluate` asks one on the CPU.

use std::sync::Arc;

use super::TrainError;
use super::data::Dataset;
use super::evaluate::{
    Batches, Listener, Measures, classify_by, measure_by, measure_sequences, with_adapters,
};
use crate::cuda::{CudaError, Device, EncoderModel, Model};
use crate::error::Error;
use crate::exec::Executor;
use crate::kernel::Precision;
use crate::model::AnyBase;
use crate::model::bert::train::{measure_limits as encoder_limits, measure_texts};
use crate::model::llama::train::measure_limits;
use crate::runtime::{CudaEncoder, CudaSession, Memory};

/// A base on a device that is measured there, or says which labels texts have.
#[derive(Debug)]
pub enum DeviceBase<'m> {
    /// A decoder.
    Llama(Model<'m>),
    /// An encoder.
    Bert(EncoderModel<'m>),
}

/// The driver's words in place of a device that has failed.
fn told(error: TrainError, failure: Option<&CudaError>) -> TrainError {
    match (error, failure) {
        (TrainError::Core(Error::Device), Some(failure)) => failure.clone().into(),
        (error, _) => error,
    }
}

impl From<CudaError> for TrainError {
    fn from(error: CudaError) -> Self {
        Self::options(error.to_string())
    }
}

impl<'m> DeviceBase<'m> {
    /// Copies a base to the device.
    ///
    /// # Errors
    /// Those of [`Model::upload`]; families that run on the CPU only.
    pub fn upload(device: &Arc<Device>, base: AnyBase<'m>) -> Result<Self, TrainError> {
        match base {
            AnyBase::Llama(model) => Ok(Self::Llama(Model::upload(device, model)?)),
            AnyBase::Bert(model) => Ok(Self::Bert(EncoderModel::upload(device, model)?)),
            AnyBase::Lstm(_) | AnyBase::Mlp(_) => {
                Err(TrainError::options("LSTM and MLP bases run on the CPU only"))
            }
        }
    }

    /// As [`evaluate`](super::evaluate()).
    ///
    /// # Errors
    /// Those of [`evaluate`](super::evaluate()), and what the driver says.
    pub fn evaluate(
        &self,
        adapters: &[(&'m [u8], f32)],
        data: &Dataset<'_>,
        executor: &dyn Executor,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Measures, TrainError> {
        let ask = |batches: &mut Batches<'_>, listener: &mut dyn Listener| {
            self.ask(adapters, data.longest(), batches, listener)
        };
        measure_by(data, executor, progress, ask)
    }

    /// As [`classify`](super::classify()).
    ///
    /// # Errors
    /// Those of [`classify`](super::classify()), and what the driver says.
    pub fn classify(
        &self,
        adapters: &[(&'m [u8], f32)],
        texts: &[Vec<u32>],
    ) -> Result<Vec<Vec<f32>>, TrainError> {
        let longest = texts.iter().map(Vec::len).max().unwrap_or(0);
        classify_by(texts, |batches, listener| self.ask(adapters, longest, batches, listener))
    }

    fn ask(
        &self,
        adapters: &[(&'m [u8], f32)],
        longest: usize,
        batches: &mut Batches<'_>,
        listener: &mut dyn Listener,
    ) -> Result<(), TrainError> {
        let exact = Precision::Exact;
        match self {
            Self::Llama(model) => with_adapters(model.llama(), adapters, |set, choices, rank| {
                let limits = measure_limits(longest, exact, 1, choices.len(), rank);
                let mut memory = Memory::new(CudaSession::need(model.llama().config(), &limits));
                let mut session = CudaSession::new(model, &limits, memory.as_mut())?;
                session.select(0, set, choices)?;
                let asked = measure_sequences(
                    &mut session,
                    batches,
                    listener,
                    |session, tokens, class, listener| {
                        let mut logits = vec![0.0; session.classifier(0)?.len()];
                        session.classify(0, tokens, &mut logits)?;
                        listener.class(&logits, class)
                    },
                );
                asked.map_err(|error| told(error, session.device_error()))
            }),
            Self::Bert(model) => with_adapters(model.bert(), adapters, |set, choices, rank| {
                let limits = encoder_limits(longest, exact, 1, choices.len(), rank);
                let mut memory = Memory::new(CudaEncoder::need(&limits));
                let mut encoder = CudaEncoder::new(model, &limits, memory.as_mut())?;
                let asked = measure_texts(&mut encoder, set, choices, batches, listener);
                asked.map_err(|error| told(error, encoder.device_error()))
            }),
        }
    }
}
