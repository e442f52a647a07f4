//! Row-major matrices over borrowed slices; the length is checked once, at construction.

use crate::error::{Error, Result};

/// A borrowed row-major matrix, `[rows, cols]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mat<'a, T = f32> {
    data: &'a [T],
    cols: usize,
}

impl<'a, T> Mat<'a, T> {
    /// A matrix of `cols` columns over `data`.
    ///
    /// # Errors
    /// [`Error::Length`] if `data` is not a whole number of rows, or `cols` is zero.
    pub fn new(data: &'a [T], cols: usize) -> Result<Self> {
        match data.len().checked_rem(cols) {
            Some(0) => Ok(Self { data, cols }),
            _ => Err(Error::Length {
                have: data.len(),
                need: data.len().next_multiple_of(cols.max(1)),
            }),
        }
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.data.len() / self.cols
    }

    /// The number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// All elements, row after row.
    pub fn data(&self) -> &'a [T] {
        self.data
    }

    /// Row `index`, `[cols]`. Panics outside the matrix, like slice indexing.
    pub fn row(&self, index: usize) -> &'a [T] {
        &self.data[index * self.cols..][..self.cols]
    }
}

/// A mutable row-major matrix, `[rows, cols]`.
#[derive(Debug, PartialEq)]
pub struct MatMut<'a, T = f32> {
    data: &'a mut [T],
    cols: usize,
}

impl<'a, T> MatMut<'a, T> {
    /// A matrix of `cols` columns over `data`.
    ///
    /// # Errors
    /// [`Error::Length`] if `data` is not a whole number of rows, or `cols` is zero.
    pub fn new(data: &'a mut [T], cols: usize) -> Result<Self> {
        Mat::new(data, cols)?;
        Ok(Self { data, cols })
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.data.len() / self.cols
    }

    /// The number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The same matrix, read only.
    pub fn as_ref(&self) -> Mat<'_, T> {
        Mat { data: self.data, cols: self.cols }
    }

    /// All elements, row after row.
    pub fn data(&mut self) -> &mut [T] {
        self.data
    }

    /// Row `index`, `[cols]`. Panics outside the matrix, like slice indexing.
    pub fn row(&mut self, index: usize) -> &mut [T] {
        &mut self.data[index * self.cols..][..self.cols]
    }

    /// The same matrix for a shorter time.
    pub fn reborrow(&mut self) -> MatMut<'_, T> {
        MatMut { data: self.data, cols: self.cols }
    }
}
