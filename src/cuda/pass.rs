//! What the forward passes of all families share: rows of activations, the adapters of their
//! sequences, and the layers that both touch.

use super::buffer::{Address, Buffer};
use super::chosen::Chosen;
use super::kernels::Kernels;
use super::parameters::{Down, Embedding, Product};
use super::upload::DeviceLinear;
use super::weights::Weight;
use super::{CudaError, stride};
use crate::nn::Segment;

/// Numbers of f32 or u32 in bytes.
pub(super) const fn words(count: usize) -> usize {
    4 * count
}

/// The rows of a pass, or some of them.
#[derive(Clone, Copy)]
pub(super) struct Pass<'p> {
    pub(super) kernels: &'p Kernels,
    pub(super) chosen: &'p Chosen,
    pub(super) segments: &'p [Segment],
    pub(super) rows: usize,
    /// The sequence of each row.
    pub(super) sequences: Address,
}

impl Pass<'_> {
    /// The adapters' table if some sequence has ranks at `site`, and how many.
    fn adapters(&self, site: u32) -> (Address, u32) {
        let ranks = self.chosen.ranks(self.segments, site);
        (if ranks > 0 { self.chosen.table() } else { 0 }, ranks)
    }

    /// y = table[tokens], and what the adapters at `site` add, if it is one.
    pub(super) fn embed(
        &self,
        table: &Weight,
        site: u32,
        tokens: Address,
        y: &Buffer,
    ) -> Result<(), CudaError> {
        self.rows_of(table, Some(site), tokens, y)
    }

    /// y ← y + table[numbers].
    pub(super) fn add_rows(
        &self,
        table: &Weight,
        numbers: Address,
        y: &Buffer,
    ) -> Result<(), CudaError> {
        self.rows_of(table, None, numbers, y)
    }

    fn rows_of(
        &self,
        table: &Weight,
        site: Option<u32>,
        tokens: Address,
        y: &Buffer,
    ) -> Result<(), CudaError> {
        let embedding = Embedding {
            table: table.matrix,
            tokens,
            y: y.address(),
            adapters: site.map_or(0, |site| self.adapters(site).0),
            sequences: self.sequences,
            y_stride: stride(table.matrix.cols as usize) as u32,
            site: site.unwrap_or(0),
            sites: self.chosen.sites,
            max_active: self.chosen.max_active as u32,
            accumulate: site.is_none().into(),
            padding: 0,
        };
        self.kernels.embedding(table.format, self.rows, &embedding)
    }

    /// y = W x + b and the layer's adapters, added to y if `accumulate`.
    pub(super) fn linear(
        &self,
        linear: &DeviceLinear,
        x: &Buffer,
        y: &Buffer,
        accumulate: bool,
    ) -> Result<(), CudaError> {
        let (weight, bias) = (&linear.weight, linear.bias);
        self.product(weight, bias, linear.site, x.address(), y.address(), accumulate)
    }

    /// As [`linear`](Self::linear), from the rows at x to those at y.
    pub(super) fn product(
        &self,
        weight: &Weight,
        bias: Address,
        site: u32,
        x: Address,
        y: Address,
        accumulate: bool,
    ) -> Result<(), CudaError> {
        let (adapters, ranks) = self.adapters(site);
        let x_stride = stride(weight.matrix.cols as usize) as u32;
        let (sites, max_active) = (self.chosen.sites, self.chosen.max_active as u32);
        let (down, down_stride) = (self.chosen.low_rank(), stride(self.chosen.width) as u32);
        if ranks > 0 {
            let down = Down {
                x,
                u: down,
                adapters,
                sequences: self.sequences,
                inputs: weight.matrix.cols,
                x_stride,
                u_stride: down_stride,
                site,
                sites,
                max_active,
            };
            self.kernels.down(self.rows, ranks, &down)?;
        }
        let product = Product {
            weight: weight.matrix,
            x,
            y,
            bias,
            adapters,
            sequences: self.sequences,
            down,
            n: self.rows as u32,
            x_stride,
            y_stride: stride(weight.matrix.rows as usize) as u32,
            down_stride,
            site,
            sites,
            max_active,
            accumulate: accumulate.into(),
        };
        self.kernels.product(weight.format, &product, self.chosen.split())
    }
}
