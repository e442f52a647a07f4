//! Matrix products of training: through frozen weights in any format, and among floats.
//!
//! Forward products with frozen weights are the core's own ([`crate::nn::Linear`]): the training loss is the core's loss. Here is
//! the way back, `dX += dY · W`, with W dequantized a tile of rows at a time, and the small float products of adapters, which
//! `ndarray` hands to `matrixmultiply`.

use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2};

use super::parallel::Machine;
use crate::quant::{Matrix, Values};

/// Rows of W in a dequantized tile: with a few thousand columns it stays in a core's second-level cache.
pub(crate) const TILE: usize = 64;

/// `[rows, cols]` over the front of `data`.
///
/// # Panics
/// If `data` is too short: shapes were checked when the model was opened.
pub(crate) fn matrix(data: &[f32], rows: usize, cols: usize) -> ArrayView2<'_, f32> {
    ArrayView2::from_shape((rows, cols), &data[..rows * cols]).expect("rows × cols numbers")
}

/// As [`matrix`], to be written.
pub(crate) fn matrix_mut(data: &mut [f32], rows: usize, cols: usize) -> ArrayViewMut2<'_, f32> {
    ArrayViewMut2::from_shape((rows, cols), &mut data[..rows * cols]).expect("rows × cols numbers")
}

/// `C ← α·A·B + β·C`.
pub(crate) fn multiply(alpha: f32, a: ArrayView2<'_, f32>, b: ArrayView2<'_, f32>, beta: f32, mut c: ArrayViewMut2<'_, f32>) {
    general_mat_mul(alpha, &a, &b, beta, &mut c);
}

impl Machine<'_> {
    /// `dX += dY · W`: dY `[n, out]`, W `[out, in]`, dX `[n, in]`. Each lane has rows of dX of its own.
    pub(crate) fn back_through(&self, weight: &Matrix<'_>, dy: &[f32], dx: &mut [f32]) {
        let (outputs, inputs) = (weight.rows(), weight.cols());
        let share = self.share(dy.len() / outputs);
        self.each(dx.chunks_mut(share * inputs).zip(dy.chunks(share * outputs)), |(dx, dy)| {
            let n = dx.len() / inputs;
            let dy = matrix(dy, n, outputs);
            let mut tile = match weight.values() {
                Values::F32(w) => return multiply(1.0, dy, matrix(w, outputs, inputs), 1.0, matrix_mut(dx, n, inputs)),
                _ => vec![0.0; TILE.min(outputs) * inputs],
            };
            for first in (0..outputs).step_by(TILE) {
                let rows = TILE.min(outputs - first);
                for (i, row) in tile.chunks_exact_mut(inputs).take(rows).enumerate() {
                    weight.read(first + i, 0, row);
                }
                let dy = dy.slice(ndarray::s![.., first..first + rows]);
                multiply(1.0, dy, matrix(&tile, rows, inputs), 1.0, matrix_mut(dx, n, inputs));
            }
        });
    }

    /// `Y ← α·X·Wᵀ + β·Y` with float W, `[out, in]`: X `[n, in]`, Y `[n, out]`.
    pub(crate) fn forward(&self, alpha: f32, x: &[f32], w: &[f32], outputs: usize, beta: f32, y: &mut [f32]) {
        let inputs = w.len() / outputs;
        let share = self.share(x.len() / inputs);
        self.each(y.chunks_mut(share * outputs).zip(x.chunks(share * inputs)), |(y, x)| {
            let n = y.len() / outputs;
            multiply(alpha, matrix(x, n, inputs), matrix(w, outputs, inputs).reversed_axes(), beta, matrix_mut(y, n, outputs));
        });
    }

    /// `Y ← α·X·W + β·Y` with float W, `[in, out]`: X `[n, in]`, Y `[n, out]`.
    pub(crate) fn forward_transposed(&self, alpha: f32, x: &[f32], w: &[f32], inputs: usize, beta: f32, y: &mut [f32]) {
        let outputs = w.len() / inputs;
        let share = self.share(x.len() / inputs);
        self.each(y.chunks_mut(share * outputs).zip(x.chunks(share * inputs)), |(y, x)| {
            let n = y.len() / outputs;
            multiply(alpha, matrix(x, n, inputs), matrix(w, inputs, outputs), beta, matrix_mut(y, n, outputs));
        });
    }

    /// `G += Dᵀ · X`, the gradient of `D = X·Gᵀ`: D `[n, out]`, X `[n, in]`, G `[out, in]`. Each lane has rows of G of its own, so
    /// the sum over n has one order.
    pub(crate) fn outer(&self, d: &[f32], x: &[f32], outputs: usize, gradient: &mut [f32]) {
        let inputs = gradient.len() / outputs;
        let n = d.len() / outputs;
        let share = self.share(outputs);
        let (d, x) = (matrix(d, n, outputs), matrix(x, n, inputs));
        self.each(gradient.chunks_mut(share * inputs).enumerate(), |(part, gradient)| {
            let rows = gradient.len() / inputs;
            let d = d.slice(ndarray::s![.., part * share..part * share + rows]);
            multiply(1.0, d.reversed_axes(), x, 1.0, matrix_mut(gradient, rows, inputs));
        });
    }
}
