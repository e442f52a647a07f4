//! What archives hold: the parts that roots share, and the roots of adapters and checkpoints.
//! Borrowed structs are written; their `Archived…` twins are read in place. The root of a model
//! family is in the family's folder.
//!
//! A new model family is a new root with a number of its own, so old files never change. Presence
//! of an optional vector is its length. Lengths and meanings are checked by the `check` of each
//! part, called when a root is opened, so that the views handed out afterwards need no checks.

mod adapter;
pub mod checkpoint;

pub use adapter::{
    Adapter, ArchivedAdapter, ArchivedClassifier, ArchivedFactor, ArchivedReplaced, ArchivedTarget,
    Classifier, Factor, Replaced, Target,
};

use rkyv::rend::{f32_le, u16_le, u32_le};
use rkyv::vec::ArchivedVec;
use rkyv::with::InlineAsBox;
use rkyv::{Archive, Serialize};

use super::floats;
use super::line::{Line, Lines};
use crate::error::{Error, Result};
use crate::quant::{Format, Layout, Matrix as View, Parts, Values};

/// A weight matrix `[rows, cols]`, in one format.
#[derive(Debug, Clone, Copy, Default, Archive, Serialize)]
pub struct Matrix<'a> {
    /// Outputs.
    pub rows: u32,
    /// Inputs.
    pub cols: u32,
    /// Weights per block; 1 for formats without blocks.
    pub block: u32,
    /// NF4: the mean of the scales; else 0.
    pub offset: f32,
    /// [`Format`] as a number.
    pub format: u8,
    /// [`Layout`] as a number.
    pub layout: u8,
    /// Codes or values.
    #[rkyv(with = Lines)]
    pub codes: &'a [u8],
    /// Block scales: f32, f16, or 8-bit codes.
    #[rkyv(with = Lines)]
    pub scales: &'a [u8],
    /// NF4: the scale of each group of scale codes.
    #[rkyv(with = Lines)]
    pub nested: &'a [f32],
}

impl<'a> From<View<'a>> for Matrix<'a> {
    fn from(view: View<'a>) -> Self {
        let Parts { codes, scales, nested, offset } = view.values().parts();
        Self {
            rows: view.rows() as u32,
            cols: view.cols() as u32,
            block: view.block() as u32,
            offset,
            format: view.format() as u8,
            layout: view.layout() as u8,
            codes,
            scales,
            // An empty slice of bytes may lie anywhere.
            nested: if nested.is_empty() { &[] } else { bytemuck::cast_slice(nested) },
        }
    }
}

impl ArchivedMatrix<'_> {
    fn known_format(&self) -> Option<(Format, Layout)> {
        Some((Format::from_stored(self.format)?, Layout::from_stored(self.layout)?))
    }

    /// Proves what [`view`](Self::view) relies on: known format, the expected shape, and payloads
    /// of the right length.
    pub(crate) fn check(&self, site: u32, rows: usize, cols: usize) -> Result<()> {
        let (have_rows, have_cols) = (self.rows.to_native(), self.cols.to_native());
        if (have_rows as usize, have_cols as usize) != (rows, cols) {
            return Err(Error::Shape {
                site,
                rows: have_rows.into(),
                cols: have_cols.into(),
                expected_rows: rows as u64,
                expected_cols: cols as u64,
            });
        }
        let block = self.block.to_native() as usize;
        let unknown = Error::Format {
            site,
            format: self.format.into(),
            layout: self.layout.into(),
            block: block as u32,
        };
        let (format, layout) = self.known_format().ok_or(unknown)?;
        if !format.allows(block, layout, cols) {
            return Err(unknown);
        }
        let (main, scales, nested) =
            format.payload(u64::from(have_rows) * u64::from(have_cols), block as u64);
        check_lines(site, &self.codes, main)?;
        check_lines(site, &self.scales, scales)?;
        check_lines(site, &self.nested, nested)
    }

    /// Proves that every scale (or plain value) is finite; reads them all.
    pub(crate) fn check_values(&self, site: u32) -> Result<()> {
        self.view().first_not_finite().map_or(Ok(()), |index| Err(Error::NotFinite { site, index }))
    }

    /// The matrix, after [`check`](Self::check) has succeeded.
    pub(crate) fn view(&self) -> View<'_> {
        let (rows, cols, block) = (
            self.rows.to_native() as usize,
            self.cols.to_native() as usize,
            self.block.to_native() as usize,
        );
        let (format, layout) = self.known_format().unwrap_or((Format::F32, Layout::Sequential));
        let parts = Parts {
            codes: &self.codes,
            scales: &self.scales,
            nested: &self.nested,
            offset: self.offset.to_native(),
        };
        let values = Values::in_place(format, rows * cols, block, layout, &parts);
        View::trusted(rows, cols, values)
    }
}

/// Exactly the lines that `bytes` need.
pub(crate) fn check_lines(site: u32, lines: &ArchivedVec<Line>, bytes: u64) -> Result<()> {
    let have = lines.len() as u64;
    if have == bytes.div_ceil(size_of::<Line>() as u64) {
        return Ok(());
    }
    Err(Error::PayloadLength { site, have: have * size_of::<Line>() as u64, need: bytes })
}

/// Checks a vector of `len` f32 values, or that it is absent where `optional`; says whether it is
/// there.
pub(crate) fn check_vector(
    site: u32,
    lines: &ArchivedVec<Line>,
    len: usize,
    optional: bool,
) -> Result<bool> {
    if optional && lines.is_empty() {
        return Ok(false);
    }
    check_lines(site, lines, len as u64 * 4)?;
    Ok(true)
}

/// A vector of `len` f32 values after [`check_vector`]; empty if absent.
pub(crate) fn vector(lines: &ArchivedVec<Line>, len: usize) -> &[f32] {
    if lines.is_empty() { &[] } else { &floats(lines)[..len] }
}

/// A linear layer: `y = W x + b`.
#[derive(Debug, Clone, Copy, Default, Archive, Serialize)]
pub struct Linear<'a> {
    /// W, `[out, in]`.
    pub weight: Matrix<'a>,
    /// b, `[out]`, or empty.
    #[rkyv(with = Lines)]
    pub bias: &'a [f32],
}

/// The tokenizer of a language model, carried as it came.
#[derive(Debug, Clone, Copy, Default, Archive, Serialize)]
pub struct Text<'a> {
    /// `tokenizer.json`, or empty.
    #[rkyv(with = InlineAsBox)]
    pub tokenizer: &'a [u8],
    /// The chat template (Jinja), or empty.
    #[rkyv(with = InlineAsBox)]
    pub chat_template: &'a str,
    /// The begin-of-sequence token.
    pub bos: Option<u32>,
    /// Is it put before every prompt?
    pub add_bos: bool,
    /// Tokens that end a turn; the end-of-sequence token first.
    #[rkyv(with = InlineAsBox)]
    pub stop: &'a [u32],
}

#[cfg(feature = "alloc")]
impl ArchivedText<'_> {
    /// As it was written; its `stop` is lent by the caller.
    pub(crate) fn with_stop<'a>(&'a self, stop: &'a [u32]) -> Text<'a> {
        Text {
            tokenizer: &self.tokenizer,
            chat_template: &self.chat_template,
            bos: self.bos.as_ref().map(|id| id.to_native()),
            add_bos: self.add_bos,
            stop,
        }
    }
}

// The format features of rkyv show in these.
const _: () = assert!(size_of::<ArchivedMatrix<'static>>() == 72);
const _: (u16_le, u32_le, f32_le) =
    (u16_le::from_native(0), u32_le::from_native(0), f32_le::from_native(0.0));
