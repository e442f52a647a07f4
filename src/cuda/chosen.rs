//! What each sequence has chosen of the adapters, as kernels read it: a table on the device, and
//! room for what the down-projections make.

use std::sync::Arc;

use super::adapter::{Resident, Residents};
use super::buffer::{Address, Buffer};
use super::kernels::FEW;
use super::parameters::Split;
use super::{CudaError, Device, stride};
use crate::adapter::{Active, Handle};
use crate::archive::Fingerprint;
use crate::nn::{Segment, Size};

/// An adapter as a sequence chose it.
type Choice = (Fingerprint, u32, Option<u32>);

fn choice(active: &Active<'_>) -> Choice {
    (active.adapter.fingerprint(), active.weight.to_bits(), active.rank)
}

/// What a sequence has chosen, as it is on the device.
#[derive(Debug, Default)]
struct Sequence {
    choices: Vec<Choice>,
    /// Ranks at every site; empty where nothing was ever chosen.
    ranks: Vec<u32>,
    /// Kept as long as the table points to them.
    residents: Vec<Arc<Resident>>,
}

/// What the sequences have chosen.
#[derive(Debug)]
pub(super) struct Chosen {
    /// Of the base.
    pub(super) sites: u32,
    pub(super) max_active: usize,
    /// Ranks that a row's u has room for.
    pub(super) width: usize,
    /// `Low`s, `[batch, sites, max_active]`.
    table: Buffer,
    /// u, `[rows, width]`.
    low_rank: Buffer,
    /// What a layer reads, split for tensor cores, and how many numbers there is room for: high
    /// halves, low halves, the scale of each 64.
    split: (Buffer, usize),
    sequences: Vec<Sequence>,
}

impl Chosen {
    /// Nothing chosen, for sequences of `size` over a base with that many sites, none of whose layers
    /// has more than `inputs`.
    pub(super) fn new(
        device: &Arc<Device>,
        size: &Size,
        sites: usize,
        inputs: usize,
        max_active: usize,
    ) -> Result<Self, CudaError> {
        // Few rows take other kernels.
        let split = if size.rows > FEW { size.rows * inputs.next_multiple_of(64) } else { 0 };
        let (width, entry) = (size.max_total_rank, size_of::<[u64; 8]>());
        Ok(Self {
            sites: sites as u32,
            max_active,
            width,
            table: Buffer::of(device, &[size.batch, sites, max_active, entry])?,
            low_rank: Buffer::of(device, &[size.rows, stride(width), 4])?,
            split: (Buffer::zeroed(device, 4 * split + split / 16)?, split),
            sequences: (0..size.batch).map(|_| Sequence::default()).collect(),
        })
    }

    pub(super) fn table(&self) -> Address {
        self.table.address()
    }

    pub(super) fn low_rank(&self) -> Address {
        self.low_rank.address()
    }

    pub(super) fn split(&self) -> Split {
        let (at, count) = (self.split.0.address(), self.split.1 as u64);
        Split { high: at, low: at + 2 * count, scales: at + 4 * count }
    }

    /// Makes the table say what the sequences of `segments` have chosen: one small copy for each
    /// that chose anew, and the adapter itself where it is not there yet.
    pub(super) fn choose(
        &mut self,
        residents: &Residents,
        segments: &[Segment],
        active: &[Handle<'_>],
    ) -> Result<(), CudaError> {
        for segment in segments {
            let handles = &active[segment.sequence * self.max_active..][..self.max_active];
            let chosen = &mut self.sequences[segment.sequence];
            if handles.iter().flatten().map(choice).eq(chosen.choices.iter().copied()) {
                continue;
            }
            let sites = self.sites as usize;
            let mut table = vec![[0u64; 8]; sites * self.max_active];
            let (mut ranks, mut kept) = (vec![0; sites], Vec::new());
            for (slot, active) in handles.iter().flatten().enumerate() {
                let resident = residents.of(&active.adapter)?;
                resident.choose(active, slot, self.max_active, &mut table, &mut ranks);
                kept.push(resident);
            }
            let at = segment.sequence * size_of_val(&table[..]);
            self.table.write(at, &table)?;
            let choices = handles.iter().flatten().map(choice).collect();
            *chosen = Sequence { choices, ranks, residents: kept };
        }
        Ok(())
    }

    /// The ranks of that sequence of `segments` which has most at `site`.
    pub(super) fn ranks(&self, segments: &[Segment], site: u32) -> u32 {
        let ranks = |segment: &Segment| {
            self.sequences[segment.sequence].ranks.get(site as usize).copied().unwrap_or(0)
        };
        segments.iter().map(ranks).max().unwrap_or(0)
    }

    /// The adapter of a sequence that brings a pooler.
    pub(super) fn with_pooler(&self, sequence: usize) -> Option<&Arc<Resident>> {
        self.sequences[sequence].residents.iter().find(|resident| resident.pooler.is_some())
    }
}
