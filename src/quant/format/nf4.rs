//! The 4-bit NormalFloat code of QLoRA (arXiv 2305.14314, section 3), bit for bit as bitsandbytes
//! has it.
//!
//! Per block of consecutive weights (64 unless told otherwise) of the flattened row-major tensor:
//! `absmax = max |w|`, `code = nearest(w / absmax)`, `w ≈ CODEBOOK[code] · absmax`.
//! A byte holds two codes, the first in the high nibble. Eight positive values, seven negative, one
//! zero.

#[cfg(feature = "alloc")]
use alloc::{vec, vec::Vec};

use super::{Facts, Layout, Numbers, Parts, double, start};
#[cfg(feature = "alloc")]
use super::{OwnedScales, OwnedValues, Pieces, Quantization, nf4_fit};
#[cfg(feature = "alloc")]
use crate::error::Result;
use crate::tensor::line::{Line, bytes_of, floats};

pub(super) const FACTS: Facts = Facts {
    name: "nf4",
    bits: 4,
    scale: 1,
    nested: 4,
    // Half the widest gap of the codebook is 0.152 of the scale; nested scales are off by up to
    // 0.0071 of their group's largest.
    #[cfg(feature = "import")]
    rounding: [0.16, 0.01, 0.0],
};

/// As [`FACTS`], with plain scales.
pub(super) const PLAIN_FACTS: Facts = Facts { name: "nf4plain", scale: 4, nested: 0, ..FACTS };

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
pub(super) const THRESHOLDS: [f32; 15] = {
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
pub(super) const TINY: f32 = 1e-38;

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
    let absmax = block.iter().fold(0.0f32, |max, &w| max.max(w.abs()));
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

/// How NF4 chooses the scale of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum BlockScale {
    /// The largest weight, as QLoRA and bitsandbytes do.
    #[default]
    Absmax,
    /// What leaves the smallest squared error, of either sign: a fifth to a quarter less. Decoded like the
    /// other, here and by bitsandbytes.
    Fitted,
}

/// Is `size` a block size of NF4: a power of two from 32 to 4096?
pub const fn is_block_size(size: usize) -> bool {
    size.is_power_of_two() && size >= 32 && size <= 4096
}

/// The block scales (absmax) of an NF4 matrix.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scales<'a> {
    /// One f32 per block.
    Plain(&'a [f32]),
    /// An 8-bit code per block, one f32 per 256 of them, one offset: see [`double`].
    Double {
        /// A code per block.
        codes: &'a [u8],
        /// The absmax of each group of 256 codes.
        nested: &'a [f32],
        /// The mean that was subtracted.
        offset: f32,
    },
}

impl Scales<'_> {
    /// The absmax of block `index`.
    #[inline]
    pub fn get(&self, index: usize) -> f32 {
        match self {
            Self::Plain(scales) => scales[index],
            Self::Double { codes, nested, offset } => {
                double::decode(codes[index], nested[index / double::GROUP], *offset)
            }
        }
    }

    /// The absmax of blocks `first ..` into `out`.
    #[inline]
    pub fn read(&self, first: usize, out: &mut [f32]) {
        match self {
            Self::Plain(scales) => out.copy_from_slice(&scales[first..][..out.len()]),
            Self::Double { codes, nested, offset } => {
                for (i, (out, &code)) in out.iter_mut().zip(&codes[first..]).enumerate() {
                    *out = double::decode(code, nested[(first + i) / double::GROUP], *offset);
                }
            }
        }
    }
}

/// NF4 weights: packed codes and block scales over the flattened tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Nf4<'a> {
    /// Two codes a byte, ordered as `layout` says.
    pub codes: &'a [u8],
    /// The absmax of each block.
    pub scales: Scales<'a>,
    /// Weights per block: a power of two from 32 to 4096.
    pub block: usize,
    /// The order of the codes.
    pub layout: Layout,
}

impl<'a> Nf4<'a> {
    /// Were scales chosen by the error they leave ([`BlockScale::Fitted`])? About half of them are
    /// negative then; of the largest weights none is, but for what 8 bits round. The first 1,024
    /// blocks are looked at.
    pub fn is_fitted(&self) -> bool {
        if self.is_calibrated() {
            return true;
        }
        let blocks = match self.scales {
            Scales::Plain(scales) => scales.len(),
            Scales::Double { codes, .. } => codes.len(),
        };
        let blocks = blocks.min(1024);
        let negative = (0..blocks).filter(|&block| self.scales.get(block) < 0.0).count();
        negative * 8 > blocks
    }

    /// Were codes and scales chosen for what the layer reads (calibration)? Then the scales of groups
    /// are negative, which no other way of choosing makes them. Such scales are fitted ones too.
    pub fn is_calibrated(&self) -> bool {
        matches!(self.scales, Scales::Double { nested: [first, ..], .. } if *first < 0.0)
    }

    /// The code of the flattened weight `index`.
    #[inline]
    pub fn code(&self, index: usize) -> u8 {
        let (byte, high) = self.layout.place(index);
        if high { self.codes[byte] >> 4 } else { self.codes[byte] & 15 }
    }

    /// Weights `first ..`, all of one block; whole bytes at a time where the layout allows.
    fn read_block(&self, first: usize, scale: f32, out: &mut [f32]) {
        let one = |(i, w): (usize, &mut f32)| *w = value(self.code(first + i), scale);
        match self.layout {
            Layout::Split64 if first.is_multiple_of(64) => {
                let (groups, rest) = out.as_chunks_mut::<64>();
                let done = 64 * groups.len();
                for (out, codes) in
                    groups.iter_mut().zip(self.codes[first / 2..].as_chunks::<32>().0)
                {
                    let (low, high) = out.split_at_mut(32);
                    for ((low, high), code) in low.iter_mut().zip(high).zip(codes) {
                        (*low, *high) = (value(*code, scale), value(code >> 4, scale));
                    }
                }
                rest.iter_mut().enumerate().map(|(i, w)| (done + i, w)).for_each(one);
            }
            Layout::Sequential if first.is_multiple_of(2) => {
                let (pairs, rest) = out.as_chunks_mut::<2>();
                let done = 2 * pairs.len();
                for (out, code) in pairs.iter_mut().zip(&self.codes[first / 2..]) {
                    *out = [value(code >> 4, scale), value(*code, scale)];
                }
                rest.iter_mut().enumerate().map(|(i, w)| (done + i, w)).for_each(one);
            }
            _ => out.iter_mut().enumerate().for_each(one),
        }
    }

    pub(super) fn is_plain(&self) -> bool {
        matches!(self.scales, Scales::Plain(_))
    }

    pub(super) fn in_place(
        count: usize,
        block: usize,
        layout: Layout,
        nested: bool,
        parts: &Parts<'a, Line>,
    ) -> Self {
        let blocks = count.div_ceil(block);
        let scales = if nested {
            Scales::Double {
                codes: start(bytes_of(parts.scales), blocks),
                nested: start(floats(parts.nested), blocks.div_ceil(double::GROUP)),
                offset: parts.offset,
            }
        } else {
            Scales::Plain(start(floats(parts.scales), blocks))
        };
        let codes = start(bytes_of(parts.codes), count.div_ceil(2));
        Self { codes, scales, block, layout }
    }
}

impl<'a> Numbers<'a> for Nf4<'a> {
    fn block(&self) -> usize {
        self.block
    }

    fn layout(&self) -> Layout {
        self.layout
    }

    fn read(&self, first: usize, out: &mut [f32]) {
        let (mut index, mut out) = (first, out);
        while !out.is_empty() {
            let scale = self.scales.get(index / self.block);
            let take = (self.block - index % self.block).min(out.len());
            let (now, rest) = out.split_at_mut(take);
            self.read_block(index, scale, now);
            (index, out) = (index + take, rest);
        }
    }

    fn first_not_finite(&self) -> Option<usize> {
        match self.scales {
            Scales::Plain(scales) => scales.iter().position(|scale| !scale.is_finite()),
            Scales::Double { nested, offset, .. } if offset.is_finite() => {
                nested.iter().position(|scale| !scale.is_finite())
            }
            Scales::Double { .. } => Some(0),
        }
    }

    fn parts(&self) -> Parts<'a, u8> {
        let codes = self.codes;
        match self.scales {
            Scales::Plain(scales) => {
                Parts { codes, scales: bytemuck::cast_slice(scales), nested: &[], offset: 0.0 }
            }
            Scales::Double { codes: scales, nested, offset } => {
                Parts { codes, scales, nested: bytemuck::cast_slice(nested), offset }
            }
        }
    }
}

/// Looks codes up.
#[inline(always)]
fn value(code: u8, scale: f32) -> f32 {
    CODEBOOK[usize::from(code & 15)] * scale
}

/// Quantizes the weights of `pieces`, block by block, and their scales if `nested`. Refuses the
/// largest weight of the first block whose scale cannot be held.
#[cfg(feature = "alloc")]
pub(super) fn quantize(
    pieces: &mut Pieces<'_>,
    how: &Quantization,
    layout: Layout,
    nested: bool,
) -> Result<OwnedValues> {
    let (count, block) = (pieces.count, how.block);
    // The low nibble after an odd last weight is code 7 (zero), as bitsandbytes pads.
    let mut codes = vec![0u8; count.div_ceil(2)];
    if !count.is_multiple_of(2) {
        codes[count / 2] = 7;
    }
    let mut scales = Vec::with_capacity(count.div_ceil(block));
    pieces.each(|first, weights| {
        for (b, weights) in weights.chunks(block).enumerate() {
            let first = first + b * block;
            scales.push(match how.scale {
                BlockScale::Absmax => {
                    encode_block(weights, block, |i, code| layout.put(&mut codes, first + i, code))
                }
                BlockScale::Fitted => nf4_fit::scale(weights),
            });
        }
        Ok(())
    })?;
    let scales = if nested { nest(&scales, pieces, block)? } else { OwnedScales::Plain(scales) };
    if how.scale == BlockScale::Fitted {
        // The codes of what scales have become.
        let view = scales.view();
        pieces.each(|first, weights| {
            for (i, &w) in weights.iter().enumerate() {
                let scale = view.get((first + i) / block);
                let code = if scale == 0.0 { 7 } else { encode((w / scale).clamp(-1.0, 1.0)) };
                layout.put(&mut codes, first + i, code);
            }
            Ok(())
        })?;
    }
    Ok(OwnedValues::Nf4 { codes, scales, block, layout })
}

/// Quantizes scales.
#[cfg(feature = "alloc")]
fn nest(scales: &[f32], pieces: &mut Pieces<'_>, block: usize) -> Result<OwnedScales> {
    let mut codes = vec![0u8; scales.len()];
    let mut nested = vec![0.0; scales.len().div_ceil(double::GROUP)];
    let offset = double::encode(scales, &mut codes, &mut nested);
    // The sum behind the offset overflows before a single scale does.
    let decoded = |b: usize| double::decode(codes[b], nested[b / double::GROUP], offset);
    if let Some(b) = (0..scales.len()).find(|&b| !decoded(b).is_finite()) {
        return Err(pieces.too_large_block(b, block));
    }
    Ok(OwnedScales::Double { codes, nested, offset })
}

#[cfg(feature = "alloc")]
impl OwnedScales {
    pub(super) fn view(&self) -> Scales<'_> {
        match self {
            Self::Plain(scales) => Scales::Plain(scales),
            Self::Double { codes, nested, offset } => {
                Scales::Double { codes, nested, offset: *offset }
            }
        }
    }
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
