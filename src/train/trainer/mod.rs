//! A model and what is trained of it. No files, no loop: those are in `run`. An optimizer step is in
//! `step`, what a batch must be in `batch`, what training leaves behind in `result`.

mod batch;
mod result;
mod step;

use std::ops::Range;
use std::sync::Arc;

use super::TrainError;
use super::body::Network;
use super::data::ModelInput;
use super::device::{Card, Pool};
use super::facts::Facts;
use super::method::{Part, Technique};
use super::optimizer::{Group, Optimizer, State};
use super::options::Options;
use super::plan::{Plan, Tensor};
use super::planner::{self, Planned};
use crate::archive::Fingerprint;
use crate::error::Error;
use crate::model::{AnyBase, with_family};

pub use step::StepFacts;

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
        sealed::Sealed::network(*self, false).input_spec().input()
    }
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
///
/// [`run`](super::run()) makes a whole run; here, single steps:
///
/// ```
/// # use lowrank::{archive::ArchiveFile, model::llama::Llama, runtime::Serial, text::Tokenizer};
/// use lowrank::train::data::{Batch, Inputs, IGNORE, Targets};
/// use lowrank::train::{Method, Options, Trainer};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let base = ArchiveFile::open("assets/tiny.lrk")?;
/// let model = Llama::open(&base)?;
/// let options = Options { learning_rate: 1e-2, ..Options::new(Method::QLora) };
/// let mut trainer = Trainer::new(model, options, Vec::new())?;
///
/// let tokens = Tokenizer::new(&model)?.encode_prompt("The duck sails a boat.")?;
/// let next = tokens[1..].iter().copied().chain([IGNORE]).collect();
/// let batch = Batch {
///     starts: vec![0, tokens.len()],
///     inputs: Inputs::Tokens(tokens),
///     targets: Targets::Next(next),
/// };
/// let first = trainer.step(&Serial, &[batch.clone()], 1.0)?.loss;
/// for _ in 0..5 {
///     trainer.step(&Serial, &[batch.clone()], 1.0)?;
/// }
/// let last = trainer.step(&Serial, &[batch], 1.0)?.loss;
/// assert!(last < first);
/// let adapter = trainer.archive("duck", None)?; // for `Adapter::open`, or a file
/// # Ok(())
/// # }
/// ```
pub struct Trainer<'a> {
    pub(super) network: Box<dyn Network + Send + Sync + 'a>,
    pub(super) options: Options,
    pub(super) technique: Box<dyn Technique>,
    plan: Plan,
    labels: Vec<String>,
    values: Vec<f32>,
    gradients: Vec<f32>,
    optimizer: Optimizer,
    /// The buffers of steps.
    pool: Arc<Pool>,
    /// What computes products with frozen weights, if not the CPU.
    pub(super) card: Option<Box<dyn Card>>,
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
        let (planned, values) = planner::plan(network.as_ref(), &options, &labels)?;
        let Planned { technique, plan } = planned;
        let group = |tensor: &Tensor| {
            let (rate, decay) = technique.group(tensor, &options);
            Group { range: tensor.range.clone(), rate, decay }
        };
        let groups = plan.trained().map(group).collect();
        let optimizer = Optimizer::new(options.optimizer, groups, plan.len());
        let gradients = vec![0.0; values.len()];
        Ok(Self {
            network,
            options,
            technique,
            plan,
            labels,
            values,
            gradients,
            optimizer,
            pool: Arc::default(),
            card: None,
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
            frozen: tensor.frozen,
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
            0 => self.network.input_spec().tokens,
            labels => labels,
        };
        (choices.max(1) as f64).ln()
    }

    /// The gradient of the last [`backward`](Self::backward), like the arena.
    pub fn gradients(&self) -> &[f32] {
        &self.gradients
    }

    /// What a run says of itself in the archives to come.
    pub(crate) fn set_facts(&mut self, facts: Facts) {
        self.facts = facts;
    }

    /// What the base takes in.
    pub(crate) fn input(&self) -> ModelInput {
        self.network.input_spec().input()
    }

    /// The fingerprint of the base.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        self.network.base().fingerprint()
    }

    /// Numbers in the arena, and bytes of the [`state`](Self::state).
    pub(crate) fn sizes(&self) -> (usize, usize) {
        (self.values.len(), self.optimizer.bytes() + self.technique.state().len())
    }

    /// What the optimizer remembers, then what the method does; frees the buffers of steps, as a
    /// checkpoint needs room for copies.
    pub(crate) fn state(&self) -> State {
        self.pool.clear();
        let mut state = self.optimizer.save();
        state.bytes.extend(self.technique.state());
        state
    }

    /// Goes on from saved numbers; on an error nothing has changed.
    pub(crate) fn restore(
        &mut self,
        steps: u64,
        values: &[f32],
        mut state: State,
    ) -> Result<(), TrainError> {
        self.check_values(values)?;
        let (have, need) = (state.bytes.len(), self.sizes().1);
        if have != need {
            return Err(Error::Length { have, need }.into());
        }
        let technique = state.bytes.split_off(self.optimizer.bytes());
        self.technique.restore(&technique)?;
        self.optimizer.load(&state)?;
        self.values.copy_from_slice(values);
        self.steps = steps;
        Ok(())
    }
}

/// Refuses a task that the family is not made for.
pub(crate) fn check_task(network: &dyn Network, labels: usize) -> Result<(), TrainError> {
    if labels == 0 && network.head_site().is_none() {
        return Err(TrainError::options(
            "this model has no language-model head: it can only be trained to classify \
             (task classify)",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
