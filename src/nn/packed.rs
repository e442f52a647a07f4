//! Attention among the rows of a sequence that stand side by side, without a cache: what encoders
//! and training compute. Bidirectional, or causal.
//!
//! Per sequence and query head, with its key-value head: `P = softmax(q Kᵀ / √d)`, `o = P V`. A
//! task is one sequence and one key-value head. It takes some queries at a time, with as many keys
//! as the last of them sees, so that of a causal square little more than half is computed. Every
//! product is weighted sums of rows ([`Kernels::mix`]); for the scores, which sum over d, K is
//! transposed.

use core::ops::Range;

use super::Pass;
use crate::kernel::Kernels;
use crate::tensor::math;
use crate::tensor::workers::{Cut, Grid, Parts, for_each};
use crate::tensor::workspace::times;

/// Queries at a time: twice what the widest kernels have registers for.
pub(crate) const STRIP: usize = 12;

/// Keys at a time: scores are computed in whole registers.
pub(crate) const LANES: usize = 16;

/// The sizes attention works with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    /// Does a token see only those before it and itself?
    pub(crate) causal: bool,
}

impl Shape {
    /// Numbers that [`Task::begin`] works in, for a sequence of `len` tokens.
    pub(crate) const fn forward_room(&self, len: usize) -> usize {
        let whole = match len.checked_next_multiple_of(LANES) {
            Some(whole) => whole,
            None => usize::MAX,
        };
        times(self.head_dim.saturating_add(STRIP), whole)
    }
}

/// Queries `[n, heads · d]`, keys and values `[n, kv_heads · d]`.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'q> {
    pub(crate) q: &'q [f32],
    pub(crate) k: &'q [f32],
    pub(crate) v: &'q [f32],
}

/// One head's columns in the rows of a sequence: row i begins at `i · stride`.
#[derive(Clone, Copy)]
pub(crate) struct Head<'x> {
    pub(crate) values: &'x [f32],
    pub(crate) stride: usize,
}

/// Attention of every row to all rows of its segment: q, k and v `[n, heads · d]` of `shape`, which
/// is bidirectional; out `[n, heads · d]`. `work` is [`Shape::forward_room`] of the longest segment
/// for every worker.
pub(crate) fn attend_bidirectional(
    pass: &Pass<'_, '_>,
    shape: Shape,
    inputs: Inputs<'_>,
    work: &mut [f32],
    out: &mut [f32],
) {
    let Shape { heads, head_dim: d, .. } = shape;
    let room = work.len() / pass.threads;
    let cut = Cut { segments: pass.segments, height: usize::MAX, heads, ranges: heads };
    let buffers = (Grid::new(out, heads * d, cut), Parts::new(work, room));
    for_each(pass.executor, pass.threads, buffers, |_, (blocks, work)| {
        for mut block in blocks {
            let (first, len, kv_head) =
                (block.segment.first, block.segment.rows, block.heads.start);
            let task = Task { kernels: pass.kernels, shape, first, len, kv_head, inputs };
            let (keys, p) = task.begin(work);
            for rows in parts(0..len, STRIP) {
                let mut out = block.out.some_rows::<STRIP>(rows.start);
                task.strip(kv_head, &rows, (keys, &mut *p), &mut out[..rows.len()], 0);
            }
        }
    });
}

/// One sequence (rows `first .. first + len`) and one key-value head.
#[derive(Clone, Copy)]
pub(crate) struct Task<'q> {
    pub(crate) kernels: &'q Kernels,
    pub(crate) shape: Shape,
    pub(crate) first: usize,
    pub(crate) len: usize,
    pub(crate) kv_head: usize,
    pub(crate) inputs: Inputs<'q>,
}

impl<'q> Task<'q> {
    /// Columns of `head` in this sequence's rows of `x`, which has `heads` heads: `[len, d]`.
    pub(crate) fn head<'x>(&self, x: &'x [f32], heads: usize, head: usize) -> Head<'x> {
        let (d, stride) = (self.shape.head_dim, heads * self.shape.head_dim);
        Head { values: &x[self.first * stride + head * d..], stride }
    }

    pub(crate) fn q(&self, head: usize) -> Head<'q> {
        self.head(self.inputs.q, self.shape.heads, head)
    }

    pub(crate) fn k(&self) -> Head<'q> {
        self.head(self.inputs.k, self.shape.kv_heads, self.kv_head)
    }

    pub(crate) fn v(&self) -> Head<'q> {
        self.head(self.inputs.v, self.shape.kv_heads, self.kv_head)
    }

    /// How many keys query `row` sees.
    pub(crate) fn seen(&self, row: usize) -> usize {
        if self.shape.causal { row + 1 } else { self.len }
    }

    /// Keys in whole registers.
    pub(crate) fn room(&self) -> usize {
        self.len.next_multiple_of(LANES)
    }

    /// 1/√d.
    pub(crate) fn scale(&self) -> f32 {
        1.0 / math::sqrt(self.shape.head_dim as f32)
    }

    /// `[d, room]` of `[len, d]`; behind the last stands anything.
    pub(crate) fn transposed(&self, x: Head<'_>, out: &mut [f32]) {
        transpose(x.values, x.stride, self.len, self.shape.head_dim, out, self.room());
    }

    /// `x y` of a strip of rows of x and as many columns of y, `[d, room]`, as the last of these
    /// queries sees; what stands behind them is computed with them.
    pub(crate) fn scores(&self, x: Head<'_>, rows: &Range<usize>, y: &[f32], out: &mut [f32]) {
        let columns = self.seen(rows.end - 1).next_multiple_of(LANES);
        let mut w: [&[f32]; STRIP] = [&[]; STRIP];
        w.iter_mut()
            .zip(rows.clone())
            .for_each(|(w, row)| *w = &x.values[row * x.stride..][..self.shape.head_dim]);
        let mut sums: [&mut [f32]; STRIP] = Default::default();
        for (sums, out) in sums.iter_mut().zip(out.chunks_exact_mut(self.room())) {
            *sums = &mut out[..columns];
            sums.fill(0.0);
        }
        self.kernels.mix(&w[..rows.len()], y, self.room(), &mut sums[..rows.len()]);
    }

    /// exp(score − the largest) of a strip of queries; zero from there to the first `seen`. Returns
    /// their sums.
    pub(crate) fn powers(
        &self,
        head: usize,
        rows: &Range<usize>,
        seen: usize,
        keys: &[f32],
        p: &mut [f32],
    ) -> [f32; STRIP] {
        let mut totals = [0.0; STRIP];
        self.scores(self.q(head), rows, keys, p);
        for ((row, p), total) in rows.clone().zip(p.chunks_exact_mut(self.room())).zip(&mut totals)
        {
            let own = self.seen(row);
            // In whole vectors: −∞ weighs nothing.
            let whole = own.next_multiple_of(LANES);
            p[own..whole].fill(f32::NEG_INFINITY);
            p[whole..seen.max(whole)].fill(0.0);
            *total = self.kernels.softmax_step(&mut p[..whole], self.scale(), f32::MIN).sum;
        }
        totals
    }

    /// Adds `w x` to columns `column .. column + d` of `out`: of every row of w, `[out.len(),
    /// stride]`, the first `terms` numbers, and of x as many rows.
    pub(crate) fn add(
        &self,
        w: &[f32],
        stride: usize,
        terms: usize,
        x: Head<'_>,
        out: &mut [&mut [f32]],
        column: usize,
    ) {
        for (w, out) in w.chunks(STRIP * stride).zip(out.chunks_mut(STRIP)) {
            let many = out.len();
            let mut weights: [&[f32]; STRIP] = [&[]; STRIP];
            weights
                .iter_mut()
                .zip(w.chunks_exact(stride))
                .for_each(|(weights, w)| *weights = &w[..terms]);
            let mut sums: [&mut [f32]; STRIP] = Default::default();
            sums.iter_mut()
                .zip(out)
                .for_each(|(sums, out)| *sums = &mut out[column..][..self.shape.head_dim]);
            self.kernels.mix(&weights[..many], x.values, x.stride, &mut sums[..many]);
        }
    }

    /// Keys transposed, and room for the scores of a strip of queries, in the numbers that
    /// [`Shape::forward_room`] asks for.
    pub(crate) fn begin<'w>(&self, work: &'w mut [f32]) -> (&'w [f32], &'w mut [f32]) {
        let (keys, p) = work.split_at_mut(self.shape.head_dim * self.room());
        self.transposed(self.k(), keys);
        (keys, p)
    }

    /// o of a strip of queries and one head, into columns `column .. column + d` of their rows
    /// `out`; keys and p are those of [`begin`](Self::begin).
    pub(crate) fn strip(
        &self,
        head: usize,
        rows: &Range<usize>,
        (keys, p): (&[f32], &mut [f32]),
        out: &mut [&mut [f32]],
        column: usize,
    ) {
        let own = column..column + self.shape.head_dim;
        out.iter_mut().for_each(|row| row[own.clone()].fill(0.0));
        let seen = self.seen(rows.end - 1);
        let totals = self.powers(head, rows, seen, keys, p);
        self.add(p, self.room(), seen, self.v(), out, column);
        for (row, total) in out.iter_mut().zip(totals) {
            let share = 1.0 / total;
            row[own.clone()].iter_mut().for_each(|o| *o *= share);
        }
    }
}

/// `range` in parts of `count`, but for the last.
pub(crate) fn parts(range: Range<usize>, count: usize) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range.step_by(count).map(move |first| first..end.min(first + count))
}

/// `out[j, i] = x[i, j]` of `rows` by `cols` numbers.
pub(crate) fn transpose(
    x: &[f32],
    stride: usize,
    rows: usize,
    cols: usize,
    out: &mut [f32],
    out_stride: usize,
) {
    /// A square that fits registers.
    const SIDE: usize = 4;
    for i in (0..rows).step_by(SIDE) {
        for j in (0..cols).step_by(SIDE) {
            let (height, width) = (SIDE.min(rows - i), SIDE.min(cols - j));
            if height == SIDE && width == SIDE {
                let mut square = [[0.0; SIDE]; SIDE];
                for (k, square) in square.iter_mut().enumerate() {
                    square.copy_from_slice(&x[(i + k) * stride + j..][..SIDE]);
                }
                for k in 0..SIDE {
                    out[(j + k) * out_stride + i..][..SIDE]
                        .copy_from_slice(&square.map(|row| row[k]));
                }
            } else {
                for (i, j) in (i..i + height).flat_map(|i| (j..j + width).map(move |j| (i, j))) {
                    out[j * out_stride + i] = x[i * stride + j];
                }
            }
        }
    }
}
