//! The numbers of low-rank factors on their way into an archive: the types they come in and the
//! ones they are stored in.
//!
//! `std` only; the read side is `lora`.

use half::f16;

use crate::archive::schema;
use crate::error::{Error, Result};
use crate::quant::Format;

/// A factor's numbers in the form they are stored in.
#[derive(Debug, Clone, PartialEq)]
pub enum Numbers {
    /// 32-bit floats.
    F32(Vec<f32>),
    /// 16-bit floats, as bits.
    F16(Vec<u16>),
}

impl Numbers {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::F16(values) => values.len(),
        }
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number at `index`.
    pub fn get(&self, index: usize) -> f32 {
        match self {
            Self::F32(values) => values[index],
            Self::F16(values) => f16::from_bits(values[index]).to_f32(),
        }
    }

    /// All of them as f32.
    pub(super) fn to_f32(&self) -> Vec<f32> {
        (0..self.len()).map(|index| self.get(index)).collect()
    }

    /// Bytes of one.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::F32(_) => size_of::<f32>(),
            Self::F16(_) => size_of::<u16>(),
        }
    }

    pub(super) fn first_not_finite(&self) -> Option<usize> {
        (0..self.len()).find(|&index| !self.get(index).is_finite())
    }

    /// `[rows, cols]` becomes `[cols, rows]`.
    pub(super) fn transposed(&self, rows: usize, cols: usize) -> Self {
        fn transpose<T: Copy>(values: &[T], rows: usize, cols: usize) -> Vec<T> {
            (0..cols).flat_map(|col| (0..rows).map(move |row| values[row * cols + col])).collect()
        }
        match self {
            Self::F32(values) => Self::F32(transpose(values, rows, cols)),
            Self::F16(values) => Self::F16(transpose(values, rows, cols)),
        }
    }
}

/// How factors are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum FactorFormat {
    /// As they came: f32 or f16.
    #[default]
    AsIs,
    /// f32.
    F32,
    /// f16.
    F16,
    /// int8 with one scale per row of A and of B transposed.
    Int8,
}

/// A factor in the form of the archive.
#[derive(Debug)]
pub(super) struct Stored {
    format: Format,
    bytes: Vec<u8>,
    scales: Vec<f32>,
}

impl Stored {
    /// `numbers` in rows of `width`.
    pub(super) fn new(numbers: &Numbers, width: usize, format: FactorFormat) -> Result<Self> {
        match (format, numbers) {
            (FactorFormat::AsIs | FactorFormat::F16, Numbers::F16(bits)) => Ok(Stored::f16(bits)),
            (FactorFormat::AsIs | FactorFormat::F32, _) => Ok(Stored::f32(&numbers.to_f32())),
            (FactorFormat::F16, _) => {
                let half = |(index, value)| {
                    let half = f16::from_f32(value);
                    if half.is_finite() {
                        Ok(half.to_bits())
                    } else {
                        Err(Error::Range { index: index as u64, value })
                    }
                };
                let bits: Vec<u16> =
                    numbers.to_f32().into_iter().enumerate().map(half).collect::<Result<_>>()?;
                Ok(Stored::f16(&bits))
            }
            (FactorFormat::Int8, _) => Ok(Stored::int8(&numbers.to_f32(), width)),
        }
    }

    fn f32(values: &[f32]) -> Self {
        Self {
            format: Format::F32,
            bytes: bytemuck::cast_slice(values).to_vec(),
            scales: Vec::new(),
        }
    }

    fn f16(bits: &[u16]) -> Self {
        Self { format: Format::F16, bytes: bytemuck::cast_slice(bits).to_vec(), scales: Vec::new() }
    }

    /// `q = round(v / scale)` with `scale = absmax / 127` of each row.
    fn int8(values: &[f32], width: usize) -> Self {
        let absmax = |row: &[f32]| row.iter().fold(0.0f32, |most, v| most.max(v.abs()));
        let scales: Vec<f32> = values.chunks(width).map(|row| absmax(row) / 127.0).collect();
        let encode = |v: f32, scale: f32| {
            if scale > 0.0 { (v / scale).round_ties_even().clamp(-127.0, 127.0) as i8 } else { 0 }
        };
        let rows = values.chunks(width).zip(&scales);
        let bytes = rows
            .flat_map(|(row, &scale)| row.iter().map(move |&v| encode(v, scale).cast_unsigned()))
            .collect();
        Self { format: Format::Int8, bytes, scales }
    }

    /// The numbers as inference will read them; rows have `width` numbers.
    pub(super) fn values(&self, width: usize) -> Vec<f32> {
        match self.format {
            Format::F16 => bytemuck::pod_collect_to_vec::<u8, u16>(&self.bytes)
                .into_iter()
                .map(|b| f16::from_bits(b).to_f32())
                .collect(),
            Format::Int8 => {
                let rows = self.bytes.chunks(width).zip(&self.scales);
                rows.flat_map(|(row, &scale)| {
                    row.iter().map(move |&q| scale * f32::from(q.cast_signed()))
                })
                .collect()
            }
            _ => bytemuck::pod_collect_to_vec(&self.bytes),
        }
    }

    pub(super) fn schema(&self) -> schema::Factor<'_> {
        schema::Factor { format: self.format as u8, values: &self.bytes, scales: &self.scales }
    }
}
