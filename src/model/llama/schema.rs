//! The root of a Llama-family base, how it is built, and what of it is hashed. Checks of meaning are
//! in the module above.

use rkyv::with::InlineAsBox;
use rkyv::{Archive, Serialize};

#[cfg(feature = "alloc")]
use super::{Site, Vector};
use crate::archive::Lines;
use crate::archive::schema::{Linear, Matrix, Text};
#[cfg(feature = "alloc")]
use crate::archive::{Hasher, Root};
#[cfg(feature = "alloc")]
use crate::error::RootKind;
#[cfg(feature = "alloc")]
use crate::model::stored::{Frame, Parts, Stored, given};

/// The numbers that define a Llama-family decoder; see [`crate::model::llama::Config`].
#[derive(Debug, Clone, Copy, Archive, Serialize)]
#[allow(missing_docs, reason = "the twin documents every field")]
pub struct LlamaConfig {
    pub vocab: u32,
    pub dim: u32,
    pub layers: u32,
    pub heads: u32,
    pub kv_heads: u32,
    pub head_dim: u32,
    pub hidden: u32,
    pub context: u32,
    pub rope_theta: f32,
    /// 0 none, 1 linear, 2 Llama 3.
    pub rope_scaling: u32,
    /// Factor, low frequency factor, high frequency factor, original context.
    pub rope_parameters: [f32; 4],
    pub norm_epsilon: f32,
}

/// One decoder block.
#[derive(Debug, Clone, Copy, Archive, Serialize)]
pub struct LlamaLayer<'a> {
    /// RMSNorm before attention, `[dim]`.
    #[rkyv(with = Lines)]
    pub attention_norm: &'a [f32],
    /// `[heads · head_dim, dim]`.
    pub q: Linear<'a>,
    /// `[kv_heads · head_dim, dim]`.
    pub k: Linear<'a>,
    /// `[kv_heads · head_dim, dim]`.
    pub v: Linear<'a>,
    /// `[dim, heads · head_dim]`.
    pub o: Linear<'a>,
    /// RMSNorm of each query head, `[head_dim]`, or empty (Qwen3).
    #[rkyv(with = Lines)]
    pub q_norm: &'a [f32],
    /// RMSNorm of each key head, `[head_dim]`, or empty (Qwen3).
    #[rkyv(with = Lines)]
    pub k_norm: &'a [f32],
    /// RMSNorm before the feed-forward part, `[dim]`.
    #[rkyv(with = Lines)]
    pub feed_forward_norm: &'a [f32],
    /// `[hidden, dim]`.
    pub gate: Linear<'a>,
    /// `[hidden, dim]`.
    pub up: Linear<'a>,
    /// `[dim, hidden]`.
    pub down: Linear<'a>,
}

/// The root of a Llama-family base.
#[derive(Debug, Clone, Copy, Archive, Serialize)]
pub struct Llama<'a> {
    /// The model's name as its source had it.
    #[rkyv(with = InlineAsBox)]
    pub name: &'a str,
    /// The numbers.
    pub config: LlamaConfig,
    /// Tokenizer and template.
    pub text: Text<'a>,
    /// `[vocab, dim]`.
    pub embedding: Matrix<'a>,
    /// The blocks, first to last.
    #[rkyv(with = InlineAsBox)]
    pub layers: &'a [LlamaLayer<'a>],
    /// The last RMSNorm, `[dim]`.
    #[rkyv(with = Lines)]
    pub norm: &'a [f32],
    /// The output head `[vocab, dim]`; absent if it is the embedding (tied).
    pub head: Option<Matrix<'a>>,
}

// The format features of rkyv show in it.
const _: () = assert!(size_of::<ArchivedLlamaConfig>() == 60);

#[cfg(feature = "alloc")]
impl<'a> Stored<'a> for Llama<'a> {
    type Config = LlamaConfig;
    type Layer = LlamaLayer<'a>;

    fn layer(parts: &'a dyn Parts, layers: usize, index: usize) -> LlamaLayer<'a> {
        let [q, k, v, o, gate, up, down] = given(parts, Site::Q(index).number(layers));
        let norm = |vector: Vector| parts.vector(vector.number(layers));
        LlamaLayer {
            attention_norm: norm(Vector::AttentionNorm(index)),
            q,
            k,
            v,
            o,
            q_norm: norm(Vector::QNorm(index)),
            k_norm: norm(Vector::KNorm(index)),
            feed_forward_norm: norm(Vector::FeedForwardNorm(index)),
            gate,
            up,
            down,
        }
    }

    fn new(
        frame: &Frame<'a, LlamaConfig>,
        parts: &'a dyn Parts,
        layers: &'a [LlamaLayer<'a>],
    ) -> Self {
        Self {
            name: frame.name,
            config: frame.config,
            text: frame.text,
            embedding: parts.weight(Site::Embedding.number(frame.layers)),
            layers,
            norm: parts.vector(Vector::Norm.number(frame.layers)),
            head: parts.linear(Site::Head.number(frame.layers)).map(|head| head.weight),
        }
    }

    fn feed(&self, layers: impl Iterator<Item = LlamaLayer<'a>>, hasher: &mut Hasher) {
        let c = &self.config;
        hasher.numbers(&[c.vocab, c.dim, c.layers, c.heads, c.kv_heads, c.head_dim]);
        hasher.numbers(&[c.hidden, c.context, c.rope_scaling]);
        hasher.floats(&[c.rope_theta, c.norm_epsilon]);
        hasher.floats(&c.rope_parameters);
        for l in layers {
            [l.q, l.k, l.v, l.o, l.gate, l.up, l.down]
                .iter()
                .for_each(|linear| hasher.linear(linear));
            [l.attention_norm, l.q_norm, l.k_norm, l.feed_forward_norm]
                .iter()
                .for_each(|norm| hasher.floats(norm));
        }
        hasher.matrix(&self.embedding);
        hasher.numbers(&[u32::from(self.head.is_some())]);
        self.head.iter().for_each(|head| hasher.matrix(head));
        hasher.floats(self.norm);
    }
}

#[cfg(feature = "alloc")]
impl Root for Llama<'_> {
    fn kind(&self) -> RootKind {
        RootKind::LLAMA
    }

    fn hash(&self, hasher: &mut Hasher) {
        self.feed(self.layers.iter().copied(), hasher);
    }
}
