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
//! `format` has a file for each: it says what the bytes mean and converts one block at a time. Products over whole
//! matrices are in `kernel`.

pub mod double;
mod format;
mod matrix;
#[cfg(feature = "alloc")]
mod owned;

pub(crate) use format::Parts;
pub use format::int8::Int8;
pub use format::nf4::{BlockScale, Nf4, Scales};
#[cfg(feature = "std")]
pub(crate) use format::reorder;
pub use format::{Format, Layout, Values, int8, nf4};
#[cfg(feature = "alloc")]
pub use format::{OwnedScales, OwnedValues};
pub use matrix::Matrix;
#[cfg(feature = "alloc")]
pub use owned::{OwnedMatrix, Quantization};

/// The NF4 and int8 block size used unless another is asked for, in weights.
pub const BLOCK: usize = 64;
