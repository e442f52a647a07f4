//! Owned weight matrices: floats are handed to their format piece by piece to be quantized.
//!
//! Needs `alloc`; the runtime works on the borrowed [`Matrix`] this hands out.

use alloc::{vec, vec::Vec};

use super::format::{OwnedValues, reorder};
use super::{BLOCK, BlockScale, Format, Layout, Matrix, nf4};
use crate::error::{Error, Result};

/// How floats are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantization {
    /// The format.
    pub format: Format,
    /// Weights per block: a power of two from 32 to 4096; f32 and f16 have none. Default:
    /// [`BLOCK`].
    pub block: usize,
    /// How NF4 chooses the scale of a block; the others do not ask. Default:
    /// [`BlockScale::Absmax`].
    pub scale: BlockScale,
}

impl Quantization {
    /// `format` with the defaults.
    pub const fn new(format: Format) -> Self {
        Self { format, block: BLOCK, scale: BlockScale::Absmax }
    }
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
        Matrix::new(rows, cols, matrix.values.view())?;
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
        let how = Quantization { block, ..Quantization::new(format) };
        Self::quantize_pieces(&how, rows, cols, &mut |first, out| {
            out.copy_from_slice(&weights[first..][..out.len()]);
        })
    }

    /// As [`quantize`](Self::quantize), of weights that never stand in memory together: `read`
    /// fills its second argument with the weights of the flattened tensor from the first on, a
    /// multiple of 65,536; as many follow, or the tensor ends. Some formats read twice.
    ///
    /// # Errors
    /// As [`quantize`](Self::quantize); [`Error::Length`] for a shape beyond the address space.
    pub fn quantize_pieces(
        how: &Quantization,
        rows: usize,
        cols: usize,
        read: &mut dyn FnMut(usize, &mut [f32]),
    ) -> Result<Self> {
        let count =
            rows.checked_mul(cols).ok_or(Error::Length { have: usize::MAX, need: usize::MAX })?;
        if how.format.has_blocks() && !nf4::is_block_size(how.block) {
            return Err(Error::Block { found: how.block });
        }
        let mut pieces = Pieces { count, piece: vec![0.0; count.min(PIECE)], read };
        let split = Layout::Split64.allows(cols, how.block);
        let layout = if split { Layout::Split64 } else { Layout::Sequential };
        let values = OwnedValues::quantize(how, layout, &mut pieces)?;
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
        Matrix::trusted(self.rows, self.cols, self.values.view())
    }

    /// The numbers, given back.
    pub fn into_values(self) -> OwnedValues {
        self.values
    }
}

/// Weights that are converted at once: whole blocks of every size.
const PIECE: usize = 1 << 16;

/// A flattened tensor that is read in pieces.
pub(super) struct Pieces<'p> {
    pub(super) count: usize,
    piece: Vec<f32>,
    read: &'p mut dyn FnMut(usize, &mut [f32]),
}

impl Pieces<'_> {
    /// Hands every piece, all finite, to `take` with the index of its first weight.
    pub(super) fn each(&mut self, mut take: impl FnMut(usize, &[f32]) -> Result<()>) -> Result<()> {
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

    /// The error of a block whose scale its format cannot hold: names its largest weight. `first`
    /// is the index of `block[0]`.
    pub(super) fn too_large(block: &[f32], first: usize) -> Error {
        let (at, value) = block
            .iter()
            .enumerate()
            .fold((0, 0.0f32), |max, (i, &w)| if w.abs() > max.1.abs() { (i, w) } else { max });
        Error::Range { index: (first + at) as u64, value }
    }

    /// The same of block `index`, read again.
    pub(super) fn too_large_block(&mut self, index: usize, block: usize) -> Error {
        let at = index * block;
        let first = at / PIECE * PIECE;
        let piece = &mut self.piece[..PIECE.min(self.count - first)];
        (self.read)(first, piece);
        Self::too_large(&piece[at - first..][..block.min(self.count - at)], at)
    }
}
