//! What optimizers remember of a group of parameters.

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

pub(super) enum Part<'m> {
    Floats(&'m [f32]),
    Codes(&'m [u8]),
}

pub(super) enum PartMut<'m> {
    Floats(&'m mut [f32]),
    Codes(&'m mut [u8]),
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
        let size = |part| match part {
            Part::Floats(floats) => size_of_val::<[f32]>(floats),
            Part::Codes(codes) => codes.len(),
        };
        self.parts().into_iter().map(size).sum()
    }

    pub(super) fn parts(&self) -> Vec<Part<'_>> {
        match self {
            Self::None => vec![],
            Self::Direction(direction) => vec![Part::Floats(direction)],
            Self::Float { m, v } => vec![Part::Floats(m), Part::Floats(v)],
            Self::EightBit { m, v } => {
                vec![
                    Part::Codes(&m.codes),
                    Part::Floats(&m.absmax),
                    Part::Codes(&v.codes),
                    Part::Floats(&v.absmax),
                ]
            }
        }
    }

    pub(super) fn parts_mut(&mut self) -> Vec<PartMut<'_>> {
        match self {
            Self::None => vec![],
            Self::Direction(direction) => vec![PartMut::Floats(direction)],
            Self::Float { m, v } => vec![PartMut::Floats(m), PartMut::Floats(v)],
            Self::EightBit { m, v } => vec![
                PartMut::Codes(&mut m.codes),
                PartMut::Floats(&mut m.absmax),
                PartMut::Codes(&mut v.codes),
                PartMut::Floats(&mut v.absmax),
            ],
        }
    }
}
