//! The backward pass of attention over one sequence and one key-value head, and its forward pass
//! ([`nn::packed`](crate::nn::packed)) into rows: the formulas of the folder, a strip of queries at
//! a time. Who works on what is decided above.

use crate::nn::packed::{Head, STRIP, Task, parts, transpose};
use crate::train::device::Machine;

/// Queries of the backward pass whose share of dK and dV is added at once.
pub(super) const BLOCK: usize = 48;

/// Some columns of the rows of a sequence, to be written.
pub(super) type Rows<'o> = Vec<&'o mut [f32]>;

impl Head<'_> {
    /// From row `first` on.
    fn from(self, first: usize) -> Self {
        Self { values: &self.values[first * self.stride..], ..self }
    }
}

impl Task<'_> {
    /// The query heads that share this key-value head, each with its place among them.
    fn heads(&self) -> impl Iterator<Item = (usize, usize)> {
        let group = self.shape.heads / self.shape.kv_heads;
        (self.kv_head * group..).take(group).enumerate()
    }

    /// o of the query heads, in rows of `[group · d]`.
    pub(super) fn forward(&self, machine: &Machine<'_>, mut out: Rows<'_>) {
        let mut work = machine.unset(self.shape.forward_room(self.len));
        let (keys, p) = self.begin(&mut work);
        for (place, head) in self.heads() {
            for rows in parts(0..self.len, STRIP) {
                let column = place * self.shape.head_dim;
                self.strip(head, &rows, (keys, &mut *p), &mut out[rows.clone()], column);
            }
        }
    }

    /// dq of the query heads in rows of `[group · d]`, dk and dv in rows of `[d]`.
    pub(super) fn backward(
        &self,
        machine: &Machine<'_>,
        d_out: &[f32],
        [mut dq, mut dk, mut dv]: [Rows<'_>; 3],
    ) {
        let (d, room, height, scale) =
            (self.shape.head_dim, self.room(), BLOCK.min(self.len).max(1), self.scale());
        let mut work = machine.unset(self.shape.backward_room(self.len));
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
                        let dot = self.kernels.dot(&ds[..own], &p[..own]);
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
