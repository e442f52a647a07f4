//! What a run is told beside the options of training, what it tells, and the check of it.

use std::fmt;
use std::path::PathBuf;

use crate::train::TrainError;
use crate::train::course::MOST_EPOCHS;
use crate::train::data::Dataset;
use crate::train::evaluate::Measures;
use crate::train::method::Method;
use crate::train::options::check_effect;
use crate::train::trainer::Trainer;

/// How long a run is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Length {
    /// Passes over the training data.
    Epochs(u64),
    /// Optimizer steps.
    Steps(u64),
}

/// In how many steps the learning rate rises.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Warmup {
    /// This many.
    Steps(u64),
    /// This share of all steps, from 0 to 1.
    Share(f64),
}

impl Warmup {
    /// A whole number of steps, or a share of all below 1, as the command line and C take it.
    ///
    /// # Errors
    /// [`TrainError::Options`] for anything else.
    pub fn from_number(number: f64) -> Result<Self, TrainError> {
        match number {
            share if (0.0..1.0).contains(&share) => Ok(Self::Share(share)),
            steps if steps.is_finite() && steps >= 1.0 && steps.fract() == 0.0 => {
                Ok(Self::Steps(steps as u64))
            }
            _ => Err(TrainError::options(format!(
                "warmup is {number}, a whole number of steps or a share from 0 to 1 was expected"
            ))),
        }
    }
}

/// The number as it is typed.
impl fmt::Display for Warmup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Steps(steps) => steps.fmt(f),
            Self::Share(share) => share.fmt(f),
        }
    }
}

/// What a run is told beside [`Options`](crate::train::Options).
#[derive(Debug, Clone, PartialEq)]
pub struct RunOptions {
    /// How long it is. Default: one epoch.
    pub length: Length,
    /// In how many steps the learning rate rises. Default: 0.
    pub warmup: Warmup,
    /// Examples of a batch. Default: 8.
    pub batch_size: usize,
    /// Batches of an optimizer step. Default: 1.
    pub accumulation: usize,
    /// Put examples of similar lengths together. Default: yes.
    pub sort_by_length: bool,
    /// Steps between validations; `None`, the default, for one after every epoch.
    pub validate_every: Option<u64>,
    /// Stop after this many validations without a better one, and keep the best; `None`, the
    /// default, to keep the last.
    pub patience: Option<u32>,
    /// Where checkpoints are written, and how many steps lie between two. Default: none.
    pub checkpoint: Option<(PathBuf, u64)>,
    /// Go on from the checkpoint if there is one. Default: no.
    pub resume: bool,
    /// DyLoRA: the smallest rank whose validation loss is within this share of the best rank's is
    /// kept. Default: 0.01.
    pub rank_tolerance: f64,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            length: Length::Epochs(1),
            warmup: Warmup::Steps(0),
            batch_size: 8,
            accumulation: 1,
            sort_by_length: true,
            validate_every: None,
            patience: None,
            checkpoint: None,
            resume: false,
            rank_tolerance: 0.01,
        }
    }
}

impl RunOptions {
    /// Refuses an option that is set and acts with none of `methods`.
    ///
    /// # Errors
    /// [`TrainError::Options`] with its name.
    pub fn check_effects(&self, methods: &[Method]) -> Result<(), TrainError> {
        match self.rank_tolerance == Self::default().rank_tolerance {
            true => Ok(()),
            false => check_effect("rank-tolerance", methods),
        }
    }

    /// The same for another method: an option that does not act with it has its default.
    pub fn with_method(mut self, method: Method) -> Self {
        if !method.takes("rank-tolerance") {
            self.rank_tolerance = Self::default().rank_tolerance;
        }
        self
    }
}

/// What a run tells while it goes on.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// A step was taken.
    Step {
        /// From 1.
        step: u64,
        /// Of the whole run.
        total: u64,
        /// Its loss.
        loss: f64,
    },
    /// The validation data was measured.
    Validation {
        /// After this step.
        step: u64,
        /// Its loss.
        loss: f64,
        /// Its accuracy, of classes.
        accuracy: Option<f64>,
    },
}

/// Should a run go on? The later of two answers outweighs the earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Control {
    /// Yes.
    Continue,
    /// No: what was learnt so far is the result, as if the run had been this long.
    Keep,
    /// No: write a checkpoint, if there is a place for it, and return; there is no result yet.
    Stop,
}

/// What a run did.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Optimizer steps taken, those before a resume included.
    pub steps: u64,
    /// Was it told to [`Stop`](Control::Stop) before its end? Then there is a checkpoint at most.
    pub stopped: bool,
    /// The mean training loss of the last steps (a twentieth of the run).
    pub loss: f64,
    /// Seconds, those before a resume included, without validation.
    pub seconds: f64,
    /// Rows (tokens) that went through the model.
    pub rows: u64,
    /// The loss of every step.
    pub losses: Vec<f32>,
    /// Every validation: step, loss, accuracy of classes.
    pub validations: Vec<(u64, f64, Option<f64>)>,
    /// What the validation data says of the numbers that were kept.
    pub validation: Option<Measures>,
    /// DyLoRA: the validation loss of every rank, and the rank that was kept.
    pub ranks: Vec<f64>,
    /// DyLoRA: the rank that was kept.
    pub rank: Option<usize>,
}

/// Checks every number, and that what is set has an effect.
pub(super) fn check(
    options: &RunOptions,
    trainer: &Trainer<'_>,
    validation: Option<&Dataset<'_>>,
) -> Result<(), TrainError> {
    check_run(options, validation.is_some())?;
    let method = trainer.options().method;
    options.check_effects(&[method])?;
    if method.takes("rank-tolerance") && validation.is_none() {
        return Err(TrainError::options(format!(
            "{method} chooses its rank by validation data: name some"
        )));
    }
    Ok(())
}

/// Checks every number, and that what is set has an effect with or without validation data.
pub(crate) fn check_run(options: &RunOptions, has_validation: bool) -> Result<(), TrainError> {
    check_numbers(options)?;
    let idle = [
        ("patience", options.patience.is_some()),
        ("validate-every", options.validate_every.is_some()),
    ];
    match idle.iter().find(|(_, is_set)| *is_set && !has_validation) {
        Some((name, _)) => Err(TrainError::options(format!(
            "{name} has no effect without validation data: name some"
        ))),
        None => Ok(()),
    }
}

fn check_numbers(options: &RunOptions) -> Result<(), TrainError> {
    let min = |name: &str, found: u64| match found {
        0 => Err(TrainError::options(format!("{name} is 0, at least 1 was expected"))),
        _ => Ok(()),
    };
    min("batch-size", options.batch_size as u64)?;
    min("accumulation", options.accumulation as u64)?;
    min("validate-every", options.validate_every.unwrap_or(1))?;
    min("checkpoint-every", options.checkpoint.as_ref().map_or(1, |(_, every)| *every))?;
    match options.length {
        Length::Epochs(epochs) if epochs > MOST_EPOCHS => {
            return Err(TrainError::options(format!(
                "epochs is {epochs}, 1 to {MOST_EPOCHS} was expected; steps may be any number"
            )));
        }
        Length::Epochs(epochs) => min("epochs", epochs)?,
        Length::Steps(steps) => min("steps", steps)?,
    }
    if let Warmup::Share(share) = options.warmup
        && !(0.0..=1.0).contains(&share)
    {
        return Err(TrainError::options(format!(
            "warmup is {share}, a number of steps or a share from 0 to 1 was expected"
        )));
    }
    if options.rank_tolerance.is_nan() || options.rank_tolerance < 0.0 {
        return Err(TrainError::options(format!(
            "rank-tolerance is {}, at least 0 was expected",
            options.rank_tolerance
        )));
    }
    Ok(())
}
