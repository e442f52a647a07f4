//! Encoders on an NVIDIA GPU: the books are those of any encoder, the model and its activations are
//! on the device.

use std::sync::OnceLock;

use super::cuda::{Held, classified};
use super::runner::Encode;
use super::texts::{Books, Texts};
use super::{EncoderLimits, Need};
use crate::adapter::{Handle, Selection};
use crate::cuda::{CudaError, EncoderModel, EncoderState, Wanted};
use crate::error::{Error, Result};
use crate::model::bert::{Bert, Pooling};
use crate::nn::Segment;
use crate::tensor::workspace::{Pointers, Workspace};

/// Encodes texts on a device; see [`Encoder`](super::Encoder). The books are in memory that the
/// caller lends for `'w`.
///
/// States stay on the device until [`hidden`](Texts::hidden) asks for them. The vectors of a whole
/// batch come back with the first that is asked for.
///
/// What goes wrong on the device is [`Error::Device`], and [`device_error`](Self::device_error) has
/// the driver's words. After that the encoder gives nothing but this error; encoders on the CPU go
/// on.
pub type CudaEncoder<'w, 'm> = Texts<'w, 'm, BertCuda<'w, 'm>>;

/// An encoder on a device and its memory there.
pub struct BertCuda<'w, 'm> {
    model: Held<'w, EncoderModel<'m>>,
    state: EncoderState,
    /// What ended the encoder.
    failure: OnceLock<CudaError>,
    /// The states of the last batch, `[rows, dim]`, once they were asked for.
    states: OnceLock<Vec<f32>>,
    /// The vectors of the last batch that were asked for last, `[texts, dim]`.
    vectors: Option<(Wanted, Vec<f32>)>,
}

impl<'w, 'm> BertCuda<'w, 'm> {
    pub(super) fn new(
        model: Held<'w, EncoderModel<'m>>,
        limits: &EncoderLimits,
    ) -> Result<Self, CudaError> {
        let state = EncoderState::new(&model, &limits.size(), limits.max_active)?;
        let (failure, states) = (OnceLock::new(), OnceLock::new());
        Ok(Self { model, state, failure, states, vectors: None })
    }

    /// What ended the encoder, if something did.
    pub(super) fn failure(&self) -> Option<&CudaError> {
        self.failure.get()
    }

    /// What the device gives, unless it fails, or did so before.
    fn told<T>(&self, work: impl FnOnce() -> Result<T, CudaError>) -> Result<T> {
        if self.failure.get().is_some() {
            return Err(Error::Device);
        }
        work().map_err(|error| {
            self.failure.get_or_init(|| error);
            Error::Device
        })
    }

    fn vector_of(
        &mut self,
        segments: &[Segment],
        sequence: usize,
        wanted: Wanted,
    ) -> Result<&[f32]> {
        let dim = self.model.bert().config().dim;
        let known = self.vectors.take().filter(|(known, _)| *known == wanted);
        let vectors = match known {
            Some((_, vectors)) => vectors,
            None => self.told(|| self.model.vectors(&self.state, segments, wanted))?,
        };
        let (_, vectors) = self.vectors.insert((wanted, vectors));
        Ok(&vectors[sequence * dim..][..dim])
    }
}

impl<'m> Encode<'m> for BertCuda<'_, 'm> {
    fn model(&self) -> &Bert<'m> {
        self.model.bert()
    }

    fn encode(
        &mut self,
        tokens: &[u32],
        types: &[u32],
        segments: &[Segment],
        active: &[Handle<'_>],
    ) -> Result<()> {
        self.vectors = None;
        self.states.take();
        self.told(|| Ok(()))?;
        let encoded = self.model.encode(&mut self.state, tokens, types, segments, active);
        self.told(|| encoded.and_then(|()| self.model.device().wait()))
    }

    fn hidden(&self, segments: &[Segment], sequence: usize) -> Result<&[f32]> {
        let states = match self.states.get() {
            Some(states) => states,
            None => {
                let rows = segments.iter().map(|segment| segment.rows).sum();
                let states = self.told(|| self.model.hidden(&self.state, rows))?;
                self.states.get_or_init(|| states)
            }
        };
        let (dim, Segment { first, rows, .. }) = (self.model().config().dim, segments[sequence]);
        Ok(&states[first * dim..][..rows * dim])
    }

    fn vector(
        &mut self,
        segments: &[Segment],
        sequence: usize,
        (pooling, normalize): (Pooling, bool),
        _: &[Handle<'_>],
    ) -> Result<&[f32]> {
        if pooling == Pooling::Pooler && self.model().pooler().is_none() {
            return Err(Error::NoPooler);
        }
        self.vector_of(segments, sequence, Wanted::Pooled { pooling, normalize })
    }

    /// The classifier itself, a few rows, is the CPU's.
    fn classify(
        &mut self,
        segments: &[Segment],
        sequence: usize,
        selection: &Selection<'_, '_>,
        logits: &mut [f32],
    ) -> Result<()> {
        let x = self.vector_of(segments, sequence, Wanted::Classified)?;
        classified(&selection.classifier(sequence)?, x, logits);
        Ok(())
    }
}

impl<'w, 'm> CudaEncoder<'w, 'm> {
    /// The bytes of books that an encoder needs under `limits`; activations are on the device.
    pub fn need(limits: &EncoderLimits) -> Need {
        let bytes = Books::bytes(&limits.size(), limits.max_active, Pointers::Here);
        Need { bytes, kv_bytes: 0 }
    }

    /// An encoder over `memory`, which starts on a 64-byte boundary and has at least
    /// [`need`](Self::need) bytes. Precision is always exact; threads do not matter.
    ///
    /// # Errors
    /// [`Error::Limit`], [`Error::Misaligned`], [`Error::WorkspaceTooSmall`] in a
    /// [`CudaError`]'s place; what the driver says, most often that there is too little memory.
    pub fn new(
        model: &'w EncoderModel<'m>,
        limits: &EncoderLimits,
        memory: &'w mut [u8],
    ) -> Result<Self, CudaError> {
        limits.check(model.bert().config())?;
        let mut w = Workspace::new(memory, Self::need(limits).bytes)?;
        Ok(Self::with(BertCuda::new(Held::Lent(model), limits)?, &mut w, limits))
    }

    /// The driver's words about what ended the encoder, if something did.
    pub fn device_error(&self) -> Option<&CudaError> {
        self.runner.failure()
    }
}
