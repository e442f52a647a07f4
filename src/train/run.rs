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

use serde_json::{Value, json};

use super::TrainError;
use super::checkpoint::{self, Saved};
use super::data::{Batch, Dataset};
use super::evaluate::Measures;
use super::facts::{self, Facts};
use super::method::Method;
use super::options::without_effect;
use super::schedule::Schedule;
use super::trainer::Trainer;
use crate::archive::Buffer;
use crate::file::{FileError, write_whole};
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
    /// How long it is.
    pub length: Length,
    /// In how many steps the learning rate rises.
    pub warmup: Warmup,
    /// Examples of a batch.
    pub batch_size: usize,
    /// Batches of an optimizer step.
    pub accumulation: usize,
    /// Put examples of similar lengths together.
    pub sort_by_length: bool,
    /// Steps between validations; `None` for one after every epoch.
    pub validate_every: Option<u64>,
    /// Stop after this many validations without a better one, and keep the best; `None` to keep
    /// the last.
    pub patience: Option<u32>,
    /// Where checkpoints are written, and how many steps lie between two.
    pub checkpoint: Option<(PathBuf, u64)>,
    /// Go on from the checkpoint if there is one.
    pub resume: bool,
    /// DyLoRA: the smallest rank whose validation loss is within this share of the best rank's is
    /// kept.
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

/// Should a run go on?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// Yes.
    Continue,
    /// No: write a checkpoint and return.
    Stop,
}

/// What a run did.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Optimizer steps taken, those before a resume included.
    pub steps: u64,
    /// Did it stop before its end because it was told to? Then only the checkpoint was written.
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

/// What `run` keeps between steps.
struct State {
    losses: Vec<f32>,
    validations: Vec<(u64, f64, Option<f64>)>,
    rows: u64,
    seconds: f64,
    best: Option<(f64, Vec<f32>)>,
    /// Validations since the best.
    worse: u32,
}

/// The steps of a run and where each epoch begins.
pub(crate) struct Course {
    /// Optimizer steps before each epoch, then all of them.
    starts: Vec<u64>,
    total: u64,
}

impl Course {
    /// Epochs, the last perhaps not whole.
    pub(crate) fn epochs(&self) -> u64 {
        self.starts.len() as u64 - 1
    }

    /// Optimizer steps.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    pub(crate) fn new(data: &Dataset<'_>, options: &RunOptions, seed: u64) -> Self {
        let mut starts = vec![0];
        let mut at = 0;
        loop {
            let epoch = starts.len() as u64 - 1;
            let done = match options.length {
                Length::Epochs(epochs) => epoch >= epochs,
                Length::Steps(steps) => at >= steps,
            };
            if done {
                let total = match options.length {
                    Length::Epochs(_) => at,
                    Length::Steps(steps) => steps,
                };
                return Self { starts, total };
            }
            let batches = data.plan(options.batch_size, seed, epoch, options.sort_by_length).len();
            at += (batches.div_ceil(options.accumulation) as u64).max(1);
            starts.push(at);
        }
    }

    /// The epoch of a step, and the step inside it.
    fn locate(&self, step: u64) -> (u64, u64) {
        let epoch = self.starts.partition_point(|&start| start <= step) - 1;
        (epoch as u64, step - self.starts[epoch])
    }

    fn ends_epoch(&self, steps: u64) -> bool {
        self.starts.binary_search(&steps).is_ok()
    }
}

/// Trains until the end, a stop, or divergence, and leaves the numbers that are to be kept in
/// `trainer`.
///
/// # Errors
/// What is wrong with data, options or a checkpoint; [`TrainError::Diverged`] if the loss explodes
/// or is not a number: then `trainer` holds the last good numbers.
pub fn run(
    trainer: &mut Trainer<'_>,
    training: &Dataset<'_>,
    validation: Option<&Dataset<'_>>,
    options: &RunOptions,
    executor: &dyn Executor,
    watch: &mut dyn FnMut(Event) -> Control,
) -> Result<Report, TrainError> {
    check(options, trainer, validation)?;
    let datasets = [Some(training), validation].into_iter().flatten();
    datasets.map(|data| data.check_input(trainer.input())).collect::<Result<(), _>>()?;
    trainer.set_facts(Facts::new());
    let seed = trainer.options().seed;
    let course = Course::new(training, options, seed);
    let warmup = match options.warmup {
        Warmup::Steps(steps) => steps,
        Warmup::Share(share) => (share * course.total as f64).ceil() as u64,
    };
    let schedule = Schedule { shape: trainer.options().schedule, warmup, total: course.total };
    let settings = settings(trainer, training, validation, options);
    let mut state = State {
        losses: Vec::new(),
        validations: Vec::new(),
        rows: 0,
        seconds: 0.0,
        best: None,
        worse: 0,
    };
    if options.resume
        && let Some((path, _)) = &options.checkpoint
        && path.exists()
    {
        let (values, optimizer) = trainer.sizes();
        let saved = checkpoint::read(path, trainer.fingerprint(), &settings, values, optimizer)?;
        state = State::restore(trainer, &saved)?;
    }
    let mut guard = Guard::new(trainer);
    let mut plan: Option<(u64, Vec<Vec<u32>>)> = None;
    let save = |trainer: &Trainer<'_>, state: &State| match &options.checkpoint {
        Some((path, _)) => {
            checkpoint::write(path, trainer.fingerprint(), &settings, &state.saved(trainer))
                .map_err(TrainError::from)
        }
        None => Ok(()),
    };

    let mut stopped = false;
    while trainer.steps() < course.total && !stopped {
        let started = Instant::now();
        let (epoch, inside) = course.locate(trainer.steps());
        if plan.as_ref().is_none_or(|(of, _)| *of != epoch) {
            plan = Some((
                epoch,
                training.plan(options.batch_size, seed, epoch, options.sort_by_length),
            ));
        }
        let Some((_, batches)) = &plan else { break };
        let first = inside as usize * options.accumulation;
        let chosen =
            &batches[first.min(batches.len())..(first + options.accumulation).min(batches.len())];
        let batches: Vec<Batch> = chosen
            .iter()
            .map(|examples| training.batch_on(executor, examples))
            .collect::<Result<_, _>>()?;
        let facts = match trainer.step(executor, &batches, schedule.factor(trainer.steps())) {
            Err(error @ TrainError::Diverged { .. }) => {
                guard.restore(trainer)?;
                trainer.set_facts(facts::of_divergence(trainer.steps() + 1));
                return Err(error);
            }
            facts => facts?,
        };
        state.losses.push(facts.loss as f32);
        state.rows +=
            batches.iter().map(|batch| *batch.starts.last().unwrap_or(&0) as u64).sum::<u64>();
        state.seconds += started.elapsed().as_secs_f64();
        let step = trainer.steps();
        if guard.exploded(&state.losses) {
            guard.restore(trainer)?;
            trainer.set_facts(facts::of_divergence(step));
            return Err(TrainError::Diverged { step, loss: facts.loss });
        }

        stopped =
            watch(Event::Step { step, total: course.total, loss: facts.loss }) == Control::Stop;
        // Also before a stop: a run that goes on does not come back to this step.
        let due = options
            .validate_every
            .map_or(course.ends_epoch(step), |every| step.is_multiple_of(every))
            || step == course.total;
        if let (Some(data), true) = (validation, due) {
            let measures = trainer.measure(data, executor, None)?;
            guard.keep(trainer);
            state.validations.push((step, measures.loss, measures.accuracy));
            let stop =
                watch(Event::Validation { step, loss: measures.loss, accuracy: measures.accuracy })
                    == Control::Stop;
            stopped |= stop;
            if state.enough(measures.loss, options.patience, trainer) {
                break;
            }
        }
        if let Some((_, every)) = &options.checkpoint
            && (stopped || step.is_multiple_of(*every))
        {
            guard.keep(trainer);
            save(trainer, &state)?;
        }
    }
    if stopped {
        return Ok(state.report(trainer.steps(), true));
    }
    if let Some((_, values)) = state.best.take() {
        trainer.set_values(&values)?;
    }
    let mut report = state.report(trainer.steps(), false);
    if let Some(data) = validation {
        if trainer.options().method == Method::DyLora {
            report.ranks = (1..=trainer.options().rank)
                .map(|rank| trainer.measure(data, executor, Some(rank)).map(|m| m.loss))
                .collect::<Result<_, _>>()?;
            report.rank = smallest_rank(&report.ranks, options.rank_tolerance);
        }
        report.validation = Some(trainer.measure(data, executor, report.rank)?);
    }
    trainer.set_facts(facts::of_run(training, validation, options, &report));
    Ok(report)
}

/// What was trained, as `run` left it: an adapter (at the rank that DyLoRA kept), or a base.
///
/// # Errors
/// What the writers say.
pub fn finish(trainer: &Trainer<'_>, report: &Report, name: &str) -> Result<Buffer, TrainError> {
    trainer.archive(name, report.rank)
}

/// Writes what was trained to `path` (see [`finish`]); with full fine-tuning of a classifier also
/// its classifier, an adapter of the trained base, to `path.classifier.lrk`. Files appear whole or
/// not at all.
///
/// # Errors
/// What the writers say.
pub fn save(
    trainer: &Trainer<'_>,
    rank: Option<usize>,
    name: &str,
    path: &Path,
) -> Result<(), TrainError> {
    let put = |path: &Path, bytes: &[u8]| {
        write_whole(path, |file| file.write_all(bytes).map_err(|error| FileError::io(path, error)))
    };
    let archive = trainer.archive(name, rank)?;
    put(path, &archive)?;
    if trainer.options().method == Method::Full
        && let Some(classifier) = trainer.classifier_adapter(&archive)?
    {
        let mut second = path.file_name().unwrap_or_default().to_os_string();
        second.push(".classifier.lrk");
        put(&path.with_file_name(second), &classifier)?;
    }
    Ok(())
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

/// What decides over every bit of a run, one `name: value` a line.
fn settings(
    trainer: &Trainer<'_>,
    training: &Dataset<'_>,
    validation: Option<&Dataset<'_>>,
    options: &RunOptions,
) -> String {
    let data = |data: &Dataset<'_>| {
        format!("{} examples, {} rows, labels {:?}", data.len(), data.rows(), data.labels())
    };
    let kernels = crate::kernel::kernels().name();
    format!(
        "options: {:?}\nlength: {:?}\nwarmup: {:?}\nbatch size: {}\naccumulation: {}\nsorted: {}\nvalidate every: {:?}\npatience: {:?}\n\
         training data: {}\nvalidation data: {}\ninstruction set: {kernels}",
        trainer.options(),
        options.length,
        options.warmup,
        options.batch_size,
        options.accumulation,
        options.sort_by_length,
        options.validate_every,
        options.patience,
        data(training),
        validation.map_or_else(|| "none".into(), data),
    )
}

/// Watches for a loss that explodes, and keeps the last good numbers.
struct Guard {
    good: Vec<f32>,
}

/// Steps whose mean is compared.
const WINDOW: usize = 10;

impl Guard {
    fn new(trainer: &Trainer<'_>) -> Self {
        Self { good: trainer.values().to_vec() }
    }

    fn keep(&mut self, trainer: &Trainer<'_>) {
        self.good.copy_from_slice(trainer.values());
    }

    fn restore(&self, trainer: &mut Trainer<'_>) -> Result<(), TrainError> {
        trainer.set_values(&self.good)
    }

    /// Is the mean of the last losses far above the lowest mean that ever was, and above where the
    /// run began?
    fn exploded(&self, losses: &[f32]) -> bool {
        if losses.len() < 2 * WINDOW {
            return false;
        }
        let mean = |losses: &[f32]| losses.iter().sum::<f32>() / losses.len() as f32;
        let (first, last) = (mean(&losses[..WINDOW]), mean(&losses[losses.len() - WINDOW..]));
        last > 3.0 * first + 1.0
    }
}

impl State {
    /// Counts a validation; is it time to stop?
    fn enough(&mut self, loss: f64, patience: Option<u32>, trainer: &Trainer<'_>) -> bool {
        let Some(patience) = patience else { return false };
        if self.best.as_ref().is_none_or(|(best, _)| loss < *best) {
            self.best = Some((loss, trainer.values().to_vec()));
            self.worse = 0;
        } else {
            self.worse += 1;
        }
        self.worse >= patience.max(1)
    }

    fn saved(&self, trainer: &Trainer<'_>) -> Saved {
        let bits = |value: f64| value.to_bits().to_string();
        let progress = json!({
            "losses": self.losses.iter().map(|loss| loss.to_bits()).collect::<Vec<u32>>(),
            "validations": self.validations.iter().map(|(step, loss, accuracy)| json!([step, bits(*loss), accuracy.map(bits)])).collect::<Vec<_>>(),
            "rows": self.rows,
            "seconds": self.seconds,
            "best": self.best.as_ref().map(|(loss, _)| bits(*loss)),
            "worse": self.worse,
        });
        Saved {
            progress: progress.to_string(),
            steps: trainer.steps(),
            values: trainer.values().to_vec(),
            best: self.best.as_ref().map(|(_, values)| values.clone()).unwrap_or_default(),
            optimizer: trainer.optimizer_state(),
        }
    }

    fn restore(trainer: &mut Trainer<'_>, saved: &Saved) -> Result<Self, TrainError> {
        let damaged = || TrainError::options("the checkpoint's progress cannot be read");
        let progress: Value = serde_json::from_str(&saved.progress).map_err(|_| damaged())?;
        let bits =
            |value: &Value| value.as_str().and_then(|text| text.parse().ok()).map(f64::from_bits);
        let validation =
            |entry: &Value| Some((entry[0].as_u64()?, bits(&entry[1])?, bits(&entry[2])));
        let list = |name: &str| progress[name].as_array().ok_or_else(damaged);
        let losses =
            list("losses")?.iter().map(|v| Some(f32::from_bits(u32::try_from(v.as_u64()?).ok()?)));
        let state = Self {
            losses: losses.collect::<Option<_>>().ok_or_else(damaged)?,
            validations: list("validations")?
                .iter()
                .map(validation)
                .collect::<Option<_>>()
                .ok_or_else(damaged)?,
            rows: progress["rows"].as_u64().ok_or_else(damaged)?,
            seconds: progress["seconds"].as_f64().ok_or_else(damaged)?,
            best: bits(&progress["best"]).map(|loss| (loss, saved.best.clone())),
            worse: progress["worse"]
                .as_u64()
                .and_then(|v| u32::try_from(v).ok())
                .ok_or_else(damaged)?,
        };
        trainer.restore(saved.steps, &saved.values, &saved.optimizer)?;
        Ok(state)
    }

    fn report(self, steps: u64, stopped: bool) -> Report {
        let tail = &self.losses
            [self.losses.len() - self.losses.len().div_ceil(20).min(self.losses.len())..];
        let loss = tail.iter().map(|&loss| f64::from(loss)).sum::<f64>() / tail.len().max(1) as f64;
        Report {
            steps,
            stopped,
            loss,
            seconds: self.seconds,
            rows: self.rows,
            losses: self.losses,
            validations: self.validations,
            validation: None,
            ranks: Vec::new(),
            rank: None,
        }
    }
}
