//! The forward pass of a stack of LSTM layers, top to bottom. Allocates nothing; every buffer is
//! named in [`Buffers`].
//!
//! Works on rows: a row is one token of some sequence. A layer's input product serves all rows at
//! once; the recurrent product goes token by token, each time for all sequences that still have
//! one.

use super::{Config, Lstm, Site};
use crate::adapter::Handle;
use crate::nn::{Embedding, Engine, Pass, Scratch, Segment, Size, cell};
use crate::tensor::workspace::{times, workspace};

workspace! {
    /// Every working buffer.
    #[derive(Debug)]
    pub(crate) struct Buffers<'m>(config: &Config, size: &Size) {
        /// What sequences leave behind: h, then c, `[batch, layers, 2, hidden]`.
        states: [f32; times(times(size.batch, config.layers), times(2, config.hidden))] = 0.0,
        /// What a layer reads and then its h, `[rows, dim or hidden]`.
        x: [f32; times(size.rows, config.widest())],
        /// `[rows, 4 · hidden]`.
        gates: [f32; times(size.rows, times(4, config.hidden))],
        /// The recurrent part of the gates of one step, `[batch, 4 · hidden]`.
        recurrent: [f32; times(size.batch, times(4, config.hidden))],
        /// The h that one step reads, `[batch, hidden]`.
        before: [f32; times(size.batch, config.hidden)],
        /// The sequences of one step, `[batch]`.
        steps: [Segment; size.batch] = Segment::default(),
    }
    parts {
        scratch: Scratch(size, 1, config.widest()),
    }
}

/// Feeds all rows; their sequences' states move on, and the last layer's h of every row is left in
/// `buffers.x`, `[rows, hidden]`.
pub(crate) fn feed(
    model: &Lstm<'_>,
    pass: &Pass<'_, '_>,
    tokens: &[u32],
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
        recur(model, pass, index, buffers);
    }
}

/// Layer `index`, from the input part of its gates in `buffers.gates` to its h in `buffers.x`.
fn recur(model: &Lstm<'_>, pass: &Pass<'_, '_>, index: usize, buffers: &mut Buffers<'_>) {
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
                .copy_from_slice(&buffers.states[start(segment.sequence)..][..hidden]);
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
            let (h, c) =
                buffers.states[start(segment.sequence)..][..2 * hidden].split_at_mut(hidden);
            cell(gates, c, h);
            buffers.x[row * hidden..][..hidden].copy_from_slice(h);
        }
    }
}

/// `logits = Head · h + b` of rows of the last pass, `[rows, outputs]`, one segment behind the
/// other. `segments` name rows of the pass, and then rows of the result. Nothing without a head.
pub(crate) fn logits(
    model: &Lstm<'_>,
    engine: &Engine<'_>,
    active: &[Handle<'_>],
    segments: &mut [Segment],
    buffers: &mut Buffers<'_>,
    logits: &mut [f32],
) {
    let hidden = model.config().hidden;
    let Some(head) = model.head() else { return };
    let mut rows = 0;
    for segment in &mut *segments {
        let h = segment.first * hidden..(segment.first + segment.rows) * hidden;
        // Rows of gates are wider than h and free behind a pass.
        buffers.gates[rows * hidden..][..h.len()].copy_from_slice(&buffers.x[h]);
        segment.first = rows;
        rows += segment.rows;
    }
    let pass = engine.pass(segments, active);
    head.forward(&pass, &buffers.gates[..rows * hidden], logits, &mut buffers.scratch);
}
