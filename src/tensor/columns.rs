//! The row split: disjoint column ranges of one output matrix, written by several lanes at once.
//!
//! A linear layer's output is `[n, out]` and lanes own ranges of `out`, so their parts interleave
//! in memory and no safe slice can describe them. This is the one place that knows; kernels receive
//! a [`Columns`] and write through it.

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
        let (rows, stride) = (matrix.rows(), matrix.cols());
        Self {
            data: matrix.data().as_mut_ptr(),
            rows,
            stride,
            range: 0..stride,
            matrix: PhantomData,
        }
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
        Columns {
            data: self.data,
            rows: self.rows,
            stride: self.stride,
            range,
            matrix: PhantomData,
        }
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

/// A matrix whose columns are about to be split among lanes.
#[derive(Debug)]
pub(crate) struct Split<'a> {
    whole: Columns<'a>,
}

// SAFETY: `part` is the only access, and its contract makes the parts disjoint.
unsafe impl Sync for Split<'_> {}

impl<'a> Split<'a> {
    /// Rows of `stride` columns; elements behind the last whole row are left alone.
    pub(crate) fn new(matrix: &'a mut [f32], stride: usize) -> Self {
        let rows = matrix.len().checked_div(stride).unwrap_or(0);
        Self {
            whole: Columns {
                data: matrix.as_mut_ptr(),
                rows,
                stride,
                range: 0..stride,
                matrix: PhantomData,
            },
        }
    }

    /// The columns `range`, clamped to the matrix.
    ///
    /// # Safety
    /// Ranges handed out while another part is alive must not overlap.
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> Columns<'_> {
        let end = range.end.min(self.whole.stride);
        let range = range.start.min(end)..end;
        Columns {
            data: self.whole.data,
            rows: self.whole.rows,
            stride: self.whole.stride,
            range,
            matrix: PhantomData,
        }
    }
}

/// A slice in consecutive parts of equal width, each written by one lane.
#[derive(Debug)]
pub(crate) struct Parts<'a, T> {
    data: *mut T,
    parts: usize,
    width: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: `part` is the only access, and its contract makes the parts disjoint.
unsafe impl<T: Send> Sync for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    /// Parts of `width` elements; elements behind the last whole part are left alone.
    pub(crate) fn new(slice: &'a mut [T], width: usize) -> Self {
        Self { data: slice.as_mut_ptr(), parts: slice.len() / width, width, slice: PhantomData }
    }

    /// Part `index`.
    ///
    /// # Safety
    /// No two lanes may hold the same part at a time.
    #[allow(clippy::mut_from_ref, reason = "the caller promises exclusive access")]
    pub(crate) unsafe fn part(&self, index: usize) -> &mut [T] {
        assert!(index < self.parts);
        // SAFETY: inside the slice; exclusive by the caller's promise.
        unsafe { core::slice::from_raw_parts_mut(self.data.add(index * self.width), self.width) }
    }

    /// Part `index`, to be read.
    ///
    /// # Safety
    /// No lane may hold the part to write it, then or later.
    pub(crate) unsafe fn read(&self, index: usize) -> &[T] {
        assert!(index < self.parts);
        // SAFETY: inside the slice; nobody writes it by the caller's promise.
        unsafe { core::slice::from_raw_parts(self.data.add(index * self.width), self.width) }
    }
}
