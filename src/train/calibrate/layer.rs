//! One weight to NF4 with the Hessian of its inputs.
//!
//! 1. error feedback with searched scales ([`Rows::feed_back`]), then the best scales for the codes and
//!    the best codes for the scales in turn, some rows at a time;
//! 2. the scales of all rows are rounded to what double quantization can store;
//! 3. codes for the rounded scales, scales among the stored ones for these codes, codes again.
//!
//! What is rounded in one step is seen by the next.

use super::hessian::{Hessian, matrix, matrix_mut};
use super::rows::Rows;
use super::scales::{Grid, Normal};
use crate::error::{Error, Result};
use crate::quant::nf4::is_block_size;
use crate::quant::{Layout, Matrix, OwnedMatrix, OwnedScales, OwnedValues};
use crate::train::device::Machine;
use ndarray::linalg::general_mat_mul;

/// Rows that are worked on together, by whichever thread.
const ROWS: usize = 64;

/// Times that all codes are gone through at most, after scales have changed.
const SWEEPS: usize = 4;

/// Codes and scales of a whole weight on the way.
struct Work {
    size: usize,
    block: usize,
    weights: Vec<f32>,
    target: Vec<f32>,
    codes: Vec<u8>,
    scales: Vec<f32>,
    /// The codes of rounded scales.
    scale_codes: Vec<u8>,
}

impl Work {
    /// `work(its first row, rows, the codes of their scales)` for all rows.
    fn each(&mut self, machine: &Machine<'_>, work: impl Fn(usize, Rows<'_>, &mut [u8]) + Sync) {
        let (size, block) = (self.size, self.block);
        let blocks = ROWS * size / block;
        let weights = self.weights.chunks(ROWS * size).zip(self.target.chunks_mut(ROWS * size));
        let scales = self.scales.chunks_mut(blocks).zip(self.scale_codes.chunks_mut(blocks));
        let items = weights.zip(self.codes.chunks_mut(ROWS * size)).zip(scales).enumerate();
        machine.each(items, |(part, (((weights, target), codes), (scales, scale_codes)))| {
            let rows = Rows { weights, target, codes, scales, block };
            work(part * ROWS, rows, scale_codes);
        });
    }
}

/// `weight` in NF4, doubly quantized, in blocks of `block`, of which every row is a multiple.
///
/// # Errors
/// [`Error::Block`] for others; [`Error::Range`] for a weight that
/// is not finite, or so large that its scale is not.
pub(super) fn quantize(
    machine: &Machine<'_>,
    hessian: &Hessian,
    weight: &Matrix<'_>,
    block: usize,
) -> Result<OwnedMatrix> {
    let (rows, size) = (weight.rows(), hessian.size);
    if !is_block_size(block) || !size.is_multiple_of(block) {
        return Err(Error::Block { found: block });
    }
    let mut weights = vec![0.0; rows * size];
    weights.chunks_exact_mut(size).enumerate().for_each(|(row, w)| weight.read(row, 0, w));
    check(hessian, &weights)?;
    let blocks = rows * size / block;
    let (target, codes) = (vec![0.0; weights.len()], vec![0; weights.len()]);
    let (scales, scale_codes) = (vec![0.0; blocks], vec![0; blocks]);
    let mut work = Work { size, block, weights, target, codes, scales, scale_codes };
    work.each(machine, |_, mut rows, _| {
        let count = rows.count(hessian);
        general_mat_mul(
            1.0,
            &matrix(rows.weights, count, size),
            &hessian.matrix(),
            0.0,
            &mut matrix_mut(rows.target, count, size),
        );
        rows.feed_back(hessian);
        Normal::new(&rows, hessian).solve(rows.scales);
        rows.descend(hessian, SWEEPS);
        Normal::new(&rows, hessian).solve(rows.scales);
    });
    let nested = Grid::of(&work.scales);
    let grid = Grid::new(&nested);
    work.each(machine, |first, mut rows, scale_codes| {
        let first = first * (size / block);
        for (b, (scale, code)) in rows.scales.iter_mut().zip(&mut *scale_codes).enumerate() {
            (*code, *scale) = grid.nearest(first + b, *scale);
        }
        rows.descend(hessian, SWEEPS);
        Normal::new(&rows, hessian).round(first, &grid, rows.scales, scale_codes);
        rows.descend(hessian, SWEEPS);
    });
    packed(work, rows, nested)
}

/// Refuses weights for which a sum of w H w would not be finite.
fn check(hessian: &Hessian, weights: &[f32]) -> Result<()> {
    let larger = |max: (usize, f32), (i, &w): (usize, &f32)| {
        if w.abs() > max.1.abs() || w.is_nan() { (i, w) } else { max }
    };
    let (index, value) = weights.iter().enumerate().fold((0, 0.0), larger);
    let most = (0..hessian.size).map(|i| hessian.diagonal(i)).fold(0.0, f32::max);
    let bound = value.abs().max(1.0).powi(2) * most * hessian.size as f32;
    if value.is_finite() && bound.is_finite() {
        return Ok(());
    }
    Err(Error::Range { index: index as u64, value })
}

/// The finished matrix.
fn packed(work: Work, rows: usize, nested: Vec<f32>) -> Result<OwnedMatrix> {
    let codes = work.codes.chunks(2).map(|pair| match pair {
        [high, low] => high << 4 | low,
        [high] => high << 4 | 7,
        _ => 0,
    });
    let scales = OwnedScales::Double { codes: work.scale_codes, nested, offset: 0.0 };
    let values = OwnedValues::Nf4 {
        codes: codes.collect(),
        scales,
        block: work.block,
        layout: Layout::Sequential,
    };
    Ok(OwnedMatrix::new(rows, work.size, values)?.with_layout(Layout::Split64))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::hessian::Sum;
    use super::*;
    use crate::quant::{BlockScale, Format, Quantization, Scales, Values};
    use crate::random;
    use crate::runtime::Serial;
    use crate::train::device::Pool;

    const ROWS: usize = 70;
    const SIZE: usize = 192;

    fn normal(stream: u64, count: usize) -> Vec<f32> {
        (0..count as u64).map(|i| random::normal(9, stream, i)).collect()
    }

    /// Of inputs that hang together, as a network's do, some ten times as large as others.
    fn hessian(machine: &Machine<'_>) -> Hessian {
        let mix = normal(0, SIZE * SIZE);
        let mut x = vec![0.0; 500 * SIZE];
        for (i, x) in x.chunks_exact_mut(SIZE).enumerate() {
            let causes = normal(10 + i as u64, SIZE / 4);
            let terms = |j: usize| causes.iter().zip(&mix[j * SIZE..]).map(|(a, b)| a * b);
            let own = normal(1000 + i as u64, SIZE);
            x.iter_mut().enumerate().for_each(|(j, x)| {
                *x = (terms(j).sum::<f32>() + own[j]) * if j % 16 == 3 { 10.0 } else { 1.0 };
            });
        }
        let mut sum = Sum::new(SIZE);
        sum.add(machine, &x);
        sum.finish().unwrap()
    }

    fn floats(matrix: &OwnedMatrix) -> Vec<f32> {
        let mut values = vec![0.0; ROWS * SIZE];
        values
            .chunks_exact_mut(SIZE)
            .enumerate()
            .for_each(|(row, w)| matrix.view().read(row, 0, w));
        values
    }

    /// tr E H Eᵀ.
    fn loss(hessian: &Hessian, weights: &[f32], matrix: &OwnedMatrix) -> f64 {
        let off = floats(matrix).iter().zip(weights).map(|(q, w)| q - w).collect::<Vec<f32>>();
        let off = super::matrix(&off, ROWS, SIZE);
        (&off.dot(&hessian.matrix()) * &off).iter().map(|&x| f64::from(x)).sum()
    }

    #[test]
    fn what_layers_do_to_their_inputs_is_kept_better_than_by_any_rounding_of_weights() {
        let pool = Arc::new(Pool::default());
        let machine = Machine::new(&Serial, &pool);
        let (hessian, weights) = (hessian(&machine), normal(2, ROWS * SIZE));
        let values = Values::F32(&weights);
        let weight = Matrix::new(ROWS, SIZE, values).unwrap();
        for block in [32, 64] {
            let calibrated = quantize(&machine, &hessian, &weight, block).unwrap();
            let other = |scale| {
                let how = Quantization { format: Format::Nf4, block, scale };
                let copy = &mut |first: usize, out: &mut [f32]| {
                    out.copy_from_slice(&weights[first..][..out.len()]);
                };
                OwnedMatrix::quantize_pieces(&how, ROWS, SIZE, copy).unwrap()
            };
            let [plain, fitted] = [BlockScale::Absmax, BlockScale::Fitted].map(other);
            assert_eq!(calibrated.view().bytes(), plain.view().bytes());
            let [plain, fitted, found] =
                [&plain, &fitted, &calibrated].map(|matrix| loss(&hessian, &weights, matrix));
            assert!(found < 0.5 * fitted && fitted < plain, "{block}: {plain} {fitted} {found}");
        }
    }

    #[test]
    fn values_that_nf4_has_come_back_and_zeros_stay_zeros() {
        let pool = Arc::new(Pool::default());
        let machine = Machine::new(&Serial, &pool);
        let hessian = hessian(&machine);
        let code = |i: usize| i * 7 % 16;
        let levels = (0..ROWS * SIZE).map(|i| crate::quant::nf4::CODEBOOK[code(i)]);
        let weights: Vec<f32> = levels
            .enumerate()
            .map(|(i, level)| if i < 2 * SIZE { 0.0 } else { 0.25 * level })
            .collect();
        let weight = Matrix::new(ROWS, SIZE, Values::F32(&weights)).unwrap();
        let matrix = quantize(&machine, &hessian, &weight, 64).unwrap();
        for (found, expected) in floats(&matrix).iter().zip(&weights) {
            assert!((found - expected).abs() < 1e-5, "{found} {expected}");
        }
        let Values::Nf4(nf4) = matrix.view().values() else { panic!() };
        let Scales::Double { nested, offset, .. } = nf4.scales else { panic!() };
        assert!(nested.iter().all(|&scale| scale < 0.0) && offset == 0.0);
    }

    #[test]
    fn weights_that_no_scale_can_hold_are_refused() {
        let pool = Arc::new(Pool::default());
        let machine = Machine::new(&Serial, &pool);
        let hessian = hessian(&machine);
        for bad in [f32::NAN, f32::INFINITY, f32::MAX] {
            let mut weights = normal(2, ROWS * SIZE);
            weights[3 * SIZE + 5] = bad;
            let weight = Matrix::new(ROWS, SIZE, Values::F32(&weights)).unwrap();
            let refused = quantize(&machine, &hessian, &weight, 64).unwrap_err();
            assert!(matches!(refused, Error::Range { index: 581, .. }), "{refused:?}");
        }
    }
}
