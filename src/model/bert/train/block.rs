//! One block of the BERT family, from sum to sum, forward and backward.

use super::BertBody;
use crate::nn::Linear;
use crate::train::attention;
use crate::train::device::Floats;
use crate::train::ops;
use crate::train::step::{Saved, Step};

/// What the backward pass needs of one block.
pub(crate) struct Kept {
    /// The sum that the norm before it reads, `[n, dim]`.
    pub(super) sum: Floats,
    /// The rest, unless it is to be computed again.
    pub(super) inner: Option<Inner>,
}

pub(crate) struct Inner {
    q: Floats,
    k: Floats,
    v: Floats,
    attended: Floats,
    /// Before the norm between the halves.
    middle: Floats,
    /// Before the activation, `[n, hidden]`.
    up: Floats,
    /// Of q, k, v, o, up, down.
    saved: [Saved; 6],
}

impl BertBody<'_> {
    /// Block `index`, from sum to sum.
    pub(super) fn block(
        &self,
        step: &Step<'_>,
        index: usize,
        starts: &[usize],
        sum: &[f32],
    ) -> (Floats, Inner) {
        let (c, layer) = (self.model.config(), self.model.layer(index));
        let (m, n) = (&step.machine, sum.len() / c.dim);
        let apply = |linear: &Linear<'_>, x: &[f32]| {
            let mut y = m.unset(n * linear.weight.rows());
            let saved = step.linear(linear, x, &mut y);
            (y, saved)
        };

        let x = ops::layer_norm(m, sum, &self.norm(step, 2 * index));
        let (q, q_saved) = apply(&layer.q, &x);
        let (k, k_saved) = apply(&layer.k, &x);
        let (v, v_saved) = apply(&layer.v, &x);
        let attended =
            attention::forward(m, self.shape(), starts, attention::Inputs { q: &q, k: &k, v: &v });
        let (mut middle, o_saved) = apply(&layer.o, &attended);
        ops::add(m, &mut middle, &x);
        drop(x);

        let x = ops::layer_norm(m, &middle, &self.norm(step, 2 * index + 1));
        let (up, up_saved) = apply(&layer.up, &x);
        let (mut out, down_saved) = apply(&layer.down, &ops::activate(m, c.activation, &up));
        ops::add(m, &mut out, &x);
        (
            out,
            Inner {
                q,
                k,
                v,
                attended,
                middle,
                up,
                saved: [q_saved, k_saved, v_saved, o_saved, up_saved, down_saved],
            },
        )
    }

    /// The backward pass of block `index`: d, `[n, dim]`, becomes the gradient of the sum it reads;
    /// wrong if `input` is false.
    #[allow(clippy::too_many_arguments, reason = "the block's inputs, and the two gradients")]
    pub(super) fn block_back(
        &self,
        step: &Step<'_>,
        index: usize,
        starts: &[usize],
        kept: Kept,
        d: &mut Floats,
        input: bool,
        gradients: &mut [f32],
    ) {
        let Kept { sum, inner } = kept;
        let inner = inner.unwrap_or_else(|| self.block(step, index, starts, &sum).1);
        let Inner {
            q,
            k,
            v,
            attended,
            middle,
            up,
            saved: [q_saved, k_saved, v_saved, o_saved, up_saved, down_saved],
        } = inner;
        let (c, layer, m) = (self.model.config(), self.model.layer(index), &step.machine);

        // out = x + Down h, h = f(up), up = Up x, x = norm(middle)
        let (h, derivative) = ops::activate_with_derivative(m, c.activation, up);
        let mut d_up = m.zeros(h.len());
        step.linear_back(&layer.down, &down_saved, &h, d, Some(&mut d_up), gradients);
        drop(h);
        ops::multiply_by(m, &mut d_up, &derivative);
        drop(derivative);
        let x = ops::layer_norm(m, &middle, &self.norm(step, 2 * index + 1));
        step.linear_back(&layer.up, &up_saved, &x, &d_up, Some(&mut *d), gradients);
        drop((x, d_up));
        self.norm_back(step, 2 * index + 1, &middle, d, gradients);

        // middle = x + O attended, attended = attention(Q x, K x, V x), x = norm(sum)
        let (shape, inputs) = (self.shape(), attention::Inputs { q: &q, k: &k, v: &v });
        let mut buffer = m.unset(shape.gradients(d.len() / c.dim));
        let [d_attended, dq, dk, dv] = shape.split(&mut buffer);
        m.clear(d_attended);
        step.linear_back(&layer.o, &o_saved, &attended, d, Some(&mut *d_attended), gradients);
        attention::backward(m, shape, starts, inputs, d_attended, [&mut *dq, &mut *dk, &mut *dv]);
        let x = ops::layer_norm(m, &sum, &self.norm(step, 2 * index));
        for (linear, saved, dy) in
            [(&layer.q, &q_saved, dq), (&layer.k, &k_saved, dk), (&layer.v, &v_saved, dv)]
        {
            step.linear_back(linear, saved, &x, dy, input.then_some(&mut *d), gradients);
        }
        if input {
            self.norm_back(step, 2 * index, &sum, d, gradients);
        }
    }
}
