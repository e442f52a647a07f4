//! The numbers that define a BERT-family encoder, and the numbering of its parts.

use super::Architecture;
use super::schema::ArchivedBertConfig;
#[cfg(feature = "alloc")]
use super::schema::BertConfig;
use crate::error::{Error, Field, Result, RootKind};
use crate::nn::Activation;

/// How the hidden states of a text, `[tokens, dim]`, become one vector, `[dim]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Pooling {
    /// The mean of all tokens.
    Mean,
    /// The first token (`[CLS]`).
    Cls,
    /// `tanh(P h + b)` of the first token h: BERT's pooler. DistilBERT's has ReLU in place of tanh.
    Pooler,
}

impl Pooling {
    /// The name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Cls => "cls",
            Self::Pooler => "pooler",
        }
    }
}

/// The numbers that define a BERT-family encoder.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Config {
    /// Which model it is; archives have it as the number of their root.
    pub architecture: Architecture,
    /// Tokens in the vocabulary.
    pub vocab: usize,
    /// The model dimension; `heads` divides it.
    pub dim: usize,
    /// Encoder blocks.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// The feed-forward dimension.
    pub hidden: usize,
    /// The longest text: positions that have an embedding.
    pub context: usize,
    /// Token types (segments of a pair) that have an embedding.
    pub token_types: usize,
    /// Between the two feed-forward layers.
    pub activation: Activation,
    /// How a text becomes one vector.
    pub pooling: Pooling,
    /// Is that vector brought to length 1?
    pub normalize: bool,
    /// ε of every LayerNorm.
    pub norm_epsilon: f32,
}

impl Config {
    /// Dimensions per head.
    pub const fn head_dim(&self) -> usize {
        self.dim / self.heads
    }

    /// The widest activation a linear layer reads.
    pub(crate) const fn widest(&self) -> usize {
        if self.dim > self.hidden { self.dim } else { self.hidden }
    }

    /// The number of [`Site`]s; that of an absent pooler is counted.
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
        within(Field::Dim, self.dim, 1, 1 << 17)?;
        within(Field::Layers, self.layers, 1, 8000)?;
        within(Field::Heads, self.heads, 1, self.dim.min(1 << 12))?;
        if !self.dim.is_multiple_of(self.heads) {
            let nearest = (1..self.heads).rev().find(|&n| self.dim.is_multiple_of(n)).unwrap_or(1);
            return within(Field::Heads, self.heads, nearest, nearest);
        }
        within(Field::Hidden, self.hidden, 1, 1 << 20)?;
        within(Field::Context, self.context, 1, 1 << 24)?;
        within(Field::TokenTypes, self.token_types, 1, 1 << 16)?;
        let (bits, most) = (self.norm_epsilon.to_bits().into(), f32::MAX.to_bits().into());
        if self.norm_epsilon > 0.0 && self.norm_epsilon.is_finite() {
            return Ok(());
        }
        Err(Error::Config { field: Field::NormEpsilon, found: bits, least: 1, most })
    }

    /// As an archive stores it.
    #[cfg(feature = "alloc")]
    pub fn to_schema(self) -> BertConfig {
        BertConfig {
            vocab: self.vocab as u32,
            dim: self.dim as u32,
            layers: self.layers as u32,
            heads: self.heads as u32,
            hidden: self.hidden as u32,
            context: self.context as u32,
            token_types: self.token_types as u32,
            activation: match self.activation {
                Activation::Gelu => 0,
                Activation::GeluTanh => 1,
                Activation::Relu => 2,
            },
            pooling: match self.pooling {
                Pooling::Mean => 0,
                Pooling::Cls => 1,
                Pooling::Pooler => 2,
            },
            normalize: u32::from(self.normalize),
            norm_epsilon: self.norm_epsilon,
            architecture: self.architecture,
        }
    }

    /// From an archive of this kind, checked.
    pub(super) fn from_archived(stored: &ArchivedBertConfig, kind: RootKind) -> Result<Self> {
        let unknown = |field, found: u32, most| {
            Err(Error::Config { field, found: found.into(), least: 0, most })
        };
        let activation = match stored.activation.to_native() {
            0 => Activation::Gelu,
            1 => Activation::GeluTanh,
            2 => Activation::Relu,
            found => return unknown(Field::Activation, found, 2),
        };
        let pooling = match stored.pooling.to_native() {
            0 => Pooling::Mean,
            1 => Pooling::Cls,
            2 => Pooling::Pooler,
            found => return unknown(Field::Pooling, found, 2),
        };
        let normalize = match stored.normalize.to_native() {
            flag @ 0..=1 => flag == 1,
            found => return unknown(Field::Normalize, found, 1),
        };
        let wrong = Error::WrongRoot { found: kind, expected: RootKind::BERT };
        let config = Self {
            architecture: Architecture::of(kind).ok_or(wrong)?,
            vocab: stored.vocab.to_native() as usize,
            dim: stored.dim.to_native() as usize,
            layers: stored.layers.to_native() as usize,
            heads: stored.heads.to_native() as usize,
            hidden: stored.hidden.to_native() as usize,
            context: stored.context.to_native() as usize,
            token_types: stored.token_types.to_native() as usize,
            activation,
            pooling,
            normalize,
            norm_epsilon: stored.norm_epsilon.to_native(),
        };
        config.check()?;
        Ok(config)
    }
}

/// Linear layers per encoder block: q, k, v, o, up, down.
pub(super) const PER_LAYER: usize = 6;

/// A linear layer or embedding that an adapter can change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(
    missing_docs,
    reason = "the names are those of the model's parts; the number is the encoder block"
)]
pub enum Site {
    Q(usize),
    K(usize),
    V(usize),
    O(usize),
    Up(usize),
    Down(usize),
    /// The word embedding.
    Embedding,
    Pooler,
}

impl Site {
    /// The number under which archives and errors know this place, for a model of `layers` blocks.
    pub const fn number(self, layers: usize) -> u32 {
        let (layer, part) = match self {
            Self::Q(layer) => (layer, 0),
            Self::K(layer) => (layer, 1),
            Self::V(layer) => (layer, 2),
            Self::O(layer) => (layer, 3),
            Self::Up(layer) => (layer, 4),
            Self::Down(layer) => (layer, 5),
            Self::Embedding => (layers, 0),
            Self::Pooler => (layers, 1),
        };
        (layer * PER_LAYER + part) as u32
    }

    /// The place with this number; `None` past the end.
    pub const fn from_number(number: u32, layers: usize) -> Option<Self> {
        let (layer, part) = (number as usize / PER_LAYER, number as usize % PER_LAYER);
        if layer == layers {
            return match part {
                0 => Some(Self::Embedding),
                1 => Some(Self::Pooler),
                _ => None,
            };
        }
        if layer > layers {
            return None;
        }
        Some(match part {
            0 => Self::Q(layer),
            1 => Self::K(layer),
            2 => Self::V(layer),
            3 => Self::O(layer),
            4 => Self::Up(layer),
            _ => Self::Down(layer),
        })
    }

    /// The linear layers of block `layer`, by rising number.
    #[cfg(feature = "std")]
    pub(crate) fn block(layer: usize) -> impl Iterator<Item = Self> {
        let first = layer * PER_LAYER;
        (first..first + PER_LAYER)
            .filter_map(move |number| Self::from_number(number as u32, layer + 1))
    }

    /// The linear layers of all of `layers` blocks.
    #[cfg(feature = "std")]
    pub(crate) fn linears(layers: usize) -> impl Iterator<Item = Self> {
        (0..layers).flat_map(Self::block)
    }

    /// `[rows, cols]` of the weight at this place.
    pub const fn shape(self, config: &Config) -> (usize, usize) {
        match self {
            Self::Q(_) | Self::K(_) | Self::V(_) | Self::O(_) | Self::Pooler => {
                (config.dim, config.dim)
            }
            Self::Up(_) => (config.hidden, config.dim),
            Self::Down(_) => (config.dim, config.hidden),
            Self::Embedding => (config.vocab, config.dim),
        }
    }
}
