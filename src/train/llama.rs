//! The Llama family, trained: `model::llama::forward` with its activations kept, and the way back.
//!
//! Of a block are kept: its input, q, k and v as attention sees them, the attended values, the
//! residual stream between the halves, gate and up. Norms and the SwiGLU product are computed again
//! from these. With checkpointing only the input of each block is kept, and the block runs again on
//! the way back.

use super::TrainError;
use super::attention::{self, Shape};
use super::body::{Body, Borders, Network, last_tokens, last_tokens_back};
use super::data::{Batch, IGNORE, Inputs, Targets};
use super::evaluate::{Listener, open_all};
use super::memory::{Books, floats};
use super::ops;
use super::parallel::Machine;
use super::plan::Plan;
use super::pool::Floats;
use super::rebuilt;
use super::step::{Step, Trace};
use super::trainer::sealed::Sealed;
use crate::adapter::{AdapterSet, Base, Slot};
use crate::archive::Buffer;
use crate::error::Result;
use crate::kernel::Precision;
use crate::model::llama::{Layer, Llama, Site};
use crate::nn::{Embedding, Linear, angles, rotate};
use crate::runtime::{Executor, KvFormat, Limits, Memory, Session, need};

/// A Llama-family model in training.
pub(crate) struct LlamaBody<'a> {
    model: Llama<'a>,
    checkpointing: bool,
}

impl<'a> Sealed<'a> for Llama<'a> {
    #[allow(private_interfaces, reason = "sealed")]
    fn network(self, checkpointing: bool) -> Box<dyn Network + Send + Sync + 'a> {
        Box::new(LlamaBody { model: self, checkpointing })
    }
}

/// What the way back needs of one block.
pub(crate) struct Kept {
    /// Its input, `[n, dim]`.
    x: Floats,
    /// The rest, unless it is to be computed again.
    inner: Option<Inner>,
}

struct Inner {
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
    traces: [Trace; 7],
}

/// What the way back needs of a pass.
#[derive(Default)]
pub(crate) struct LlamaTrace {
    blocks: Vec<Kept>,
    /// The residual stream behind the last block.
    last: Floats,
    /// cos and sin, `[n, head_dim]`.
    turns: Floats,
}

/// The family's numbers of its vectors.
fn vector_id(layer: usize, which: Norm) -> u32 {
    (layer * 4 + which as usize) as u32
}

#[derive(Clone, Copy)]
enum Norm {
    Attention = 0,
    FeedForward = 1,
    Q = 2,
    K = 3,
}

impl<'a> LlamaBody<'a> {
    fn embedding(&self) -> Embedding<'a> {
        Embedding {
            table: self.model.embedding(),
            site: Site::Embedding.number(self.model.config().layers),
        }
    }

    fn shape(&self) -> Shape {
        let c = self.model.config();
        Shape { heads: c.heads, kv_heads: c.kv_heads, head_dim: c.head_dim, causal: true }
    }

    fn final_norm_id(&self) -> u32 {
        vector_id(self.model.config().layers, Norm::Attention)
    }

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

    /// cos and sin of every row.
    fn turns(&self, step: &Step<'_>, starts: &[usize]) -> Floats {
        let c = self.model.config();
        let mut frequencies = vec![0.0; c.head_dim / 2];
        c.frequencies(&mut frequencies);
        let rows = starts.last().copied().unwrap_or(0);
        let mut turns = step.machine.unset(rows * c.head_dim);
        let positions = starts.windows(2).flat_map(|pair| 0..pair[1] - pair[0]);
        for (turn, position) in turns.chunks_exact_mut(c.head_dim).zip(positions) {
            angles(position, &frequencies, turn);
        }
        turns
    }

    /// Block `index` of x: its output, and what the way back needs.
    fn block(
        &self,
        step: &Step<'_>,
        index: usize,
        starts: &[usize],
        turns: &[f32],
        x: &[f32],
    ) -> (Floats, Inner) {
        let (mut inner, h) = self.block_but_down(step, index, starts, turns, x);
        let mut out = step.machine.unset(x.len());
        inner.traces[6] = step.linear(&self.model.layer(index).down, &h, &mut out);
        ops::add(&step.machine, &mut out, &inner.middle);
        (out, inner)
    }

    /// Block `index` of x as far as the way back needs it again: all but the last product, whose
    /// input comes second.
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
            let trace = step.linear(linear, x, &mut y);
            (y, trace)
        };

        let normed = ops::rms_norm(
            m,
            x,
            self.norm(step, index, Norm::Attention, layer.attention_norm),
            c.norm_epsilon,
        );
        let (mut q, q_trace) = apply(&layer.q, &normed);
        let (mut k, k_trace) = apply(&layer.k, &normed);
        let (v, v_trace) = apply(&layer.v, &normed);
        let q_bare = self.norm_heads(step, index, Norm::Q, layer.q_norm, &mut q);
        let k_bare = self.norm_heads(step, index, Norm::K, layer.k_norm, &mut k);
        turn(m, &mut q, turns, c.head_dim, 1.0);
        turn(m, &mut k, turns, c.head_dim, 1.0);
        let attended =
            attention::forward(m, self.shape(), starts, attention::Inputs { q: &q, k: &k, v: &v });
        let (mut middle, o_trace) = apply(&layer.o, &attended);
        ops::add(m, &mut middle, x);

        let normed = ops::rms_norm(
            m,
            &middle,
            self.norm(step, index, Norm::FeedForward, layer.feed_forward_norm),
            c.norm_epsilon,
        );
        let (gate, gate_trace) = apply(&layer.gate, &normed);
        let (up, up_trace) = apply(&layer.up, &normed);
        let h = ops::silu_mul(m, &gate, &up);
        let traces = [q_trace, k_trace, v_trace, o_trace, gate_trace, up_trace, Trace::default()];
        (Inner { q_bare, k_bare, q, k, v, attended, middle, gate, up, traces }, h)
    }

    /// The way back of block `index`: d, `[n, dim]`, becomes the gradient of its input; wrong
    /// behind it if `input` is false.
    #[allow(clippy::too_many_arguments, reason = "the block's inputs, and the two gradients")]
    fn block_back(
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
                inner.traces[6] = step.trace(&self.model.layer(index).down, &h);
                again = inner;
                &again
            }
        };
        let (c, layer) = (self.model.config(), self.model.layer(index));
        let m = &step.machine;
        let [q_trace, k_trace, v_trace, o_trace, gate_trace, up_trace, down_trace] = &inner.traces;

        // out = middle + Down h, h = silu(gate) ⊙ up, gate = Gate n, up = Up n, n = norm(middle)
        let weight = self.norm(step, index, Norm::FeedForward, layer.feed_forward_norm);
        let h = ops::silu_mul(m, &inner.gate, &inner.up);
        let mut d_gate = m.zeros(h.len());
        step.linear_back(&layer.down, down_trace, &h, d, Some(&mut d_gate), gradients);
        drop(h);
        let d_up = ops::silu_mul_back(m, &inner.gate, &inner.up, &mut d_gate);
        let normed = ops::rms_norm(m, &inner.middle, weight, c.norm_epsilon);
        let mut d_normed = m.zeros(normed.len());
        step.linear_back(&layer.gate, gate_trace, &normed, &d_gate, Some(&mut d_normed), gradients);
        step.linear_back(&layer.up, up_trace, &normed, &d_up, Some(&mut d_normed), gradients);
        let dw = self.norm_gradient(step, index, Norm::FeedForward, gradients);
        ops::rms_norm_back(m, &inner.middle, weight, c.norm_epsilon, &d_normed, d, dw);

        // middle = x + O attended, attended = attention(q, k, v), each of norm(x)
        let (shape, inputs) =
            (self.shape(), attention::Inputs { q: &inner.q, k: &inner.k, v: &inner.v });
        let mut buffer = m.unset(shape.gradients(d.len() / c.dim));
        let [d_attended, dq, dk, dv] = shape.split(&mut buffer);
        m.clear(d_attended);
        step.linear_back(&layer.o, o_trace, &inner.attended, d, Some(&mut *d_attended), gradients);
        attention::backward(m, shape, starts, inputs, d_attended, [&mut *dq, &mut *dk, &mut *dv]);
        turn(m, dq, turns, c.head_dim, -1.0);
        turn(m, dk, turns, c.head_dim, -1.0);
        self.norm_heads_back(step, index, Norm::Q, layer.q_norm, &inner.q_bare, dq, gradients);
        self.norm_heads_back(step, index, Norm::K, layer.k_norm, &inner.k_bare, dk, gradients);
        let weight = self.norm(step, index, Norm::Attention, layer.attention_norm);
        let normed = ops::rms_norm(m, &kept.x, weight, c.norm_epsilon);
        m.clear(&mut d_normed);
        for (linear, trace, dy) in
            [(&layer.q, q_trace, dq), (&layer.k, k_trace, dk), (&layer.v, v_trace, dv)]
        {
            step.linear_back(linear, trace, &normed, dy, input.then_some(&mut d_normed), gradients);
        }
        if input {
            let dw = self.norm_gradient(step, index, Norm::Attention, gradients);
            ops::rms_norm_back(m, &kept.x, weight, c.norm_epsilon, &d_normed, d, dw);
        }
    }

    /// The books of [`block`](Self::block): its output and what it keeps stay in them; returns the
    /// bytes of the latter.
    fn block_books(&self, books: &mut Books<'_>, index: usize, starts: &[usize]) -> u64 {
        let (c, layer, n) =
            (self.model.config(), self.model.layer(index), starts[starts.len() - 1]);
        let normed = books.take(floats(n * c.dim));
        let mut kept = 0;
        for linear in [&layer.q, &layer.k, &layer.v] {
            kept += books.take(floats(n * linear.weight.rows())) + books.linear(linear, n);
        }
        for (norm, width) in [(layer.q_norm, c.q_dim()), (layer.k_norm, c.kv_dim())] {
            kept += if norm.is_empty() { 0 } else { books.take(floats(n * width)) };
        }
        kept += books.attention(self.shape(), starts);
        kept += books.take(floats(n * c.dim)) + books.linear(&layer.o, n);
        books.take(normed);
        for linear in [&layer.gate, &layer.up] {
            kept += books.take(floats(n * c.hidden)) + books.linear(linear, n);
        }
        let product = books.take(floats(n * c.hidden));
        books.take(floats(n * c.dim));
        kept += books.linear(&layer.down, n);
        books.give(product + 2 * normed);
        kept
    }

    /// The books of [`block_back`](Self::block_back) beside what was kept.
    fn block_back_books(&self, books: &mut Books<'_>, index: usize, starts: &[usize], input: bool) {
        let (c, layer, n) =
            (self.model.config(), self.model.layer(index), starts[starts.len() - 1]);
        let before = books.held();
        let hidden = books.take(floats(n * c.hidden));
        books.take(hidden);
        books.linear_back(&layer.down, n, true);
        books.give(hidden);
        books.take(hidden);
        books.pass(hidden);
        books.take(2 * floats(n * c.dim));
        books.linear_back(&layer.gate, n, true);
        books.linear_back(&layer.up, n, true);

        books.take(floats(self.shape().gradients(n)));
        books.linear_back(&layer.o, n, true);
        books.attention_back(self.shape(), starts);
        if !layer.q_norm.is_empty() {
            books.pass(floats(n * c.q_dim()));
        }
        books.take(floats(n * c.dim));
        for linear in [&layer.q, &layer.k, &layer.v] {
            books.linear_back(linear, n, input);
        }
        books.back_to(before);
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
        d.copy_from_slice(&dx);
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

    /// Is anything in block `index` trained?
    fn trains(&self, plan: &Plan, index: usize) -> bool {
        linears(&self.model.layer(index)).iter().any(|linear| plan.trains(linear.site))
            || [Norm::Attention, Norm::FeedForward, Norm::Q, Norm::K]
                .iter()
                .any(|&which| plan.vectors.contains_key(&vector_id(index, which)))
    }

    /// The lowest block that the way back has to reach.
    fn lowest(&self, plan: &Plan) -> usize {
        let layers = self.model.config().layers;
        if plan.trains(self.embedding().site) {
            0
        } else {
            (0..layers).find(|&index| self.trains(plan, index)).unwrap_or(layers)
        }
    }

    /// Under what limits the core measures.
    fn limits(
        &self,
        longest: usize,
        precision: Precision,
        lanes: usize,
        adapters: usize,
        rank: usize,
    ) -> Limits {
        Limits {
            kv_format: KvFormat::F32,
            precision,
            prefill_chunk: longest.min(64),
            lanes,
            max_active: adapters,
            max_total_rank: rank,
            ..Limits::new(longest)
        }
    }
}

impl Body for LlamaBody<'_> {
    type Trace = LlamaTrace;
    type Pool = ();

    fn base(&self) -> &dyn Base {
        &self.model
    }

    fn head(&self) -> Option<Linear<'_>> {
        Some(Linear {
            weight: self.model.head(),
            bias: &[],
            site: Site::Head.number(self.model.config().layers),
        })
    }

    fn layer_at(&self, site: u32) -> Option<Linear<'_>> {
        self.model.linear(site)
    }

    fn vectors(&self) -> Vec<(u32, &[f32])> {
        rebuilt::vectors(&self.model)
    }

    fn borders(&self) -> Borders {
        let c = self.model.config();
        Borders { tokens: c.vocab, features: 0, context: c.context, classifier_bias: false }
    }

    fn write_base(&self, name: &str, plan: &Plan, values: &[f32]) -> Result<Buffer> {
        rebuilt::write_base(&self.model, name, plan, values, None)
    }

    fn reopen<'b>(&self, archive: &'b [u8]) -> Result<Box<dyn Base + 'b>> {
        Ok(Box::new(Llama::open(archive)?))
    }

    fn measure(
        &self,
        base: Option<&[u8]>,
        adapters: &[(&[u8], f32)],
        longest: usize,
        batches: &mut dyn Iterator<Item = Result<Batch, TrainError>>,
        precision: Precision,
        executor: &dyn Executor,
        listener: &mut dyn Listener,
    ) -> Result<(), TrainError> {
        let model = base.map_or(Ok(self.model), Llama::open)?;
        let adapters = open_all(adapters)?;
        let rank = adapters.iter().map(|(adapter, _)| adapter.max_rank()).sum();
        let limits = self.limits(longest, precision, executor.lanes(), adapters.len(), rank);
        let mut slots = vec![Slot::EMPTY; adapters.len()];
        let mut set = AdapterSet::new(&mut slots, &model);
        let choices = set.attach_all(adapters.iter().copied()).map_err(|refused| refused.error)?;
        let mut memory = Memory::new(need(model.config(), &limits));
        let mut session = Session::new(model, &limits, memory.as_mut(), executor)?;
        session.select(0, &set, &choices)?;
        let mut labels = Vec::new();
        for batch in batches {
            let batch = batch?;
            let Inputs::Tokens(tokens) = &batch.inputs else {
                return Err(TrainError::options("a decoder reads text, this data holds numbers"));
            };
            for (sequence, pair) in batch.starts.windows(2).enumerate() {
                let tokens = &tokens[pair[0]..pair[1]];
                session.reset(0)?;
                match &batch.targets {
                    Targets::Next(next) => session.score(0, tokens, |position, logits| {
                        let next = next[pair[0] + position];
                        if next != IGNORE {
                            listener.next(logits, next);
                        }
                    })?,
                    Targets::Class(classes) => {
                        labels.resize(session.classifier(0)?.len(), 0.0);
                        session.classify(0, tokens, &mut labels)?;
                        listener.class(&labels, classes[sequence])?;
                    }
                }
            }
        }
        Ok(())
    }

    fn forward(
        &self,
        step: &Step<'_>,
        inputs: &Inputs,
        starts: &[usize],
        keep: bool,
    ) -> (Floats, LlamaTrace) {
        let Inputs::Tokens(tokens) = inputs else { return Default::default() };
        let c = self.model.config();
        let turns = self.turns(step, starts);
        let mut x = step.machine.unset(tokens.len() * c.dim);
        step.embed(&self.embedding(), tokens, &mut x);
        let mut blocks = Vec::with_capacity(c.layers);
        for index in 0..c.layers {
            let (out, inner) = self.block(step, index, starts, &turns, &x);
            let x_before = std::mem::replace(&mut x, out);
            if keep {
                blocks.push(Kept { x: x_before, inner: (!self.checkpointing).then_some(inner) });
            }
        }
        let weight = step.vector(self.final_norm_id(), self.model.norm());
        let hidden = ops::rms_norm(&step.machine, &x, weight, c.norm_epsilon);
        (hidden, LlamaTrace { blocks, last: x, turns })
    }

    fn backward(
        &self,
        step: &Step<'_>,
        inputs: &Inputs,
        starts: &[usize],
        trace: LlamaTrace,
        d_hidden: Floats,
        gradients: &mut [f32],
    ) {
        let Inputs::Tokens(tokens) = inputs else { return };
        let c = self.model.config();
        let LlamaTrace { mut blocks, last, turns } = trace;
        let weight = step.vector(self.final_norm_id(), self.model.norm());
        let mut d = step.machine.zeros(last.len());
        let dw = match step.plan.vectors.get(&self.final_norm_id()) {
            Some(range) => &mut gradients[range.clone()],
            None => &mut [][..],
        };
        ops::rms_norm_back(&step.machine, &last, weight, c.norm_epsilon, &d_hidden, &mut d, dw);
        drop((last, d_hidden));
        let embeds = step.plan.trains(self.embedding().site);
        let lowest = self.lowest(step.plan);
        for index in (lowest..c.layers).rev() {
            let Some(kept) = blocks.pop() else { return };
            let full = step.plan.vectors.contains_key(&vector_id(index, Norm::Attention));
            self.block_back(
                step,
                index,
                starts,
                &turns,
                &kept,
                &mut d,
                embeds || full || index > lowest,
                gradients,
            );
        }
        if embeds {
            step.embed_back(&self.embedding(), tokens, &d, gradients);
        }
    }

    fn predict(
        &self,
        books: &mut Books<'_>,
        starts: &[usize],
        loss: &dyn Fn(&mut Books<'_>),
    ) -> Option<()> {
        let (c, n) = (self.model.config(), *starts.last()?);
        let x = floats(n * c.dim);
        books.take(floats(n * c.head_dim) + x);
        books.embed(self.embedding().site, n);
        let mut kept = Vec::with_capacity(c.layers);
        for index in 0..c.layers {
            let inner = self.block_books(books, index, starts);
            kept.push(if self.checkpointing { 0 } else { inner });
            books.give(if self.checkpointing { inner } else { 0 });
        }
        // The hidden states and their gradient; then d, while the latter goes, and the residual
        // stream behind the last block.
        let hidden = books.take(x);
        books.take(x);
        loss(books);
        books.give(hidden);
        books.take(x);
        books.give(2 * x);
        for index in (self.lowest(books.plan)..c.layers).rev() {
            let again = if self.checkpointing {
                let inner = self.block_books(books, index, starts);
                books.give(x);
                inner
            } else {
                0
            };
            self.block_back_books(books, index, starts, true);
            books.give(x + kept[index] + again);
        }
        books.embed(self.embedding().site, n);
        Some(())
    }

    fn measure_bytes(&self, longest: usize, lanes: usize, rank: usize) -> u64 {
        need(self.model.config(), &self.limits(longest, Precision::Exact, lanes, 1, rank)).bytes
            as u64
    }

    fn text_bytes(&self) -> u64 {
        (self.model.tokenizer_json().len() + self.model.chat_template().len()) as u64
    }

    /// The last token's, as [`Session::classify`] takes it.
    fn pool(&self, _: &Step<'_>, hidden: &[f32], starts: &[usize]) -> (Vec<f32>, ()) {
        (last_tokens(hidden, starts, self.model.config().dim), ())
    }

    fn pool_back(
        &self,
        _: &Step<'_>,
        starts: &[usize],
        (): (),
        d_pooled: &[f32],
        d_hidden: &mut [f32],
        _: &mut [f32],
    ) {
        last_tokens_back(d_pooled, starts, self.model.config().dim, d_hidden);
    }
}

fn linears<'a>(layer: &Layer<'a>) -> [Linear<'a>; 7] {
    [layer.q, layer.k, layer.v, layer.o, layer.gate, layer.up, layer.down]
}

/// Rotates every row's heads by its turn, or back with `direction` −1.
fn turn(machine: &Machine<'_>, x: &mut [f32], turns: &[f32], head_dim: usize, direction: f32) {
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
