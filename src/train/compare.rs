//! Comparing methods on the same data: what is run, what is measured of each run, and the table.
//! Files and pictures are the caller's.
//!
//! Methods with the same seed see the same batches in the same order, so their losses can be
//! compared step by step. Smoothed loss: the mean of the last twentieth of all steps, of five at
//! least. Steps to a loss: the first step whose smoothed loss is at most what the reference method
//! ends at with the same seed; there are none where the reference did not learn, ending above where
//! it began.

use std::time::Instant;

use serde_json::{Value, json};

use super::data::Dataset;
use super::evaluate::Measures;
use super::method::Method;
use super::options::Options;
use super::run::{Control, Event, RunOptions, run};
use super::trainer::Trainer;
use super::{AnyBase, TrainError};
use crate::runtime::Executor;

/// The heap's high-water mark, lent by the program that owns the allocator.
pub trait Meter {
    /// Forgets the mark: what is held now is the new one.
    fn restart(&self);
    /// The most bytes that were held since.
    fn most(&self) -> u64;
}

/// One method with one seed.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// The method.
    pub method: Method,
    /// The seed of data order, first values and dropout.
    pub seed: u64,
    /// The validation data under what was kept.
    pub measures: Measures,
    /// Numbers that were trained.
    pub trainable_parameters: usize,
    /// The archive that was learnt.
    pub adapter_bytes: u64,
    /// The heap's high-water mark and the mapped base.
    pub peak_bytes: u64,
    /// Seconds of training, without validation.
    pub seconds: f64,
    /// The training loss of every step.
    pub losses: Vec<f32>,
    /// DyLoRA: the rank that was kept.
    pub rank: Option<usize>,
    /// The step at which the loss exploded; what is measured is then the last good state.
    pub diverged: Option<u64>,
}

/// Mean and sample standard deviation over seeds; the latter is 0 for one seed.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Spread {
    /// The mean.
    pub mean: f64,
    /// The sample standard deviation.
    pub deviation: f64,
}

/// One line of the table: a method over all its seeds.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The method.
    pub method: Method,
    /// Its runs.
    pub runs: usize,
    /// Validation loss.
    pub loss: Spread,
    /// exp of it.
    pub perplexity: Spread,
    /// Of classes.
    pub accuracy: Option<Spread>,
    /// Of classes.
    pub f1: Option<Spread>,
    /// Numbers that were trained.
    pub trainable_parameters: usize,
    /// The archive that was learnt.
    pub adapter_bytes: u64,
    /// The largest of its runs.
    pub peak_bytes: u64,
    /// Of training, without validation.
    pub seconds: Spread,
    /// The smoothed training loss at the end.
    pub training_loss: Spread,
    /// Steps to the loss that the reference ends at, over the runs that reached it.
    pub steps_to_loss: Option<Spread>,
    /// How many did.
    pub reached: usize,
    /// How many exploded.
    pub diverged: usize,
}

impl Row {
    /// The numbers as one JSON object, under the names that `lowrank compare --json` prints.
    pub fn facts(&self) -> Value {
        let mut facts = json!({
            "method": self.method.name(),
            "runs": self.runs,
            "loss": self.loss.mean,
            "loss_deviation": self.loss.deviation,
            "perplexity": self.perplexity.mean,
            "trainable_parameters": self.trainable_parameters,
            "adapter_bytes": self.adapter_bytes,
            "peak_bytes": self.peak_bytes,
            "seconds": self.seconds.mean,
            "training_loss": self.training_loss.mean,
            "steps_to_loss": self.steps_to_loss.map(|steps| steps.mean),
            "reached": self.reached,
            "diverged": self.diverged,
        });
        if let (Some(accuracy), Some(f1)) = (self.accuracy, self.f1) {
            facts["accuracy"] = json!(accuracy.mean);
            facts["accuracy_deviation"] = json!(accuracy.deviation);
            facts["f1"] = json!(f1.mean);
        }
        facts
    }
}

/// Trains and measures one method. `mapped` are the bytes of a base that is not on the heap.
/// `None` if `watch` stopped it: a run that was cut short cannot be compared.
///
/// # Errors
/// As [`run`]; a loss that explodes is no error but [`Run::diverged`].
#[allow(clippy::too_many_arguments, reason = "what is compared, on what, and how")]
pub fn run_method(
    base: AnyBase<'_>,
    mapped: u64,
    options: Options,
    labels: Vec<String>,
    training: &Dataset<'_>,
    validation: &Dataset<'_>,
    course: &RunOptions,
    executor: &dyn Executor,
    meter: &dyn Meter,
    watch: &mut dyn FnMut(Event) -> Control,
) -> Result<Option<Run>, TrainError> {
    let (method, seed) = (options.method, options.seed);
    meter.restart();
    let mut trainer = Trainer::new(base, options, labels)?;
    let mut losses = Vec::new();
    let started = Instant::now();
    let outcome = run(&mut trainer, training, Some(validation), course, executor, &mut |event| {
        if let Event::Step { loss, .. } = event {
            losses.push(loss as f32);
        }
        watch(event)
    });
    let (measures, seconds, rank, diverged) = match outcome {
        Ok(report) if report.stopped => return Ok(None),
        Ok(report) => {
            let measures = report
                .validation
                .map_or_else(|| trainer.measure(validation, executor, None), Ok)?;
            (measures, report.seconds, report.rank, None)
        }
        Err(TrainError::Diverged { step, .. }) => (
            trainer.measure(validation, executor, None)?,
            started.elapsed().as_secs_f64(),
            None,
            Some(step),
        ),
        Err(error) => return Err(error),
    };
    let peak_bytes = meter.most() + mapped;
    let adapter_bytes = trainer.archive(method.name(), rank)?.len() as u64;
    let trainable_parameters = trainer.trainable_parameters();
    Ok(Some(Run {
        method,
        seed,
        measures,
        trainable_parameters,
        adapter_bytes,
        peak_bytes,
        seconds,
        losses,
        rank,
        diverged,
    }))
}

/// Steps whose mean is a smoothed loss, of a run of `steps`.
fn window(steps: usize) -> usize {
    steps.div_ceil(20).max(5).min(steps.max(1))
}

/// For every step the mean of the losses of the last twentieth of all steps, of five at least, up
/// to it.
pub fn smoothed(losses: &[f32]) -> Vec<f64> {
    let window = window(losses.len());
    let mean = |end: usize| {
        let part = &losses[end.saturating_sub(window)..end];
        part.iter().map(|&loss| f64::from(loss)).sum::<f64>() / part.len() as f64
    };
    (1..=losses.len()).map(mean).collect()
}

/// The table of `runs`, a line per method in the order of first appearance. The reference is `lora`
/// if it was run, else the first.
pub fn rows(runs: &[Run]) -> Vec<Row> {
    let mut methods: Vec<Method> = Vec::new();
    for run in runs {
        if !methods.contains(&run.method) {
            methods.push(run.method);
        }
    }
    let reference =
        if methods.contains(&Method::Lora) { Some(Method::Lora) } else { methods.first().copied() };
    let target = |seed: u64| {
        let run = runs.iter().find(|run| {
            Some(run.method) == reference && run.seed == seed && run.diverged.is_none()
        })?;
        let smoothed = smoothed(&run.losses);
        let (first, last) = (*smoothed.get(window(smoothed.len()) - 1)?, *smoothed.last()?);
        (last < first || run.losses.len() == 1).then_some(last)
    };
    methods
        .iter()
        .map(|&method| {
            row(
                method,
                &runs.iter().filter(|run| run.method == method).collect::<Vec<_>>(),
                &target,
            )
        })
        .collect()
}

fn row(method: Method, runs: &[&Run], target: &dyn Fn(u64) -> Option<f64>) -> Row {
    let over =
        |of: &dyn Fn(&Run) -> f64| Spread::of(&runs.iter().map(|run| of(run)).collect::<Vec<_>>());
    let optional = |of: &dyn Fn(&Run) -> Option<f64>| {
        let values: Option<Vec<f64>> = runs.iter().map(|run| of(run)).collect();
        values.map(|values| Spread::of(&values))
    };
    let reached: Vec<f64> =
        runs.iter().filter_map(|run| steps_to(&run.losses, target(run.seed)?)).collect();
    let most = |of: &dyn Fn(&Run) -> u64| runs.iter().map(|run| of(run)).max().unwrap_or(0);
    Row {
        method,
        runs: runs.len(),
        loss: over(&|run| run.measures.loss),
        perplexity: over(&|run| run.measures.perplexity),
        accuracy: optional(&|run| run.measures.accuracy),
        f1: optional(&|run| run.measures.f1),
        trainable_parameters: runs.first().map_or(0, |run| run.trainable_parameters),
        adapter_bytes: most(&|run| run.adapter_bytes),
        peak_bytes: most(&|run| run.peak_bytes),
        seconds: over(&|run| run.seconds),
        training_loss: over(&|run| smoothed(&run.losses).last().copied().unwrap_or(f64::NAN)),
        steps_to_loss: (!reached.is_empty()).then(|| Spread::of(&reached)),
        reached: reached.len(),
        diverged: runs.iter().filter(|run| run.diverged.is_some()).count(),
    }
}

/// The first step, from 1, whose smoothed loss is at most `target`; a whole window of steps lies
/// behind it.
fn steps_to(losses: &[f32], target: f64) -> Option<f64> {
    let smoothed = smoothed(losses);
    (window(losses.len()) - 1..smoothed.len())
        .find(|&step| smoothed[step] <= target)
        .map(|step| (step + 1) as f64)
}

impl Spread {
    /// Of some values.
    pub fn of(values: &[f64]) -> Self {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count.max(1.0);
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        Self {
            mean,
            deviation: if values.len() > 1 { (squares / (count - 1.0)).sqrt() } else { 0.0 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_to_a_loss_waits_for_a_whole_window() {
        let mut losses: Vec<f32> = (0..100).map(|step| 100.0 - step as f32).collect();
        // One lucky first step is no mean of five.
        losses[0] = 0.0;
        assert_eq!(smoothed(&losses)[4], (0.0 + 99.0 + 98.0 + 97.0 + 96.0) / 5.0);
        assert_eq!(steps_to(&losses, 50.0), Some(53.0), "the mean of steps 49 to 53 is 50");
        assert_eq!(steps_to(&losses, 0.5), None);
        // Short runs have no mean of fewer than five.
        assert_eq!(steps_to(&losses[..20], 98.0), Some(5.0));
        assert_eq!(Spread::of(&[1.0, 2.0, 3.0]), Spread { mean: 2.0, deviation: 1.0 });
        assert_eq!(Spread::of(&[7.0]), Spread { mean: 7.0, deviation: 0.0 });
    }
}
