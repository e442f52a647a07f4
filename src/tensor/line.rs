//! The 64-byte unit in which archives store numbers: a slice of it starts on a cache line and is
//! read in place as numbers of any type. How it gets into a file is `archive`'s affair.

/// 64 bytes on a 64-byte boundary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Line(pub [u8; 64]);

impl Line {
    /// A line of zeros.
    pub const ZERO: Self = Self([0; 64]);
}

// SAFETY: an array of bytes without padding, valid for every bit pattern.
unsafe impl bytemuck::Zeroable for Line {}
// SAFETY: as above; Copy and 'static.
unsafe impl bytemuck::Pod for Line {}

/// The lines as bytes.
pub(crate) fn bytes_of(lines: &[Line]) -> &[u8] {
    bytemuck::cast_slice(lines)
}

/// The lines as f32 values.
pub(crate) fn floats(lines: &[Line]) -> &[f32] {
    bytemuck::cast_slice(lines)
}

/// The lines as f16 bits.
pub(crate) fn halves(lines: &[Line]) -> &[u16] {
    bytemuck::cast_slice(lines)
}

/// The lines as signed bytes.
pub(crate) fn signed(lines: &[Line]) -> &[i8] {
    bytemuck::cast_slice(lines)
}
