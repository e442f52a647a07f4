//! `lowrank memory`: what running a base, or training on it, will take, before running it.

use std::path::PathBuf;

use clap::Args;
use lowrank::runtime::{Limits, need};
use lowrank::train::data::Tokenize;
use lowrank::train::{AnyBase, Forecast, Method, RunOptions, TrainError, Workload, forecast};
use serde_json::json;

use crate::Failure;
use crate::files::File;
use crate::model::{Kv, ModelOptions};
use crate::output::line;
use crate::train::{TaskName, TrainOptions};

const EXAMPLES: &str = "Examples:
  lowrank memory --base base.lrk --adapter style.lrk --context 2048
  lowrank memory --base base.lrk --method qlora --batch-size 4 --max-length 256
  lowrank memory --base base.lrk --method qlora --batch-size 4 --data style.jsonl --validation held-out.jsonl

With --method it predicts what `lowrank train` with the same options reports: peak_bytes is the heap's high-water mark and the
mapped base. Without --data every batch is full: batch-size sequences of max-length tokens.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelOptions,
    /// Adapter archives that are active together
    #[arg(long = "adapter", value_name = "FILE")]
    adapters: Vec<PathBuf>,
    /// Tokens of a sequence
    #[arg(long, default_value_t = 512, value_name = "N")]
    context: usize,
    /// Sequences side by side
    #[arg(long, default_value_t = 1, value_name = "N")]
    batch: usize,
    /// Prompt tokens computed at once
    #[arg(long, default_value_t = 32, value_name = "N")]
    prefill_chunk: usize,
    /// How keys and values are kept
    #[arg(long, value_enum, default_value_t = Kv::F16)]
    kv: Kv,
    /// Predict training with this method instead
    #[arg(long, value_parser = str::parse::<Method>, value_name = "METHOD", conflicts_with = "adapters")]
    method: Option<Method>,
    /// Training data, for its real batches
    #[arg(long, value_name = "FILE", requires = "method")]
    data: Option<PathBuf>,
    /// Validation data
    #[arg(long, value_name = "FILE", requires = "method")]
    validation: Option<PathBuf>,
    /// Labels to classify, where no data says it
    #[arg(long, default_value_t = 2, value_name = "N")]
    labels: usize,
    /// Steps between checkpoints; 0 for none
    #[arg(long, default_value_t = 100, value_name = "N")]
    checkpoint_every: u64,
    #[command(flatten, next_help_heading = "Options of training")]
    options: TrainOptions,
    /// Print JSON with stable names
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let base = arguments.model.open()?;
    if let Some(method) = arguments.method {
        return training(arguments, &base, method);
    }
    let model = base.base()?;
    let adapters = arguments.adapters.iter().map(File::open).collect::<Result<Vec<_>, _>>()?;
    let mut rank = 0;
    for file in &adapters {
        rank += file.adapter()?.max_rank();
    }
    let limits = Limits {
        batch: arguments.batch,
        prefill_chunk: arguments.prefill_chunk,
        kv_format: arguments.kv.into(),
        precision: arguments.model.precision(&model),
        lanes: arguments.model.executor()?.lanes(),
        max_active: adapters.len(),
        max_total_rank: rank,
        ..Limits::new(arguments.context)
    };
    // Refuses limits that a session would refuse.
    if let Err(error @ lowrank::Error::Limit { .. }) = limits.check(model.config()) {
        return Err(error.into());
    }
    let need = need(model.config(), &limits);
    let files: usize = adapters.iter().map(|file| file.map.len()).sum();
    let peak = need.bytes + base.map.len() + files;
    if arguments.json {
        let facts = json!({
            "workspace_bytes": need.bytes, "kv_bytes": need.kv_bytes, "base_bytes": base.map.len(), "adapter_bytes": files,
            "peak_bytes": peak,
        });
        line(&facts)?;
    } else {
        let entries = [
            ("base (mapped)", base.map.len()),
            ("adapters (mapped)", files),
            ("workspace", need.bytes),
            ("  of which keys and values", need.kv_bytes),
            ("together", peak),
        ];
        for (what, bytes) in entries {
            line(format_args!("{what:<28}{bytes:>14} bytes"))?;
        }
    }
    Ok(())
}

/// Opens what `train` opens, trains nothing.
fn training(arguments: &Arguments, base: &File, method: Method) -> Result<(), Failure> {
    let model = base.wrap(AnyBase::open(&base.map))?;
    let border = base.text().ok();
    let tokenizer = border.as_ref().map(|border| border as &dyn Tokenize);
    let options = &arguments.options;
    let is_classifier = options.task == TaskName::Classify;
    let training = arguments.data.as_ref().map(|path| options.open(path, tokenizer, None)).transpose()?;
    let labels = training.as_ref().filter(|_| is_classifier).map(|data| data.labels().to_vec());
    let validation = arguments.validation.as_ref().map(|path| options.open(path, tokenizer, labels)).transpose()?;
    let checkpoint = (arguments.checkpoint_every > 0).then(|| (PathBuf::new(), arguments.checkpoint_every));
    let run_options = RunOptions { checkpoint, ..options.run() };
    let trainer_options = options.trainer(method)?;
    let executor = arguments.model.executor()?;
    let workload = match &training {
        Some(training) => Workload::of(training, validation.as_ref(), &run_options, trainer_options.seed, executor.lanes()),
        None => Workload {
            steps: options.steps(),
            validation: validation.as_ref().map(|data| data.longest()),
            ..Workload::full(options.batch_size, options.max_length, if is_classifier { arguments.labels } else { 0 }, executor.lanes())
        },
    };
    let forecast = forecast(model, &trainer_options, &run_options, &workload)?;
    let peak = peak(&forecast, base.map.len());
    if arguments.json {
        let facts = json!({
            "method": method.name(),
            "steps": workload.steps,
            "peak_bytes": peak,
            "trainable_parameters": forecast.trainable_parameters,
            "base_bytes": base.map.len(),
            "parameter_bytes": forecast.parameter_bytes,
            "optimizer_bytes": forecast.optimizer_bytes,
            "step_bytes": forecast.step_bytes,
            "validation_bytes": forecast.validation_bytes,
            "checkpoint_bytes": forecast.checkpoint_bytes,
        });
        return Ok(line(&facts)?);
    }
    let entries = [
        ("base (mapped)", base.map.len() as u64),
        ("tokenizer and data", crate::PEAK.current_usage() as u64),
        ("values and gradients", forecast.parameter_bytes),
        ("optimizer", forecast.optimizer_bytes),
        ("then a step", forecast.step_bytes),
        ("or a validation", forecast.validation_bytes),
        ("or a checkpoint", forecast.checkpoint_bytes),
        ("at most together", peak),
    ];
    for (what, bytes) in entries {
        line(format_args!("{what:<28}{bytes:>14} bytes"))?;
    }
    line(format_args!("{:<28}{:>14}", "trained parameters", forecast.trainable_parameters))?;
    Ok(())
}

/// A run's high-water mark, with what is held now and has been held, and a base of `mapped` bytes.
pub(crate) fn peak(forecast: &Forecast, mapped: usize) -> u64 {
    let (now, before) = (crate::PEAK.current_usage() as u64, crate::PEAK.peak_usage() as u64);
    before.max(now.saturating_add(forecast.heap_bytes)).saturating_add(mapped as u64)
}

/// Refuses more than `limit`.
pub(crate) fn check(limit: u64, need: u64) -> Result<(), TrainError> {
    if need > limit { Err(TrainError::Memory { need, limit }) } else { Ok(()) }
}

/// Bytes as people write them: a number, with K, M, G for powers of 1000 or KiB, MiB, GiB for powers of 1024.
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
        unit => return Err(format!("'{unit}' is no unit: K, M, G, KiB, MiB, GiB or nothing was expected")),
    };
    let number: f64 = digits.parse().map_err(|_| format!("'{text}': bytes were expected, for example 400M or 2G"))?;
    if number.is_finite() && number > 0.0 { Ok((number * factor) as u64) } else { Err(format!("'{text}': more than nothing was expected")) }
}

/// The most memory this process has had resident, in bytes, where the system tells.
pub(crate) fn peak_resident() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<usize>().ok().map(|kib| kib * 1024)
}
