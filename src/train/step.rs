//! One step's view of a model that is being trained: its linear layers and embeddings forward and
//! backward, whoever trains them. Dropout and the product with frozen weights are here; what a
//! method adds to them is in its file.

use super::device::Floats;
use super::device::Machine;
use super::method::{Backward, Parametrization};
use super::plan::Plan;
use crate::archive::schema;
use crate::kernel::{GROUP, Precision};
use crate::nn::{self, Linear, Pass, Scratch, Segment};
use crate::quant::Matrix;
use crate::random;
use crate::runtime::{Executor, Serial};

pub(crate) use super::method::Saved;

/// Rows of a thread's own from which threads share the rows of a product and not its outputs: every
/// thread dequantizes all weights then, and fewer rows do not repay that.
const ROWS: usize = 256;

/// What one forward and backward pass shares.
#[derive(Clone, Copy)]
pub(crate) struct Step<'s> {
    pub(crate) machine: Machine<'s>,
    pub(crate) plan: &'s Plan,
    /// The arena.
    pub(crate) values: &'s [f32],
    /// What the method computed before the pass, per site: see [`Parametrization::prepare`].
    pub(crate) prepared: &'s [Vec<f32>],
    /// The common rank of this pass, if it is not all of it (DyLoRA).
    pub(crate) rank: Option<usize>,
    pub(crate) dropout: Option<Dropout>,
    /// Of forward products with frozen weights.
    pub(crate) precision: Precision,
}

/// Which activations are dropped: a pure function of (seed, site, index), so the backward pass
/// needs no memory of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Dropout {
    /// The probability.
    pub(crate) p: f32,
    /// Of this step and batch.
    pub(crate) seed: u64,
}

impl Dropout {
    /// x with dropped elements zero and the others scaled by 1 / (1 − p).
    fn apply(&self, site: u32, x: &mut [f32]) {
        let keep = 1.0 / (1.0 - self.p);
        for (i, x) in x.iter_mut().enumerate() {
            *x = if random::uniform(self.seed, u64::from(site), i as u64) < self.p {
                0.0
            } else {
                *x * keep
            };
        }
    }
}

impl<'s> Step<'s> {
    /// The vector `id` of the model, `archived` unless it is trained.
    pub(crate) fn vector<'v>(&self, id: u32, archived: &'v [f32]) -> &'v [f32]
    where
        's: 'v,
    {
        self.plan.vectors.get(&id).map_or(archived, |range| &self.values[range.clone()])
    }

    /// The weight at `site`, `archived` unless it is trained itself.
    pub(crate) fn weight<'w>(&self, site: u32, archived: Matrix<'w>) -> Matrix<'w>
    where
        's: 'w,
    {
        let linear = Linear { weight: archived, bias: &[], site };
        self.layer(site).map_or(archived, |layer| layer.layer(linear, self.values).weight)
    }

    /// y of a linear layer, x `[n, in]`, y `[n, out]`.
    pub(crate) fn linear(&self, linear: &Linear<'_>, x: &[f32], y: &mut [f32]) -> Saved {
        match self.layer(linear.site) {
            Some(layer) => layer.forward(self, linear, x, y),
            None => {
                self.frozen(linear, x, y);
                Saved::new()
            }
        }
    }

    /// What [`linear`](Self::linear) returns, without y where that saves the product with W.
    pub(crate) fn save(&self, linear: &Linear<'_>, x: &[f32]) -> Saved {
        self.layer(linear.site).map_or_else(Saved::new, |layer| layer.save(self, linear, x))
    }

    /// The backward pass: adds to `gradients` and, if it is asked for, to dx, `[n, in]`.
    pub(crate) fn linear_back(
        &self,
        linear: &Linear<'_>,
        saved: &Saved,
        x: &[f32],
        dy: &[f32],
        dx: Option<&mut [f32]>,
        gradients: &mut [f32],
    ) {
        match (self.layer(linear.site), dx) {
            (Some(layer), dx) => {
                layer.backward(self, Backward { linear, saved, x, dy, dx, gradients })
            }
            (None, Some(dx)) => self.machine.back_through(linear, dy, dx),
            (None, None) => {}
        }
    }

    /// `W x + b` of frozen weights as the runtime computes it in this precision. Threads share the rows
    /// where there are enough for each: what comes before and after does too, and a thread finds
    /// its own rows in its caches. Else they share the outputs.
    pub(crate) fn frozen(&self, linear: &Linear<'_>, x: &[f32], y: &mut [f32]) {
        if let Some(card) = self.machine.card(linear.site) {
            return card.forward(linear, x, None, y);
        }
        let (outputs, inputs, m) = (linear.weight.rows(), linear.weight.cols(), &self.machine);
        let is_fast = self.precision == Precision::Fast && m.kernels.has_fast(&linear.weight);
        let n = x.len() / inputs;
        let share = m.share(n);
        let integers = if is_fast { x.len() } else { 0 };
        m.temporary(integers + 4 * (integers / GROUP));
        let multiply = |x: &[f32], y: &mut [f32], executor: &dyn Executor, threads: usize| {
            let segment = [Segment { first: 0, rows: x.len() / inputs, sequence: 0 }];
            let pass = Pass {
                kernels: m.kernels,
                executor,
                threads,
                segments: &segment,
                active: &[],
                max_active: 0,
                has_factors: false,
                has_scales: false,
            };
            let (mut values, mut scales) = (vec![0; integers], vec![0.0; integers / GROUP]);
            let mut scratch =
                Scratch { low_rank: &mut [], width: 0, values: &mut values, scales: &mut scales };
            linear.forward(&pass, x, y, &mut scratch);
        };
        // Fast products make x integers once for all threads; and one row alone is computed another
        // way than one of many.
        if is_fast || share < ROWS || n % share == 1 {
            return m.compute(|| multiply(x, y, m.executor, m.threads()));
        }
        m.each(y.chunks_mut(share * outputs).zip(x.chunks(share * inputs)), |(y, x)| {
            multiply(x, y, &Serial, 1)
        });
    }

    /// The vectors of `tokens`, `[n, dim]`, of a table with or without an adapter.
    pub(crate) fn embed(&self, table: &nn::Embedding<'_>, tokens: &[u32], y: &mut [f32]) {
        let (weight, dim) = (self.weight(table.site, table.table), table.table.cols());
        let share = self.machine.share(tokens.len());
        self.machine.each(y.chunks_mut(share * dim).zip(tokens.chunks(share)), |(y, tokens)| {
            y.chunks_exact_mut(dim)
                .zip(tokens)
                .for_each(|(y, &token)| weight.read(token as usize, 0, y));
        });
        if let Some(layer) = self.layer(table.site) {
            layer.embed(self, tokens, y);
        }
    }

    /// The backward pass of [`embed`](Self::embed).
    pub(crate) fn embed_back(
        &self,
        table: &nn::Embedding<'_>,
        tokens: &[u32],
        dy: &[f32],
        gradients: &mut [f32],
    ) {
        if let Some(layer) = self.layer(table.site) {
            layer.embed_backward(self, tokens, dy, gradients);
        }
    }

    /// x' = dropout(x) of the input of `site`; `None` without dropout, when it is x.
    pub(crate) fn dropped(&self, site: u32, x: &[f32]) -> Option<Floats> {
        let dropout = self.dropout?;
        let mut dropped = self.machine.copy(x);
        self.machine.compute(|| dropout.apply(site, &mut dropped));
        Some(dropped)
    }

    /// Adds to dx what `branch` makes of the gradient of x': it is given where to, and what to
    /// multiply the numbers there with before it adds.
    pub(crate) fn through_dropout(
        &self,
        site: u32,
        dx: &mut [f32],
        branch: impl FnOnce(&mut [f32], f32),
    ) {
        let Some(dropout) = self.dropout else { return branch(dx, 1.0) };
        let mut through = self.machine.zeros(dx.len());
        branch(&mut through, 0.0);
        self.machine.compute(|| {
            dropout.apply(site, &mut through);
            self.machine.kernels.axpy(1.0, &through, dx);
        });
    }

    /// What was prepared for `site`.
    pub(crate) fn prepared(&self, site: u32) -> &'s [f32] {
        &self.prepared[site as usize]
    }

    fn layer(&self, site: u32) -> Option<&'s dyn Parametrization> {
        self.plan.layer(site)
    }
}

/// A layer with what was trained in place of its own numbers.
pub(crate) fn trained<'v>(
    plan: &Plan,
    values: &'v [f32],
    linear: Linear<'v>,
) -> schema::Linear<'v> {
    let layer = plan.layer(linear.site);
    let linear = layer.map_or(linear, |layer| layer.layer(linear, values));
    schema::Linear { weight: linear.weight.into(), bias: linear.bias }
}
