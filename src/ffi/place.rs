//! Where the sessions of the C interface run: on the CPU, or on a card in libraries with `cuda`.

use super::executor::Callback;
use super::failure::{Outcome, Refusal};
use super::limits::{LOWRANK_DEVICE_CPU, LOWRANK_DEVICE_CUDA, lowrank_limits, to_limits};
use crate::model::llama::{Config, Llama};
use crate::runtime::{Limits, Need};

#[cfg(feature = "cuda")]
pub(super) use crate::runtime::AnySession as Session;
#[cfg(not(feature = "cuda"))]
pub(super) use crate::runtime::Session;

/// The limits of a session and where it runs.
pub(super) struct Placed {
    limits: Limits,
    /// The number of a card.
    card: Option<u32>,
}

impl Placed {
    /// Refuses constants that are none, in argument `argument`, and places that this library does
    /// not have.
    pub(super) fn new(c: &lowrank_limits, argument: u32) -> Result<Self, Refusal> {
        let card = match c.device {
            LOWRANK_DEVICE_CPU => None,
            LOWRANK_DEVICE_CUDA if cfg!(feature = "cuda") => Some(c.card),
            LOWRANK_DEVICE_CUDA => return Err(Refusal::WithoutCuda { argument }),
            found => return Err(Refusal::UnknownConstant { argument, found }),
        };
        Ok(Self { limits: to_limits(c, argument)?, card })
    }
}

#[cfg(not(feature = "cuda"))]
impl Placed {
    pub(super) fn need(&self, config: &Config) -> crate::Result<Need> {
        let _ = self.card;
        self.limits.check(config)?;
        Ok(crate::runtime::need(config, &self.limits))
    }

    pub(super) fn open(
        &self,
        model: Llama<'static>,
        memory: &'static mut [u8],
        executor: &'static Callback,
    ) -> Outcome<Session<'static, 'static>> {
        Ok(Session::new(model, &self.limits, memory, executor)?)
    }
}

#[cfg(feature = "cuda")]
impl Placed {
    pub(super) fn need(&self, config: &Config) -> crate::Result<Need> {
        Session::need(config, &self.limits, self.card.is_some())
    }

    pub(super) fn open(
        &self,
        model: Llama<'static>,
        memory: &'static mut [u8],
        executor: &'static Callback,
    ) -> Outcome<Session<'static, 'static>> {
        use crate::kernel::Precision;
        let Some(card) = self.card else {
            return Ok(Session::on_cpu(model, &self.limits, memory, executor)?);
        };
        if self.limits.precision == Precision::Fast {
            let text = "a card computes with exact activations: LOWRANK_PRECISION_EXACT";
            return Err(super::failure::Failure::Device(text.into()));
        }
        // What fits nowhere is no fault of the card.
        let bytes = self.need(model.config())?.bytes;
        crate::tensor::workspace::Workspace::new(memory, bytes)?;
        Ok(Session::on_device(card::model(card, model)?, &self.limits, memory)?)
    }
}

/// What is on the cards: one copy of each archive, as long as a session uses it.
#[cfg(feature = "cuda")]
mod card {
    use std::sync::{Arc, Mutex, PoisonError, Weak};

    use crate::cuda::{CudaError, Device, Model};
    use crate::model::llama::Llama;

    /// Of each model the card and where its archive lies.
    type Known = Vec<(u32, usize, Weak<Model<'static>>)>;

    static MODELS: Mutex<Known> = Mutex::new(Vec::new());

    /// The copy of a base on a card.
    pub(super) fn model(
        card: u32,
        llama: Llama<'static>,
    ) -> Result<Arc<Model<'static>>, CudaError> {
        let mut known = MODELS.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(.., model)| model.strong_count() > 0);
        let alive = || known.iter().filter_map(|(at, of, model)| Some((at, of, model.upgrade()?)));
        let fingerprint = llama.fingerprint();
        let same = alive().find(|(at, of, model)| {
            **at == card && **of == llama.address() && model.llama().fingerprint() == fingerprint
        });
        if let Some((.., model)) = same {
            return Ok(model);
        }
        let device =
            alive().find(|(at, ..)| **at == card).map(|(.., model)| Arc::clone(model.device()));
        let device = device.map_or_else(|| Device::open(card as usize), Ok)?;
        let model = Arc::new(Model::upload(&device, llama)?);
        known.push((card, llama.address(), Arc::downgrade(&model)));
        Ok(model)
    }
}
