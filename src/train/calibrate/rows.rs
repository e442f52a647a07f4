//! Some rows of a weight on their way to NF4, with the Hessian of their inputs: error feedback, and
//! codes one at a time.
//!
//! A row w becomes q = s ⊙ CODEBOOK[codes], one scale s a block; what counts is (q − w) H (q − w)ᵀ. No
//! row depends on another.

use ndarray::linalg::general_mat_mul;
use ndarray::s;

use super::hessian::{Hessian, matrix, matrix_mut};
use crate::kernel::kernels;
use crate::quant::nf4::{CODEBOOK, encode};

/// Scales that are tried, in parts of the largest weight, with either sign.
const TRIED: [f32; 9] = [0.72, 0.77, 0.82, 0.87, 0.91, 0.95, 0.99, 1.03, 1.07];

/// The code that 0 has: of blocks whose scale is 0.
const ZERO: u8 = 7;

/// Rows, `[rows, size]`, with their codes and scales.
pub(super) struct Rows<'r> {
    /// What they are to be like.
    pub(super) weights: &'r [f32],
    /// weights · H.
    pub(super) target: &'r mut [f32],
    pub(super) codes: &'r mut [u8],
    /// One a block, `[rows, size / block]`.
    pub(super) scales: &'r mut [f32],
    pub(super) block: usize,
}

/// The code of `value` under `scale`.
fn code(value: f32, scale: f32) -> u8 {
    if scale == 0.0 { ZERO } else { encode((value / scale).clamp(-1.0, 1.0)) }
}

/// What a code stands for in parts of the scale.
pub(super) fn level(code: u8) -> f32 {
    CODEBOOK[usize::from(code & 15)]
}

impl Rows<'_> {
    pub(super) fn count(&self, hessian: &Hessian) -> usize {
        self.weights.len() / hessian.size
    }

    /// GPTQ (arXiv 2210.17323) over blocks of NF4: the scale of a block is searched when its turn
    /// comes, every weight is rounded under it, and what its rounding did is made good by those
    /// behind it as far as they can.
    pub(super) fn feed_back(&mut self, hessian: &Hessian) {
        let (size, block, count) = (hessian.size, self.block, self.count(hessian));
        let mut w = self.weights.to_vec();
        let mut errors = vec![0.0; count * block];
        let u = matrix(&hessian.feedback, size, size);
        for first in (0..size).step_by(block) {
            let end = first + block;
            let importance: Vec<f32> = (first..end).map(|i| hessian.diagonal(i)).collect();
            for (row, w) in w.chunks_exact_mut(size).enumerate() {
                let scale = search(&w[first..end], &importance);
                self.scales[row * (size / block) + first / block] = scale;
                let codes = &mut self.codes[row * size..][first..end];
                let errors = &mut errors[row * block..][..block];
                for i in first..end {
                    let code = code(w[i], scale);
                    let u = &hessian.feedback[i * size..][i..end];
                    let error = (w[i] - scale * level(code)) / u[0];
                    (codes[i - first], errors[i - first]) = (code, error);
                    w[i + 1..end].iter_mut().zip(&u[1..]).for_each(|(w, u)| *w -= error * u);
                }
            }
            let mut w = matrix_mut(&mut w, count, size);
            let errors = matrix(&errors, count, block);
            let behind = u.slice(s![first..end, end..]);
            general_mat_mul(-1.0, &errors, &behind, 1.0, &mut w.slice_mut(s![.., end..]));
        }
    }

    /// The rows as codes and scales have them.
    pub(super) fn values(&self) -> Vec<f32> {
        let blocks = self.codes.chunks_exact(self.block).zip(&*self.scales);
        blocks.flat_map(|(codes, &scale)| codes.iter().map(move |&c| scale * level(c))).collect()
    }

    /// (q − w) H, `[rows, size]`.
    fn gradient(&self, hessian: &Hessian) -> Vec<f32> {
        let (size, count) = (hessian.size, self.count(hessian));
        let mut gradient = self.target.to_vec();
        let values = self.values();
        let mut out = matrix_mut(&mut gradient, count, size);
        general_mat_mul(1.0, &matrix(&values, count, size), &hessian.matrix(), -1.0, &mut out);
        gradient
    }

    /// Every weight in turn gets the code that is best where all others stay: `sweeps` times, or
    /// until none changes.
    pub(super) fn descend(&mut self, hessian: &Hessian, sweeps: usize) {
        let (size, block) = (hessian.size, self.block);
        let (kernels, mut gradient) = (kernels(), self.gradient(hessian));
        for _ in 0..sweeps {
            let mut changed = false;
            for i in 0..size {
                let (h, curvature) = (&hessian.values[i * size..][..size], hessian.diagonal(i));
                let rows = self.codes.chunks_exact_mut(size).zip(gradient.chunks_exact_mut(size));
                for ((codes, gradient), scales) in rows.zip(self.scales.chunks_exact(size / block))
                {
                    let scale = scales[i / block];
                    let now = scale * level(codes[i]);
                    let best = code(now - gradient[i] / curvature, scale);
                    if best == codes[i] {
                        continue;
                    }
                    (codes[i], changed) = (best, true);
                    let step = scale * level(best) - now;
                    kernels.axpy(step, h, gradient);
                }
            }
            if !changed {
                return;
            }
        }
    }
}

/// The scale of either sign that leaves a block with the smallest Σ h (w − s q)² among those tried: of
/// the codes that a scale gives the best one is Σ h w q / Σ h q².
fn search(block: &[f32], importance: &[f32]) -> f32 {
    let max = block.iter().fold(0.0f32, |max, &w| max.max(w.abs()));
    if max == 0.0 || !max.is_finite() {
        return 0.0;
    }
    let (mut best, mut most) = (0.0, 0.0);
    for tried in TRIED.into_iter().flat_map(|tried| [tried, -tried]) {
        let scale = tried * max;
        let (mut mixed, mut squared) = (0.0, 0.0);
        for (&w, &h) in block.iter().zip(importance) {
            let q = nearest_level(w / scale);
            mixed += h * w * q;
            squared += h * q * q;
        }
        let gain = mixed * mixed / squared;
        if gain > most {
            (best, most) = (mixed / squared, gain);
        }
    }
    best
}

/// The value of the codebook that is nearest: steps are added up, which vectorizes.
fn nearest_level(x: f32) -> f32 {
    CODEBOOK.windows(2).fold(CODEBOOK[0], |q, pair| {
        let middle = (pair[0] + pair[1]) / 2.0;
        q + if x > middle { pair[1] - pair[0] } else { 0.0 }
    })
}
