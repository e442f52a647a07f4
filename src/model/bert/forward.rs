//! The forward pass of a BERT-family encoder, top to bottom. Allocates nothing; every buffer is
//! named in [`Buffers`].
//!
//! Works on rows: a row is one token. The texts of a batch lie one after the other without padding,
//! each a segment of the pass; attention stays inside a segment, so none needs a mask.

use super::{Bert, Config, Pooling, Site};
use crate::error::{Error, Result};
use crate::nn::inner::SIDE_BY_SIDE;
use crate::nn::packed::{Inputs, Shape, attend_bidirectional};
use crate::nn::{Embedding, Linear, Pass, Scratch, Size, activate, linear};
use crate::tensor::workspace::{times, workspace};

workspace! {
    /// Every working buffer, `[rows, …]` unless told otherwise.
    #[derive(Debug)]
    pub(crate) struct Buffers<'m>(config: &Config, size: &Size) {
        /// The residual stream, `[rows, dim]`.
        x: [f32; times(size.rows, config.dim)],
        /// What a block's last projection adds to it, `[rows, dim]`.
        added: [f32; times(size.rows, config.dim)],
        /// `[rows, dim]`.
        q: [f32; times(size.rows, config.dim)],
        /// `[rows, dim]`.
        k: [f32; times(size.rows, config.dim)],
        /// `[rows, dim]`.
        v: [f32; times(size.rows, config.dim)],
        /// `[rows, dim]`.
        attended: [f32; times(size.rows, config.dim)],
        /// `[rows, hidden]`.
        hidden: [f32; times(size.rows, config.hidden)],
        /// What each worker attends with.
        attention: [f32; times(size.threads, shape(config).forward_room(size.context))],
        /// One text's vector, `[dim]`.
        pooled: [f32; config.dim],
    }
    parts {
        scratch: Scratch(size, SIDE_BY_SIDE, config.widest()),
    }
}

/// The sizes of attention.
const fn shape(config: &Config) -> Shape {
    let heads = config.heads;
    Shape { heads, kv_heads: heads, head_dim: config.head_dim(), causal: false }
}

/// Encodes all rows; their last hidden states are left in `buffers.x`.
pub(crate) fn encode(
    model: &Bert<'_>,
    pass: &Pass<'_, '_>,
    tokens: &[u32],
    types: &[u32],
    buffers: &mut Buffers<'_>,
) {
    let c = model.config();
    let n = tokens.len();
    let [x, added] = [&mut *buffers.x, &mut *buffers.added].map(|buffer| &mut buffer[..n * c.dim]);
    let [q, k, v, attended] =
        [&mut *buffers.q, &mut *buffers.k, &mut *buffers.v, &mut *buffers.attended]
            .map(|buffer| &mut buffer[..n * c.dim]);
    let hidden = &mut buffers.hidden[..n * c.hidden];
    let scratch = &mut buffers.scratch;

    // x = norm(word + position + token type)
    Embedding { table: model.embedding(), site: Site::Embedding.number(c.layers) }
        .forward(pass, tokens, x);
    add_places(model, pass, types, x, &mut added[..c.dim]);
    pass.kernels.layer_norm(&model.embedding_norm(), x);
    for index in 0..c.layers {
        let layer = model.layer(index);

        // x ← norm(x + O · attention(Q x, K x, V x))
        linear::forward(pass, x, &mut [layer.q.to(q), layer.k.to(k), layer.v.to(v)], scratch);
        let inputs = Inputs { q, k, v };
        attend_bidirectional(pass, shape(c), inputs, buffers.attention, attended);
        layer.o.forward_own(pass, attended, added, scratch);
        pass.kernels.axpy(1.0, added, x);
        pass.kernels.layer_norm(&layer.attention_norm, x);

        // x ← norm(x + Down · gelu(Up x))
        layer.up.forward(pass, x, hidden, scratch);
        activate(pass, c.activation, hidden);
        layer.down.forward_own(pass, hidden, added, scratch);
        pass.kernels.axpy(1.0, added, x);
        pass.kernels.layer_norm(&layer.output_norm, x);
    }
}

/// Adds the embeddings of each row's position in its text and of its type; `row` is scratch,
/// `[dim]`.
fn add_places(
    model: &Bert<'_>,
    pass: &Pass<'_, '_>,
    types: &[u32],
    x: &mut [f32],
    row: &mut [f32],
) {
    let (positions, token_types, dim) = (model.positions(), model.token_types(), row.len());
    for segment in pass.segments {
        for position in 0..segment.rows {
            let at = segment.first + position;
            let x = &mut x[at * dim..][..dim];
            positions.read(position, 0, row);
            pass.kernels.axpy(1.0, row, x);
            token_types.read(types[at] as usize, 0, row);
            pass.kernels.axpy(1.0, row, x);
        }
    }
}

/// One vector of the hidden states `[rows, dim]` that lie from row `first` on in `buffers.x`, into
/// `buffers.pooled`, with this pooler if `pooling` asks for one. The pass has one segment of one
/// row: that of the text's sequence.
pub(crate) fn pool(
    model: &Bert<'_>,
    pass: &Pass<'_, '_>,
    (pooling, pooler): (Pooling, Option<Linear<'_>>),
    rows: core::ops::Range<usize>,
    buffers: &mut Buffers<'_>,
) -> Result<()> {
    let Config { architecture, dim, .. } = *model.config();
    let (states, pooled) = (&buffers.x[rows.start * dim..rows.end * dim], &mut *buffers.pooled);
    match pooling {
        Pooling::Cls => pooled.copy_from_slice(&states[..dim]),
        Pooling::Mean => {
            pooled.fill(0.0);
            states.chunks_exact(dim).for_each(|state| pass.kernels.axpy(1.0, state, pooled));
            pooled.iter_mut().for_each(|value| *value /= rows.len() as f32);
        }
        Pooling::Pooler => {
            let pooler = pooler.ok_or(Error::NoPooler)?;
            pooler.forward(pass, &states[..dim], pooled, &mut buffers.scratch);
            architecture.activate_pooled(pooled);
        }
    }
    Ok(())
}
