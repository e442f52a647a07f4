//! Eight-bit integers with one f16 scale per block of consecutive weights: `w ≈ q · scale`, q in
//! -127 to 127.
//!
//! 8.25 bits per weight at block 64. Used for embeddings and output heads, where 4 bits cost too
//! much perplexity.

#[cfg(feature = "alloc")]
use alloc::vec::Vec;

use half::f16;

use super::{Facts, Numbers, Parts, after, start};
#[cfg(feature = "alloc")]
use super::{OwnedValues, Pieces};
#[cfg(feature = "alloc")]
use crate::error::Result;
use crate::tensor::line::{Line, halves, signed};

pub(super) const FACTS: Facts = Facts {
    name: "int8",
    bits: 8,
    scale: 2,
    nested: 0,
    // Half a step is 0.0039; scales below f16's normal range are off by up to 3e-8.
    #[cfg(feature = "import")]
    rounding: [0.006, 0.0, 4e-6],
};

/// 8-bit weights: integers and f16 block scales over the flattened tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Int8<'a> {
    /// The integers, in order.
    pub values: &'a [i8],
    /// The scale of each block, f16 as bits.
    pub scales: &'a [u16],
    /// Weights per block: a power of two from 32 to 4096.
    pub block: usize,
}

impl<'a> Int8<'a> {
    /// The scale of block `index`.
    #[inline]
    pub fn scale(&self, index: usize) -> f32 {
        f16::from_bits(self.scales[index]).to_f32()
    }

    pub(super) fn in_place(count: usize, block: usize, parts: &Parts<'a, Line>) -> Self {
        Self {
            values: start(signed(parts.codes), count),
            scales: start(halves(parts.scales), count.div_ceil(block)),
            block,
        }
    }
}

impl<'a> Numbers<'a> for Int8<'a> {
    fn block(&self) -> usize {
        self.block
    }

    fn read(&self, first: usize, out: &mut [f32]) {
        let (mut index, mut out) = (first, out);
        while !out.is_empty() {
            let scale = self.scale(index / self.block);
            let take = (self.block - index % self.block).min(out.len());
            let (now, rest) = out.split_at_mut(take);
            now.iter_mut()
                .zip(after(self.values, index))
                .for_each(|(w, &value)| *w = f32::from(value) * scale);
            (index, out) = (index + take, rest);
        }
    }

    fn first_not_finite(&self) -> Option<usize> {
        self.scales.iter().position(|&bits| !f16::from_bits(bits).is_finite())
    }

    fn parts(&self) -> Parts<'a, u8> {
        Parts {
            codes: bytemuck::cast_slice(self.values),
            scales: bytemuck::cast_slice(self.scales),
            nested: &[],
            offset: 0.0,
        }
    }
}

/// The scale of a block: absmax / 127, rounded to f16; `None` if it overflows f16.
#[inline]
pub fn scale(block: &[f32]) -> Option<f16> {
    let absmax = block.iter().fold(0.0f32, |max, &w| max.max(w.abs()));
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

/// Refuses the largest weight of the first block whose scale overflows f16.
#[cfg(feature = "alloc")]
pub(super) fn quantize(pieces: &mut Pieces<'_>, block: usize) -> Result<OwnedValues> {
    let mut values = Vec::with_capacity(pieces.count);
    let mut scales = Vec::with_capacity(pieces.count.div_ceil(block));
    pieces.each(|first, weights| {
        for (i, weights) in weights.chunks(block).enumerate() {
            let scale =
                scale(weights).ok_or_else(|| Pieces::too_large(weights, first + i * block))?;
            values.extend(weights.iter().map(|&w| encode(w, scale)));
            scales.push(scale.to_bits());
        }
        Ok(())
    })?;
    Ok(OwnedValues::Int8 { values, scales, block })
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
