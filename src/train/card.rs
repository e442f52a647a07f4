//! Training with an NVIDIA GPU: products with frozen weights, and those of low-rank factors beside
//! them, are computed there, in every method and family. All else, the optimizer too, stays on the
//! host, so that a step is the CPU's but for rounding.

use std::sync::{Arc, Mutex, PoisonError};

use super::device::Card;
use super::{TrainError, Trainer};
use crate::cuda::{CudaError, Device, Frozen};
use crate::file::Kind;
use crate::kernel::Precision;
use crate::nn::{FactorGradients, Factors, Linear};

/// The layers of a base on a card, and what went wrong with it first.
struct OnCard {
    frozen: Frozen,
    failure: Mutex<Option<CudaError>>,
}

impl OnCard {
    /// Computes, unless something has failed before.
    fn compute(&self, work: impl FnOnce(&Frozen) -> Result<(), CudaError>) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        if failure.is_none() {
            *failure = work(&self.frozen).err();
        }
    }
}

impl Card for OnCard {
    fn has(&self, site: u32) -> bool {
        self.frozen.has(site)
    }

    fn forward(
        &self,
        linear: &Linear<'_>,
        x: &[f32],
        factors: Option<(Factors<'_>, &mut [f32])>,
        y: &mut [f32],
    ) {
        self.compute(|frozen| frozen.forward(linear, x, factors, y));
    }

    fn backward(
        &self,
        site: u32,
        dy: &[f32],
        factors: Option<FactorGradients<'_>>,
        dx: Option<&mut [f32]>,
    ) {
        self.compute(|frozen| frozen.backward(site, dy, factors, dx));
    }

    fn check(&self) -> Result<(), TrainError> {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.clone().map_or(Ok(()), |failure| Err(failure.into()))
    }
}

impl Trainer<'_> {
    /// Computes products with frozen weights, and what adapters add to them, on an NVIDIA GPU from
    /// now on: forward, backward and the gradients of low-rank factors. The weights of all linear
    /// layers are copied there, once. Validation ([`measure`](Self::measure)) stays on the CPU.
    ///
    /// # Errors
    /// What the driver says, most often that there is too little memory; full fine-tuning, whose
    /// weights are not frozen; `Fast` precision, which the card does not know.
    pub fn use_device(&mut self, device: &Arc<Device>) -> Result<(), TrainError> {
        if self.technique.result() == Kind::Base {
            return Err(TrainError::options(
                "full fine-tuning changes the weights themselves: it runs on the CPU only",
            ));
        }
        if self.options.precision == Precision::Fast {
            return Err(TrainError::options(
                "precision fast: a card computes with exact activations",
            ));
        }
        let base = self.network.base();
        let layer = |site| match base.site(site) {
            // An embedding is looked up, not multiplied with.
            Some((_, _, false)) => self.network.layer_at(site),
            _ => None,
        };
        let layers: Vec<_> = (0..base.sites()).map(layer).collect();
        let frozen = Frozen::upload(device, &layers)?;
        self.card = Some(Box::new(OnCard { frozen, failure: Mutex::default() }));
        Ok(())
    }
}
