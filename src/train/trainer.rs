//! A model, what is trained of it, and one optimizer step at a time. No files, no loop: those are
//! in `run`.

use std::ops::Range;
use std::sync::Arc;

use super::TrainError;
use super::body::{Back, Network};
use super::data::{Batch, Dataset, Inputs, ModelInput, Targets};
use super::evaluate::{self, Measures};
use super::facts::{self, Facts};
use super::norms;
use super::optimizer::{Group, Optimizer, State, clip};
use super::options::Options;
use super::parallel::Machine;
use super::plan::{Change, Part, Plan, Tensor};
use super::planner;
use super::pool::Pool;
use super::step::{Dropout, Step};
use crate::adapter::{AdapterBuilder, ClassifierParts, Numbers, Place, TargetParts};
use crate::archive::{Buffer, Fingerprint};
use crate::error::Error;
use crate::kernel::Precision;
use crate::model::{AnyBase, with_family};
use crate::random;
use crate::runtime::Executor;

/// A base that can be trained on: a [`Llama`](crate::model::llama::Llama) or another family's
/// opened base.
pub trait Trainable<'a>: sealed::Sealed<'a> {}

pub(crate) mod sealed {
    use super::Network;

    /// How a base becomes a network.
    pub trait Sealed<'a> {
        /// The base's network, with or without activation checkpointing.
        #[allow(private_interfaces, reason = "sealed")]
        fn network(self, checkpointing: bool) -> Box<dyn Network + Send + Sync + 'a>;
    }
}

impl<'a, T: sealed::Sealed<'a>> Trainable<'a> for T {}

impl<'a> sealed::Sealed<'a> for AnyBase<'a> {
    #[allow(private_interfaces, reason = "sealed")]
    fn network(self, checkpointing: bool) -> Box<dyn Network + Send + Sync + 'a> {
        with_family!(self, model => model.network(checkpointing))
    }
}

impl AnyBase<'_> {
    /// What it takes in.
    pub fn input(&self) -> ModelInput {
        sealed::Sealed::network(*self, false).borders().input()
    }
}

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

/// One tensor of what is trained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// The module path of its layer.
    pub layer: String,
    /// What it is to its layer.
    pub part: Part,
    /// Where it lies in [`Trainer::values`].
    pub range: Range<usize>,
    /// Does it keep its values (LoRA-FA's A)?
    pub frozen: bool,
}

/// Trains adapters (or, with [`Method::Full`](super::Method::Full), the weights) of one base.
pub struct Trainer<'a> {
    network: Box<dyn Network + Send + Sync + 'a>,
    options: Options,
    plan: Plan,
    labels: Vec<String>,
    values: Vec<f32>,
    gradients: Vec<f32>,
    optimizer: Optimizer,
    /// The buffers of steps.
    pool: Arc<Pool>,
    /// Per site, ‖W‖² of DoRA's rows.
    squared: Vec<Vec<f64>>,
    /// Optimizer steps taken.
    steps: u64,
    /// What a run says of itself in the archive.
    facts: Facts,
}

impl std::fmt::Debug for Trainer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trainer")
            .field("options", &self.options)
            .field("steps", &self.steps)
            .finish_non_exhaustive()
    }
}

/// The stream of random numbers that dropout's seeds are drawn from.
const DROPOUT: u64 = 0x6472_6f70;

impl<'a> Trainer<'a> {
    /// A run on `base`; with `labels`, a classifier is trained too, else the next token.
    ///
    /// # Errors
    /// [`TrainError::Options`] for options that cannot be or do not fit the base.
    pub fn new(
        base: impl Trainable<'a>,
        options: Options,
        labels: Vec<String>,
    ) -> Result<Self, TrainError> {
        let network = base.network(options.checkpointing);
        let mut options = options;
        if let Some(start) = &options.start.clone() {
            start.describe(&mut options);
            start.describe_layers(network.base(), &mut options);
        }
        if labels.len() == 1 {
            return Err(TrainError::options(format!(
                "a classifier needs two labels, there is only '{}'",
                labels[0]
            )));
        }
        check_task(network.as_ref(), labels.len())?;
        let (plan, values) = planner::plan(network.as_ref(), &options, &labels)?;
        let rules = options.method.rules();
        let group = |tensor: &Tensor| Group {
            range: tensor.range.clone(),
            rate: rules.rate(tensor, &options),
            decay: match tensor.part {
                _ if rules.decays_after(&options) => options.weight_decay,
                Part::Bias | Part::Vector | Part::ClassifierBias => 0.0,
                _ => options.weight_decay,
            },
        };
        let groups =
            plan.tensors.iter().filter(|tensor| !plan.is_frozen(tensor)).map(group).collect();
        let mut optimizer = Optimizer::new(options.optimizer, groups, plan.len());
        optimizer.set_decay_after(rules.decays_after(&options));
        let squared = norms::squared_of(&plan, |site| network.layer_at(site));
        let gradients = vec![0.0; values.len()];
        Ok(Self {
            network,
            options,
            plan,
            labels,
            values,
            gradients,
            optimizer,
            pool: Arc::default(),
            squared,
            steps: 0,
            facts: Facts::new(),
        })
    }

    /// What the run was told.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The label names of the classifier; empty for language models.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// Optimizer steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// How many numbers are trained.
    pub fn trainable_parameters(&self) -> usize {
        self.plan.trainable()
    }

    /// Everything that is trained, in the order of the arena.
    pub fn parameters(&self) -> impl Iterator<Item = Parameter> + '_ {
        self.plan.tensors.iter().map(|tensor| Parameter {
            layer: match tensor.part {
                Part::Vector => format!("vector {}", tensor.place),
                Part::ClassifierWeight | Part::ClassifierBias => "classifier".into(),
                _ => planner::path(self.network.as_ref(), tensor.place),
            },
            part: tensor.part,
            range: tensor.range.clone(),
            frozen: self.plan.is_frozen(tensor),
        })
    }

    /// The arena.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Replaces the arena.
    ///
    /// # Errors
    /// [`Error::Length`] for another number of values, [`TrainError::Value`]; then nothing has
    /// changed.
    pub fn set_values(&mut self, values: &[f32]) -> Result<(), TrainError> {
        self.check_values(values)?;
        self.values.copy_from_slice(values);
        Ok(())
    }

    fn check_values(&self, values: &[f32]) -> Result<(), TrainError> {
        if values.len() != self.values.len() {
            return Err(Error::Length { have: values.len(), need: self.values.len() }.into());
        }
        let Some(at) = values.iter().position(|value| !value.is_finite()) else { return Ok(()) };
        let found = self.parameters().find(|parameter| parameter.range.contains(&at));
        let (place, start) = found.map_or_else(
            || ("what is trained".into(), 0),
            |found| (format!("{} ({})", found.layer, found.part.name()), found.range.start),
        );
        Err(TrainError::Value { place, index: at - start })
    }

    /// Trades the arena for `other`, which must be as long.
    pub(crate) fn swap_values(&mut self, other: &mut Vec<f32>) {
        debug_assert_eq!(other.len(), self.values.len());
        std::mem::swap(&mut self.values, other);
    }

    /// The loss of a model that gives every token, or every label, the same probability.
    pub(crate) fn uniform_loss(&self) -> f64 {
        let choices = match self.labels.len() {
            0 => self.network.borders().tokens,
            labels => labels,
        };
        (choices.max(1) as f64).ln()
    }

    /// The gradient of the last [`backward`](Self::backward), like the arena.
    pub fn gradients(&self) -> &[f32] {
        &self.gradients
    }

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
    /// [`Error::Token`], [`Error::Length`], [`Error::ContextFull`] for batches that do not fit the
    /// model.
    pub fn backward(
        &mut self,
        executor: &dyn Executor,
        batches: &[Batch],
    ) -> Result<StepFacts, TrainError> {
        batches.iter().try_for_each(|batch| self.check(batch))?;
        let scored: usize = batches.iter().map(scored).sum();
        let rank = self.options.method.rules().rank(&self.options, self.steps);
        let machine = Machine::new(executor, &self.pool);
        let (norms, precision) = (self.norms(&machine), self.options.precision);
        self.gradients.fill(0.0);
        let mut facts = StepFacts { loss: 0.0, scored, right: 0, norm: 0.0, rank };
        for (index, batch) in batches.iter().enumerate() {
            let seed = random::bits(self.options.seed, DROPOUT, self.steps << 16 | index as u64);
            let dropout =
                (self.options.dropout > 0.0).then_some(Dropout { p: self.options.dropout, seed });
            let step = Step {
                machine,
                plan: &self.plan,
                values: &self.values,
                norms: &norms,
                rank,
                dropout,
                precision,
            };
            let weight = 1.0 / scored.max(1) as f32;
            let back = Back {
                weight,
                label_smoothing: self.options.label_smoothing,
                gradients: &mut self.gradients,
            };
            let outcome = self.network.run(&step, batch, Some(back));
            facts.loss += outcome.loss / scored.max(1) as f64;
            facts.right += outcome.right;
        }
        Ok(facts)
    }

    /// Lets the optimizer apply the gradient of [`backward`](Self::backward) at `factor` times the
    /// learning rate.
    ///
    /// # Errors
    /// [`TrainError::Diverged`] if loss or gradient are not finite: then nothing has changed.
    pub fn apply(&mut self, facts: StepFacts, factor: f32) -> Result<StepFacts, TrainError> {
        let rules = self.options.method.rules();
        rules.adjust(&self.plan, &self.options, facts.rank, &mut self.gradients);
        let most = if self.options.max_norm > 0.0 { self.options.max_norm } else { f32::INFINITY };
        let norm = clip(&mut self.gradients, most);
        rules.precondition(&self.plan, &self.options, &self.values, &mut self.gradients);
        let finite = !rules.decays_after(&self.options)
            || self.gradients.iter().all(|gradient| gradient.is_finite());
        if !facts.loss.is_finite() || !norm.is_finite() || !finite {
            let loss = if norm.is_finite() && finite { facts.loss } else { f64::NAN };
            let (step, kept) = (self.steps + 1, Some(self.steps));
            return Err(TrainError::Diverged { step, from: facts.loss, loss, kept });
        }
        if let Some(epsilon) = rules.epsilon(&self.options, self.steps + 1) {
            self.optimizer.set_epsilon(epsilon);
        }
        self.optimizer.step(self.options.learning_rate * factor, &mut self.values, &self.gradients);
        self.steps += 1;
        Ok(StepFacts { norm, ..facts })
    }

    /// The loss of a batch as it is trained, but without dropout; at `rank` if one is given
    /// (DyLoRA).
    ///
    /// # Errors
    /// [`Error::Token`], [`Error::Length`] for a batch that does not fit the model.
    pub fn loss(
        &self,
        executor: &dyn Executor,
        batch: &Batch,
        rank: Option<usize>,
    ) -> Result<StepFacts, TrainError> {
        self.check(batch)?;
        let machine = Machine::new(executor, &self.pool);
        let (norms, precision) = (self.norms(&machine), self.options.precision);
        let step = Step {
            machine,
            plan: &self.plan,
            values: &self.values,
            norms: &norms,
            rank,
            dropout: None,
            precision,
        };
        let outcome = self.network.run(&step, batch, None);
        let loss = outcome.loss / outcome.scored.max(1) as f64;
        Ok(StepFacts { loss, scored: outcome.scored, right: outcome.right, norm: 0.0, rank })
    }

    /// What the core makes of `data` with what is trained now, in `Exact`; at `rank` if one is
    /// given (DyLoRA).
    ///
    /// # Errors
    /// What the core or the data says.
    pub fn measure(
        &self,
        data: &Dataset<'_>,
        executor: &dyn Executor,
        rank: Option<usize>,
    ) -> Result<Measures, TrainError> {
        let network = self.network.as_ref();
        let archive = self.archive("validation", rank)?;
        if !self.options.method.rules().is_full() {
            return evaluate::measure(
                network,
                None,
                &[(&archive, 1.0)],
                data,
                Precision::Exact,
                executor,
                &mut |_, _| (),
            );
        }
        match self.classifier_adapter(&archive)? {
            Some(classifier) => evaluate::measure(
                network,
                Some(&archive),
                &[(&classifier, 1.0)],
                data,
                Precision::Exact,
                executor,
                &mut |_, _| (),
            ),
            None => evaluate::measure(
                network,
                Some(&archive),
                &[],
                data,
                Precision::Exact,
                executor,
                &mut |_, _| (),
            ),
        }
    }

    /// With full fine-tuning, the trained classifier as an adapter of the trained base `archive`;
    /// `None` for a language model.
    ///
    /// # Errors
    /// What the writers say.
    pub fn classifier_adapter(&self, archive: &[u8]) -> Result<Option<Buffer>, TrainError> {
        let Some(classifier) = self.classifier() else { return Ok(None) };
        let mut builder = AdapterBuilder::new("classifier", self.options.method.name());
        builder.classifier = Some(classifier);
        builder.facts = facts::of(&self.options, self.steps, None, &self.facts);
        let base = self.network.reopen(archive)?;
        Ok(Some(builder.build(base.as_ref())?))
    }

    fn classifier(&self) -> Option<ClassifierParts> {
        self.plan.classifier.as_ref().map(|classifier| ClassifierParts {
            weight: self.values[classifier.weight.clone()].to_vec(),
            bias: self.values[classifier.bias.clone()].to_vec(),
            labels: self.labels.clone(),
        })
    }

    /// What a run says of itself in the archives to come.
    pub(crate) fn set_facts(&mut self, facts: Facts) {
        self.facts = facts;
    }

    /// What the base takes in.
    pub(crate) fn input(&self) -> ModelInput {
        self.network.borders().input()
    }

    /// The fingerprint of the base.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        self.network.base().fingerprint()
    }

    /// Numbers in the arena, and bytes of the optimizer's state.
    pub(crate) fn sizes(&self) -> (usize, usize) {
        (self.values.len(), self.optimizer.bytes())
    }

    /// The optimizer's state; frees the buffers of steps, as a checkpoint needs room for copies.
    pub(crate) fn optimizer_state(&self) -> State {
        self.pool.clear();
        self.optimizer.save()
    }

    /// Goes on from saved numbers; on an error nothing has changed.
    pub(crate) fn restore(
        &mut self,
        steps: u64,
        values: &[f32],
        optimizer: &State,
    ) -> Result<(), TrainError> {
        self.check_values(values)?;
        self.optimizer.load(optimizer)?;
        self.values.copy_from_slice(values);
        self.steps = steps;
        Ok(())
    }

    /// Per site, DoRA's C.
    fn norms(&self, machine: &Machine<'_>) -> Vec<Vec<f32>> {
        let of = |(site, squared): (usize, &Vec<f64>)| match (
            self.plan.change(site as u32),
            self.network.layer_at(site as u32),
        ) {
            (Change::LowRank(low), Some(linear)) if !squared.is_empty() => {
                norms::norms(machine, &linear.weight, squared, low, &self.values)
            }
            _ => Vec::new(),
        };
        self.squared.iter().enumerate().map(of).collect()
    }

    /// Everything the forward pass relies on.
    fn check(&self, batch: &Batch) -> Result<(), TrainError> {
        let borders = self.network.borders();
        let rows = match &batch.inputs {
            Inputs::Tokens(tokens) => {
                let vocab = borders.tokens;
                if let Some(&token) = tokens.iter().find(|&&token| token as usize >= vocab) {
                    return Err(Error::Token { token, vocab: vocab as u32 }.into());
                }
                tokens.len()
            }
            Inputs::Features { values, width } => {
                let need = borders.features;
                if *width != need || need == 0 || !values.len().is_multiple_of(need) {
                    return Err(Error::Length { have: *width, need }.into());
                }
                values.len() / need
            }
        };
        let covers =
            batch.starts.first() == Some(&0) && batch.starts.last() == Some(&rows) && rows > 0;
        let longest =
            batch.starts.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).max().unwrap_or(0);
        if !covers || batch.starts.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err(Error::Length {
                have: batch.starts.last().copied().unwrap_or(0),
                need: rows,
            }
            .into());
        }
        let context = borders.context;
        if longest > context {
            return Err(Error::ContextFull { asked: longest, context }.into());
        }
        let classifies = matches!(batch.targets, Targets::Class(_));
        if classifies == self.labels.is_empty() {
            let (batch, run) =
                if classifies { ("classes", "the next token") } else { ("next tokens", "classes") };
            return Err(TrainError::options(format!(
                "the batch has {batch} as targets, this run learns {run}"
            )));
        }
        let (have, need, classes) = match &batch.targets {
            Targets::Next(next) => (next.len(), rows, borders.tokens),
            Targets::Class(classes) => (classes.len(), batch.starts.len() - 1, self.labels.len()),
        };
        if have != need {
            return Err(Error::Length { have, need }.into());
        }
        let (Targets::Next(targets) | Targets::Class(targets)) = &batch.targets;
        match targets
            .iter()
            .find(|&&target| target != super::data::IGNORE && target as usize >= classes)
        {
            Some(&class) if classifies => Err(TrainError::Class { class, labels: classes }),
            Some(&token) => Err(Error::Token { token, vocab: classes as u32 }.into()),
            None => Ok(()),
        }
    }

    /// The adapter as it is now, at `rank` if one is given (DyLoRA: alpha stays, so that the scale
    /// becomes alpha / rank). Its facts are those of the training: options, steps, and after
    /// [`run`](super::run) data, loss and validation.
    pub fn adapter(&self, name: &str, rank: Option<usize>) -> AdapterBuilder {
        let mut builder = AdapterBuilder::new(name, self.options.method.name());
        for (site, change) in self.plan.changes.iter().enumerate() {
            let Change::LowRank(low) = change else { continue };
            let rank = low.rank(rank);
            let (a, b) = (&self.values[low.a.clone()], &self.values[low.b.clone()]);
            let a = if low.embedding {
                let vocab = a.len() / low.rank;
                (0..rank)
                    .flat_map(|j| (0..vocab).map(move |token| a[token * low.rank + j]))
                    .collect()
            } else {
                a[..a.len() / low.rank * rank].to_vec()
            };
            let outputs = b.len() / low.rank;
            let b =
                (0..outputs).flat_map(|row| (0..rank).map(move |j| b[j * outputs + row])).collect();
            let parts = TargetParts {
                rank,
                alpha: low.alpha,
                rank_stabilized: low.rank_stabilized,
                a: Numbers::F32(a),
                b: Numbers::F32(b),
                bias: Vec::new(),
                magnitude: self.values[low.magnitude.clone()].to_vec(),
            };
            builder.targets.insert(Place(site as u32), parts);
        }
        builder.classifier = self.classifier();
        builder.facts = facts::of(&self.options, self.steps, rank, &self.facts);
        builder
    }

    /// What was trained, as an archive in memory: an adapter, or with full fine-tuning a base.
    ///
    /// # Errors
    /// What the writers say.
    pub fn archive(&self, name: &str, rank: Option<usize>) -> Result<Buffer, TrainError> {
        self.pool.clear();
        if self.options.method.rules().is_full() {
            return Ok(self.network.write_base(name, &self.plan, &self.values)?);
        }
        Ok(self.adapter(name, rank).build(self.network.base())?)
    }
}

/// Refuses a task that the family is not made for.
pub(crate) fn check_task(network: &dyn Network, labels: usize) -> Result<(), TrainError> {
    if labels == 0 && network.head_site().is_none() {
        return Err(TrainError::options(
            "this model has no language-model head: it can only be trained to classify",
        ));
    }
    Ok(())
}

/// Everything in a batch that has a target.
fn scored(batch: &Batch) -> usize {
    match &batch.targets {
        Targets::Next(next) => next.iter().filter(|&&token| token != super::data::IGNORE).count(),
        Targets::Class(classes) => classes.len(),
    }
}
