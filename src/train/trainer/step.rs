//! One optimizer step: the gradient of some batches, then the optimizer, with what the method does
//! before and after it.

use std::sync::Arc;

use super::Trainer;
use crate::random;
use crate::runtime::Executor;
use crate::train::TrainError;
use crate::train::body::Back;
use crate::train::data::{Batch, IGNORE, Targets};
use crate::train::device::{Card, Machine, Pool};
use crate::train::method::{Parametrization, Update};
use crate::train::optimizer::clip;
use crate::train::step::{Dropout, Step};

/// The stream of random numbers that dropout's seeds are drawn from.
const DROPOUT: u64 = 0x6472_6f70;

/// What one optimizer step saw.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepFacts {
    /// The mean loss of everything scored.
    pub loss: f64,
    /// Tokens or sequences that were scored.
    pub scored: usize,
    /// Sequences whose class was right.
    pub right: usize,
    /// The global norm of the gradient before clipping.
    pub norm: f32,
    /// DyLoRA: the rank that was drawn.
    pub rank: Option<usize>,
}

impl Trainer<'_> {
    /// One optimizer step: [`backward`](Self::backward), then [`apply`](Self::apply).
    ///
    /// # Errors
    /// Those of the two.
    pub fn step(
        &mut self,
        executor: &dyn Executor,
        batches: &[Batch],
        factor: f32,
    ) -> Result<StepFacts, TrainError> {
        let facts = self.backward(executor, batches)?;
        self.apply(facts, factor)
    }

    /// The gradient of the mean loss over everything scored in `batches` (more than one: gradient
    /// accumulation).
    ///
    /// # Errors
    /// [`Error::Token`](crate::Error::Token), [`Error::Length`](crate::Error::Length), [`Error::ContextFull`](crate::Error::ContextFull) for batches that do not fit the
    /// model.
    pub fn backward(
        &mut self,
        executor: &dyn Executor,
        batches: &[Batch],
    ) -> Result<StepFacts, TrainError> {
        batches.iter().try_for_each(|batch| self.check(batch))?;
        let scored: usize = batches.iter().map(scored).sum();
        let rank = self.technique.rank(&self.options, self.steps);
        let machine = machine(executor, &self.pool, &self.card)?;
        let prepared = self.prepare(&machine);
        self.gradients.fill(0.0);
        let weight = 1.0 / scored.max(1) as f32;
        let mut facts = StepFacts { loss: 0.0, scored, right: 0, norm: 0.0, rank };
        for (index, batch) in batches.iter().enumerate() {
            let (p, at) = (self.options.dropout, self.steps << 16 | index as u64);
            let seed = random::bits(self.options.seed, DROPOUT, at);
            let step = Step {
                machine,
                plan: &self.plan,
                values: &self.values,
                prepared: &prepared,
                rank,
                dropout: (p > 0.0).then_some(Dropout { p, seed }),
                precision: self.options.precision,
            };
            let label_smoothing = self.options.label_smoothing;
            let back = Back { weight, label_smoothing, gradients: &mut self.gradients };
            let outcome = self.network.run(&step, batch, Some(back));
            facts.loss += outcome.loss / scored.max(1) as f64;
            facts.right += outcome.right;
        }
        check(&self.card)?;
        let gradients = &mut self.gradients;
        facts.loss += self.technique.regularize(&self.options, rank, &self.values, gradients);
        Ok(facts)
    }

    /// Lets the optimizer apply the gradient of [`backward`](Self::backward) at `factor` times the
    /// learning rate.
    ///
    /// # Errors
    /// [`TrainError::Diverged`] if loss or gradient are not finite: then nothing has changed.
    pub fn apply(&mut self, facts: StepFacts, factor: f32) -> Result<StepFacts, TrainError> {
        let most = if self.options.max_norm > 0.0 { self.options.max_norm } else { f32::INFINITY };
        let norm = clip(&mut self.gradients, most);
        let finite = self.technique.before_step(Update {
            options: &self.options,
            values: &self.values,
            gradients: &mut self.gradients,
            optimizer: &mut self.optimizer,
            step: self.steps + 1,
        });
        if !facts.loss.is_finite() || !norm.is_finite() || !finite {
            let loss = if norm.is_finite() && finite { facts.loss } else { f64::NAN };
            let (step, kept) = (self.steps + 1, Some(self.steps));
            return Err(TrainError::Diverged { step, from: facts.loss, loss, kept });
        }
        self.optimizer.step(self.options.learning_rate * factor, &mut self.values, &self.gradients);
        self.technique.after_step(&mut self.values);
        self.steps += 1;
        Ok(StepFacts { norm, ..facts })
    }

    /// The loss of a batch as it is trained, but without dropout; at `rank` if one is given
    /// (DyLoRA).
    ///
    /// # Errors
    /// [`Error::Token`](crate::Error::Token), [`Error::Length`](crate::Error::Length) for a batch that does not fit the model.
    pub fn loss(
        &self,
        executor: &dyn Executor,
        batch: &Batch,
        rank: Option<usize>,
    ) -> Result<StepFacts, TrainError> {
        self.check(batch)?;
        let machine = machine(executor, &self.pool, &self.card)?;
        let step = Step {
            machine,
            plan: &self.plan,
            values: &self.values,
            prepared: &self.prepare(&machine),
            rank,
            dropout: None,
            precision: self.options.precision,
        };
        let outcome = self.network.run(&step, batch, None);
        check(&self.card)?;
        let loss = outcome.loss / outcome.scored.max(1) as f64;
        Ok(StepFacts { loss, scored: outcome.scored, right: outcome.right, norm: 0.0, rank })
    }

    /// What the method computes before a pass, per site.
    fn prepare(&self, machine: &Machine<'_>) -> Vec<Vec<f32>> {
        let of = |(site, layer): (usize, &Option<Arc<dyn Parametrization>>)| {
            let linear = self.network.layer_at(site as u32);
            let both = layer.as_ref().zip(linear);
            both.map_or_else(Vec::new, |(layer, l)| layer.prepare(machine, &l, &self.values))
        };
        self.plan.layers.iter().enumerate().map(of).collect()
    }
}

/// What passes run on.
fn machine<'m>(
    executor: &'m dyn Executor,
    pool: &'m Arc<Pool>,
    card: &'m Option<Box<dyn Card>>,
) -> Result<Machine<'m>, TrainError> {
    check(card)?;
    Ok(Machine::new(executor, pool).with_card(card.as_deref()))
}

/// Refuses to go on with a card that has failed.
fn check(card: &Option<Box<dyn Card>>) -> Result<(), TrainError> {
    card.as_ref().map_or(Ok(()), |card| card.check())
}

/// Everything in a batch that has a target.
fn scored(batch: &Batch) -> usize {
    match &batch.targets {
        Targets::Next(next) => next.iter().filter(|&&token| token != IGNORE).count(),
        Targets::Class(classes) => classes.len(),
    }
}
