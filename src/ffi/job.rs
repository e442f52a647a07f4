//! A training run of C as the crate has it: constants become enums, strings become paths.

use core::ffi::c_char;
use std::path::Path;
use std::sync::Arc;

use super::example::examples_of;
use super::failure::{Failure, Outcome, Refusal};
use super::file::{optional_path, string_of};
use super::limits::precision_of;
use super::memory::Region;
use super::train_options::lowrank_train_options;
use crate::adapter::SharedAdapter;
use crate::archive::ArchiveFile;
use crate::train::data::{DataOptions, Dataset, Example, Task, Tokenize};
use crate::train::{
    Length, Method, OptimizerKind, Options, RunOptions, ScheduleShape, Start, TargetModules,
    Warmup, unfinished,
};

/// In the order of `LOWRANK_TASK_`.
pub(super) const TASKS: [Task; 2] = [Task::LanguageModel, Task::Classify];
/// In the order of `LOWRANK_METHOD_`.
const METHODS: [Method; 9] = [
    Method::Lora,
    Method::QLora,
    Method::RsLora,
    Method::LoraPlus,
    Method::DyLora,
    Method::LoraFa,
    Method::Dora,
    Method::Full,
    Method::Ia3,
];
/// In the order of `LOWRANK_SCHEDULE_`.
const SCHEDULES: [ScheduleShape; 3] =
    [ScheduleShape::Constant, ScheduleShape::Linear, ScheduleShape::Cosine];

/// The value of a constant in argument 3.
pub(super) fn constant<T: Clone>(found: u32, values: &[T]) -> Outcome<T> {
    let value = values.get(found as usize).cloned();
    value.ok_or_else(|| Refusal::UnknownConstant { argument: 3, found }.into())
}

const TWO_SOURCES: &str =
    "options->data and options->examples are both set: a run learns from one of them";

/// How data is read; a `max_length` of 0 is what suits the model, set when it is known.
pub(super) fn data_options(max_length: usize, completions_only: u32) -> DataOptions {
    let completions_only = completions_only != 0;
    DataOptions { max_length, completions_only, ..DataOptions::default() }
}

/// The options as the crate has them.
pub(super) struct Job<'a> {
    pub(super) data: Option<&'a Path>,
    examples: Vec<Example>,
    pub(super) validation: Option<&'a Path>,
    pub(super) output: Option<&'a Path>,
    adapter: Option<&'a Path>,
    pub(super) restart: bool,
    pub(super) name: String,
    pub(super) task: Task,
    pub(super) data_options: DataOptions,
    pub(super) trainer: Options,
    pub(super) run: RunOptions,
    pub(super) threads: usize,
    pub(super) memory_limit: u64,
}

impl<'a> Job<'a> {
    /// Checks constants and strings; numbers are checked where they are used.
    ///
    /// # Safety
    /// Strings were checked, and have NULs at their ends. Examples do not lie in `told`.
    pub(super) unsafe fn new(c: &lowrank_train_options, told: Region) -> Outcome<Self> {
        // SAFETY: the caller's promise.
        let path = |string: *const c_char| unsafe { optional_path(string) };
        // SAFETY: as above.
        let name = unsafe { string_of(c.name, 3) }?;
        let output = path(c.output)?;
        let stem = || {
            let stem = output.and_then(Path::file_stem);
            stem.map_or_else(|| "adapter".into(), |stem| stem.to_string_lossy().into_owned())
        };
        Ok(Self {
            data: path(c.data)?,
            // SAFETY: as above.
            examples: unsafe { examples_of(c.examples, c.example_count, told) }?,
            validation: path(c.validation)?,
            output,
            adapter: path(c.adapter)?,
            restart: c.restart != 0,
            name: name.map_or_else(stem, str::to_owned),
            task: constant(c.task, &TASKS)?,
            data_options: data_options(c.max_length, c.completions_only),
            // SAFETY: as above.
            trainer: unsafe { trainer_options(c) }?,
            run: run_options(c, path(c.checkpoint)?)?,
            threads: c.threads,
            memory_limit: c.memory_limit,
        })
    }
}

impl Job<'_> {
    /// Refuses to begin beside the checkpoint of a run that was not finished.
    pub(super) fn check_checkpoint(&self) -> Outcome {
        let Some((path, _)) = &self.run.checkpoint else { return Ok(()) };
        if self.run.resume || self.restart {
            return Ok(());
        }
        let Some(steps) = unfinished(path)? else { return Ok(()) };
        let sentence = format!(
            "{} is of a run that was not finished (step {steps}): set resume to go on with it, \
             or restart to begin anew",
            path.display()
        );
        Err(Failure::Said(Refusal::Train, sentence))
    }

    /// Is there something to learn from?
    pub(super) fn has_data(&self) -> bool {
        self.data.is_some() || !self.examples.is_empty()
    }

    /// What is learnt from.
    pub(super) fn training<'t>(
        &self,
        tokenizer: Option<&'t dyn Tokenize>,
        options: DataOptions,
    ) -> Outcome<Dataset<'t>> {
        match (self.data, &self.examples[..]) {
            (Some(_), [_, ..]) => Err(Failure::Said(Refusal::Train, TWO_SOURCES.into())),
            (Some(path), []) => Ok(Dataset::open(path, self.task, tokenizer, options)?),
            (None, []) => Err(Refusal::NullPointer { argument: 3 }.into()),
            (None, examples) => {
                let examples = examples.iter().cloned();
                Ok(Dataset::from_examples(examples, self.task, tokenizer, options)?)
            }
        }
    }

    /// The trainer's options, with the adapter to go on from and what is its own.
    pub(super) fn options(&self) -> Outcome<Options> {
        let Some(path) = self.adapter else { return Ok(self.trainer.clone()) };
        let adapter = SharedAdapter::open(Box::new(ArchiveFile::open(path)?))?;
        let start = Start::from(Arc::new(adapter));
        let options = self.trainer.clone();
        let method = if start.is_bare() { options.method } else { start.method() };
        Ok(Options { method, ..options }.going_on(start))
    }
}

/// # Safety
/// Strings have NULs at their ends.
unsafe fn trainer_options(c: &lowrank_train_options) -> Outcome<Options> {
    // SAFETY: the caller's promise.
    let targets = unsafe { string_of(c.target_modules, 3) }?;
    // In the order of `LOWRANK_OPTIMIZER_`.
    let optimizers =
        [OptimizerKind::adamw(), OptimizerKind::adamw_8bit(), OptimizerKind::Sgd { momentum: 0.9 }];
    let options = Options::new(constant(c.method, &METHODS)?);
    Ok(Options {
        rank: c.rank,
        alpha: if c.alpha == 0.0 { 2.0 * c.rank as f32 } else { c.alpha },
        targets: targets.map_or(options.targets, TargetModules::parse),
        dropout: c.dropout,
        optimizer: constant(c.optimizer, &optimizers)?,
        learning_rate: c.learning_rate,
        weight_decay: c.weight_decay,
        schedule: constant(c.schedule, &SCHEDULES)?,
        max_norm: c.max_norm,
        label_smoothing: c.label_smoothing,
        seed: c.seed,
        checkpointing: c.checkpointing != 0,
        precision: precision_of(c.precision, 3)?,
        ..options
    })
}

fn run_options(c: &lowrank_train_options, checkpoint: Option<&Path>) -> Outcome<RunOptions> {
    Ok(RunOptions {
        length: if c.steps > 0 { Length::Steps(c.steps) } else { Length::Epochs(c.epochs) },
        warmup: Warmup::from_number(c.warmup)?,
        batch_size: c.batch_size,
        accumulation: c.accumulation,
        validate_every: (c.validate_every > 0).then_some(c.validate_every),
        patience: (c.patience > 0).then_some(c.patience),
        checkpoint: checkpoint.map(|path| (path.to_owned(), c.checkpoint_every)),
        resume: c.resume != 0,
        ..RunOptions::default()
    })
}
