//! Weight matrices on the device, repacked on the way as `ptx/weights.h` describes. What a kernel
//! cannot read in its own format (rows that share a block, odd widths) becomes f32.

use std::sync::Arc;

use super::buffer::{Address, Buffer};
use super::kernels::Stored;
use super::parameters;
use super::{CudaError, Device, stride};
use crate::quant::nf4::CODEBOOK;
use crate::quant::{Layout, Matrix, Nf4, Scales, Values, double};

/// A matrix on the device.
#[derive(Debug)]
pub(super) struct Weight {
    pub(super) format: Stored,
    pub(super) matrix: parameters::Matrix,
    /// What `matrix` points to.
    _buffers: Vec<Buffer>,
}

/// The 16 NF4 values and the 256 of scale codes.
pub(super) fn tables(device: &Arc<Device>) -> Result<Buffer, CudaError> {
    Buffer::upload(device, &[&CODEBOOK[..], &double::MAP[..]].concat())
}

impl Weight {
    /// Copies a matrix; `tables` are [`tables`], which stay as long.
    pub(super) fn upload(
        device: &Arc<Device>,
        from: &Matrix<'_>,
        tables: Address,
    ) -> Result<Self, CudaError> {
        let (rows, cols) = (from.rows(), from.cols());
        let mut matrix = parameters::Matrix {
            tables,
            rows: rows as u32,
            cols: cols as u32,
            stride: stride(cols) as u32,
            block_shift: from.block().trailing_zeros(),
            ..parameters::Matrix::default()
        };
        let mut buffers = Vec::new();
        let mut put = |buffer: Buffer| {
            let address = buffer.address();
            buffers.push(buffer);
            address
        };
        let format = match from.values() {
            Values::Nf4(nf4) if cols.is_multiple_of(64) && nf4.block.is_multiple_of(64) => {
                matrix.codes = put(Buffer::upload(device, &repacked(&nf4, rows, cols))?);
                match nf4.scales {
                    Scales::Plain(scales) => matrix.scales = put(Buffer::upload(device, scales)?),
                    Scales::Double { codes, nested, offset } => {
                        matrix.scales = put(Buffer::upload(device, codes)?);
                        matrix.nested = put(Buffer::upload(device, nested)?);
                        matrix.offset = offset;
                    }
                }
                Stored::Nf4
            }
            Values::Int8(int8) if cols.is_multiple_of(8) => {
                matrix.codes = put(Buffer::upload(device, int8.values)?);
                matrix.scales = put(Buffer::upload(device, int8.scales)?);
                Stored::Int8
            }
            Values::F16(halves) => {
                matrix.codes = put(Buffer::upload(device, &padded(halves, cols))?);
                Stored::F16
            }
            _ => {
                let mut floats = vec![0.0f32; rows * stride(cols)];
                for (row, out) in floats.chunks_exact_mut(stride(cols)).enumerate() {
                    from.read(row, 0, &mut out[..cols]);
                }
                matrix.codes = put(Buffer::upload(device, &floats)?);
                Stored::F32
            }
        };
        Ok(Self { format, matrix, _buffers: buffers })
    }
}

/// Rows of `width` numbers, each with zeros up to where the next one starts.
pub(super) fn padded<T: Copy + Default>(values: &[T], width: usize) -> Vec<T> {
    let mut out = Vec::with_capacity(values.len() / width.max(1) * stride(width));
    for row in values.chunks_exact(width.max(1)) {
        out.extend_from_slice(row);
        out.resize(out.len() + stride(width) - width, T::default());
    }
    out
}

/// Bytes of 1,024 codes.
const CHUNK: usize = 512;

/// The codes in the kernel's order.
fn repacked(nf4: &Nf4<'_>, rows: usize, cols: usize) -> Vec<u8> {
    let mut out = match nf4.layout {
        Layout::Sequential => nf4.codes.to_vec(),
        Layout::Split64 => nf4.codes.as_chunks::<32>().0.iter().flat_map(in_order).collect(),
    };
    debug_assert_eq!(out.len(), rows * cols / 2);
    for row in out.chunks_exact_mut(cols / 2) {
        row.as_chunks_mut::<CHUNK>().0.iter_mut().for_each(interleave);
    }
    out
}

/// 64 codes, two neighbours a byte, the first in the high nibble.
fn in_order(split: &[u8; 32]) -> [u8; 32] {
    core::array::from_fn(|i| {
        let (first, second) = (split[2 * i % 32], split[(2 * i + 1) % 32]);
        if i < 16 { first << 4 | second & 15 } else { first & 0xf0 | second >> 4 }
    })
}

/// Of 1,024 codes the four quarters' words of every lane side by side.
fn interleave(chunk: &mut [u8; CHUNK]) {
    let from = *chunk;
    for (i, word) in chunk.chunks_exact_mut(4).enumerate() {
        let (lane, quarter) = (i / 4, i % 4);
        word.copy_from_slice(&from[quarter * 128 + lane * 4..][..4]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::{Format, OwnedMatrix};

    #[test]
    fn repacked_codes_are_where_kernels_look() {
        let (rows, cols) = (3, 1024 + 128);
        let weights: Vec<f32> = (0..rows * cols).map(|i| (i as f32 * 0.37).sin()).collect();
        for layout in [Layout::Sequential, Layout::Split64] {
            let owned = OwnedMatrix::quantize(Format::Nf4, 64, rows, cols, &weights).unwrap();
            let owned = owned.with_layout(layout);
            let Values::Nf4(from) = owned.view().values() else { panic!("NF4") };
            let bytes = repacked(&from, rows, cols);
            for index in 0..rows * cols {
                let (row, col) = (index / cols, index % cols);
                let inside = col % 1024;
                let byte = if col < 1024 {
                    inside % 256 / 8 * 16 + inside / 256 * 4 + inside % 8 / 2
                } else {
                    col / 2
                };
                let byte = bytes[row * cols / 2 + byte];
                let code = if index.is_multiple_of(2) { byte >> 4 } else { byte & 15 };
                assert_eq!(code, from.code(index), "{layout:?} {index}");
            }
        }
    }

    #[test]
    fn rows_are_padded_with_zeros() {
        assert_eq!(padded(&[1, 2, 3, 4], 2), [1, 2, 0, 0, 0, 0, 0, 0, 3, 4, 0, 0, 0, 0, 0, 0]);
    }
}
