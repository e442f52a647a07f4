//! Owned weight matrices: quantizing floats into any format, and re-ordering codes.
//!
//! Needs `alloc`; the runtime works on the borrowed [`Matrix`] this hands out.

use alloc::vec;
use alloc::vec::Vec;

use half::f16;

use super::{Format, Int8, Layout, Matrix, Nf4, Scales, Values, double, int8, nf4};
use crate::error::{Error, Result};

/// The block scales of an owned NF4 matrix; see [`Scales`].
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
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "field by field the twin of Values, Int8 and Nf4")]
pub enum OwnedValues {
    F32(Vec<f32>),
    F16(Vec<u16>),
    Int8 { values: Vec<i8>, scales: Vec<u16>, block: usize },
    Nf4 { codes: Vec<u8>, scales: OwnedScales, block: usize, layout: Layout },
}

/// An owned weight matrix `[rows, cols]`.
#[derive(Debug, Clone, PartialEq)]
pub struct OwnedMatrix {
    rows: usize,
    cols: usize,
    values: OwnedValues,
}

impl OwnedMatrix {
    /// Takes over numbers that are already in their format.
    ///
    /// # Errors
    /// As [`Matrix::new`].
    pub fn new(rows: usize, cols: usize, values: OwnedValues) -> Result<Self> {
        let matrix = Self { rows, cols, values };
        Matrix::new(rows, cols, matrix.view_values())?;
        Ok(matrix)
    }

    /// Converts `weights`, `[rows, cols]` row-major, to `format` with blocks of `block` weights
    /// (ignored by f32 and f16). NF4 codes get the fastest [`Layout`] that the shape allows.
    ///
    /// # Errors
    /// [`Error::Length`] if `weights` has another length, [`Error::Block`] for an unknown block
    /// size, [`Error::Range`] for a weight that is not finite or that the format cannot hold.
    pub fn quantize(
        format: Format,
        block: usize,
        rows: usize,
        cols: usize,
        weights: &[f32],
    ) -> Result<Self> {
        let count = rows.saturating_mul(cols);
        if weights.len() != count {
            return Err(Error::Length { have: weights.len(), need: count });
        }
        Self::quantize_pieces(format, block, rows, cols, &mut |first, out| {
            out.copy_from_slice(&weights[first..][..out.len()]);
        })
    }

    /// As [`quantize`](Self::quantize), of weights that never stand in memory together: `read`
    /// fills its second argument with the weights of the flattened tensor from the first on, a
    /// multiple of 65,536; as many follow, or the tensor ends.
    ///
    /// # Errors
    /// As [`quantize`](Self::quantize); [`Error::Length`] for a shape beyond the address space.
    pub fn quantize_pieces(
        format: Format,
        block: usize,
        rows: usize,
        cols: usize,
        read: &mut dyn FnMut(usize, &mut [f32]),
    ) -> Result<Self> {
        let count =
            rows.checked_mul(cols).ok_or(Error::Length { have: usize::MAX, need: usize::MAX })?;
        if matches!(format, Format::Int8 | Format::Nf4 | Format::Nf4Plain)
            && !nf4::is_block_size(block)
        {
            return Err(Error::Block { found: block });
        }
        let mut pieces = Pieces { count, piece: vec![0.0; count.min(PIECE)], read };
        let split = Layout::Split64.allows(cols, block);
        let layout = if split { Layout::Split64 } else { Layout::Sequential };
        let values = match format {
            Format::F32 => {
                let mut values = Vec::with_capacity(count);
                pieces.each(|_, weights| {
                    values.extend_from_slice(weights);
                    Ok(())
                })?;
                OwnedValues::F32(values)
            }
            Format::F16 => to_f16(&mut pieces)?,
            Format::Int8 => to_int8(&mut pieces, block)?,
            Format::Nf4 | Format::Nf4Plain => {
                to_nf4(&mut pieces, block, layout, format == Format::Nf4)?
            }
        };
        Ok(Self { rows, cols, values })
    }

    /// The same matrix with its codes in the order of `layout`; unchanged where the shape does not
    /// allow it or there are no codes.
    pub fn with_layout(mut self, to: Layout) -> Self {
        if let OwnedValues::Nf4 { codes, block, layout, .. } = &mut self.values
            && *layout != to
            && to.allows(self.cols, *block)
        {
            *codes = reorder(codes, self.rows * self.cols, *layout, to);
            *layout = to;
        }
        self
    }

    /// A borrowed view.
    pub fn view(&self) -> Matrix<'_> {
        Matrix::trusted(self.rows, self.cols, self.view_values())
    }

    /// The numbers, given back.
    pub fn into_values(self) -> OwnedValues {
        self.values
    }

    fn view_values(&self) -> Values<'_> {
        match &self.values {
            OwnedValues::F32(values) => Values::F32(values),
            OwnedValues::F16(values) => Values::F16(values),
            OwnedValues::Int8 { values, scales, block } => {
                Values::Int8(Int8 { values, scales, block: *block })
            }
            OwnedValues::Nf4 { codes, scales, block, layout } => Values::Nf4(Nf4 {
                codes,
                scales: match scales {
                    OwnedScales::Plain(scales) => Scales::Plain(scales),
                    OwnedScales::Double { codes, nested, offset } => {
                        Scales::Double { codes, nested, offset: *offset }
                    }
                },
                block: *block,
                layout: *layout,
            }),
        }
    }
}

/// Weights that are converted at once: whole blocks of every size.
const PIECE: usize = 1 << 16;

/// A flattened tensor that is read in pieces.
struct Pieces<'p> {
    count: usize,
    piece: Vec<f32>,
    read: &'p mut dyn FnMut(usize, &mut [f32]),
}

impl Pieces<'_> {
    /// Hands every piece, all finite, to `take` with the index of its first weight.
    fn each(&mut self, mut take: impl FnMut(usize, &[f32]) -> Result<()>) -> Result<()> {
        for first in (0..self.count).step_by(PIECE) {
            let piece = &mut self.piece[..PIECE.min(self.count - first)];
            (self.read)(first, piece);
            if let Some(index) = piece.iter().position(|w| !w.is_finite()) {
                return Err(Error::Range { index: (first + index) as u64, value: piece[index] });
            }
            take(first, piece)?;
        }
        Ok(())
    }

    /// The error of block `index`, whose scale cannot be held.
    fn largest(&mut self, index: usize, block: usize) -> Error {
        let at = index * block;
        let first = at / PIECE * PIECE;
        let piece = &mut self.piece[..PIECE.min(self.count - first)];
        (self.read)(first, piece);
        largest(&piece[at - first..][..block.min(self.count - at)], at)
    }
}

fn to_f16(pieces: &mut Pieces<'_>) -> Result<OwnedValues> {
    let mut halves = Vec::with_capacity(pieces.count);
    pieces.each(|first, weights| {
        for (i, &value) in weights.iter().enumerate() {
            let half = f16::from_f32(value);
            if !half.is_finite() {
                return Err(Error::Range { index: (first + i) as u64, value });
            }
            halves.push(half.to_bits());
        }
        Ok(())
    })?;
    Ok(OwnedValues::F16(halves))
}

fn to_int8(pieces: &mut Pieces<'_>, block: usize) -> Result<OwnedValues> {
    let mut values = Vec::with_capacity(pieces.count);
    let mut scales = Vec::with_capacity(pieces.count.div_ceil(block));
    pieces.each(|first, weights| {
        for (i, weights) in weights.chunks(block).enumerate() {
            let scale = int8::scale(weights).ok_or_else(|| largest(weights, first + i * block))?;
            values.extend(weights.iter().map(|&w| int8::encode(w, scale)));
            scales.push(scale.to_bits());
        }
        Ok(())
    })?;
    Ok(OwnedValues::Int8 { values, scales, block })
}

fn to_nf4(
    pieces: &mut Pieces<'_>,
    block: usize,
    layout: Layout,
    nested: bool,
) -> Result<OwnedValues> {
    let count = pieces.count;
    // The low nibble after an odd last weight is code 7 (zero), as bitsandbytes pads.
    let mut codes = vec![0u8; count.div_ceil(2)];
    if !count.is_multiple_of(2) {
        codes[count / 2] = 7;
    }
    let mut absmax = Vec::with_capacity(count.div_ceil(block));
    pieces.each(|first, weights| {
        for (b, weights) in weights.chunks(block).enumerate() {
            let first = first + b * block;
            absmax.push(nf4::encode_block(weights, block, |i, code| {
                put(&mut codes, layout, first + i, code)
            }));
        }
        Ok(())
    })?;
    let scales = if nested {
        let mut scale_codes = vec![0u8; absmax.len()];
        let mut groups = vec![0.0; absmax.len().div_ceil(double::GROUP)];
        let offset = double::encode(&absmax, &mut scale_codes, &mut groups);
        // The sum behind the offset overflows before a single scale does.
        let decoded = |b: usize| double::decode(scale_codes[b], groups[b / double::GROUP], offset);
        if let Some(b) = (0..absmax.len()).find(|&b| !decoded(b).is_finite()) {
            return Err(pieces.largest(b, block));
        }
        OwnedScales::Double { codes: scale_codes, nested: groups, offset }
    } else {
        OwnedScales::Plain(absmax)
    };
    Ok(OwnedValues::Nf4 { codes, scales, block, layout })
}

/// The error of a block whose scale its format cannot hold: names its largest weight. `first` is
/// the index of `block[0]`.
fn largest(block: &[f32], first: usize) -> Error {
    let (at, value) = block
        .iter()
        .enumerate()
        .fold((0, 0.0f32), |most, (i, &w)| if w.abs() > most.1.abs() { (i, w) } else { most });
    Error::Range { index: (first + at) as u64, value }
}

fn put(codes: &mut [u8], layout: Layout, index: usize, code: u8) {
    let (byte, high) = layout.place(index);
    codes[byte] |= if high { code << 4 } else { code };
}

/// The codes of `count` weights in another order.
pub(crate) fn reorder(codes: &[u8], count: usize, from: Layout, to: Layout) -> Vec<u8> {
    let mut out = vec![0u8; codes.len()];
    for index in 0..count {
        let (byte, high) = from.place(index);
        put(&mut out, to, index, if high { codes[byte] >> 4 } else { codes[byte] & 15 });
    }
    if !count.is_multiple_of(2) {
        out[count / 2] |= codes[count / 2] & 15;
    }
    out
}
