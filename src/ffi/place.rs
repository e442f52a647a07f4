//! Where the sessions and encoders of the C interface run: on the CPU, or on a card in libraries with
//! `cuda`.

use super::executor::Callback;
use super::failure::{Outcome, Refusal};
use super::limits::{LOWRANK_DEVICE_CPU, LOWRANK_DEVICE_CUDA};
use crate::model::{bert, llama};
use crate::runtime::{EncoderLimits, Limits, Need};

#[cfg(feature = "cuda")]
pub(super) use crate::runtime::{AnyEncoder as Encoder, AnySession as Session};
#[cfg(not(feature = "cuda"))]
pub(super) use crate::runtime::{Encoder, Session};

/// Limits, and where what has them runs.
pub(super) struct Placed<L> {
    limits: L,
    /// The number of a card.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "there is none"))]
    card: Option<u32>,
}

impl<L> Placed<L> {
    /// Refuses constants that are none, in argument `argument`, and places that this library does
    /// not have.
    pub(super) fn new(limits: L, device: u32, card: u32, argument: u32) -> Result<Self, Refusal> {
        let card = match device {
            LOWRANK_DEVICE_CPU => None,
            LOWRANK_DEVICE_CUDA if cfg!(feature = "cuda") => Some(card),
            LOWRANK_DEVICE_CUDA => return Err(Refusal::WithoutCuda { argument }),
            found => return Err(Refusal::UnknownConstant { argument, found }),
        };
        Ok(Self { limits, card })
    }
}

/// What a library makes of limits and their place.
macro_rules! places {
    ($Limits:ident, $Model:ident, $Object:ident, $family:ident, $need:path) => {
        impl Placed<$Limits> {
            #[cfg(not(feature = "cuda"))]
            pub(super) fn need(&self, config: &$family::Config) -> crate::Result<Need> {
                self.limits.check(config)?;
                Ok($need(config, &self.limits))
            }

            #[cfg(feature = "cuda")]
            pub(super) fn need(&self, config: &$family::Config) -> crate::Result<Need> {
                $Object::need(config, &self.limits, self.card.is_some())
            }

            pub(super) fn open(
                &self,
                model: $family::$Model<'static>,
                memory: &'static mut [u8],
                executor: &'static Callback,
            ) -> Outcome<$Object<'static, 'static>> {
                #[cfg(not(feature = "cuda"))]
                return Ok($Object::new(model, &self.limits, memory, executor)?);
                #[cfg(feature = "cuda")]
                match self.card {
                    None => Ok($Object::on_cpu(model, &self.limits, memory, executor)?),
                    Some(card) => {
                        card::check(self.limits.precision)?;
                        // What fits nowhere is no fault of the card.
                        let bytes = self.need(model.config())?.bytes;
                        crate::tensor::workspace::Workspace::new(memory, bytes)?;
                        let model = card::copy(card, &model)?;
                        Ok($Object::on_device(model, &self.limits, memory)?)
                    }
                }
            }
        }
    };
}

places!(Limits, Llama, Session, llama, crate::runtime::need);
places!(EncoderLimits, Bert, Encoder, bert, crate::runtime::encoder_need);

/// What is on the cards: one copy of each archive, as long as a session or encoder uses it.
#[cfg(feature = "cuda")]
mod card {
    use std::sync::{Arc, Mutex, PoisonError, Weak};

    use super::super::failure::{Failure, Outcome};
    use crate::archive::Fingerprint;
    use crate::cuda::{CudaError, Device, EncoderModel, Model};
    use crate::kernel::Precision;
    use crate::model::bert::Bert;
    use crate::model::llama::Llama;

    /// Of each copy the card, where its archive lies, and what that holds.
    type Known<M> = Mutex<Vec<((u32, usize, Fingerprint), Weak<M>)>>;

    static DEVICES: Mutex<Vec<(u32, Weak<Device>)>> = Mutex::new(Vec::new());
    static DECODERS: Known<Model<'static>> = Mutex::new(Vec::new());
    static ENCODERS: Known<EncoderModel<'static>> = Mutex::new(Vec::new());

    /// A base that can be on a card.
    pub(super) trait OnCard: Copy + 'static {
        type Copy: 'static;
        fn known() -> &'static Known<Self::Copy>;
        fn archive(&self) -> (usize, Fingerprint);
        fn upload(self, device: &Arc<Device>) -> Result<Self::Copy, CudaError>;
    }

    macro_rules! on_card {
        ($Base:ident, $Copy:ident, $known:ident) => {
            impl OnCard for $Base<'static> {
                type Copy = $Copy<'static>;

                fn known() -> &'static Known<Self::Copy> {
                    &$known
                }

                fn archive(&self) -> (usize, Fingerprint) {
                    (self.address(), self.fingerprint())
                }

                fn upload(self, device: &Arc<Device>) -> Result<Self::Copy, CudaError> {
                    $Copy::upload(device, self)
                }
            }
        };
    }
    on_card!(Llama, Model, DECODERS);
    on_card!(Bert, EncoderModel, ENCODERS);

    pub(super) fn check(precision: Precision) -> Outcome {
        match precision {
            Precision::Exact => Ok(()),
            Precision::Fast => Err(Failure::Device(
                "a card computes with exact activations: LOWRANK_PRECISION_EXACT".into(),
            )),
        }
    }

    /// What `known` has for `key`, or what `make` makes.
    fn shared<K: PartialEq, M>(
        known: &Mutex<Vec<(K, Weak<M>)>>,
        key: K,
        make: impl FnOnce() -> Result<Arc<M>, CudaError>,
    ) -> Result<Arc<M>, CudaError> {
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(_, kept)| kept.strong_count() > 0);
        let same = known.iter().find(|(of, _)| *of == key);
        if let Some(kept) = same.and_then(|(_, kept)| kept.upgrade()) {
            return Ok(kept);
        }
        let made = make()?;
        known.push((key, Arc::downgrade(&made)));
        Ok(made)
    }

    /// The copy of a base on a card.
    pub(super) fn copy<B: OnCard>(card: u32, base: &B) -> Result<Arc<B::Copy>, CudaError> {
        let (address, fingerprint) = base.archive();
        shared(B::known(), (card, address, fingerprint), || {
            let device = shared(&DEVICES, card, || Device::open(card as usize))?;
            Ok(Arc::new(base.upload(&device)?))
        })
    }
}
