//! DoRA's gain: `k = m / ‖W + s·B A‖` per output row (arXiv 2402.09353, equation 5; rows of the
//! `[out, in]` weight).
//!
//! Computed once, when an adapter is bound to its base, with W as the base stores it and A and B as
//! the archive stores them: a row of the adapted weight then has the length m whatever rounding
//! either has seen. `std` only; not used at inference.

use crate::error::{Error, Result};
use crate::quant::Matrix;

/// k for every row of `weight`; `a` is A, `[rank, in]`, `b` is B transposed, `[rank, out]`,
/// `magnitude` is m, `[out]`.
///
/// In f64, one row at a time: memory is A and two rows. Where the norm is zero, or so small that k
/// overflows, k is 1: all that it would scale is (nearly) zero.
///
/// # Errors
/// [`Error::NotFinite`] with the row, if W holds a value that is not finite.
pub(super) fn gain(
    site: u32,
    weight: &Matrix<'_>,
    scale: f32,
    a: &[f32],
    b: &[f32],
    magnitude: &[f32],
) -> Result<Vec<f32>> {
    let (rows, cols) = (weight.rows(), weight.cols());
    let a: Vec<f64> = a.iter().map(|&v| f64::from(v)).collect();
    let (mut w, mut v) = (vec![0.0f32; cols], vec![0.0f64; cols]);
    let mut row_gain = |(row, &magnitude): (usize, &f32)| {
        weight.read(row, 0, &mut w);
        v.iter_mut().zip(&w).for_each(|(v, &w)| *v = f64::from(w));
        for (a, b) in a.chunks_exact(cols).zip(b.chunks_exact(rows)) {
            let b = f64::from(scale) * f64::from(b[row]);
            v.iter_mut().zip(a).for_each(|(v, a)| *v += b * a);
        }
        let norm = v.iter().map(|v| v * v).sum::<f64>().sqrt();
        if !norm.is_finite() {
            return Err(Error::NotFinite { site, index: row as u64 * cols as u64 });
        }
        let gain = (f64::from(magnitude) / norm) as f32;
        Ok(if gain.is_finite() { gain } else { 1.0 })
    };
    magnitude.iter().enumerate().map(&mut row_gain).collect()
}
