//! What is trained: which places of a model change, how, and where their numbers lie in one flat
//! arena.
//!
//! All trainable numbers live in one `Vec<f32>`, their gradients in a second one; a tensor is a
//! range. Optimizer, clipping and checkpoints then know nothing of layers.

use std::collections::BTreeMap;
use std::ops::Range;

/// How one linear layer or embedding is trained.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) enum Change {
    /// Not at all.
    #[default]
    Frozen,
    /// Through low-rank factors beside it.
    LowRank(LowRank),
    /// Itself: W, `[out, in]`, and its bias, `[out]` or empty.
    Full { weight: Range<usize>, bias: Range<usize> },
}

/// Low-rank factors of one place: `ΔW = s·B·A`. An embedding's A is kept transposed, `[vocab, r]`,
/// a linear layer's as `[r, in]`; B is always kept transposed, `[r, out]`, so that a smaller rank
/// is a prefix.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LowRank {
    pub(crate) rank: usize,
    /// The rank of layers without one of their own.
    pub(crate) common: usize,
    pub(crate) alpha: f32,
    /// s = alpha / √r instead of alpha / r.
    pub(crate) rank_stabilized: bool,
    pub(crate) a: Range<usize>,
    pub(crate) b: Range<usize>,
    /// DoRA's m, `[out]`, or empty.
    pub(crate) magnitude: Range<usize>,
    /// Is A kept transposed?
    pub(crate) embedding: bool,
    /// LoRA-FA: A keeps what it was drawn as.
    pub(crate) a_frozen: bool,
}

impl LowRank {
    /// The rank of a step in which `drawn` of the common rank was drawn (DyLoRA): the same share of
    /// its own, rounded up, so that all of the common rank is all of every layer's.
    pub(crate) fn rank(&self, drawn: Option<usize>) -> usize {
        drawn.map_or(self.rank, |drawn| {
            self.rank.saturating_mul(drawn).div_ceil(self.common).clamp(1, self.rank)
        })
    }

    /// s at `rank`.
    pub(crate) fn scale(&self, rank: usize) -> f32 {
        if self.rank_stabilized {
            self.alpha / (rank as f32).sqrt()
        } else {
            self.alpha / rank as f32
        }
    }
}

/// What a tensor of the arena is to its layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Part {
    /// A, `[r, in]`; an embedding's transposed, `[vocab, r]`.
    A,
    /// B transposed, `[r, out]`.
    B,
    /// DoRA's m, `[out]`.
    Magnitude,
    /// A whole weight, `[out, in]`.
    Weight,
    /// A bias, `[out]`.
    Bias,
    /// A vector of the model beside its linear layers (a norm's weight), numbered by its family.
    Vector,
    /// The classifier's weight, `[labels, dim]`.
    ClassifierWeight,
    /// The classifier's bias, `[labels]`; decoders' have none.
    ClassifierBias,
}

impl Part {
    /// The name that messages have for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::B => "B",
            Self::Magnitude => "magnitude",
            Self::Weight | Self::ClassifierWeight => "weight",
            Self::Bias | Self::ClassifierBias => "bias",
            Self::Vector => "vector",
        }
    }
}

/// One tensor of the arena.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tensor {
    /// The number of its site, or of its vector.
    pub(crate) place: u32,
    pub(crate) part: Part,
    pub(crate) range: Range<usize>,
    /// Is the place an embedding?
    pub(crate) embedding: bool,
}

/// A trained classifier: `[labels, dim]`, and `[labels]` or empty.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Classifier {
    pub(crate) weight: Range<usize>,
    pub(crate) bias: Range<usize>,
    /// The label names, one per row.
    pub(crate) labels: Vec<String>,
}

/// Everything that is trained.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Plan {
    /// By site.
    pub(crate) changes: Vec<Change>,
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

    /// Numbers that gradients change.
    pub(crate) fn trainable(&self) -> usize {
        self.tensors
            .iter()
            .filter(|tensor| !self.is_frozen(tensor))
            .map(|tensor| tensor.range.len())
            .sum()
    }

    /// The largest rank of a layer; 0 without low-rank factors.
    pub(crate) fn largest_rank(&self) -> usize {
        let rank = |change: &Change| match change {
            Change::LowRank(low) => low.rank,
            _ => 0,
        };
        self.changes.iter().map(rank).max().unwrap_or(0)
    }

    /// Does this tensor keep its values?
    pub(crate) fn is_frozen(&self, tensor: &Tensor) -> bool {
        tensor.part == Part::A
            && matches!(self.change(tensor.place), Change::LowRank(low) if low.a_frozen)
    }

    /// Appends a tensor of `len` numbers to the arena.
    pub(crate) fn push(
        &mut self,
        place: u32,
        part: Part,
        len: usize,
        embedding: bool,
    ) -> Range<usize> {
        let range = self.len()..self.len() + len;
        if len > 0 {
            self.tensors.push(Tensor { place, part, range: range.clone(), embedding });
        }
        range
    }

    /// How `site` is trained.
    pub(crate) fn change(&self, site: u32) -> &Change {
        self.changes.get(site as usize).unwrap_or(&Change::Frozen)
    }

    /// Is anything at `site` trained?
    pub(crate) fn trains(&self, site: u32) -> bool {
        *self.change(site) != Change::Frozen
    }
}
