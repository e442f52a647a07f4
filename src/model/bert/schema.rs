//! The root of a BERT-family base (encoder), how it is built, and what of it is
//! hashed. Checks of meaning are in the module above.

use rkyv::with::{InlineAsBox, Skip};
use rkyv::{Archive, Serialize};

use super::Architecture;
#[cfg(feature = "alloc")]
use super::Site;
use crate::archive::Lines;
use crate::archive::schema::{Linear, Matrix, Text};
#[cfg(feature = "alloc")]
use crate::archive::{Hasher, Root};
#[cfg(feature = "alloc")]
use crate::error::RootKind;
#[cfg(feature = "alloc")]
use crate::model::stored::{Frame, Parts, Stored, given};

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
    /// Decides the root's number; takes no bytes.
    #[rkyv(with = Skip)]
    pub architecture: Architecture,
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

#[cfg(feature = "alloc")]
impl<'a> LayerNorm<'a> {
    fn of(parts: &'a dyn Parts, norm: usize) -> Self {
        let [weight, bias] = super::norm_vectors(norm).map(|number| parts.vector(number));
        Self { weight, bias }
    }

    fn feed(&self, hasher: &mut Hasher) {
        hasher.floats(self.weight);
        hasher.floats(self.bias);
    }
}

#[cfg(feature = "alloc")]
impl<'a> Stored<'a> for Bert<'a> {
    type Config = BertConfig;
    type Layer = BertLayer<'a>;

    fn layer(parts: &'a dyn Parts, layers: usize, index: usize) -> BertLayer<'a> {
        let [q, k, v, o, up, down] = given(parts, Site::Q(index).number(layers));
        BertLayer {
            q,
            k,
            v,
            o,
            attention_norm: LayerNorm::of(parts, 2 * index + 1),
            up,
            down,
            output_norm: LayerNorm::of(parts, 2 * index + 2),
        }
    }

    fn new(
        frame: &Frame<'a, BertConfig>,
        parts: &'a dyn Parts,
        layers: &'a [BertLayer<'a>],
    ) -> Self {
        let [positions, token_types] = super::tables(frame.layers);
        Self {
            name: frame.name,
            config: frame.config,
            max_length: frame.max_length,
            text: frame.text,
            embedding: parts.weight(Site::Embedding.number(frame.layers)),
            positions: parts.weight(positions),
            token_types: parts.weight(token_types),
            embedding_norm: LayerNorm::of(parts, 0),
            layers,
            pooler: parts.linear(Site::Pooler.number(frame.layers)),
        }
    }

    /// Pooling counts, it decides what is embedded; the length a text is cut to does not.
    fn feed(&self, layers: impl Iterator<Item = BertLayer<'a>>, hasher: &mut Hasher) {
        let c = &self.config;
        hasher.numbers(&[c.vocab, c.dim, c.layers, c.heads, c.hidden, c.context, c.token_types]);
        hasher.numbers(&[c.activation, c.pooling, c.normalize]);
        hasher.floats(&[c.norm_epsilon]);
        for l in layers {
            [l.q, l.k, l.v, l.o, l.up, l.down].iter().for_each(|linear| hasher.linear(linear));
            [l.attention_norm, l.output_norm].iter().for_each(|norm| norm.feed(hasher));
        }
        [self.embedding, self.positions, self.token_types]
            .iter()
            .for_each(|matrix| hasher.matrix(matrix));
        self.embedding_norm.feed(hasher);
        hasher.numbers(&[u32::from(self.pooler.is_some())]);
        self.pooler.iter().for_each(|pooler| hasher.linear(pooler));
    }
}

#[cfg(feature = "alloc")]
impl Root for Bert<'_> {
    fn kind(&self) -> RootKind {
        self.config.architecture.kind()
    }

    fn hash(&self, hasher: &mut Hasher) {
        self.feed(self.layers.iter().copied(), hasher);
    }
}
