//! LoRA (arXiv 2106.09685): `y = W x + b + s·B A x'`, s = alpha / r, x' = dropout(x); and QLoRA
//! (arXiv 2305.14314), the same with W in NF4, through which the gradient flows. The other
//! low-rank methods take [`Factors`] and change what they do differently.
//!
//! Backward, with u = s·A x':
//! ```text
//! dB = dyᵀ u    du = s·dy B    dA = duᵀ x'    dx = dy W + dropout'(du A)
//! ```

use std::ops::Range;

use super::{Backward, Layer, Parametrization, Parametrized, Part, Saved, Technique};
use crate::adapter::{Adapter, Factor, Numbers, Orientation, TargetParts};
use crate::nn::{self, FactorGradients, Linear};
use crate::quant::Format;
use crate::random;
use crate::train::TrainError;
use crate::train::device::Floats;
use crate::train::options::{Init, Options};
use crate::train::plan::{Plan, Tensor};
use crate::train::step::Step;

/// The options of methods that train factors.
pub(super) const OPTIONS: &[&str] =
    &["rank", "alpha", "rank-pattern", "alpha-pattern", "init", "dropout"];

/// LoRA.
pub(super) struct Lora;

impl Technique for Lora {}

/// LoRA on an NF4 base.
pub(super) struct QLora;

impl Technique for QLora {
    fn parametrize(&mut self, layer: &Layer<'_>, plan: &mut Plan) -> Parametrized {
        match layer.linear.weight.format() {
            Format::Nf4 | Format::Nf4Plain => Lora.parametrize(layer, plan),
            format => Err(TrainError::options(format!(
                "qlora trains on an nf4 base, a target of this one is {}; import it with \
                 --weights nf4, or train with --method lora",
                format.name()
            ))),
        }
    }
}

/// Is it an adapter of factors alone, whose scale is alpha / √r (`stabilized`) or alpha / r?
pub(super) fn is_lora(adapter: &Adapter<'_>, stabilized: bool) -> bool {
    let kind = !adapter.is_dora() && !adapter.is_ia3();
    kind && adapter.targets().any(|target| target.rank_stabilized) == stabilized
}

/// Low-rank factors of one layer: `ΔW = s·B·A`. An embedding's A is kept transposed, `[vocab, r]`,
/// a linear layer's as `[r, in]`; B is always kept transposed, `[r, out]`, so that a smaller rank
/// is a prefix.
#[derive(Debug, Clone)]
pub(super) struct Factors {
    pub(super) rank: usize,
    /// The rank of layers without one of their own.
    common: usize,
    alpha: f32,
    /// s = alpha / √r instead of alpha / r.
    pub(super) rank_stabilized: bool,
    pub(super) a: Range<usize>,
    pub(super) b: Range<usize>,
    pub(super) is_embedding: bool,
    /// Does A keep its values?
    a_frozen: bool,
}

impl Factors {
    /// The factors of `layer`, which go on with the scale that they had.
    pub(super) fn new(layer: &Layer<'_>, plan: &mut Plan) -> Self {
        Self::with(layer, plan, false)
    }

    /// The same; with `a_frozen` A keeps its values.
    pub(super) fn with(layer: &Layer<'_>, plan: &mut Plan, a_frozen: bool) -> Self {
        let (place, embedding) = (layer.linear.site, layer.is_embedding);
        let mut push = |part, numbers, frozen| {
            let range = 0..layer.rank * numbers;
            plan.append(Tensor { place, part, range, embedding, frozen })
        };
        Self {
            rank: layer.rank,
            common: layer.common_rank,
            alpha: layer.alpha,
            rank_stabilized: layer.start.is_some_and(|start| start.rank_stabilized),
            a: push(Part::A, layer.inputs(), a_frozen),
            b: push(Part::B, layer.outputs(), false),
            is_embedding: embedding,
            a_frozen,
        }
    }

    /// The rank of a pass at `drawn` of the common rank (DyLoRA): the same share of its own,
    /// rounded up, so that all of the common rank is all of every layer's.
    pub(super) fn rank_at(&self, drawn: Option<usize>) -> usize {
        drawn.map_or(self.rank, |drawn| {
            self.rank.saturating_mul(drawn).div_ceil(self.common).clamp(1, self.rank)
        })
    }

    /// s at `rank`.
    pub(super) fn scale(&self, rank: usize) -> f32 {
        if self.rank_stabilized {
            self.alpha / (rank as f32).sqrt()
        } else {
            self.alpha / rank as f32
        }
    }

    /// The first `rank` rows of a factor that is `[r, …]`.
    pub(super) fn rows(&self, factor: &Range<usize>, rank: usize) -> Range<usize> {
        factor.start..factor.start + factor.len() / self.rank * rank
    }

    /// `u = s·A x'`, `[n, rank]`.
    pub(super) fn down(&self, step: &Step<'_>, dropped: &[f32]) -> Floats {
        let rank = self.rank_at(step.rank);
        let a = &step.values[self.rows(&self.a, rank)];
        let mut u = step.machine.unset(dropped.len() / (a.len() / rank) * rank);
        step.machine.forward(self.scale(rank), dropped, a, rank, 0.0, &mut u);
        u
    }

    /// `y += B u`.
    pub(super) fn up(&self, step: &Step<'_>, u: &[f32], y: &mut [f32]) {
        let rank = self.rank_at(step.rank);
        let b = &step.values[self.rows(&self.b, rank)];
        step.machine.forward_transposed(1.0, u, b, rank, 1.0, y);
    }

    /// Adds to dA and dB what dy, `[n, out]`, makes of them; returns du, `[n, rank]`.
    pub(super) fn backward_factors(
        &self,
        step: &Step<'_>,
        (site, x): (u32, &[f32]),
        u: &[f32],
        dy: &[f32],
        gradients: &mut [f32],
    ) -> Floats {
        let (rank, machine) = (self.rank_at(step.rank), &step.machine);
        let b = self.rows(&self.b, rank);
        machine.outer(u, dy, rank, &mut gradients[b.clone()]);
        let mut du = machine.unset(u.len());
        machine.forward(self.scale(rank), dy, &step.values[b], rank, 0.0, &mut du);
        if !self.a_frozen {
            let dropped = step.dropped(site, x);
            let x = dropped.as_deref().unwrap_or(x);
            machine.outer(&du, x, rank, &mut gradients[self.rows(&self.a, rank)]);
        }
        du
    }

    /// The numbers of a pass.
    fn numbers<'s>(&self, step: &Step<'s>) -> nn::Factors<'s> {
        let rank = self.rank_at(step.rank);
        let (a, b) = (self.rows(&self.a, rank), self.rows(&self.b, rank));
        nn::Factors { rank, scale: self.scale(rank), a: &step.values[a], b: &step.values[b] }
    }

    /// Everything that dy, `[n, out]`, makes of a layer whose input x is not dropped: adds to dA, dB
    /// and dx, which is dy W and du A.
    pub(super) fn backward_all(&self, step: &Step<'_>, pass: Backward<'_>) {
        let Backward { linear, saved, x, dy, dx, gradients } = pass;
        let u = &saved[0];
        let Some(card) = step.machine.card(linear.site) else {
            let du = self.backward_factors(step, (linear.site, x), u, dy, gradients);
            if let Some(dx) = dx {
                self.backward_input(step, &du, 1.0, dx);
                step.machine.back_through(linear, dy, dx);
            }
            return;
        };
        let factors = self.numbers(step);
        let (a, b) = (self.rows(&self.a, factors.rank), self.rows(&self.b, factors.rank));
        // A comes first in the arena.
        let (until_b, from_b) = gradients.split_at_mut(b.start);
        let da = (!self.a_frozen).then_some(&mut until_b[a]);
        let db = &mut from_b[..b.len()];
        card.backward(linear.site, dy, Some(FactorGradients { factors, x, u, da, db }), dx);
    }

    /// `dx ← du A + β·dx`.
    pub(super) fn backward_input(&self, step: &Step<'_>, du: &[f32], beta: f32, dx: &mut [f32]) {
        let rank = self.rank_at(step.rank);
        let a = &step.values[self.rows(&self.a, rank)];
        step.machine.forward_transposed(1.0, du, a, rank, beta, dx);
    }

    /// s·A's columns of the n tokens, `[n, rank]`.
    fn token_rows(&self, step: &Step<'_>, tokens: &[u32], n: usize) -> Floats {
        let (rank, a) = (self.rank_at(step.rank), &step.values[self.a.clone()]);
        let scale = self.scale(rank);
        let mut u = step.machine.alone(n * rank);
        step.machine.compute(|| {
            for (u, &token) in u.chunks_exact_mut(rank).zip(tokens) {
                let a = &a[token as usize * self.rank..];
                u.iter_mut().zip(a).for_each(|(u, a)| *u = scale * a);
            }
        });
        u
    }
}

impl Parametrization for Factors {
    /// A from a uniform or normal distribution and B zero; of an embedding A zero and B from
    /// N(0, 1), as PEFT has it.
    fn init(&self, layer: &Layer<'_>, options: &Options, values: &mut [f32]) {
        if let Some(start) = &layer.start {
            read(&start.a, &mut values[self.a.clone()]);
            return read(&start.b, &mut values[self.b.clone()]);
        }
        let (seed, stream) = (options.seed, layer.stream());
        let bound = (layer.inputs() as f32).sqrt();
        let draw = |i: u64| match options.init {
            _ if self.is_embedding => random::normal(seed, stream, i),
            Init::Kaiming => (2.0 * random::uniform(seed, stream, i) - 1.0) / bound,
            Init::Gaussian => random::normal(seed, stream, i) / self.rank as f32,
        };
        let drawn = if self.is_embedding { &self.b } else { &self.a };
        let values = values[drawn.clone()].iter_mut();
        values.enumerate().for_each(|(i, value)| *value = draw(i as u64));
    }

    fn forward(&self, step: &Step<'_>, linear: &Linear<'_>, x: &[f32], y: &mut [f32]) -> Saved {
        let card = step.machine.card(linear.site).filter(|_| step.dropout.is_none());
        if let Some(card) = card {
            let factors = self.numbers(step);
            let mut u = step.machine.unset(x.len() / linear.weight.cols() * factors.rank);
            card.forward(linear, x, Some((factors, &mut u)), y);
            return vec![u];
        }
        let saved = self.save(step, linear, x);
        step.frozen(linear, x, y);
        self.up(step, &saved[0], y);
        saved
    }

    fn save(&self, step: &Step<'_>, linear: &Linear<'_>, x: &[f32]) -> Saved {
        let dropped = step.dropped(linear.site, x);
        vec![self.down(step, dropped.as_deref().unwrap_or(x))]
    }

    fn backward(&self, step: &Step<'_>, pass: Backward<'_>) {
        if step.dropout.is_none() {
            return self.backward_all(step, pass);
        }
        let Backward { linear, saved, x, dy, dx, gradients } = pass;
        let du = self.backward_factors(step, (linear.site, x), &saved[0], dy, gradients);
        if let Some(dx) = dx {
            step.through_dropout(linear.site, dx, |dx, beta| {
                self.backward_input(step, &du, beta, dx);
            });
            step.machine.back_through(linear, dy, dx);
        }
    }

    fn embed(&self, step: &Step<'_>, tokens: &[u32], y: &mut [f32]) {
        let n = y.len() / (self.b.len() / self.rank);
        self.up(step, &self.token_rows(step, tokens, n), y);
    }

    fn embed_backward(&self, step: &Step<'_>, tokens: &[u32], dy: &[f32], gradients: &mut [f32]) {
        let (rank, machine) = (self.rank_at(step.rank), &step.machine);
        let n = dy.len() / (self.b.len() / self.rank);
        let (b, u) = (self.rows(&self.b, rank), self.token_rows(step, tokens, n));
        machine.outer(&u, dy, rank, &mut gradients[b.clone()]);
        if self.a_frozen {
            return;
        }
        let mut du = machine.alone(u.len());
        machine.forward(self.scale(rank), dy, &step.values[b], rank, 0.0, &mut du);
        let gradient = &mut gradients[self.a.clone()];
        machine.compute(|| {
            for (&token, du) in tokens.iter().zip(du.chunks_exact(rank)) {
                let column = &mut gradient[token as usize * self.rank..][..rank];
                machine.kernels.axpy(1.0, du, column);
            }
        });
    }

    fn rank(&self) -> usize {
        self.rank
    }

    /// At a smaller rank alpha stays, so that the scale becomes alpha / rank.
    fn finish(&self, values: &[f32], rank: Option<usize>) -> Option<TargetParts> {
        let rank = self.rank_at(rank);
        let a = if self.is_embedding {
            let columns = values[self.a.clone()].chunks_exact(self.rank);
            columns.flat_map(|column| &column[..rank]).copied().collect()
        } else {
            values[self.rows(&self.a, rank)].to_vec()
        };
        Some(TargetParts {
            rank,
            alpha: self.alpha,
            rank_stabilized: self.rank_stabilized,
            orientation: Orientation::Archive,
            a: Numbers::F32(a),
            b: Numbers::F32(values[self.rows(&self.b, rank)].to_vec()),
            bias: Vec::new(),
            magnitude: Vec::new(),
            scaled: None,
        })
    }
}

/// A whole factor, row after row.
fn read(factor: &Factor<'_>, out: &mut [f32]) {
    for (row, out) in out.chunks_exact_mut(factor.width()).enumerate() {
        out.iter_mut().enumerate().for_each(|(col, out)| *out = factor.get(row, col));
    }
}
