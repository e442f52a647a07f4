//! Dot products, scaled additions, rounding to f16 and RMSNorm on AVX2, eight lanes at a time.

use core::arch::x86_64::*;

use half::f16;

use super::lanes::{load, narrow_f16, store, sum, widen_f16, widen_i8};
use crate::tensor::math;

/// Σ aᵢ·bᵢ in four chains of eight lanes: enough to hide the latency of a multiply-add. The lengths
/// are equal.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dot_with<T: Copy>(
    a: &[T],
    b: &[f32],
    widen: impl Fn(&[T; 8]) -> __m256,
    one: impl Fn(T) -> f32,
) -> f32 {
    let ((a8, a_rest), (b8, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let ((a32, a8), (b32, b8)) = (a8.as_chunks::<4>(), b8.as_chunks::<4>());
    let mut chains = [_mm256_setzero_ps(); 4];
    for (a, b) in a32.iter().zip(b32) {
        for i in 0..4 {
            chains[i] = _mm256_fmadd_ps(widen(&a[i]), load(&b[i]), chains[i]);
        }
    }
    for (a, b) in a8.iter().zip(b8) {
        chains[0] = _mm256_fmadd_ps(widen(a), load(b), chains[0]);
    }
    let [c0, c1, c2, c3] = chains;
    let total = sum(_mm256_add_ps(_mm256_add_ps(c0, c1), _mm256_add_ps(c2, c3)));
    a_rest.iter().zip(b_rest).fold(total, |total, (&a, &b)| total + one(a) * b)
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::kernel) fn dot(a: &[f32], b: &[f32]) -> f32 {
    dot_with(a, b, |a| load(a), |a| a)
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::kernel) fn dot_f16(a: &[u16], b: &[f32]) -> f32 {
    dot_with(a, b, |a| widen_f16(a), |bits| f16::from_bits(bits).to_f32())
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::kernel) fn dot_i8(a: &[i8], b: &[f32]) -> f32 {
    dot_with(a, b, |a| widen_i8(a), f32::from)
}

/// yᵢ += s·aᵢ. The lengths are equal.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn axpy_with<T: Copy>(
    s: f32,
    a: &[T],
    y: &mut [f32],
    widen: impl Fn(&[T; 8]) -> __m256,
    one: impl Fn(T) -> f32,
) {
    let ((a8, a_rest), (y8, y_rest)) = (a.as_chunks::<8>(), y.as_chunks_mut::<8>());
    let scale = _mm256_set1_ps(s);
    for (y, a) in y8.iter_mut().zip(a8) {
        let sum = _mm256_fmadd_ps(scale, widen(a), load(y));
        store(y, sum);
    }
    y_rest.iter_mut().zip(a_rest).for_each(|(y, &a)| *y += s * one(a));
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::kernel) fn axpy(s: f32, a: &[f32], y: &mut [f32]) {
    axpy_with(s, a, y, |a| load(a), |a| a);
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::kernel) fn axpy_f16(s: f32, a: &[u16], y: &mut [f32]) {
    axpy_with(s, a, y, |a| widen_f16(a), |bits| f16::from_bits(bits).to_f32());
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::kernel) fn axpy_i8(s: f32, a: &[i8], y: &mut [f32]) {
    axpy_with(s, a, y, |a| widen_i8(a), f32::from);
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::kernel) fn to_f16(x: &[f32], out: &mut [u16]) {
    let ((x8, x_rest), (out8, out_rest)) = (x.as_chunks::<8>(), out.as_chunks_mut::<8>());
    out8.iter_mut().zip(x8).for_each(|(out, x)| narrow_f16(out, load(x)));
    out_rest.iter_mut().zip(x_rest).for_each(|(out, &x)| *out = f16::from_f32(x).to_bits());
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::kernel) fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    let scale = 1.0 / math::sqrt(dot(x, x) / x.len() as f32 + epsilon);
    let ((x8, x_rest), (w8, w_rest), (out8, out_rest)) =
        (x.as_chunks::<8>(), weight.as_chunks::<8>(), out.as_chunks_mut::<8>());
    let scales = _mm256_set1_ps(scale);
    for ((out, x), w) in out8.iter_mut().zip(x8).zip(w8) {
        store(out, _mm256_mul_ps(_mm256_mul_ps(load(x), scales), load(w)));
    }
    out_rest.iter_mut().zip(x_rest).zip(w_rest).for_each(|((out, x), w)| *out = x * scale * w);
}
