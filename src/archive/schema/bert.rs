//! The root of a BERT-family base (encoder). Checks of meaning are in `model::bert`.

use rkyv::with::InlineAsBox;
use rkyv::{Archive, Serialize};

use super::{Linear, Matrix, Text};
use crate::archive::line::Lines;

/// The numbers that define a BERT-family encoder; see [`crate::model::bert::Config`].
#[derive(Debug, Clone, Copy, Archive, Serialize)]
#[allow(missing_docs, reason = "the twin documents every field")]
pub struct BertConfig {
    pub vocab: u32,
    pub dim: u32,
    pub layers: u32,
    pub heads: u32,
    pub hidden: u32,
    pub context: u32,
    pub token_types: u32,
    /// 0 GELU, 1 GELU by tanh, 2 ReLU.
    pub activation: u32,
    /// 0 mean, 1 the first token, 2 the pooler.
    pub pooling: u32,
    /// 0 or 1.
    pub normalize: u32,
    pub norm_epsilon: f32,
}

/// A LayerNorm: weight and bias, `[dim]` each.
#[derive(Debug, Clone, Copy, Archive, Serialize)]
pub struct LayerNorm<'a> {
    /// The factor of each dimension.
    #[rkyv(with = Lines)]
    pub weight: &'a [f32],
    /// What is added to it.
    #[rkyv(with = Lines)]
    pub bias: &'a [f32],
}

/// One encoder block.
#[derive(Debug, Clone, Copy, Archive, Serialize)]
pub struct BertLayer<'a> {
    /// `[dim, dim]`.
    pub q: Linear<'a>,
    /// `[dim, dim]`.
    pub k: Linear<'a>,
    /// `[dim, dim]`.
    pub v: Linear<'a>,
    /// `[dim, dim]`.
    pub o: Linear<'a>,
    /// After attention and its residual.
    pub attention_norm: LayerNorm<'a>,
    /// `[hidden, dim]`.
    pub up: Linear<'a>,
    /// `[dim, hidden]`.
    pub down: Linear<'a>,
    /// After the feed-forward part and its residual.
    pub output_norm: LayerNorm<'a>,
}

/// The root of a BERT-family base.
#[derive(Debug, Clone, Copy, Archive, Serialize)]
pub struct Bert<'a> {
    /// The model's name as its source had it.
    #[rkyv(with = InlineAsBox)]
    pub name: &'a str,
    /// The numbers.
    pub config: BertConfig,
    /// The longest text that the source's own pipeline reads, in tokens.
    pub max_length: u32,
    /// The tokenizer; encoders have no template and no special tokens beside it.
    pub text: Text<'a>,
    /// Of words, `[vocab, dim]`.
    pub embedding: Matrix<'a>,
    /// Of positions, `[context, dim]`.
    pub positions: Matrix<'a>,
    /// Of token types, `[token_types, dim]`.
    pub token_types: Matrix<'a>,
    /// After the sum of the three embeddings.
    pub embedding_norm: LayerNorm<'a>,
    /// The blocks, first to last.
    #[rkyv(with = InlineAsBox)]
    pub layers: &'a [BertLayer<'a>],
    /// `[dim, dim]`, applied to the first token and followed by tanh; absent in many sentence
    /// encoders.
    pub pooler: Option<Linear<'a>>,
}

// The format features of rkyv show in it.
const _: () = assert!(size_of::<ArchivedBertConfig>() == 44);
