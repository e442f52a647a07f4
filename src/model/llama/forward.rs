//! The forward pass of a Llama-family decoder, top to bottom. Allocates nothing; every buffer is
//! named in [`Buffers`].
//!
//! Works on rows: a row is one token of some sequence at some position. A prompt chunk is many rows
//! of one sequence, a decoding step one row of each; the code is the same.

use core::ops::Range;

use super::{Config, Layer, Llama, Site};
use crate::nn::{
    Cache, Embedding, Heads, Linear, Pass, Scratch, Segment, angles, attend, linear, rotate,
};
use crate::tensor::math;

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
    /// Of an int8 cache, see [`fill_factors`]: `[layers, kv_heads, head_dim / 2]`; else empty.
    pub(crate) key_factors: &'m mut [f32],
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
    let (group, is_int8) = (c.heads / c.kv_heads, !buffers.key_factors.is_empty());
    for index in 0..c.layers {
        let mut layer = model.layer(index);
        // out = Σ p (v + b) = Σ p v + b: an int8 cache need not hold b.
        let value_bias = if is_int8 { core::mem::take(&mut layer.v.bias) } else { &[] };

        // x ← x + O · attention(rotate(Q n), rotate(K n), V n), n = norm(x)
        norm_rows(pass, x, layer.attention_norm, c.norm_epsilon, normed);
        linear::forward(pass, normed, &mut [layer.q.to(q), layer.k.to(k), layer.v.to(v)], scratch);
        norm_heads(pass, &layer, c.norm_epsilon, q, k, attended);
        for (row, turn) in turns.chunks_exact(head).enumerate() {
            rotate(&mut q[row * c.q_dim()..][..c.q_dim()], turn);
            rotate(&mut k[row * c.kv_dim()..][..c.kv_dim()], turn);
        }
        if is_int8 && !layer.k.bias.is_empty() {
            let factors = &mut buffers.key_factors[index * c.kv_dim() / 2..][..c.kv_dim() / 2];
            if factors[0] == UNKNOWN_FACTOR {
                fill_factors(&layer, head, &mut normed[..c.dim], factors);
            }
            scale_pairs(q, head, group, factors, false);
            scale_pairs(k, head, 1, factors, true);
        }
        let heads = heads(c, index, batch, room);
        heads.store_keys(pass, positions, k, keys);
        heads.store_values(pass, positions, v, values);
        attend(pass, &heads, positions, q, keys, values, attended);
        if !value_bias.is_empty() {
            for (i, out) in attended.chunks_exact_mut(head).enumerate() {
                pass.kernels.axpy(1.0, &value_bias[i % c.heads / group * head..][..head], out);
            }
        }
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

/// How layer `index` lies in a cache of `batch` sequences of `room` positions.
pub(crate) fn heads(c: &Config, index: usize, batch: usize, room: usize) -> Heads {
    let first_line = index * batch * c.kv_heads;
    Heads { heads: c.heads, kv_heads: c.kv_heads, head_dim: c.head_dim, room, first_line }
}

/// The largest factor of a pair: with it the other pairs have nearly all of the range.
const LARGEST_FACTOR: f32 = 32.0;

/// What factors are before [`fill_factors`].
pub(crate) const UNKNOWN_FACTOR: f32 = 0.0;

/// Rows of a head's weight of which one is read for its factors.
const SAMPLED: usize = 8;

/// The factors f of a block's rotary pairs, `[kv_heads, head / 2]`, through `row`, `[dim]`: keys go
/// into an int8 cache as k / f and queries meet them as q · f, so that scores are what they were.
/// Both numbers of a pair have one factor, so that it does not depend on the position.
///
/// One scale serves all numbers of a key, so each is rounded by s/2 at most, s the largest of |k|/f
/// over 127, and moves a score by f·s/2 times its query's. The sum of (f·s)² over the pairs is least
/// where f is as large as the pair's numbers get: √(b² + m²), with the pair's bias b and m = 3σ, σ²
/// being the mean of the squares that the head's weights alone make of a normed row: Σ (w·g)² over a
/// row of W_k, g the norm's weight. Only ratios count: f = √(1 + b²/m²), 1 without bias.
#[inline(never)]
fn fill_factors(layer: &Layer<'_>, head: usize, row: &mut [f32], factors: &mut [f32]) {
    let half = head / 2;
    for (i, factors) in factors.chunks_exact_mut(half).enumerate() {
        let mut square = 0.0;
        for j in (0..head).step_by(SAMPLED) {
            layer.k.weight.read(i * head + j, 0, row);
            for (w, g) in row.iter().zip(layer.attention_norm) {
                square += (w * g) * (w * g);
            }
        }
        square *= 9.0 / head.div_ceil(SAMPLED) as f32;
        let bias = &layer.k.bias[i * head..][..head];
        for (j, factor) in factors.iter_mut().enumerate() {
            let (a, b) = (bias[j], bias[j + half]);
            *factor = math::sqrt(1.0 + (a * a + b * b) / square).min(LARGEST_FACTOR);
        }
    }
}

/// Multiplies the rotary pairs of every head of `x`, `[rows, heads, head]`, by their factors, or
/// divides them: `group` heads beside each other share factors, `[heads / group, head / 2]`.
#[inline(never)]
fn scale_pairs(x: &mut [f32], head: usize, group: usize, factors: &[f32], divide: bool) {
    let half = head / 2;
    for (i, x) in x.chunks_exact_mut(head).enumerate() {
        let factors = &factors[i / group * half % factors.len()..][..half];
        let (first, second) = x.split_at_mut(half);
        for ((a, b), &factor) in first.iter_mut().zip(second).zip(factors) {
            let factor = if divide { 1.0 / factor } else { factor };
            *a *= factor;
            *b *= factor;
        }
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
