//! The numbers that define a Llama-family decoder, and the numbering of its parts.

use core::fmt;

use super::schema::ArchivedLlamaConfig;
#[cfg(feature = "alloc")]
use super::schema::LlamaConfig;
use crate::error::{Error, Field, Result};
use crate::tensor::math;

/// How rotary frequencies are stretched beyond the context the model was trained on.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Every frequency divided by `factor`.
    Linear {
        /// The divisor.
        factor: f32,
    },
    /// Llama 3: low frequencies divided by `factor`, high ones kept, those between interpolated.
    Llama3 {
        /// The divisor of low frequencies.
        factor: f32,
        /// Wavelengths above `original_context / low_frequency` are low frequencies.
        low_frequency: f32,
        /// Wavelengths below `original_context / high_frequency` are high frequencies.
        high_frequency: f32,
        /// The context the model was trained on.
        original_context: f32,
    },
}

/// The numbers that define a Llama-family decoder.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Config {
    /// Tokens in the vocabulary.
    pub vocab: usize,
    /// The model dimension.
    pub dim: usize,
    /// Decoder blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; `heads` is a multiple.
    pub kv_heads: usize,
    /// Dimensions per head; even.
    pub head_dim: usize,
    /// The feed-forward dimension.
    pub hidden: usize,
    /// The longest sequence the model was made for.
    pub context: usize,
    /// The rotary base θ.
    pub rope_theta: f32,
    /// The rotary scaling.
    pub rope_scaling: RopeScaling,
    /// ε of every RMSNorm.
    pub norm_epsilon: f32,
}

impl Config {
    /// Dimensions of all query heads together.
    pub const fn q_dim(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Dimensions of all key (or value) heads together.
    pub const fn kv_dim(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// The widest activation a linear layer reads.
    pub(crate) const fn widest(&self) -> usize {
        let wider = if self.q_dim() > self.hidden { self.q_dim() } else { self.hidden };
        if self.dim > wider { self.dim } else { wider }
    }

    /// The number of [`Site`]s.
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
        within(Field::Heads, self.heads, 1, 1 << 12)?;
        within(Field::KvHeads, self.kv_heads, 1, self.heads)?;
        if !self.heads.is_multiple_of(self.kv_heads) {
            let nearest =
                (1..self.kv_heads).rev().find(|&n| self.heads.is_multiple_of(n)).unwrap_or(1);
            return within(Field::KvHeads, self.kv_heads, nearest, nearest);
        }
        within(Field::HeadDim, self.head_dim, 2, 1 << 12)?;
        if !self.head_dim.is_multiple_of(2) {
            return within(Field::HeadDim, self.head_dim, self.head_dim + 1, self.head_dim + 1);
        }
        within(Field::Hidden, self.hidden, 1, 1 << 20)?;
        within(Field::Context, self.context, 1, 1 << 24)?;
        let positive = |field, value: f32| {
            let bits = u64::from(value.to_bits());
            let most = u64::from(f32::MAX.to_bits());
            if value > 0.0 && value.is_finite() {
                Ok(())
            } else {
                Err(Error::Config { field, found: bits, least: 1, most })
            }
        };
        positive(Field::RopeTheta, self.rope_theta)?;
        positive(Field::NormEpsilon, self.norm_epsilon)?;
        match self.rope_scaling {
            RopeScaling::None => Ok(()),
            RopeScaling::Linear { factor } => positive(Field::RopeScaling, factor),
            RopeScaling::Llama3 { factor, low_frequency, high_frequency, original_context } => {
                [factor, low_frequency, high_frequency, original_context]
                    .iter()
                    .try_for_each(|&v| positive(Field::RopeScaling, v))?;
                positive(Field::RopeScaling, high_frequency - low_frequency)
            }
        }
    }

    /// The rotary frequency of each pair of dimensions, `[head_dim / 2]`, in radians per position.
    ///
    /// `θ^(−2i / head_dim)`, scaled; in f32 as transformers computes it.
    pub(crate) fn frequencies(&self, out: &mut [f32]) {
        for (i, out) in out.iter_mut().enumerate() {
            let plain = 1.0 / math::pow(self.rope_theta, (2 * i) as f32 / self.head_dim as f32);
            *out = match self.rope_scaling {
                RopeScaling::None => plain,
                RopeScaling::Linear { factor } => plain / factor,
                RopeScaling::Llama3 { factor, low_frequency, high_frequency, original_context } => {
                    let wavelength = core::f32::consts::TAU / plain;
                    if wavelength > original_context / low_frequency {
                        plain / factor
                    } else if wavelength < original_context / high_frequency {
                        plain
                    } else {
                        let smooth = (original_context / wavelength - low_frequency)
                            / (high_frequency - low_frequency);
                        (1.0 - smooth) * plain / factor + smooth * plain
                    }
                }
            };
        }
    }

    /// As an archive stores it.
    #[cfg(feature = "alloc")]
    pub fn to_schema(self) -> LlamaConfig {
        let (rope_scaling, rope_parameters) = match self.rope_scaling {
            RopeScaling::None => (0, [0.0; 4]),
            RopeScaling::Linear { factor } => (1, [factor, 0.0, 0.0, 0.0]),
            RopeScaling::Llama3 { factor, low_frequency, high_frequency, original_context } => {
                (2, [factor, low_frequency, high_frequency, original_context])
            }
        };
        LlamaConfig {
            vocab: self.vocab as u32,
            dim: self.dim as u32,
            layers: self.layers as u32,
            heads: self.heads as u32,
            kv_heads: self.kv_heads as u32,
            head_dim: self.head_dim as u32,
            hidden: self.hidden as u32,
            context: self.context as u32,
            rope_theta: self.rope_theta,
            rope_scaling,
            rope_parameters,
            norm_epsilon: self.norm_epsilon,
        }
    }

    /// From an archive, checked.
    pub(crate) fn from_archived(stored: &ArchivedLlamaConfig) -> Result<Self> {
        let [factor, low_frequency, high_frequency, original_context] =
            stored.rope_parameters.map(|v| v.to_native());
        let rope_scaling = match stored.rope_scaling.to_native() {
            0 => RopeScaling::None,
            1 => RopeScaling::Linear { factor },
            2 => RopeScaling::Llama3 { factor, low_frequency, high_frequency, original_context },
            found => {
                return Err(Error::Config {
                    field: Field::RopeScaling,
                    found: found.into(),
                    least: 0,
                    most: 2,
                });
            }
        };
        let config = Self {
            vocab: stored.vocab.to_native() as usize,
            dim: stored.dim.to_native() as usize,
            layers: stored.layers.to_native() as usize,
            heads: stored.heads.to_native() as usize,
            kv_heads: stored.kv_heads.to_native() as usize,
            head_dim: stored.head_dim.to_native() as usize,
            hidden: stored.hidden.to_native() as usize,
            context: stored.context.to_native() as usize,
            rope_theta: stored.rope_theta.to_native(),
            rope_scaling,
            norm_epsilon: stored.norm_epsilon.to_native(),
        };
        config.check()?;
        Ok(config)
    }
}

/// Linear layers per decoder block: q, k, v, o, gate, up, down.
pub(super) const PER_LAYER: usize = 7;

/// A linear layer or embedding that an adapter can change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(
    missing_docs,
    reason = "the names are those of the model's parts; the number is the decoder block"
)]
pub enum Site {
    Q(usize),
    K(usize),
    V(usize),
    O(usize),
    Gate(usize),
    Up(usize),
    Down(usize),
    Embedding,
    Head,
}

impl Site {
    /// The number under which archives and errors know this place, for a model of `layers` blocks.
    pub const fn number(self, layers: usize) -> u32 {
        let (layer, part) = match self {
            Self::Q(layer) => (layer, 0),
            Self::K(layer) => (layer, 1),
            Self::V(layer) => (layer, 2),
            Self::O(layer) => (layer, 3),
            Self::Gate(layer) => (layer, 4),
            Self::Up(layer) => (layer, 5),
            Self::Down(layer) => (layer, 6),
            Self::Embedding => (layers, 0),
            Self::Head => (layers, 1),
        };
        (layer * PER_LAYER + part) as u32
    }

    /// The place with this number; `None` past the end.
    pub const fn from_number(number: u32, layers: usize) -> Option<Self> {
        let (layer, part) = (number as usize / PER_LAYER, number as usize % PER_LAYER);
        if layer == layers {
            return match part {
                0 => Some(Self::Embedding),
                1 => Some(Self::Head),
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
            4 => Self::Gate(layer),
            5 => Self::Up(layer),
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
            Self::Q(_) => (config.q_dim(), config.dim),
            Self::K(_) | Self::V(_) => (config.kv_dim(), config.dim),
            Self::O(_) => (config.dim, config.q_dim()),
            Self::Gate(_) | Self::Up(_) => (config.hidden, config.dim),
            Self::Down(_) => (config.dim, config.hidden),
            Self::Embedding | Self::Head => (config.vocab, config.dim),
        }
    }
}

/// The module path as transformers has it.
impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Q(layer) => write!(f, "model.layers.{layer}.self_attn.q_proj"),
            Self::K(layer) => write!(f, "model.layers.{layer}.self_attn.k_proj"),
            Self::V(layer) => write!(f, "model.layers.{layer}.self_attn.v_proj"),
            Self::O(layer) => write!(f, "model.layers.{layer}.self_attn.o_proj"),
            Self::Gate(layer) => write!(f, "model.layers.{layer}.mlp.gate_proj"),
            Self::Up(layer) => write!(f, "model.layers.{layer}.mlp.up_proj"),
            Self::Down(layer) => write!(f, "model.layers.{layer}.mlp.down_proj"),
            Self::Embedding => f.write_str("model.embed_tokens"),
            Self::Head => f.write_str("lm_head"),
        }
    }
}

/// A vector beside the linear layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Vector {
    /// Before attention, `[dim]`.
    AttentionNorm(usize),
    /// Before the feed-forward part, `[dim]`.
    FeedForwardNorm(usize),
    /// Of each query head, `[head_dim]`, or absent.
    QNorm(usize),
    /// Of each key head, `[head_dim]`, or absent.
    KNorm(usize),
    /// Behind the last block, `[dim]`.
    Norm,
}

impl Vector {
    /// In each block.
    pub(crate) const PER_LAYER: usize = 4;

    /// The number under which training and import know it, in a model of `layers` blocks.
    #[cfg(feature = "alloc")]
    pub(crate) const fn number(self, layers: usize) -> u32 {
        let (layer, part) = match self {
            Self::AttentionNorm(layer) => (layer, 0),
            Self::FeedForwardNorm(layer) => (layer, 1),
            Self::QNorm(layer) => (layer, 2),
            Self::KNorm(layer) => (layer, 3),
            Self::Norm => (layers, 0),
        };
        (layer * Self::PER_LAYER + part) as u32
    }

    /// The vector with this number; `None` past the end.
    pub(crate) const fn from_number(number: u32, layers: usize) -> Option<Self> {
        let number = number as usize;
        let (layer, part) = (number / Self::PER_LAYER, number % Self::PER_LAYER);
        if layer >= layers {
            return if layer == layers && part == 0 { Some(Self::Norm) } else { None };
        }
        Some(match part {
            0 => Self::AttentionNorm(layer),
            1 => Self::FeedForwardNorm(layer),
            2 => Self::QNorm(layer),
            _ => Self::KNorm(layer),
        })
    }
}

/// The module path as transformers has it.
impl fmt::Display for Vector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AttentionNorm(layer) => write!(f, "model.layers.{layer}.input_layernorm"),
            Self::FeedForwardNorm(layer) => {
                write!(f, "model.layers.{layer}.post_attention_layernorm")
            }
            Self::QNorm(layer) => write!(f, "model.layers.{layer}.self_attn.q_norm"),
            Self::KNorm(layer) => write!(f, "model.layers.{layer}.self_attn.k_norm"),
            Self::Norm => f.write_str("model.norm"),
        }
    }
}
