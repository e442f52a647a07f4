//! A base on the device, and the adapters that were chosen so far.

use std::sync::{Arc, Mutex, PoisonError};

use super::adapter::Resident;
use super::buffer::{Address, Buffer};
use super::kernels::Kernels;
use super::weights::{Weight, tables};
use super::{CudaError, Device};
use crate::adapter::Adapter;
use crate::archive::Fingerprint;
use crate::model::llama::{Layer, Llama};
use crate::nn::Linear;

/// The most dimensions of a head that the attention kernel takes.
const MOST_HEAD_DIM: usize = 256;

/// A linear layer on the device.
#[derive(Debug)]
pub(super) struct DeviceLinear {
    pub(super) weight: Weight,
    /// Or 0.
    pub(super) bias: Address,
    pub(super) site: u32,
}

/// A decoder block on the device; norms that the model does not have are 0.
#[derive(Debug)]
pub(super) struct DeviceLayer {
    pub(super) attention_norm: Address,
    pub(super) q: DeviceLinear,
    pub(super) k: DeviceLinear,
    pub(super) v: DeviceLinear,
    pub(super) o: DeviceLinear,
    pub(super) q_norm: Address,
    pub(super) k_norm: Address,
    pub(super) feed_forward_norm: Address,
    pub(super) gate: DeviceLinear,
    pub(super) up: DeviceLinear,
    pub(super) down: DeviceLinear,
}

/// A Llama-family base on a device: every session there reads this copy.
#[derive(Debug)]
pub struct Model<'m> {
    pub(super) llama: Llama<'m>,
    pub(super) kernels: Kernels,
    pub(super) layers: Vec<DeviceLayer>,
    pub(super) embedding: Weight,
    /// None where it is the embedding.
    head: Option<Weight>,
    pub(super) norm: Address,
    adapters: Mutex<Vec<(Fingerprint, Arc<Resident>)>>,
    /// Norms, biases and tables.
    _vectors: Vec<Buffer>,
}

/// Copies vectors and keeps them.
struct Vectors<'d> {
    device: &'d Arc<Device>,
    kept: Vec<Buffer>,
    tables: Address,
}

impl Vectors<'_> {
    fn put(&mut self, values: &[f32]) -> Result<Address, CudaError> {
        if values.is_empty() {
            return Ok(0);
        }
        let buffer = Buffer::upload(self.device, values)?;
        let address = buffer.address();
        self.kept.push(buffer);
        Ok(address)
    }

    fn linear(&mut self, linear: &Linear<'_>) -> Result<DeviceLinear, CudaError> {
        Ok(DeviceLinear {
            weight: Weight::upload(self.device, &linear.weight, self.tables)?,
            bias: self.put(linear.bias)?,
            site: linear.site,
        })
    }

    fn layer(&mut self, layer: &Layer<'_>) -> Result<DeviceLayer, CudaError> {
        Ok(DeviceLayer {
            attention_norm: self.put(layer.attention_norm)?,
            q: self.linear(&layer.q)?,
            k: self.linear(&layer.k)?,
            v: self.linear(&layer.v)?,
            o: self.linear(&layer.o)?,
            q_norm: self.put(layer.q_norm)?,
            k_norm: self.put(layer.k_norm)?,
            feed_forward_norm: self.put(layer.feed_forward_norm)?,
            gate: self.linear(&layer.gate)?,
            up: self.linear(&layer.up)?,
            down: self.linear(&layer.down)?,
        })
    }
}

impl<'m> Model<'m> {
    /// Copies a base to the device.
    ///
    /// # Errors
    /// What the driver says, most often that there is too little memory; heads of more than 256
    /// dimensions.
    pub fn upload(device: &Arc<Device>, llama: Llama<'m>) -> Result<Self, CudaError> {
        let head_dim = llama.config().head_dim;
        if head_dim > MOST_HEAD_DIM {
            return Err(CudaError::refused(format!(
                "heads of {head_dim} dimensions: the CUDA kernels take up to {MOST_HEAD_DIM}"
            )));
        }
        let tables = tables(device)?;
        let address = tables.address();
        let mut vectors = Vectors { device, kept: vec![tables], tables: address };
        let weight = |matrix| Weight::upload(device, &matrix, address);
        let layers = 0..llama.config().layers;
        Ok(Self {
            kernels: Kernels::new(device)?,
            layers: layers.map(|i| vectors.layer(&llama.layer(i))).collect::<Result<_, _>>()?,
            embedding: weight(llama.embedding())?,
            head: (!llama.is_tied()).then(|| weight(llama.head())).transpose()?,
            norm: vectors.put(llama.norm())?,
            adapters: Mutex::default(),
            _vectors: vectors.kept,
            llama,
        })
    }

    /// The base.
    pub fn llama(&self) -> &Llama<'m> {
        &self.llama
    }

    /// The device.
    pub fn device(&self) -> &Arc<Device> {
        &self.kernels.device
    }

    pub(super) fn head(&self) -> &Weight {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    /// Copies an adapter to the device, if it is not there: choosing it is then as quick as it
    /// gets. Sessions do so by themselves when they first run under it.
    ///
    /// # Errors
    /// What the driver says.
    pub fn load_adapter(&self, adapter: &Adapter<'_>) -> Result<(), CudaError> {
        self.resident(adapter).map(drop)
    }

    /// Frees the adapters that no sequence has chosen; how many bytes that is, only the driver
    /// knows.
    pub fn unload_unused_adapters(&self) {
        let mut adapters = self.adapters.lock().unwrap_or_else(PoisonError::into_inner);
        adapters.retain(|(_, resident)| Arc::strong_count(resident) > 1);
    }

    /// The copy of an adapter.
    pub(super) fn resident(&self, adapter: &Adapter<'_>) -> Result<Arc<Resident>, CudaError> {
        let mut adapters = self.adapters.lock().unwrap_or_else(PoisonError::into_inner);
        let fingerprint = adapter.fingerprint();
        if let Some((_, resident)) = adapters.iter().find(|(known, _)| *known == fingerprint) {
            return Ok(Arc::clone(resident));
        }
        let resident = Arc::new(Resident::upload(self.device(), adapter)?);
        adapters.push((fingerprint, Arc::clone(&resident)));
        Ok(resident)
    }
}
