//! DoRA's norms C = ‖W + s·B A‖ per output row, without W + s·B A: computed anew before every step.
//!
//! `C² = ‖W‖² + 2s·Σ_r (W Aᵀ)_r B_r + s²·Σ_rq B_r (A Aᵀ)_rq B_q`. ‖W‖² does not change and is
//! computed once; W Aᵀ is one base product with r vectors. Sums in f64.

use super::device::Machine;
use super::plan::{Change, LowRank, Plan};
use crate::kernel::Input;
use crate::nn::Linear;
use crate::quant::Matrix;
use crate::tensor::MatMut;
use crate::tensor::columns::Columns;

/// ‖W‖² of every row.
pub(crate) fn squared(weight: &Matrix<'_>) -> Vec<f64> {
    let mut row = vec![0.0; weight.cols()];
    let mut square = |index| {
        weight.read(index, 0, &mut row);
        row.iter().map(|&w| f64::from(w) * f64::from(w)).sum()
    };
    (0..weight.rows()).map(&mut square).collect()
}

/// C of every row; infinite where it is zero, so that such a row adds nothing.
pub(crate) fn norms(
    machine: &Machine<'_>,
    weight: &Matrix<'_>,
    squared: &[f64],
    low: &LowRank,
    values: &[f32],
) -> Vec<f32> {
    let (rows, rank, s) = (weight.rows(), low.rank, f64::from(low.scale(low.rank)));
    let (a, b) = (&values[low.a.clone()], &values[low.b.clone()]);
    let mut wa = vec![0.0; rank * rows];
    if let Ok(mut y) = MatMut::new(&mut wa, rows) {
        machine.kernels.product(weight, &Input::new(a, weight.cols()), &mut Columns::all(&mut y));
    }
    let row = |i: usize| &a[i * weight.cols()..][..weight.cols()];
    let gram: Vec<f64> = (0..rank * rank)
        .map(|at| {
            row(at / rank)
                .iter()
                .zip(row(at % rank))
                .map(|(x, y)| f64::from(*x) * f64::from(*y))
                .sum()
        })
        .collect();
    let b = |r: usize, j: usize| f64::from(b[r * rows + j]);
    let norm = |j: usize| {
        let mixed: f64 = (0..rank).map(|r| f64::from(wa[r * rows + j]) * b(r, j)).sum();
        let own: f64 =
            (0..rank * rank).map(|at| b(at / rank, j) * gram[at] * b(at % rank, j)).sum();
        let norm = (squared[j] + 2.0 * s * mixed + s * s * own).max(0.0).sqrt() as f32;
        if norm > 0.0 { norm } else { f32::INFINITY }
    };
    (0..rows).map(norm).collect()
}

/// Whether any place needs norms, and ‖W‖² of those that do, by site.
pub(crate) fn squared_of<'w>(
    plan: &Plan,
    weight: impl Fn(u32) -> Option<Linear<'w>>,
) -> Vec<Vec<f64>> {
    let of = |(site, change): (usize, &Change)| match change {
        Change::LowRank(low) if !low.magnitude.is_empty() => {
            weight(site as u32).map(|linear| squared(&linear.weight)).unwrap_or_default()
        }
        _ => Vec::new(),
    };
    plan.changes.iter().enumerate().map(of).collect()
}
