//! The forward pass of a Llama-family decoder, top to bottom. Allocates nothing; every buffer is
//! named in [`Buffers`].
//!
//! Works on rows: a row is one token of some sequence at some position. A prompt chunk is many rows
//! of one sequence, a decoding step one row of each; the code is the same.

use super::{Config, Layer, Llama, Site};
use crate::adapter::Handle;
use crate::kernel::Kernels;
use crate::nn::inner::SIDE_BY_SIDE;
use crate::nn::{
    Cache, Embedding, Engine, Heads, Linear, Pass, Scratch, Segment, Size, angles, attend, linear,
    room, rotate,
};
use crate::tensor::workspace::{Pointers, times, workspace};

workspace! {
    /// Every working buffer, `[rows, …]` unless told otherwise.
    #[derive(Debug)]
    pub(crate) struct Buffers<'m>(config: &Config, size: &Size) {
        /// The residual stream, `[rows, dim]`.
        x: [f32; times(size.rows, config.dim)],
        /// What a norm or the output projection made of it, `[rows, dim]`.
        normed: [f32; times(size.rows, config.dim)],
        /// `[rows, heads · head_dim]`.
        q: [f32; times(size.rows, config.q_dim())],
        /// `[rows, heads · head_dim]`.
        attended: [f32; times(size.rows, config.q_dim())],
        /// `[rows, kv_heads · head_dim]`.
        k: [f32; times(size.rows, config.kv_dim())],
        /// `[rows, kv_heads · head_dim]`.
        v: [f32; times(size.rows, config.kv_dim())],
        /// `[rows, hidden]`.
        gate: [f32; times(size.rows, config.hidden)],
        /// `[rows, hidden]`.
        up: [f32; times(size.rows, config.hidden)],
        /// `[head_dim / 2]`.
        frequencies: [f32; config.head_dim / 2],
        /// cos and sin, `[rows, head_dim]`.
        angles: [f32; times(size.rows, config.head_dim)],
    }
    parts {
        scratch: Scratch(size, SIDE_BY_SIDE, config.widest()),
        /// `[layers, batch, kv_heads, room, head_dim]`.
        keys: Cache(size, times(config.layers, config.kv_heads), config.head_dim),
        /// `[layers, batch, kv_heads, room, head_dim]`.
        values: Cache(size, times(config.layers, config.kv_heads), config.head_dim),
    }
}

impl Buffers<'_> {
    /// The part of [`bytes`](Self::bytes) that keeps keys and values.
    pub(crate) const fn kv_bytes(config: &Config, size: &Size, pointers: Pointers) -> usize {
        let heads = times(config.layers, config.kv_heads);
        times(2, Cache::bytes(size, heads, config.head_dim, pointers))
    }
}

/// Runs all decoder blocks over the rows; the residual stream is left in `buffers.x`.
pub(crate) fn blocks(
    model: &Llama<'_>,
    pass: &Pass<'_, '_>,
    tokens: &[u32],
    positions: &[usize],
    size: &Size,
    buffers: &mut Buffers<'_>,
) {
    let c = model.config();
    let n = tokens.len();
    let head = c.head_dim;
    let (batch, room) = (size.batch, room(size.context));
    let (keys, values) = (&mut buffers.keys, &mut buffers.values);
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
        norm_rows(pass.kernels, x, layer.attention_norm, c.norm_epsilon, normed);
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
        norm_rows(pass.kernels, x, layer.feed_forward_norm, c.norm_epsilon, normed);
        linear::forward(pass, normed, &mut [layer.gate.to(gate), layer.up.to(up)], scratch);
        pass.kernels.silu_mul(gate, up);
        layer.down.forward(pass, gate, normed, scratch);
        pass.kernels.axpy(1.0, normed, x);
    }
}

/// What `linear` makes of norm(x) of some rows of the last pass, `[rows, out]`, one segment behind
/// the other. `segments` name rows of the pass, and then rows of the result.
pub(crate) fn project(
    model: &Llama<'_>,
    engine: &Engine<'_>,
    active: &[Handle<'_>],
    segments: &mut [Segment],
    linear: &Linear<'_>,
    buffers: &mut Buffers<'_>,
    out: &mut [f32],
) {
    let c = model.config();
    let mut rows = 0;
    for segment in &mut *segments {
        let x = &buffers.x[segment.first * c.dim..][..segment.rows * c.dim];
        let normed = &mut buffers.normed[rows * c.dim..][..segment.rows * c.dim];
        norm_rows(engine.kernels, x, model.norm(), c.norm_epsilon, normed);
        segment.first = rows;
        rows += segment.rows;
    }
    let pass = engine.pass(segments, active);
    linear.forward(&pass, &buffers.normed[..rows * c.dim], out, &mut buffers.scratch);
}

/// The RMSNorm of every row.
fn norm_rows(kernels: &Kernels, x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    for (x, out) in x.chunks_exact(weight.len()).zip(out.chunks_exact_mut(weight.len())) {
        kernels.rms_norm(x, weight, epsilon, out);
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
            norm_rows(pass.kernels, heads, weight, epsilon, normed);
            heads.copy_from_slice(normed);
        }
    }
}
