//! One LSTM layer, forward and backward through time: formulas in the folder's first lines.

use super::LstmBody;
use crate::model::lstm::Layer;
use crate::nn::cell;
use crate::train::device::{Floats, Machine};
use crate::train::ops;
use crate::train::step::{Saved, Step};

/// What the backward pass needs of one layer.
pub(crate) struct Kept {
    /// What it reads, `[n, in]`.
    pub(super) x: Floats,
    /// The rest, unless it is to be computed again.
    pub(super) inner: Option<Inner>,
}

pub(crate) struct Inner {
    /// The values of i, f, g, o, `[n, 4 · hidden]`.
    gates: Floats,
    /// `[n, hidden]`.
    c: Floats,
    /// `[n, hidden]`.
    pub(super) h: Floats,
    ih: Saved,
    /// Of every token.
    hh: Vec<Saved>,
}

impl Inner {
    /// The cell of token `t` of a sequence, which is `row` of the batch.
    fn cell(&self, row: usize, t: usize, hidden: usize) -> Back<'_> {
        let c = |row: usize| &self.c[row * hidden..][..hidden];
        Back {
            gates: &self.gates[row * 4 * hidden..][..4 * hidden],
            c: c(row),
            c_before: if t > 0 { c(row - 1) } else { &[] },
        }
    }
}

impl LstmBody<'_> {
    /// One layer: its h, `[n, hidden]`, is in what is returned.
    pub(super) fn layer(
        &self,
        step: &Step<'_>,
        layer: &Layer<'_>,
        starts: &[usize],
        x: &[f32],
    ) -> Inner {
        let (m, hidden) = (&step.machine, self.model.config().hidden);
        let n = starts.last().copied().unwrap_or(0);
        let mut gates = m.alone(n * 4 * hidden);
        let ih = step.linear(&layer.ih, x, &mut gates);
        let (mut c, mut h) = (m.alone(n * hidden), m.alone(n * hidden));
        let mut hh = Vec::new();
        for t in 0..longest(starts) {
            let rows = rows_at(starts, t);
            let before = before(m, &h, &rows, t, hidden);
            let mut recurrent = m.alone(rows.len() * 4 * hidden);
            hh.push(step.linear(&layer.hh, &before, &mut recurrent));
            m.compute(|| {
                for (&row, recurrent) in rows.iter().zip(recurrent.chunks_exact(4 * hidden)) {
                    let gates = &mut gates[row * 4 * hidden..][..4 * hidden];
                    m.kernels.axpy(1.0, recurrent, gates);
                    if t > 0 {
                        c.copy_within((row - 1) * hidden..row * hidden, row * hidden);
                    }
                    cell(gates, &mut c[row * hidden..][..hidden], &mut h[row * hidden..][..hidden]);
                }
            });
        }
        Inner { gates, c, h, ih, hh }
    }

    /// The backward pass of one layer: from the gradient of its h to that of what it reads; empty
    /// if
    /// `input` is false.
    #[allow(clippy::too_many_arguments, reason = "the layer's inputs, and the two gradients")]
    pub(super) fn layer_back(
        &self,
        step: &Step<'_>,
        layer: &Layer<'_>,
        starts: &[usize],
        x: &[f32],
        inner: &Inner,
        d_h: &[f32],
        input: bool,
        gradients: &mut [f32],
    ) -> Floats {
        let (m, hidden) = (&step.machine, self.model.config().hidden);
        let width = 4 * hidden;
        let mut d_gates = m.alone(inner.gates.len());
        // What the next token sends back to each sequence's h and c.
        let sequences = starts.len() - 1;
        let (mut from_h, mut from_c) = (m.alone(sequences * hidden), m.alone(sequences * hidden));
        for t in (0..inner.hh.len()).rev() {
            let rows = rows_at(starts, t);
            let running: Vec<usize> =
                (0..sequences).filter(|&i| starts[i + 1] - starts[i] > t).collect();
            m.compute(|| {
                for (&row, &sequence) in rows.iter().zip(&running) {
                    let (at, state) = (row * hidden, sequence * hidden..(sequence + 1) * hidden);
                    let d_gates = &mut d_gates[row * width..][..width];
                    let back = inner.cell(row, t, hidden);
                    let d_h = &d_h[at..at + hidden];
                    back.cell(d_h, &from_h[state.clone()], &mut from_c[state], d_gates);
                }
            });
            let step_gates = ops::gather(m, &d_gates, width, rows.iter().copied());
            let before = before(m, &inner.h, &rows, t, hidden);
            let mut d_before = m.alone(before.len());
            step.linear_back(
                &layer.hh,
                &inner.hh[t],
                &before,
                &step_gates,
                (t > 0).then_some(&mut d_before[..]),
                gradients,
            );
            ops::scatter(m, &d_before, hidden, running.iter().copied(), &mut from_h);
        }
        let mut dx = if input { m.alone(x.len()) } else { Floats::default() };
        step.linear_back(
            &layer.ih,
            &inner.ih,
            x,
            &d_gates,
            input.then_some(&mut dx[..]),
            gradients,
        );
        dx
    }
}

/// One cell in the backward pass.
struct Back<'b> {
    gates: &'b [f32],
    c: &'b [f32],
    /// Empty at the first token, where it is zero.
    c_before: &'b [f32],
}

impl Back<'_> {
    /// `d_h` is the gradient from above, `from_h` that from the next token; `d_c` is that of the
    /// next token's c' and becomes that of this one's. `d_gates` gets the gradient of what the
    /// gates' functions read.
    fn cell(&self, d_h: &[f32], from_h: &[f32], d_c: &mut [f32], d_gates: &mut [f32]) {
        let hidden = d_h.len();
        for j in 0..hidden {
            let [i, f, g, o] = [0, 1, 2, 3].map(|gate| self.gates[gate * hidden + j]);
            let (dh, tanh) = (d_h[j] + from_h[j], self.c[j].tanh());
            let before = self.c_before.get(j).copied().unwrap_or(0.0);
            let dc = d_c[j] + dh * o * (1.0 - tanh * tanh);
            d_gates[j] = dc * g * i * (1.0 - i);
            d_gates[hidden + j] = dc * before * f * (1.0 - f);
            d_gates[2 * hidden + j] = dc * i * (1.0 - g * g);
            d_gates[3 * hidden + j] = dh * tanh * o * (1.0 - o);
            d_c[j] = dc * f;
        }
    }
}

fn longest(starts: &[usize]) -> usize {
    starts.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0)
}

/// The row of token `t` of every sequence that has one.
fn rows_at(starts: &[usize], t: usize) -> Vec<usize> {
    starts.windows(2).filter(|pair| pair[1] - pair[0] > t).map(|pair| pair[0] + t).collect()
}

/// The h that these rows' recurrent products read, `[rows, hidden]`: the row before, or zero at the
/// first token.
fn before(m: &Machine<'_>, h: &[f32], rows: &[usize], t: usize, hidden: usize) -> Floats {
    match t {
        0 => m.alone(rows.len() * hidden),
        _ => ops::gather(m, h, hidden, rows.iter().map(|row| row - 1)),
    }
}
