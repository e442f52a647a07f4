//! The numbers that define a stack of LSTM layers, and the numbering of its parts.

use core::fmt;

use super::schema::ArchivedLstmConfig;
#[cfg(feature = "alloc")]
use super::schema::LstmConfig;
use crate::error::{Error, Field, Result};

/// What stands on the last layer's hidden state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Head {
    /// Nothing: adapters bring classifiers.
    None,
    /// The next token, `[vocab, hidden]`.
    LanguageModel,
    /// One of some labels, `[labels, hidden]`.
    Labels,
}

impl Head {
    /// The name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::LanguageModel => "languagemodel",
            Self::Labels => "labels",
        }
    }
}

/// The numbers that define a stack of LSTM layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Tokens in the vocabulary.
    pub vocab: usize,
    /// The dimension of the token embedding.
    pub dim: usize,
    /// The dimension of h and c in every layer.
    pub hidden: usize,
    /// LSTM layers.
    pub layers: usize,
    /// What stands on the last one.
    pub head: Head,
    /// Rows of the head: the vocabulary, the number of labels, or 0.
    pub outputs: usize,
}

impl Config {
    /// The most that numbers may be; 4 · hidden and every product of two stay far inside 64 bits.
    const MOST: usize = 1 << 17;

    /// What layer `index` reads.
    pub const fn inputs(&self, index: usize) -> usize {
        if index == 0 { self.dim } else { self.hidden }
    }

    /// The widest activation a linear layer reads.
    pub(crate) const fn widest(&self) -> usize {
        if self.dim > self.hidden { self.dim } else { self.hidden }
    }

    /// The number of [`Site`]s; that of an absent head is counted.
    pub const fn sites(&self) -> usize {
        self.layers * PER_LAYER + 2
    }

    /// Checks every number against what the runtime can hold.
    ///
    /// # Errors
    /// [`Error::Config`] with the field, the number and what is allowed.
    pub fn check(&self) -> Result<()> {
        let within = |field, found: usize, least: usize, most: usize| {
            if (least..=most).contains(&found) {
                Ok(())
            } else {
                Err(Error::Config {
                    field,
                    found: found as u64,
                    least: least as u64,
                    most: most as u64,
                })
            }
        };
        within(Field::Vocab, self.vocab, 1, 1 << 24)?;
        within(Field::Dim, self.dim, 1, Self::MOST)?;
        within(Field::HiddenSize, self.hidden, 1, Self::MOST)?;
        within(Field::Layers, self.layers, 1, 1000)?;
        match self.head {
            Head::None => within(Field::Outputs, self.outputs, 0, 0),
            Head::LanguageModel => within(Field::Outputs, self.outputs, self.vocab, self.vocab),
            Head::Labels => within(Field::Outputs, self.outputs, 1, Self::MOST),
        }
    }

    /// As an archive stores it.
    #[cfg(feature = "alloc")]
    pub fn to_schema(self) -> LstmConfig {
        LstmConfig {
            vocab: self.vocab as u32,
            dim: self.dim as u32,
            hidden: self.hidden as u32,
            layers: self.layers as u32,
            head: match self.head {
                Head::None => 0,
                Head::LanguageModel => 1,
                Head::Labels => 2,
            },
            outputs: self.outputs as u32,
        }
    }

    /// From an archive, checked.
    pub(crate) fn from_archived(stored: &ArchivedLstmConfig) -> Result<Self> {
        let head = match stored.head.to_native() {
            0 => Head::None,
            1 => Head::LanguageModel,
            2 => Head::Labels,
            found => {
                return Err(Error::Config {
                    field: Field::Head,
                    found: found.into(),
                    least: 0,
                    most: 2,
                });
            }
        };
        let config = Self {
            vocab: stored.vocab.to_native() as usize,
            dim: stored.dim.to_native() as usize,
            hidden: stored.hidden.to_native() as usize,
            layers: stored.layers.to_native() as usize,
            head,
            outputs: stored.outputs.to_native() as usize,
        };
        config.check()?;
        Ok(config)
    }
}

/// Linear layers per LSTM layer: ih, hh.
pub(super) const PER_LAYER: usize = 2;

/// A linear layer or embedding that an adapter can change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Site {
    /// The input matrix of a layer, `[4 · hidden, in]`.
    Ih(usize),
    /// The recurrent matrix of a layer, `[4 · hidden, hidden]`.
    Hh(usize),
    /// The token embedding.
    Embedding,
    /// The head.
    Head,
}

impl Site {
    /// The number under which archives and errors know this place, for a model of `layers` layers.
    pub const fn number(self, layers: usize) -> u32 {
        let number = match self {
            Self::Ih(layer) => layer * PER_LAYER,
            Self::Hh(layer) => layer * PER_LAYER + 1,
            Self::Embedding => layers * PER_LAYER,
            Self::Head => layers * PER_LAYER + 1,
        };
        number as u32
    }

    /// The place with this number; `None` past the end.
    pub const fn from_number(number: u32, layers: usize) -> Option<Self> {
        let (layer, part) = (number as usize / PER_LAYER, number as usize % PER_LAYER);
        if layer > layers {
            return None;
        }
        Some(match (layer == layers, part) {
            (true, 0) => Self::Embedding,
            (true, _) => Self::Head,
            (false, 0) => Self::Ih(layer),
            (false, _) => Self::Hh(layer),
        })
    }

    /// `[rows, cols]` of the weight at this place.
    pub const fn shape(self, config: &Config) -> (usize, usize) {
        match self {
            Self::Ih(layer) => (4 * config.hidden, config.inputs(layer)),
            Self::Hh(_) => (4 * config.hidden, config.hidden),
            Self::Embedding => (config.vocab, config.dim),
            Self::Head => (config.outputs, config.hidden),
        }
    }
}

/// The module path: PyTorch has one module for all layers and parameters like `lstm.weight_ih_l0`
/// inside it.
impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ih(layer) => write!(f, "lstm.ih_l{layer}"),
            Self::Hh(layer) => write!(f, "lstm.hh_l{layer}"),
            Self::Embedding => f.write_str("embedding"),
            Self::Head => f.write_str("head"),
        }
    }
}
