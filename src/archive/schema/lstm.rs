//! The root of a base of LSTM layers. Checks of meaning are in `model::lstm`.

use rkyv::with::InlineAsBox;
use rkyv::{Archive, Serialize};

use super::{Linear, Matrix, Text};

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
