//! The root of a base of LSTM layers, how it is built, and what of it is
//! hashed. Checks of meaning are in the module above.

use rkyv::with::InlineAsBox;
use rkyv::{Archive, Serialize};

#[cfg(feature = "alloc")]
use super::Site;
use crate::archive::schema::{Linear, Matrix, Text};
#[cfg(feature = "alloc")]
use crate::archive::{Hasher, Root};
#[cfg(feature = "alloc")]
use crate::error::RootKind;
#[cfg(feature = "alloc")]
use crate::model::stored::{Frame, Parts, Stored, given};

/// The numbers that define a stack of LSTM layers; see [`crate::model::lstm::Config`].
#[derive(Debug, Clone, Copy, Archive, Serialize)]
#[allow(missing_docs, reason = "the twin documents every field")]
pub struct LstmConfig {
    pub vocab: u32,
    pub dim: u32,
    pub hidden: u32,
    pub layers: u32,
    /// 0 none, 1 the next token, 2 labels.
    pub head: u32,
    /// Rows of the head; 0 without one.
    pub outputs: u32,
}

/// One LSTM layer: `W_ih x + b_ih + W_hh h + b_hh`, rows in the order of the gates i, f, g, o.
#[derive(Debug, Clone, Copy, Archive, Serialize)]
pub struct LstmLayer<'a> {
    /// `[4 · hidden, in]`; in is dim for the first layer, hidden for the others.
    pub ih: Linear<'a>,
    /// `[4 · hidden, hidden]`.
    pub hh: Linear<'a>,
}

/// The root of a base of LSTM layers.
#[derive(Debug, Clone, Copy, Archive, Serialize)]
pub struct Lstm<'a> {
    /// The model's name as its source had it.
    #[rkyv(with = InlineAsBox)]
    pub name: &'a str,
    /// The numbers.
    pub config: LstmConfig,
    /// Tokenizer and special tokens.
    pub text: Text<'a>,
    /// `[vocab, dim]`.
    pub embedding: Matrix<'a>,
    /// The layers, first to last.
    #[rkyv(with = InlineAsBox)]
    pub layers: &'a [LstmLayer<'a>],
    /// `[outputs, hidden]`.
    pub head: Option<Linear<'a>>,
    /// The label names of a head of labels, one per row, joined by line feeds; else empty.
    #[rkyv(with = InlineAsBox)]
    pub labels: &'a str,
}

// The format features of rkyv show in it.
const _: () = assert!(size_of::<ArchivedLstmConfig>() == 24);

#[cfg(feature = "alloc")]
impl<'a> Stored<'a> for Lstm<'a> {
    type Config = LstmConfig;
    type Layer = LstmLayer<'a>;

    fn layer(parts: &'a dyn Parts, layers: usize, index: usize) -> LstmLayer<'a> {
        let [ih, hh] = given(parts, Site::Ih(index).number(layers));
        LstmLayer { ih, hh }
    }

    fn new(
        frame: &Frame<'a, LstmConfig>,
        parts: &'a dyn Parts,
        layers: &'a [LstmLayer<'a>],
    ) -> Self {
        Self {
            name: frame.name,
            config: frame.config,
            text: frame.text,
            embedding: parts.weight(Site::Embedding.number(frame.layers)),
            layers,
            head: parts.linear(Site::Head.number(frame.layers)),
            labels: frame.labels,
        }
    }

    fn feed(&self, layers: impl Iterator<Item = LstmLayer<'a>>, hasher: &mut Hasher) {
        let c = &self.config;
        hasher.numbers(&[c.vocab, c.dim, c.hidden, c.layers, c.head, c.outputs]);
        layers.for_each(|l| [l.ih, l.hh].iter().for_each(|linear| hasher.linear(linear)));
        hasher.matrix(&self.embedding);
        self.head.iter().for_each(|head| hasher.linear(head));
    }
}

#[cfg(feature = "alloc")]
impl Root for Lstm<'_> {
    fn kind(&self) -> RootKind {
        RootKind::LSTM
    }

    fn hash(&self, hasher: &mut Hasher) {
        self.feed(self.layers.iter().copied(), hasher);
    }
}
