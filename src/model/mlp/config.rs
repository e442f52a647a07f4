//! The numbers that define a multilayer perceptron, and the numbering of its parts.

use core::fmt;

use super::schema::ArchivedMlpConfig;
#[cfg(feature = "alloc")]
use super::schema::MlpConfig;
use crate::error::{Error, Field, Result};
use crate::nn::Activation;

/// The numbers that define a multilayer perceptron. The widths of its layers are those of its
/// matrices; here are the ones that memory depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Features of a row.
    pub inputs: usize,
    /// What the last layer reads: the model dimension, which classifiers of adapters read too.
    pub dim: usize,
    /// Rows of the last layer.
    pub outputs: usize,
    /// Linear layers.
    pub layers: usize,
    /// What any layer reads at most.
    pub widest: usize,
    /// Between the layers.
    pub activation: Activation,
}

impl Config {
    /// The most that widths may be.
    const MOST: usize = 1 << 20;

    /// A perceptron of `inputs` features whose layers have these rows, first to last.
    ///
    /// # Errors
    /// [`Error::Config`] with the field, the number and what is allowed.
    pub fn new(
        inputs: usize,
        activation: Activation,
        widths: impl IntoIterator<Item = usize>,
    ) -> Result<Self> {
        let within = |field, found: usize, most: usize| {
            if (1..=most).contains(&found) {
                Ok(())
            } else {
                Err(Error::Config { field, found: found as u64, least: 1, most: most as u64 })
            }
        };
        within(Field::Inputs, inputs, Self::MOST)?;
        let mut config =
            Self { inputs, dim: 0, outputs: inputs, layers: 0, widest: inputs, activation };
        for rows in widths {
            within(Field::Outputs, rows, Self::MOST)?;
            config.dim = config.outputs;
            config.widest = config.widest.max(config.dim);
            (config.outputs, config.layers) = (rows, config.layers + 1);
        }
        within(Field::Layers, config.layers, 1000)?;
        Ok(config)
    }

    /// As an archive stores it.
    #[cfg(feature = "alloc")]
    pub fn to_schema(self) -> MlpConfig {
        MlpConfig {
            inputs: self.inputs as u32,
            outputs: self.outputs as u32,
            layers: self.layers as u32,
            activation: match self.activation {
                Activation::Gelu => 0,
                Activation::GeluTanh => 1,
                Activation::Relu => 2,
            },
        }
    }

    /// From an archive whose layers have these rows, checked.
    pub(crate) fn from_archived(
        stored: &ArchivedMlpConfig,
        widths: impl Iterator<Item = usize>,
    ) -> Result<Self> {
        let activation = match stored.activation.to_native() {
            0 => Activation::Gelu,
            1 => Activation::GeluTanh,
            2 => Activation::Relu,
            found => {
                return Err(Error::Config {
                    field: Field::Activation,
                    found: found.into(),
                    least: 0,
                    most: 2,
                });
            }
        };
        let config = Self::new(stored.inputs.to_native() as usize, activation, widths)?;
        let (stated, outputs) = (u64::from(stored.outputs.to_native()), config.outputs as u64);
        if stated != outputs {
            return Err(Error::Config {
                field: Field::Outputs,
                found: stated,
                least: outputs,
                most: outputs,
            });
        }
        Ok(config)
    }
}

/// A linear layer by its index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Site(pub usize);

impl Site {
    /// The number under which archives and errors know this place.
    pub const fn number(self) -> u32 {
        self.0 as u32
    }
}

/// The module path in a PyTorch module whose layers are a list called `layers`.
impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "layers.{}", self.0)
    }
}
