//! `lowrank train`: fine-tunes an adapter (or a whole float base) on a data file, with checkpoints
//! that resume bit for bit.
//!
//! Interrupted (SIGINT, SIGTERM) it finishes the step, writes a checkpoint and ends with status 1;
//! `--resume` goes on from there.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Args, ValueEnum};
use lowrank::file::{FileError, Output};
use lowrank::kernel::Precision;
use lowrank::train::data::{DataOptions, Dataset, Task, Tokenize};
use lowrank::train::optimizer::OptimizerKind;
use lowrank::train::schedule::Shape;
use lowrank::train::{
    AnyBase, Control, Event, Init, Length, Measures, Method, Options, PatternValue, Report,
    RunOptions, Targets, TrainError, Trainer, Warmup, Workload, forecast, kind,
    run as run_training, save,
};
use serde_json::{Value, json};

use crate::Failure;
use crate::memory::peak_resident;
use crate::model::ModelOptions;
use crate::output::{Force, note, written};
use crate::progress::Progress;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TaskName {
    /// Language modelling: the next token
    Lm,
    /// One label for a whole text or row of numbers
    Classify,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ScheduleName {
    Constant,
    Linear,
    Cosine,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OptimizerName {
    /// Two f32 a parameter
    Adamw,
    /// The same in 8 bits
    Adamw8bit,
    /// One f32 a parameter with momentum
    Sgd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum InitName {
    Kaiming,
    Gaussian,
}

const EXAMPLES: &str = "Examples:
  lowrank train --base base.lrk --data style.jsonl --task lm --method qlora --epochs 3 -o style.lrk
  lowrank train --base minilm.lrk --data reviews.tsv --task classify --validation dev.tsv --method lora --rank 8 -o sentiment.lrk";

/// What is trained, on what, and how; shared with `compare` and `memory`.
#[derive(Debug, Args)]
pub(crate) struct TrainOptions {
    /// What is learnt
    #[arg(long, value_enum, default_value_t = TaskName::Lm)]
    pub(crate) task: TaskName,
    /// Rank of the factors
    #[arg(long, default_value_t = 8, value_name = "R")]
    rank: usize,
    /// alpha: the factors count alpha / rank (rslora: alpha / √rank) [default: twice the rank]
    #[arg(long, value_name = "ALPHA")]
    alpha: Option<f32>,
    /// Which layers: all-linear, names separated by commas (q_proj,v_proj), or a regular
    /// expression for whole module paths
    #[arg(long, default_value = "all-linear", value_name = "NAMES|REGEX")]
    target_modules: String,
    /// Another rank for layers whose path ends in PATTERN; may be repeated
    #[arg(long, value_name = "PATTERN=R")]
    rank_pattern: Vec<String>,
    /// Another alpha for layers whose path ends in PATTERN; may be repeated
    #[arg(long, value_name = "PATTERN=ALPHA")]
    alpha_pattern: Vec<String>,
    /// How A is drawn
    #[arg(long, value_enum, default_value_t = InitName::Kaiming)]
    init: InitName,
    /// Share of activations dropped before A
    #[arg(long, default_value_t = 0.0, value_name = "P")]
    dropout: f32,
    /// Passes over the data
    #[arg(long, default_value_t = 1, value_name = "N", conflicts_with = "steps")]
    epochs: u64,
    /// Optimizer steps, instead of epochs
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// Examples of a batch
    #[arg(long, default_value_t = 8, value_name = "N")]
    pub(crate) batch_size: usize,
    /// Batches of an optimizer step
    #[arg(long, default_value_t = 1, value_name = "N")]
    accumulation: usize,
    /// Learning rate
    #[arg(long, default_value_t = 2e-4, value_name = "RATE")]
    learning_rate: f32,
    /// How the learning rate falls
    #[arg(long, value_enum, default_value_t = ScheduleName::Linear)]
    schedule: ScheduleName,
    /// In how many steps the learning rate rises, or in which share of all (below 1)
    #[arg(long, default_value_t = 0.0, value_name = "N|SHARE")]
    warmup: f64,
    /// The optimizer
    #[arg(long, value_enum, default_value_t = OptimizerName::Adamw)]
    optimizer: OptimizerName,
    /// Weight decay
    #[arg(long, default_value_t = 0.0, value_name = "DECAY")]
    weight_decay: f32,
    /// Clip gradients to this global norm; 0 for not at all
    #[arg(long, default_value_t = 1.0, value_name = "NORM")]
    max_norm: f32,
    /// Label smoothing
    #[arg(long, default_value_t = 0.0, value_name = "E")]
    label_smoothing: f32,
    /// Tokens of a sequence
    #[arg(long, default_value_t = 256, value_name = "N")]
    pub(crate) max_length: usize,
    /// Score completions and the assistant's turns only
    #[arg(long)]
    completions_only: bool,
    /// Fill batches by tokens (batch-size times max-length) instead of by examples
    #[arg(long)]
    packing: bool,
    /// Leave examples in random order instead of putting similar lengths together
    #[arg(long)]
    no_sort: bool,
    /// LoRA+: how much faster B learns than A
    #[arg(long, default_value_t = 16.0, value_name = "LAMBDA")]
    lora_plus_ratio: f32,
    /// DyLoRA: only the drawn rank's row and column learn
    #[arg(long)]
    dylora_frozen: bool,
    /// DyLoRA: keep the smallest rank whose validation loss is within this share of the best
    #[arg(long, default_value_t = 0.01, value_name = "SHARE")]
    rank_tolerance: f64,
    /// LoRA-FA: precondition gradients as PEFT's optimizer does
    #[arg(long)]
    lora_fa_preconditioned: bool,
    /// Keep only the inputs of blocks and compute the rest again on the way back: less memory,
    /// more time
    #[arg(long)]
    checkpointing: bool,
    /// Everything random follows from it
    #[arg(long, default_value_t = 0, value_name = "SEED")]
    seed: u64,
    /// Steps between validations [default: one after every epoch]
    #[arg(long, value_name = "N")]
    validate_every: Option<u64>,
    /// Stop after this many validations without a better one, and keep the best
    #[arg(long, value_name = "N")]
    patience: Option<u32>,
}

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelOptions,
    /// Training data: .txt, .jsonl, .tsv or .csv
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Data that is measured after every epoch
    #[arg(long, value_name = "FILE")]
    validation: Option<PathBuf>,
    /// The method
    #[arg(long, value_parser = str::parse::<Method>, default_value = "qlora", value_name = "METHOD")]
    method: Method,
    #[command(flatten)]
    options: TrainOptions,
    /// The adapter (with full: the base) that is written
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    force: Force,
    /// Steps between checkpoints; 0 for none but on interruption
    #[arg(long, default_value_t = 100, value_name = "N")]
    checkpoint_every: u64,
    /// Go on from OUTPUT.checkpoint, as if the run had never stopped
    #[arg(long)]
    resume: bool,
    /// Refuse in advance what would take more: bytes, or 400M, 2G, 512MiB
    #[arg(long, value_parser = crate::forecast::bytes, value_name = "BYTES")]
    memory_limit: Option<u64>,
    /// Print JSON with stable names
    #[arg(long)]
    json: bool,
}

impl TrainOptions {
    /// What the trainer is told.
    pub(crate) fn trainer(&self, method: Method, precision: Precision) -> Result<Options, Failure> {
        let patterns = |name: &str, texts: &[String]| {
            texts.iter().map(|text| pattern(name, text)).collect::<Result<Vec<_>, _>>()
        };
        Ok(Options {
            rank: self.rank,
            alpha: self.alpha.unwrap_or(2.0 * self.rank as f32),
            targets: Targets::parse(&self.target_modules),
            rank_pattern: patterns("rank-pattern", &self.rank_pattern)?,
            alpha_pattern: patterns("alpha-pattern", &self.alpha_pattern)?,
            init: match self.init {
                InitName::Kaiming => Init::Kaiming,
                InitName::Gaussian => Init::Gaussian,
            },
            dropout: self.dropout,
            lora_plus_ratio: self.lora_plus_ratio,
            dylora_frozen: self.dylora_frozen,
            lora_fa_preconditioned: self.lora_fa_preconditioned,
            optimizer: match self.optimizer {
                OptimizerName::Adamw => OptimizerKind::adamw(),
                OptimizerName::Adamw8bit => OptimizerKind::adamw_8bit(),
                OptimizerName::Sgd => OptimizerKind::Sgd { momentum: 0.9 },
            },
            learning_rate: self.learning_rate,
            weight_decay: self.weight_decay,
            schedule: match self.schedule {
                ScheduleName::Constant => Shape::Constant,
                ScheduleName::Linear => Shape::Linear,
                ScheduleName::Cosine => Shape::Cosine,
            },
            max_norm: self.max_norm,
            label_smoothing: self.label_smoothing,
            seed: self.seed,
            checkpointing: self.checkpointing,
            precision,
            ..Options::new(method)
        })
    }

    /// What the run is told; no checkpoints.
    pub(crate) fn run(&self) -> RunOptions {
        RunOptions {
            length: self.steps.map_or(Length::Epochs(self.epochs), Length::Steps),
            warmup: if self.warmup < 1.0 {
                Warmup::Share(self.warmup)
            } else {
                Warmup::Steps(self.warmup as u64)
            },
            batch_size: self.batch_size,
            accumulation: self.accumulation,
            sort_by_length: !self.no_sort,
            validate_every: self.validate_every,
            patience: self.patience,
            rank_tolerance: self.rank_tolerance,
            ..RunOptions::default()
        }
    }

    /// Optimizer steps, where they and not epochs are given.
    pub(crate) fn steps(&self) -> Option<u64> {
        self.steps
    }

    /// What a reader of results wants to know: name and value.
    pub(crate) fn facts(&self) -> Vec<(&'static str, String)> {
        let length = self
            .steps
            .map_or_else(|| counted(self.epochs, "epoch"), |steps| counted(steps, "step"));
        vec![
            ("length", length),
            (
                "batch",
                format!(
                    "{} × {} sequences of at most {} tokens",
                    self.accumulation, self.batch_size, self.max_length
                ),
            ),
            (
                "rank, alpha",
                format!("{}, {}", self.rank, self.alpha.unwrap_or(2.0 * self.rank as f32)),
            ),
            ("layers", self.target_modules.clone()),
            (
                "learning rate",
                format!("{} ({:?}, warm-up {})", self.learning_rate, self.schedule, self.warmup)
                    .to_lowercase(),
            ),
            (
                "optimizer",
                format!("{:?}, weight decay {}", self.optimizer, self.weight_decay).to_lowercase(),
            ),
            ("checkpointing of activations", if self.checkpointing { "yes" } else { "no" }.into()),
        ]
    }

    /// The first seed.
    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    /// Opens a data file; a validation file takes the training file's labels.
    pub(crate) fn open<'t>(
        &self,
        path: &Path,
        tokenizer: Option<&'t dyn Tokenize>,
        labels: Option<Vec<String>>,
    ) -> Result<Dataset<'t>, FileError> {
        let options = DataOptions {
            max_length: self.max_length,
            completions_only: self.completions_only,
            packing: self.packing && labels.is_none(),
            labels,
        };
        Dataset::open(path, self.task.into(), tokenizer, options)
    }
}

impl From<TaskName> for Task {
    fn from(name: TaskName) -> Self {
        match name {
            TaskName::Lm => Self::LanguageModel,
            TaskName::Classify => Self::Classify,
        }
    }
}

/// `PATTERN=NUMBER`.
fn pattern(name: &str, text: &str) -> Result<PatternValue, Failure> {
    let parts = text
        .rsplit_once('=')
        .and_then(|(pattern, value)| Some((pattern.to_owned(), value.parse().ok()?)));
    let (pattern, value) =
        parts.ok_or_else(|| format!("--{name} {text}: PATTERN=NUMBER was expected"))?;
    Ok(PatternValue { pattern, value })
}

/// Tries the places of the result and of its checkpoints, before there is anything to lose.
fn try_output(arguments: &Arguments) -> Result<(Output, Option<PathBuf>), Failure> {
    let mut inputs = vec![arguments.model.base.as_path(), &arguments.data];
    inputs.extend(arguments.validation.as_deref());
    let output = arguments.force.output(&arguments.output, kind(arguments.method), &inputs)?;
    let checkpoint = output.beside("checkpoint");
    let path = output.path().display();
    if checkpoint.is_none() && arguments.resume {
        return Err(
            format!("{path}: no checkpoint lies beside it, so --resume cannot go on").into()
        );
    }
    if arguments.method == Method::Full && arguments.options.task == TaskName::Classify {
        let classifier = output.beside("classifier.lrk").ok_or_else(|| {
            format!(
                "{path}: the classifier is written to a second file beside the base: name a file"
            )
        })?;
        arguments.force.output(&classifier, lowrank::file::Kind::Adapter, &inputs)?;
    }
    Ok((output, checkpoint))
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let (output, checkpoint) = try_output(arguments)?;
    let base = arguments.model.open()?;
    let model = base.wrap(AnyBase::open(&base.map))?;
    let border = base.text().ok();
    let tokenizer = border.as_ref().map(|border| border as &dyn Tokenize);
    let options = &arguments.options;
    let training = options.open(&arguments.data, tokenizer, None)?;
    let labels = (options.task == TaskName::Classify).then(|| training.labels().to_vec());
    let validation = arguments
        .validation
        .as_ref()
        .map(|path| options.open(path, tokenizer, labels.clone()))
        .transpose()?;
    if let Some(checkpoint) = checkpoint.as_ref().filter(|path| arguments.resume && !path.exists())
    {
        note(format_args!("{}: no checkpoint there, the run starts anew", checkpoint.display()));
    }
    let every = if arguments.checkpoint_every == 0 { u64::MAX } else { arguments.checkpoint_every };
    let run_options = RunOptions {
        checkpoint: checkpoint.clone().map(|path| (path, every)),
        resume: arguments.resume,
        ..options.run()
    };
    let executor = arguments.model.executor()?;
    let trainer_options = options.trainer(arguments.method, arguments.model.exact_precision())?;
    if let Some(limit) = arguments.memory_limit {
        let workload = Workload::of(
            &training,
            validation.as_ref(),
            &run_options,
            trainer_options.seed,
            executor.lanes(),
        );
        let forecast = forecast(model, &trainer_options, &run_options, &workload)?;
        crate::forecast::check(limit, crate::forecast::peak(&forecast, base.map.len()))?;
    }
    let mut trainer = Trainer::new(model, trainer_options, labels.unwrap_or_default())?;
    output.check_room(4 * trainer.trainable_parameters() as u64)?;
    let stop = Arc::new(AtomicBool::new(false));
    let signalled = Arc::clone(&stop);
    ctrlc::set_handler(move || signalled.store(true, Ordering::Relaxed))?;
    if training.truncated() > 0 && options.task == TaskName::Lm {
        note(format_args!(
            "{}: {} examples were cut at {} tokens",
            arguments.data.display(),
            training.truncated(),
            options.max_length
        ));
    }

    let mut progress = Progress::new("training");
    let outcome = run_training(
        &mut trainer,
        &training,
        validation.as_ref(),
        &run_options,
        executor.as_ref(),
        &mut |event| {
            match event {
                Event::Step { step, total, loss } => {
                    progress.show(step as usize, total as usize, &format!("loss {loss:.4}"))
                }
                Event::Validation { step, loss, accuracy } => {
                    let accuracy = accuracy
                        .map_or_else(String::new, |accuracy| format!("  accuracy {accuracy:.4}"));
                    progress.note(format_args!("step {step}: validation loss {loss:.4}{accuracy}"));
                }
                _ => {}
            }
            if stop.load(Ordering::Relaxed) { Control::Stop } else { Control::Continue }
        },
    );
    progress.finish();
    let name = arguments
        .output
        .file_stem()
        .map_or_else(|| "adapter".into(), |stem| stem.to_string_lossy());
    let report = match outcome {
        Ok(report) => report,
        Err(error @ TrainError::Diverged { .. }) => {
            save(&trainer, None, &name, &output)?;
            return Err(format!("{error}; it is in {}", arguments.output.display()).into());
        }
        Err(error) => return Err(error.into()),
    };
    if report.stopped {
        let Some(checkpoint) = checkpoint else {
            return Err(format!("stopped at step {}; nothing was written", report.steps).into());
        };
        return Err(format!(
            "stopped at step {}; the same command with --resume goes on from {}",
            report.steps,
            checkpoint.display()
        )
        .into());
    }
    save(&trainer, report.rank, &name, &output)?;
    // The run is complete: a later --resume has nothing to go on from.
    if let Some(checkpoint) = checkpoint {
        let _ = std::fs::remove_file(checkpoint);
    }
    tell(arguments, &output, &trainer, &report)
}

fn tell(
    arguments: &Arguments,
    output: &Output,
    trainer: &Trainer<'_>,
    report: &Report,
) -> Result<(), Failure> {
    let line = |text: &dyn std::fmt::Display| written(output, text);
    let speed = report.rows as f64 / report.seconds.max(1e-9);
    if arguments.json {
        let mut facts = json!({
            "method": arguments.method.name(),
            "precision": arguments.model.exact_precision().name(),
            "steps": report.steps,
            "loss": report.loss,
            "seconds": report.seconds,
            "tokens_per_s": speed,
            "peak_bytes": crate::PEAK.peak_usage() + std::fs::metadata(arguments.model.base.as_path()).map_or(0, |m| m.len() as usize),
            "peak_resident": peak_resident(),
            "trainable_parameters": trainer.trainable_parameters(),
            "losses": report.losses,
        });
        if let Some(rank) = report.rank {
            facts["rank"] = json!(rank);
            facts["rank_losses"] = json!(report.ranks);
        }
        if let Some(measures) = &report.validation {
            facts["validation"] = measures_json(measures);
        }
        return Ok(line(&facts)?);
    }
    line(&format_args!(
        "{}: {}, loss {:.4}, {:.1} s, {speed:.0} tokens/s, {} trained parameters",
        arguments.output.display(),
        counted(report.steps, "step"),
        report.loss,
        report.seconds,
        trainer.trainable_parameters()
    ))?;
    if let Some(rank) = report.rank {
        line(&format_args!(
            "rank {rank} kept; validation loss by rank: {}",
            report.ranks.iter().map(|l| format!("{l:.4}")).collect::<Vec<_>>().join(" ")
        ))?;
    }
    match &report.validation {
        Some(measures) => Ok(line(&measures_text(measures))?),
        None => Ok(()),
    }
}

/// "1 step", "2 steps".
fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// The stable names of an evaluation.
pub(crate) fn measures_json(measures: &Measures) -> Value {
    let mut facts = json!({
        "loss": measures.loss,
        "perplexity": measures.perplexity,
        "examples": measures.examples,
        "scored": measures.scored,
    });
    if let (Some(accuracy), Some(f1)) = (measures.accuracy, measures.f1) {
        facts["accuracy"] = json!(accuracy);
        facts["f1"] = json!(f1);
    }
    facts
}

/// An evaluation for people.
pub(crate) fn measures_text(measures: &Measures) -> String {
    match (measures.accuracy, measures.f1) {
        (Some(accuracy), Some(f1)) => {
            format!(
                "accuracy {accuracy:.4}  f1 {f1:.4}  loss {:.4}  examples {}",
                measures.loss, measures.examples
            )
        }
        _ => format!(
            "perplexity {:.4}  loss {:.4}  examples {}  scored tokens {}",
            measures.perplexity, measures.loss, measures.examples, measures.scored
        ),
    }
}
