//! The block scales of some rows where their codes stay.
//!
//! With c_b the values of a row's codes in block b, and zeros elsewhere, q = Σ s_b c_b, and the best
//! scales solve
//!
//! ```text
//! M s = r,  M[a, b] = c_a H c_bᵀ,  r[b] = w H c_bᵀ
//! ```
//!
//! That is their best values. What is stored is one of 255 multiples of a group's scale: then every
//! scale in turn gets the best of these where all others stay.

use ndarray::linalg::general_mat_mul;
use ndarray::s;

use super::hessian::{Hessian, matrix, matrix_mut};
use super::rows::{Rows, level};
use crate::quant::double::{self, GROUP};

/// What is added to the diagonal of M, in parts of itself: a block of zeros has none.
const RIDGE: f64 = 1e-6;

/// Times that all rounded scales of a row are gone through at most.
const SWEEPS: usize = 4;

/// M, `[blocks, blocks]`, and r, `[blocks]`, of every row.
pub(super) struct Normal {
    blocks: usize,
    m: Vec<f64>,
    r: Vec<f64>,
}

impl Normal {
    pub(super) fn new(rows: &Rows<'_>, hessian: &Hessian) -> Self {
        let (size, block, count) = (hessian.size, rows.block, rows.count(hessian));
        let blocks = size / block;
        let levels: Vec<f32> = rows.codes.iter().map(|&code| level(code)).collect();
        let dot =
            |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum() };
        let mut normal =
            Self { blocks, m: vec![0.0; count * blocks * blocks], r: vec![0.0; count * blocks] };
        let mut product = vec![0.0; count * size];
        for b in 0..blocks {
            let (first, end) = (b * block, (b + 1) * block);
            // c_b H right of the diagonal: M is symmetric.
            let own = matrix(&levels, count, size);
            let h = hessian.matrix();
            let mut out = matrix_mut(&mut product, count, size);
            general_mat_mul(
                1.0,
                &own.slice(s![.., first..end]),
                &h.slice(s![first..end, first..]),
                0.0,
                &mut out.slice_mut(s![.., first..]),
            );
            for row in 0..count {
                let at = row * size;
                for a in b..blocks {
                    let range = at + a * block..at + (a + 1) * block;
                    let value = dot(&product[range.clone()], &levels[range]);
                    normal.m[(row * blocks + a) * blocks + b] = value;
                    normal.m[(row * blocks + b) * blocks + a] = value;
                }
                let range = at + first..at + end;
                normal.r[row * blocks + b] = dot(&rows.target[range.clone()], &levels[range]);
            }
        }
        normal
    }

    /// Every row's M, r and scales.
    fn each<'s>(
        &'s self,
        scales: &'s mut [f32],
    ) -> impl Iterator<Item = (&'s [f64], &'s [f64], &'s mut [f32])> {
        let blocks = self.blocks;
        let rows = self.m.chunks_exact(blocks * blocks).zip(self.r.chunks_exact(blocks));
        rows.zip(scales.chunks_exact_mut(blocks)).map(|((m, r), s)| (m, r, s))
    }

    /// The best scales, unrounded.
    pub(super) fn solve(&self, scales: &mut [f32]) {
        for (m, r, scales) in self.each(scales) {
            if let Some(best) = solve(m, r)
                && best.iter().all(|&scale| (scale as f32).is_finite())
            {
                scales.iter_mut().zip(best).for_each(|(scale, best)| *scale = best as f32);
            }
        }
    }

    /// Good scales among those that can be stored: of the rows from block `first` of the tensor on,
    /// into `codes`, which have the rounded scales so far.
    pub(super) fn round(
        &self,
        first: usize,
        grid: &Grid<'_>,
        scales: &mut [f32],
        codes: &mut [u8],
    ) {
        let blocks = self.blocks;
        let rows = self.each(scales).zip(codes.chunks_exact_mut(blocks)).enumerate();
        for (row, ((m, r, scales), codes)) in rows {
            for _ in 0..SWEEPS {
                let mut changed = false;
                for b in 0..blocks {
                    let line = &m[b * blocks..][..blocks];
                    if line[b] <= 0.0 {
                        continue;
                    }
                    let all: f64 = line.iter().zip(&*scales).map(|(m, s)| m * f64::from(*s)).sum();
                    let best = f64::from(scales[b]) + (r[b] - all) / line[b];
                    let (code, scale) = grid.nearest(first + row * blocks + b, best as f32);
                    changed |= code != codes[b];
                    (codes[b], scales[b]) = (code, scale);
                }
                if !changed {
                    break;
                }
            }
        }
    }
}

/// x of `m x = r`, by Cholesky; `None` if m is not positive definite.
fn solve(m: &[f64], r: &[f64]) -> Option<Vec<f64>> {
    let n = r.len();
    let mut l = m.to_vec();
    let mut x = r.to_vec();
    for i in 0..n {
        for j in 0..=i {
            let done: f64 = (0..j).map(|k| l[i * n + k] * l[j * n + k]).sum();
            let rest = l[i * n + j] - done;
            if i == j {
                let pivot = rest + RIDGE * m[i * n + i];
                if pivot.is_nan() || pivot <= 0.0 {
                    return None;
                }
                l[i * n + i] = pivot.sqrt();
            } else {
                l[i * n + j] = rest / l[j * n + j];
            }
        }
        let done: f64 = (0..i).map(|k| l[i * n + k] * x[k]).sum();
        x[i] = (x[i] - done) / l[i * n + i];
    }
    for i in (0..n).rev() {
        let done: f64 = (i + 1..n).map(|k| l[k * n + i] * x[k]).sum();
        x[i] = (x[i] - done) / l[i * n + i];
    }
    Some(x)
}

/// The scales that a tensor's groups can store.
pub(super) struct Grid<'g> {
    nested: &'g [f32],
}

impl<'g> Grid<'g> {
    pub(super) fn new(nested: &'g [f32]) -> Self {
        Self { nested }
    }

    /// The scales of groups for these scales of blocks: with them the largest of a group is stored as
    /// it is, whatever its sign. They are negative, which tells calibrated weights from others.
    pub(super) fn of(scales: &[f32]) -> Vec<f32> {
        let max = |group: &[f32]| group.iter().fold(0.0f32, |max, s| max.max(s.abs()));
        let nested = |group| (max(group) / double::MAP[0]).min(-f32::MIN_POSITIVE);
        scales.chunks(GROUP).map(nested).collect()
    }

    /// The code nearest to `scale` in block `index` of the tensor, and what it stands for.
    pub(super) fn nearest(&self, index: usize, scale: f32) -> (u8, f32) {
        let nested = self.nested[index / GROUP];
        let code = double::nearest((scale / nested).clamp(-1.0, 1.0));
        (code, double::decode(code, nested, 0.0))
    }
}
