//! LSTM layers, trained: `model::lstm::forward` with its activations kept, and the way back through
//! time.
//!
//! A layer's input product serves all rows at once, forth and back. The recurrent product goes
//! token by token, each time for all sequences of the batch that have one, through the frozen base
//! and its adapter. Gradients go back to the beginning of each sequence.
//!
//! ```text
//! c = f ⊙ c' + i ⊙ g    h = o ⊙ tanh(c)
//! do = dh ⊙ tanh(c)    dc += dh ⊙ o ⊙ (1 − tanh²(c))    di = dc ⊙ g    dg = dc ⊙ i    df = dc ⊙ c'    dc' = dc ⊙ f
//! ```
//! and through the functions of the gates: σ' = σ(1 − σ), tanh' = 1 − tanh².
//!
//! Of a layer are kept: what it reads, its gates, c and h. With checkpointing only what it reads is
//! kept, and the layer runs again on the way back. Dropout before a recurrent matrix's A drops the
//! same elements at every token.

use super::TrainError;
use super::body::{Body, Borders, Network, last_tokens, last_tokens_back};
use super::data::{Batch, IGNORE, Inputs, Targets};
use super::evaluate::{Listener, open_all};
use super::memory::{Books, floats};
use super::plan::Plan;
use super::pool::Floats;
use super::rebuilt;
use super::step::{Step, Trace};
use super::trainer::sealed::Sealed;
use crate::adapter::{AdapterSet, Base, Slot};
use crate::archive::Buffer;
use crate::error::{Error, Result};
use crate::kernel::Precision;
use crate::model::lstm::{Config, Head, Layer, Lstm, Site};
use crate::nn::{Embedding, Linear, cell};
use crate::runtime::{Executor, Memory, Recurrent, RecurrentLimits, recurrent_need};

/// The longest sequence of a batch: a state has no limit, memory has.
const LONGEST: usize = 1 << 20;

/// LSTM layers in training.
pub(crate) struct LstmBody<'a> {
    model: Lstm<'a>,
    checkpointing: bool,
}

impl<'a> Sealed<'a> for Lstm<'a> {
    #[allow(private_interfaces, reason = "sealed")]
    fn network(self, checkpointing: bool) -> Box<dyn Network + Send + Sync + 'a> {
        Box::new(LstmBody { model: self, checkpointing })
    }
}

/// What the way back needs of one layer.
pub(crate) struct Kept {
    /// What it reads, `[n, in]`.
    x: Vec<f32>,
    /// The rest, unless it is to be computed again.
    inner: Option<Inner>,
}

struct Inner {
    /// The values of i, f, g, o, `[n, 4 · hidden]`.
    gates: Vec<f32>,
    /// `[n, hidden]`.
    c: Vec<f32>,
    /// `[n, hidden]`.
    h: Vec<f32>,
    ih: Trace,
    /// Of every token.
    hh: Vec<Trace>,
}

impl<'a> LstmBody<'a> {
    fn embedding(&self) -> Embedding<'a> {
        Embedding {
            table: self.model.embedding(),
            site: Site::Embedding.number(self.model.config().layers),
        }
    }

    /// One layer: its h, `[n, hidden]`, is in what is returned.
    fn layer(&self, step: &Step<'_>, layer: &Layer<'_>, starts: &[usize], x: &[f32]) -> Inner {
        let hidden = self.model.config().hidden;
        let n = starts.last().copied().unwrap_or(0);
        let mut gates = vec![0.0; n * 4 * hidden];
        let ih = step.linear(&layer.ih, x, &mut gates);
        let (mut c, mut h) = (vec![0.0; n * hidden], vec![0.0; n * hidden]);
        let mut hh = Vec::new();
        for t in 0..longest(starts) {
            let rows = rows_at(starts, t);
            let before = before(&h, &rows, t, hidden);
            let mut recurrent = vec![0.0; rows.len() * 4 * hidden];
            hh.push(step.linear(&layer.hh, &before, &mut recurrent));
            for (&row, recurrent) in rows.iter().zip(recurrent.chunks_exact(4 * hidden)) {
                let gates = &mut gates[row * 4 * hidden..][..4 * hidden];
                step.machine.kernels.axpy(1.0, recurrent, gates);
                if t > 0 {
                    c.copy_within((row - 1) * hidden..row * hidden, row * hidden);
                }
                cell(gates, &mut c[row * hidden..][..hidden], &mut h[row * hidden..][..hidden]);
            }
        }
        Inner { gates, c, h, ih, hh }
    }

    /// The way back of one layer: from the gradient of its h to that of what it reads; empty if
    /// `input` is false.
    #[allow(clippy::too_many_arguments, reason = "the layer's inputs, and the two gradients")]
    fn layer_back(
        &self,
        step: &Step<'_>,
        layer: &Layer<'_>,
        starts: &[usize],
        x: &[f32],
        inner: &Inner,
        d_h: &[f32],
        input: bool,
        gradients: &mut [f32],
    ) -> Vec<f32> {
        let hidden = self.model.config().hidden;
        let width = 4 * hidden;
        let mut d_gates = vec![0.0; inner.gates.len()];
        // What the next token sends back to each sequence's h and c.
        let sequences = starts.len() - 1;
        let (mut from_h, mut from_c) =
            (vec![0.0; sequences * hidden], vec![0.0; sequences * hidden]);
        for t in (0..inner.hh.len()).rev() {
            let rows = rows_at(starts, t);
            let running: Vec<usize> =
                (0..sequences).filter(|&i| starts[i + 1] - starts[i] > t).collect();
            for (&row, &sequence) in rows.iter().zip(&running) {
                let (part, state) =
                    (row * hidden..(row + 1) * hidden, sequence * hidden..(sequence + 1) * hidden);
                let c_before =
                    if t > 0 { &inner.c[(row - 1) * hidden..row * hidden] } else { &[][..] };
                let back = Back {
                    gates: &inner.gates[row * width..][..width],
                    c: &inner.c[part.clone()],
                    c_before,
                };
                back.cell(
                    &d_h[part],
                    &from_h[state.clone()],
                    &mut from_c[state],
                    &mut d_gates[row * width..][..width],
                );
            }
            let step_gates: Vec<f32> =
                rows.iter().flat_map(|&row| &d_gates[row * width..][..width]).copied().collect();
            let before = before(&inner.h, &rows, t, hidden);
            let mut d_before = vec![0.0; before.len()];
            step.linear_back(
                &layer.hh,
                &inner.hh[t],
                &before,
                &step_gates,
                (t > 0).then_some(&mut d_before[..]),
                gradients,
            );
            for (&sequence, d) in running.iter().zip(d_before.chunks_exact(hidden)) {
                from_h[sequence * hidden..][..hidden].copy_from_slice(d);
            }
        }
        let mut dx = if input { vec![0.0; x.len()] } else { Vec::new() };
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

    /// The books of [`layer`](Self::layer): all that it returns stays in them; returns its bytes.
    fn layer_books(&self, books: &mut Books<'_>, layer: &Layer<'_>, starts: &[usize]) -> u64 {
        let hidden = self.model.config().hidden;
        let n = starts.last().copied().unwrap_or(0);
        let mut kept = books.take(floats(n * 4 * hidden)) + books.linear(&layer.ih, n);
        kept += books.take(2 * floats(n * hidden));
        for t in 0..longest(starts) {
            let rows = rows_at(starts, t).len();
            let passing = books.take(floats(rows * 5 * hidden));
            kept += books.linear(&layer.hh, rows);
            books.give(passing);
        }
        kept
    }

    /// The books of [`layer_back`](Self::layer_back) beside what was kept; what it returns stays in
    /// them.
    fn layer_back_books(
        &self,
        books: &mut Books<'_>,
        layer: &Layer<'_>,
        starts: &[usize],
        input: bool,
    ) {
        let hidden = self.model.config().hidden;
        let n = starts.last().copied().unwrap_or(0);
        let before = books.held();
        books.take(floats(n * 4 * hidden + 2 * (starts.len() - 1) * hidden));
        for t in (0..longest(starts)).rev() {
            let rows = rows_at(starts, t).len();
            let passing = books.take(floats(rows * 6 * hidden));
            books.linear_back(&layer.hh, rows, t > 0);
            books.give(passing);
        }
        let dx = if input { floats(n * layer.ih.weight.cols()) } else { 0 };
        books.take(dx);
        books.linear_back(&layer.ih, n, input);
        books.back_to(before + dx);
    }

    /// The lowest layer that the way back has to reach, and whether it goes on to the embedding.
    fn lowest(&self, plan: &Plan) -> (usize, bool) {
        let layers = self.model.config().layers;
        let trains = |index: &usize| {
            [Site::Ih(*index), Site::Hh(*index)].iter().any(|site| plan.trains(site.number(layers)))
        };
        let embeds = plan.trains(self.embedding().site);
        (if embeds { 0 } else { (0..layers).find(trains).unwrap_or(layers) }, embeds)
    }

    /// Under what limits the core measures.
    fn limits(
        longest: usize,
        precision: Precision,
        lanes: usize,
        adapters: usize,
        rank: usize,
    ) -> RecurrentLimits {
        RecurrentLimits {
            precision,
            prefill_chunk: longest.clamp(1, 64),
            lanes,
            max_active: adapters,
            max_total_rank: rank,
            ..RecurrentLimits::new()
        }
    }
}

/// One cell on the way back.
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
fn before(h: &[f32], rows: &[usize], t: usize, hidden: usize) -> Vec<f32> {
    match t {
        0 => vec![0.0; rows.len() * hidden],
        _ => rows.iter().flat_map(|&row| &h[(row - 1) * hidden..row * hidden]).copied().collect(),
    }
}

impl Body for LstmBody<'_> {
    type Trace = Vec<Kept>;
    type Pool = ();

    fn base(&self) -> &dyn Base {
        &self.model
    }

    fn borders(&self) -> Borders {
        Borders {
            tokens: self.model.config().vocab,
            features: 0,
            context: LONGEST,
            classifier_bias: true,
        }
    }

    fn head(&self) -> Option<Linear<'_>> {
        self.model.head().filter(|_| self.model.config().head == Head::LanguageModel)
    }

    fn classifier(&self) -> Option<(Linear<'_>, Vec<String>)> {
        let head = self.model.head().filter(|_| self.model.config().head == Head::Labels)?;
        Some((head, self.model.labels().map(str::to_owned).collect()))
    }

    fn layer_at(&self, site: u32) -> Option<Linear<'_>> {
        match Site::from_number(site, self.model.config().layers)? {
            // A head of labels is the classifier, no layer.
            Site::Head => self.head(),
            _ => self.model.linear(site),
        }
    }

    fn vectors(&self) -> Vec<(u32, &[f32])> {
        Vec::new()
    }

    fn write_base(&self, name: &str, plan: &Plan, values: &[f32]) -> Result<Buffer> {
        let config = *self.model.config();
        let replaced = plan.classifier.as_ref().map(|classifier| {
            let outputs = classifier.labels.len();
            let config = Config { head: Head::Labels, outputs, ..config };
            (Site::Head.number(config.layers), config.to_schema())
        });
        rebuilt::write_base(&self.model, name, plan, values, replaced)
    }

    fn reopen<'b>(&self, archive: &'b [u8]) -> Result<Box<dyn Base + 'b>> {
        Ok(Box::new(Lstm::open(archive)?))
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
        let model = base.map_or(Ok(self.model), Lstm::open)?;
        let adapters = open_all(adapters)?;
        let mut slots = vec![Slot::EMPTY; adapters.len()];
        let mut set = AdapterSet::new(&mut slots, &model);
        let choices = set.attach_all(adapters.iter().copied()).map_err(|refused| refused.error)?;
        let rank = adapters.iter().map(|(adapter, _)| adapter.max_rank()).sum();
        let limits = Self::limits(longest, precision, executor.lanes(), adapters.len(), rank);
        let mut memory = Memory::new(recurrent_need(model.config(), &limits));
        let mut session = Recurrent::new(model, &limits, memory.as_mut(), executor)?;
        session.select(0, &set, &choices)?;
        let own = model.labels().count();
        for batch in batches {
            let batch = batch?;
            let Inputs::Tokens(tokens) = &batch.inputs else {
                return Err(TrainError::options("an LSTM reads text, this data holds numbers"));
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
                        session.prefill(0, tokens)?;
                        match session.classifier(0) {
                            Ok(classifier) => {
                                let mut logits = vec![0.0; classifier.len()];
                                session.classify(0, &mut logits)?;
                                listener.class(&logits, classes[sequence])?;
                            }
                            Err(Error::Classifiers { found: 0, .. }) if own > 0 => {
                                listener.class(session.logits(0)?, classes[sequence])?
                            }
                            Err(error) => return Err(error.into()),
                        }
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
    ) -> (Floats, Vec<Kept>) {
        let Inputs::Tokens(tokens) = inputs else { return Default::default() };
        let c = self.model.config();
        let mut x = vec![0.0; tokens.len() * c.dim];
        step.embed(&self.embedding(), tokens, &mut x);
        let mut trace = Vec::with_capacity(c.layers);
        for index in 0..c.layers {
            let inner = self.layer(step, &self.model.layer(index), starts, &x);
            if keep {
                let h = inner.h.clone();
                trace.push(Kept {
                    x: std::mem::replace(&mut x, h),
                    inner: (!self.checkpointing).then_some(inner),
                });
            } else {
                x = inner.h;
            }
        }
        (x.into(), trace)
    }

    fn backward(
        &self,
        step: &Step<'_>,
        inputs: &Inputs,
        starts: &[usize],
        mut trace: Vec<Kept>,
        d_hidden: Floats,
        gradients: &mut [f32],
    ) {
        let Inputs::Tokens(tokens) = inputs else { return };
        let layers = self.model.config().layers;
        let (lowest, embeds) = self.lowest(step.plan);
        let mut d = d_hidden;
        for index in (lowest..layers).rev() {
            let Some(Kept { x, inner }) = trace.pop() else { return };
            let layer = self.model.layer(index);
            let inner = inner.unwrap_or_else(|| self.layer(step, &layer, starts, &x));
            d = self
                .layer_back(
                    step,
                    &layer,
                    starts,
                    &x,
                    &inner,
                    &d,
                    embeds || index > lowest,
                    gradients,
                )
                .into();
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
        let h = floats(n * c.hidden);
        let mut reads = vec![books.take(floats(n * c.dim))];
        books.embed(self.embedding().site, n);
        let mut kept = Vec::with_capacity(c.layers);
        for index in 0..c.layers {
            let inner = self.layer_books(books, &self.model.layer(index), starts);
            reads.push(books.take(h));
            kept.push(if self.checkpointing { 0 } else { inner });
            books.give(if self.checkpointing { inner } else { 0 });
        }
        // The gradient of the hidden states, which then go.
        let mut d = books.take(h);
        loss(books);
        let (lowest, embeds) = self.lowest(books.plan);
        for index in (lowest..c.layers).rev() {
            let layer = self.model.layer(index);
            let again =
                if self.checkpointing { self.layer_books(books, &layer, starts) } else { 0 };
            let input = embeds || index > lowest;
            self.layer_back_books(books, &layer, starts, input);
            books.give(d + reads[index] + kept[index] + again);
            d = if input { floats(n * layer.ih.weight.cols()) } else { 0 };
        }
        if embeds {
            books.embed(self.embedding().site, n);
        }
        Some(())
    }

    fn measure_bytes(&self, longest: usize, lanes: usize, rank: usize) -> u64 {
        recurrent_need(
            self.model.config(),
            &Self::limits(longest, Precision::Exact, lanes, 1, rank),
        )
        .bytes as u64
    }

    fn text_bytes(&self) -> u64 {
        self.model.tokenizer_json().len() as u64
    }

    /// The last token's.
    fn pool(&self, _: &Step<'_>, hidden: &[f32], starts: &[usize]) -> (Vec<f32>, ()) {
        (last_tokens(hidden, starts, self.model.config().hidden), ())
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
        last_tokens_back(d_pooled, starts, self.model.config().hidden, d_hidden);
    }
}
