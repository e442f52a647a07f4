//! Layer normalization (arXiv 1607.06450): `y = (x − mean(x)) / √(var(x) + ε) · w + b` over the last dimension.
//!
//! Portable f32, which training has compiled for every instruction set; RMSNorm is in the kernels.

use crate::tensor::math;

/// A LayerNorm of a base.
#[derive(Debug, Clone, Copy)]
pub struct LayerNorm<'a> {
    /// w, `[dim]`.
    pub weight: &'a [f32],
    /// b, `[dim]`.
    pub bias: &'a [f32],
    /// ε.
    pub epsilon: f32,
}

impl LayerNorm<'_> {
    /// Normalizes every row of x, `[n, dim]`, in place.
    #[inline(always)]
    pub(crate) fn forward(&self, x: &mut [f32]) {
        for row in x.chunks_exact_mut(self.weight.len()) {
            let (mean, factor) = self.moments(row);
            for ((x, weight), bias) in row.iter_mut().zip(self.weight).zip(self.bias) {
                *x = (*x - mean) * factor * weight + bias;
            }
        }
    }

    /// The way back of [`forward`](Self::forward): of every row of x, `[n, dim]`, dy becomes dx. With i = 1/√(var + ε),
    /// n = (x − mean)·i and g = w ⊙ dy: `dx = i·(g − mean(g) − n·mean(g ⊙ n))`.
    #[cfg(feature = "std")]
    #[inline(always)]
    pub(crate) fn backward(&self, x: &[f32], d: &mut [f32]) {
        let width = self.weight.len();
        for (x, d) in x.chunks_exact(width).zip(d.chunks_exact_mut(width)) {
            let (mean, i) = self.moments(x);
            d.iter_mut().zip(self.weight).for_each(|(d, w)| *d *= w);
            let along = sum(d, |d| d) / width as f32;
            let turn = sum_of_two(d, x, |d, x| d * ((x - mean) * i)) / width as f32;
            d.iter_mut().zip(x).for_each(|(d, x)| *d = i * (*d - along - ((x - mean) * i) * turn));
        }
    }

    /// The mean of a row and `1 / √(var + ε)`.
    #[inline(always)]
    pub(crate) fn moments(&self, row: &[f32]) -> (f32, f32) {
        let n = row.len() as f32;
        let mean = sum(row, |value| value) / n;
        // Of the centred values: a difference of squares would cancel.
        let variance = sum(row, |value| (value - mean) * (value - mean)) / n;
        (mean, 1.0 / math::sqrt(variance + self.epsilon))
    }
}

/// Sums side by side: as fast as the compiler's vectors, and a shorter chain of roundings than one sum.
const SUMS: usize = 16;

/// Σ f(xᵢ).
#[inline(always)]
fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let (mut sums, chunks) = ([0.0f32; SUMS], x.chunks_exact(SUMS));
    let rest: f32 = chunks.remainder().iter().map(|&value| f(value)).sum();
    for chunk in chunks {
        sums.iter_mut().zip(chunk).for_each(|(sum, &value)| *sum += f(value));
    }
    sums.iter().sum::<f32>() + rest
}

/// Σ f(xᵢ, yᵢ) of two rows of one length.
#[cfg(feature = "std")]
#[inline(always)]
fn sum_of_two(x: &[f32], y: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let (mut sums, whole) = ([0.0f32; SUMS], x.len() / SUMS * SUMS);
    let rest: f32 = x[whole..].iter().zip(&y[whole..]).map(|(&x, &y)| f(x, y)).sum();
    for (x, y) in x.chunks_exact(SUMS).zip(y.chunks_exact(SUMS)) {
        sums.iter_mut().zip(x.iter().zip(y)).for_each(|(sum, (&x, &y))| *sum += f(x, y));
    }
    sums.iter().sum::<f32>() + rest
}

#[cfg(all(test, feature = "alloc"))]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    #[test]
    fn agrees_with_f64_also_far_from_zero() {
        for (n, offset) in [(1, 0.0), (7, 3.0), (16, -2.0), (100, 1000.0), (384, 0.5)] {
            let at = |i: usize, a: f32| ((i * i + 3 * i) % 17) as f32 * a - 1.0;
            let x: Vec<f32> = (0..n).map(|i| offset + at(i, 0.3)).collect();
            let (weight, bias): (Vec<f32>, Vec<f32>) = (0..n).map(|i| (at(i + 5, 0.2), at(i + 9, 0.1))).unzip();
            let mut ours = x.clone();
            LayerNorm { weight: &weight, bias: &bias, epsilon: 1e-12 }.forward(&mut ours);
            let wide: Vec<f64> = x.iter().map(|&v| v.into()).collect();
            let mean = wide.iter().sum::<f64>() / n as f64;
            let variance = wide.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n as f64;
            for i in 0..n {
                let expected = (wide[i] - mean) / (variance + 1e-12).sqrt() * f64::from(weight[i]) + f64::from(bias[i]);
                // The mean is rounded at the offset's scale.
                let tolerance = 1e-5 + 1e-6 * f64::from(offset.abs());
                assert!((f64::from(ours[i]) - expected).abs() <= tolerance, "{n} {offset} {i}: {} {expected}", ours[i]);
            }
        }
    }
}
