//! A Llama-family base on the device, and the adapters that were chosen so far. `state` is a
//! session's memory there, `forward` the pass.

mod forward;
mod state;

use std::sync::Arc;

use super::adapter::Residents;
use super::buffer::{Address, Buffer};
use super::kernels::Kernels;
use super::upload::{DeviceLinear, Upload};
use super::weights::Weight;
use super::{CudaError, Device};
use crate::adapter::Adapter;
use crate::model::llama::{Layer, Llama};

pub(crate) use state::{MOST_CANDIDATES, State};

/// A decoder block on the device; norms that the model does not have are 0.
#[derive(Debug)]
pub(super) struct DeviceLayer {
    attention_norm: Address,
    q: DeviceLinear,
    k: DeviceLinear,
    v: DeviceLinear,
    o: DeviceLinear,
    q_norm: Address,
    k_norm: Address,
    feed_forward_norm: Address,
    gate: DeviceLinear,
    up: DeviceLinear,
    down: DeviceLinear,
}

/// A Llama-family base on a device: every session there reads this copy.
#[derive(Debug)]
pub struct Model<'m> {
    llama: Llama<'m>,
    kernels: Kernels,
    layers: Vec<DeviceLayer>,
    embedding: Weight,
    /// None where it is the embedding.
    head: Option<Weight>,
    norm: Address,
    adapters: Residents,
    /// Norms, biases and tables.
    _vectors: Vec<Buffer>,
}

fn layer(upload: &mut Upload<'_>, layer: &Layer<'_>) -> Result<DeviceLayer, CudaError> {
    Ok(DeviceLayer {
        attention_norm: upload.vector(layer.attention_norm)?,
        q: upload.linear(&layer.q)?,
        k: upload.linear(&layer.k)?,
        v: upload.linear(&layer.v)?,
        o: upload.linear(&layer.o)?,
        q_norm: upload.vector(layer.q_norm)?,
        k_norm: upload.vector(layer.k_norm)?,
        feed_forward_norm: upload.vector(layer.feed_forward_norm)?,
        gate: upload.linear(&layer.gate)?,
        up: upload.linear(&layer.up)?,
        down: upload.linear(&layer.down)?,
    })
}

impl<'m> Model<'m> {
    /// Copies a base to the device.
    ///
    /// # Errors
    /// What the driver says, most often that there is too little memory; heads of more than 256
    /// dimensions.
    pub fn upload(device: &Arc<Device>, llama: Llama<'m>) -> Result<Self, CudaError> {
        let config = llama.config();
        let mut upload = Upload::new(device, config.head_dim)?;
        Ok(Self {
            kernels: Kernels::new(device)?,
            layers: (0..config.layers)
                .map(|i| layer(&mut upload, &llama.layer(i)))
                .collect::<Result<_, _>>()?,
            embedding: upload.matrix(&llama.embedding())?,
            head: (!llama.is_tied()).then(|| upload.matrix(&llama.head())).transpose()?,
            norm: upload.vector(llama.norm())?,
            // No adapter of a decoder brings a pooler.
            adapters: Residents::new(device, u32::MAX),
            _vectors: upload.kept(),
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

    fn head(&self) -> &Weight {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    /// Copies an adapter to the device, if it is not there: choosing it is then as quick as it
    /// gets. Sessions do so by themselves when they first run under it.
    ///
    /// # Errors
    /// What the driver says.
    pub fn load_adapter(&self, adapter: &Adapter<'_>) -> Result<(), CudaError> {
        self.adapters.of(adapter).map(drop)
    }

    /// Frees the adapters that no sequence has chosen; how many bytes that is, only the driver
    /// knows.
    pub fn unload_unused_adapters(&self) {
        self.adapters.unload_unused();
    }
}
