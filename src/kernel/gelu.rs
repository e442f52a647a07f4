//! GELU (arXiv 1606.08415) and its derivative, element by element: portable code without branches or
//! calls, which every instruction set compiles with its own registers, to the same bits.

/// GELU and its derivative: `x Φ(x)` and `Φ(x) + x φ(x)`, `φ(x) = e^(−x²/2) / √(2π)`.
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

#[cfg(test)]
mod tests {
    #[cfg(feature = "train")]
    extern crate std;
    #[cfg(feature = "train")]
    use std::{vec, vec::Vec};

    use super::*;

    #[test]
    fn gelu_and_its_derivative_are_those_of_libm() {
        for i in -400_000..=400_000 {
            let x = i as f32 * 5e-5;
            let wide = f64::from(x);
            let below = 0.5 * libm::erfc(-wide * core::f64::consts::FRAC_1_SQRT_2);
            let density = libm::exp(-0.5 * wide * wide) * 0.398_942_280_401_432_7;
            let (value, derivative) = gelu(x);
            assert!(
                (f64::from(value) - wide * below).abs() <= 1e-7 * wide.abs().max(1.0),
                "gelu({x}): {value}"
            );
            assert!(
                (f64::from(derivative) - below - wide * density).abs() <= 2e-7,
                "gelu'({x}): {derivative}"
            );
        }
        assert!(gelu(f32::NAN).0.is_nan() && gelu(f32::NAN).1.is_nan());
        assert_eq!((gelu(1e30).0, gelu(-1e30).0.abs() < 1e-6), (1e30, true));
    }

    #[cfg(feature = "train")]
    #[test]
    fn kernels_agree_to_the_bit() {
        let x: Vec<f32> = (-1000..1003).map(|i| i as f32 * 0.011).collect();
        for kernels in crate::kernel::available() {
            let (mut values, mut derivatives, mut other) =
                (x.clone(), x.clone(), vec![0.0; x.len()]);
            kernels.gelu(&mut values);
            kernels.gelu_and_derivative(&mut derivatives, &mut other);
            for (i, &x) in x.iter().enumerate() {
                assert_eq!(
                    (other[i].to_bits(), derivatives[i].to_bits()),
                    (gelu(x).0.to_bits(), gelu(x).1.to_bits()),
                    "{} {x}",
                    kernels.name()
                );
                assert_eq!(values[i].to_bits(), other[i].to_bits());
            }
        }
    }
}
