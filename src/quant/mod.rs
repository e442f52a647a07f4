//! Weight formats: NF4 with double quantization, int8 per block, f16 and f32.
//!
//! | format | bits per weight | scale |
//! |---|---|---|
//! | NF4, double quantization | 4.127 | 8-bit code per 64 weights, one f32 per 256 codes |
//! | NF4, plain scales | 4.5 | one f32 per 64 weights |
//! | int8 | 8.25 | one f16 per 64 weights |
//! | f16 | 16 | none |
//! | f32 | 32 | none |
//!
//! This module says what the bytes mean and converts one block at a time. Products over whole
//! matrices are in `kernel`.

pub mod double;
pub mod int8;
mod matrix;
pub mod nf4;
#[cfg(feature = "alloc")]
mod owned;

pub use matrix::{Format, Int8, Layout, Matrix, Nf4, Scales, Values};
#[cfg(feature = "std")]
pub(crate) use owned::reorder;
#[cfg(feature = "alloc")]
pub use owned::{OwnedMatrix, OwnedScales, OwnedValues};

/// The NF4 and int8 block size used unless another is asked for, in weights.
pub const BLOCK: usize = 64;
