//! e^x, softmax and SwiGLU's gate on 128-bit vectors; `kernel::exponential` has the method and its
//! numbers.

use super::{Simd, first, sums};
use crate::kernel::exponential::{HIGHEST, LN2_HIGH, LN2_LOW, LOWEST, P};
use crate::kernel::{SoftmaxStep, scalar};

/// e^x in every lane; 0 at −∞, ∞ at ∞, NaN at NaN.
#[inline(always)]
fn exp<S: Simd>(x: S::Floats) -> S::Floats {
    let x = S::min(S::splat(HIGHEST), S::max(S::splat(LOWEST), x));
    let n = S::round(S::mul(x, S::splat(core::f32::consts::LOG2_E)));
    let r = S::mul_add(n, S::splat(-LN2_HIGH), x);
    let r = S::mul_add(n, S::splat(-LN2_LOW), r);
    let p = P[..4].iter().rev().fold(S::splat(P[4]), |p, &k| S::mul_add(p, r, S::splat(k)));
    let value = S::add(S::mul_add(S::mul(r, r), p, r), S::splat(1.0));
    S::times_power_of_two(value, n)
}

pub(super) fn softmax<S: Simd>(x: &mut [f32]) {
    let (x4, rest) = x.as_chunks_mut::<4>();
    let max = x4.iter().fold(S::splat(f32::NEG_INFINITY), |max, x| S::max(S::load(x), max));
    let max = rest.iter().copied().fold(S::largest(max), f32::max);
    let mut total = S::splat(0.0);
    for x in x4.iter_mut() {
        let e = exp::<S>(S::sub(S::load(x), S::splat(max)));
        total = S::add(total, e);
        S::store(x, e);
    }
    let [mut total, ..] = sums::<S>([total; 4]);
    for x in rest.iter_mut() {
        // The vector's e^x, so that a number's place in a slice does not change its value.
        *x = first::<S>(exp::<S>(S::splat(*x - max)));
        total += *x;
    }
    x4.iter_mut().for_each(|x| S::store(x, S::div(S::load(x), S::splat(total))));
    rest.iter_mut().for_each(|x| *x /= total);
}

pub(super) fn softmax_step<S: Simd>(x: &mut [f32], scale: f32, max: f32) -> SoftmaxStep {
    let (x4, rest) = x.as_chunks_mut::<4>();
    let largest = x4.iter().fold(S::splat(f32::NEG_INFINITY), |max, x| S::max(S::load(x), max));
    let largest = rest.iter().copied().fold(S::largest(largest), f32::max);
    let largest = f32::max(max, scale * largest);
    let mut total = S::splat(0.0);
    for x in x4.iter_mut() {
        let e = exp::<S>(S::sub(S::mul(S::load(x), S::splat(scale)), S::splat(largest)));
        total = S::add(total, e);
        S::store(x, e);
    }
    let [mut total, ..] = sums::<S>([total; 4]);
    for x in rest.iter_mut() {
        *x = first::<S>(exp::<S>(S::splat(*x * scale - largest)));
        total += *x;
    }
    let rescale = if max == largest { 1.0 } else { first::<S>(exp::<S>(S::splat(max - largest))) };
    SoftmaxStep { max: largest, sum: total, rescale }
}

pub(super) fn silu_mul<S: Simd>(gate: &mut [f32], up: &[f32]) {
    let ((gate4, gate_rest), (up4, up_rest)) = (gate.as_chunks_mut::<4>(), up.as_chunks::<4>());
    for (gate, up) in gate4.iter_mut().zip(up4) {
        let value = S::mul(silu::<S>(S::load(gate)), S::load(up));
        S::store(gate, value);
    }
    for (gate, up) in gate_rest.iter_mut().zip(up_rest) {
        *gate = first::<S>(silu::<S>(S::splat(*gate))) * up;
    }
}

/// z / (1 + e^−z).
#[inline(always)]
fn silu<S: Simd>(z: S::Floats) -> S::Floats {
    let z = S::max(S::splat(scalar::SILU_ZERO), z);
    S::div(z, S::add(S::splat(1.0), exp::<S>(S::sub(S::splat(0.0), z))))
}
