//! Attention within the sequences of a batch, both ways; causal or not.
//!
//! Per sequence and query head, with its key-value head: `P = softmax(q Kᵀ / √d)`, `o = P V`. Back:
//! ```text
//! dV += Pᵀ do    dP = do Vᵀ    dS = P ⊙ (dP − rowsum(P ⊙ dP)) / √d    dq = dS K    dK += dSᵀ q
//! ```
//! P is computed again on the way back: nothing quadratic is kept. A task is one sequence and one
//! key-value head. It takes some queries at a time, with as many keys as the last of them sees, so
//! that of a causal square little more than half is computed. Where there are sequences enough, a
//! lane does all heads of one: then it reads and writes the rows that are its own elsewhere too.
//! Every product is weighted sums of rows ([`Kernels::mix`](crate::kernel::Kernels::mix)): K and V
//! are transposed for those that sum over d, blocks of P and dS for those that sum over queries.

use std::ops::Range;

use super::parallel::Machine;
use super::pool::Floats;

/// Queries at a time: twice what the widest kernels have registers for.
const STRIP: usize = 12;

/// Queries on the way back whose share of dK and dV is added at once.
const BLOCK: usize = 48;

/// Keys at a time: scores are computed in whole registers.
const LANES: usize = 16;

/// Sequences for each lane from which on their heads are not shared out.
const MANY: usize = 4;

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
    /// Numbers that a task of [`forward`] computes with, for a sequence of `len` tokens.
    pub(crate) fn forward_room(&self, len: usize) -> usize {
        (self.head_dim + STRIP) * len.next_multiple_of(LANES)
    }

    /// The same of [`backward`].
    pub(crate) fn backward_room(&self, len: usize) -> usize {
        (2 * self.head_dim + 3 * BLOCK.min(len)) * len.next_multiple_of(LANES)
    }

    /// Key-value heads of a sequence that one lane computes, of so many sequences.
    pub(crate) fn heads_together(&self, sequences: usize, lanes: usize) -> usize {
        if sequences >= MANY * lanes { self.kv_heads } else { 1 }
    }

    /// Numbers of the gradients of o, q, k and v, of n rows.
    pub(crate) fn gradients(&self, n: usize) -> usize {
        2 * n * (self.heads + self.kv_heads) * self.head_dim
    }

    /// Them in one buffer, which is about as large as a feed-forward's, so that the pool has one.
    pub(crate) fn split<'g>(&self, gradients: &'g mut [f32]) -> [&'g mut [f32]; 4] {
        let n = gradients.len() / self.gradients(1);
        let (d_out, rest) = gradients.split_at_mut(n * self.heads * self.head_dim);
        let (dq, rest) = rest.split_at_mut(d_out.len());
        let (dk, dv) = rest.split_at_mut(n * self.kv_heads * self.head_dim);
        [d_out, dq, dk, dv]
    }
}

/// Queries `[n, heads · d]`, keys and values `[n, kv_heads · d]`.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'q> {
    pub(crate) q: &'q [f32],
    pub(crate) k: &'q [f32],
    pub(crate) v: &'q [f32],
}

/// Some columns of the rows of a sequence, to be written.
type Rows<'o> = Vec<&'o mut [f32]>;

/// One head's columns in the rows of a sequence: row i begins at `i · stride`.
#[derive(Clone, Copy)]
struct Head<'x> {
    values: &'x [f32],
    stride: usize,
}

impl Head<'_> {
    /// From row `first` on.
    fn from(self, first: usize) -> Self {
        Self { values: &self.values[first * self.stride..], ..self }
    }
}

/// One sequence (rows `first .. first + len`) and one key-value head.
#[derive(Clone, Copy)]
struct Task<'q> {
    machine: &'q Machine<'q>,
    shape: Shape,
    first: usize,
    len: usize,
    kv_head: usize,
    inputs: Inputs<'q>,
}

impl<'q> Task<'q> {
    /// Columns of `head` in this sequence's rows of `x`, which has `heads` heads: `[len, d]`.
    fn head<'x>(&self, x: &'x [f32], heads: usize, head: usize) -> Head<'x> {
        let (d, stride) = (self.shape.head_dim, heads * self.shape.head_dim);
        Head { values: &x[self.first * stride + head * d..], stride }
    }

    fn q(&self, head: usize) -> Head<'q> {
        self.head(self.inputs.q, self.shape.heads, head)
    }

    fn k(&self) -> Head<'q> {
        self.head(self.inputs.k, self.shape.kv_heads, self.kv_head)
    }

    fn v(&self) -> Head<'q> {
        self.head(self.inputs.v, self.shape.kv_heads, self.kv_head)
    }

    /// The query heads that share this key-value head, each with its place among them.
    fn heads(&self) -> impl Iterator<Item = (usize, usize)> {
        let group = self.shape.heads / self.shape.kv_heads;
        (self.kv_head * group..).take(group).enumerate()
    }

    /// How many keys query `row` sees.
    fn seen(&self, row: usize) -> usize {
        if self.shape.causal { row + 1 } else { self.len }
    }

    /// Keys in whole registers.
    fn room(&self) -> usize {
        self.len.next_multiple_of(LANES)
    }

    /// 1/√d.
    fn scale(&self) -> f32 {
        1.0 / (self.shape.head_dim as f32).sqrt()
    }

    /// `[d, room]` of `[len, d]`; behind the last stands anything.
    fn transposed(&self, x: Head<'_>, out: &mut [f32]) {
        transpose(x.values, x.stride, self.len, self.shape.head_dim, out, self.room());
    }

    /// `x y` of a strip of rows of x and as many columns of y, `[d, room]`, as the last of these
    /// queries sees; what stands behind them is computed with them.
    fn scores(&self, x: Head<'_>, rows: &Range<usize>, y: &[f32], out: &mut [f32]) {
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
        self.machine.kernels.mix(&w[..rows.len()], y, self.room(), &mut sums[..rows.len()]);
    }

    /// exp(score − the largest) of a strip of queries; zero from there to the first `seen`. Returns
    /// their sums.
    fn powers(
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
            *total =
                self.machine.kernels.softmax_step(&mut p[..whole], self.scale(), f32::MIN).total;
        }
        totals
    }

    /// Adds `w x` to columns `column .. column + d` of `out`: of every row of w, `[out.len(),
    /// stride]`, the first `terms` numbers, and of x as many rows.
    fn add(
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
            self.machine.kernels.mix(&weights[..many], x.values, x.stride, &mut sums[..many]);
        }
    }

    /// o of the query heads, in rows of `[group · d]`.
    fn forward(&self, mut out: Rows<'_>) {
        let (d, room) = (self.shape.head_dim, self.room());
        let mut work = self.machine.unset(self.shape.forward_room(self.len));
        let (keys, p) = work.split_at_mut(d * room);
        self.transposed(self.k(), keys);
        out.iter_mut().for_each(|row| row.fill(0.0));
        for (place, head) in self.heads() {
            for rows in parts(0..self.len, STRIP) {
                let seen = self.seen(rows.end - 1);
                let totals = self.powers(head, &rows, seen, keys, p);
                let out = &mut out[rows];
                self.add(p, room, seen, self.v(), out, place * d);
                for (row, total) in out.iter_mut().zip(totals) {
                    let share = 1.0 / total;
                    row[place * d..][..d].iter_mut().for_each(|o| *o *= share);
                }
            }
        }
    }

    /// dq of the query heads in rows of `[group · d]`, dk and dv in rows of `[d]`.
    fn backward(&self, d_out: &[f32], [mut dq, mut dk, mut dv]: [Rows<'_>; 3]) {
        let (d, room, height, scale) =
            (self.shape.head_dim, self.room(), BLOCK.min(self.len).max(1), self.scale());
        let mut work = self.machine.unset(self.shape.backward_room(self.len));
        let (keys, work) = work.split_at_mut(d * room);
        let (values, work) = work.split_at_mut(d * room);
        let (p, work) = work.split_at_mut(height * room);
        let (ds, turned) = work.split_at_mut(height * room);
        self.transposed(self.k(), keys);
        self.transposed(self.v(), values);
        dq.iter_mut().chain(&mut dk).chain(&mut dv).for_each(|row| row.fill(0.0));
        for (place, head) in self.heads() {
            let d_out = self.head(d_out, self.shape.heads, head);
            for block in parts(0..self.len, height) {
                let seen = self.seen(block.end - 1);
                for rows in parts(block.clone(), STRIP) {
                    let first = (rows.start - block.start) * room;
                    let (p, ds) = (&mut p[first..], &mut ds[first..]);
                    let totals = self.powers(head, &rows, seen, keys, p);
                    self.scores(d_out, &rows, values, ds);
                    let lines = p.chunks_exact_mut(room).zip(ds.chunks_exact_mut(room));
                    for ((row, (p, ds)), total) in rows.clone().zip(lines).zip(totals) {
                        let (own, share) = (self.seen(row), 1.0 / total);
                        p[..own].iter_mut().for_each(|p| *p *= share);
                        let dot = self.machine.kernels.dot(&ds[..own], &p[..own]);
                        ds[..own]
                            .iter_mut()
                            .zip(&*p)
                            .for_each(|(ds, p)| *ds = p * (*ds - dot) * scale);
                        ds[own..seen].fill(0.0);
                    }
                    self.add(ds, room, self.seen(rows.end - 1), self.k(), &mut dq[rows], place * d);
                }
                for (w, x, out) in [(&*p, d_out, &mut dv), (&*ds, self.q(head), &mut dk)] {
                    transpose(w, room, block.len(), seen, turned, height);
                    self.add(turned, height, block.len(), x.from(block.start), &mut out[..seen], 0);
                }
            }
        }
    }
}

/// `range` in parts of `count`, but for the last.
fn parts(range: Range<usize>, count: usize) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range.step_by(count).map(move |first| first..end.min(first + count))
}

/// `out[j, i] = x[i, j]` of `rows` by `cols` numbers.
fn transpose(
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

/// Every task, and what it owns of each of `outputs`: pairs of rows for all and how many numbers of
/// a row belong to one key-value head.
fn each<const N: usize>(
    machine: &Machine<'_>,
    shape: Shape,
    starts: &[usize],
    inputs: Inputs<'_>,
    outputs: [(&mut [f32], usize); N],
    work: impl Fn(Task<'_>, [Rows<'_>; N]) + Sync,
) {
    let together = shape.heads_together(starts.len() - 1, machine.lanes());
    let groups = shape.kv_heads / together;
    let mut items = Vec::with_capacity((starts.len() - 1) * groups);
    for pair in starts.windows(2) {
        for group in 0..groups {
            let (first, len) = (pair[0], pair[1] - pair[0]);
            let task = Task { machine, shape, first, len, kv_head: group * together, inputs };
            items.push((task, std::array::from_fn(|_| Vec::with_capacity(len))));
        }
    }
    for (number, (output, width)) in outputs.into_iter().enumerate() {
        let mut rows = output.chunks_exact_mut(shape.kv_heads * width);
        for items in items.chunks_exact_mut(groups) {
            for row in rows.by_ref().take(items[0].0.len) {
                items
                    .iter_mut()
                    .zip(row.chunks_exact_mut(together * width))
                    .for_each(|((_, rows), part)| rows[number].push(part));
            }
        }
    }
    machine.each(items, |(task, mut rows): (Task<'_>, [Rows<'_>; N])| {
        for head in 0..together {
            let own = |row| -> &mut [f32] {
                let row: &mut [f32] = row;
                let width = row.len() / together;
                &mut row[head * width..][..width]
            };
            let own =
                rows.each_mut().map(|rows| rows.iter_mut().map(|row| own(&mut **row)).collect());
            work(Task { kv_head: task.kv_head + head, ..task }, own);
        }
    });
}

/// o, `[n, heads · d]`. Sequence i has rows `starts[i] .. starts[i + 1]`.
pub(crate) fn forward(
    machine: &Machine<'_>,
    shape: Shape,
    starts: &[usize],
    inputs: Inputs<'_>,
) -> Floats {
    let width = shape.heads / shape.kv_heads * shape.head_dim;
    let mut out = machine.unset(inputs.q.len());
    each(machine, shape, starts, inputs, [(&mut out, width)], |task, [out]| task.forward(out));
    out
}

/// dq, dk and dv, to be written, of d_out, `[n, heads · d]`.
pub(crate) fn backward(
    machine: &Machine<'_>,
    shape: Shape,
    starts: &[usize],
    inputs: Inputs<'_>,
    d_out: &[f32],
    [dq, dk, dv]: [&mut [f32]; 3],
) {
    let (d, width) = (shape.head_dim, shape.heads / shape.kv_heads * shape.head_dim);
    each(machine, shape, starts, inputs, [(dq, width), (dk, d), (dv, d)], |task, rows| {
        task.backward(d_out, rows)
    });
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::pool::Pool;
    use super::*;
    use crate::random;
    use crate::runtime::{Executor, Serial, Threads};

    /// o, dq, dk and dv.
    fn both_ways(
        executor: &dyn Executor,
        shape: Shape,
        starts: &[usize],
        [q, k, v, d_out]: [&[f32]; 4],
    ) -> [Vec<f32>; 4] {
        let pool = Arc::new(Pool::default());
        let (machine, inputs) = (Machine::new(executor, &pool), Inputs { q, k, v });
        let out = forward(&machine, shape, starts, inputs);
        let mut gradients = vec![f32::NAN; shape.gradients(starts[starts.len() - 1])];
        let [_, dq, dk, dv] = shape.split(&mut gradients);
        backward(&machine, shape, starts, inputs, d_out, [&mut *dq, &mut *dk, &mut *dv]);
        [out.to_vec(), dq.to_vec(), dk.to_vec(), dv.to_vec()]
    }

    #[test]
    fn sequences_are_on_their_own_whoever_computes_their_heads() {
        let threads = [Threads::new(2).unwrap(), Threads::new(3).unwrap()];
        let executors: [&dyn Executor; 3] = [&Serial, &threads[0], &threads[1]];
        for (heads, kv_heads, causal) in [(3, 3, false), (4, 2, true)] {
            let shape = Shape { heads, kv_heads, head_dim: 8, causal };
            for lengths in [&[21][..], &[5, 1, 17], &[3, 50, 1, 2, 7, 16, 13, 4, 9, 30, 1, 12, 6]] {
                let mut starts = vec![0];
                starts.extend(lengths.iter().scan(0, |end, length| {
                    *end += length;
                    Some(*end)
                }));
                let n = starts[starts.len() - 1];
                let widths = [heads * 8, kv_heads * 8, kv_heads * 8, heads * 8];
                let numbers = |(seed, width): (u64, usize)| -> Vec<f32> {
                    (0..(n * width) as u64)
                        .map(|i| random::uniform(seed, 0, i) * 4.0 - 2.0)
                        .collect()
                };
                let x: Vec<Vec<f32>> = (0..).zip(widths).map(numbers).collect();
                let mut alone: [Vec<f32>; 4] = Default::default();
                for pair in starts.windows(2) {
                    let rows = |i: usize| &x[i][pair[0] * widths[i]..pair[1] * widths[i]];
                    let own = both_ways(
                        &Serial,
                        shape,
                        &[0, pair[1] - pair[0]],
                        [rows(0), rows(1), rows(2), rows(3)],
                    );
                    alone.iter_mut().zip(own).for_each(|(alone, own)| alone.extend(own));
                }
                assert!(alone.iter().flatten().all(|value| value.is_finite()));
                for executor in executors {
                    assert_eq!(
                        both_ways(executor, shape, &starts, [&x[0], &x[1], &x[2], &x[3]]),
                        alone,
                        "{shape:?} {lengths:?}"
                    );
                }
            }
        }
    }
}
