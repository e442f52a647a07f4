//! The root of a training checkpoint: everything a run needs to go on as if it had never stopped.

use rkyv::with::InlineAsBox;
use rkyv::{Archive, Serialize};

use super::Lines;
#[cfg(feature = "alloc")]
use crate::archive::{Hasher, Root};
#[cfg(feature = "alloc")]
use crate::error::RootKind;

/// A training run between two steps.
#[derive(Debug, Clone, Copy, Archive, Serialize)]
pub struct Checkpoint<'a> {
    /// The fingerprint of the base that is trained on.
    pub base: [u8; 16],
    /// What the run was asked for: a version, then one `name: value` a line; a run that was asked
    /// for something else cannot go on from here.
    #[rkyv(with = InlineAsBox)]
    pub settings: &'a str,
    /// How far the run is and what it saw, JSON.
    #[rkyv(with = InlineAsBox)]
    pub progress: &'a str,
    /// Optimizer steps taken.
    pub steps: u64,
    /// The trained numbers.
    #[rkyv(with = Lines)]
    pub values: &'a [f32],
    /// The trained numbers at the best validation, or empty.
    #[rkyv(with = Lines)]
    pub best: &'a [f32],
    /// What the optimizer remembers, then what the method does.
    #[rkyv(with = Lines)]
    pub optimizer: &'a [u8],
}

#[cfg(feature = "alloc")]
impl Root for Checkpoint<'_> {
    fn kind(&self) -> RootKind {
        RootKind::CHECKPOINT
    }

    fn hash(&self, hasher: &mut Hasher) {
        hasher.raw(&self.base);
        hasher.raw(&self.steps.to_le_bytes());
        hasher.floats(self.values);
    }
}
