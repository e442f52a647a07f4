//! The BERT family, trained: `model::bert::forward` with its activations kept, and the way back.
//!
//! The norms stand behind the residuals, so a block is seen from sum to sum: `x = norm(s)`, `m =
//! norm(x + O attention(x))`, `s' = m + Down f(Up m)`. Norm 0 is the embeddings', norms 2i + 1 and
//! 2i + 2 are block i's; block i reads norm 2i.
//!
//! Of a block are kept: s, q, k and v, the attended values, the sum between the halves and what the
//! activation reads. Norms and activations are computed again from these. With checkpointing only s
//! is kept, and the block runs again on the way back.

use std::ops::Range;

use super::TrainError;
use super::attention::{self, Shape};
use super::body::{Body, Borders, Network};
use super::data::{Batch, Inputs, Targets};
use super::evaluate::{Listener, open_all};
use super::memory::{Books, floats};
use super::ops;
use super::plan::Plan;
use super::pool::Floats;
use super::rebuilt;
use super::step::{Step, Trace};
use super::trainer::sealed::Sealed;
use crate::adapter::{AdapterSet, Base, Slot};
use crate::archive::Buffer;
use crate::error::Result;
use crate::kernel::Precision;
use crate::model::bert::{Bert, Layer, Pooling, Site};
use crate::nn::{Embedding, LayerNorm, Linear};
use crate::quant::Matrix;
use crate::runtime::{Encoder, EncoderLimits, Executor, Memory, encoder_need};

/// A BERT-family encoder in training.
pub(crate) struct BertBody<'a> {
    model: Bert<'a>,
    checkpointing: bool,
}

impl<'a> Sealed<'a> for Bert<'a> {
    #[allow(private_interfaces, reason = "sealed")]
    fn network(self, checkpointing: bool) -> Box<dyn Network + Send + Sync + 'a> {
        Box::new(BertBody { model: self, checkpointing })
    }
}

/// What the way back needs of one block.
pub(crate) struct Kept {
    /// The sum that the norm before it reads, `[n, dim]`.
    sum: Floats,
    /// The rest, unless it is to be computed again.
    inner: Option<Inner>,
}

struct Inner {
    q: Floats,
    k: Floats,
    v: Floats,
    attended: Floats,
    /// Before the norm between the halves.
    middle: Floats,
    /// Before the activation, `[n, hidden]`.
    up: Floats,
    /// Of q, k, v, o, up, down.
    traces: [Trace; 6],
}

/// What the way back needs of a pass.
#[derive(Default)]
pub(crate) struct BertTrace {
    blocks: Vec<Kept>,
    /// The sum behind the last block.
    last: Floats,
}

/// What the way back needs of pooling.
pub(crate) enum Pool {
    /// The first token's state.
    First,
    Mean,
    /// BERT's pooler: the first tokens' states, what came out of tanh, and the layer's own.
    Pooler {
        first: Vec<f32>,
        out: Vec<f32>,
        trace: Trace,
    },
}

/// The numbers of a norm's weight and bias among the family's vectors.
fn norm_ids(norm: usize) -> [u32; 2] {
    [2 * norm as u32, 2 * norm as u32 + 1]
}

impl<'a> BertBody<'a> {
    fn embedding(&self) -> Embedding<'a> {
        Embedding {
            table: self.model.embedding(),
            site: Site::Embedding.number(self.model.config().layers),
        }
    }

    fn shape(&self) -> Shape {
        let c = self.model.config();
        Shape { heads: c.heads, kv_heads: c.heads, head_dim: c.head_dim(), causal: false }
    }

    /// The number of the last block's second norm.
    fn last_norm(&self) -> usize {
        2 * self.model.config().layers
    }

    /// Norm `number` as the archive has it.
    fn archived_norm(&self, number: usize) -> LayerNorm<'a> {
        match number {
            0 => self.model.embedding_norm(),
            odd if !odd.is_multiple_of(2) => self.model.layer(odd / 2).attention_norm,
            even => self.model.layer(even / 2 - 1).output_norm,
        }
    }

    /// Norm `number` as it is now.
    fn norm<'s>(&self, step: &Step<'s>, number: usize) -> LayerNorm<'s>
    where
        'a: 's,
    {
        let ([weight, bias], archived) = (norm_ids(number), self.archived_norm(number));
        LayerNorm {
            weight: step.vector(weight, archived.weight),
            bias: step.vector(bias, archived.bias),
            ..archived
        }
    }

    /// The way back of norm `number`, in place.
    fn norm_back(
        &self,
        step: &Step<'_>,
        number: usize,
        sum: &[f32],
        d: &mut [f32],
        gradients: &mut [f32],
    ) {
        let ranges = norm_ids(number).map(|id| step.plan.vectors.get(&id).cloned());
        let [dw, db] = match ranges {
            [Some(weight), Some(bias)] => {
                gradients.get_disjoint_mut([weight, bias]).unwrap_or_default()
            }
            _ => Default::default(),
        };
        ops::layer_norm_back(&step.machine, sum, &self.norm(step, number), d, dw, db);
    }

    /// The tables of positions and token types by their numbers. They are trained (by `full`) where
    /// they are f32.
    fn tables(&self) -> [(u32, Matrix<'a>); 2] {
        let next = norm_ids(self.last_norm() + 1);
        [(next[0], self.model.positions()), (next[1], self.model.token_types())]
    }

    /// Adds the embeddings of every row's position and of token type 0.
    fn add_places(&self, step: &Step<'_>, starts: &[usize], x: &mut [f32]) {
        let dim = self.model.config().dim;
        let [positions, types] =
            self.tables().map(|(id, table)| match step.plan.vectors.get(&id) {
                Some(range) => table.with_floats(&step.values[range.clone()]),
                None => table,
            });
        let (mut position, mut kind) = (vec![0.0; dim], vec![0.0; dim]);
        types.read(0, 0, &mut kind);
        for (at, x) in places(starts).zip(x.chunks_exact_mut(dim)) {
            positions.read(at, 0, &mut position);
            step.machine.kernels.axpy(1.0, &position, x);
            step.machine.kernels.axpy(1.0, &kind, x);
        }
    }

    /// The way back of [`add_places`](Self::add_places).
    fn add_places_back(&self, step: &Step<'_>, starts: &[usize], d: &[f32], gradients: &mut [f32]) {
        let dim = self.model.config().dim;
        let [positions, types] = self.tables().map(|(id, _)| step.plan.vectors.get(&id).cloned());
        if let Some(range) = positions {
            let gradient = &mut gradients[range];
            for (at, d) in places(starts).zip(d.chunks_exact(dim)) {
                step.machine.kernels.axpy(1.0, d, &mut gradient[at * dim..][..dim]);
            }
        }
        if let Some(range) = types {
            let gradient = &mut gradients[range.start..range.start + dim];
            d.chunks_exact(dim).for_each(|d| step.machine.kernels.axpy(1.0, d, gradient));
        }
    }

    /// Block `index`, from sum to sum.
    fn block(
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
            let trace = step.linear(linear, x, &mut y);
            (y, trace)
        };

        let x = ops::layer_norm(m, sum, &self.norm(step, 2 * index));
        let (q, q_trace) = apply(&layer.q, &x);
        let (k, k_trace) = apply(&layer.k, &x);
        let (v, v_trace) = apply(&layer.v, &x);
        let attended =
            attention::forward(m, self.shape(), starts, attention::Inputs { q: &q, k: &k, v: &v });
        let (mut middle, o_trace) = apply(&layer.o, &attended);
        ops::add(m, &mut middle, &x);
        drop(x);

        let x = ops::layer_norm(m, &middle, &self.norm(step, 2 * index + 1));
        let (up, up_trace) = apply(&layer.up, &x);
        let (mut out, down_trace) = apply(&layer.down, &ops::activate(m, c.activation, &up));
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
                traces: [q_trace, k_trace, v_trace, o_trace, up_trace, down_trace],
            },
        )
    }

    /// The way back of block `index`: d, `[n, dim]`, becomes the gradient of the sum it reads;
    /// wrong if `input` is false.
    #[allow(clippy::too_many_arguments, reason = "the block's inputs, and the two gradients")]
    fn block_back(
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
            traces: [q_trace, k_trace, v_trace, o_trace, up_trace, down_trace],
        } = inner;
        let (c, layer, m) = (self.model.config(), self.model.layer(index), &step.machine);

        // out = x + Down h, h = f(up), up = Up x, x = norm(middle)
        let (h, slope) = ops::activate_with_slope(m, c.activation, up);
        let mut d_up = m.zeros(h.len());
        step.linear_back(&layer.down, &down_trace, &h, d, Some(&mut d_up), gradients);
        drop(h);
        ops::multiply_by(m, &mut d_up, &slope);
        drop(slope);
        let x = ops::layer_norm(m, &middle, &self.norm(step, 2 * index + 1));
        step.linear_back(&layer.up, &up_trace, &x, &d_up, Some(&mut *d), gradients);
        drop((x, d_up));
        self.norm_back(step, 2 * index + 1, &middle, d, gradients);

        // middle = x + O attended, attended = attention(Q x, K x, V x), x = norm(sum)
        let (shape, inputs) = (self.shape(), attention::Inputs { q: &q, k: &k, v: &v });
        let mut buffer = m.unset(shape.gradients(d.len() / c.dim));
        let [d_attended, dq, dk, dv] = shape.split(&mut buffer);
        m.clear(d_attended);
        step.linear_back(&layer.o, &o_trace, &attended, d, Some(&mut *d_attended), gradients);
        attention::backward(m, shape, starts, inputs, d_attended, [&mut *dq, &mut *dk, &mut *dv]);
        let x = ops::layer_norm(m, &sum, &self.norm(step, 2 * index));
        for (linear, trace, dy) in
            [(&layer.q, &q_trace, dq), (&layer.k, &k_trace, dk), (&layer.v, &v_trace, dv)]
        {
            step.linear_back(linear, trace, &x, dy, input.then_some(&mut *d), gradients);
        }
        if input {
            self.norm_back(step, 2 * index, &sum, d, gradients);
        }
    }

    /// The books of [`block`](Self::block): its output and what it keeps stay in them; returns the
    /// bytes of the latter.
    fn block_books(&self, books: &mut Books<'_>, index: usize, starts: &[usize]) -> u64 {
        let (c, layer, n) =
            (self.model.config(), self.model.layer(index), starts[starts.len() - 1]);
        let x = books.take(floats(n * c.dim));
        let mut kept = 0;
        for linear in [&layer.q, &layer.k, &layer.v] {
            kept += books.take(x) + books.linear(linear, n);
        }
        kept += books.attention(self.shape(), starts);
        kept += books.take(x) + books.linear(&layer.o, n);
        kept += books.take(floats(n * c.hidden)) + books.linear(&layer.up, n);
        let active = books.take(floats(n * c.hidden));
        books.take(x);
        kept += books.linear(&layer.down, n);
        books.give(active + x);
        kept
    }

    /// The books of [`block_back`](Self::block_back), which frees what was `kept` when it is done.
    fn block_back_books(
        &self,
        books: &mut Books<'_>,
        index: usize,
        starts: &[usize],
        kept: u64,
        input: bool,
    ) {
        let (c, layer, n) =
            (self.model.config(), self.model.layer(index), starts[starts.len() - 1]);
        let before = books.held();
        let hidden = books.take(floats(n * c.hidden));
        books.take(hidden);
        books.linear_back(&layer.down, n, true);
        books.give(2 * hidden);
        let x = books.take(floats(n * c.dim));
        books.linear_back(&layer.up, n, true);
        books.give(x + hidden);

        books.take(floats(self.shape().gradients(n)));
        books.linear_back(&layer.o, n, true);
        books.attention_back(self.shape(), starts);
        books.take(x);
        for linear in [&layer.q, &layer.k, &layer.v] {
            books.linear_back(linear, n, input);
        }
        books.back_to(before.saturating_sub(kept));
    }

    /// Is a linear layer of block `index` trained?
    fn trains(&self, plan: &Plan, index: usize) -> bool {
        linears(&self.model.layer(index)).iter().any(|linear| plan.trains(linear.site))
    }

    /// The lowest block that the way back has to reach, and whether it goes on to the embeddings.
    fn lowest(&self, plan: &Plan) -> Option<(usize, bool)> {
        // Vectors are trained all or none.
        if !plan.vectors.is_empty() || plan.trains(self.embedding().site) {
            return Some((0, true));
        }
        (0..self.model.config().layers)
            .find(|&index| self.trains(plan, index))
            .map(|index| (index, false))
    }

    /// Under what limits the core measures.
    fn limits(
        &self,
        longest: usize,
        precision: Precision,
        lanes: usize,
        adapters: usize,
        rank: usize,
    ) -> EncoderLimits {
        EncoderLimits {
            batch: TEXTS,
            tokens: longest.max(TOKENS),
            precision,
            lanes,
            max_active: adapters,
            max_total_rank: rank,
            ..EncoderLimits::new(longest)
        }
    }
}

impl Body for BertBody<'_> {
    type Trace = BertTrace;
    type Pool = Pool;

    fn base(&self) -> &dyn Base {
        &self.model
    }

    fn borders(&self) -> Borders {
        let c = self.model.config();
        Borders { tokens: c.vocab, features: 0, context: c.context, classifier_bias: true }
    }

    fn head(&self) -> Option<Linear<'_>> {
        None
    }

    fn layer_at(&self, site: u32) -> Option<Linear<'_>> {
        self.model.linear(site)
    }

    fn vectors(&self) -> Vec<(u32, &[f32])> {
        rebuilt::vectors(&self.model)
    }

    fn write_base(&self, name: &str, plan: &Plan, values: &[f32]) -> Result<Buffer> {
        rebuilt::write_base(&self.model, name, plan, values, None)
    }

    fn reopen<'b>(&self, archive: &'b [u8]) -> Result<Box<dyn Base + 'b>> {
        Ok(Box::new(Bert::open(archive)?))
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
        let model = base.map_or(Ok(self.model), Bert::open)?;
        let adapters = open_all(adapters)?;
        let rank = adapters.iter().map(|(adapter, _)| adapter.max_rank()).sum();
        let limits = self.limits(longest, precision, executor.lanes(), adapters.len(), rank);
        let mut slots = vec![Slot::EMPTY; adapters.len()];
        let mut set = AdapterSet::new(&mut slots, &model);
        let choices = set.attach_all(adapters.iter().copied()).map_err(|refused| refused.error)?;
        let mut memory = Memory::new(encoder_need(model.config(), &limits));
        let mut encoder = Encoder::new(model, &limits, memory.as_mut(), executor)?;
        (0..TEXTS).try_for_each(|sequence| encoder.select(sequence, &set, &choices))?;
        let mut logits = vec![0.0; encoder.classifier(0)?.len()];
        for batch in batches {
            let batch = batch?;
            let (Inputs::Tokens(tokens), Targets::Class(classes)) = (&batch.inputs, &batch.targets)
            else {
                return Err(TrainError::options(
                    "an encoder is measured as a classifier (--task classify)",
                ));
            };
            for sequences in groups(&batch.starts, limits.tokens) {
                let texts: Vec<&[u32]> = sequences
                    .clone()
                    .map(|sequence| &tokens[batch.starts[sequence]..batch.starts[sequence + 1]])
                    .collect();
                encoder.encode(&texts)?;
                for (sequence, &class) in classes[sequences].iter().enumerate() {
                    encoder.classify(sequence, &mut logits)?;
                    listener.class(&logits, class)?;
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
    ) -> (Floats, BertTrace) {
        let Inputs::Tokens(tokens) = inputs else { return Default::default() };
        let c = self.model.config();
        let mut sum = step.machine.unset(tokens.len() * c.dim);
        step.embed(&self.embedding(), tokens, &mut sum);
        self.add_places(step, starts, &mut sum);
        let mut blocks = Vec::with_capacity(c.layers);
        for index in 0..c.layers {
            let (out, inner) = self.block(step, index, starts, &sum);
            let before = std::mem::replace(&mut sum, out);
            if keep {
                blocks.push(Kept { sum: before, inner: (!self.checkpointing).then_some(inner) });
            }
        }
        let hidden = ops::layer_norm(&step.machine, &sum, &self.norm(step, self.last_norm()));
        (hidden, BertTrace { blocks, last: sum })
    }

    fn backward(
        &self,
        step: &Step<'_>,
        inputs: &Inputs,
        starts: &[usize],
        trace: BertTrace,
        d_hidden: Floats,
        gradients: &mut [f32],
    ) {
        let Inputs::Tokens(tokens) = inputs else { return };
        let layers = self.model.config().layers;
        let Some((lowest, everything)) = self.lowest(step.plan) else { return };
        let BertTrace { mut blocks, last } = trace;
        let mut d = d_hidden;
        self.norm_back(step, self.last_norm(), &last, &mut d, gradients);
        drop(last);
        for index in (lowest..layers).rev() {
            let Some(kept) = blocks.pop() else { return };
            self.block_back(
                step,
                index,
                starts,
                kept,
                &mut d,
                everything || index > lowest,
                gradients,
            );
        }
        if everything {
            self.add_places_back(step, starts, &d, gradients);
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
        let sum = books.take(floats(n * c.dim));
        books.embed(self.embedding().site, n);
        let mut kept = Vec::with_capacity(c.layers);
        for index in 0..c.layers {
            let inner = self.block_books(books, index, starts);
            kept.push(if self.checkpointing { 0 } else { inner });
            books.give(if self.checkpointing { inner } else { 0 });
        }
        // The hidden states and their gradient; then the former go, and the sum behind the last
        // block.
        books.take(2 * sum);
        loss(books);
        books.give(2 * sum);
        let Some((lowest, everything)) = self.lowest(books.plan) else { return Some(()) };
        for index in (lowest..c.layers).rev() {
            let mut inner = kept[index];
            if self.checkpointing {
                inner = self.block_books(books, index, starts);
                books.give(sum);
            }
            self.block_back_books(books, index, starts, inner + sum, everything || index > lowest);
        }
        if everything {
            books.embed(self.embedding().site, n);
        }
        Some(())
    }

    fn measure_bytes(&self, longest: usize, lanes: usize, rank: usize) -> u64 {
        encoder_need(self.model.config(), &self.limits(longest, Precision::Exact, lanes, 1, rank))
            .bytes as u64
    }

    fn text_bytes(&self) -> u64 {
        self.model.tokenizer_json().len() as u64
    }

    /// As [`Bert::classifier_pooling`] says.
    fn pool(&self, step: &Step<'_>, hidden: &[f32], starts: &[usize]) -> (Vec<f32>, Pool) {
        let dim = self.model.config().dim;
        let first = || {
            starts[..starts.len() - 1]
                .iter()
                .flat_map(|start| &hidden[start * dim..][..dim])
                .copied()
                .collect::<Vec<f32>>()
        };
        match (self.model.classifier_pooling(), self.model.pooler()) {
            (Pooling::Pooler, Some(pooler)) => {
                let first = first();
                let mut out = vec![0.0; first.len()];
                let trace = step.linear(&pooler, &first, &mut out);
                out.iter_mut().for_each(|value| *value = crate::tensor::math::tanh(*value));
                (out.clone(), Pool::Pooler { first, out, trace })
            }
            (Pooling::Mean, _) => {
                let mut means = vec![0.0; (starts.len() - 1) * dim];
                for (pair, mean) in starts.windows(2).zip(means.chunks_exact_mut(dim)) {
                    hidden[pair[0] * dim..pair[1] * dim]
                        .chunks_exact(dim)
                        .for_each(|state| step.machine.kernels.axpy(1.0, state, mean));
                    mean.iter_mut().for_each(|value| *value /= (pair[1] - pair[0]) as f32);
                }
                (means, Pool::Mean)
            }
            _ => (first(), Pool::First),
        }
    }

    fn pool_back(
        &self,
        step: &Step<'_>,
        starts: &[usize],
        pool: Pool,
        d_pooled: &[f32],
        d_hidden: &mut [f32],
        gradients: &mut [f32],
    ) {
        let dim = self.model.config().dim;
        let mut first = |d: &[f32]| {
            for (start, d) in starts.iter().zip(d.chunks_exact(dim)) {
                step.machine.kernels.axpy(1.0, d, &mut d_hidden[start * dim..][..dim]);
            }
        };
        match (pool, self.model.pooler()) {
            // out = tanh(P h + b)
            (Pool::Pooler { first: states, out, trace }, Some(pooler)) => {
                let d: Vec<f32> =
                    d_pooled.iter().zip(&out).map(|(d, out)| d * (1.0 - out * out)).collect();
                let mut d_states = vec![0.0; states.len()];
                step.linear_back(&pooler, &trace, &states, &d, Some(&mut d_states), gradients);
                first(&d_states);
            }
            (Pool::Mean, _) => {
                for (pair, d) in starts.windows(2).zip(d_pooled.chunks_exact(dim)) {
                    let share = 1.0 / (pair[1] - pair[0]) as f32;
                    d_hidden[pair[0] * dim..pair[1] * dim]
                        .chunks_exact_mut(dim)
                        .for_each(|d_hidden| step.machine.kernels.axpy(share, d, d_hidden));
                }
            }
            _ => first(d_pooled),
        }
    }
}

/// Texts that are measured at a time, and the tokens of all of them unless one alone has more.
const TEXTS: usize = 16;
const TOKENS: usize = 512;

/// Consecutive sequences that fit into the encoder together.
fn groups(starts: &[usize], tokens: usize) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    for sequence in 0..starts.len().saturating_sub(1) {
        match groups.last_mut() {
            Some(group)
                if group.len() < TEXTS && starts[sequence + 1] - starts[group.start] <= tokens =>
            {
                group.end = sequence + 1
            }
            _ => groups.push(sequence..sequence + 1),
        }
    }
    groups
}

/// The position of every row in its sequence.
fn places(starts: &[usize]) -> impl Iterator<Item = usize> + '_ {
    starts.windows(2).flat_map(|pair| 0..pair[1] - pair[0])
}

fn linears<'a>(layer: &Layer<'a>) -> [Linear<'a>; 6] {
    [layer.q, layer.k, layer.v, layer.o, layer.up, layer.down]
}
