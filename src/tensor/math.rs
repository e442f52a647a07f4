//! `exp`, `sqrt`, `sin`, `cos`, `pow`, `erf` and `tanh` for `f32`, through libm, so that results
//! are the same with and without `std`.
//!
//! Correctly rounded to about one unit in the last place; the vectorized versions live in `kernel`
//! and are tested against these.

/// e^x.
#[inline]
pub fn exp(x: f32) -> f32 {
    libm::expf(x)
}

/// The square root of x.
#[inline]
pub fn sqrt(x: f32) -> f32 {
    libm::sqrtf(x)
}

/// (sin x, cos x), x in radians.
#[inline]
pub fn sin_cos(x: f32) -> (f32, f32) {
    libm::sincosf(x)
}

/// x^y.
#[inline]
pub fn pow(x: f32, y: f32) -> f32 {
    libm::powf(x, y)
}

/// The natural logarithm of x.
#[inline]
pub fn ln(x: f32) -> f32 {
    libm::logf(x)
}

/// The error function, 2/√π ∫₀ˣ e^−t² dt.
#[inline]
pub fn erf(x: f32) -> f32 {
    libm::erff(x)
}

/// The hyperbolic tangent of x.
#[inline]
pub fn tanh(x: f32) -> f32 {
    libm::tanhf(x)
}
