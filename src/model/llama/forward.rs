//! The forward pass of a Llama-family decoder, top to bottom. Allocates nothing; every buffer is
//! named in [`Buffers`].
//!
//! Works on rows: a row is one token of some sequence at some position. A prompt chunk is many rows
//! of one sequence, a decoding step one row of each; the code is the same.

use core::ops::Range;

use super::{Layer, Llama, Site};
use crate::nn::{
    Cache, Embedding, Heads, Linear, Pass, Scratch, Segment, angles, attend, linear, rotate,
};

/// The rows of a pass.
#[derive(Debug)]
pub(crate) struct Rows<'m> {
    pub(crate) tokens: &'m mut [u32],
    pub(crate) positions: &'m mut [usize],
    /// Consecutive rows of one sequence.
    pub(crate) segments: &'m mut [Segment],
}

/// The keys and values of all layers, `[layers, batch, kv_heads, room, head_dim]` each.
#[derive(Debug)]
pub(crate) struct KeyValues<'c, 'm> {
    pub(crate) keys: &'c mut Cache<'m>,
    pub(crate) values: &'c mut Cache<'m>,
    /// Sequences in the cache.
    pub(crate) batch: usize,
    /// Positions each has room for.
    pub(crate) room: usize,
}

/// Every working buffer, `[rows, …]` unless told otherwise.
#[derive(Debug)]
pub(crate) struct Buffers<'m> {
    /// The residual stream, `[rows, dim]`.
    pub(crate) x: &'m mut [f32],
    /// What a norm or the output projection made of it, `[rows, dim]`.
    pub(crate) normed: &'m mut [f32],
    /// `[rows, heads · head_dim]`.
    pub(crate) q: &'m mut [f32],
    /// `[rows, heads · head_dim]`.
    pub(crate) attended: &'m mut [f32],
    /// `[rows, kv_heads · head_dim]`.
    pub(crate) k: &'m mut [f32],
    /// `[rows, kv_heads · head_dim]`.
    pub(crate) v: &'m mut [f32],
    /// `[rows, hidden]`.
    pub(crate) gate: &'m mut [f32],
    /// `[rows, hidden]`.
    pub(crate) up: &'m mut [f32],
    pub(crate) scratch: Scratch<'m>,
    /// `[head_dim / 2]`.
    pub(crate) frequencies: &'m mut [f32],
    /// cos and sin, `[rows, head_dim]`.
    pub(crate) angles: &'m mut [f32],
}

/// Runs all decoder blocks over the rows; the residual stream is left in `buffers.x`.
pub(crate) fn blocks(
    model: &Llama<'_>,
    pass: &Pass<'_, '_>,
    tokens: &[u32],
    positions: &[usize],
    cache: KeyValues<'_, '_>,
    buffers: &mut Buffers<'_>,
) {
    let c = model.config();
    let n = tokens.len();
    let head = c.head_dim;
    let KeyValues { keys, values, batch, room } = cache;
    let [x, normed] =
        [&mut *buffers.x, &mut *buffers.normed].map(|buffer| &mut buffer[..n * c.dim]);
    let [q, attended] =
        [&mut *buffers.q, &mut *buffers.attended].map(|buffer| &mut buffer[..n * c.q_dim()]);
    let [k, v] = [&mut *buffers.k, &mut *buffers.v].map(|buffer| &mut buffer[..n * c.kv_dim()]);
    let [gate, up] =
        [&mut *buffers.gate, &mut *buffers.up].map(|buffer| &mut buffer[..n * c.hidden]);
    let (scratch, turns) = (&mut buffers.scratch, &mut buffers.angles[..n * head]);

    let embedding = Embedding { table: model.embedding(), site: Site::Embedding.number(c.layers) };
    embedding.forward(pass, tokens, x);
    for (turn, &position) in turns.chunks_exact_mut(head).zip(positions) {
        angles(position, buffers.frequencies, turn);
    }
    for index in 0..c.layers {
        let layer = model.layer(index);

        // x ← x + O · attention(rotate(Q n), rotate(K n), V n), n = norm(x)
        norm_rows(pass, x, layer.attention_norm, c.norm_epsilon, normed);
        linear::forward(pass, normed, &mut [layer.q.to(q), layer.k.to(k), layer.v.to(v)], scratch);
        norm_heads(pass, &layer, c.norm_epsilon, q, k, attended);
        for (row, turn) in turns.chunks_exact(head).enumerate() {
            rotate(&mut q[row * c.q_dim()..][..c.q_dim()], turn);
            rotate(&mut k[row * c.kv_dim()..][..c.kv_dim()], turn);
        }
        let first_line = index * batch * c.kv_heads;
        let heads =
            Heads { heads: c.heads, kv_heads: c.kv_heads, head_dim: head, room, first_line };
        heads.store_keys(pass, positions, k, keys);
        heads.store_values(pass, positions, v, values);
        attend(pass, &heads, positions, q, keys, values, attended);
        layer.o.forward(pass, attended, normed, scratch);
        pass.kernels.axpy(1.0, normed, x);

        // x ← x + Down · (silu(Gate n) ⊙ Up n), n = norm(x)
        norm_rows(pass, x, layer.feed_forward_norm, c.norm_epsilon, normed);
        linear::forward(pass, normed, &mut [layer.gate.to(gate), layer.up.to(up)], scratch);
        pass.kernels.silu_mul(gate, up);
        layer.down.forward(pass, gate, normed, scratch);
        pass.kernels.axpy(1.0, normed, x);
    }
}

/// `logits = Head · norm(x)` of some rows of the last pass, `[rows, vocab]`.
pub(crate) fn logits(
    model: &Llama<'_>,
    pass: &Pass<'_, '_>,
    rows: Range<usize>,
    buffers: &mut Buffers<'_>,
    logits: &mut [f32],
) {
    let head =
        Linear { weight: model.head(), bias: &[], site: Site::Head.number(model.config().layers) };
    project(model, pass, rows, &head, buffers, logits);
}

/// What `linear` makes of norm(x) of some rows of the last pass, `[rows, out]`.
pub(crate) fn project(
    model: &Llama<'_>,
    pass: &Pass<'_, '_>,
    rows: Range<usize>,
    linear: &Linear<'_>,
    buffers: &mut Buffers<'_>,
    out: &mut [f32],
) {
    let c = model.config();
    let normed = &mut buffers.normed[..rows.len() * c.dim];
    norm_rows(
        pass,
        &buffers.x[rows.start * c.dim..rows.end * c.dim],
        model.norm(),
        c.norm_epsilon,
        normed,
    );
    linear.forward(pass, normed, out, &mut buffers.scratch);
}

/// The RMSNorm of every row.
fn norm_rows(pass: &Pass<'_, '_>, x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    for (x, out) in x.chunks_exact(weight.len()).zip(out.chunks_exact_mut(weight.len())) {
        pass.kernels.rms_norm(x, weight, epsilon, out);
    }
}

/// Qwen3: an RMSNorm of every query and key head, through `scratch`, as long as q.
fn norm_heads(
    pass: &Pass<'_, '_>,
    layer: &Layer<'_>,
    epsilon: f32,
    q: &mut [f32],
    k: &mut [f32],
    scratch: &mut [f32],
) {
    for (heads, weight) in [(q, layer.q_norm), (k, layer.k_norm)] {
        if !weight.is_empty() {
            let normed = &mut scratch[..heads.len()];
            norm_rows(pass, heads, weight, epsilon, normed);
            heads.copy_from_slice(normed);
        }
    }
}
