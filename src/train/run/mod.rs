//! A whole run: epochs, validation, early stopping, checkpoints, and the archive in the end. Steps
//! are in `trainer`, what a run is told in `options`, what it leaves behind in `result`.
//!
//! Where a run is follows from its step alone: the batches of an epoch are a function of the seed
//! and the epoch, what is random in a step is a function of the seed and the step. So a checkpoint
//! is the numbers, the optimizer and a step, and a resumed run ends with the same bits as one that
//! never stopped.

mod options;
mod result;

use std::path::Path;
use std::time::Instant;

use super::TrainError;
use super::checkpoint;
use super::course::Course;
use super::data::{Batch, Dataset};
use super::divergence::{Guard, Verdict};
use super::facts::{self, Facts};
use super::progress::Progress;
use super::schedule::Schedule;
use super::settings::Settings;
use super::trainer::Trainer;
use crate::file::{Kind, ToOutput};
use crate::runtime::Executor;

pub(super) use options::check_run;
pub use options::{Control, Event, Length, Report, RunOptions, Warmup};
pub use result::{finish, kind, save};

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
    options::check(options, trainer, validation)?;
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
                let (values, state) = trainer.sizes();
                let base = trainer.fingerprint();
                let saved = checkpoint::read(path, base, &settings, values, state)?;
                progress = Progress::restore(trainer, saved)?;
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
            if trainer.options().method.takes("rank-tolerance") {
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
    // A pipe or a device would take a checkpoint and keep nothing to go on from.
    if path.exists() {
        crate::file::open(path)?;
    }
    let place = path.output(Kind::Checkpoint, &inputs)?;
    let (values, state) = trainer.sizes();
    Ok(place.check_room(4 * values as u64 + state as u64)?)
}

/// The smallest rank, from 1, whose loss is within `tolerance` of the best.
fn smallest_rank(losses: &[f64], tolerance: f64) -> Option<usize> {
    let best = losses.iter().copied().fold(f64::INFINITY, f64::min);
    losses.iter().position(|loss| *loss <= best * (1.0 + tolerance)).map(|index| index + 1)
}
