//! The options of training that `train`, `compare` and `memory` share, and what the library makes of
//! them.

use std::path::Path;

use clap::Args;
use lowrank::file::FileError;
use lowrank::kernel::Precision;
use lowrank::train::data::{DataOptions, Dataset, ModelInput, Tokenize};
use lowrank::train::optimizer::OptimizerKind;
use lowrank::train::schedule::ScheduleShape;
use lowrank::train::{
    Length, Method, Options, PatternValue, RunOptions, Start, TargetModules, Warmup,
};

use crate::Failure;
use crate::methods::MethodOptions;
use crate::template::TemplateOptions;
pub(crate) use crate::train_names::TaskName;
use crate::train_names::{InitName, OptimizerName, ScheduleName};

/// What is trained, on what, and how; shared with `compare` and `memory`.
#[derive(Debug, Args)]
pub(crate) struct TrainOptions {
    #[arg(help_heading = "Data")]
    /// What is learnt
    #[arg(long, value_enum, default_value_t = TaskName::Lm)]
    pub(crate) task: TaskName,
    #[arg(help_heading = "Method")]
    /// Rank of the factors
    #[arg(long, default_value_t = 8, value_name = "R")]
    rank: usize,
    #[arg(help_heading = "Method")]
    /// alpha: the factors count alpha / rank (rslora: alpha / √rank) [default: twice the rank]
    #[arg(long, allow_negative_numbers = true, value_name = "ALPHA")]
    alpha: Option<f32>,
    #[arg(help_heading = "Method")]
    /// Which layers: all-linear, names separated by commas (q_proj,v_proj), or a regular
    /// expression for whole module paths [default: all-linear; ia3: as PEFT]
    #[arg(long, value_name = "NAMES|REGEX")]
    target_modules: Option<String>,
    #[arg(help_heading = "Method")]
    /// Another rank for layers whose path ends in PATTERN; may be repeated
    #[arg(long, value_name = "PATTERN=R")]
    rank_pattern: Vec<String>,
    #[arg(help_heading = "Method")]
    /// Another alpha for layers whose path ends in PATTERN; may be repeated
    #[arg(long, value_name = "PATTERN=ALPHA")]
    alpha_pattern: Vec<String>,
    #[arg(help_heading = "Method")]
    /// How A is drawn
    #[arg(long, value_enum, default_value_t = InitName::Kaiming)]
    init: InitName,
    #[arg(help_heading = "Method")]
    /// Share of activations dropped before A
    #[arg(long, allow_negative_numbers = true, default_value_t = 0.0, value_name = "P")]
    dropout: f32,
    #[arg(help_heading = "Optimization")]
    /// Passes over the data
    #[arg(long, default_value_t = 1, value_name = "N", conflicts_with = "steps")]
    epochs: u64,
    #[arg(help_heading = "Optimization")]
    /// Optimizer steps, instead of epochs
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    #[arg(help_heading = "Optimization")]
    /// Examples of a batch
    #[arg(long, default_value_t = 8, value_name = "N")]
    pub(crate) batch_size: usize,
    #[arg(help_heading = "Optimization")]
    /// Batches of an optimizer step
    #[arg(long, default_value_t = 1, value_name = "N")]
    accumulation: usize,
    #[arg(help_heading = "Optimization")]
    /// Learning rate
    #[arg(long, allow_negative_numbers = true, default_value_t = 2e-4, value_name = "RATE")]
    learning_rate: f32,
    #[arg(help_heading = "Optimization")]
    /// How the learning rate falls
    #[arg(long, value_enum, default_value_t = ScheduleName::Linear)]
    schedule: ScheduleName,
    #[arg(help_heading = "Optimization")]
    /// In how many steps the learning rate rises, or in which share of all (below 1)
    #[arg(long, allow_negative_numbers = true, default_value = "0", value_parser = warmup, value_name = "N|SHARE")]
    warmup: Warmup,
    #[arg(help_heading = "Optimization")]
    /// The optimizer
    #[arg(long, value_enum, default_value_t = OptimizerName::Adamw)]
    optimizer: OptimizerName,
    #[arg(help_heading = "Optimization")]
    /// Weight decay
    #[arg(long, allow_negative_numbers = true, default_value_t = 0.0, value_name = "DECAY")]
    weight_decay: f32,
    #[arg(help_heading = "Optimization")]
    /// Clip gradients to this global norm; 0 for not at all
    #[arg(long, allow_negative_numbers = true, default_value_t = 1.0, value_name = "NORM")]
    max_norm: f32,
    #[arg(help_heading = "Optimization")]
    /// Label smoothing
    #[arg(long, allow_negative_numbers = true, default_value_t = 0.0, value_name = "E")]
    label_smoothing: f32,
    #[arg(help_heading = "Data")]
    /// Tokens of a sequence [default: 512, or the positions of the base if those are fewer]
    #[arg(long, value_name = "N")]
    pub(crate) max_length: Option<usize>,
    #[arg(help_heading = "Data")]
    /// Score completions and the assistant's turns only
    #[arg(long)]
    completions_only: bool,
    #[command(flatten)]
    pub(crate) template: TemplateOptions,
    #[arg(help_heading = "Data")]
    /// Fill batches by tokens (batch-size times max-length) instead of by examples
    #[arg(long)]
    packing: bool,
    #[arg(help_heading = "Data")]
    /// Leave examples in random order instead of putting similar lengths together
    #[arg(long)]
    no_sort: bool,
    #[command(flatten)]
    own: MethodOptions,
    #[arg(help_heading = "Method")]
    /// DyLoRA: keep the smallest rank whose validation loss is within this share of the best
    #[arg(long, allow_negative_numbers = true, default_value_t = 0.01, value_name = "SHARE")]
    rank_tolerance: f64,
    #[arg(help_heading = "Optimization")]
    /// Keep only the inputs of blocks and compute the rest again in the backward pass: less memory,
    /// more time
    #[arg(long)]
    checkpointing: bool,
    #[arg(help_heading = "Optimization")]
    /// Everything random follows from it
    #[arg(long, default_value_t = 0, value_name = "SEED")]
    seed: u64,
    #[arg(help_heading = "Validation")]
    /// Steps between validations [default: one after every epoch]
    #[arg(long, value_name = "N")]
    validate_every: Option<u64>,
    #[arg(help_heading = "Validation")]
    /// Stop after this many validations without a better one, and keep the best
    #[arg(long, value_name = "N")]
    patience: Option<u32>,
}

impl TrainOptions {
    /// What the trainer is told.
    pub(crate) fn trainer(&self, method: Method, precision: Precision) -> Result<Options, Failure> {
        let patterns = |name: &str, texts: &[String]| {
            texts.iter().map(|text| pattern(name, text)).collect::<Result<Vec<_>, _>>()
        };
        let mut options = Options::new(method);
        self.own.apply(&mut options)?;
        Ok(Options {
            rank: self.rank,
            alpha: self.alpha.unwrap_or(2.0 * self.rank as f32),
            targets: self.target_modules.as_deref().map_or(options.targets, TargetModules::parse),
            rank_pattern: patterns("rank-pattern", &self.rank_pattern)?,
            alpha_pattern: patterns("alpha-pattern", &self.alpha_pattern)?,
            init: self.init.into(),
            dropout: self.dropout,
            optimizer: self.optimizer.into(),
            learning_rate: self.learning_rate,
            weight_decay: self.weight_decay,
            schedule: self.schedule.into(),
            max_norm: self.max_norm,
            label_smoothing: self.label_smoothing,
            seed: self.seed,
            checkpointing: self.checkpointing,
            precision,
            ..options
        })
    }

    /// What the run is told; no checkpoints.
    pub(crate) fn run(&self) -> RunOptions {
        RunOptions {
            length: self.steps.map_or(Length::Epochs(self.epochs), Length::Steps),
            warmup: self.warmup,
            batch_size: self.batch_size,
            accumulation: self.accumulation,
            sort_by_length: !self.no_sort,
            validate_every: self.validate_every,
            patience: self.patience,
            rank_tolerance: self.rank_tolerance,
            ..RunOptions::default()
        }
    }

    /// What one of several methods is told: options of other methods have their defaults.
    pub(crate) fn contestant(
        &self,
        method: Method,
        precision: Precision,
    ) -> Result<Options, Failure> {
        Ok(self.trainer(method, precision)?.with_method(method))
    }

    /// What its run is told.
    pub(crate) fn run_of(&self, method: Method) -> RunOptions {
        self.run().with_method(method)
    }

    /// Refuses an option that has no effect with any of `methods`.
    pub(crate) fn check_effects(&self, methods: &[Method]) -> Result<(), Failure> {
        let Some(&first) = methods.first() else { return Ok(()) };
        self.trainer(first, Precision::Exact)?.check_effects(methods)?;
        Ok(self.run().check_effects(methods)?)
    }

    /// Optimizer steps, where they and not epochs are given.
    pub(crate) fn steps(&self) -> Option<u64> {
        self.steps
    }

    /// What a reader of results wants to know: name and value.
    pub(crate) fn facts(&self, input: ModelInput) -> Vec<(&'static str, String)> {
        let length = self
            .steps
            .map_or_else(|| counted(self.epochs, "epoch"), |steps| counted(steps, "step"));
        vec![
            ("length", length),
            (
                "batch",
                format!(
                    "{} × {} sequences of at most {} tokens",
                    self.accumulation,
                    self.batch_size,
                    self.max_length(input)
                ),
            ),
            (
                "rank, alpha",
                format!("{}, {}", self.rank, self.alpha.unwrap_or(2.0 * self.rank as f32)),
            ),
            ("layers", self.target_modules.clone().unwrap_or_else(|| "the methods' own".into())),
            (
                "learning rate",
                format!(
                    "{} ({}, warm-up {})",
                    self.learning_rate,
                    ScheduleShape::from(self.schedule).name(),
                    self.warmup
                ),
            ),
            (
                "optimizer",
                format!(
                    "{}, weight decay {}",
                    OptimizerKind::from(self.optimizer).name(),
                    self.weight_decay
                ),
            ),
            ("checkpointing of activations", if self.checkpointing { "yes" } else { "no" }.into()),
        ]
    }

    /// The first seed.
    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    /// Tokens of a sequence: those asked for, or the default that such a base can take.
    pub(crate) fn max_length(&self, input: ModelInput) -> usize {
        self.max_length.unwrap_or(DataOptions::for_model(input).max_length)
    }

    /// Refuses a length where the base reads numbers.
    fn check_length(&self, path: &Path, input: ModelInput) -> Result<(), FileError> {
        check_length(self.max_length, input).map_err(|reason| FileError::format(path, "", reason))
    }

    /// Opens the training file; a classifier that goes on keeps its labels.
    pub(crate) fn open_training<'t>(
        &self,
        path: &Path,
        input: ModelInput,
        tokenizer: Option<&'t dyn Tokenize>,
        start: Option<&Start>,
    ) -> Result<Dataset<'t>, FileError> {
        self.check_length(path, input)?;
        let labels = start.map(Start::labels).filter(|labels| !labels.is_empty());
        let labels = labels.filter(|_| self.task == TaskName::Classify);
        let options = DataOptions { packing: self.packing, ..self.data(input, labels) };
        Dataset::open(path, self.task.into(), tokenizer, options)
    }

    /// How data is read for a base with this input.
    fn data(&self, input: ModelInput, labels: Option<Vec<String>>) -> DataOptions {
        let (max_length, completions_only) = (self.max_length(input), self.completions_only);
        DataOptions { max_length, completions_only, labels, ..DataOptions::for_model(input) }
    }

    /// Opens a data file for a base with this input; a validation file takes the training file's labels.
    pub(crate) fn open<'t>(
        &self,
        path: &Path,
        input: ModelInput,
        tokenizer: Option<&'t dyn Tokenize>,
        labels: Option<Vec<String>>,
    ) -> Result<Dataset<'t>, FileError> {
        self.check_length(path, input)?;
        let packing = self.packing && labels.is_none();
        let options = DataOptions { packing, ..self.data(input, labels) };
        Dataset::open(path, self.task.into(), tokenizer, options)
    }
}

/// Refuses a `--max-length` that has no effect.
pub(crate) fn check_length(asked: Option<usize>, input: ModelInput) -> Result<(), String> {
    match asked {
        Some(_) if input.features > 0 => {
            Err("max-length has no effect: the base reads numbers, not text".into())
        }
        _ => Ok(()),
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

fn warmup(text: &str) -> Result<Warmup, String> {
    let number = text.parse().map_err(|_| "a number was expected".to_owned())?;
    Warmup::from_number(number).map_err(|error| error.to_string())
}

/// "1 step", "2 steps".
pub(crate) fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
