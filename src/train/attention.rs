//! Attention within the sequences of a batch, both ways; causal or not.
//!
//! Per sequence and query head, with its key-value head: `P = softmax(q Kᵀ / √d)`, `o = P V`. Back:
//! ```text
//! dV += Pᵀ do    dP = do Vᵀ    dS = P ⊙ (dP − rowsum(P ⊙ dP)) / √d    dq = dS K    dK += dSᵀ q
//! ```
//! P is computed again on the way back: nothing quadratic is kept. A task is one sequence and one key-value head.

use ndarray::{ArrayView2, s};

use super::parallel::Machine;
use super::pool::Floats;
use super::product::{matrix, matrix_mut, multiply};

/// The sizes attention works with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    /// Does a token see only those before it and itself?
    pub(crate) causal: bool,
}

/// Queries `[n, heads · d]`, keys and values `[n, kv_heads · d]`.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'q> {
    pub(crate) q: &'q [f32],
    pub(crate) k: &'q [f32],
    pub(crate) v: &'q [f32],
}

/// One sequence (rows `first .. first + len`) and one key-value head.
#[derive(Clone, Copy)]
struct Task<'q> {
    first: usize,
    len: usize,
    kv_head: usize,
    shape: Shape,
    inputs: Inputs<'q>,
}

impl<'q> Task<'q> {
    /// Columns of `head` in this sequence's rows of `x`, which has `heads` heads: `[len, d]`.
    fn head<'x>(&self, x: &'x [f32], heads: usize, head: usize) -> ArrayView2<'x, f32> {
        let d = self.shape.head_dim;
        let x = matrix(&x[self.first * heads * d..], self.len, heads * d);
        x.slice_move(s![.., head * d..(head + 1) * d])
    }

    fn q(&self, head: usize) -> ArrayView2<'q, f32> {
        self.head(self.inputs.q, self.shape.heads, head)
    }

    fn k(&self) -> ArrayView2<'q, f32> {
        self.head(self.inputs.k, self.shape.kv_heads, self.kv_head)
    }

    fn v(&self) -> ArrayView2<'q, f32> {
        self.head(self.inputs.v, self.shape.kv_heads, self.kv_head)
    }

    /// The query heads that share this key-value head.
    fn heads(&self) -> std::ops::Range<usize> {
        let group = self.shape.heads / self.shape.kv_heads;
        self.kv_head * group..(self.kv_head + 1) * group
    }

    /// 1/√d.
    fn scale(&self) -> f32 {
        1.0 / (self.shape.head_dim as f32).sqrt()
    }

    /// P of one query head into `p`, `[len, len]`.
    fn probabilities(&self, machine: &Machine<'_>, head: usize, p: &mut [f32]) {
        multiply(self.scale(), self.q(head), self.k().reversed_axes(), 0.0, matrix_mut(p, self.len, self.len));
        for (i, row) in p.chunks_exact_mut(self.len).enumerate() {
            let seen = if self.shape.causal { i + 1 } else { self.len };
            machine.kernels.softmax(&mut row[..seen]);
            row[seen..].fill(0.0);
        }
    }
}

/// Every task with the part of `out` it owns: `width` numbers per row.
fn tasks<'o, 'q>(
    shape: Shape,
    starts: &[usize],
    inputs: Inputs<'q>,
    mut out: &'o mut [f32],
    width: usize,
) -> Vec<(Task<'q>, &'o mut [f32])> {
    let mut tasks = Vec::with_capacity((starts.len() - 1) * shape.kv_heads);
    for pair in starts.windows(2) {
        let (first, len) = (pair[0], pair[1] - pair[0]);
        for kv_head in 0..shape.kv_heads {
            let (mine, rest) = std::mem::take(&mut out).split_at_mut(len * width);
            tasks.push((Task { first, len, kv_head, shape, inputs }, mine));
            out = rest;
        }
    }
    tasks
}

/// Copies `[heads, len, d]` of every task into rows of `[n, all · d]`, where a key-value head has `heads` consecutive heads.
fn scatter(shape: Shape, starts: &[usize], part: &[f32], stride: usize, skip: usize, heads: usize, out: &mut [f32]) {
    let (d, row_width) = (shape.head_dim, shape.kv_heads * heads * shape.head_dim);
    let mut at = 0;
    for pair in starts.windows(2) {
        let len = pair[1] - pair[0];
        for kv_head in 0..shape.kv_heads {
            let mine = &part[at + skip * len * d..];
            for h in 0..heads {
                for i in 0..len {
                    let column = (kv_head * heads + h) * d;
                    out[(pair[0] + i) * row_width + column..][..d].copy_from_slice(&mine[(h * len + i) * d..][..d]);
                }
            }
            at += len * stride;
        }
    }
}

/// o, `[n, heads · d]`. Sequence i has rows `starts[i] .. starts[i + 1]`.
pub(crate) fn forward(machine: &Machine<'_>, shape: Shape, starts: &[usize], inputs: Inputs<'_>) -> Floats {
    let (d, group) = (shape.head_dim, shape.heads / shape.kv_heads);
    let mut parts = machine.unset(inputs.q.len());
    machine.each(tasks(shape, starts, inputs, &mut parts, group * d), |(task, out)| {
        let mut p = machine.unset(task.len * task.len);
        for (head, out) in task.heads().zip(out.chunks_exact_mut(task.len * d)) {
            task.probabilities(machine, head, &mut p);
            multiply(1.0, matrix(&p, task.len, task.len), task.v(), 0.0, matrix_mut(out, task.len, d));
        }
    });
    let mut out = machine.unset(inputs.q.len());
    scatter(shape, starts, &parts, group * d, 0, group, &mut out);
    out
}

/// dq, dk, dv of d_out, `[n, heads · d]`.
pub(crate) fn backward(machine: &Machine<'_>, shape: Shape, starts: &[usize], inputs: Inputs<'_>, d_out: &[f32]) -> [Floats; 3] {
    let (d, group) = (shape.head_dim, shape.heads / shape.kv_heads);
    let width = (group + 2) * d;
    let mut parts = machine.zeros(inputs.q.len() + 2 * inputs.k.len());
    machine.each(tasks(shape, starts, inputs, &mut parts, width), |(task, out)| {
        let n = task.len;
        let (mut p, mut ds) = (machine.unset(n * n), machine.unset(n * n));
        let (dq, rest) = out.split_at_mut(group * n * d);
        let (dk, dv) = rest.split_at_mut(n * d);
        for (head, dq) in task.heads().zip(dq.chunks_exact_mut(n * d)) {
            let d_out = task.head(d_out, shape.heads, head);
            task.probabilities(machine, head, &mut p);
            multiply(1.0, matrix(&p, n, n).reversed_axes(), d_out, 1.0, matrix_mut(dv, n, d));
            multiply(1.0, d_out, task.v().reversed_axes(), 0.0, matrix_mut(&mut ds, n, n));
            for (ds, p) in ds.chunks_exact_mut(n).zip(p.chunks_exact(n)) {
                let dot = machine.kernels.dot(ds, p);
                ds.iter_mut().zip(p).for_each(|(ds, p)| *ds = p * (*ds - dot) * task.scale());
            }
            multiply(1.0, matrix(&ds, n, n), task.k(), 0.0, matrix_mut(dq, n, d));
            multiply(1.0, matrix(&ds, n, n).reversed_axes(), task.q(head), 1.0, matrix_mut(dk, n, d));
        }
    });
    let mut gradients = [inputs.q, inputs.k, inputs.k].map(|like| machine.unset(like.len()));
    let [dq, dk, dv] = &mut gradients;
    scatter(shape, starts, &parts, width, 0, group, dq);
    scatter(shape, starts, &parts, width, group, 1, dk);
    scatter(shape, starts, &parts, width, group + 1, 1, dv);
    gradients
}
