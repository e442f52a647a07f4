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
        if let Some(index) = weights.iter().position(|w| !w.is_finite()) {
            return Err(Error::Range { index: index as u64, value: weights[index] });
        }
        if matches!(format, Format::Int8 | Format::Nf4 | Format::Nf4Plain)
            && !nf4::is_block_size(block)
        {
            return Err(Error::Block { found: block });
        }
        let values = match format {
            Format::F32 => OwnedValues::F32(weights.to_vec()),
            Format::F16 => OwnedValues::F16(to_f16(weights)?),
            Format::Int8 => to_int8(weights, block)?,
            Format::Nf4 | Format::Nf4Plain => to_nf4(weights, block, format == Format::Nf4)?,
        };
        let matrix = Self { rows, cols, values };
        let fast = matrix.view().values();
        Ok(match fast {
            Values::Nf4(_) if Layout::Split64.allows(cols, block) => {
                matrix.with_layout(Layout::Split64)
            }
            _ => matrix,
        })
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

fn to_f16(weights: &[f32]) -> Result<Vec<u16>> {
    let convert = |(index, &value): (usize, &f32)| {
        let half = f16::from_f32(value);
        if half.is_finite() {
            Ok(half.to_bits())
        } else {
            Err(Error::Range { index: index as u64, value })
        }
    };
    weights.iter().enumerate().map(convert).collect()
}

fn to_int8(weights: &[f32], block: usize) -> Result<OwnedValues> {
    let mut values = Vec::with_capacity(weights.len());
    let mut scales = Vec::with_capacity(weights.len().div_ceil(block));
    for (i, weights) in weights.chunks(block).enumerate() {
        let scale = int8::scale(weights).ok_or_else(|| largest(weights, i * block))?;
        values.extend(weights.iter().map(|&w| int8::encode(w, scale)));
        scales.push(scale.to_bits());
    }
    Ok(OwnedValues::Int8 { values, scales, block })
}

fn to_nf4(weights: &[f32], block: usize, nested: bool) -> Result<OwnedValues> {
    let layout = Layout::Sequential;
    // The low nibble after an odd last weight is code 7 (zero), as bitsandbytes pads.
    let mut codes = vec![0u8; weights.len().div_ceil(2)];
    if !weights.len().is_multiple_of(2) {
        codes[weights.len() / 2] = 7;
    }
    let mut absmax = Vec::with_capacity(weights.len().div_ceil(block));
    for (b, weights) in weights.chunks(block).enumerate() {
        absmax.push(nf4::encode_block(weights, block, |i, code| {
            put(&mut codes, layout, b * block + i, code)
        }));
    }
    let scales = if nested {
        let mut scale_codes = vec![0u8; absmax.len()];
        let mut groups = vec![0.0; absmax.len().div_ceil(double::GROUP)];
        let offset = double::encode(&absmax, &mut scale_codes, &mut groups);
        // The sum behind the offset overflows before a single scale does.
        let decoded = |b: usize| double::decode(scale_codes[b], groups[b / double::GROUP], offset);
        if let Some(b) = (0..absmax.len()).find(|&b| !decoded(b).is_finite()) {
            return Err(largest(
                &weights[b * block..][..block.min(weights.len() - b * block)],
                b * block,
            ));
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
