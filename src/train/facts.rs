//! What an adapter's archive says of its training, as JSON under `training`: the options, and what
//! a run adds. All of it follows from the run, nothing from the machine or the clock, so that a
//! resumed run writes the same bytes.

use serde_json::{Map, Value, json};

use super::data::Dataset;
use super::method::Method;
use super::options::{Options, TargetModules};
use super::run::{Length, Report, RunOptions};
use crate::kernel::Precision;

/// Facts of a run, by name.
pub(crate) type Facts = Map<String, Value>;

/// The archive's `facts`: what `options` say, `steps` taken, the rank that was kept (DyLoRA), and
/// what the `run` added.
pub(crate) fn of(options: &Options, steps: u64, rank: Option<usize>, run: &Facts) -> String {
    let mut facts = Facts::new();
    let mut put = |name: &str, value: Value| facts.insert(name.into(), value);
    put("method", options.method.name().into());
    // IA3 has neither; full fine-tuning says those that it was told.
    if options.method.takes("rank") || options.method == Method::Full {
        put("rank", rank.unwrap_or(options.rank).into());
        put("alpha", number(options.alpha));
    }
    for (name, patterns) in
        [("rank_pattern", &options.rank_pattern), ("alpha_pattern", &options.alpha_pattern)]
    {
        if !patterns.is_empty() {
            put(
                name,
                patterns
                    .iter()
                    .map(|entry| (entry.pattern.clone(), number(entry.value)))
                    .collect::<Facts>()
                    .into(),
            );
        }
    }
    let targets = match &options.targets {
        TargetModules::AllLinear => "all-linear".into(),
        TargetModules::Names(names) => names.join(","),
        TargetModules::Pattern(pattern) => pattern.clone(),
    };
    put("target_modules", targets.into());
    put("learning_rate", number(options.learning_rate));
    put("schedule", options.schedule.name().into());
    put("optimizer", options.optimizer.name().into());
    for (name, value) in [
        ("weight_decay", options.weight_decay),
        ("max_norm", options.max_norm),
        ("dropout", options.dropout),
        ("label_smoothing", options.label_smoothing),
    ] {
        if value != 0.0 {
            put(name, number(value));
        }
    }
    if options.precision == Precision::Fast {
        put("precision", options.precision.name().into());
    }
    if let Some(start) = &options.start {
        let adapter = start.adapter();
        put("continued_from", adapter.name().into());
        put("continued_from_fingerprint", adapter.fingerprint().to_string().into());
    }
    put("seed", options.seed.into());
    put("steps", steps.into());
    facts.extend(run.clone());
    json!({ "training": facts }).to_string()
}

/// What a finished run adds.
pub(crate) fn of_run(
    training: &Dataset<'_>,
    validation: Option<&Dataset<'_>>,
    options: &RunOptions,
    report: &Report,
) -> Facts {
    let mut facts = Facts::new();
    let mut put = |name: &str, value: Value| facts.insert(name.into(), value);
    if let Length::Epochs(epochs) = options.length {
        put("epochs", epochs.into());
    }
    put("batch_size", options.batch_size.into());
    if options.accumulation > 1 {
        put("accumulation", options.accumulation.into());
    }
    put("data", training.name().into());
    put("examples", training.len().into());
    put("loss", report.loss.into());
    if let (Some(data), Some(measures)) = (validation, &report.validation) {
        put("validation_data", data.name().into());
        put("validation_loss", measures.loss.into());
        if let Some(accuracy) = measures.accuracy {
            put("validation_accuracy", accuracy.into());
        }
    }
    facts
}

/// What a run that diverged adds: the numbers are those after `kept` steps.
pub(crate) fn of_divergence(step: u64, kept: u64) -> Facts {
    let facts = [("diverged_at_step", step), ("kept_step", kept)];
    facts.into_iter().map(|(name, step)| (name.to_owned(), step.into())).collect()
}

/// An f32 with the digits that a person gave it.
fn number(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}
