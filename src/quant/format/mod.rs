//! The weight formats, one file each, and the lists of them.
//!
//! A format's file says how its weights are stored, checked, read and made; here they are listed
//! and asked. A format without fast kernels is its file, a variant in each list here and a name for
//! `lowrank import --weights`: archives store its parts as they are, and products read it through
//! [`Matrix::read`](super::Matrix::read). Kernels that know it better are added to `kernel`.

mod float16;
mod float32;
pub mod int8;
mod layout;
pub mod nf4;
#[cfg(feature = "alloc")]
mod nf4_fit;

#[cfg(feature = "alloc")]
use alloc::vec::Vec;

use super::double;
#[cfg(feature = "alloc")]
use super::owned::{Pieces, Quantization};
#[cfg(feature = "alloc")]
use crate::error::Result;
use crate::tensor::line::Line;
use int8::Int8;
use nf4::Nf4;

pub use layout::Layout;
#[cfg(feature = "alloc")]
pub(crate) use layout::reorder;

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

/// What all matrices of a format have in common.
pub(crate) struct Facts {
    name: &'static str,
    /// Bits of a weight's code or value; codes of 4 bits may be in any [`Layout`].
    bits: u64,
    /// Bytes of a block's scale; 0 for formats without blocks.
    scale: u64,
    /// Bytes of the scale of [`double::GROUP`] scales, or 0.
    nested: u64,
    /// The largest error of a weight: relative to the largest of its block and of its tensor, and
    /// absolute.
    #[cfg(feature = "import")]
    pub(crate) rounding: [f32; 3],
}

/// Evaluates an expression with the facts of a format, each in an arm of its own: there they are
/// constants.
macro_rules! facts {
    ($format:expr, $facts:ident => $answer:expr) => {{
        let $facts: &Facts;
        match $format {
            Format::F32 => {
                $facts = &float32::FACTS;
                $answer
            }
            Format::F16 => {
                $facts = &float16::FACTS;
                $answer
            }
            Format::Int8 => {
                $facts = &int8::FACTS;
                $answer
            }
            Format::Nf4 => {
                $facts = &nf4::FACTS;
                $answer
            }
            Format::Nf4Plain => {
                $facts = &nf4::PLAIN_FACTS;
                $answer
            }
        }
    }};
}

/// More weights than any matrix has: with it, numbers of bytes do not overflow.
const MAX_COUNT: u64 = 1 << 56;

impl Facts {
    /// Bytes of (codes or values, scales, nested scales) of `count` weights in `blocks` blocks.
    #[inline(always)]
    const fn payload(&self, count: u64, blocks: u64) -> (u64, u64, u64) {
        let nested = if self.nested == 0 { 0 } else { blocks.div_ceil(double::GROUP as u64) };
        ((count * self.bits).div_ceil(8), blocks * self.scale, nested * self.nested)
    }

    /// Bytes of an element of (codes or values, scales); at least 1.
    #[inline(always)]
    const fn elements(&self) -> (u64, u64) {
        let value = if self.bits < 8 { 1 } else { self.bits / 8 };
        (value, if self.scale == 0 { 1 } else { self.scale })
    }
}

impl Format {
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

    /// The name in reports and messages.
    pub const fn name(self) -> &'static str {
        facts!(self, facts => facts.name)
    }

    /// The largest error of a weight: relative to the largest of its block and of its tensor, and
    /// absolute.
    #[cfg(feature = "import")]
    pub(crate) const fn rounding(self) -> [f32; 3] {
        facts!(self, facts => facts.rounding)
    }

    /// Does a scale belong to every block of weights?
    pub(super) const fn has_blocks(self) -> bool {
        facts!(self, facts => facts.scale > 0)
    }

    /// Bytes of an element of (codes or values, scales); at least 1.
    pub(super) const fn elements(self) -> (u64, u64) {
        facts!(self, facts => facts.elements())
    }

    /// Can a matrix with rows of `cols` weights have blocks of `block` weights and this layout?
    pub(crate) const fn allows(self, block: usize, layout: Layout, cols: usize) -> bool {
        let blocks = if self.has_blocks() { nf4::is_block_size(block) } else { block == 1 };
        blocks
            && match layout {
                Layout::Sequential => true,
                packed => facts!(self, facts => facts.bits == 4) && packed.allows(cols, block),
            }
    }

    /// Bytes of (codes or values, scales, nested scales) that `count` weights in blocks of `block`,
    /// a power of two, take; of more than 2^56 weights, those of 2^56.
    pub const fn payload(self, count: u64, block: u64) -> (u64, u64, u64) {
        let count = if count > MAX_COUNT { MAX_COUNT } else { count };
        // A shift: a division of 64 bits takes 500 bytes of code on small processors.
        let block = if block.is_power_of_two() { block } else { 1 };
        let whole = count >> block.trailing_zeros();
        let blocks = if count & (block - 1) == 0 { whole } else { whole + 1 };
        facts!(self, facts => facts.payload(count, blocks))
    }
}

/// The first `len` numbers of a part. Its length was proven when it was opened (or made), so the
/// small builds have no place to panic here; builds that debug do.
fn start<T>(part: &[T], len: usize) -> &[T] {
    debug_assert!(len <= part.len(), "{len} numbers of {}", part.len());
    part.get(..len).unwrap_or_default()
}

/// The numbers of a part from `first` on; as [`start`].
fn after<T>(part: &[T], first: usize) -> &[T] {
    debug_assert!(first <= part.len(), "from {first} of {}", part.len());
    part.get(first..).unwrap_or_default()
}

/// The parts of a matrix as archives have them: slices of bytes to be written, of [`Line`]s to be
/// read in place.
pub(crate) struct Parts<'a, T> {
    /// Codes or values.
    pub(crate) codes: &'a [T],
    /// The scales of blocks, if any.
    pub(crate) scales: &'a [T],
    /// The f32 scales of scales, if any.
    pub(crate) nested: &'a [T],
    /// What is added to every scale, or 0.
    pub(crate) offset: f32,
}

/// What a format's numbers can do; slices of floats are the numbers of two formats.
trait Numbers<'a>: Sized {
    /// Weights per block; 1 without blocks.
    fn block(&self) -> usize {
        1
    }

    /// The order of the codes.
    fn layout(&self) -> Layout {
        Layout::Sequential
    }

    /// The dequantized weights `first ..` of the flattened tensor into `out`.
    fn read(&self, first: usize, out: &mut [f32]);

    /// The index of the first scale that is not finite, or of the first value where there are no
    /// scales.
    fn first_not_finite(&self) -> Option<usize>;

    /// The parts, to be written.
    fn parts(&self) -> Parts<'a, u8>;
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

/// The same question to the numbers of whatever format.
macro_rules! ask {
    ($values:expr, $numbers:ident => $answer:expr) => {
        match $values {
            Values::F32($numbers) => $answer,
            Values::F16($numbers) => $answer,
            Values::Int8($numbers) => $answer,
            Values::Nf4($numbers) => $answer,
        }
    };
}

impl<'a> Values<'a> {
    /// The numbers of `count` weights in an archive, whose lengths fit.
    pub(crate) fn in_place(
        format: Format,
        count: usize,
        block: usize,
        layout: Layout,
        parts: &Parts<'a, Line>,
    ) -> Self {
        match format {
            Format::F32 => Self::F32(float32::in_place(count, parts)),
            Format::F16 => Self::F16(float16::in_place(count, parts)),
            Format::Int8 => Self::Int8(Int8::in_place(count, block, parts)),
            Format::Nf4 | Format::Nf4Plain => {
                let nested = format == Format::Nf4;
                Self::Nf4(Nf4::in_place(count, block, layout, nested, parts))
            }
        }
    }

    /// The parts, to be written.
    pub(crate) fn parts(&self) -> Parts<'a, u8> {
        ask!(self, numbers => numbers.parts())
    }

    pub(super) fn format(&self) -> Format {
        match self {
            Self::F32(_) => Format::F32,
            Self::F16(_) => Format::F16,
            Self::Int8(_) => Format::Int8,
            Self::Nf4(nf4) if nf4.is_plain() => Format::Nf4Plain,
            Self::Nf4(_) => Format::Nf4,
        }
    }

    pub(super) fn block(&self) -> usize {
        ask!(self, numbers => numbers.block())
    }

    pub(super) fn layout(&self) -> Layout {
        ask!(self, numbers => numbers.layout())
    }

    pub(super) fn read(&self, first: usize, out: &mut [f32]) {
        ask!(self, numbers => numbers.read(first, out))
    }

    pub(super) fn first_not_finite(&self) -> Option<usize> {
        ask!(self, numbers => numbers.first_not_finite())
    }
}

/// The block scales of an owned NF4 matrix; see [`Scales`](nf4::Scales).
#[cfg(feature = "alloc")]
#[derive(Debug, Clone, PartialEq)]
pub enum OwnedScales {
    /// One f32 per block.
    Plain(Vec<f32>),
    /// Doubly quantized.
    Double {
        /// A code per block.
        codes: Vec<u8>,
        /// The absmax of each group of 256 codes.
        nested: Vec<f32>,
        /// The mean that was subtracted.
        offset: f32,
    },
}

/// The numbers of an owned matrix; see [`Values`].
#[cfg(feature = "alloc")]
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "field by field the twin of Values, Int8 and Nf4")]
pub enum OwnedValues {
    F32(Vec<f32>),
    F16(Vec<u16>),
    Int8 { values: Vec<i8>, scales: Vec<u16>, block: usize },
    Nf4 { codes: Vec<u8>, scales: OwnedScales, block: usize, layout: Layout },
}

#[cfg(feature = "alloc")]
impl OwnedValues {
    /// All weights of `pieces`.
    pub(super) fn quantize(
        how: &Quantization,
        layout: Layout,
        pieces: &mut Pieces<'_>,
    ) -> Result<Self> {
        match how.format {
            Format::F32 => float32::quantize(pieces),
            Format::F16 => float16::quantize(pieces),
            Format::Int8 => int8::quantize(pieces, how.block),
            Format::Nf4 => nf4::quantize(pieces, how, layout, true),
            Format::Nf4Plain => nf4::quantize(pieces, how, layout, false),
        }
    }

    pub(super) fn view(&self) -> Values<'_> {
        match self {
            Self::F32(values) => Values::F32(values),
            Self::F16(values) => Values::F16(values),
            Self::Int8 { values, scales, block } => {
                Values::Int8(Int8 { values, scales, block: *block })
            }
            Self::Nf4 { codes, scales, block, layout } => {
                Values::Nf4(Nf4 { codes, scales: scales.view(), block: *block, layout: *layout })
            }
        }
    }
}
