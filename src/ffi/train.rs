//! Training from C: an adapter, or a whole float base, as `lowrank train` makes it. `std` only.
//!
//! The base is only read: sessions may go on with it on other threads, and what was trained is
//! opened and swapped in like any other archive.

use core::ffi::{CStr, c_char, c_void};
use core::mem::offset_of;
use std::path::Path;
use std::sync::Arc;

use super::failure::{Failure, Outcome, Refusal, call, lowrank_code, lowrank_error};
use super::file::path_of;
use super::memory::{Region, check, slice};
use super::session::{LOWRANK_PRECISION_EXACT, precision_of};
use crate::adapter::SharedAdapter;
use crate::archive::{ArchiveFile, Header};
use crate::file::Output;
use crate::runtime::{Executor, Threads};
use crate::text::TextBorder;
use crate::train::data::{DataOptions, Dataset, MAX_LENGTH, Task, Tokenize};
use crate::train::{
    AnyBase, Control, Event, Length, Method, OptimizerKind, Options, Report, RunOptions, Shape,
    Start, Targets, TrainError, Trainer, Warmup, Workload, estimate, kind, run, save, unfinished,
};

/// `task`: the next token, of a decoder or an LSTM.
pub const LOWRANK_TASK_LM: u32 = 0;
/// `task`: one label for a whole text or row of numbers.
pub const LOWRANK_TASK_CLASSIFY: u32 = 1;

/// `method`: LoRA.
pub const LOWRANK_METHOD_LORA: u32 = 0;
/// `method`: LoRA; insists on a 4-bit base.
pub const LOWRANK_METHOD_QLORA: u32 = 1;
/// `method`: rank-stabilized LoRA, alpha / √rank.
pub const LOWRANK_METHOD_RSLORA: u32 = 2;
/// `method`: LoRA+, B learns faster than A.
pub const LOWRANK_METHOD_LORA_PLUS: u32 = 3;
/// `method`: DyLoRA, trained for all ranks up to `rank`; chooses one by the validation data, which
/// it needs.
pub const LOWRANK_METHOD_DYLORA: u32 = 4;
/// `method`: LoRA-FA, A keeps what it was drawn as.
pub const LOWRANK_METHOD_LORA_FA: u32 = 5;
/// `method`: DoRA, a trained magnitude per output row.
pub const LOWRANK_METHOD_DORA: u32 = 6;
/// `method`: the weights of a float base; the output is a base.
pub const LOWRANK_METHOD_FULL: u32 = 7;

/// `optimizer`: AdamW, two f32 a parameter.
pub const LOWRANK_OPTIMIZER_ADAMW: u32 = 0;
/// `optimizer`: AdamW, two bytes a parameter.
pub const LOWRANK_OPTIMIZER_ADAMW_8BIT: u32 = 1;
/// `optimizer`: SGD with momentum 0.9.
pub const LOWRANK_OPTIMIZER_SGD: u32 = 2;

/// `schedule`: the learning rate stays.
pub const LOWRANK_SCHEDULE_CONSTANT: u32 = 0;
/// `schedule`: in a straight line to 0.
pub const LOWRANK_SCHEDULE_LINEAR: u32 = 1;
/// `schedule`: along half a cosine to 0.
pub const LOWRANK_SCHEDULE_COSINE: u32 = 2;

/// A training run. Start from `lowrank_train_options_default` and set `data` and `output`. Strings
/// are UTF-8 (paths on Unix: any bytes) with a NUL at their ends.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lowrank_train_options {
    /// The bytes of this struct as the program knows it. `lowrank_train_options_default` sets it:
    /// so programs stay right when later versions append fields, which then have their defaults.
    pub size: usize,
    /// The path of the training data: .txt, .jsonl, .tsv or .csv, as `lowrank train` takes it.
    pub data: *const c_char,
    /// The path of data that is measured after every epoch, or null.
    pub validation: *const c_char,
    /// The path of the archive to write. It appears whole or not at all.
    pub output: *const c_char,
    /// The path of checkpoints, or null for none. A run that is complete removes it.
    pub checkpoint: *const c_char,
    /// The path of an adapter of this base to go on from, or null. Its method, layers, ranks,
    /// alphas, scales and labels stay: `method`, `target_modules`, `rank` and `alpha` are not
    /// looked at.
    pub adapter: *const c_char,
    /// Which layers: `all-linear`, names separated by commas, or a regular expression for module
    /// paths. Null is `all-linear`.
    pub target_modules: *const c_char,
    /// The name of the result. Null: that of the output file without its extension.
    pub name: *const c_char,
    /// One of `LOWRANK_TASK_LM`, `LOWRANK_TASK_CLASSIFY`. A classifier's labels are those in the
    /// data.
    pub task: u32,
    /// One of `LOWRANK_METHOD_LORA`, `_QLORA`, `_RSLORA`, `_LORA_PLUS`, `_DYLORA`, `_LORA_FA`,
    /// `_DORA`, `_FULL`.
    pub method: u32,
    /// One of `LOWRANK_OPTIMIZER_ADAMW`, `_ADAMW_8BIT`, `_SGD`.
    pub optimizer: u32,
    /// One of `LOWRANK_SCHEDULE_CONSTANT`, `_LINEAR`, `_COSINE`.
    pub schedule: u32,
    /// The rank of the factors.
    pub rank: usize,
    /// Passes over the data.
    pub epochs: u64,
    /// Optimizer steps instead of epochs, or 0.
    pub steps: u64,
    /// Examples of a batch.
    pub batch_size: usize,
    /// Batches of an optimizer step.
    pub accumulation: usize,
    /// Tokens of a sequence; longer ones are cut.
    pub max_length: usize,
    /// Everything random follows from it.
    pub seed: u64,
    /// Threads; 0 is one per core.
    pub threads: usize,
    /// Steps between two checkpoints.
    pub checkpoint_every: u64,
    /// Steps between two validations; 0 is one after every epoch.
    pub validate_every: u64,
    /// Refuse in advance a run that would take more bytes (the base and the heap of the run,
    /// without tokenizer and data); 0 for no limit.
    pub memory_limit: u64,
    /// In how many steps the learning rate rises, or in which share of all (below 1).
    pub warmup: f64,
    /// alpha; 0 is twice the rank.
    pub alpha: f32,
    /// The learning rate at its highest.
    pub learning_rate: f32,
    /// Weight decay.
    pub weight_decay: f32,
    /// Share of activations that are dropped before A.
    pub dropout: f32,
    /// Gradients are clipped to this global norm; 0 for not at all.
    pub max_norm: f32,
    /// Label smoothing.
    pub label_smoothing: f32,
    /// Stop after this many validations without a better one and keep the best; 0 keeps the last.
    pub patience: u32,
    /// Not 0: score completions and the assistant's turns only.
    pub completions_only: u32,
    /// Not 0: keep only the inputs of blocks and compute the rest again: less memory, more time.
    pub checkpointing: u32,
    /// How forward products with the frozen base treat their activations:
    /// `LOWRANK_PRECISION_EXACT` or `LOWRANK_PRECISION_FAST`.
    pub precision: u32,
    /// Not 0: go on from the checkpoint if there is one.
    pub resume: u32,
    /// Not 0: begin anew where there is the checkpoint of a run that was not finished, and replace
    /// it. With both 0 such a checkpoint is refused.
    pub restart: u32,
}

/// The bytes of the first version of the options that begins with its size.
const FIRST_SIZE: usize = offset_of!(lowrank_train_options, restart) + size_of::<u32>();

/// What a run tells while it goes on.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lowrank_train_progress {
    /// Optimizer steps taken.
    pub step: u64,
    /// Those of the whole run.
    pub total: u64,
    /// The loss of the step, or of the validation data.
    pub loss: f64,
    /// Of validation data with labels, else a NaN.
    pub accuracy: f64,
    /// 1 if the validation data was measured, 0 if a step was taken.
    pub is_validation: u32,
}

/// Is told what a run does, on the thread that called `lowrank_train`; returns 0 to go on, anything
/// else to stop. `context` is what `lowrank_train` was given. It must return; it may use objects of
/// the library like any other code.
pub type lowrank_train_watch = Option<
    unsafe extern "C" fn(context: *mut c_void, progress: *const lowrank_train_progress) -> u32,
>;

/// What a run did.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lowrank_train_report {
    /// Optimizer steps taken, those before a resume included.
    pub steps: u64,
    /// Rows (tokens) that went through the model.
    pub rows: u64,
    /// Numbers that are trained.
    pub trainable_parameters: u64,
    /// The mean training loss of the last twentieth of the run.
    pub loss: f64,
    /// Seconds, without validation.
    pub seconds: f64,
    /// The loss of the validation data with what was kept, or a NaN.
    pub validation_loss: f64,
    /// Its accuracy, of labels, or a NaN.
    pub validation_accuracy: f64,
    /// The rank that was kept: `rank`, or what DyLoRA chose.
    pub rank: u32,
    /// 1 if the callback stopped the run: then there is a checkpoint, if one was asked for, and no
    /// output.
    pub stopped: u32,
    /// Examples of the training data.
    pub examples: u64,
    /// How many of them were cut at `max_length` tokens.
    pub cut: u64,
    /// Records that were left out because nothing in them is scored.
    pub left_out: u64,
    /// Labels of the training data; 0 for a language model.
    pub labels: u32,
}

impl From<TrainError> for Failure {
    /// What core and files say keeps its code; everything else is `LOWRANK_ERROR_TRAIN` with a
    /// sentence.
    fn from(error: TrainError) -> Self {
        match error {
            TrainError::Core(error) => error.into(),
            TrainError::File(error) => error.into(),
            TrainError::Text(error) => error.into(),
            TrainError::Diverged { step, .. } => {
                Self::Said(Refusal::Diverged { step }, error.to_string())
            }
            other => Self::Said(Refusal::Train, other.to_string()),
        }
    }
}

/// The options of `lowrank train`: LoRA of rank 8 on all linear layers, alpha 16, one epoch in
/// batches of 8 sequences of at most 512 tokens, AdamW at 2e-4 falling in a straight line,
/// gradients clipped at 1, one thread per core, seed 0; no validation, no checkpoints.
#[unsafe(no_mangle)]
pub extern "C" fn lowrank_train_options_default() -> lowrank_train_options {
    let none = core::ptr::null();
    lowrank_train_options {
        size: size_of::<lowrank_train_options>(),
        data: none,
        validation: none,
        output: none,
        checkpoint: none,
        adapter: none,
        target_modules: none,
        name: none,
        task: LOWRANK_TASK_LM,
        method: LOWRANK_METHOD_LORA,
        optimizer: LOWRANK_OPTIMIZER_ADAMW,
        schedule: LOWRANK_SCHEDULE_LINEAR,
        rank: 8,
        epochs: 1,
        steps: 0,
        batch_size: 8,
        accumulation: 1,
        max_length: MAX_LENGTH,
        seed: 0,
        threads: 0,
        checkpoint_every: 100,
        validate_every: 0,
        memory_limit: 0,
        warmup: 0.0,
        alpha: 0.0,
        learning_rate: 2e-4,
        weight_decay: 0.0,
        dropout: 0.0,
        max_norm: 1.0,
        label_smoothing: 0.0,
        patience: 0,
        completions_only: 0,
        checkpointing: 0,
        precision: LOWRANK_PRECISION_EXACT,
        resume: 0,
        restart: 0,
    }
}

/// Trains on the base whose archive is given, of any family, and writes the result to
/// `options->output`. Blocks until the run is over; `watch` (may be null) is told after every step
/// and every validation, with `context`, and may stop it. The base is only read: other threads may
/// run sessions over it meanwhile. The result is opened with `lowrank_file_open` and
/// `lowrank_adapter_open` and put into a running set with `lowrank_set_replace`: sessions that
/// chose the old one keep it. `report` may be null.
///
/// Before the work begins `options->output` and `options->checkpoint` are tried: a file that is one
/// of the inputs or holds something of another kind, and a folder that is missing, are
/// `LOWRANK_ERROR_FILE` with a sentence. A base is known by its fingerprint, wherever its bytes are.
///
/// Options, data and base that do not fit are `LOWRANK_ERROR_TRAIN` with a sentence. A run that
/// diverges is `LOWRANK_ERROR_DIVERGED` with a sentence: the last good numbers are in the output
/// file, or the file is as it was if no step left good ones.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_train(
    archive: *const c_void,
    archive_bytes: usize,
    options: *const lowrank_train_options,
    watch: lowrank_train_watch,
    context: *mut c_void,
    report: *mut lowrank_train_report,
    error: *mut lowrank_error,
) -> lowrank_code {
    let told = Region::writes(report, 1, 6).optional();
    let size = match options.is_null() || !options.is_aligned() {
        true => FIRST_SIZE,
        // SAFETY: the caller vouches for memory that is not null; `size` comes first.
        false => unsafe { options.cast::<usize>().read() },
    };
    let room = size.clamp(size_of::<usize>(), size_of::<lowrank_train_options>());
    let alignment = align_of::<lowrank_train_options>();
    call(
        error,
        7,
        &[
            Region::reads(archive.cast::<u8>(), archive_bytes, 1),
            Region::bytes(options.cast(), room, alignment, 3),
            told,
        ],
        || {
            // SAFETY: checked by `call`; the caller vouches for the memory.
            let archive = unsafe { slice::<u8>(archive.cast(), archive_bytes) };
            // SAFETY: as above.
            let options = &unsafe { whole(options, size) }?;
            let strings = [options.data, options.output].map(|string| Region::reads(string, 1, 3));
            strings.iter().try_for_each(|string| check(&[*string, told]))?;
            let optional = [
                options.validation,
                options.checkpoint,
                options.adapter,
                options.target_modules,
                options.name,
            ];
            optional
                .iter()
                .try_for_each(|string| check(&[Region::reads(*string, 1, 3).optional(), told]))?;
            // SAFETY: as above.
            let done =
                train(archive, &unsafe { Job::new(options) }?, &mut |progress| match watch {
                    // SAFETY: the caller's own function, with its own context.
                    Some(watch) if unsafe { watch(context, &progress) } != 0 => Control::Stop,
                    _ => Control::Continue,
                })?;
            if !report.is_null() {
                // SAFETY: checked by `call`.
                unsafe { report.write(done) };
            }
            Ok(())
        },
    )
}

/// The options of a program that knows the first `size` bytes of them; the rest has its defaults.
///
/// # Safety
/// `size` bytes, as far as this library knows them, can be read.
unsafe fn whole(
    options: *const lowrank_train_options,
    size: usize,
) -> Outcome<lowrank_train_options> {
    let most = size_of::<lowrank_train_options>();
    if !(FIRST_SIZE..=most).contains(&size) {
        let sentence = format!(
            "the size of the options is {size}, {FIRST_SIZE} to {most} was expected: begin with \
             lowrank_train_options_default()"
        );
        return Err(Failure::Said(Refusal::Train, sentence));
    }
    let mut whole = lowrank_train_options_default();
    // SAFETY: the caller's promise; every field is plain numbers and pointers.
    unsafe {
        core::ptr::copy_nonoverlapping(options.cast::<u8>(), (&raw mut whole).cast::<u8>(), size);
    }
    Ok(whole)
}

/// UTF-8 of a NUL-terminated string, if there is one.
///
/// # Safety
/// Null, or a NUL at its end.
pub(super) unsafe fn string_of<'a>(
    string: *const c_char,
    argument: u32,
) -> Outcome<Option<&'a str>> {
    if string.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(string) }.to_str();
    Ok(Some(text.map_err(|error| Refusal::NotUtf8 { argument, valid: error.valid_up_to() })?))
}

/// The options as the crate has them.
struct Job<'a> {
    data: &'a Path,
    validation: Option<&'a Path>,
    output: &'a Path,
    adapter: Option<&'a Path>,
    restart: bool,
    name: String,
    task: Task,
    data_options: DataOptions,
    trainer: Options,
    run: RunOptions,
    threads: usize,
    memory_limit: u64,
}

impl<'a> Job<'a> {
    /// Checks constants and strings; numbers are checked where they are used.
    ///
    /// # Safety
    /// Strings were checked, and have NULs at their ends.
    unsafe fn new(c: &lowrank_train_options) -> Outcome<Self> {
        let unknown = |found| Err(Refusal::UnknownConstant { argument: 3, found }.into());
        let path = |string: *const c_char| match string.is_null() {
            true => Ok(None),
            // SAFETY: the caller's promise.
            false => unsafe { path_of(string, 3) }.map(Some),
        };
        // SAFETY: the caller's promise; both were checked not to be null.
        let (data, output) = unsafe { (path_of(c.data, 3)?, path_of(c.output, 3)?) };
        // SAFETY: as above.
        let (targets, name) = unsafe { (string_of(c.target_modules, 3)?, string_of(c.name, 3)?) };
        let stem = || {
            output
                .file_stem()
                .map_or_else(|| "adapter".into(), |stem| stem.to_string_lossy().into_owned())
        };
        let method = match c.method {
            LOWRANK_METHOD_LORA => Method::Lora,
            LOWRANK_METHOD_QLORA => Method::QLora,
            LOWRANK_METHOD_RSLORA => Method::RsLora,
            LOWRANK_METHOD_LORA_PLUS => Method::LoraPlus,
            LOWRANK_METHOD_DYLORA => Method::DyLora,
            LOWRANK_METHOD_LORA_FA => Method::LoraFa,
            LOWRANK_METHOD_DORA => Method::Dora,
            LOWRANK_METHOD_FULL => Method::Full,
            found => return unknown(found),
        };
        let trainer = Options {
            rank: c.rank,
            alpha: if c.alpha == 0.0 { 2.0 * c.rank as f32 } else { c.alpha },
            targets: targets.map_or(Targets::AllLinear, Targets::parse),
            dropout: c.dropout,
            optimizer: match c.optimizer {
                LOWRANK_OPTIMIZER_ADAMW => OptimizerKind::adamw(),
                LOWRANK_OPTIMIZER_ADAMW_8BIT => OptimizerKind::adamw_8bit(),
                LOWRANK_OPTIMIZER_SGD => OptimizerKind::Sgd { momentum: 0.9 },
                found => return unknown(found),
            },
            learning_rate: c.learning_rate,
            weight_decay: c.weight_decay,
            schedule: match c.schedule {
                LOWRANK_SCHEDULE_CONSTANT => Shape::Constant,
                LOWRANK_SCHEDULE_LINEAR => Shape::Linear,
                LOWRANK_SCHEDULE_COSINE => Shape::Cosine,
                found => return unknown(found),
            },
            max_norm: c.max_norm,
            label_smoothing: c.label_smoothing,
            seed: c.seed,
            checkpointing: c.checkpointing != 0,
            precision: precision_of(c.precision, 3)?,
            ..Options::new(method)
        };
        let run = RunOptions {
            length: if c.steps > 0 { Length::Steps(c.steps) } else { Length::Epochs(c.epochs) },
            // A NaN and what is below 0 are refused as shares.
            warmup: if c.warmup >= 1.0 {
                Warmup::Steps(c.warmup as u64)
            } else {
                Warmup::Share(c.warmup)
            },
            batch_size: c.batch_size,
            accumulation: c.accumulation,
            validate_every: (c.validate_every > 0).then_some(c.validate_every),
            patience: (c.patience > 0).then_some(c.patience),
            checkpoint: path(c.checkpoint)?.map(|path| (path.to_owned(), c.checkpoint_every)),
            resume: c.resume != 0,
            ..RunOptions::default()
        };
        Ok(Self {
            data,
            validation: path(c.validation)?,
            output,
            adapter: path(c.adapter)?,
            restart: c.restart != 0,
            name: name.map_or_else(stem, str::to_owned),
            task: match c.task {
                LOWRANK_TASK_LM => Task::LanguageModel,
                LOWRANK_TASK_CLASSIFY => Task::Classify,
                found => return unknown(found),
            },
            data_options: DataOptions {
                max_length: c.max_length,
                completions_only: c.completions_only != 0,
                ..DataOptions::default()
            },
            trainer,
            run,
            threads: c.threads,
            memory_limit: c.memory_limit,
        })
    }
}

impl Job<'_> {
    /// Refuses to begin beside the checkpoint of a run that was not finished.
    fn check_checkpoint(&self) -> Outcome {
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

    /// The trainer's options, with the adapter to go on from and what is its own.
    fn options(&self) -> Outcome<Options> {
        let Some(path) = self.adapter else { return Ok(self.trainer.clone()) };
        let adapter = SharedAdapter::open(Box::new(ArchiveFile::open(path)?))?;
        let continued = Options::continuing(Arc::new(adapter).into());
        let Options { method, rank, alpha, targets, start, .. } = continued;
        Ok(Options { method, rank, alpha, targets, start, ..self.trainer.clone() })
    }
}

/// The tokenizer of a base that has one.
fn border(base: &AnyBase<'_>) -> Option<TextBorder> {
    match base {
        AnyBase::Llama(model) => TextBorder::new(model).ok(),
        AnyBase::Bert(model) => TextBorder::for_encoder(model).ok(),
        AnyBase::Lstm(model) => TextBorder::for_lstm(model).ok(),
        AnyBase::Mlp(_) => None,
    }
}

/// The place of the result, tried before the work begins. The base is memory here: that it came
/// from the file of this name can be told by its fingerprint alone.
fn try_output(archive: &[u8], job: &Job<'_>) -> Outcome<Output> {
    let mut inputs = vec![job.data];
    inputs.extend(job.validation);
    inputs.extend(job.run.checkpoint.as_ref().map(|(path, _)| path.as_path()));
    let output = Output::new(job.output, kind(job.trainer.method), &inputs, false)?;
    output.refuse_base(Header::parse(archive)?.fingerprint)?;
    Ok(output)
}

/// The whole run, as the command line makes it.
fn train(
    archive: &[u8],
    job: &Job<'_>,
    watch: &mut dyn FnMut(lowrank_train_progress) -> Control,
) -> Outcome<lowrank_train_report> {
    job.check_checkpoint()?;
    let base = AnyBase::open(archive)?;
    let output = try_output(archive, job)?;
    let border = border(&base);
    let tokenizer = border.as_ref().map(|border| border as &dyn Tokenize);
    let options = job.options()?;
    let known = options.start.as_ref().map(Start::labels).filter(|labels| !labels.is_empty());
    let known = known.filter(|_| job.task == Task::Classify);
    let data_options = DataOptions { input: Some(base.input()), ..job.data_options.clone() };
    let training_options = DataOptions { labels: known, ..data_options.clone() };
    let training = Dataset::open(job.data, job.task, tokenizer, training_options)?;
    let labels = (job.task == Task::Classify).then(|| training.labels().to_vec());
    let validation_options = DataOptions { labels: labels.clone(), ..data_options };
    let validation = job
        .validation
        .map(|path| Dataset::open(path, job.task, tokenizer, validation_options))
        .transpose()?;
    if job.threads > super::file::MOST_THREADS {
        let (field, found, most) =
            (crate::error::Field::Lanes, job.threads, super::file::MOST_THREADS);
        return Err(crate::error::Error::Limit { field, found, most }.into());
    }
    let executor = Threads::new(job.threads)
        .map_err(|error| Failure::Said(Refusal::Threads, error.to_string()))?;
    if job.memory_limit > 0 {
        let workload =
            Workload::of(&training, validation.as_ref(), &job.run, options.seed, executor.lanes());
        let need = estimate(base, &options, &job.run, &workload)?
            .heap_bytes
            .saturating_add(archive.len() as u64);
        if need > job.memory_limit {
            return Err(TrainError::Memory { need, limit: job.memory_limit }.into());
        }
    }
    let mut trainer = Trainer::new(base, options, labels.unwrap_or_default())?;
    output.check_room(4 * trainer.trainable_parameters() as u64)?;
    let mut total = 0;
    let outcome =
        run(&mut trainer, &training, validation.as_ref(), &job.run, &executor, &mut |event| {
            match event {
                Event::Step { step, total: all, loss } => {
                    total = all;
                    watch(lowrank_train_progress {
                        step,
                        total,
                        loss,
                        accuracy: f64::NAN,
                        is_validation: 0,
                    })
                }
                Event::Validation { step, loss, accuracy } => watch(lowrank_train_progress {
                    step,
                    total,
                    loss,
                    accuracy: accuracy.unwrap_or(f64::NAN),
                    is_validation: 1,
                }),
            }
        });
    match outcome {
        Ok(report) if report.stopped => Ok(tell(&training, &trainer, &report)),
        Ok(report) => {
            save(&trainer, report.rank, &job.name, &output)?;
            if let Some((checkpoint, _)) = &job.run.checkpoint {
                // The run is complete: a later one has nothing to go on from.
                let _ = std::fs::remove_file(checkpoint);
            }
            Ok(tell(&training, &trainer, &report))
        }
        Err(error @ TrainError::Diverged { kept: Some(_), .. }) => {
            save(&trainer, None, &job.name, &output)?;
            Err(error.into())
        }
        Err(error) => Err(error.into()),
    }
}

fn tell(training: &Dataset<'_>, trainer: &Trainer<'_>, report: &Report) -> lowrank_train_report {
    let measures = report.validation.as_ref();
    lowrank_train_report {
        steps: report.steps,
        rows: report.rows,
        trainable_parameters: trainer.trainable_parameters() as u64,
        loss: report.loss,
        seconds: report.seconds,
        validation_loss: measures.map_or(f64::NAN, |measures| measures.loss),
        validation_accuracy: measures.and_then(|measures| measures.accuracy).unwrap_or(f64::NAN),
        rank: report.rank.unwrap_or(trainer.options().rank) as u32,
        stopped: report.stopped.into(),
        examples: training.len() as u64,
        cut: training.truncated() as u64,
        left_out: training.skipped() as u64,
        labels: training.labels().len() as u32,
    }
}
