//! e^x, softmax and SwiGLU's gate on AVX2; `kernel::exponential` has the method and its numbers.

use core::arch::x86_64::*;

use super::lanes::{largest, load, store, sum};
use crate::kernel::exponential::{HIGHEST, LN2_HIGH, LN2_LOW, LOWEST, P};
use crate::kernel::{SoftmaxStep, scalar};

/// e^x in every lane; 0 at −∞, ∞ at ∞, NaN at NaN.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn exp(x: __m256) -> __m256 {
    // Lanes whose result is 0 are masked before computing: a product too small for a normal number
    // takes these CPUs a hundred cycles.
    let zero = _mm256_cmp_ps::<_CMP_LT_OQ>(x, _mm256_set1_ps(LOWEST));
    // The variable stands second: the minimum hands on a NaN there.
    let x = _mm256_min_ps(_mm256_set1_ps(HIGHEST), _mm256_andnot_ps(zero, x));
    let n = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(_mm256_mul_ps(
        x,
        _mm256_set1_ps(core::f32::consts::LOG2_E),
    ));
    let r = _mm256_fnmadd_ps(n, _mm256_set1_ps(LN2_HIGH), x);
    let r = _mm256_fnmadd_ps(n, _mm256_set1_ps(LN2_LOW), r);
    let mut p = _mm256_set1_ps(P[4]);
    for k in (0..4).rev() {
        p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(P[k]));
    }
    let one = _mm256_set1_ps(1.0);
    let value = _mm256_add_ps(_mm256_fmadd_ps(_mm256_mul_ps(r, r), p, r), one);
    let n = _mm256_cvtps_epi32(n);
    let half = _mm256_srai_epi32::<1>(n);
    let value = _mm256_mul_ps(
        _mm256_mul_ps(value, power_of_two(half)),
        power_of_two(_mm256_sub_epi32(n, half)),
    );
    _mm256_andnot_ps(zero, value)
}

/// 2ⁿ for n in -126 to 127.
#[inline]
#[target_feature(enable = "avx2")]
fn power_of_two(n: __m256i) -> __m256 {
    _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(n, _mm256_set1_epi32(127))))
}

#[target_feature(enable = "avx2,fma")]
pub(in crate::kernel) fn softmax(x: &mut [f32]) {
    let (x8, rest) = x.as_chunks_mut::<8>();
    let max =
        x8.iter().fold(_mm256_set1_ps(f32::NEG_INFINITY), |max, x| _mm256_max_ps(load(x), max));
    let max = rest.iter().copied().fold(largest(max), f32::max);
    let mut total = _mm256_setzero_ps();
    for x in x8.iter_mut() {
        let e = exp(_mm256_sub_ps(load(x), _mm256_set1_ps(max)));
        total = _mm256_add_ps(total, e);
        store(x, e);
    }
    let mut total = sum(total);
    for x in rest.iter_mut() {
        *x = exp_one(*x - max);
        total += *x;
    }
    x8.iter_mut().for_each(|x| store(x, _mm256_div_ps(load(x), _mm256_set1_ps(total))));
    rest.iter_mut().for_each(|x| *x /= total);
}

#[target_feature(enable = "avx2,fma")]
pub(in crate::kernel) fn softmax_step(x: &mut [f32], scale: f32, max: f32) -> SoftmaxStep {
    let (x8, rest) = x.as_chunks_mut::<8>();
    let largest8 =
        x8.iter().fold(_mm256_set1_ps(f32::NEG_INFINITY), |max, x| _mm256_max_ps(load(x), max));
    let largest = rest.iter().copied().fold(largest(largest8), f32::max);
    let largest = f32::max(max, scale * largest);
    let (scales, shift) = (_mm256_set1_ps(scale), _mm256_set1_ps(largest));
    let mut total = _mm256_setzero_ps();
    for x in x8.iter_mut() {
        let e = exp(_mm256_sub_ps(_mm256_mul_ps(load(x), scales), shift));
        total = _mm256_add_ps(total, e);
        store(x, e);
    }
    let mut total = sum(total);
    for x in rest.iter_mut() {
        *x = exp_one(*x * scale - largest);
        total += *x;
    }
    SoftmaxStep {
        max: largest,
        sum: total,
        rescale: if max == largest { 1.0 } else { exp_one(max - largest) },
    }
}

/// The vector's e^x for one number, so that a number's place in a slice does not change its value.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn exp_one(x: f32) -> f32 {
    _mm256_cvtss_f32(exp(_mm256_set1_ps(x)))
}

#[target_feature(enable = "avx2,fma")]
pub(in crate::kernel) fn silu_mul(gate: &mut [f32], up: &[f32]) {
    let ((gate8, gate_rest), (up8, up_rest)) = (gate.as_chunks_mut::<8>(), up.as_chunks::<8>());
    for (gate, up) in gate8.iter_mut().zip(up8) {
        let value = _mm256_mul_ps(silu(load(gate)), load(up));
        store(gate, value);
    }
    for (gate, up) in gate_rest.iter_mut().zip(up_rest) {
        *gate = _mm256_cvtss_f32(silu(_mm256_set1_ps(*gate))) * up;
    }
}

/// z / (1 + e^−z).
#[inline]
#[target_feature(enable = "avx2,fma")]
fn silu(z: __m256) -> __m256 {
    let z = _mm256_max_ps(_mm256_set1_ps(scalar::SILU_ZERO), z);
    _mm256_div_ps(z, _mm256_add_ps(_mm256_set1_ps(1.0), exp(_mm256_sub_ps(_mm256_setzero_ps(), z))))
}

/// The portable loop, as vectors of eight.
#[target_feature(enable = "avx2")]
pub(in crate::kernel) fn gelu(x: &mut [f32]) {
    scalar::gelu(x);
}

/// As [`gelu`].
#[cfg(feature = "train")]
#[target_feature(enable = "avx2")]
pub(in crate::kernel) fn gelu_and_derivative(x: &mut [f32], y: &mut [f32]) {
    scalar::gelu_and_derivative(x, y);
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::eprintln;

    use super::*;

    #[target_feature(enable = "avx2,fma")]
    fn exp_of(x: f32) -> f32 {
        exp_one(x)
    }

    #[test]
    fn exp_is_within_two_units_of_f64_and_has_the_right_limits() {
        if crate::kernel::by_name("avx2").is_none() {
            return eprintln!("SKIPPED: this CPU cannot run avx2");
        }
        // SAFETY: the line above.
        let exp = |x: f32| unsafe { exp_of(x) };
        for i in 0..2_000_000 {
            let x = -87.3 + i as f32 * (176.0 / 2_000_000.0);
            let expected = f64::from(x).exp();
            let error = (f64::from(exp(x)) - expected).abs() / expected;
            assert!(error <= 2e-7, "exp({x}): {error:e}");
        }
        for x in [-87.4f32, -90.0, -95.5, -103.0] {
            assert!((f64::from(exp(x)) - f64::from(x).exp()).abs() <= 1.5e-45, "exp({x})");
        }
        assert_eq!([-104.0, -1e30, f32::NEG_INFINITY].map(exp), [0.0; 3]);
        assert_eq!([88.73, 1e30, f32::INFINITY].map(exp), [f32::INFINITY; 3]);
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NAN).is_nan());
    }
}
