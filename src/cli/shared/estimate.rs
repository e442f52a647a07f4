//! `lowrank memory --method`: what training will take, before it runs; and the limits of `train`
//! and `compare`.

use std::path::PathBuf;

use clap::Args;
use lowrank::train::data::{ModelInput, Tokenize};
use lowrank::train::{AnyBase, Estimate, Method, RunOptions, TrainError, Workload, estimate};
use serde_json::json;

use crate::Failure;
use crate::model::ModelOptions;
use crate::output::line;
use crate::train_options::{TaskName, TrainOptions, check_length};

#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct Arguments {
    /// Predict training with this method instead
    #[arg(long, value_parser = crate::methods::MethodParser, value_name = "METHOD", conflicts_with_all = ["adapters", "firmware"])]
    pub(crate) method: Option<Method>,
    /// Training data, for its real batches
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Validation data
    #[arg(long, value_name = "FILE")]
    validation: Option<PathBuf>,
    /// Labels to classify, where no data says it [default: 2]
    #[arg(long, value_name = "N", conflicts_with = "data")]
    labels: Option<usize>,
    /// Steps between checkpoints; 0 for none
    #[arg(long, default_value_t = 100, value_name = "N")]
    checkpoint_every: u64,
    #[command(flatten)]
    options: TrainOptions,
}

impl Arguments {
    /// Refuses a length that no sequence has, and labels where nothing is classified.
    fn check(&self, input: ModelInput) -> Result<(), Failure> {
        let (asked, positions) = (self.options.max_length, input.context);
        check_length(asked, input)?;
        if let Some(asked) = asked.filter(|asked| *asked > positions) {
            return Err(format!(
                "--max-length {asked}: the base has positions for {positions} tokens"
            )
            .into());
        }
        if self.labels.is_some() && self.options.task != TaskName::Classify {
            return Err("--labels has no effect without --task classify".into());
        }
        Ok(())
    }
}

/// Opens what `train` opens, trains nothing.
pub(crate) fn run(
    arguments: &Arguments,
    model: &ModelOptions,
    method: Method,
    as_json: bool,
) -> Result<(), Failure> {
    let base = model.open()?;
    let (threads, precision) = (model.executor()?.threads(), model.exact_precision());
    let model = base.wrap(AnyBase::open(&base.map))?;
    let tokenizer = arguments.options.template.apply_to(base.text().ok())?;
    let tokenize = tokenizer.as_ref().map(|tokenizer| tokenizer as &dyn Tokenize);
    let (options, input) = (&arguments.options, model.input());
    let is_classifier = options.task == TaskName::Classify;
    arguments.check(input)?;
    let open = |path: &Option<PathBuf>, labels| {
        path.as_ref().map(|path| options.open(path, input, tokenize, labels)).transpose()
    };
    let training = open(&arguments.data, None)?;
    let labels = training.as_ref().filter(|_| is_classifier).map(|data| data.labels().to_vec());
    let validation = open(&arguments.validation, labels)?;
    options.template.check_used(tokenizer.as_ref())?;
    let checkpoint =
        (arguments.checkpoint_every > 0).then(|| (PathBuf::new(), arguments.checkpoint_every));
    let run_options = RunOptions { checkpoint, ..options.run() };
    let trainer_options = options.trainer(method, precision)?;
    let workload = match &training {
        Some(training) => {
            Workload::of(training, validation.as_ref(), &run_options, trainer_options.seed, threads)
        }
        None => Workload {
            steps: options.steps(),
            validation: validation.as_ref().map(|data| data.longest()),
            ..Workload::full(
                options.batch_size,
                options.max_length(input),
                if is_classifier { arguments.labels.unwrap_or(2) } else { 0 },
                threads,
            )?
        },
    };
    let estimate = estimate(model, &trainer_options, &run_options, &workload)?;
    if as_json {
        let facts = json!({
            "method": method.name(),
            "steps": workload.steps,
            "peak_bytes": peak(&estimate, base.map.len()),
            "trainable_parameters": estimate.trainable_parameters,
            "base_bytes": base.map.len(),
            "parameter_bytes": estimate.parameter_bytes,
            "optimizer_bytes": estimate.optimizer_bytes,
            "step_bytes": estimate.step_bytes,
            "validation_bytes": estimate.validation_bytes,
            "checkpoint_bytes": estimate.checkpoint_bytes,
        });
        return Ok(line(&facts)?);
    }
    report(&estimate, base.map.len())
}

fn report(estimate: &Estimate, mapped: usize) -> Result<(), Failure> {
    let entries = [
        ("base (mapped)", mapped as u64),
        ("tokenizer and data", crate::PEAK.current_usage() as u64),
        ("values and gradients", estimate.parameter_bytes),
        ("optimizer", estimate.optimizer_bytes),
        ("then a step", estimate.step_bytes),
        ("or a validation", estimate.validation_bytes),
        ("or a checkpoint", estimate.checkpoint_bytes),
        ("at most together", peak(estimate, mapped)),
    ];
    for (what, bytes) in entries {
        line(format_args!("{what:<28}{bytes:>14} bytes"))?;
    }
    line(format_args!("{:<28}{:>14}", "trained parameters", estimate.trainable_parameters))?;
    Ok(())
}

/// A run's high-water mark, with what is held now and has been held, and a base of `mapped` bytes.
pub(crate) fn peak(estimate: &Estimate, mapped: usize) -> u64 {
    let (now, before) = (crate::PEAK.current_usage() as u64, crate::PEAK.peak_usage() as u64);
    before.max(now.saturating_add(estimate.heap_bytes)).saturating_add(mapped as u64)
}

/// Refuses more than `limit`.
pub(crate) fn check(limit: u64, need: u64) -> Result<(), TrainError> {
    if need > limit { Err(TrainError::Memory { need, limit }) } else { Ok(()) }
}

/// Bytes as people write them: a number, with K, M, G for powers of 1000 or KiB, MiB, GiB for
/// powers of 1024.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "" => 1.0,
        "K" | "k" | "KB" | "kB" => 1e3,
        "M" | "MB" => 1e6,
        "G" | "GB" => 1e9,
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        "GiB" => 1024.0 * 1024.0 * 1024.0,
        unit => {
            return Err(format!(
                "'{unit}' is no unit: K, M, G, KiB, MiB, GiB or nothing was expected"
            ));
        }
    };
    let number: f64 = digits
        .parse()
        .map_err(|_| format!("'{text}': bytes were expected, for example 400M or 2G"))?;
    if number.is_finite() && number > 0.0 {
        Ok((number * factor) as u64)
    } else {
        Err(format!("'{text}': more than nothing was expected"))
    }
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn bytes_are_read_as_people_write_them() {
        for (text, expected) in [
            ("1", 1),
            ("400M", 400_000_000),
            ("2G", 2_000_000_000),
            ("1.5GiB", 1_610_612_736),
            ("64k", 64_000),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for text in ["", "M", "0", "-1", "1e400", "NaN", "inf", "12Q", "4 M", "µ"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }
}
