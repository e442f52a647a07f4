//! The root of a base of plain linear layers. Checks of meaning are in `model::mlp`.

use rkyv::with::InlineAsBox;
use rkyv::{Archive, Serialize};

use super::Linear;

/// The numbers that define a multilayer perceptron beside the shapes of its layers; see
/// [`crate::model::mlp::Config`].
#[derive(Debug, Clone, Copy, Archive, Serialize)]
#[allow(missing_docs, reason = "the twin documents every field")]
pub struct MlpConfig {
    pub inputs: u32,
    pub outputs: u32,
    pub layers: u32,
    /// 0 GELU, 1 GELU by tanh, 2 ReLU.
    pub activation: u32,
}

/// The root of a multilayer perceptron.
#[derive(Debug, Clone, Copy, Archive, Serialize)]
pub struct Mlp<'a> {
    /// The model's name as its source had it.
    #[rkyv(with = InlineAsBox)]
    pub name: &'a str,
    /// The numbers.
    pub config: MlpConfig,
    /// The layers, first to last; each has as many columns as the one before it has rows.
    #[rkyv(with = InlineAsBox)]
    pub layers: &'a [Linear<'a>],
    /// The label names, one per output, joined by line feeds; empty if outputs have no names.
    #[rkyv(with = InlineAsBox)]
    pub labels: &'a str,
}

// The format features of rkyv show in it.
const _: () = assert!(size_of::<ArchivedMlpConfig>() == 16);
