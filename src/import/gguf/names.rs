//! The parts of a decoder under GGUF's names and under transformers', with their shapes. No values.

use crate::model::llama::{Config, Site};

/// A tensor of a decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Weight(Site),
    Bias(Site),
    AttentionNorm(usize),
    FeedForwardNorm(usize),
    QNorm(usize),
    KNorm(usize),
    FinalNorm,
}

impl Part {
    /// The part that GGUF calls `name`, or `None`.
    pub(super) fn from_gguf(name: &str) -> Option<Self> {
        match name {
            "token_embd.weight" => return Some(Self::Weight(Site::Embedding)),
            "output.weight" => return Some(Self::Weight(Site::Head)),
            "output_norm.weight" => return Some(Self::FinalNorm),
            _ => {}
        }
        let (number, part) = name.strip_prefix("blk.")?.split_once('.')?;
        // One spelling per number, so that two names never mean one part.
        let layer = number.parse::<usize>().ok().filter(|layer| layer.to_string() == number)?;
        Some(match part {
            "attn_norm.weight" => Self::AttentionNorm(layer),
            "ffn_norm.weight" => Self::FeedForwardNorm(layer),
            "attn_q_norm.weight" => Self::QNorm(layer),
            "attn_k_norm.weight" => Self::KNorm(layer),
            "attn_q.weight" => Self::Weight(Site::Q(layer)),
            "attn_k.weight" => Self::Weight(Site::K(layer)),
            "attn_v.weight" => Self::Weight(Site::V(layer)),
            "attn_output.weight" => Self::Weight(Site::O(layer)),
            "ffn_gate.weight" => Self::Weight(Site::Gate(layer)),
            "ffn_up.weight" => Self::Weight(Site::Up(layer)),
            "ffn_down.weight" => Self::Weight(Site::Down(layer)),
            "attn_q.bias" => Self::Bias(Site::Q(layer)),
            "attn_k.bias" => Self::Bias(Site::K(layer)),
            "attn_v.bias" => Self::Bias(Site::V(layer)),
            "attn_output.bias" => Self::Bias(Site::O(layer)),
            "ffn_gate.bias" => Self::Bias(Site::Gate(layer)),
            "ffn_up.bias" => Self::Bias(Site::Up(layer)),
            "ffn_down.bias" => Self::Bias(Site::Down(layer)),
            _ => return None,
        })
    }

    /// transformers' name.
    pub(super) fn transformers(self) -> String {
        match self {
            Self::Weight(site) => format!("{site}.weight"),
            Self::Bias(site) => format!("{site}.bias"),
            Self::AttentionNorm(layer) => format!("model.layers.{layer}.input_layernorm.weight"),
            Self::FeedForwardNorm(layer) => {
                format!("model.layers.{layer}.post_attention_layernorm.weight")
            }
            Self::QNorm(layer) => format!("model.layers.{layer}.self_attn.q_norm.weight"),
            Self::KNorm(layer) => format!("model.layers.{layer}.self_attn.k_norm.weight"),
            Self::FinalNorm => "model.norm.weight".into(),
        }
    }

    /// The shape it must have, outermost first.
    pub(super) fn shape(self, config: &Config) -> Vec<usize> {
        match self {
            Self::Weight(site) => Vec::from(<[usize; 2]>::from(site.shape(config))),
            Self::Bias(site) => vec![site.shape(config).0],
            Self::AttentionNorm(_) | Self::FeedForwardNorm(_) | Self::FinalNorm => vec![config.dim],
            Self::QNorm(_) | Self::KNorm(_) => vec![config.head_dim],
        }
    }

    /// The decoder block it belongs to.
    pub(super) fn layer(self) -> Option<usize> {
        match self {
            Self::Weight(site) | Self::Bias(site) => match site {
                Site::Q(layer) | Site::K(layer) | Site::V(layer) | Site::O(layer) => Some(layer),
                Site::Gate(layer) | Site::Up(layer) | Site::Down(layer) => Some(layer),
                Site::Embedding | Site::Head => None,
            },
            Self::AttentionNorm(layer)
            | Self::FeedForwardNorm(layer)
            | Self::QNorm(layer)
            | Self::KNorm(layer) => Some(layer),
            Self::FinalNorm => None,
        }
    }

    /// Are its rows the outputs of q or k, which rotary embedding turns?
    pub(super) fn is_rotated(self) -> bool {
        matches!(self, Self::Weight(Site::Q(_) | Site::K(_)) | Self::Bias(Site::Q(_) | Site::K(_)))
    }
}

/// Undoes the row order that llama.cpp's converter gives q and k of the llama architecture: file
/// row 2·i + j of a head is transformers' row j·(head_dim / 2) + i. `values` is `[heads · head_dim,
/// cols]`, row-major.
pub(super) fn unpermute(values: &mut [f32], head_dim: usize, cols: usize) {
    let half = head_dim / 2;
    let mut file = vec![0.0; head_dim * cols];
    for head in values.chunks_exact_mut(head_dim * cols) {
        file.copy_from_slice(head);
        for (row, out) in head.chunks_exact_mut(cols).enumerate() {
            let from = 2 * (row % half) + row / half;
            out.copy_from_slice(&file[from * cols..][..cols]);
        }
    }
}
