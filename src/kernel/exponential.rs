//! How the vector kernels compute e^x: the method and its numbers. The scalar table asks libm.
//!
//! `x = n·ln 2 + r`, n an integer, |r| ≤ ln 2 / 2; `e^x = 2ⁿ · (1 + r + r²·P(r))` with P of degree
//! 4, the minimax polynomial of (e^r − 1 − r) / r², 4e-9 off at most; rounding makes it 2e-7. ln 2
//! is subtracted in two parts, the first with few enough bits that `n · LN2_HIGH` is exact. 2ⁿ is
//! applied in two halves, so that results run through the subnormals to 0 and up to ∞.

/// e^x is 0 here and below.
pub(super) const LOWEST: f32 = -104.5;

/// e^x is ∞ here and above: x is lowered to this.
pub(super) const HIGHEST: f32 = 89.0;

pub(super) const LN2_HIGH: f32 = 0.693_359_4;
pub(super) const LN2_LOW: f32 = -2.121_944_4e-4;

/// The coefficients of P, lowest first.
pub(super) const P: [f32; 5] =
    [0.499_999_94, 0.166_665_21, 0.041_668_39, 0.008_368_745, 0.001_381_454];
