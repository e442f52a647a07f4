//! Rotary position embedding (RoFormer, arXiv 2104.09864), with the pairs (i, i + d/2) that
//! transformers uses.

use crate::tensor::math;

/// cos and sin of `position · frequency`, one pair per frequency, into two halves of `out`: `[2,
/// frequencies]`.
pub(crate) fn angles(position: usize, frequencies: &[f32], out: &mut [f32]) {
    let (cos, sin) = out.split_at_mut(frequencies.len());
    for ((cos, sin), frequency) in cos.iter_mut().zip(sin).zip(frequencies) {
        let angle = position as f32 * frequency;
        (*sin, *cos) = math::sin_cos(f32::from_bits(angle.to_bits().min(LARGEST)));
    }
}

/// The bits of the largest angle below 2²⁸ · π/2. Neighbouring numbers are 32 apart there: larger
/// ones say nothing, and no position below 2²⁴ has one at a frequency below 25 (models have 1 at
/// most). Without them and negative ones the code of libm is smaller by a kilobyte.
const LARGEST: u32 = 0x4dc9_0fda;

/// Rotates every head of `x`, `[heads, d]`, by `angles`, `[2, d/2]`: `(a, b) ← (a·cos − b·sin,
/// b·cos + a·sin)`.
pub(crate) fn rotate(x: &mut [f32], angles: &[f32]) {
    let (cos, sin) = angles.split_at(angles.len() / 2);
    for head in x.chunks_exact_mut(angles.len()) {
        let (first, second) = head.split_at_mut(cos.len());
        for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
}
