//! Borrowed tensors and the scalar mathematics that `core` lacks.
//!
//! Not a tensor library: matrices are row-major slices with a width, and everything heavier is in
//! `kernel`.

pub(crate) mod columns;
pub mod math;
mod view;
pub(crate) mod workspace;

pub use columns::Columns;
pub use view::{Mat, MatMut};
