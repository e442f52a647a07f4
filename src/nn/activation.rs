//! Activations of encoders, element by element. SwiGLU's is in the kernels.

use super::Pass;
use crate::kernel::Kernels;
use crate::tensor::columns::Parts;
use crate::tensor::math;

/// The function between two feed-forward layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Activation {
    /// `x · Φ(x) = x/2 · (1 + erf(x / √2))` (arXiv 1606.08415); transformers' `gelu`.
    Gelu,
    /// `x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))`; transformers' `gelu_new` and
    /// `gelu_pytorch_tanh`.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
}

impl Activation {
    /// The name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gelu => "gelu",
            Self::GeluTanh => "gelutanh",
            Self::Relu => "relu",
        }
    }

    /// Its value at x.
    #[inline]
    pub fn apply(self, x: f32) -> f32 {
        match self {
            Self::Gelu => gelu(x).0,
            Self::GeluTanh => {
                let inner = core::f32::consts::FRAC_2_SQRT_PI
                    * core::f32::consts::FRAC_1_SQRT_2
                    * (x + 0.044_715 * x * x * x);
                0.5 * x * (1.0 + math::tanh(inner))
            }
            // Not `max`: NaN must stay visible.
            Self::Relu => {
                if x < 0.0 {
                    0.0
                } else {
                    x
                }
            }
        }
    }
}

/// GELU and its slope: `x Φ(x)` and `Φ(x) + x φ(x)`, `φ(x) = e^(−x²/2) / √(2π)`.
///
/// `Φ(−|x|) = e^(−x²/2) · R(|x|)`, and R, which falls from 1/2 like 1/|x|, is a polynomial in `1 /
/// (1 + 0.39 |x|)`: least squares reweighted towards the smallest largest error, 1e-8. Without
/// branches or calls, so that loops over it become vector code.
#[inline(always)]
pub(crate) fn gelu(x: f32) -> (f32, f32) {
    const SLOW: f32 = 0.39;
    const R: [f32; 6] =
        [0.151_427_27, 0.194_435_27, -0.016_631_488, 0.375_163_14, -0.258_240_3, 0.053_846_136];
    const PHI_0: f32 = 0.5 * core::f32::consts::FRAC_2_SQRT_PI * core::f32::consts::FRAC_1_SQRT_2;
    let size = f32::from_bits(x.to_bits() & 0x7fff_ffff);
    let u = 1.0 / (1.0 + SLOW * size);
    let r = u * (R[0] + u * (R[1] + u * (R[2] + u * (R[3] + u * (R[4] + u * R[5])))));
    let e = exp_below_zero(-0.5 * x * x);
    let tail = e * r;
    let negative = x < 0.0;
    let value = x * tail;
    (
        if negative { value } else { x - value },
        if negative { tail } else { 1.0 - tail } + x * PHI_0 * e,
    )
}

/// e^z for z ≤ 0: `2^n · e^f`, n the nearest whole number to z / ln 2. Below −87 it is e^−87, about
/// 1e-38.
#[inline(always)]
fn exp_below_zero(z: f32) -> f32 {
    // Added to a number below 2²², it leaves the nearest whole number in the low bits.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts: the first has so few bits that n times it is exact.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    let z = if z < -87.0 { -87.0 } else { z };
    let shifted = z * core::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let f = z - n * LN_2[0] - n * LN_2[1];
    // |f| ≤ 0.35: the first term left out, f⁸ / 40320, is below 6e-9.
    let series = 1.0
        + f * (1.0
            + f * (0.5
                + f * (1.0 / 6.0
                    + f * (1.0 / 24.0 + f * (1.0 / 120.0 + f * (1.0 / 720.0 + f / 5040.0))))));
    series * f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000))
}

#[cfg(feature = "std")]
impl Activation {
    /// Its value at x, and its slope there.
    #[inline]
    pub(crate) fn with_slope(self, x: f32) -> (f32, f32) {
        match self {
            Self::Gelu => gelu(x),
            Self::GeluTanh => {
                const OUTER: f32 =
                    core::f32::consts::FRAC_2_SQRT_PI * core::f32::consts::FRAC_1_SQRT_2;
                const INNER: f32 = 0.044_715;
                let t = math::tanh(OUTER * (x + INNER * x * x * x));
                let rise = OUTER * (1.0 + 3.0 * INNER * x * x);
                (0.5 * x * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * rise)
            }
            Self::Relu => (self.apply(x), if x > 0.0 { 1.0 } else { 0.0 }),
        }
    }
}

/// Values that a lane handles at a time.
const PART: usize = 256;

/// `x ← f(x)`, shared out among lanes.
#[allow(unsafe_code, reason = "the split among lanes")]
pub(crate) fn activate(pass: &Pass<'_, '_>, activation: Activation, x: &mut [f32]) {
    let whole = x.len() - x.len() % PART;
    let (x, rest) = x.split_at_mut(whole);
    let (count, parts) = (whole / PART, Parts::new(x, PART));
    pass.executor.run(pass.lanes, &|lane| {
        for part in count * lane / pass.lanes..count * (lane + 1) / pass.lanes {
            // SAFETY: every part belongs to one lane.
            let part = unsafe { parts.part(part) };
            apply_all(pass.kernels, activation, part);
        }
    });
    apply_all(pass.kernels, activation, rest);
}

/// `x ← f(x)`.
pub(crate) fn apply_all(kernels: &Kernels, activation: Activation, x: &mut [f32]) {
    match activation {
        Activation::Gelu => kernels.gelu(x),
        other => x.iter_mut().for_each(|x| *x = other.apply(*x)),
    }
}

#[cfg(test)]
mod tests {
    #[cfg(feature = "std")]
    extern crate std;
    #[cfg(feature = "std")]
    use std::{vec, vec::Vec};

    use super::*;

    #[test]
    fn values_are_those_of_the_formulas_in_f64() {
        let known: [(f32, f64, f64); 5] = [
            (-3.0, -0.004_049_694_095, -0.003_637_392_082),
            (-0.5, -0.154_268_769_4, -0.154_285_990_1),
            (0.0, 0.0, 0.0),
            (1.0, 0.841_344_746_1, 0.841_191_990_6),
            (4.0, 3.999_873_315_0, 3.999_929_754_1),
        ];
        for (x, erf, tanh) in known {
            assert!(
                (f64::from(Activation::Gelu.apply(x)) - erf).abs() <= 3e-7,
                "{x}: {}",
                Activation::Gelu.apply(x)
            );
            assert!(
                (f64::from(Activation::GeluTanh.apply(x)) - tanh).abs() <= 3e-7,
                "{x}: {}",
                Activation::GeluTanh.apply(x)
            );
            assert_eq!(Activation::Relu.apply(x), x.max(0.0));
        }
        assert!(Activation::Relu.apply(f32::NAN).is_nan());
    }

    #[test]
    fn gelu_and_its_slope_are_those_of_libm() {
        for i in -400_000..=400_000 {
            let x = i as f32 * 5e-5;
            let wide = f64::from(x);
            let below = 0.5 * libm::erfc(-wide * core::f64::consts::FRAC_1_SQRT_2);
            let density = libm::exp(-0.5 * wide * wide) * 0.398_942_280_401_432_7;
            let (value, slope) = gelu(x);
            assert!(
                (f64::from(value) - wide * below).abs() <= 1e-7 * wide.abs().max(1.0),
                "gelu({x}): {value}"
            );
            assert!(
                (f64::from(slope) - below - wide * density).abs() <= 2e-7,
                "gelu'({x}): {slope}"
            );
        }
        assert!(gelu(f32::NAN).0.is_nan() && gelu(f32::NAN).1.is_nan());
        assert_eq!((gelu(1e30).0, gelu(-1e30).0.abs() < 1e-6), (1e30, true));
    }

    #[cfg(feature = "std")]
    #[test]
    fn kernels_agree_to_the_bit() {
        let x: Vec<f32> = (-1000..1003).map(|i| i as f32 * 0.011).collect();
        for kernels in crate::kernel::available() {
            let (mut values, mut slopes, mut other) = (x.clone(), x.clone(), vec![0.0; x.len()]);
            kernels.gelu(&mut values);
            kernels.gelu_with_slope(&mut slopes, &mut other);
            for (i, &x) in x.iter().enumerate() {
                assert_eq!(
                    (other[i].to_bits(), slopes[i].to_bits()),
                    (gelu(x).0.to_bits(), gelu(x).1.to_bits()),
                    "{} {x}",
                    kernels.name()
                );
                assert_eq!(values[i].to_bits(), other[i].to_bits());
            }
        }
    }
}
