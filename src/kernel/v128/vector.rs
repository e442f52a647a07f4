//! Dot products, scaled additions, rounding to f16 and RMSNorm on 128-bit vectors, eight numbers at
//! a time.

use half::f16;

use super::{Simd, sums};
use crate::tensor::math;

/// Eight floats.
#[inline(always)]
pub(super) fn load<S: Simd>(x: &[f32; 8]) -> [S::Floats; 2] {
    let x = x.as_chunks::<4>().0;
    [S::load(&x[0]), S::load(&x[1])]
}

/// Eight floats back to memory.
#[inline(always)]
pub(super) fn store<S: Simd>(out: &mut [f32; 8], v: [S::Floats; 2]) {
    out.as_chunks_mut::<4>().0.iter_mut().zip(v).for_each(|(out, v)| S::store(out, v));
}

/// Σ aᵢ·bᵢ in four chains of four lanes: enough to hide the latency of a multiply-add. The lengths
/// are equal.
#[inline(always)]
fn dot_with<S: Simd, T: Copy>(
    a: &[T],
    b: &[f32],
    widen: impl Fn(&[T; 8]) -> [S::Floats; 2],
    one: impl Fn(T) -> f32,
) -> f32 {
    let ((a8, a_rest), (b8, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let ((a16, a8), (b16, b8)) = (a8.as_chunks::<2>(), b8.as_chunks::<2>());
    let mut chains = [S::splat(0.0); 4];
    let step = |chains: &mut [S::Floats], a, b| {
        let (a, b) = (widen(a), load::<S>(b));
        (0..2).for_each(|k| chains[k] = S::mul_add(a[k], b[k], chains[k]));
    };
    for (a, b) in a16.iter().zip(b16) {
        step(&mut chains[..2], &a[0], &b[0]);
        step(&mut chains[2..], &a[1], &b[1]);
    }
    for (a, b) in a8.iter().zip(b8) {
        step(&mut chains[..2], a, b);
    }
    let [c0, c1, c2, c3] = chains;
    let total = S::add(S::add(c0, c1), S::add(c2, c3));
    let [total, ..] = sums::<S>([total; 4]);
    a_rest.iter().zip(b_rest).fold(total, |total, (&a, &b)| total + one(a) * b)
}

pub(super) fn dot<S: Simd>(a: &[f32], b: &[f32]) -> f32 {
    dot_with::<S, _>(a, b, load::<S>, |a| a)
}

pub(super) fn dot_f16<S: Simd>(a: &[u16], b: &[f32]) -> f32 {
    dot_with::<S, _>(a, b, S::widen_f16, |bits| f16::from_bits(bits).to_f32())
}

pub(super) fn dot_i8<S: Simd>(a: &[i8], b: &[f32]) -> f32 {
    dot_with::<S, _>(a, b, S::widen_i8, f32::from)
}

/// yᵢ += s·aᵢ. The lengths are equal.
#[inline(always)]
fn axpy_with<S: Simd, T: Copy>(
    s: f32,
    a: &[T],
    y: &mut [f32],
    widen: impl Fn(&[T; 8]) -> [S::Floats; 2],
    one: impl Fn(T) -> f32,
) {
    let ((a8, a_rest), (y8, y_rest)) = (a.as_chunks::<8>(), y.as_chunks_mut::<8>());
    let scale = S::splat(s);
    for (y, a) in y8.iter_mut().zip(a8) {
        let (a, old) = (widen(a), load::<S>(y));
        store::<S>(y, [S::mul_add(scale, a[0], old[0]), S::mul_add(scale, a[1], old[1])]);
    }
    y_rest.iter_mut().zip(a_rest).for_each(|(y, &a)| *y += s * one(a));
}

pub(super) fn axpy<S: Simd>(s: f32, a: &[f32], y: &mut [f32]) {
    axpy_with::<S, _>(s, a, y, load::<S>, |a| a);
}

pub(super) fn axpy_f16<S: Simd>(s: f32, a: &[u16], y: &mut [f32]) {
    axpy_with::<S, _>(s, a, y, S::widen_f16, |bits| f16::from_bits(bits).to_f32());
}

pub(super) fn axpy_i8<S: Simd>(s: f32, a: &[i8], y: &mut [f32]) {
    axpy_with::<S, _>(s, a, y, S::widen_i8, f32::from);
}

pub(super) fn to_f16<S: Simd>(x: &[f32], out: &mut [u16]) {
    let ((x8, x_rest), (out8, out_rest)) = (x.as_chunks::<8>(), out.as_chunks_mut::<8>());
    out8.iter_mut().zip(x8).for_each(|(out, x)| S::narrow_f16(out, load::<S>(x)));
    out_rest.iter_mut().zip(x_rest).for_each(|(out, &x)| *out = f16::from_f32(x).to_bits());
}

pub(super) fn rms_norm<S: Simd>(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    let scale = 1.0 / math::sqrt(dot::<S>(x, x) / x.len() as f32 + epsilon);
    let ((x4, x_rest), (w4, w_rest), (out4, out_rest)) =
        (x.as_chunks::<4>(), weight.as_chunks::<4>(), out.as_chunks_mut::<4>());
    let scales = S::splat(scale);
    for ((out, x), w) in out4.iter_mut().zip(x4).zip(w4) {
        S::store(out, S::mul(S::mul(S::load(x), scales), S::load(w)));
    }
    out_rest.iter_mut().zip(x_rest).zip(w_rest).for_each(|((out, x), w)| *out = x * scale * w);
}
