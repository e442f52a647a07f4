//! The forms of weights that vector kernels have loops for, and when a matrix has one. An instruction
//! set takes those it multiplies faster and reads all others through [`Matrix::read`]; so a format that
//! no kernel knows is slower, not wrong.

use super::scales::{INT8_GROUP, NF4_GROUP};
use crate::quant::{Int8, Layout, Matrix, Nf4, Values};

/// Weights with loops of their own.
pub(super) enum Form<'a> {
    F32(&'a [f32]),
    F16(&'a [u16]),
    /// In the layout `Split64`: rows are whole groups of 64, each with one scale.
    Nf4(Nf4<'a>),
    /// The same of int8.
    Int8(Int8<'a>),
    /// Rows are whole groups of 32, each with one scale.
    Int8Half(Int8<'a>),
    Other,
}

impl<'a> Form<'a> {
    /// The form of `weights`.
    #[inline]
    pub(super) fn of(weights: &Matrix<'a>) -> Self {
        let whole = |group| weights.cols().is_multiple_of(group);
        match weights.values() {
            Values::F32(values) => Self::F32(values),
            Values::F16(values) => Self::F16(values),
            Values::Nf4(nf4) if nf4.layout == Layout::Split64 => Self::Nf4(nf4),
            Values::Int8(int8) if whole(NF4_GROUP) && int8.block.is_multiple_of(NF4_GROUP) => {
                Self::Int8(int8)
            }
            Values::Int8(int8) if whole(INT8_GROUP) => Self::Int8Half(int8),
            _ => Self::Other,
        }
    }
}
