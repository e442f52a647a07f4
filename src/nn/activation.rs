//! Activations of encoders, element by element. SwiGLU's is in the kernels.

use super::Pass;
use crate::kernel::{Kernels, gelu};
use crate::tensor::math;
use crate::tensor::workers::{Parts, for_each};

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

#[cfg(feature = "train")]
impl Activation {
    /// Its value and its derivative at x.
    #[inline]
    pub(crate) fn with_derivative(self, x: f32) -> (f32, f32) {
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

/// Values that workers do not share: what stands in whole ones does not depend on their number.
const PART: usize = 256;

/// `x ← f(x)`, shared out among workers.
pub(crate) fn activate(pass: &Pass<'_, '_>, activation: Activation, x: &mut [f32]) {
    let (x, rest) = x.split_at_mut(x.len() - x.len() % PART);
    for_each(pass.executor, pass.threads, Parts::new(x, PART), |_, part| {
        apply_all(pass.kernels, activation, part)
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
}
