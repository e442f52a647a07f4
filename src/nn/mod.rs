//! Layers: the few operations models are made of, over borrowed weights and caller-owned
//! activations.

mod activation;
mod attention;
mod both_ways;
mod cache;
mod embedding;
pub(crate) mod inner;
pub(crate) mod linear;
mod lstm;
mod norm;
mod rope;

pub use activation::Activation;
#[cfg(feature = "std")]
pub(crate) use activation::apply_all;
pub(crate) use activation::{activate, gelu};
pub(crate) use attention::attend;
pub(crate) use both_ways::attend_both_ways;
pub(crate) use cache::{Cache, Heads, room};
pub use embedding::Embedding;
pub use linear::Linear;
pub(crate) use linear::Scratch;
pub(crate) use lstm::cell;
pub use norm::LayerNorm;
pub(crate) use rope::{angles, rotate};

use crate::adapter::Active;
use crate::kernel::Kernels;
use crate::runtime::Executor;

/// What every layer of one forward pass shares.
#[derive(Clone, Copy)]
pub(crate) struct Pass<'p, 'a> {
    pub(crate) kernels: &'p Kernels,
    pub(crate) executor: &'p dyn Executor,
    /// How many parts products are split into. Results do not depend on it.
    pub(crate) lanes: usize,
    /// Consecutive rows that use the same adapters, covering all rows.
    pub(crate) segments: &'p [Segment],
    /// The adapters of all sequences, `[batch, max_active]`.
    pub(crate) active: &'p [Option<Active<'a>>],
    /// Adapters a sequence can have.
    pub(crate) max_active: usize,
}

/// Rows `first .. first + rows` belong to one sequence.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Segment {
    pub(crate) first: usize,
    pub(crate) rows: usize,
    pub(crate) sequence: usize,
}

impl<'p, 'a> Pass<'p, 'a> {
    /// The adapters of `segment`'s sequence. With `--cfg lowrank_adapters="none"`, to measure what
    /// adapters cost that are not there, the compiler knows that there are none.
    pub(crate) fn active(
        &self,
        segment: &Segment,
    ) -> impl Iterator<Item = &'p Active<'a>> + use<'p, 'a> {
        let most = if cfg!(lowrank_adapters = "none") { 0 } else { self.max_active };
        self.active[segment.sequence * most..][..most].iter().flatten()
    }

    /// Rows `0 .. n` in as many nearly equal parts as there are lanes.
    pub(crate) fn share_rows(&self, n: usize, lane: usize) -> core::ops::Range<usize> {
        n * lane / self.lanes..n * (lane + 1) / self.lanes
    }

    /// Columns `0 .. outputs` in as many parts as there are lanes, each a multiple of 8 columns
    /// wide but the last.
    pub(crate) fn share(&self, outputs: usize, lane: usize) -> core::ops::Range<usize> {
        let width = outputs.div_ceil(self.lanes).next_multiple_of(8);
        (lane * width).min(outputs)..((lane + 1) * width).min(outputs)
    }
}
