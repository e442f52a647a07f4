//! The factors A and B of an opened adapter, as kernels read them. Their lengths were checked when
//! the adapter was opened.

use half::f16;

use crate::archive::schema::ArchivedFactor;
use crate::archive::{check_finite, floats, halves, signed};
use crate::error::{Error, Result};
use crate::kernel::Kernels;
use crate::quant::Format;

/// A low-rank factor, `[rows, width]`.
#[derive(Debug, Clone, Copy)]
pub struct Factor<'a> {
    width: usize,
    values: FactorValues<'a>,
}

/// The numbers of a factor, row after row.
#[derive(Debug, Clone, Copy)]
pub enum FactorValues<'a> {
    /// 32-bit floats.
    F32(&'a [f32]),
    /// 16-bit floats, as bits.
    F16(&'a [u16]),
    /// 8-bit integers with one scale per row.
    Int8 {
        /// The integers.
        values: &'a [i8],
        /// A scale per row.
        scales: &'a [f32],
    },
}

impl<'a> Factor<'a> {
    pub(super) fn new(factor: &'a ArchivedFactor<'static>, rows: usize, width: usize) -> Self {
        let count = rows * width;
        let values = match Format::from_stored(factor.format) {
            Some(Format::F16) => FactorValues::F16(&halves(&factor.values)[..count]),
            Some(Format::Int8) => FactorValues::Int8 {
                values: &signed(&factor.values)[..count],
                scales: &floats(&factor.scales)[..rows],
            },
            _ => FactorValues::F32(&floats(&factor.values)[..count]),
        };
        Self { width, values }
    }

    /// The number of columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// All numbers as they are stored.
    pub fn values(&self) -> FactorValues<'a> {
        self.values
    }

    /// `out[j] =` row `first + j` times `x`, without the scales of int8 rows.
    #[inline]
    pub(crate) fn dots(&self, kernels: &Kernels, first: usize, x: &[f32], out: &mut [f32]) {
        let start = first * self.width;
        match self.values {
            FactorValues::F32(values) => kernels.dots(&values[start..], x, out),
            FactorValues::F16(values) => kernels.dots_f16(&values[start..], x, out),
            FactorValues::Int8 { values, .. } => kernels.dots_i8(&values[start..], x, out),
        }
    }

    /// `out[r] += Σ_j w[r][j] ·` columns `first ..` of row j, without the scales of int8 rows.
    #[inline]
    pub(crate) fn mix(
        &self,
        kernels: &Kernels,
        first: usize,
        w: &[&[f32]],
        out: &mut [&mut [f32]],
    ) {
        match self.values {
            FactorValues::F32(values) => kernels.mix(w, &values[first..], self.width, out),
            FactorValues::F16(values) => kernels.mix_f16(w, &values[first..], self.width, out),
            FactorValues::Int8 { values, .. } => {
                kernels.mix_i8(w, &values[first..], self.width, out)
            }
        }
    }

    /// The scale of every row, if rows have scales.
    #[inline]
    pub(crate) fn scales(&self) -> Option<&'a [f32]> {
        match self.values {
            FactorValues::Int8 { scales, .. } => Some(scales),
            FactorValues::F32(_) | FactorValues::F16(_) => None,
        }
    }

    /// `y += s ·` columns `first ..` of row `row`.
    #[inline]
    pub(crate) fn axpy(&self, kernels: &Kernels, row: usize, first: usize, s: f32, y: &mut [f32]) {
        let span = row * self.width + first..row * self.width + first + y.len();
        match self.values {
            FactorValues::F32(values) => kernels.axpy(s, &values[span], y),
            FactorValues::F16(values) => kernels.axpy_f16(s, &values[span], y),
            FactorValues::Int8 { values, scales } => {
                kernels.axpy_i8(s * scales[row], &values[span], y)
            }
        }
    }

    /// The number at `[row, col]`.
    pub fn get(&self, row: usize, col: usize) -> f32 {
        let at = row * self.width + col;
        match self.values {
            FactorValues::F32(values) => values[at],
            FactorValues::F16(values) => f16::from_bits(values[at]).to_f32(),
            FactorValues::Int8 { values, scales } => scales[row] * f32::from(values[at]),
        }
    }

    pub(super) fn check_finite(&self, site: u32) -> Result<()> {
        match self.values {
            FactorValues::F32(values) => check_finite(site, values),
            FactorValues::F16(values) => {
                match values.iter().position(|&bits| !f16::from_bits(bits).is_finite()) {
                    Some(index) => Err(Error::NotFinite { site, index: index as u64 }),
                    None => Ok(()),
                }
            }
            FactorValues::Int8 { scales, .. } => check_finite(site, scales),
        }
    }
}
