//! Causal grouped-query attention over a key-value cache in the caller's memory.
//!
//! Per row (a token of some sequence at position p) and query head h, with its key-value head g = h / (heads / kv_heads):
//! `out = softmax(q_h · K_g[0..=p]ᵀ / √d) · V_g[0..=p]`.

use super::{Pass, Segment};
use crate::kernel::Kernels;
use crate::tensor::columns::Parts;
use crate::tensor::math;

/// Keys or values of all layers and sequences, `[layers, batch, context, kv_dim]`.
#[derive(Debug)]
pub(crate) enum Cache<'c> {
    F32(&'c mut [f32]),
    F16(&'c mut [u16]),
}

impl Cache<'_> {
    /// Stores `row`, `[kv_dim]`, at `slot` (sequence · context + position).
    pub(crate) fn store(&mut self, kernels: &Kernels, slot: usize, row: &[f32]) {
        let span = slot * row.len()..(slot + 1) * row.len();
        match self {
            Self::F32(cache) => cache[span].copy_from_slice(row),
            Self::F16(cache) => kernels.to_f16(row, &mut cache[span]),
        }
    }

    fn dot(&self, kernels: &Kernels, at: usize, q: &[f32]) -> f32 {
        match self {
            Self::F32(cache) => kernels.dot(&cache[at..at + q.len()], q),
            Self::F16(cache) => kernels.dot_f16(&cache[at..at + q.len()], q),
        }
    }

    fn axpy(&self, kernels: &Kernels, at: usize, s: f32, out: &mut [f32]) {
        match self {
            Self::F32(cache) => kernels.axpy(s, &cache[at..at + out.len()], out),
            Self::F16(cache) => kernels.axpy_f16(s, &cache[at..at + out.len()], out),
        }
    }
}

/// The sizes attention works with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heads {
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) context: usize,
    /// Where the layer's part of the cache starts, in tokens.
    pub(crate) first_slot: usize,
}

impl Heads {
    /// Stores the rows' keys or values, `[n, kv_heads · head_dim]`.
    pub(crate) fn store(&self, pass: &Pass<'_, '_>, positions: &[usize], rows: &[f32], cache: &mut Cache<'_>) {
        let kv_dim = self.kv_heads * self.head_dim;
        for segment in pass.segments {
            for row in segment.first..segment.first + segment.rows {
                let slot = self.first_slot + segment.sequence * self.context + positions[row];
                cache.store(pass.kernels, slot, &rows[row * kv_dim..][..kv_dim]);
            }
        }
    }
}

/// Attention of every row: q and out `[n, heads · head_dim]`, `position(row)`, scores is scratch `[lanes, context]`.
#[allow(unsafe_code, clippy::too_many_arguments, reason = "the row split; every argument is one tensor of the formula")]
pub(crate) fn attend(
    pass: &Pass<'_, '_>,
    sizes: &Heads,
    positions: &[usize],
    q: &[f32],
    keys: &Cache<'_>,
    values: &Cache<'_>,
    scores: &mut [f32],
    out: &mut [f32],
) {
    let Heads { heads, kv_heads, head_dim, context, first_slot } = *sizes;
    let scale = 1.0 / math::sqrt(head_dim as f32);
    let (kv_dim, group, n) = (kv_heads * head_dim, heads / kv_heads, positions.len());
    let (out, scores) = (Parts::new(out, head_dim), Parts::new(scores, context));
    pass.executor.run(pass.lanes, &|lane| {
        // SAFETY: one lane, one part.
        let scores = unsafe { scores.part(lane) };
        let mine = n * heads * lane / pass.lanes..n * heads * (lane + 1) / pass.lanes;
        for segment in pass.segments {
            let Segment { first, rows, sequence } = *segment;
            let start = first_slot + sequence * context;
            for task in mine.start.max(first * heads)..mine.end.min((first + rows) * heads) {
                let (row, head) = (task / heads, task % heads);
                let (q, at) = (&q[task * head_dim..][..head_dim], head / group * head_dim);
                let scores = &mut scores[..=positions[row]];
                for (t, score) in scores.iter_mut().enumerate() {
                    *score = scale * keys.dot(pass.kernels, (start + t) * kv_dim + at, q);
                }
                pass.kernels.softmax(scores);
                // SAFETY: every (row, head) belongs to one lane.
                let out = unsafe { out.part(task) };
                out.fill(0.0);
                for (t, &score) in scores.iter().enumerate() {
                    values.axpy(pass.kernels, (start + t) * kv_dim + at, score, out);
                }
            }
        }
    });
}
