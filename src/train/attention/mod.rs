//! Attention within the sequences of a batch, forward ([`nn::packed`](crate::nn::packed)) and
//! backward; causal or not.
//!
//! Per sequence and query head, with its key-value head: `P = softmax(q Kᵀ / √d)`, `o = P V`. Back:
//! ```text
//! dV += Pᵀ do    dP = do Vᵀ    dS = P ⊙ (dP − rowsum(P ⊙ dP)) / √d    dq = dS K    dK += dSᵀ q
//! ```
//! P is computed again in the backward pass: nothing quadratic is kept. A task is one sequence and one
//! key-value head. It takes some queries at a time, with as many keys as the last of them sees, so
//! that of a causal square little more than half is computed. Where there are sequences enough, a
//! thread does all heads of one: then it reads and writes the rows that are its own elsewhere too.
//! Every product is weighted sums of rows ([`Kernels::mix`](crate::kernel::Kernels::mix)): K and V
//! are transposed for those that sum over d, blocks of P and dS for those that sum over queries.

mod task;

pub(crate) use crate::nn::packed::{Inputs, Shape};
use crate::nn::packed::{LANES, Task};
use crate::train::device::{Floats, Machine};
use task::{BLOCK, Rows};

/// Sequences for each thread from which on their heads are not shared out.
const MANY: usize = 4;

impl Shape {
    /// Numbers that a task of [`backward`] computes with, for a sequence of `len` tokens.
    fn backward_room(&self, len: usize) -> usize {
        (2 * self.head_dim + 3 * BLOCK.min(len)) * len.next_multiple_of(LANES)
    }

    /// Key-value heads of a sequence that one thread computes, of so many sequences.
    fn heads_together(&self, sequences: usize, threads: usize) -> usize {
        if sequences >= MANY * threads { self.kv_heads } else { 1 }
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

/// Every task, and what it owns of each of `outputs`: pairs of rows for all and how many numbers of
/// a row belong to one key-value head.
fn each<const N: usize>(
    machine: &Machine<'_>,
    shape: Shape,
    starts: &[usize],
    inputs: Inputs<'_>,
    outputs: [(&mut [f32], usize); N],
    room: impl Fn(&Shape, usize) -> usize,
    work: impl Fn(Task<'_>, [Rows<'_>; N]) + Sync,
) {
    let together = shape.heads_together(starts.len() - 1, machine.threads());
    let groups = shape.kv_heads / together;
    if machine.is_meta() {
        // Where the tasks' rows are, and the room of the largest that are worked on together.
        let rows = N * starts[starts.len() - 1] * groups * size_of::<&mut [f32]>();
        let mut rooms: Vec<usize> =
            starts.windows(2).map(|pair| 4 * room(&shape, pair[1] - pair[0])).collect();
        rooms.sort_unstable_by(|a, b| b.cmp(a));
        let tasks = rooms.iter().flat_map(|&room| std::iter::repeat_n(room, groups));
        return machine.temporary(rows + tasks.take(machine.threads()).sum::<usize>());
    }
    let mut items = Vec::with_capacity((starts.len() - 1) * groups);
    for pair in starts.windows(2) {
        for group in 0..groups {
            let (first, len) = (pair[0], pair[1] - pair[0]);
            let kv_head = group * together;
            let task = Task { kernels: machine.kernels, shape, first, len, kv_head, inputs };
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
    let outputs = [(&mut out[..], width)];
    let work = |task: Task<'_>, [out]: [Rows<'_>; 1]| task.forward(machine, out);
    each(machine, shape, starts, inputs, outputs, Shape::forward_room, work);
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
    let outputs = [(dq, width), (dk, d), (dv, d)];
    let work = |task: Task<'_>, rows: [Rows<'_>; 3]| task.backward(machine, d_out, rows);
    each(machine, shape, starts, inputs, outputs, Shape::backward_room, work);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::random;
    use crate::runtime::{Executor, Serial, Threads};
    use crate::train::device::Pool;

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
