//! A session's memory on the device: activations, keys and values, and what each sequence has
//! chosen.

use std::sync::Arc;

use super::adapter::Resident;
use super::buffer::Buffer;
use super::{CudaError, Model, stride};
use crate::adapter::{Active, Handle};
use crate::archive::Fingerprint;
use crate::nn::{KvFormat, Segment, Size, angles, room};

/// An adapter as a sequence chose it.
type Choice = (Fingerprint, u32, Option<u32>);

fn choice(active: &Active<'_>) -> Choice {
    (active.adapter.fingerprint(), active.weight.to_bits(), active.rank)
}

/// What a sequence has chosen, as it is on the device.
#[derive(Debug, Default)]
struct Chosen {
    choices: Vec<Choice>,
    /// Ranks at every site; empty where nothing was ever chosen.
    ranks: Vec<u32>,
    /// Kept as long as the table points to them.
    _residents: Vec<Arc<Resident>>,
}

/// Memory of a session.
#[derive(Debug)]
pub(crate) struct State {
    pub(super) batch: usize,
    pub(super) room: usize,
    pub(super) max_active: usize,
    pub(super) kv_format: KvFormat,
    /// Ranks that a row's u has room for.
    pub(super) width: usize,
    /// Rows computed at once.
    pub(super) rows: usize,
    /// Tokens, positions and sequences of the rows, `[3, rows]`.
    pub(super) places: Buffer,
    /// Rows whose logits are asked for and their sequences, `[2, rows]`.
    pub(super) selected: Buffer,
    pub(super) x: Buffer,
    pub(super) normed: Buffer,
    pub(super) q: Buffer,
    pub(super) k: Buffer,
    pub(super) v: Buffer,
    pub(super) attended: Buffer,
    pub(super) gate: Buffer,
    pub(super) up: Buffer,
    /// u, `[rows, width]`.
    pub(super) low_rank: Buffer,
    /// `[batch, vocab]`.
    pub(super) logits: Buffer,
    /// `[batch]`.
    pub(super) best: Buffer,
    /// `[room, head_dim]`.
    pub(super) angles: Buffer,
    /// `[layers, batch, kv_heads, room, head_dim]`.
    pub(super) keys: Buffer,
    pub(super) values: Buffer,
    /// `[batch]`: did a key or value not fit into f16?
    pub(super) overflow: Buffer,
    /// `Low`s, `[batch, sites, max_active]`.
    pub(super) adapters: Buffer,
    chosen: Vec<Chosen>,
}

impl State {
    /// Memory for sessions of `size`.
    pub(crate) fn new(
        model: &Model<'_>,
        size: &Size,
        max_active: usize,
    ) -> Result<Self, CudaError> {
        let (c, device) = (model.llama.config(), model.device());
        let number = match size.kv_format {
            KvFormat::F32 => 4,
            KvFormat::F16 => 2,
            KvFormat::Int8 => {
                let text = "int8 keys and values are not on the device yet: f16 or f32";
                return Err(CudaError::refused(text));
            }
        };
        let room = room(size.context);
        let bytes = |factors: &[usize]| {
            let product = factors.iter().try_fold(1usize, |all, &n| all.checked_mul(n));
            product.ok_or_else(|| CudaError::refused("more bytes than there are addresses"))
        };
        let make = |factors: &[usize]| Buffer::zeroed(device, bytes(factors)?);
        let rows = |width: usize| make(&[size.rows, stride(width), 4]);
        let cache = || make(&[c.layers, size.batch, c.kv_heads, room, c.head_dim, number]);
        let width = size.max_total_rank;
        let mut frequencies = vec![0.0; c.head_dim / 2];
        c.frequencies(&mut frequencies);
        let mut turns = vec![0.0f32; room * c.head_dim];
        for (position, turn) in turns.chunks_exact_mut(c.head_dim).enumerate() {
            angles(position, &frequencies, turn);
        }
        Ok(Self {
            batch: size.batch,
            room,
            max_active,
            kv_format: size.kv_format,
            width,
            rows: size.rows,
            places: make(&[3, size.rows, 4])?,
            selected: make(&[2, size.rows, 4])?,
            x: rows(c.dim)?,
            normed: rows(c.dim)?,
            q: rows(c.q_dim())?,
            k: rows(c.kv_dim())?,
            v: rows(c.kv_dim())?,
            attended: rows(c.q_dim())?,
            gate: rows(c.hidden)?,
            up: rows(c.hidden)?,
            low_rank: rows(width)?,
            logits: make(&[size.batch, stride(c.vocab), 4])?,
            best: make(&[size.batch, 4])?,
            angles: Buffer::upload(device, &turns)?,
            keys: cache()?,
            values: cache()?,
            overflow: make(&[size.batch, 4])?,
            adapters: make(&[size.batch, c.sites(), max_active, size_of::<[u64; 8]>()])?,
            chosen: (0..size.batch).map(|_| Chosen::default()).collect(),
        })
    }

    /// Makes the device's tables say what the sequences of `segments` have chosen: one small copy
    /// for each that chose anew, and the adapter itself where it is not there yet.
    pub(super) fn choose(
        &mut self,
        model: &Model<'_>,
        segments: &[Segment],
        active: &[Handle<'_>],
    ) -> Result<(), CudaError> {
        for segment in segments {
            let handles = &active[segment.sequence * self.max_active..][..self.max_active];
            let chosen = &mut self.chosen[segment.sequence];
            if handles.iter().flatten().map(choice).eq(chosen.choices.iter().copied()) {
                continue;
            }
            let sites = model.llama.config().sites();
            let mut table = vec![[0u64; 8]; sites * self.max_active];
            let (mut ranks, mut residents) = (vec![0; sites], Vec::new());
            for (slot, active) in handles.iter().flatten().enumerate() {
                let resident = model.resident(&active.adapter)?;
                resident.choose(active, slot, self.max_active, &mut table, &mut ranks);
                residents.push(resident);
            }
            let at = segment.sequence * size_of_val(&table[..]);
            self.adapters.write(at, &table)?;
            let choices = handles.iter().flatten().map(choice).collect();
            *chosen = Chosen { choices, ranks, _residents: residents };
        }
        Ok(())
    }

    /// The ranks of that sequence of `segments` which has most at `site`.
    pub(super) fn ranks(&self, segments: &[Segment], site: u32) -> u32 {
        let ranks = |segment: &Segment| {
            self.chosen[segment.sequence].ranks.get(site as usize).copied().unwrap_or(0)
        };
        segments.iter().map(ranks).max().unwrap_or(0)
    }

    /// Where the keys (and values) of a layer begin, in bytes.
    pub(super) fn layer_bytes(&self, kv_heads: usize, head_dim: usize) -> usize {
        let number = if self.kv_format == KvFormat::F32 { 4 } else { 2 };
        self.batch * kv_heads * self.room * head_dim * number
    }
}
