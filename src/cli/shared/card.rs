//! What commands share that run a model on a card: sessions and encoders there. An error of the card
//! is told in the driver's words.

use std::sync::Arc;

use lowrank::adapter::{AdapterSet, Slot};
use lowrank::cuda::{CudaError, Device, EncoderModel, Model};
use lowrank::model::bert::Bert;
use lowrank::model::llama::Llama;
use lowrank::runtime::{CudaEncoder, CudaSession, EncoderLimits, Limits, Memory};

use crate::Failure;
use crate::attach::{OpenAdapter, attach};

/// The driver's words in place of what they led to.
pub(crate) fn told<T>(
    result: Result<T, Failure>,
    failure: Option<&CudaError>,
) -> Result<T, Failure> {
    result.map_err(|error| failure.map_or(error, |failure| failure.clone().into()))
}

/// Calls `use_it` with a session on a card in which `adapters` (with weights) are active in every
/// sequence.
pub(crate) fn with_session<T>(
    card: &Arc<Device>,
    model: Llama<'_>,
    adapters: &[OpenAdapter],
    limits: Limits,
    use_it: impl FnOnce(&mut CudaSession<'_, '_>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let mut slots = vec![Slot::EMPTY; adapters.len()];
    let mut set = AdapterSet::new(&mut slots, &model);
    let attached = attach(&mut set, adapters)?;
    let limits = Limits { max_active: adapters.len(), max_total_rank: attached.rank, ..limits };
    let mut memory = Memory::try_new(CudaSession::need(model.config(), &limits))?;
    let model = Model::upload(card, model)?;
    let mut session = CudaSession::new(&model, &limits, memory.as_mut())?;
    for sequence in 0..limits.batch {
        session.select(sequence, &set, &attached.choices)?;
    }
    let result = use_it(&mut session);
    told(result, session.device_error())
}

/// The same with an encoder.
pub(crate) fn with_encoder<T>(
    card: &Arc<Device>,
    model: Bert<'_>,
    adapters: &[OpenAdapter],
    limits: EncoderLimits,
    use_it: impl FnOnce(&mut CudaEncoder<'_, '_>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let mut slots = vec![Slot::EMPTY; adapters.len()];
    let mut set = AdapterSet::new(&mut slots, &model);
    let attached = attach(&mut set, adapters)?;
    let limits =
        EncoderLimits { max_active: adapters.len(), max_total_rank: attached.rank, ..limits };
    let mut memory = Memory::try_new(CudaEncoder::need(&limits))?;
    let model = EncoderModel::upload(card, model)?;
    let mut encoder = CudaEncoder::new(&model, &limits, memory.as_mut())?;
    for sequence in 0..limits.batch {
        encoder.select(sequence, &set, &attached.choices)?;
    }
    let result = use_it(&mut encoder);
    told(result, encoder.device_error())
}
