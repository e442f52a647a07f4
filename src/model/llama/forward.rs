//! The forward pass of a Llama-family decoder, top to bottom. Allocates nothing; every buffer is
//! named in [`Buffers`].
//!
//! Works on rows: a row is one token of some sequence at some position. A prompt chunk is many rows
//! of one sequence, a decoding step one row of each; the code is the same.

use super::{Config, Layer, Llama, Site};
use crate::adapter::{Handle, Scaled};
use crate::kernel::Kernels;
use crate::nn::inner::SIDE_BY_SIDE;
use crate::nn::{
    Cache, Embedding, Engine, Heads, KvFormat, Linear, Pass, Scratch, Segment, Size, angles,
    attend, linear, room, rotate,
};
use crate::tensor::columns::Columns;
use crate::tensor::math;
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
        /// Of an int8 cache, see [`fill_factors`]: `[layers, kv_heads, head_dim / 2]`; else
        /// empty.
        key_factors: [f32; key_factors(config, size)] = UNKNOWN_FACTOR,
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

/// The length of [`Buffers::key_factors`].
const fn key_factors(config: &Config, size: &Size) -> usize {
    match size.kv_format {
        KvFormat::Int8 => times(config.layers, config.kv_dim() / 2),
        KvFormat::F32 | KvFormat::F16 => 0,
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
    let (head, batch, room) = (c.head_dim, size.batch, room(size.context));
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
    let is_int8 = !buffers.key_factors.is_empty();
    for index in 0..c.layers {
        let mut layer = model.layer(index);
        // out = Σ p (v + b) = Σ p v + b: an int8 cache need not hold b.
        let value_bias = if is_int8 { core::mem::take(&mut layer.v.bias) } else { &[] };

        // x ← x + O · attention(rotate(Q n), rotate(K n), V n), n = norm(x)
        norm_rows(pass.kernels, x, layer.attention_norm, c.norm_epsilon, normed);
        linear::forward(pass, normed, &mut [layer.q.to(q), layer.k.to(k), layer.v.to(v)], scratch);
        norm_heads(pass, &layer, c.norm_epsilon, q, k, attended);
        rotate_rows(turns, head, q, c.q_dim());
        rotate_rows(turns, head, k, c.kv_dim());
        if is_int8 && !layer.k.bias.is_empty() {
            let factors = &mut buffers.key_factors[index * c.kv_dim() / 2..][..c.kv_dim() / 2];
            scale_keys(c, &layer, [&mut *q, &mut *k], &mut normed[..c.dim], factors);
        }
        let heads = heads(c, index, batch, room);
        heads.store_keys(pass, positions, k, keys);
        heads.store_values(pass, positions, v, values);
        attend(pass, &heads, positions, q, keys, values, attended);
        if !value_bias.is_empty() {
            add_value_bias(pass, c, (&layer.v, value_bias), v, attended);
        }
        layer.o.forward_own(pass, attended, normed, scratch);
        pass.kernels.axpy(1.0, normed, x);

        // x ← x + Down · (silu(Gate n) ⊙ Up n), n = norm(x)
        norm_rows(pass.kernels, x, layer.feed_forward_norm, c.norm_epsilon, normed);
        linear::forward(pass, normed, &mut [layer.gate.to(gate), layer.up.to(up)], scratch);
        pass.kernels.silu_mul(gate, up);
        layer.down.forward_own(pass, gate, normed, scratch);
        pass.kernels.axpy(1.0, normed, x);
    }
}

/// Rotates the heads of every row, `[n, width]`, by its rotary table.
fn rotate_rows(turns: &[f32], head: usize, rows: &mut [f32], width: usize) {
    for (row, turn) in rows.chunks_exact_mut(width).zip(turns.chunks_exact(head)) {
        rotate(row, turn);
    }
}

/// Divides keys by what an int8 cache holds better without, and multiplies queries with it: the
/// scores stay. The factors are found at the first use; `room` is `[dim]`.
fn scale_keys(
    c: &Config,
    layer: &Layer<'_>,
    [q, k]: [&mut [f32]; 2],
    room: &mut [f32],
    factors: &mut [f32],
) {
    let head = c.head_dim;
    if factors[0] == UNKNOWN_FACTOR {
        fill_factors(layer, head, room, factors);
    }
    scale_pairs(q, head, c.heads / c.kv_heads, factors, false);
    scale_pairs(k, head, 1, factors, true);
}

/// Adds b, as the rows' adapters scale it, to what attention gathered of values without it; `rows`,
/// `[rows, kv_heads · head_dim]`, is scratch.
fn add_value_bias(
    pass: &Pass<'_, '_>,
    c: &Config,
    (layer, bias): (&Linear<'_>, &[f32]),
    rows: &mut [f32],
    attended: &mut [f32],
) {
    let (head, group) = (c.head_dim, c.heads / c.kv_heads);
    rows.chunks_exact_mut(bias.len()).for_each(|row| row.copy_from_slice(bias));
    layer.scale(pass, Scaled::Output, &mut Columns::of(rows, bias.len()));
    for (i, out) in attended.chunks_exact_mut(head).enumerate() {
        pass.kernels.axpy(1.0, &rows[i / group * head..][..head], out);
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
const UNKNOWN_FACTOR: f32 = 0.0;

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
