//! Causal grouped-query attention over a key-value [`Cache`] in the caller's memory.
//!
//! Per row (a token of some sequence at position p) and query head h, with its key-value head g = h
//! / (heads / kv_heads): `out = softmax(q_h · K_g[0..=p]ᵀ / √d) · V_g[0..=p]`.
//!
//! A work item is some rows and the query heads that share a key-value head: pairs of row and head
//! that read the same keys and values. It walks over the positions a block at a time and keeps a
//! softmax in parts (arXiv 1805.02867): per pair the largest score m, the sum l of `exp(score − m)`
//! and `o = Σ exp(score − m) · v`; where m grows, l and o shrink by `exp(m before − m)`.
//! So memory does not depend on the context. A pair's numbers do not depend on what other pairs its
//! item has.

use core::ops::Range;

use super::Pass;
use super::cache::{BLOCK, Cache, Heads};
use crate::tensor::math;
use crate::tensor::workers::{Block, Cut, Grid, for_each};

/// Pairs of row and head of an item at most: their scores, 6 KB, stay in the first-level cache
/// beside keys and values.
const PAIRS: usize = 24;

/// Attention of every row: q and out `[n, heads · d]`, positions `[n]`.
pub(crate) fn attend(
    pass: &Pass<'_, '_>,
    sizes: &Heads,
    positions: &[usize],
    q: &[f32],
    keys: &Cache<'_>,
    values: &Cache<'_>,
    out: &mut [f32],
) {
    let height = (PAIRS / sizes.group()).max(1);
    let mut cut =
        Cut { segments: pass.segments, height, heads: sizes.heads, ranges: sizes.kv_heads };
    // Whole groups read keys and values once; where they are too few for the workers, heads are
    // shared out evenly.
    let tiles = cut.tiles();
    if pass.threads > 1 && tiles * cut.ranges < 4 * pass.threads {
        cut.ranges = pass.threads;
    }
    let attention = Attention { pass, sizes, positions, q, keys, values };
    let out = Grid::new(out, sizes.heads * sizes.head_dim, cut);
    for_each(pass.executor, tiles * cut.ranges, out, |_, blocks| {
        blocks.for_each(|block| attention.item(block))
    });
}

/// The tensors of the formula.
struct Attention<'t> {
    pass: &'t Pass<'t, 't>,
    sizes: &'t Heads,
    positions: &'t [usize],
    q: &'t [f32],
    keys: &'t Cache<'t>,
    values: &'t Cache<'t>,
}

/// One row and one head on the way through the positions.
struct Pair<'t> {
    q: &'t [f32],
    out: &'t mut [f32],
    /// Positions it sees.
    seen: usize,
    max: f32,
    sum: f32,
}

impl Default for Pair<'_> {
    fn default() -> Self {
        // Finite, so that a part whose scores are all −∞ weighs nothing.
        Self { q: &[], out: &mut [], seen: 0, max: f32::MIN, sum: 0.0 }
    }
}

impl Attention<'_> {
    /// Rows of one segment and a range of heads, key-value head by key-value head.
    fn item(&self, block: Block<'_>) {
        let Block { segment, rows, heads, mut out } = block;
        let Heads { heads: all, head_dim, .. } = *self.sizes;
        let group = self.sizes.group();
        let mut first = heads.start;
        while first < heads.end {
            let kv_head = first / group;
            let next = heads.end.min((kv_head + 1) * group).min(first + PAIRS / rows.len().max(1));
            let mut pairs: [Pair<'_>; PAIRS] = Default::default();
            let mut places = pairs.iter_mut();
            for (row, out) in rows.clone().zip(out.all_rows()) {
                let outs = out.chunks_exact_mut(head_dim).skip(first - heads.start);
                for ((head, out), pair) in (first..next).zip(outs).zip(&mut places) {
                    pair.q = &self.q[(row * all + head) * head_dim..][..head_dim];
                    pair.out = out;
                    pair.seen = self.positions[row] + 1;
                }
            }
            let count = rows.len() * (next - first);
            self.walk(
                self.sizes.line(segment.sequence, kv_head),
                next - first,
                &mut pairs[..count],
            );
            first = next;
        }
    }

    /// All positions that the pairs see, a block at a time; rows in rising order of what they see,
    /// `heads` pairs each.
    fn walk(&self, line: usize, heads: usize, pairs: &mut [Pair<'_>]) {
        let scale = 1.0 / math::sqrt(self.sizes.head_dim as f32);
        let mut scores = [[0.0; BLOCK]; PAIRS];
        pairs.iter_mut().for_each(|pair| pair.out.fill(0.0));
        let end = pairs.last().map_or(0, |pair| pair.seen);
        for first in (0..end).step_by(BLOCK) {
            // Earlier rows may see nothing of this block.
            let hidden = pairs.iter().take_while(|pair| pair.seen <= first).count();
            let (pairs, scores) = (&mut pairs[hidden..], &mut scores[..]);
            let len = (end - first).min(BLOCK);
            self.score(line, first, len, pairs, scores);
            for (pair, scores) in pairs.iter_mut().zip(scores.iter_mut()) {
                let scores = &mut scores[..(pair.seen - first).min(BLOCK)];
                let step = self.pass.kernels.softmax_step(scores, scale, pair.max);
                if step.rescale != 1.0 {
                    pair.out.iter_mut().for_each(|out| *out *= step.rescale);
                }
                (pair.max, pair.sum) = (step.max, pair.sum * step.rescale + step.sum);
                if let Some(scales) = self.values.scales(self.sizes, line, first) {
                    scores.iter_mut().zip(scales).for_each(|(score, scale)| *score *= scale);
                }
            }
            self.gather(line, first, heads, pairs, scores);
        }
        for pair in pairs {
            let share = 1.0 / pair.sum;
            pair.out.iter_mut().for_each(|out| *out *= share);
        }
    }

    /// `scores = K q` of `len` positions from `first` on. They are computed sixteen at a time:
    /// the padding behind the last position is uninitialised, and so are its scores.
    fn score(
        &self,
        line: usize,
        first: usize,
        len: usize,
        pairs: &[Pair<'_>],
        scores: &mut [[f32; BLOCK]],
    ) {
        let cols = len.next_multiple_of(16);
        let mut q: [&[f32]; PAIRS] = Default::default();
        q.iter_mut().zip(pairs).for_each(|(q, pair)| *q = pair.q);
        let mut out: [&mut [f32]; PAIRS] = Default::default();
        out.iter_mut().zip(scores).for_each(|(out, scores)| *out = &mut scores[..cols]);
        self.keys.scores(
            self.pass.kernels,
            self.sizes,
            line,
            first,
            &q[..pairs.len()],
            &mut out[..pairs.len()],
        );
    }

    /// `o += p V` over the positions from `first` on: those that all pairs see together, then the
    /// others row by row, so that no row meets the values of a position it does not see.
    fn gather(
        &self,
        line: usize,
        first: usize,
        heads: usize,
        pairs: &mut [Pair<'_>],
        scores: &[[f32; BLOCK]],
    ) {
        let seen = |pair: &Pair<'_>| (pair.seen - first).min(BLOCK);
        let common = pairs.first().map_or(0, seen);
        self.mix(line, first, 0..common, pairs, scores);
        for (pairs, scores) in pairs.chunks_mut(heads).zip(scores.chunks(heads)) {
            let seen = seen(&pairs[0]);
            if seen > common {
                self.mix(line, first, common..seen, pairs, scores);
            }
        }
    }

    /// `o += p V` over part of a block.
    fn mix(
        &self,
        line: usize,
        first: usize,
        part: Range<usize>,
        pairs: &mut [Pair<'_>],
        scores: &[[f32; BLOCK]],
    ) {
        let mut w: [&[f32]; PAIRS] = Default::default();
        w.iter_mut().zip(scores).for_each(|(w, scores)| *w = &scores[part.clone()]);
        let count = pairs.len();
        let mut out: [&mut [f32]; PAIRS] = Default::default();
        out.iter_mut().zip(pairs).for_each(|(out, pair)| *out = &mut *pair.out);
        self.values.mix(
            self.pass.kernels,
            self.sizes,
            line,
            first + part.start,
            &w[..count],
            &mut out[..count],
        );
    }
}

#[cfg(test)]
#[cfg(feature = "std")]
mod tests {
    use super::*;
    use crate::kernel::{Kernels, available};
    use crate::nn::Segment;
    use crate::nn::cache::room;
    use crate::runtime::Serial;

    /// Numbers in -1 to 1 that do not repeat.
    fn wave(count: usize, step: f32) -> Vec<f32> {
        (0..count).map(|i| (i as f32 * step).sin() * (i as f32 * 0.013).cos()).collect()
    }

    /// What a case asks of two sequences: the first sees `context[0]` tokens of which the last
    /// `rows[0]` are rows of the pass.
    #[derive(Debug, Clone, Copy)]
    struct Case {
        heads: usize,
        kv_heads: usize,
        head_dim: usize,
        context: [usize; 2],
        rows: [usize; 2],
        threads: usize,
    }

    fn pass<'p>(
        kernels: &'p Kernels,
        threads: usize,
        segments: &'p [Segment],
    ) -> Pass<'p, 'static> {
        Pass {
            kernels,
            executor: &Serial,
            threads,
            segments,
            active: &[],
            max_active: 0,
            has_factors: false,
            has_scales: false,
        }
    }

    /// The sizes of a case in layer 1 of 2, keys and values of both sequences, and q.
    struct Tensors {
        sizes: Heads,
        positions: Vec<usize>,
        /// Keys and values, `[context, kv_heads · d]`.
        kv: [[Vec<f32>; 2]; 2],
        /// `[n, heads · d]`.
        q: Vec<f32>,
    }

    impl Tensors {
        fn new(case: Case) -> Self {
            let Case { heads, kv_heads, head_dim, context, rows, .. } = case;
            let (room, kv_dim) = (room(context[0].max(context[1])), kv_heads * head_dim);
            let positions: Vec<usize> =
                (0..2).flat_map(|s| context[s] - rows[s]..context[s]).collect();
            Self {
                sizes: Heads { heads, kv_heads, head_dim, room, first_line: 2 * kv_heads },
                kv: context.map(|n| [wave(n * kv_dim, 0.7), wave(n * kv_dim, 0.31)]),
                q: wave(positions.len() * heads * head_dim, 1.3),
                positions,
            }
        }

        /// The formula in f64 for one head of one row, which belongs to `sequence`.
        fn expected(&self, sequence: usize, row: usize, head: usize) -> Vec<f64> {
            let Heads { heads, kv_heads, head_dim: d, .. } = self.sizes;
            let [k, v] = &self.kv[sequence];
            let at = |t: usize| t * kv_heads * d + head / (heads / kv_heads) * d;
            let q = &self.q[(row * heads + head) * d..][..d];
            let dot = |t| -> f64 {
                k[at(t)..][..d].iter().zip(q).map(|(&k, &q)| f64::from(k) * f64::from(q)).sum()
            };
            let seen = 0..self.positions[row] + 1;
            let weights: Vec<f64> = seen.map(|t| (dot(t) / (d as f64).sqrt()).exp()).collect();
            let total: f64 = weights.iter().sum();
            let value = |i| -> f64 {
                weights.iter().enumerate().map(|(t, w)| w * f64::from(v[at(t) + i])).sum()
            };
            (0..d).map(|i| value(i) / total).collect()
        }

        /// What `attend` makes of them with a cache of `format`.
        fn attended(&self, kernels: &Kernels, case: Case, format: usize) -> Vec<f32> {
            let Case { kv_heads, head_dim: d, context, rows, threads, .. } = case;
            // Garbage where nothing was stored: NaN in every format.
            let len = 2 * 2 * kv_heads * self.sizes.room;
            let mut floats = [vec![f32::NAN; len * d], vec![f32::NAN; len * d]];
            let mut halves = [vec![0xffffu16; len * d], vec![0xffff; len * d]];
            let mut bytes = [vec![99i8; len * d], vec![99; len * d]];
            let mut scales = [vec![f32::NAN; len], vec![f32::NAN; len]];
            let ([f0, f1], [h0, h1], [b0, b1], [s0, s1]) =
                (&mut floats, &mut halves, &mut bytes, &mut scales);
            let (mut keys, mut values) = match format {
                0 => (Cache::F32(f0), Cache::F32(f1)),
                1 => (Cache::F16(h0), Cache::F16(h1)),
                _ => (Cache::Int8(b0, s0), Cache::Int8(b1, s1)),
            };
            for (sequence, [k, v]) in self.kv.iter().enumerate() {
                let all = [Segment { first: 0, rows: context[sequence], sequence }];
                let positions: Vec<usize> = (0..context[sequence]).collect();
                self.sizes.store_keys(&pass(kernels, threads, &all), &positions, k, &mut keys);
                self.sizes.store_values(&pass(kernels, threads, &all), &positions, v, &mut values);
            }
            let segments = [
                Segment { first: 0, rows: rows[0], sequence: 0 },
                Segment { first: rows[0], rows: rows[1], sequence: 1 },
            ];
            let (pass, mut out) = (pass(kernels, threads, &segments), vec![f32::NAN; self.q.len()]);
            attend(&pass, &self.sizes, &self.positions, &self.q, &keys, &values, &mut out);
            out
        }
    }

    /// The largest error of a case, over all instruction sets, against f64.
    fn largest_error(case: Case, format: usize) -> f64 {
        let tensors = Tensors::new(case);
        let mut largest = 0.0f64;
        for kernels in available() {
            let out = tensors.attended(kernels, case, format);
            for (place, out) in out.chunks_exact(case.head_dim).enumerate() {
                let (row, head) = (place / case.heads, place % case.heads);
                let expected = tensors.expected(usize::from(row >= case.rows[0]), row, head);
                for (out, expected) in out.iter().zip(expected) {
                    let error = (f64::from(*out) - expected).abs();
                    let name = kernels.name();
                    assert!(error.is_finite(), "{name} {case:?}: row {row}, head {head}");
                    largest = largest.max(error);
                }
            }
        }
        largest
    }

    #[test]
    fn attention_is_its_formula_in_every_format_and_shape() {
        for (heads, kv_heads, head_dim) in
            [(1, 1, 64), (9, 3, 64), (4, 2, 16), (6, 6, 20), (32, 1, 8), (3, 1, 5), (8, 2, 128)]
        {
            for (context, rows) in [
                ([1, 1], [1, 1]),
                ([1, 70], [1, 1]),
                ([33, 17], [33, 2]),
                ([64, 65], [3, 64]),
                ([150, 129], [40, 9]),
            ] {
                for threads in [1, 3, 50] {
                    let case = Case { heads, kv_heads, head_dim, context, rows, threads };
                    for (format, allowed) in [(0, 5e-6), (1, 1e-3), (2, 1e-2)] {
                        let error = largest_error(case, format);
                        assert!(error <= allowed, "{case:?} format {format}: {error:e}");
                    }
                }
            }
        }
    }
}
