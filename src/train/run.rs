//! A whole run: epochs, validation, early stopping, checkpoints, and the archive in the end. Steps
//! are in `trainer`.
//!
//! Where a run is follows from its step alone: the batches of an epoch are a function of the seed
//! and the epoch, what is random in a step is a function of the seed and the step. So a checkpoint
//! is the numbers, the optimizer and a step, and a resumed run ends with the same bits as one that
//! never stopped.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::TrainError;
use super::checkpoint;
use super::course::{Course, MOST_EPOCHS};
use super::data::{Batch, Dataset};
use super::divergence::{Guard, Verdict};
use super::evaluate::Measures;
use super::facts::{self, Facts};
use super::method::Method;
use super::options::without_effect;
use super::progress::Progress;
use super::schedule::Schedule;
use super::settings::Settings;
use super::trainer::Trainer;
use crate::archive::Buffer;
use crate::file::{FileError, Kind, Output, ToOutput};
use crate::runtime::Executor;

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

/// What a run is told beside [`Options`](super::Options).
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

/// Trains until the end, a stop, or divergence, and leaves the numbers that are to be kept in
/// `trainer`.
///
/// # Errors
/// What is wrong with data, options or a checkpoint; [`TrainError::Diverged`] if the loss explodes,
/// falls back to guessing, or is not a number: then `trainer` holds the last good numbers.
pub fn run(
    trainer: &mut Trainer<'_>,
    training: &Dataset<'_>,
    validation: Option<&Dataset<'_>>,
    options: &RunOptions,
    executor: &dyn Executor,
    watch: &mut dyn FnMut(Event) -> Control,
) -> Result<Report, TrainError> {
    check(options, trainer, validation)?;
    let mut datasets = [Some(training), validation].into_iter().flatten();
    datasets.try_for_each(|data| data.check_input(trainer.input()))?;
    if let Some((path, _)) = &options.checkpoint {
        try_checkpoint(path, trainer, training, validation)?;
    }
    trainer.set_facts(Facts::new());
    let mut run = Running::new(trainer, training, validation, options, executor, watch)?;
    match run.train() {
        Ok(true) => {
            let steps = run.trainer.steps();
            Ok(run.progress.report(steps, true))
        }
        Ok(false) => run.finish(),
        Err(error) => {
            if let TrainError::Diverged { step, .. } = error {
                run.guard.restore(run.trainer)?;
                run.trainer.set_facts(facts::of_divergence(step, run.guard.good_step()));
            }
            Err(error)
        }
    }
}

/// A run that goes on.
struct Running<'r, 't> {
    trainer: &'r mut Trainer<'t>,
    training: &'r Dataset<'r>,
    validation: Option<&'r Dataset<'r>>,
    options: &'r RunOptions,
    executor: &'r dyn Executor,
    watch: &'r mut dyn FnMut(Event) -> Control,
    schedule: Schedule,
    course: Course<'r>,
    /// The batches of the present epoch.
    plan: Option<(u64, Vec<Vec<u32>>)>,
    /// As text; empty without checkpoints.
    settings: String,
    progress: Progress,
    guard: Guard,
    /// A checkpoint waits for the loss that shows that its numbers are good.
    is_checkpoint_due: bool,
}

impl<'r, 't> Running<'r, 't> {
    fn new(
        trainer: &'r mut Trainer<'t>,
        training: &'r Dataset<'r>,
        validation: Option<&'r Dataset<'r>>,
        options: &'r RunOptions,
        executor: &'r dyn Executor,
        watch: &'r mut dyn FnMut(Event) -> Control,
    ) -> Result<Self, TrainError> {
        let course = Course::new(training, options, trainer.options().seed);
        let warmup = match options.warmup {
            Warmup::Steps(steps) => steps,
            Warmup::Share(share) => (share * course.total() as f64).ceil() as u64,
        };
        let shape = trainer.options().schedule;
        let schedule = Schedule { shape, warmup, total: course.total() };
        let (mut progress, mut text) = (Progress::default(), String::new());
        if let Some((path, _)) = &options.checkpoint {
            let settings = Settings::of(trainer, training, validation, options)?;
            text = settings.text();
            if options.resume && path.exists() {
                let (values, optimizer) = trainer.sizes();
                let base = trainer.fingerprint();
                let saved = checkpoint::read(path, base, &settings, values, optimizer)?;
                progress = Progress::restore(trainer, &saved)?;
            }
        }
        let guard = Guard::new(trainer, &progress.losses);
        Ok(Self {
            trainer,
            training,
            validation,
            options,
            executor,
            watch,
            schedule,
            course,
            plan: None,
            settings: text,
            progress,
            guard,
            is_checkpoint_due: false,
        })
    }

    /// Trains; was it told to stop?
    fn train(&mut self) -> Result<bool, TrainError> {
        while self.trainer.steps() < self.course.total() {
            let (loss, batches) = self.step()?;
            let (step, total) = (self.trainer.steps(), self.course.total());
            let event = Event::Step { step, total, loss };
            let mut control = (self.watch)(event);
            // Also before a stop: a run that goes on does not come back to this step.
            let mut is_enough = false;
            if let (Some(data), true) = (self.validation, self.is_validation_due()) {
                let later;
                (is_enough, later) = self.validate(data)?;
                control = control.max(later);
            }
            if is_enough {
                break;
            }
            if control != Control::Continue || step == total {
                let (losses, data) = (&self.progress.losses, self.training);
                self.guard.settle(self.trainer, losses, batches, data, self.executor)?;
            }
            let is_due =
                self.options.checkpoint.as_ref().is_some_and(|(_, e)| step.is_multiple_of(*e));
            self.is_checkpoint_due |= is_due && step < total;
            match control {
                Control::Continue => {}
                Control::Keep => break,
                Control::Stop => {
                    self.save()?;
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// One optimizer step: its loss, and how many batches it had. The loss is that of the numbers
    /// before the step: they are judged, and kept, before the optimizer changes them.
    fn step(&mut self) -> Result<(f64, usize), TrainError> {
        let started = Instant::now();
        let chosen = self.choose();
        let read = |examples: &Vec<u32>| self.training.batch_on(self.executor, examples);
        let batches: Vec<Batch> = chosen.iter().map(read).collect::<Result<_, _>>()?;
        self.guard.remember(&chosen);
        let facts = self.trainer.backward(self.executor, &batches)?;
        self.progress.losses.push(facts.loss as f32);
        let (losses, data) = (&self.progress.losses, self.training);
        let verdict = self.guard.judge(self.trainer, losses, data, self.executor)?;
        if self.is_checkpoint_due && verdict == Verdict::Good {
            self.save()?;
        }
        let factor = self.schedule.factor(self.trainer.steps());
        self.trainer.apply(facts, factor).map_err(|error| match error {
            TrainError::Diverged { step, loss, .. } => {
                self.guard.diverged(step, self.guard.level(), loss)
            }
            error => error,
        })?;
        let rows = batches.iter().map(|batch| *batch.starts.last().unwrap_or(&0) as u64);
        self.progress.rows += rows.sum::<u64>();
        self.progress.seconds += started.elapsed().as_secs_f64();
        Ok((facts.loss, chosen.len()))
    }

    /// The batches of the next step.
    fn choose(&mut self) -> Vec<Vec<u32>> {
        let (epoch, inside) = self.course.locate(self.trainer.steps());
        if self.plan.as_ref().is_none_or(|(of, _)| *of != epoch) {
            self.plan = Some((epoch, self.course.batches(epoch)));
        }
        let Some((_, batches)) = &self.plan else { return Vec::new() };
        let first = (inside as usize * self.options.accumulation).min(batches.len());
        let end = (first + self.options.accumulation).min(batches.len());
        batches[first..end].to_vec()
    }

    fn is_validation_due(&self) -> bool {
        let step = self.trainer.steps();
        let every = self.options.validate_every;
        every.map_or(self.course.ends_epoch(step), |every| step.is_multiple_of(every))
            || step == self.course.total()
    }

    /// Measures the validation data: is it time to stop early, and what is the run told?
    fn validate(&mut self, data: &Dataset<'_>) -> Result<(bool, Control), TrainError> {
        let step = self.trainer.steps();
        let known = self.progress.best_validation().unwrap_or(self.guard.level());
        let measures = match self.trainer.measure(data, self.executor, None) {
            Err(error) if error.is_not_a_number() => {
                return Err(self.guard.diverged(step, known, f64::NAN));
            }
            measures => measures?,
        };
        let (loss, accuracy) = (measures.loss, measures.accuracy);
        self.guard.judge_validation(
            self.trainer,
            (loss, known),
            &self.progress.losses,
            self.training,
            self.executor,
        )?;
        self.progress.validations.push((step, loss, accuracy));
        let control = (self.watch)(Event::Validation { step, loss, accuracy });
        Ok((self.progress.is_enough(loss, self.options.patience, self.trainer), control))
    }

    /// Writes the checkpoint, if one is asked for.
    fn save(&mut self) -> Result<(), TrainError> {
        self.is_checkpoint_due = false;
        if let Some((path, _)) = &self.options.checkpoint {
            let saved = self.progress.saved(self.trainer);
            checkpoint::write(path, self.trainer.fingerprint(), &self.settings, &saved)?;
        }
        Ok(())
    }

    /// The best numbers, measured, with DyLoRA at every rank.
    fn finish(mut self) -> Result<Report, TrainError> {
        if let Some((_, values)) = self.progress.best.take() {
            self.trainer.set_values(&values)?;
        }
        let trainer = self.trainer;
        let mut report = self.progress.report(trainer.steps(), false);
        if let Some(data) = self.validation {
            if trainer.options().method == Method::DyLora {
                let ranks = 1..=trainer.options().rank;
                let loss = |rank| trainer.measure(data, self.executor, Some(rank)).map(|m| m.loss);
                report.ranks = ranks.map(loss).collect::<Result<_, _>>()?;
                report.rank = smallest_rank(&report.ranks, self.options.rank_tolerance);
            }
            report.validation = Some(trainer.measure(data, self.executor, report.rank)?);
        }
        trainer.set_facts(facts::of_run(self.training, self.validation, self.options, &report));
        Ok(report)
    }
}

/// Tries the place of checkpoints, before there is anything to lose.
fn try_checkpoint(
    path: &Path,
    trainer: &Trainer<'_>,
    training: &Dataset<'_>,
    validation: Option<&Dataset<'_>>,
) -> Result<(), TrainError> {
    let datasets = [Some(training), validation];
    let inputs: Vec<&Path> = datasets.into_iter().flatten().filter_map(Dataset::path).collect();
    let place = path.output(Kind::Checkpoint, &inputs)?;
    let (values, optimizer) = trainer.sizes();
    Ok(place.check_room(4 * values as u64 + optimizer as u64)?)
}

/// What was trained, as `run` left it, in memory: an adapter (at the rank that DyLoRA kept), or a
/// base. [`SharedAdapter::open`](crate::adapter::SharedAdapter::open) takes it as it is.
///
/// # Errors
/// What the writers say.
pub fn finish(trainer: &Trainer<'_>, report: &Report, name: &str) -> Result<Buffer, TrainError> {
    trainer.archive(name, report.rank)
}

/// What a method writes.
pub fn kind(method: Method) -> Kind {
    if method == Method::Full { Kind::Base } else { Kind::Adapter }
}

const NO_SECOND_FILE: &str =
    "the classifier is written to a second file beside the base, and nothing lies beside this";

/// Writes what was trained (see [`finish`]) to `output`, a path or an
/// [`Output`](crate::file::Output) that was tried; with full fine-tuning of a classifier also its
/// classifier, an adapter of the trained base, to `FILE.classifier.lrk` beside it. Files appear
/// whole or not at all.
///
/// # Errors
/// A path where something else is than what the method writes, or the base that was trained; what
/// the writers say.
pub fn save(
    trainer: &Trainer<'_>,
    rank: Option<usize>,
    name: &str,
    output: impl ToOutput,
) -> Result<(), TrainError> {
    let output = output.output(kind(trainer.options().method), &[])?;
    output.refuse_base(trainer.fingerprint())?;
    let put = |output: &Output, bytes: &[u8]| {
        output.write(|file| {
            file.write_all(bytes).map_err(|error| FileError::io(output.path(), error))
        })
    };
    let archive = trainer.archive(name, rank)?;
    if trainer.options().method == Method::Full
        && let Some(classifier) = trainer.classifier_adapter(&archive)?
    {
        let second = output
            .beside("classifier.lrk")
            .ok_or_else(|| FileError::format(output.path(), "", NO_SECOND_FILE))?;
        let second = Output::new(second, Kind::Adapter, &[], output.is_forced())?;
        put(&output, &archive)?;
        put(&second, &classifier)?;
        return Ok(());
    }
    Ok(put(&output, &archive)?)
}

/// The smallest rank, from 1, whose loss is within `tolerance` of the best.
fn smallest_rank(losses: &[f64], tolerance: f64) -> Option<usize> {
    let best = losses.iter().copied().fold(f64::INFINITY, f64::min);
    losses.iter().position(|loss| *loss <= best * (1.0 + tolerance)).map(|index| index + 1)
}

fn check(
    options: &RunOptions,
    trainer: &Trainer<'_>,
    validation: Option<&Dataset<'_>>,
) -> Result<(), TrainError> {
    let least = |name: &str, found: u64| match found {
        0 => Err(TrainError::options(format!("{name} is 0, at least 1 was expected"))),
        _ => Ok(()),
    };
    least("batch-size", options.batch_size as u64)?;
    least("accumulation", options.accumulation as u64)?;
    least("validate-every", options.validate_every.unwrap_or(1))?;
    least("checkpoint-every", options.checkpoint.as_ref().map_or(1, |(_, every)| *every))?;
    match options.length {
        Length::Epochs(epochs) if epochs > MOST_EPOCHS => {
            return Err(TrainError::options(format!(
                "epochs is {epochs}, 1 to {MOST_EPOCHS} was expected; steps may be any number"
            )));
        }
        Length::Epochs(epochs) => least("epochs", epochs)?,
        Length::Steps(steps) => least("steps", steps)?,
    }
    if let Warmup::Share(share) = options.warmup
        && !(0.0..=1.0).contains(&share)
    {
        return Err(TrainError::options(format!(
            "warmup is {share}, a number of steps or a share from 0 to 1 was expected"
        )));
    }
    if options.patience.is_some() && validation.is_none() {
        return Err(TrainError::options("early stopping needs validation data"));
    }
    if options.validate_every.is_some() && validation.is_none() {
        return Err(TrainError::options("validate-every has no effect without validation data"));
    }
    let method = trainer.options().method;
    if options.rank_tolerance != RunOptions::default().rank_tolerance && method != Method::DyLora {
        return Err(without_effect("rank-tolerance", &[Method::DyLora], &[method]));
    }
    if options.rank_tolerance.is_nan() || options.rank_tolerance < 0.0 {
        return Err(TrainError::options(format!(
            "rank-tolerance is {}, at least 0 was expected",
            options.rank_tolerance
        )));
    }
    if trainer.options().method == Method::DyLora && validation.is_none() {
        return Err(TrainError::options("dylora chooses its rank by validation data: name some"));
    }
    Ok(())
}
