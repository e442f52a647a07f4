//! One block of the Llama family, forward and backward.

use super::{LlamaBody, Norm, vector_id};
use crate::nn::{Linear, rotate};
use crate::train::attention;
use crate::train::device::{Floats, Machine};
use crate::train::ops;
use crate::train::step::{Saved, Step};

/// What the backward pass needs of one block.
pub(crate) struct Kept {
    /// Its input, `[n, dim]`.
    pub(super) x: Floats,
    /// The rest, unless it is to be computed again.
    pub(super) inner: Option<Inner>,
}

pub(crate) struct Inner {
    /// Before the norms of heads (Qwen3); else empty.
    q_bare: Floats,
    k_bare: Floats,
    q: Floats,
    k: Floats,
    v: Floats,
    attended: Floats,
    middle: Floats,
    gate: Floats,
    up: Floats,
    /// Of q, k, v, o, gate, up, down.
    saved: [Saved; 7],
}

impl LlamaBody<'_> {
    /// A norm of block `index` by its number, and its weight.
    fn norm<'s>(
        &self,
        step: &Step<'s>,
        index: usize,
        which: Norm,
        archived: &'s [f32],
    ) -> &'s [f32] {
        step.vector(vector_id(index, which), archived)
    }

    /// Block `index` of x: its output, and what the backward pass needs.
    pub(super) fn block(
        &self,
        step: &Step<'_>,
        index: usize,
        starts: &[usize],
        turns: &[f32],
        x: &[f32],
    ) -> (Floats, Inner) {
        let (mut inner, h) = self.block_but_down(step, index, starts, turns, x);
        let mut out = step.machine.unset(x.len());
        inner.saved[6] = step.linear(&self.model.layer(index).down, &h, &mut out);
        ops::add(&step.machine, &mut out, &inner.middle);
        (out, inner)
    }

    /// Block `index` of x as far as the backward pass needs it again: all but the last product,
    /// whose input comes second.
    fn block_but_down(
        &self,
        step: &Step<'_>,
        index: usize,
        starts: &[usize],
        turns: &[f32],
        x: &[f32],
    ) -> (Inner, Floats) {
        let (c, layer) = (self.model.config(), self.model.layer(index));
        let (m, n) = (&step.machine, x.len() / c.dim);
        let apply = |linear: &Linear<'_>, x: &[f32]| {
            let mut y = m.unset(n * linear.weight.rows());
            let saved = step.linear(linear, x, &mut y);
            (y, saved)
        };

        let normed = ops::rms_norm(
            m,
            x,
            self.norm(step, index, Norm::Attention, layer.attention_norm),
            c.norm_epsilon,
        );
        let (mut q, q_saved) = apply(&layer.q, &normed);
        let (mut k, k_saved) = apply(&layer.k, &normed);
        let (v, v_saved) = apply(&layer.v, &normed);
        let q_bare = self.norm_heads(step, index, Norm::Q, layer.q_norm, &mut q);
        let k_bare = self.norm_heads(step, index, Norm::K, layer.k_norm, &mut k);
        turn(m, &mut q, turns, c.head_dim, 1.0);
        turn(m, &mut k, turns, c.head_dim, 1.0);
        let attended =
            attention::forward(m, self.shape(), starts, attention::Inputs { q: &q, k: &k, v: &v });
        let (mut middle, o_saved) = apply(&layer.o, &attended);
        ops::add(m, &mut middle, x);

        let normed = ops::rms_norm(
            m,
            &middle,
            self.norm(step, index, Norm::FeedForward, layer.feed_forward_norm),
            c.norm_epsilon,
        );
        let (gate, gate_saved) = apply(&layer.gate, &normed);
        let (up, up_saved) = apply(&layer.up, &normed);
        let h = ops::silu_mul(m, &gate, &up);
        let saved = [q_saved, k_saved, v_saved, o_saved, gate_saved, up_saved, Saved::new()];
        (Inner { q_bare, k_bare, q, k, v, attended, middle, gate, up, saved }, h)
    }

    /// The backward pass of block `index`: d, `[n, dim]`, becomes the gradient of its input; wrong
    /// behind it if `input` is false.
    #[allow(clippy::too_many_arguments, reason = "the block's inputs, and the two gradients")]
    pub(super) fn block_back(
        &self,
        step: &Step<'_>,
        index: usize,
        starts: &[usize],
        turns: &[f32],
        kept: &Kept,
        d: &mut [f32],
        input: bool,
        gradients: &mut [f32],
    ) {
        let again;
        let inner = match &kept.inner {
            Some(inner) => inner,
            None => {
                let (mut inner, h) = self.block_but_down(step, index, starts, turns, &kept.x);
                inner.saved[6] = step.save(&self.model.layer(index).down, &h);
                again = inner;
                &again
            }
        };
        self.feed_forward_back(step, index, inner, d, gradients);
        self.attention_back(step, index, starts, turns, (&kept.x, inner), d, input, gradients);
    }

    /// The second half: out = middle + Down h, h = silu(gate) ⊙ up, gate = Gate n, up = Up n, n =
    /// norm(middle). d becomes the gradient of middle.
    fn feed_forward_back(
        &self,
        step: &Step<'_>,
        index: usize,
        inner: &Inner,
        d: &mut [f32],
        gradients: &mut [f32],
    ) {
        let (c, layer, m) = (self.model.config(), self.model.layer(index), &step.machine);
        let [.., gate_saved, up_saved, down_saved] = &inner.saved;
        let weight = self.norm(step, index, Norm::FeedForward, layer.feed_forward_norm);
        let h = ops::silu_mul(m, &inner.gate, &inner.up);
        let mut d_gate = m.zeros(h.len());
        step.linear_back(&layer.down, down_saved, &h, d, Some(&mut d_gate), gradients);
        drop(h);
        let d_up = ops::silu_mul_back(m, &inner.gate, &inner.up, &mut d_gate);
        let normed = ops::rms_norm(m, &inner.middle, weight, c.norm_epsilon);
        let mut d_normed = m.zeros(normed.len());
        step.linear_back(&layer.gate, gate_saved, &normed, &d_gate, Some(&mut d_normed), gradients);
        step.linear_back(&layer.up, up_saved, &normed, &d_up, Some(&mut d_normed), gradients);
        let dw = self.norm_gradient(step, index, Norm::FeedForward, gradients);
        ops::rms_norm_back(m, &inner.middle, weight, c.norm_epsilon, &d_normed, d, dw);
    }

    /// The first half: middle = x + O attended, attended = attention(q, k, v), each of norm(x). d
    /// becomes the gradient of x.
    #[allow(clippy::too_many_arguments, reason = "the half's inputs, and the two gradients")]
    fn attention_back(
        &self,
        step: &Step<'_>,
        index: usize,
        starts: &[usize],
        turns: &[f32],
        (x, inner): (&[f32], &Inner),
        d: &mut [f32],
        input: bool,
        gradients: &mut [f32],
    ) {
        let (c, layer, m) = (self.model.config(), self.model.layer(index), &step.machine);
        let [q_saved, k_saved, v_saved, o_saved, ..] = &inner.saved;
        let (shape, inputs) =
            (self.shape(), attention::Inputs { q: &inner.q, k: &inner.k, v: &inner.v });
        let mut buffer = m.unset(shape.gradients(d.len() / c.dim));
        let [d_attended, dq, dk, dv] = shape.split(&mut buffer);
        m.clear(d_attended);
        step.linear_back(&layer.o, o_saved, &inner.attended, d, Some(&mut *d_attended), gradients);
        attention::backward(m, shape, starts, inputs, d_attended, [&mut *dq, &mut *dk, &mut *dv]);
        turn(m, dq, turns, c.head_dim, -1.0);
        turn(m, dk, turns, c.head_dim, -1.0);
        self.norm_heads_back(step, index, Norm::Q, layer.q_norm, &inner.q_bare, dq, gradients);
        self.norm_heads_back(step, index, Norm::K, layer.k_norm, &inner.k_bare, dk, gradients);
        let weight = self.norm(step, index, Norm::Attention, layer.attention_norm);
        let normed = ops::rms_norm(m, x, weight, c.norm_epsilon);
        let mut d_normed = m.zeros(normed.len());
        for (linear, saved, dy) in
            [(&layer.q, q_saved, dq), (&layer.k, k_saved, dk), (&layer.v, v_saved, dv)]
        {
            step.linear_back(linear, saved, &normed, dy, input.then_some(&mut d_normed), gradients);
        }
        if input {
            let dw = self.norm_gradient(step, index, Norm::Attention, gradients);
            ops::rms_norm_back(m, x, weight, c.norm_epsilon, &d_normed, d, dw);
        }
    }

    /// Qwen3's norm of every head, in place; returns what was there before, or nothing.
    fn norm_heads(
        &self,
        step: &Step<'_>,
        index: usize,
        which: Norm,
        archived: &[f32],
        heads: &mut Floats,
    ) -> Floats {
        if archived.is_empty() {
            return Floats::default();
        }
        let weight = step.vector(vector_id(index, which), archived);
        let normed = ops::rms_norm(&step.machine, heads, weight, self.model.config().norm_epsilon);
        std::mem::replace(heads, normed)
    }

    #[allow(clippy::too_many_arguments, reason = "the norm's inputs, and the two gradients")]
    fn norm_heads_back(
        &self,
        step: &Step<'_>,
        index: usize,
        which: Norm,
        archived: &[f32],
        bare: &[f32],
        d: &mut [f32],
        gradients: &mut [f32],
    ) {
        if archived.is_empty() {
            return;
        }
        let weight = step.vector(vector_id(index, which), archived);
        let mut dx = step.machine.zeros(d.len());
        let dw = self.norm_gradient(step, index, which, gradients);
        ops::rms_norm_back(
            &step.machine,
            bare,
            weight,
            self.model.config().norm_epsilon,
            d,
            &mut dx,
            dw,
        );
        step.machine.assign(d, &dx);
    }

    /// Where the gradient of a norm's weight goes; empty if it is frozen.
    fn norm_gradient<'g>(
        &self,
        step: &Step<'_>,
        index: usize,
        which: Norm,
        gradients: &'g mut [f32],
    ) -> &'g mut [f32] {
        match step.plan.vectors.get(&vector_id(index, which)) {
            Some(range) => &mut gradients[range.clone()],
            None => &mut [],
        }
    }
}

/// Rotates every row's heads by its turn, or back with `direction` −1.
pub(super) fn turn(
    machine: &Machine<'_>,
    x: &mut [f32],
    turns: &[f32],
    head_dim: usize,
    direction: f32,
) {
    let rows = turns.len() / head_dim;
    let (width, share) = ((x.len() / rows.max(1)).max(1), machine.share(rows));
    machine.each(x.chunks_mut(share * width).zip(turns.chunks(share * head_dim)), |(x, turns)| {
        let mut own = vec![0.0; head_dim];
        for (x, turn) in x.chunks_exact_mut(width).zip(turns.chunks_exact(head_dim)) {
            own.copy_from_slice(turn);
            own[head_dim / 2..].iter_mut().for_each(|sin| *sin *= direction);
            rotate(x, &own);
        }
    });
}
