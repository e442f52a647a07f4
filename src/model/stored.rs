//! Building the root of a base from tensors that come from anywhere: a foreign format, training,
//! another archive. What a family's root looks like is in its `schema`.

use crate::archive::{Hasher, Root, schema};

/// What a root holds beside its tensors.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a, C> {
    /// The model's name.
    pub name: &'a str,
    /// The numbers as they are stored.
    pub config: C,
    /// How many layers they say there are.
    pub layers: usize,
    /// Tokenizer, template and special tokens.
    pub text: schema::Text<'a>,
    /// Label names, joined by line feeds, or empty.
    pub labels: &'a str,
    /// Of an encoder: the longest text that the source's own pipeline reads, in tokens.
    pub max_length: u32,
}

/// Where the tensors of a root come from, by the family's numbers.
pub trait Parts {
    /// What stands at a place; `None` if it is absent.
    fn linear(&self, place: u32) -> Option<schema::Linear<'_>>;
    /// The vector; empty if it is absent.
    fn vector(&self, number: u32) -> &[f32];

    /// The weight at a place that every model has.
    fn weight(&self, place: u32) -> schema::Matrix<'_> {
        self.linear(place).unwrap_or_default().weight
    }
}

/// The linear layers at the places from `first` on, which every model has.
pub(super) fn given<const N: usize>(parts: &dyn Parts, first: u32) -> [schema::Linear<'_>; N] {
    core::array::from_fn(|part| parts.linear(first + part as u32).unwrap_or_default())
}

/// The root of a family as it is written.
pub trait Stored<'a>: Root {
    /// The numbers.
    type Config: Copy;
    /// One layer.
    type Layer: Copy;

    /// Layer `index` of `layers`.
    fn layer(parts: &'a dyn Parts, layers: usize, index: usize) -> Self::Layer;
    /// The root over its layers.
    fn new(
        frame: &Frame<'a, Self::Config>,
        parts: &'a dyn Parts,
        layers: &'a [Self::Layer],
    ) -> Self;
    /// Feeds the content with these layers instead of its own: those that are read in place make no
    /// list.
    fn feed(&self, layers: impl Iterator<Item = Self::Layer>, hasher: &mut Hasher);
}

/// All layers of a root.
#[cfg(feature = "std")]
pub(super) fn all_layers<'a, S: Stored<'a>>(
    frame: &Frame<'a, S::Config>,
    parts: &'a dyn Parts,
) -> Vec<S::Layer> {
    (0..frame.layers).map(|index| S::layer(parts, frame.layers, index)).collect()
}
