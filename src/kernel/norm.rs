//! Layer normalization (arXiv 1607.06450): `y = (x − mean(x)) / √(var(x) + ε) · w + b` over the
//! last dimension.
//!
//! Portable f32, compiled for every instruction set; RMSNorm is in the kernels.

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

    /// The backward pass of [`forward`](Self::forward): of every row of x, `[n, dim]`, dy becomes
    /// dx. With i = 1/√(var + ε), n = (x − mean)·i and g = w ⊙ dy: `dx = i·(g − mean(g) − n·mean(g
    /// ⊙ n))`.
    #[cfg(feature = "train")]
    #[inline(always)]
    pub(crate) fn backward(&self, x: &[f32], d: &mut [f32]) {
        let width = self.weight.len();
        for (x, d) in x.chunks_exact(width).zip(d.chunks_exact_mut(width)) {
            let (mean, i) = self.moments(x);
            d.iter_mut().zip(self.weight).for_each(|(d, w)| *d *= w);
            let along = sum(d, x, |d, _| d) / width as f32;
            let turn = sum(d, x, |d, x| d * ((x - mean) * i)) / width as f32;
            d.iter_mut().zip(x).for_each(|(d, x)| *d = i * (*d - along - ((x - mean) * i) * turn));
        }
    }

    /// The mean of a row and `1 / √(var + ε)`.
    #[inline(always)]
    pub(crate) fn moments(&self, row: &[f32]) -> (f32, f32) {
        let n = row.len() as f32;
        let mean = sum(row, row, |value, _| value) / n;
        // Of the centred values: a difference of squares would cancel.
        let variance = sum(row, row, |value, _| (value - mean) * (value - mean)) / n;
        (mean, 1.0 / math::sqrt(variance + self.epsilon))
    }
}

/// Σ f(xᵢ, yᵢ) of rows of one length, in 16 sums side by side: as fast as the compiler's vectors,
/// and a shorter chain of roundings than one sum.
#[inline(always)]
fn sum(x: &[f32], y: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    const SUMS: usize = 16;
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
            let (weight, bias): (Vec<f32>, Vec<f32>) =
                (0..n).map(|i| (at(i + 5, 0.2), at(i + 9, 0.1))).unzip();
            let mut ours = x.clone();
            LayerNorm { weight: &weight, bias: &bias, epsilon: 1e-12 }.forward(&mut ours);
            let wide: Vec<f64> = x.iter().map(|&v| v.into()).collect();
            let mean = wide.iter().sum::<f64>() / n as f64;
            let variance = wide.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n as f64;
            for i in 0..n {
                let expected = (wide[i] - mean) / (variance + 1e-12).sqrt() * f64::from(weight[i])
                    + f64::from(bias[i]);
                // The mean is rounded at the offset's scale.
                let tolerance = 1e-5 + 1e-6 * f64::from(offset.abs());
                assert!(
                    (f64::from(ours[i]) - expected).abs() <= tolerance,
                    "{n} {offset} {i}: {} {expected}",
                    ours[i]
                );
            }
        }
    }

    #[cfg(feature = "train")]
    #[test]
    fn the_way_back_agrees_with_f64_and_kernels_with_both() {
        let kernels = crate::kernel::kernels();
        for n in [1, 7, 16, 31, 100, 384] {
            let at = |i: usize, a: f32| ((i * i + 3 * i) % 17) as f32 * a - 1.0;
            // Two rows.
            let x: Vec<f32> = (0..2 * n).map(|i| at(i, 0.3)).collect();
            let dy: Vec<f32> = (0..2 * n).map(|i| at(i + 2, 0.15)).collect();
            let (weight, bias): (Vec<f32>, Vec<f32>) =
                (0..n).map(|i| (at(i + 5, 0.2), at(i + 9, 0.1))).unzip();
            let norm = LayerNorm { weight: &weight, bias: &bias, epsilon: 1e-3 };

            let (mut ours, mut theirs) = (x.clone(), x.clone());
            norm.forward(&mut ours);
            kernels.layer_norm(&norm, &mut theirs);
            assert_eq!(ours, theirs);

            let (mut portable, mut d) = (dy.clone(), dy.clone());
            norm.backward(&x, &mut portable);
            kernels.layer_norm_back(&norm, &x, &mut d);
            assert_eq!(d, portable);
            for ((x, dy), d) in x.chunks(n).zip(dy.chunks(n)).zip(d.chunks(n)) {
                let count = n as f64;
                let wide: Vec<f64> = x.iter().map(|&v| v.into()).collect();
                let mean = wide.iter().sum::<f64>() / count;
                let i = 1.0
                    / (wide.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / count + 1e-3)
                        .sqrt();
                let g: Vec<f64> =
                    dy.iter().zip(&weight).map(|(&d, &w)| f64::from(d) * f64::from(w)).collect();
                let along = g.iter().sum::<f64>() / count;
                let turn =
                    g.iter().zip(&wide).map(|(g, v)| g * (v - mean) * i).sum::<f64>() / count;
                for ((d, g), v) in d.iter().zip(&g).zip(&wide) {
                    let expected = i * (g - along - (v - mean) * i * turn);
                    assert!(
                        (f64::from(*d) - expected).abs() <= 1e-5 * i.max(1.0),
                        "{n}: {d} {expected}"
                    );
                }
            }
        }
    }
}
