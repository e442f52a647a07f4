//! Attention of one sequence and one key-value head, forward and backward: the formulas of the
//! folder, a strip of queries at a time. Who works on what is decided above.

use std::ops::Range;

use super::{Inputs, Shape};
use crate::train::device::Machine;

/// Queries at a time: twice what the widest kernels have registers for.
pub(super) const STRIP: usize = 12;

/// Queries on the way back whose share of dK and dV is added at once.
pub(super) const BLOCK: usize = 48;

/// Keys at a time: scores are computed in whole registers.
pub(super) const LANES: usize = 16;

/// Some columns of the rows of a sequence, to be written.
pub(super) type Rows<'o> = Vec<&'o mut [f32]>;

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
pub(super) struct Task<'q> {
    pub(super) machine: &'q Machine<'q>,
    pub(super) shape: Shape,
    pub(super) first: usize,
    pub(super) len: usize,
    pub(super) kv_head: usize,
    pub(super) inputs: Inputs<'q>,
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
    pub(super) fn forward(&self, mut out: Rows<'_>) {
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
    pub(super) fn backward(&self, d_out: &[f32], [mut dq, mut dk, mut dv]: [Rows<'_>; 3]) {
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
