//! A BERT-family base on the device, and the adapters that were chosen so far. `state` is an
//! encoder's memory there, `forward` the pass.

mod forward;
mod state;

use std::sync::Arc;

use super::adapter::Residents;
use super::buffer::Buffer;
use super::kernels::Kernels;
use super::upload::{DeviceLinear, DeviceNorm, Upload};
use super::weights::Weight;
use super::{CudaError, Device};
use crate::adapter::Adapter;
use crate::model::bert::{Bert, Layer, Site};

pub(crate) use forward::Wanted;
pub(crate) use state::EncoderState;

/// An encoder block on the device.
#[derive(Debug)]
struct DeviceLayer {
    q: DeviceLinear,
    k: DeviceLinear,
    v: DeviceLinear,
    o: DeviceLinear,
    attention_norm: DeviceNorm,
    up: DeviceLinear,
    down: DeviceLinear,
    output_norm: DeviceNorm,
}

/// A BERT-family base on a device: every encoder there reads this copy.
#[derive(Debug)]
pub struct EncoderModel<'m> {
    bert: Bert<'m>,
    kernels: Kernels,
    embedding: Weight,
    positions: Weight,
    token_types: Weight,
    embedding_norm: DeviceNorm,
    layers: Vec<DeviceLayer>,
    pooler: Option<DeviceLinear>,
    adapters: Residents,
    /// Norms, biases and tables.
    _vectors: Vec<Buffer>,
}

fn layer(upload: &mut Upload<'_>, layer: &Layer<'_>) -> Result<DeviceLayer, CudaError> {
    Ok(DeviceLayer {
        q: upload.linear(&layer.q)?,
        k: upload.linear(&layer.k)?,
        v: upload.linear(&layer.v)?,
        o: upload.linear(&layer.o)?,
        attention_norm: upload.norm(&layer.attention_norm)?,
        up: upload.linear(&layer.up)?,
        down: upload.linear(&layer.down)?,
        output_norm: upload.norm(&layer.output_norm)?,
    })
}

impl<'m> EncoderModel<'m> {
    /// Copies a base to the device.
    ///
    /// # Errors
    /// What the driver says, most often that there is too little memory; heads of more than 256
    /// dimensions.
    pub fn upload(device: &Arc<Device>, bert: Bert<'m>) -> Result<Self, CudaError> {
        let config = bert.config();
        let mut upload = Upload::new(device, config.head_dim())?;
        Ok(Self {
            kernels: Kernels::new(device)?,
            embedding: upload.matrix(&bert.embedding())?,
            positions: upload.matrix(&bert.positions())?,
            token_types: upload.matrix(&bert.token_types())?,
            embedding_norm: upload.norm(&bert.embedding_norm())?,
            layers: (0..config.layers)
                .map(|i| layer(&mut upload, &bert.layer(i)))
                .collect::<Result<_, _>>()?,
            pooler: bert.pooler().map(|pooler| upload.linear(&pooler)).transpose()?,
            adapters: Residents::new(device, Site::Pooler.number(config.layers)),
            _vectors: upload.kept(),
            bert,
        })
    }

    /// The base.
    pub fn bert(&self) -> &Bert<'m> {
        &self.bert
    }

    /// The device.
    pub fn device(&self) -> &Arc<Device> {
        &self.kernels.device
    }

    /// Copies an adapter to the device, if it is not there: choosing it is then as quick as it
    /// gets. Encoders do so by themselves when they first run under it.
    ///
    /// # Errors
    /// What the driver says.
    pub fn load_adapter(&self, adapter: &Adapter<'_>) -> Result<(), CudaError> {
        self.adapters.of(adapter).map(drop)
    }

    /// Frees the adapters that no text has chosen; how many bytes that is, only the driver knows.
    pub fn unload_unused_adapters(&self) {
        self.adapters.unload_unused();
    }
}
