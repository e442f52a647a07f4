//! The scale of an NF4 block by the error that it leaves, instead of by the largest weight.
//!
//! ```text
//! s = argmin Σ (w − s·q)²,  q = CODEBOOK[nearest code of w / s],  s of either sign
//! ```
//!
//! The codebook reaches further on its positive side, so a block may be better off turned around;
//! and a large weight that is cut a little costs less than all others rounded more coarsely. Some
//! scales around the largest weight are tried. Of the codes that one gives, the best scale is known:
//! s = Σ w·q / Σ q², which leaves Σ w² − (Σ w·q)² / Σ q². No data is looked at.

use super::nf4::{CODEBOOK, THRESHOLDS, TINY};

/// Scales that are tried, in parts of the largest weight, with either sign.
const TRIED: [f32; 9] = [0.76, 0.80, 0.84, 0.88, 0.92, 0.96, 1.0, 1.04, 1.08];

/// The best scale of `block` that is tried.
pub(super) fn scale(block: &[f32]) -> f32 {
    let absmax = block.iter().fold(0.0f32, |max, &w| max.max(w.abs()));
    if absmax < TINY {
        return absmax;
    }
    // In parts of the largest weight no sum overflows.
    let reciprocal = 1.0 / absmax;
    let (mut best, mut least) = (1.0, 0.0);
    for tried in TRIED.into_iter().flat_map(|tried| [tried, -tried]) {
        let (mixed, squared) = sums(block, reciprocal, 1.0 / tried);
        let gain = mixed * mixed / squared;
        if gain > least {
            (best, least) = (mixed / squared, gain);
        }
    }
    let scale = absmax * best;
    if scale.is_finite() { scale } else { absmax }
}

/// Σ w·q and Σ q² of the weights times `reciprocal`, coded after another factor.
fn sums(block: &[f32], reciprocal: f32, factor: f32) -> (f32, f32) {
    let (mut mixed, mut squared) = (0.0, 0.0);
    for w in block.iter().map(|w| w * reciprocal) {
        let x = w * factor;
        // Adding up steps is what vectorizes; a lookup does not.
        let step = |i: usize| if x > THRESHOLDS[i] { CODEBOOK[i + 1] - CODEBOOK[i] } else { 0.0 };
        let q = (0..15).fold(CODEBOOK[0], |q, i| q + step(i));
        mixed += w * q;
        squared += q * q;
    }
    (mixed, squared)
}

#[cfg(test)]
mod tests {
    use super::super::nf4::encode;
    use super::*;

    /// Σ (w − s·q)² in f64.
    fn error(block: &[f32], scale: f32) -> f64 {
        let q = |w: f32| CODEBOOK[usize::from(encode((w / scale).clamp(-1.0, 1.0)))];
        block.iter().map(|&w| f64::from(w - scale * q(w)).powi(2)).sum()
    }

    fn absmax(block: &[f32]) -> f32 {
        block.iter().fold(0.0, |max: f32, w| max.max(w.abs()))
    }

    #[test]
    fn the_error_is_never_larger_and_in_all_a_fifth_smaller() {
        let mut random = rand_xoshiro::Xoshiro256PlusPlus::from_seed([7; 32]);
        let mut normal = || {
            let uniform = |random: &mut rand_xoshiro::Xoshiro256PlusPlus| {
                (random.next_u64() >> 40) as f32 / (1u64 << 24) as f32 - 0.5
            };
            (0..12).map(|_| uniform(&mut random)).sum::<f32>() * 0.03
        };
        let (mut before, mut after) = (0.0, 0.0);
        for _ in 0..2000 {
            let block: [f32; 64] = core::array::from_fn(|_| normal());
            let (plain, fitted) = (error(&block, absmax(&block)), error(&block, scale(&block)));
            assert!(fitted <= plain * 1.0001, "{fitted} {plain}");
            (before, after) = (before + plain, after + fitted);
        }
        assert!(after < 0.82 * before, "{}", after / before);
    }

    #[test]
    fn codes_times_a_scale_come_back_whatever_its_sign() {
        for sign in [1.0, -1.0] {
            let block: [f32; 64] = core::array::from_fn(|i| CODEBOOK[i * 7 % 16] * 0.37 * sign);
            assert!((scale(&block) - 0.37 * sign).abs() < 1e-6, "{}", scale(&block));
        }
    }

    #[test]
    fn zeros_tiny_and_huge_weights_have_finite_scales() {
        for value in [0.0, 1e-45, 1e-38, 1e-30, 3e38, f32::MAX] {
            for block in [[value; 64], core::array::from_fn(|i| if i == 3 { -value } else { 0.0 })]
            {
                assert!(scale(&block).is_finite(), "{value}");
            }
        }
    }

    use rand_xoshiro::rand_core::{Rng, SeedableRng};
}
