//! What is trained: which places of a model change, and where their numbers lie in one flat arena.
//! How a place changes is its method's ([`Parametrization`]).
//!
//! All trainable numbers live in one `Vec<f32>`, their gradients in a second one; a tensor is a
//! range. Optimizer, clipping and checkpoints then know nothing of layers.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::method::{Parametrization, Part};

/// One tensor of the arena.
#[derive(Debug, Clone)]
pub(crate) struct Tensor {
    /// The number of its site, or of its vector.
    pub(crate) place: u32,
    pub(crate) part: Part,
    pub(crate) range: Range<usize>,
    /// Is the place an embedding?
    pub(crate) embedding: bool,
    /// Does it keep its values?
    pub(crate) frozen: bool,
}

/// A trained classifier: `[labels, dim]`, and `[labels]` or empty.
#[derive(Debug)]
pub(crate) struct Classifier {
    pub(crate) weight: Range<usize>,
    pub(crate) bias: Range<usize>,
    /// The label names, one per row.
    pub(crate) labels: Vec<String>,
}

/// Everything that is trained.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// By site; `None` where nothing is trained.
    pub(crate) layers: Vec<Option<Arc<dyn Parametrization>>>,
    /// By the family's number of the vector.
    pub(crate) vectors: BTreeMap<u32, Range<usize>>,
    pub(crate) classifier: Option<Classifier>,
    /// In the order of the arena.
    pub(crate) tensors: Vec<Tensor>,
}

impl Plan {
    /// Numbers in the arena.
    pub(crate) fn len(&self) -> usize {
        self.tensors.last().map_or(0, |tensor| tensor.range.end)
    }

    /// The tensors that gradients change.
    pub(crate) fn trained(&self) -> impl Iterator<Item = &Tensor> {
        self.tensors.iter().filter(|tensor| !tensor.frozen)
    }

    /// Numbers that gradients change.
    pub(crate) fn trainable(&self) -> usize {
        self.trained().map(|tensor| tensor.range.len()).sum()
    }

    /// The largest rank of a layer; 0 without low-rank factors.
    pub(crate) fn largest_rank(&self) -> usize {
        self.layers.iter().flatten().map(|layer| layer.rank()).max().unwrap_or(0)
    }

    /// Appends a tensor of `len` numbers to the arena.
    pub(crate) fn push(&mut self, place: u32, part: Part, len: usize) -> Range<usize> {
        self.append(Tensor { place, part, range: 0..len, embedding: false, frozen: false })
    }

    /// Appends `tensor` to the arena; of its range only the length counts.
    pub(crate) fn append(&mut self, tensor: Tensor) -> Range<usize> {
        let range = self.len()..self.len() + tensor.range.len();
        if !range.is_empty() {
            self.tensors.push(Tensor { range: range.clone(), ..tensor });
        }
        range
    }

    /// How `site` is trained.
    pub(crate) fn layer(&self, site: u32) -> Option<&dyn Parametrization> {
        self.layers.get(site as usize)?.as_deref()
    }

    /// Is anything at `site` trained?
    pub(crate) fn trains(&self, site: u32) -> bool {
        self.layer(site).is_some()
    }
}
