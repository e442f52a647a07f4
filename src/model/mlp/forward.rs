//! The forward pass of a multilayer perceptron. Allocates nothing; every buffer is named in
//! [`Buffers`].

use super::Mlp;
use crate::nn::{Pass, Scratch, activate};

/// Every working buffer.
#[derive(Debug)]
pub(crate) struct Buffers<'m> {
    /// What a layer reads, `[rows, widest]`; behind a pass what the last layer read, `[rows,
    /// dim]`.
    pub(crate) x: &'m mut [f32],
    /// What it gives, `[rows, widest]`.
    pub(crate) y: &'m mut [f32],
    pub(crate) scratch: Scratch<'m>,
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
