//! The linear layer: the only place where base and adapter meet.

use crate::quant::Matrix;

/// A linear layer of the base: `y = W x + b`, with the number of its place for adapters.
#[derive(Debug, Clone, Copy)]
pub struct Linear<'a> {
    /// W, `[out, in]`.
    pub weight: Matrix<'a>,
    /// b, `[out]`, or empty.
    pub bias: &'a [f32],
    /// Where adapters know this layer.
    pub site: u32,
}
