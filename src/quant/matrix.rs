//! A borrowed weight matrix in any format: what an archive hands out and kernels read.
//!
//! Not a container: owned matrices are in `owned` (alloc). Lengths were checked by whoever made the
//! value.

use half::f16;

use super::{double, nf4};
use crate::error::{Error, Result};

/// A weight format with its parameters. The number is stored in archives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum Format {
    /// 32-bit floats.
    F32 = 0,
    /// 16-bit floats.
    F16 = 1,
    /// 8-bit integers, an f16 scale per block; 8.25 bits per weight at block 64.
    Int8 = 2,
    /// NF4, doubly quantized scales; 4.127 bits per weight at block 64.
    Nf4 = 3,
    /// NF4, plain f32 scales; 4.5 bits per weight at block 64.
    Nf4Plain = 4,
}

impl Format {
    /// The name in reports and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Int8 => "int8",
            Self::Nf4 => "nf4",
            Self::Nf4Plain => "nf4plain",
        }
    }

    /// The format with this stored number.
    pub const fn from_stored(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Int8,
            3 => Self::Nf4,
            4 => Self::Nf4Plain,
            _ => return None,
        })
    }

    /// Bytes of (codes or values, scales, nested scales) that `count` weights in blocks of `block`,
    /// a power of two, take.
    pub const fn payload(self, count: u64, block: u64) -> (u64, u64, u64) {
        // A shift: a division of 64 bits takes 500 bytes of code on small processors.
        let block = if block.is_power_of_two() { block } else { 1 };
        let whole = count >> block.trailing_zeros();
        let blocks = if count & (block - 1) == 0 { whole } else { whole + 1 };
        match self {
            Self::F32 => (count.saturating_mul(4), 0, 0),
            Self::F16 => (count.saturating_mul(2), 0, 0),
            Self::Int8 => (count, blocks.saturating_mul(2), 0),
            Self::Nf4 => {
                (count.div_ceil(2), blocks, blocks.div_ceil(double::GROUP as u64).saturating_mul(4))
            }
            Self::Nf4Plain => (count.div_ceil(2), blocks.saturating_mul(4), 0),
        }
    }
}

/// How NF4 codes are ordered in their bytes. The number is stored in archives; a permutation, so
/// back and forth is exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum Layout {
    /// As bitsandbytes: weights in order, the first of two in the high nibble. Also the layout of
    /// every other format.
    Sequential = 0,
    /// Groups of 64 weights in 32 bytes: weight i in the low nibble of byte i, weight i + 32 in its
    /// high nibble, so that one vector load and one mask give 32 neighbours. Only for rows that
    /// are whole groups.
    Split64 = 1,
}

impl Layout {
    /// The layout with this stored number.
    pub const fn from_stored(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Sequential),
            1 => Some(Self::Split64),
            _ => None,
        }
    }

    /// Can a matrix with rows of `cols` weights and blocks of `block` have this layout?
    pub const fn allows(self, cols: usize, block: usize) -> bool {
        match self {
            Self::Sequential => true,
            Self::Split64 => cols.is_multiple_of(64) && block.is_multiple_of(64),
        }
    }

    /// Where the code of weight `index` is: (byte, is it the high nibble?).
    #[inline]
    pub const fn place(self, index: usize) -> (usize, bool) {
        match self {
            Self::Sequential => (index / 2, index.is_multiple_of(2)),
            Self::Split64 => (index / 64 * 32 + index % 32, index % 64 >= 32),
        }
    }
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

impl Nf4<'_> {
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

    /// Weights `first ..` of the flattened tensor into `out`.
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
}

/// Looks codes up.
#[inline(always)]
fn value(code: u8, scale: f32) -> f32 {
    nf4::CODEBOOK[usize::from(code & 15)] * scale
}

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

impl Int8<'_> {
    /// The scale of block `index`.
    #[inline]
    pub fn scale(&self, index: usize) -> f32 {
        f16::from_bits(self.scales[index]).to_f32()
    }

    /// Weights `first ..` of the flattened tensor into `out`.
    fn read(&self, first: usize, out: &mut [f32]) {
        let (mut index, mut out) = (first, out);
        while !out.is_empty() {
            let scale = self.scale(index / self.block);
            let take = (self.block - index % self.block).min(out.len());
            let (now, rest) = out.split_at_mut(take);
            now.iter_mut()
                .zip(&self.values[index..])
                .for_each(|(w, &value)| *w = f32::from(value) * scale);
            (index, out) = (index + take, rest);
        }
    }
}

/// The numbers of a matrix.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Values<'a> {
    /// 32-bit floats.
    F32(&'a [f32]),
    /// 16-bit floats, as bits.
    F16(&'a [u16]),
    /// 8-bit integers with block scales.
    Int8(Int8<'a>),
    /// 4-bit NormalFloat codes with block scales.
    Nf4(Nf4<'a>),
}

/// A borrowed weight matrix `[rows, cols]` in one of the [`Format`]s. A linear layer computes `y =
/// W x` with `W: [out, in]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Matrix<'a> {
    rows: usize,
    cols: usize,
    values: Values<'a>,
}

impl<'a> Matrix<'a> {
    /// A matrix over borrowed numbers.
    ///
    /// # Errors
    /// [`Error::Length`] if a slice has another length than shape, format and block ask for,
    /// [`Error::Block`] if the block size is not a power of two from 32 to 4096 or the layout
    /// does not allow the shape.
    pub fn new(rows: usize, cols: usize, values: Values<'a>) -> Result<Self> {
        let matrix = Self { rows, cols, values };
        let count = (rows as u64).saturating_mul(cols as u64);
        let (main, scales, nested) = matrix.format().payload(count, matrix.block() as u64);
        let exact = |have: usize, need: u64| {
            if have as u64 == need {
                Ok(())
            } else {
                Err(Error::Length { have, need: usize::try_from(need).unwrap_or(usize::MAX) })
            }
        };
        match values {
            Values::F32(values) => exact(values.len(), main / 4)?,
            Values::F16(values) => exact(values.len(), main / 2)?,
            Values::Int8(int8) => {
                if !nf4::is_block_size(int8.block) {
                    return Err(Error::Block { found: int8.block });
                }
                exact(int8.values.len(), main)?;
                exact(int8.scales.len(), scales / 2)?;
            }
            Values::Nf4(nf4) => {
                if !nf4::is_block_size(nf4.block) || !nf4.layout.allows(cols, nf4.block) {
                    return Err(Error::Block { found: nf4.block });
                }
                exact(nf4.codes.len(), main)?;
                match nf4.scales {
                    Scales::Plain(plain) => exact(plain.len(), scales / 4)?,
                    Scales::Double { codes, nested: groups, .. } => {
                        exact(codes.len(), scales)?;
                        exact(groups.len(), nested / 4)?;
                    }
                }
            }
        }
        Ok(matrix)
    }

    /// A matrix whose lengths were checked when its archive was opened.
    pub(crate) fn trusted(rows: usize, cols: usize, values: Values<'a>) -> Self {
        Self { rows, cols, values }
    }

    /// A matrix of this shape that holds `values` instead, `[rows, cols]`.
    #[cfg(feature = "std")]
    pub(crate) fn with_floats<'b>(&self, values: &'b [f32]) -> Matrix<'b> {
        debug_assert_eq!(values.len(), self.rows * self.cols);
        Matrix::trusted(self.rows, self.cols, Values::F32(values))
    }

    /// The number of rows (outputs).
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of columns (inputs).
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The numbers.
    pub fn values(&self) -> Values<'a> {
        self.values
    }

    /// The format.
    pub fn format(&self) -> Format {
        match self.values {
            Values::F32(_) => Format::F32,
            Values::F16(_) => Format::F16,
            Values::Int8(_) => Format::Int8,
            Values::Nf4(Nf4 { scales: Scales::Plain(_), .. }) => Format::Nf4Plain,
            Values::Nf4(_) => Format::Nf4,
        }
    }

    /// Weights per block; 1 for formats without blocks.
    pub fn block(&self) -> usize {
        match self.values {
            Values::Int8(int8) => int8.block,
            Values::Nf4(nf4) => nf4.block,
            _ => 1,
        }
    }

    /// The order of the codes.
    pub fn layout(&self) -> Layout {
        match self.values {
            Values::Nf4(nf4) => nf4.layout,
            _ => Layout::Sequential,
        }
    }

    /// Bytes of weights and scales.
    pub fn bytes(&self) -> u64 {
        let (main, scales, nested) =
            self.format().payload(self.rows as u64 * self.cols as u64, self.block() as u64);
        main + scales + nested
    }

    /// The dequantized weights `first ..` of row `row` into `out`.
    ///
    /// # Panics
    /// If the range lies outside the row, like slice indexing.
    pub fn read(&self, row: usize, first: usize, out: &mut [f32]) {
        assert!(
            row < self.rows && first + out.len() <= self.cols,
            "row {row}, columns {first}.. of {}x{}",
            self.rows,
            self.cols
        );
        let at = row * self.cols + first;
        match self.values {
            Values::F32(values) => out.copy_from_slice(&values[at..][..out.len()]),
            Values::F16(values) => {
                for (out, &bits) in out.iter_mut().zip(&values[at..]) {
                    *out = f16::from_bits(bits).to_f32();
                }
            }
            Values::Int8(int8) => int8.read(at, out),
            Values::Nf4(nf4) => nf4.read(at, out),
        }
    }

    /// The index of the first scale that is not finite, or of the first f32 or f16 weight that is
    /// not.
    pub(crate) fn first_not_finite(&self) -> Option<u64> {
        let at = match self.values {
            Values::F32(values) => values.iter().position(|v| !v.is_finite()),
            Values::F16(values) => values.iter().position(|&v| !f16::from_bits(v).is_finite()),
            Values::Int8(int8) => int8.scales.iter().position(|&v| !f16::from_bits(v).is_finite()),
            Values::Nf4(nf4) => match nf4.scales {
                Scales::Plain(scales) => scales.iter().position(|v| !v.is_finite()),
                Scales::Double { nested, offset, .. } if offset.is_finite() => {
                    nested.iter().position(|v| !v.is_finite())
                }
                Scales::Double { .. } => Some(0),
            },
        };
        at.map(|index| index as u64)
    }
}
