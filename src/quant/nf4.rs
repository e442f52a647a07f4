//! The 4-bit NormalFloat code of QLoRA (arXiv 2305.14314, section 3), bit for bit as bitsandbytes
//! has it.
//!
//! Per block of consecutive weights (64 unless told otherwise) of the flattened row-major tensor:
//! `absmax = max |w|`, `code = nearest(w / absmax)`, `w ≈ CODEBOOK[code] · absmax`.
//! A byte holds two codes, the first in the high nibble. Eight positive values, seven negative, one
//! zero.

/// The 16 values a code stands for, rising; the literals of bitsandbytes.
pub const CODEBOOK: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// Code `i + 1` is chosen for values above `THRESHOLDS[i]`, the middle of two neighbours; a tie
/// takes the lower code.
const THRESHOLDS: [f32; 15] = {
    let mut middles = [0.0; 15];
    let mut i = 0;
    while i < 15 {
        middles[i] = (CODEBOOK[i] + CODEBOOK[i + 1]) / 2.0;
        i += 1;
    }
    middles
};

/// The smallest absmax bitsandbytes divides by. A subnormal, so that a block of zeros becomes code
/// 7 and not NaN.
const TINY: f32 = 1e-38;

/// The code of a value already divided by its block's absmax, in -1 to 1.
#[inline]
pub fn encode(value: f32) -> u8 {
    THRESHOLDS.iter().map(|&threshold| u8::from(value > threshold)).sum()
}

/// Quantizes one block: hands the code of each weight to `put` and returns the block's absmax.
///
/// A block that the tensor's end cuts short (`len < size`) stores its absmax clamped and divides; a
/// whole one multiplies by the reciprocal. Both are what bitsandbytes 0.50 does on the CPU, bit for
/// bit.
pub fn encode_block(block: &[f32], size: usize, mut put: impl FnMut(usize, u8)) -> f32 {
    let absmax = block.iter().fold(0.0f32, |most, &w| most.max(w.abs()));
    let floor = absmax.max(TINY);
    if block.len() == size {
        let reciprocal = 1.0 / floor;
        block
            .iter()
            .enumerate()
            .for_each(|(i, &w)| put(i, encode((w * reciprocal).clamp(-1.0, 1.0))));
        absmax
    } else {
        block.iter().enumerate().for_each(|(i, &w)| put(i, encode((w / floor).clamp(-1.0, 1.0))));
        floor
    }
}

/// Is `size` a block size of NF4: a power of two from 32 to 4096?
pub const fn is_block_size(size: usize) -> bool {
    size.is_power_of_two() && size >= 32 && size <= 4096
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_codebook_value_encodes_to_itself() {
        for (code, &value) in CODEBOOK.iter().enumerate() {
            assert_eq!(usize::from(encode(value)), code);
        }
    }

    #[test]
    fn a_tie_takes_the_lower_code() {
        for (code, &threshold) in THRESHOLDS.iter().enumerate() {
            assert_eq!(usize::from(encode(threshold)), code);
            assert_eq!(usize::from(encode(threshold.next_up())), code + 1);
        }
    }
}
