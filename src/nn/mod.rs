//! Layers: the few operations models are made of, over borrowed weights and caller-owned
//! activations.

mod activation;
mod attention;
mod cache;
mod embedding;
mod engine;
#[cfg(feature = "train")]
mod factors;
pub(crate) mod inner;
pub(crate) mod linear;
mod lstm;
pub(crate) mod packed;
mod rope;

pub use activation::Activation;
pub(crate) use activation::activate;
#[cfg(feature = "train")]
pub(crate) use activation::apply_all;
pub(crate) use attention::attend;
pub use cache::KvFormat;
pub(crate) use cache::{Cache, Heads, room};
pub use embedding::Embedding;
pub(crate) use engine::Engine;
#[cfg(feature = "train")]
pub(crate) use factors::{FactorGradients, Factors};
pub use linear::Linear;
pub(crate) use linear::Scratch;
pub(crate) use lstm::cell;
pub(crate) use rope::{angles, rotate};

pub use crate::kernel::LayerNorm;

use crate::adapter::{Active, Handle};
use crate::exec::Executor;
use crate::kernel::{Kernels, Precision};
pub(crate) use crate::tensor::workers::Segment;
use crate::tensor::workspace::stored;

/// What every layer of one forward pass shares.
#[derive(Clone, Copy)]
pub(crate) struct Pass<'p, 'a> {
    pub(crate) kernels: &'p Kernels,
    pub(crate) executor: &'p dyn Executor,
    /// How many parts products are split into. Results do not depend on it.
    pub(crate) threads: usize,
    /// Consecutive rows that use the same adapters, covering all rows.
    pub(crate) segments: &'p [Segment],
    /// The adapters of all sequences, `[batch, max_active]`.
    pub(crate) active: &'p [Handle<'a>],
    /// Adapters a sequence can have.
    pub(crate) max_active: usize,
    /// Has any of them factors?
    pub(crate) has_factors: bool,
    /// Does any of them scale inputs or outputs (IA3)?
    pub(crate) has_scales: bool,
}

stored! { Segment: 12; Handle<'_>: 32; }

/// What passes must have room for: buffers of every family are described in its terms.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    /// Rows computed at once.
    pub(crate) rows: usize,
    /// Sequences side by side.
    pub(crate) batch: usize,
    /// The longest sequence.
    pub(crate) context: usize,
    /// Parts that products are split into.
    pub(crate) threads: usize,
    /// The sum of the ranks of a row's adapters.
    pub(crate) max_total_rank: usize,
    pub(crate) precision: Precision,
    pub(crate) kv_format: KvFormat,
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

    /// Consecutive rows whose factors are the same: segments of neighbours that chose alike are one,
    /// so that these are read once. None if no adapter has any.
    pub(crate) fn groups(&self) -> impl Iterator<Item = Segment> + use<'p, 'a> {
        let (mut rest, pass) = (if self.has_factors { self.segments } else { &[] }, *self);
        core::iter::from_fn(move || {
            let (&first, mut behind) = rest.split_first()?;
            let mut group = first;
            while let Some((next, more)) = behind.split_first()
                && next.first == group.first + group.rows
                && pass.alike(&group, next)
            {
                group.rows += next.rows;
                behind = more;
            }
            rest = behind;
            Some(group)
        })
    }

    /// Did the sequences of two segments choose the same adapters in the same way?
    fn alike(&self, one: &Segment, other: &Segment) -> bool {
        self.active(one).map(Active::key).eq(self.active(other).map(Active::key))
    }
}
