//! A session's memory on the device: activations, keys and values, and what each sequence has
//! chosen.

use super::Model;
use crate::cuda::buffer::Buffer;
use crate::cuda::chosen::Chosen;
use crate::cuda::{CudaError, stride};
use crate::nn::{KvFormat, Size, angles, room};

/// Tokens that sampling may ask for, at most.
pub(crate) const MOST_CANDIDATES: usize = 64;

/// Logits that a block looks through.
pub(super) const PART: usize = 4096;

/// Memory of a session.
#[derive(Debug)]
pub(crate) struct State {
    pub(super) batch: usize,
    pub(super) room: usize,
    pub(super) kv_format: KvFormat,
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
    /// `[batch, vocab]`.
    pub(super) logits: Buffer,
    /// `[batch]`.
    pub(super) best: Buffer,
    /// The most likely tokens of parts of the vocabulary and their logits, twice: a launch reads what
    /// another made. `[batch, parts, MOST]` each.
    pub(super) candidates: [[Buffer; 2]; 2],
    /// `[room, head_dim]`.
    pub(super) angles: Buffer,
    /// `[layers, batch, kv_heads, room, head_dim]`.
    pub(super) keys: Buffer,
    pub(super) values: Buffer,
    /// `[batch]`: did a key or value not fit into f16?
    pub(super) overflow: Buffer,
    pub(super) chosen: Chosen,
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
        let make = |factors: &[usize]| Buffer::of(device, factors);
        let rows = |width: usize| make(&[size.rows, stride(width), 4]);
        let cache = || make(&[c.layers, size.batch, c.kv_heads, room, c.head_dim, number]);
        let inputs = c.dim.max(c.q_dim()).max(c.hidden);
        let of_parts = || make(&[size.batch, c.vocab.div_ceil(PART), MOST_CANDIDATES, 4]);
        let mut frequencies = vec![0.0; c.head_dim / 2];
        c.frequencies(&mut frequencies);
        let mut turns = vec![0.0f32; room * c.head_dim];
        for (position, turn) in turns.chunks_exact_mut(c.head_dim).enumerate() {
            angles(position, &frequencies, turn);
        }
        Ok(Self {
            batch: size.batch,
            room,
            kv_format: size.kv_format,
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
            logits: make(&[size.batch, stride(c.vocab), 4])?,
            best: make(&[size.batch, 4])?,
            candidates: [[of_parts()?, of_parts()?], [of_parts()?, of_parts()?]],
            angles: Buffer::upload(device, &turns)?,
            keys: cache()?,
            values: cache()?,
            overflow: make(&[size.batch, 4])?,
            chosen: Chosen::new(device, size, c.sites(), inputs, max_active)?,
        })
    }

    /// Where the keys (and values) of a layer begin, in bytes.
    pub(super) fn layer_bytes(&self, kv_heads: usize, head_dim: usize) -> usize {
        let number = if self.kv_format == KvFormat::F32 { 4 } else { 2 };
        self.batch * kv_heads * self.room * head_dim * number
    }
}
