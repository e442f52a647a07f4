//! What a layer's inputs say about the errors of its weights.
//!
//! ```text
//! Σ (W' x − W x)² over the rows of X = tr (W' − W) H (W' − W)ᵀ,  H = Xᵀ X
//! ```
//!
//! H is the mean over the rows here, its diagonal a hundredth of its mean larger, so that inputs that
//! hardly ever occur do not count as if they never did.

use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2, s};

use crate::train::device::Machine;

/// Rows of H that are added up as one item of work, whoever does it.
const PANEL: usize = 128;

/// What is added to the diagonal, in parts of its mean.
const DAMPING: f32 = 0.01;

/// `[rows, cols]` over the front of `values`.
pub(super) fn matrix<T>(values: &[T], rows: usize, cols: usize) -> ArrayView2<'_, T> {
    ArrayView2::from_shape((rows, cols), &values[..rows * cols]).expect("rows × cols numbers")
}

/// As [`matrix`], to be written.
pub(super) fn matrix_mut<T>(values: &mut [T], rows: usize, cols: usize) -> ArrayViewMut2<'_, T> {
    ArrayViewMut2::from_shape((rows, cols), &mut values[..rows * cols])
        .expect("rows × cols numbers")
}

/// The sum Xᵀ X while inputs come in: on and right of the diagonal.
pub(super) struct Sum {
    size: usize,
    rows: usize,
    values: Vec<f32>,
}

impl Sum {
    /// Of inputs of `size` numbers.
    pub(super) fn new(size: usize) -> Self {
        Self { size, rows: 0, values: vec![0.0; size * size] }
    }

    /// Adds inputs, `[n, size]`.
    pub(super) fn add(&mut self, machine: &Machine<'_>, x: &[f32]) {
        let size = self.size;
        let n = x.len() / size;
        self.rows += n;
        let x = matrix(x, n, size);
        machine.each(self.values.chunks_mut(PANEL * size).enumerate(), |(panel, sum)| {
            let (first, rows) = (panel * PANEL, sum.len() / size);
            let own = x.slice(s![.., first..first + rows]);
            let mut sum = matrix_mut(sum, rows, size);
            let mut sum = sum.slice_mut(s![.., first..]);
            general_mat_mul(1.0, &own.reversed_axes(), &x.slice(s![.., first..]), 1.0, &mut sum);
        });
    }

    /// H and what error feedback takes of it; `None` if an input was not finite.
    pub(super) fn finish(mut self) -> Option<Hessian> {
        let size = self.size;
        let share = 1.0 / self.rows.max(1) as f32;
        for row in 0..size {
            for col in row..size {
                let value = self.values[row * size + col] * share;
                self.values[row * size + col] = value;
                self.values[col * size + row] = value;
            }
        }
        let mean = (0..size).map(|i| self.values[i * (size + 1)]).sum::<f32>() / size as f32;
        if !self.values.iter().all(|value| value.is_finite()) || !mean.is_finite() {
            return None;
        }
        // Inputs that are all zero say nothing: then all weights count alike.
        let damping = if mean > 0.0 { DAMPING * mean } else { 1.0 };
        (0..size).for_each(|i| self.values[i * (size + 1)] += damping);
        let feedback = feedback(&self.values, size)?;
        Some(Hessian { size, values: self.values, feedback })
    }
}

/// H of a layer's inputs.
pub(super) struct Hessian {
    /// Inputs of the layer.
    pub(super) size: usize,
    /// H, `[size, size]`.
    pub(super) values: Vec<f32>,
    /// U, upper triangular with H⁻¹ = Uᵀ U: rounding input i with error e moves the best values
    /// of those behind it by −e · U[i, j] / U[i, i].
    pub(super) feedback: Vec<f32>,
}

impl Hessian {
    /// H as a matrix.
    pub(super) fn matrix(&self) -> ArrayView2<'_, f32> {
        matrix(&self.values, self.size, self.size)
    }

    /// H[i, i].
    pub(super) fn diagonal(&self, i: usize) -> f32 {
        self.values[i * (self.size + 1)]
    }
}

/// Columns that are factored together.
const BLOCK: usize = 64;

/// U of [`Hessian::feedback`]; `None` if H is not positive definite.
///
/// With J the reversed order, J H J = L Lᵀ, so H⁻¹ = Uᵀ U with U = J L⁻¹ J, which is upper
/// triangular.
fn feedback(h: &[f32], size: usize) -> Option<Vec<f32>> {
    let mut lower: Vec<f64> = h.iter().rev().map(|&value| f64::from(value)).collect();
    factor(&mut lower, size)?;
    invert(&mut lower, size);
    Some(lower.iter().rev().map(|&value| value as f32).collect())
}

/// `A = L Lᵀ`, in place, zeros above L.
fn factor(a: &mut [f64], size: usize) -> Option<()> {
    for first in (0..size).step_by(BLOCK) {
        let end = (first + BLOCK).min(size);
        let (above, below) = a.split_at_mut(first * size);
        let rows = size - first;
        // A[first.., first..end] −= L[first.., ..first] · L[first..end, ..first]ᵀ
        let mut below = matrix_mut(below, rows, size);
        let (left, mut own) = below.view_mut().split_at(ndarray::Axis(1), first);
        let top = left.slice(s![..end - first, ..]).to_owned();
        let mut panel = own.slice_mut(s![.., ..end - first]);
        general_mat_mul(-1.0, &left, &top.t(), 1.0, &mut panel);
        for j in 0..end - first {
            let row = panel.row(j).to_owned();
            let pivot = row[j] - row.slice(s![..j]).dot(&row.slice(s![..j]));
            if pivot.is_nan() || pivot <= 0.0 {
                return None;
            }
            let root = pivot.sqrt();
            panel[[j, j]] = root;
            for i in j + 1..rows {
                let done = panel.slice(s![i, ..j]).dot(&row.slice(s![..j]));
                panel[[i, j]] = (panel[[i, j]] - done) / root;
            }
            panel.slice_mut(s![j, j + 1..]).fill(0.0);
        }
        let mut above = matrix_mut(above, first, size);
        above.slice_mut(s![.., first..end]).fill(0.0);
    }
    Some(())
}

/// `L ← L⁻¹`.
fn invert(l: &mut [f64], size: usize) {
    for first in (0..size).step_by(BLOCK) {
        let end = (first + BLOCK).min(size);
        let (done, own) = l.split_at_mut(first * size);
        let mut own = matrix_mut(own, end - first, size);
        // The rows above are inverted: S = L[own, ..first] · L⁻¹[..first, ..first].
        let left = own.slice(s![.., ..first]).to_owned();
        let mut sum = own.slice_mut(s![.., ..first]);
        general_mat_mul(
            1.0,
            &left,
            &matrix(done, first, size).slice(s![.., ..first]),
            0.0,
            &mut sum,
        );
        // Rows of −L_ii⁻¹ S and of L_ii⁻¹, by substitution.
        for i in 0..end - first {
            let row = own.slice(s![i, first..first + i]).to_owned();
            let pivot = own[[i, first + i]];
            let (above, mut rest) = own.view_mut().split_at(ndarray::Axis(0), i);
            let mut out = rest.row_mut(0);
            out.slice_mut(s![..first]).mapv_inplace(|value| -value);
            out.slice_mut(s![first..first + i]).fill(0.0);
            out[first + i] = 1.0;
            for (factor, above) in row.iter().zip(above.rows()) {
                out.slice_mut(s![..=first + i]).scaled_add(-factor, &above.slice(s![..=first + i]));
            }
            out.slice_mut(s![..=first + i]).mapv_inplace(|value| value / pivot);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::random;
    use crate::runtime::{Executor, Serial, Threads};
    use crate::train::device::Pool;

    fn inputs(rows: usize, size: usize) -> Vec<f32> {
        (0..(rows * size) as u64).map(|i| random::normal(7, 0, i)).collect()
    }

    #[test]
    fn the_hessian_is_the_damped_mean_of_the_products_whoever_adds_them_up() {
        let (pool, threads) = (Arc::new(Pool::default()), Threads::new(3).unwrap());
        let executors: [&dyn Executor; 2] = [&Serial, &threads];
        for size in [5, 128, 200] {
            let x = inputs(300, size);
            let hessians = executors.map(|executor| {
                let mut sum = Sum::new(size);
                x.chunks(100 * size).for_each(|x| sum.add(&Machine::new(executor, &pool), x));
                sum.finish().unwrap()
            });
            assert!(hessians[0].values == hessians[1].values);
            let exact = |i: usize, j: usize| {
                let terms = x.chunks_exact(size).map(|x| f64::from(x[i]) * f64::from(x[j]));
                terms.sum::<f64>() / 300.0
            };
            let mean = (0..size).map(|i| exact(i, i)).sum::<f64>() / size as f64;
            for (i, j) in [(0, 0), (size - 1, 2), (2, size - 1), (size / 2, size / 2)] {
                let expected = exact(i, j) + if i == j { 0.01 * mean } else { 0.0 };
                let found = f64::from(hessians[0].values[i * size + j]);
                assert!((found - expected).abs() < 1e-4, "{size} {i} {j}: {found} {expected}");
            }
        }
    }

    #[test]
    fn the_feedback_is_the_upper_factor_of_the_inverse() {
        let pool = Arc::new(Pool::default());
        for size in [1, 3, 64, 65, 200] {
            let mut sum = Sum::new(size);
            sum.add(&Machine::new(&Serial, &pool), &inputs(4 * size, size));
            let hessian = sum.finish().unwrap();
            let u = matrix(&hessian.feedback, size, size);
            let product = hessian.matrix().dot(&u.t()).dot(&u);
            for ((i, j), &found) in product.indexed_iter() {
                let expected = if i == j { 1.0 } else { 0.0 };
                assert!((found - expected).abs() < 1e-3, "{size} {i} {j}: {found}");
                assert!(i <= j || u[[i, j]] == 0.0);
            }
        }
    }

    #[test]
    fn inputs_that_are_zero_count_alike_and_those_that_are_not_finite_are_refused() {
        let pool = Arc::new(Pool::default());
        let machine = Machine::new(&Serial, &pool);
        let mut sum = Sum::new(3);
        sum.add(&machine, &[0.0; 6]);
        assert_eq!(sum.finish().unwrap().values, [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]);
        for bad in [f32::NAN, f32::INFINITY, 1e30] {
            let mut sum = Sum::new(2);
            sum.add(&machine, &[1.0, bad]);
            assert!(sum.finish().is_none());
        }
    }
}
