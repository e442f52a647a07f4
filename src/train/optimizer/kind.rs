//! Which optimizer, with its constants and the bytes of its state.

use std::fmt;

use crate::train::eight_bit::BLOCK;

/// Tensors smaller than this keep their moments in f32 under [`OptimizerKind::AdamW8Bit`], as in
/// bitsandbytes.
pub const LEAST_8_BIT: usize = 4096;

/// Which optimizer, with its constants.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum OptimizerKind {
    /// Adam with decoupled weight decay; two f32 a parameter.
    AdamW {
        /// β₁, the memory of the mean of the gradients.
        beta1: f64,
        /// β₂, the memory of the mean of their squares.
        beta2: f64,
        /// ε, added to the denominator.
        epsilon: f64,
    },
    /// The same with moments in 8 bits; two bytes and 1/32 a parameter.
    AdamW8Bit {
        /// β₁, the memory of the mean of the gradients.
        beta1: f64,
        /// β₂, the memory of the mean of their squares.
        beta2: f64,
        /// ε, added to the denominator.
        epsilon: f64,
    },
    /// Stochastic gradient descent; one f32 a parameter with momentum, none without.
    Sgd {
        /// The memory of the direction; 0 for none.
        momentum: f64,
    },
}

impl OptimizerKind {
    /// The name on the command line and in archives.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AdamW { .. } => "adamw",
            Self::AdamW8Bit { .. } => "adamw8bit",
            Self::Sgd { .. } => "sgd",
        }
    }

    /// The bytes of state of a group of `length` parameters.
    pub(crate) fn state_bytes(self, length: usize) -> u64 {
        let length = length as u64;
        match self {
            Self::Sgd { momentum: 0.0 } => 0,
            Self::Sgd { .. } => 4 * length,
            Self::AdamW8Bit { .. } if length >= LEAST_8_BIT as u64 => {
                2 * (length + 4 * length.div_ceil(BLOCK as u64))
            }
            Self::AdamW { .. } | Self::AdamW8Bit { .. } => 8 * length,
        }
    }

    /// AdamW with torch's constants: β 0.9 and 0.999, ε 1e-8.
    pub const fn adamw() -> Self {
        Self::AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 }
    }

    /// AdamW with 8-bit moments and the same constants.
    pub const fn adamw_8bit() -> Self {
        Self::AdamW8Bit { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 }
    }

    /// SGD without momentum.
    pub const fn sgd() -> Self {
        Self::Sgd { momentum: 0.0 }
    }
}

impl fmt::Display for OptimizerKind {
    /// The name and the constants.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name();
        match self {
            Self::AdamW { beta1, beta2, epsilon } | Self::AdamW8Bit { beta1, beta2, epsilon } => {
                write!(f, "{name} beta1 {beta1} beta2 {beta2} epsilon {epsilon}")
            }
            Self::Sgd { momentum } => write!(f, "{name} momentum {momentum}"),
        }
    }
}

impl Default for OptimizerKind {
    fn default() -> Self {
        Self::adamw()
    }
}
