//! Eight-bit integers with one f16 scale per block of consecutive weights: `w ≈ q · scale`, q in
//! -127 to 127.
//!
//! 8.25 bits per weight at block 64. Used for embeddings and output heads, where 4 bits cost too
//! much perplexity.

use half::f16;

/// The scale of a block: absmax / 127, rounded to f16; `None` if it overflows f16.
#[inline]
pub fn scale(block: &[f32]) -> Option<f16> {
    let absmax = block.iter().fold(0.0f32, |most, &w| most.max(w.abs()));
    let scale = f16::from_f32(absmax / 127.0);
    scale.is_finite().then_some(scale)
}

/// The code of `w` under `scale` (the rounded one, so that rounding the scale costs nothing twice).
#[inline]
pub fn encode(w: f32, scale: f16) -> i8 {
    let scale = scale.to_f32();
    if scale == 0.0 {
        return 0;
    }
    libm::roundevenf(w / scale).clamp(-127.0, 127.0) as i8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_is_at_most_half_a_step_and_the_scales_rounding() {
        let block: [f32; 64] = core::array::from_fn(|i| (i as f32 * 0.37).sin() * 3.0);
        let scale = scale(&block).unwrap();
        for w in block {
            let back = f32::from(encode(w, scale)) * scale.to_f32();
            assert!((back - w).abs() <= scale.to_f32() * (0.5 + 127.0 / 2048.0), "{w} {back}");
        }
    }

    #[test]
    fn extremes() {
        assert_eq!(scale(&[1e30]), None);
        let zero = scale(&[0.0, -0.0]).unwrap();
        assert_eq!(encode(0.0, zero), 0);
        assert_eq!(encode(1e-12, scale(&[1e-12]).unwrap()), 0);
    }
}
