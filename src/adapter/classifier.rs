//! A classifier that an adapter brings: `logits = W h + b` over the base's pooled hidden state h,
//! `[dim]`.
//!
//! This file checks and hands out its parts; sessions compute with them.

use crate::archive::check_finite;
use crate::archive::schema::{ArchivedClassifier, ArchivedLinear, check_vector, vector};
use crate::error::{Error, Result};
use crate::quant::Matrix;

/// A classifier of an opened adapter. Borrows the archive.
#[derive(Debug, Clone, Copy)]
pub struct Classifier<'a> {
    weight: Matrix<'a>,
    bias: &'a [f32],
    labels: &'a str,
}

impl<'a> Classifier<'a> {
    /// After [`check`] has succeeded.
    pub(super) fn new(classifier: &'a ArchivedClassifier<'static>) -> Self {
        let weight = classifier.linear.weight.view();
        Self {
            weight,
            bias: vector(&classifier.linear.bias, weight.rows()),
            labels: &classifier.labels,
        }
    }

    /// W, `[labels, dim]`.
    pub fn weight(&self) -> Matrix<'a> {
        self.weight
    }

    /// b, `[labels]`, or empty.
    pub fn bias(&self) -> &'a [f32] {
        self.bias
    }

    /// The label names, one per row of W.
    pub fn labels(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.labels.split('\n')
    }

    /// The number of labels.
    pub fn len(&self) -> usize {
        self.weight.rows()
    }

    /// Never: an opened classifier has a label.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Proves what [`Classifier::new`] relies on, and that every value is finite. Errors call it tensor
/// `site`.
pub(super) fn check(site: u32, classifier: &ArchivedClassifier<'static>) -> Result<()> {
    let linear = &classifier.linear;
    let (rows, cols) =
        (linear.weight.rows.to_native() as usize, linear.weight.cols.to_native() as usize);
    check_labels(&classifier.labels, rows)?;
    check_linear(site, linear, rows, cols)
}

/// A layer of `[rows, cols]` with a bias or none, every value finite.
pub(super) fn check_linear(
    site: u32,
    linear: &ArchivedLinear<'static>,
    rows: usize,
    cols: usize,
) -> Result<()> {
    linear.weight.check(site, rows, cols)?;
    check_vector(site, &linear.bias, rows, true)?;
    linear.weight.check_values(site)?;
    check_finite(site, vector(&linear.bias, rows))
}

/// Are `labels`, joined by line feeds, one name for each of `rows` rows?
pub(crate) fn check_labels(labels: &str, rows: usize) -> Result<()> {
    let (mut lines, mut names) = (0, 0);
    // Of bytes: searching for a character takes 350 bytes of code.
    for name in labels.as_bytes().split(|&byte| byte == b'\n') {
        lines += 1;
        names += usize::from(!name.is_empty());
    }
    if rows == 0 || lines != rows || names != rows {
        return Err(Error::Labels { names: names as u64, rows: rows as u64 });
    }
    Ok(())
}
