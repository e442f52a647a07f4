//! The forward pass of a multilayer perceptron. Allocates nothing; every buffer is named in
//! [`Buffers`].

use super::{Config, Mlp};
use crate::nn::{Pass, Scratch, Size, activate};
use crate::tensor::workspace::{times, workspace};

workspace! {
    /// Every working buffer.
    #[derive(Debug)]
    pub(crate) struct Buffers<'m>(config: &Config, size: &Size) {
        /// What a layer reads, `[rows, widest]`; behind a pass what the last layer read, `[rows,
        /// dim]`.
        x: [f32; times(size.rows, config.widest)],
        /// What it gives, `[rows, widest]`.
        y: [f32; times(size.rows, config.widest)],
    }
    parts {
        scratch: Scratch(size, 1, config.widest),
    }
}

/// The outputs of all rows: features `[n, inputs]`, outputs `[n, outputs]`.
pub(crate) fn run(
    model: &Mlp<'_>,
    pass: &Pass<'_, '_>,
    features: &[f32],
    buffers: &mut Buffers<'_>,
    outputs: &mut [f32],
) {
    let c = model.config();
    let n = features.len() / c.inputs;
    buffers.x[..features.len()].copy_from_slice(features);
    for index in 0..c.layers - 1 {
        let layer = model.layer(index);
        let (x, y) =
            (&buffers.x[..n * layer.weight.cols()], &mut buffers.y[..n * layer.weight.rows()]);
        layer.forward(pass, x, y, &mut buffers.scratch);
        activate(pass, c.activation, y);
        core::mem::swap(&mut buffers.x, &mut buffers.y);
    }
    model.layer(c.layers - 1).forward(pass, &buffers.x[..n * c.dim], outputs, &mut buffers.scratch);
}
