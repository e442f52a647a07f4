//! Column ranges of a matrix, of which several can be written at once.
//!
//! A linear layer's output is `[n, out]` and workers own ranges of `out`, so their parts interleave
//! in memory and no slice can describe them. Kernels receive a [`Columns`] and write through it;
//! `workers` hands them out.

use core::marker::PhantomData;
use core::ops::Range;

use super::MatMut;

/// Exclusive access to columns `range` of every row of an `[n, stride]` matrix.
#[derive(Debug)]
pub struct Columns<'a> {
    data: *mut f32,
    rows: usize,
    stride: usize,
    range: Range<usize>,
    matrix: PhantomData<&'a mut [f32]>,
}

impl<'a> Columns<'a> {
    /// All columns of `matrix`.
    pub fn all(matrix: &'a mut MatMut<'_>) -> Self {
        let stride = matrix.cols();
        Self::of(matrix.data(), stride)
    }

    /// All columns of the whole rows of `stride` columns in `matrix`.
    pub(crate) fn of(matrix: &'a mut [f32], stride: usize) -> Self {
        let rows = matrix.len().checked_div(stride).unwrap_or(0);
        let data = matrix.as_mut_ptr();
        Self { data, rows, stride, range: 0..stride, matrix: PhantomData }
    }

    /// Some rows and columns, beside which the view lives on.
    ///
    /// # Safety
    /// They lie in this view, and views that are used at a time do not overlap.
    pub(super) unsafe fn alias(&self, rows: Range<usize>, range: Range<usize>) -> Self {
        // SAFETY: inside the matrix, or one past its end for no rows.
        let data = unsafe { self.data.add(rows.start * self.stride) };
        Self { data, rows: rows.len(), stride: self.stride, range, matrix: PhantomData }
    }

    /// The part `range` of these columns (the matrix's numbering), for as long as this view is
    /// borrowed.
    ///
    /// # Panics
    /// If the view does not own all of `range`.
    pub fn narrow(&mut self, range: Range<usize>) -> Columns<'_> {
        assert!(
            self.range.start <= range.start
                && range.start <= range.end
                && range.end <= self.range.end
        );
        // SAFETY: `range` was checked; this view is borrowed as long as the part is used.
        unsafe { self.alias(0..self.rows, range) }
    }

    /// The number of matrix rows (the batch).
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The columns this view owns, in the matrix's own numbering.
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// The owned part of row `row`.
    #[inline]
    pub fn row(&mut self, row: usize) -> &mut [f32] {
        assert!(row < self.rows);
        // SAFETY: row < rows, the range lies inside the stride, and no other view owns these
        // columns.
        unsafe {
            core::slice::from_raw_parts_mut(
                self.data.add(row * self.stride + self.range.start),
                self.range.len(),
            )
        }
    }

    /// The owned parts of all rows.
    pub(crate) fn all_rows(&mut self) -> impl Iterator<Item = &mut [f32]> {
        let (data, stride, range) = (self.data, self.stride, self.range());
        // SAFETY: as in `row`; different rows do not overlap.
        (0..self.rows).map(move |row| unsafe {
            core::slice::from_raw_parts_mut(data.add(row * stride + range.start), range.len())
        })
    }

    /// The owned parts of rows `first ..`, as many as there are up to N; empty ones behind the
    /// last.
    pub(crate) fn some_rows<const N: usize>(&mut self, first: usize) -> [&mut [f32]; N] {
        let (data, len) = (self.data, self.range.len());
        core::array::from_fn(|i| {
            let row = first + i;
            if row >= self.rows {
                return Default::default();
            }
            // SAFETY: as in `row`; different rows do not overlap.
            unsafe {
                core::slice::from_raw_parts_mut(data.add(row * self.stride + self.range.start), len)
            }
        })
    }

    /// Adds `value` at row `row`, column `col` (the matrix's numbering).
    #[inline]
    pub fn add(&mut self, row: usize, col: usize, value: f32) {
        let start = self.range.start;
        self.row(row)[col - start] += value;
    }

    /// Writes `value` at row `row`, column `col` (the matrix's numbering).
    #[inline]
    pub fn set(&mut self, row: usize, col: usize, value: f32) {
        let start = self.range.start;
        self.row(row)[col - start] = value;
    }
}
