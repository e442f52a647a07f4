//! Copying a base to the device, part by part. Which parts there are is the family's matter.

use std::sync::Arc;

use super::buffer::{Address, Buffer};
use super::weights::{Weight, tables};
use super::{CudaError, Device};
use crate::nn::{LayerNorm, Linear};
use crate::quant::Matrix;

/// The most dimensions of a head that the attention kernels take.
const MOST_HEAD_DIM: usize = 256;

/// A linear layer on the device.
#[derive(Debug)]
pub(super) struct DeviceLinear {
    pub(super) weight: Weight,
    /// Or 0.
    pub(super) bias: Address,
    pub(super) site: u32,
}

/// A LayerNorm on the device.
#[derive(Debug, Clone, Copy)]
pub(super) struct DeviceNorm {
    pub(super) weight: Address,
    pub(super) bias: Address,
    pub(super) epsilon: f32,
}

/// Copies parts, and keeps those that are only known by their address.
pub(super) struct Upload<'d> {
    device: &'d Arc<Device>,
    kept: Vec<Buffer>,
    tables: Address,
}

impl<'d> Upload<'d> {
    /// For a model with heads of `head_dim` dimensions, which the kernels must be able to take.
    pub(super) fn new(device: &'d Arc<Device>, head_dim: usize) -> Result<Self, CudaError> {
        if head_dim > MOST_HEAD_DIM {
            return Err(CudaError::refused(format!(
                "heads of {head_dim} dimensions: the CUDA kernels take up to {MOST_HEAD_DIM}"
            )));
        }
        let tables = tables(device)?;
        let address = tables.address();
        Ok(Self { device, kept: vec![tables], tables: address })
    }

    /// A vector, or 0 for an empty one.
    pub(super) fn vector(&mut self, values: &[f32]) -> Result<Address, CudaError> {
        if values.is_empty() {
            return Ok(0);
        }
        let buffer = Buffer::upload(self.device, values)?;
        let address = buffer.address();
        self.kept.push(buffer);
        Ok(address)
    }

    pub(super) fn matrix(&self, matrix: &Matrix<'_>) -> Result<Weight, CudaError> {
        Weight::upload(self.device, matrix, self.tables)
    }

    pub(super) fn linear(&mut self, linear: &Linear<'_>) -> Result<DeviceLinear, CudaError> {
        let (weight, bias) = (self.matrix(&linear.weight)?, self.vector(linear.bias)?);
        Ok(DeviceLinear { weight, bias, site: linear.site })
    }

    pub(super) fn norm(&mut self, norm: &LayerNorm<'_>) -> Result<DeviceNorm, CudaError> {
        let (weight, bias) = (self.vector(norm.weight)?, self.vector(norm.bias)?);
        Ok(DeviceNorm { weight, bias, epsilon: norm.epsilon })
    }

    /// What must stay as long as the model does.
    pub(super) fn kept(self) -> Vec<Buffer> {
        self.kept
    }
}
