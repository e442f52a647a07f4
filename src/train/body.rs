//! A model family in training, and the two heads that all families share: the next token, and a
//! class.
//!
//! A family ([`Body`]) maps a batch to hidden states and carries a gradient back. What is asked of
//! the hidden states is the same for all: [`Network::run`] puts the language-model head or the
//! classifier on top, computes the loss and starts the backward pass.

use super::TrainError;
use super::calibrate::Stages;
use super::data::{Batch, IGNORE, Inputs, ModelInput, Targets};
use super::device::Floats;
use super::evaluate::Listener;
use super::ops;
use super::plan::Plan;
use super::step::Step;
use crate::adapter::Base;
use crate::archive::Buffer;
use crate::error::Result;
use crate::kernel::Precision;
use crate::nn::Linear;
use crate::runtime::Executor;

/// What a batch for a model may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct InputSpec {
    /// Tokens in its vocabulary; 0 if it takes none.
    pub(crate) tokens: usize,
    /// Features per row; 0 if it takes none.
    pub(crate) features: usize,
    /// The longest sequence.
    pub(crate) context: usize,
    /// Does a classifier on top of it have a bias? PEFT's on decoders have none.
    pub(crate) classifier_bias: bool,
}

impl InputSpec {
    /// What data is checked against.
    pub(crate) fn input(self) -> ModelInput {
        ModelInput { context: self.context, vocab: self.tokens, features: self.features }
    }
}

/// A model family in training.
pub(crate) trait Body {
    /// What the backward pass needs of a pass.
    type Saved;
    /// What the backward pass needs of pooling.
    type Pool;

    /// What adapters are bound to.
    fn base(&self) -> &dyn Base;
    /// What a batch may hold.
    fn input_spec(&self) -> InputSpec;
    /// The language-model head on the hidden states, if the family has one.
    fn head(&self) -> Option<Linear<'_>>;
    /// The base's own classifier with its labels, if it has one: its place is taken by the one that
    /// is trained.
    fn classifier(&self) -> Option<(Linear<'_>, Vec<String>)> {
        None
    }
    /// The layer at a site; embeddings as a layer without bias.
    fn layer_at(&self, site: u32) -> Option<Linear<'_>>;
    /// The vectors beside the linear layers (norms), by the family's numbers.
    fn vectors(&self) -> Vec<(u32, &[f32])>;
    /// The base with what was trained in place of its own numbers.
    fn write_base(&self, name: &str, plan: &Plan, values: &[f32]) -> Result<Buffer>;
    /// An archive of this family as something adapters are bound to.
    fn reopen<'b>(&self, archive: &'b [u8]) -> Result<Box<dyn Base + 'b>>;
    /// What the runtime makes of `batches` under `adapters`, on another base archive if one is
    /// given; no sequence is longer than `longest`.
    #[allow(clippy::too_many_arguments, reason = "what is measured, on what, and how")]
    fn measure(
        &self,
        base: Option<&[u8]>,
        adapters: &[(&[u8], f32)],
        longest: usize,
        batches: &mut dyn Iterator<Item = Result<Batch, TrainError>>,
        precision: Precision,
        executor: &dyn Executor,
        listener: &mut dyn Listener,
    ) -> Result<(), TrainError>;

    /// The hidden states, `[n, dim]`; with `keep`, what the backward pass needs.
    fn forward(
        &self,
        step: &Step<'_>,
        inputs: &Inputs,
        starts: &[usize],
        keep: bool,
    ) -> (Floats, Self::Saved);
    /// The bytes of [`measure`](Self::measure) beside the archives: no sequence longer than
    /// `longest`, adapters of rank `rank`.
    fn measure_bytes(&self, longest: usize, threads: usize, rank: usize) -> u64;
    /// The model as stages to be calibrated, if its family can be.
    fn stages(&self) -> Option<&dyn Stages> {
        None
    }
    /// The bytes of what a base of this family holds beside weights: tokenizer and template.
    fn text_bytes(&self) -> u64 {
        0
    }
    /// The backward pass from d_hidden, `[n, dim]`; adds to `gradients`.
    fn backward(
        &self,
        step: &Step<'_>,
        inputs: &Inputs,
        starts: &[usize],
        saved: Self::Saved,
        d_hidden: Floats,
        gradients: &mut [f32],
    );
    /// The vector of every sequence that a classifier reads, `[sequences, dim]`.
    fn pool(&self, step: &Step<'_>, hidden: &[f32], starts: &[usize]) -> (Floats, Self::Pool);
    /// The backward pass of [`pool`](Self::pool); adds to d_hidden and `gradients`.
    fn pool_back(
        &self,
        step: &Step<'_>,
        starts: &[usize],
        pool: Self::Pool,
        d_pooled: &[f32],
        d_hidden: &mut [f32],
        gradients: &mut [f32],
    );
}

/// The row of every sequence's last token.
pub(crate) fn last_rows(starts: &[usize]) -> impl ExactSizeIterator<Item = usize> {
    starts[1..].iter().map(|end| end - 1)
}

/// What a batch cost.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Outcome {
    /// The sum of the losses of everything scored.
    pub(crate) loss: f64,
    /// How many tokens or sequences were scored.
    pub(crate) scored: usize,
    /// Classes that were right.
    pub(crate) right: usize,
}

/// How gradients are asked for.
pub(crate) struct Back<'g> {
    /// What every scored item's loss is multiplied by: 1 / everything scored in the optimizer's
    /// step.
    pub(crate) weight: f32,
    pub(crate) label_smoothing: f32,
    /// Gets the gradients added.
    pub(crate) gradients: &'g mut [f32],
}

/// A model family behind one type; the twin of [`Body`] without its associated types.
pub(crate) trait Network {
    fn base(&self) -> &dyn Base;
    fn input_spec(&self) -> InputSpec;
    fn head_site(&self) -> Option<u32>;
    fn classifier(&self) -> Option<(Linear<'_>, Vec<String>)>;
    fn layer_at(&self, site: u32) -> Option<Linear<'_>>;
    fn vectors(&self) -> Vec<(u32, &[f32])>;
    fn write_base(&self, name: &str, plan: &Plan, values: &[f32]) -> Result<Buffer>;
    fn reopen<'b>(&self, archive: &'b [u8]) -> Result<Box<dyn Base + 'b>>;
    #[allow(clippy::too_many_arguments, reason = "what is measured, on what, and how")]
    fn measure(
        &self,
        base: Option<&[u8]>,
        adapters: &[(&[u8], f32)],
        longest: usize,
        batches: &mut dyn Iterator<Item = Result<Batch, TrainError>>,
        precision: Precision,
        executor: &dyn Executor,
        listener: &mut dyn Listener,
    ) -> Result<(), TrainError>;
    /// The loss of a batch; with `back`, its gradients.
    fn run(&self, step: &Step<'_>, batch: &Batch, back: Option<Back<'_>>) -> Outcome;
    fn measure_bytes(&self, longest: usize, threads: usize, rank: usize) -> u64;
    fn text_bytes(&self) -> u64;
    fn stages(&self) -> Option<&dyn Stages>;
}

impl<B: Body> Network for B {
    fn base(&self) -> &dyn Base {
        Body::base(self)
    }

    fn input_spec(&self) -> InputSpec {
        Body::input_spec(self)
    }

    fn head_site(&self) -> Option<u32> {
        self.head().map(|head| head.site)
    }

    fn classifier(&self) -> Option<(Linear<'_>, Vec<String>)> {
        Body::classifier(self)
    }

    fn layer_at(&self, site: u32) -> Option<Linear<'_>> {
        Body::layer_at(self, site)
    }

    fn vectors(&self) -> Vec<(u32, &[f32])> {
        Body::vectors(self)
    }

    fn write_base(&self, name: &str, plan: &Plan, values: &[f32]) -> Result<Buffer> {
        Body::write_base(self, name, plan, values)
    }

    fn reopen<'b>(&self, archive: &'b [u8]) -> Result<Box<dyn Base + 'b>> {
        Body::reopen(self, archive)
    }

    #[allow(clippy::too_many_arguments, reason = "what is measured, on what, and how")]
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
        Body::measure(self, base, adapters, longest, batches, precision, executor, listener)
    }

    fn run(&self, step: &Step<'_>, batch: &Batch, back: Option<Back<'_>>) -> Outcome {
        step.machine.begin(batch.starts.last().copied().unwrap_or(0));
        let (hidden, saved) = self.forward(step, &batch.inputs, &batch.starts, back.is_some());
        let mut d_hidden =
            if back.is_some() { step.machine.zeros(hidden.len()) } else { Floats::default() };
        let (outcome, back) = match &batch.targets {
            Targets::Next(next) => next_token(self, step, &hidden, next, back, &mut d_hidden),
            Targets::Class(classes) => {
                classify(self, step, &hidden, &batch.starts, classes, back, &mut d_hidden)
            }
        };
        drop(hidden);
        if let Some(back) = back {
            self.backward(step, &batch.inputs, &batch.starts, saved, d_hidden, back.gradients);
        }
        outcome
    }

    fn measure_bytes(&self, longest: usize, threads: usize, rank: usize) -> u64 {
        Body::measure_bytes(self, longest, threads, rank)
    }

    fn text_bytes(&self) -> u64 {
        Body::text_bytes(self)
    }

    fn stages(&self) -> Option<&dyn Stages> {
        Body::stages(self)
    }
}

/// Rows of logits in memory at a time: a vocabulary is wide.
const ROWS: usize = 64;

/// Cross entropy of the next token, over the rows that have one.
fn next_token<'g>(
    body: &impl Body,
    step: &Step<'_>,
    hidden: &[f32],
    next: &[u32],
    mut back: Option<Back<'g>>,
    d_hidden: &mut [f32],
) -> (Outcome, Option<Back<'g>>) {
    let (Some(head), dim) = (body.head(), body.base().dim()) else {
        return (Outcome::default(), back);
    };
    let (m, vocab) = (&step.machine, head.weight.rows());
    // The meta device knows no targets: every row has one, and one chunk takes what all of them
    // take.
    let (rows, _list) = match m.is_meta() {
        false => (0..next.len(), m.hold(0)),
        true => (0..ROWS.min(hidden.len() / dim), m.hold(size_of::<usize>() * hidden.len() / dim)),
    };
    let scored: Vec<usize> = rows.filter(|&row| m.is_meta() || next[row] != IGNORE).collect();
    let mut outcome = Outcome { scored: scored.len(), ..Outcome::default() };
    m.trim();
    let mut logits = m.alone(scored.len().min(ROWS) * vocab);
    for rows in scored.chunks(ROWS) {
        let logits = &mut logits[..rows.len() * vocab];
        let x = ops::gather(m, hidden, dim, rows.iter().copied());
        let saved = step.linear(&head, &x, logits);
        let smoothing = back.as_ref().map_or(0.0, |back| back.label_smoothing);
        let weight = back.as_ref().map_or(0.0, |back| back.weight);
        let share = m.share(rows.len());
        let mut losses = vec![0.0; rows.len()];
        let parts =
            logits.chunks_mut(share * vocab).zip(losses.chunks_mut(share)).zip(rows.chunks(share));
        m.each(parts, |((logits, losses), rows)| {
            for ((logits, loss), &row) in logits.chunks_exact_mut(vocab).zip(losses).zip(rows) {
                *loss = cross_entropy(step, logits, next[row], smoothing, weight).0;
            }
        });
        outcome.loss += losses.iter().sum::<f64>();
        if let Some(back) = &mut back {
            let mut dx = m.alone(x.len());
            step.linear_back(&head, &saved, &x, logits, Some(&mut dx), back.gradients);
            ops::scatter(m, &dx, dim, rows.iter().copied(), d_hidden);
        }
    }
    (outcome, back)
}

/// Cross entropy of the class of every sequence.
fn classify<'g>(
    body: &impl Body,
    step: &Step<'_>,
    hidden: &[f32],
    starts: &[usize],
    classes: &[u32],
    back: Option<Back<'g>>,
    d_hidden: &mut [f32],
) -> (Outcome, Option<Back<'g>>) {
    let Some(classifier) = &step.plan.classifier else { return (Outcome::default(), back) };
    let (m, labels, sequences) = (&step.machine, classifier.labels.len(), starts.len() - 1);
    let (weight, bias) =
        (&step.values[classifier.weight.clone()], &step.values[classifier.bias.clone()]);
    let (pooled, pool) = body.pool(step, hidden, starts);
    let mut logits = m.alone(sequences * labels);
    m.forward(1.0, &pooled, weight, labels, 0.0, &mut logits);
    let mut outcome = Outcome { scored: sequences, ..Outcome::default() };
    let (smoothing, scale) =
        back.as_ref().map_or((0.0, 0.0), |back| (back.label_smoothing, back.weight));
    m.compute(|| {
        for (logits, &class) in logits.chunks_exact_mut(labels).zip(classes) {
            if !bias.is_empty() {
                ops::add(m, logits, bias);
            }
            let (loss, best) = cross_entropy(step, logits, class, smoothing, scale);
            outcome.loss += loss;
            outcome.right += usize::from(best == class);
        }
    });
    let Some(back) = back else { return (outcome, None) };
    m.outer(&logits, &pooled, labels, &mut back.gradients[classifier.weight.clone()]);
    ops::sum_rows(m, &logits, &mut back.gradients[classifier.bias.clone()]);
    let mut d_pooled = m.alone(pooled.len());
    m.forward_transposed(1.0, &logits, weight, labels, 0.0, &mut d_pooled);
    body.pool_back(step, starts, pool, &d_pooled, d_hidden, back.gradients);
    (outcome, Some(back))
}

/// The loss `−log p[target]` without smoothing, and the most likely class; logits become the
/// gradient `weight · (p − (1 − ε)·1[target] − ε / classes)`.
fn cross_entropy(
    step: &Step<'_>,
    logits: &mut [f32],
    target: u32,
    smoothing: f32,
    weight: f32,
) -> (f64, u32) {
    let target = target as usize;
    let best = logits
        .iter()
        .enumerate()
        .fold(0, |best, (i, logit)| if *logit > logits[best] { i } else { best });
    let (most, chosen) = (logits[best], logits[target]);
    step.machine.kernels.softmax(logits);
    // The most likely class has p = 1 / Σ exp(logit − most), which no target's p loses to
    // underflow.
    let loss = -f64::from(logits[best]).ln() - f64::from(chosen - most);
    logits[target] -= 1.0 - smoothing;
    let even = smoothing / logits.len() as f32;
    logits.iter_mut().for_each(|logit| *logit = weight * (*logit - even));
    (loss, best as u32)
}
