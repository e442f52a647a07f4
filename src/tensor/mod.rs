//! Borrowed tensors and the scalar mathematics that `core` lacks.
//!
//! Not a tensor library: matrices are row-major slices with a width, and everything heavier is in
//! `kernel`.

#[allow(unsafe_code)]
pub(crate) mod columns;
#[allow(unsafe_code)]
pub(crate) mod exchange;
#[allow(unsafe_code)]
pub(crate) mod line;
pub mod math;
mod view;
#[allow(unsafe_code)]
pub(crate) mod workers;
#[allow(unsafe_code)]
pub(crate) mod workspace;

pub use columns::Columns;
pub use view::{Mat, MatMut};
