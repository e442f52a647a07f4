//! Matrix products of training: through frozen weights in any format, and among floats.
//!
//! Forward products with frozen weights are the runtime's own ([`crate::nn::Linear`]): the training
//! loss is the runtime's loss. Here is the backward pass, `dX += dY · W`, with W dequantized a tile
//! of rows at a time, and the small float products of adapters. `ndarray` hands products to
//! `matrixmultiply`, which packs both operands; those with a rank of few dozens run on the runtime's
//! kernels.

use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2};

use super::device::{LINE, Machine, line};
use crate::kernel::Input;
use crate::nn::Linear;
use crate::quant::{Matrix, Values};
use crate::tensor::MatMut;
use crate::tensor::columns::Columns;

/// Weights in a dequantized tile of whole rows, half a megabyte: it stays in a core's second-level
/// cache. Every tile reads and writes all of dX, so it has as many rows as fit.
const TILE: usize = 128 << 10;

/// Rows of a tile at most.
const ROWS: usize = 256;

/// Rows of dX that are computed together: twice what the widest kernels have registers for.
const STRIP: usize = 12;

/// From this many outputs on a float product packs its operands; below, packing costs as much as
/// the product.
const SKINNY: usize = 32;

/// Parts of the rows, at most, that a skinny gradient is added up from; the usual numbers of threads
/// divide it.
const PARTS: usize = 8;

/// Rows that the runtime's kernels take at a time. How they add up may depend on how many there
/// are, so it is never the threads that decide.
const BLOCK: usize = 64;

/// `[rows, cols]` over the front of `data`.
///
/// # Panics
/// If `data` is too short: shapes were checked when the model was opened.
fn matrix(data: &[f32], rows: usize, cols: usize) -> ArrayView2<'_, f32> {
    ArrayView2::from_shape((rows, cols), &data[..rows * cols]).expect("rows × cols numbers")
}

/// As [`matrix`], to be written.
fn matrix_mut(data: &mut [f32], rows: usize, cols: usize) -> ArrayViewMut2<'_, f32> {
    ArrayViewMut2::from_shape((rows, cols), &mut data[..rows * cols]).expect("rows × cols numbers")
}

/// `C ← α·A·B + β·C`.
fn multiply(
    alpha: f32,
    a: ArrayView2<'_, f32>,
    b: ArrayView2<'_, f32>,
    beta: f32,
    mut c: ArrayViewMut2<'_, f32>,
) {
    general_mat_mul(alpha, &a, &b, beta, &mut c);
}

/// Rows of a dequantized tile of an `[outputs, inputs]` weight.
fn tile_rows(outputs: usize, inputs: usize) -> usize {
    (TILE / inputs).clamp(8, ROWS).min(outputs)
}

/// Rows of each of the parts that a skinny gradient of n rows is added up from. They do not depend
/// on threads: sums have one order.
fn part_rows(n: usize) -> usize {
    n.div_ceil(PARTS).max(BLOCK)
}

/// Numbers in the packing buffers of a product `[m, k] · [k, n]` by `matrixmultiply`: blocks of 64
/// rows, 256 deep, 1024 columns, in panels of at least 8.
fn packing(m: usize, k: usize, n: usize) -> usize {
    let panel = |length: usize, max: usize| length.min(max).next_multiple_of(8);
    (panel(m, 64) + panel(n, 1024)) * k.min(256)
}

impl Machine<'_> {
    /// Accounts for the packing buffers of the workers that share the rows of a product `[m, k] ·
    /// [k, n]`.
    fn packs(&self, m: usize, k: usize, n: usize) {
        self.temporary(self.busy(m) * 4 * packing(self.share(m), k, n));
    }

    /// `dX += dY · W`: dY `[n, out]`, W `[out, in]`, dX `[n, in]`. Each thread has rows of dX of its
    /// own; a row of dX is a weighted sum of rows of W, added up in their order.
    pub(crate) fn back_through(&self, linear: &Linear<'_>, dy: &[f32], dx: &mut [f32]) {
        if let Some(card) = self.card(linear.site) {
            return card.backward(linear.site, dy, None, Some(dx));
        }
        let weight = &linear.weight;
        let (outputs, inputs) = (weight.rows(), weight.cols());
        let (n, max) = (dy.len() / outputs, tile_rows(outputs, inputs));
        let floats = match weight.values() {
            Values::F32(w) => Some(w),
            _ => None,
        };
        let room = if floats.is_some() { LINE } else { max * inputs + LINE };
        self.temporary(self.busy(n) * 4 * room);
        let share = self.share(n);
        self.each(dx.chunks_mut(share * inputs).zip(dy.chunks(share * outputs)), |(dx, dy)| {
            let mut tile = vec![0.0; room];
            let start = line(&tile);
            let tile = &mut tile[start..];
            for first in (0..outputs).step_by(max) {
                let rows = first..outputs.min(first + max);
                let w = match floats {
                    Some(w) => &w[first * inputs..],
                    None => {
                        rows.clone()
                            .zip(tile.chunks_exact_mut(inputs))
                            .for_each(|(row, w)| self.kernels.read_row(weight, row, w));
                        &tile[..]
                    }
                };
                for (dx, dy) in dx.chunks_mut(STRIP * inputs).zip(dy.chunks(STRIP * outputs)) {
                    let mut terms: [&[f32]; STRIP] = [&[]; STRIP];
                    terms
                        .iter_mut()
                        .zip(dy.chunks_exact(outputs))
                        .for_each(|(terms, dy)| *terms = &dy[rows.clone()]);
                    let mut sums = dx.chunks_exact_mut(inputs);
                    let mut sums: [&mut [f32]; STRIP] =
                        std::array::from_fn(|_| sums.next().unwrap_or_default());
                    let many = dy.len() / outputs;
                    self.kernels.mix(&terms[..many], w, inputs, &mut sums[..many]);
                }
            }
        });
    }

    /// `Y ← α·X·Wᵀ + β·Y` with float W, `[out, in]`: X `[n, in]`, Y `[n, out]`.
    pub(crate) fn forward(
        &self,
        alpha: f32,
        x: &[f32],
        w: &[f32],
        outputs: usize,
        beta: f32,
        y: &mut [f32],
    ) {
        let inputs = w.len() / outputs;
        if beta == 0.0 && outputs < SKINNY {
            return self.skinny_forward(alpha, x, w, outputs, y);
        }
        self.packs(x.len() / inputs, inputs, outputs);
        let share = self.share(x.len() / inputs);
        self.each(y.chunks_mut(share * outputs).zip(x.chunks(share * inputs)), |(y, x)| {
            let n = y.len() / outputs;
            multiply(
                alpha,
                matrix(x, n, inputs),
                matrix(w, outputs, inputs).reversed_axes(),
                beta,
                matrix_mut(y, n, outputs),
            );
        });
    }

    /// `Y ← α·X·W + β·Y` with float W, `[in, out]`: X `[n, in]`, Y `[n, out]`.
    pub(crate) fn forward_transposed(
        &self,
        alpha: f32,
        x: &[f32],
        w: &[f32],
        inputs: usize,
        beta: f32,
        y: &mut [f32],
    ) {
        let outputs = w.len() / inputs;
        if alpha == 1.0 && inputs < SKINNY {
            return self.skinny_sums(x, w, inputs, beta, y);
        }
        self.packs(x.len() / inputs, inputs, outputs);
        let share = self.share(x.len() / inputs);
        self.each(y.chunks_mut(share * outputs).zip(x.chunks(share * inputs)), |(y, x)| {
            let n = y.len() / outputs;
            multiply(
                alpha,
                matrix(x, n, inputs),
                matrix(w, inputs, outputs),
                beta,
                matrix_mut(y, n, outputs),
            );
        });
    }

    /// `G += Dᵀ · X`, the gradient of `D = X·Gᵀ`: D `[n, out]`, X `[n, in]`, G `[out, in]`. Each
    /// thread has a part of G of its own, so the sum over n has one order.
    pub(crate) fn outer(&self, d: &[f32], x: &[f32], outputs: usize, gradient: &mut [f32]) {
        let inputs = gradient.len() / outputs;
        let n = d.len() / outputs;
        if outputs < SKINNY {
            return self.skinny_outer(d, x, outputs, gradient);
        }
        self.packs(outputs, n, inputs);
        let share = self.share(outputs);
        self.each(gradient.chunks_mut(share * inputs).enumerate(), |(part, gradient)| {
            let rows = gradient.len() / inputs;
            let (d, x) = (matrix(d, n, outputs), matrix(x, n, inputs));
            let d = d.slice(ndarray::s![.., part * share..part * share + rows]);
            multiply(1.0, d.reversed_axes(), x, 1.0, matrix_mut(gradient, rows, inputs));
        });
    }

    /// [`outer`](Self::outer) for few outputs: weighted sums of the rows of X. Parts of the rows
    /// are added up on their own, by the threads that wrote them, then the parts in their order.
    fn skinny_outer(&self, d: &[f32], x: &[f32], outputs: usize, gradient: &mut [f32]) {
        let (n, size) = (d.len() / outputs, gradient.len());
        let (inputs, rows) = (size / outputs, part_rows(n));
        let mut sums = vec![Vec::new(); n.div_ceil(rows)];
        self.temporary(4 * (sums.len() * size + self.busy(n) * rows * outputs));
        let parts = d.chunks(rows * outputs).zip(x.chunks(rows * inputs));
        self.each(sums.iter_mut().zip(parts), |(sums, (d, x))| {
            *sums = vec![0.0; size];
            let weights: Vec<f32> =
                (0..outputs).flat_map(|j| d.iter().skip(j).step_by(outputs)).copied().collect();
            let weights: Vec<&[f32]> = weights.chunks_exact(d.len() / outputs).collect();
            let mut sums: Vec<&mut [f32]> = sums.chunks_exact_mut(inputs).collect();
            self.kernels.mix(&weights, x, inputs, &mut sums);
        });
        let share = self.share(size);
        self.each(gradient.chunks_mut(share).enumerate(), |(i, gradient)| {
            sums.iter().for_each(|sums| self.kernels.axpy(1.0, &sums[i * share..], gradient));
        });
    }

    /// `Y ← α·X·Wᵀ` for few outputs, W `[out, in]`: the runtime's product.
    fn skinny_forward(&self, alpha: f32, x: &[f32], w: &[f32], outputs: usize, y: &mut [f32]) {
        let inputs = w.len() / outputs;
        let Ok(weights) = Matrix::new(outputs, inputs, Values::F32(w)) else { return };
        self.each(y.chunks_mut(BLOCK * outputs).zip(x.chunks(BLOCK * inputs)), |(y, x)| {
            if let Ok(mut out) = MatMut::new(&mut *y, outputs) {
                self.kernels.product(&weights, &Input::new(x, inputs), &mut Columns::all(&mut out));
            }
            y.iter_mut().for_each(|y| *y *= alpha);
        });
    }

    /// `Y ← X·W + β·Y` for few inputs, W `[in, out]`: weighted sums of the rows of W.
    fn skinny_sums(&self, x: &[f32], w: &[f32], inputs: usize, beta: f32, y: &mut [f32]) {
        let outputs = w.len() / inputs;
        self.each(y.chunks_mut(BLOCK * outputs).zip(x.chunks(BLOCK * inputs)), |(y, x)| {
            match beta {
                0.0 => y.fill(0.0),
                1.0 => {}
                _ => y.iter_mut().for_each(|y| *y *= beta),
            }
            for (y, x) in y.chunks_mut(4 * outputs).zip(x.chunks(4 * inputs)) {
                let x: [&[f32]; 4] = std::array::from_fn(|i| {
                    x.get(i * inputs..(i + 1) * inputs).unwrap_or_default()
                });
                let mut rows = y.chunks_exact_mut(outputs);
                let mut out: [&mut [f32]; 4] =
                    std::array::from_fn(|_| rows.next().unwrap_or_default());
                let many = out.iter().filter(|row| !row.is_empty()).count();
                self.kernels.mix(&x[..many], w, outputs, &mut out[..many]);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::device::Pool;
    use super::*;
    use crate::runtime::{Executor, Serial, Threads};

    #[test]
    fn a_gradient_is_the_sum_over_all_rows_however_many_and_adds_to_what_is_there() {
        let (pool, threads) = (Arc::new(Pool::default()), Threads::new(3).unwrap());
        let executors: [&dyn Executor; 2] = [&Serial, &threads];
        let numbers = |count, turn| {
            (0..count).map(|i| ((i * 37 + turn) % 101) as f32 / 50.0 - 1.0).collect::<Vec<f32>>()
        };
        for n in [1, BLOCK, BLOCK + 1, PARTS * BLOCK - 1, PARTS * BLOCK + 1, 1000] {
            for (outputs, inputs) in [(1, 7), (8, 48), (SKINNY - 1, 5), (SKINNY + 1, 20)] {
                let (d, x, before) =
                    (numbers(n * outputs, 1), numbers(n * inputs, 2), numbers(outputs * inputs, 3));
                for executor in executors {
                    let mut gradient = before.clone();
                    Machine::new(executor, &pool).outer(&d, &x, outputs, &mut gradient);
                    for (at, found) in gradient.iter().enumerate() {
                        let terms = (0..n).map(|row| {
                            f64::from(d[row * outputs + at / inputs])
                                * f64::from(x[row * inputs + at % inputs])
                        });
                        let expected = f64::from(before[at]) + terms.clone().sum::<f64>();
                        let most = 1.0 + terms.map(f64::abs).sum::<f64>();
                        assert!(
                            (f64::from(*found) - expected).abs() <= 1e-6 * most,
                            "n {n}, [{outputs}, {inputs}], {at}: {found}, {expected}"
                        );
                    }
                }
            }
        }
    }
}
