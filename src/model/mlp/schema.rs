//! The root of a base of plain linear layers, how it is built, and what of it is
//! hashed. Checks of meaning are in the module above.

use rkyv::with::InlineAsBox;
use rkyv::{Archive, Serialize};

use crate::archive::schema::Linear;
#[cfg(feature = "alloc")]
use crate::archive::{Hasher, Root};
#[cfg(feature = "alloc")]
use crate::error::RootKind;
#[cfg(feature = "alloc")]
use crate::model::stored::{Frame, Parts, Stored, given};

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

#[cfg(feature = "alloc")]
impl<'a> Stored<'a> for Mlp<'a> {
    type Config = MlpConfig;
    type Layer = Linear<'a>;

    fn layer(parts: &'a dyn Parts, _: usize, index: usize) -> Linear<'a> {
        let [linear] = given(parts, index as u32);
        linear
    }

    fn new(frame: &Frame<'a, MlpConfig>, _: &'a dyn Parts, layers: &'a [Linear<'a>]) -> Self {
        Self { name: frame.name, config: frame.config, layers, labels: frame.labels }
    }

    fn feed(&self, layers: impl Iterator<Item = Linear<'a>>, hasher: &mut Hasher) {
        let c = &self.config;
        hasher.numbers(&[c.inputs, c.outputs, c.layers, c.activation]);
        layers.for_each(|linear| hasher.linear(&linear));
    }
}

#[cfg(feature = "alloc")]
impl Root for Mlp<'_> {
    fn kind(&self) -> RootKind {
        RootKind::MLP
    }

    fn hash(&self, hasher: &mut Hasher) {
        self.feed(self.layers.iter().copied(), hasher);
    }
}
