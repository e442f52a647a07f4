//! What optimizers remember of a group of parameters.

use bytemuck::{cast_slice, cast_slice_mut};

use super::{LEAST_8_BIT, OptimizerKind};
use crate::train::eight_bit::Moments;

/// The moments of one group.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Memory {
    None,
    Direction(Vec<f32>),
    Float { m: Vec<f32>, v: Vec<f32> },
    EightBit { m: Moments, v: Moments },
}

impl Memory {
    pub(super) fn zeros(kind: OptimizerKind, length: usize) -> Self {
        let zeros = || vec![0.0; length];
        match kind {
            OptimizerKind::Sgd { momentum: 0.0 } => Self::None,
            OptimizerKind::Sgd { .. } => Self::Direction(zeros()),
            OptimizerKind::AdamW8Bit { .. } if length >= LEAST_8_BIT => {
                Self::EightBit { m: Moments::zeros(length), v: Moments::zeros(length) }
            }
            OptimizerKind::AdamW { .. } | OptimizerKind::AdamW8Bit { .. } => {
                Self::Float { m: zeros(), v: zeros() }
            }
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.parts().into_iter().map(<[u8]>::len).sum()
    }

    /// Its numbers, little endian.
    pub(super) fn parts(&self) -> Vec<&[u8]> {
        match self {
            Self::None => vec![],
            Self::Direction(direction) => vec![cast_slice(direction)],
            Self::Float { m, v } => vec![cast_slice(m), cast_slice(v)],
            Self::EightBit { m, v } => {
                vec![&m.codes, cast_slice(&m.absmax), &v.codes, cast_slice(&v.absmax)]
            }
        }
    }

    pub(super) fn parts_mut(&mut self) -> Vec<&mut [u8]> {
        match self {
            Self::None => vec![],
            Self::Direction(direction) => vec![cast_slice_mut(direction)],
            Self::Float { m, v } => vec![cast_slice_mut(m), cast_slice_mut(v)],
            Self::EightBit { m, v } => vec![
                &mut m.codes,
                cast_slice_mut(&mut m.absmax),
                &mut v.codes,
                cast_slice_mut(&mut v.absmax),
            ],
        }
    }
}
