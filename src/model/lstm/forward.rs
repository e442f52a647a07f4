//! The forward pass of a stack of LSTM layers, top to bottom. Allocates nothing; every buffer is
//! named in [`Buffers`].
//!
//! Works on rows: a row is one token of some sequence. A layer's input product serves all rows at
//! once; the recurrent product goes token by token, each time for all sequences that still have
//! one.

use super::{Lstm, Site};
use crate::nn::{Embedding, Pass, Scratch, Segment, cell};

/// Every working buffer.
#[derive(Debug)]
pub(crate) struct Buffers<'m> {
    /// What a layer reads and then its h, `[rows, dim or hidden]`.
    pub(crate) x: &'m mut [f32],
    /// `[rows, 4 · hidden]`.
    pub(crate) gates: &'m mut [f32],
    /// The recurrent part of the gates of one step, `[batch, 4 · hidden]`.
    pub(crate) recurrent: &'m mut [f32],
    /// The h that one step reads, `[batch, hidden]`.
    pub(crate) before: &'m mut [f32],
    /// The sequences of one step, `[batch]`.
    pub(crate) steps: &'m mut [Segment],
    pub(crate) scratch: Scratch<'m>,
}

/// Feeds all rows; `states`, `[batch, layers, 2, hidden]` (h, then c), moves on, and the last
/// layer's h of every row is left in `buffers.x`, `[rows, hidden]`.
pub(crate) fn feed(
    model: &Lstm<'_>,
    pass: &Pass<'_, '_>,
    tokens: &[u32],
    states: &mut [f32],
    buffers: &mut Buffers<'_>,
) {
    let c = model.config();
    let n = tokens.len();
    let embedding = Embedding { table: model.embedding(), site: Site::Embedding.number(c.layers) };
    embedding.forward(pass, tokens, &mut buffers.x[..n * c.dim]);
    for index in 0..c.layers {
        let layer = model.layer(index);
        let gates = &mut buffers.gates[..n * 4 * c.hidden];
        layer.ih.forward(pass, &buffers.x[..n * c.inputs(index)], gates, &mut buffers.scratch);
        recur(model, pass, index, states, buffers);
    }
}

/// Layer `index`, from the input part of its gates in `buffers.gates` to its h in `buffers.x`.
fn recur(
    model: &Lstm<'_>,
    pass: &Pass<'_, '_>,
    index: usize,
    states: &mut [f32],
    buffers: &mut Buffers<'_>,
) {
    let (hh, layers, hidden) =
        (model.layer(index).hh, model.config().layers, model.config().hidden);
    let longest = pass.segments.iter().map(|segment| segment.rows).max().unwrap_or(0);
    let start = |sequence: usize| (sequence * layers + index) * 2 * hidden;
    let width = 4 * hidden;
    for t in 0..longest {
        let running = || pass.segments.iter().filter(|segment| segment.rows > t);
        let mut count = 0;
        for segment in running() {
            buffers.before[count * hidden..][..hidden]
                .copy_from_slice(&states[start(segment.sequence)..][..hidden]);
            buffers.steps[count] = Segment { first: count, rows: 1, sequence: segment.sequence };
            count += 1;
        }
        let step = Pass { segments: &buffers.steps[..count], ..*pass };
        let recurrent = &mut buffers.recurrent[..count * width];
        hh.forward(&step, &buffers.before[..count * hidden], recurrent, &mut buffers.scratch);
        for (segment, recurrent) in running().zip(recurrent.chunks_exact(width)) {
            let row = segment.first + t;
            let gates = &mut buffers.gates[row * width..][..width];
            pass.kernels.axpy(1.0, recurrent, gates);
            let (h, c) = states[start(segment.sequence)..][..2 * hidden].split_at_mut(hidden);
            cell(gates, c, h);
            buffers.x[row * hidden..][..hidden].copy_from_slice(h);
        }
    }
}

/// `logits = Head · h + b` of `rows` of the last pass, `[rows, outputs]`; the pass's segments are
/// numbered from the first of them. False if there is no head.
pub(crate) fn logits(
    model: &Lstm<'_>,
    pass: &Pass<'_, '_>,
    rows: core::ops::Range<usize>,
    buffers: &mut Buffers<'_>,
    logits: &mut [f32],
) -> bool {
    let hidden = model.config().hidden;
    let Some(head) = model.head() else { return false };
    head.forward(
        pass,
        &buffers.x[rows.start * hidden..rows.end * hidden],
        logits,
        &mut buffers.scratch,
    );
    true
}
