//! A borrowed weight matrix in any format: what an archive hands out and kernels read.
//!
//! Not a container: owned matrices are in `owned` (alloc). Lengths were checked by whoever made the
//! value.

use super::{Format, Layout, Values};
use crate::error::{Error, Result};

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
        let (format, block) = (matrix.format(), matrix.block());
        if !format.allows(block, matrix.layout(), cols) {
            return Err(Error::Block { found: block });
        }
        let count = (rows as u64).saturating_mul(cols as u64);
        let (main, scales, nested) = format.payload(count, block as u64);
        let (have, (value, scale)) = (values.parts(), format.elements());
        for (have, need, size) in
            [(have.codes, main, value), (have.scales, scales, scale), (have.nested, nested, 4)]
        {
            if have.len() as u64 != need {
                let need = usize::try_from(need / size).unwrap_or(usize::MAX);
                return Err(Error::Length { have: have.len() / size as usize, need });
            }
        }
        Ok(matrix)
    }

    /// A matrix whose lengths were checked when its archive was opened.
    pub(crate) fn trusted(rows: usize, cols: usize, values: Values<'a>) -> Self {
        Self { rows, cols, values }
    }

    /// A matrix of this shape that holds `values` instead, `[rows, cols]`.
    #[cfg(feature = "train")]
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
        self.values.format()
    }

    /// Weights per block; 1 for formats without blocks.
    pub fn block(&self) -> usize {
        self.values.block()
    }

    /// The order of the codes.
    pub fn layout(&self) -> Layout {
        self.values.layout()
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
        self.values.read(row * self.cols + first, out);
    }

    /// The dequantized weights `first ..` of the flattened matrix into `out`.
    #[cfg(feature = "std")]
    pub(crate) fn read_flat(&self, first: usize, out: &mut [f32]) {
        assert!(first + out.len() <= self.rows * self.cols);
        self.values.read(first, out);
    }

    /// The index of the first scale that is not finite, or of the first f32 or f16 weight that is
    /// not.
    pub(crate) fn first_not_finite(&self) -> Option<u64> {
        self.values.first_not_finite().map(|index| index as u64)
    }
}
