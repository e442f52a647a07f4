//! What a training run would take, and how good a base and its adapters are. `std` only.

use core::ffi::{c_char, c_void};
use std::path::Path;

use super::failure::{Failure, Outcome, Refusal, call, lowrank_code, lowrank_error};
use super::file::{path_of, start};
use super::job::{Job, TASKS, constant, data_options};
use super::limits::{LOWRANK_PRECISION_EXACT, precision_of};
use super::memory::{Region, check, slice};
use super::options::{self, Options as CarriesSize};
use super::train::options_of;
use super::train_options::{LOWRANK_TASK_LM, lowrank_train_options};
use super::train_run::{Data, for_model, tokenizer};
use crate::adapter::Adapter;
use crate::runtime::Executor;
use crate::train::data::{Dataset, Task, Tokenize};
use crate::train::{AnyBase, Options, Workload, estimate, evaluate};

/// What a run is estimated to take.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lowrank_train_memory {
    /// Numbers that are trained.
    pub trainable_parameters: u64,
    /// The most bytes on the heap at once, without tokenizer and data.
    pub heap_bytes: u64,
    /// That and the base's archive together: what `memory_limit` is compared with.
    pub peak_bytes: u64,
}

/// Estimates what a run of `options` on the base will take and writes it to `*memory`; trains
/// nothing. Without data every batch is taken to be full: `batch_size` sequences of `max_length`
/// tokens, and two labels for a classifier. Errors are those of `lowrank_train`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_train_estimate(
    archive: *const c_void,
    archive_bytes: usize,
    options: *const lowrank_train_options,
    memory: *mut lowrank_train_memory,
    error: *mut lowrank_error,
) -> lowrank_code {
    let told = Region::writes(memory, 1, 4);
    let base = Region::reads(archive.cast::<u8>(), archive_bytes, 1);
    call(error, 5, &[base, options::region(options, 3), told], || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        let (archive, options) =
            unsafe { (slice::<u8>(archive.cast(), archive_bytes), options_of(options, told)?) };
        // SAFETY: as above.
        let job = &unsafe { Job::new(&options, told) }?;
        let base = AnyBase::open(archive)?;
        let tokenizer = tokenizer(&base);
        let tokenizer = tokenizer.as_ref().map(|tokenizer| tokenizer as &dyn Tokenize);
        let trainer = job.options()?;
        let data = match job.has_data() {
            true => Some(Data::open(&base, job, &trainer, tokenizer)?),
            false => None,
        };
        let threads = start(job.threads)?.threads();
        let estimate = estimate_of(archive, base, job, &trainer, data.as_ref(), threads)?;
        // SAFETY: as above.
        unsafe { memory.write(estimate) };
        Ok(())
    })
}

pub(super) fn estimate_of(
    archive: &[u8],
    base: AnyBase<'_>,
    job: &Job<'_>,
    options: &Options,
    data: Option<&Data<'_>>,
    threads: usize,
) -> Outcome<lowrank_train_memory> {
    let workload = match data {
        Some(Data { training, validation, .. }) => {
            Workload::of(training, validation.as_ref(), &job.run, options.seed, threads)
        }
        None => {
            let labels = if job.task == Task::Classify { 2 } else { 0 };
            let length = for_model(&job.data_options, &base).max_length;
            Workload::full(job.run.batch_size, length, labels, threads)?
        }
    };
    let found = estimate(base, options, &job.run, &workload)?;
    Ok(lowrank_train_memory {
        trainable_parameters: found.trainable_parameters as u64,
        heap_bytes: found.heap_bytes,
        peak_bytes: found.heap_bytes.saturating_add(archive.len() as u64),
    })
}

/// An adapter archive in memory, and how strongly it works.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lowrank_weighted_archive {
    /// The archive, at a multiple of `LOWRANK_MEMORY_ALIGN`.
    pub archive: *const c_void,
    /// Its length.
    pub archive_bytes: usize,
    /// 1 is as trained. A classifier is not scaled.
    pub weight: f32,
}

/// What is measured, and how. Start from `lowrank_evaluate_options_default` and set `data`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lowrank_evaluate_options {
    /// The bytes of this struct as the program knows it; `lowrank_evaluate_options_default` sets
    /// it.
    pub size: usize,
    /// The path of the data, as `lowrank evaluate` takes it; a NUL at its end.
    pub data: *const c_char,
    /// Adapters of the base that are active, or null.
    pub adapters: *const lowrank_weighted_archive,
    /// Their number.
    pub adapter_count: usize,
    /// Tokens of a sequence; longer ones are cut. 0 is 512, or the positions of the base if those
    /// are fewer.
    pub max_length: usize,
    /// Threads; 0 is one per core.
    pub threads: usize,
    /// One of `LOWRANK_TASK_LM`, `LOWRANK_TASK_CLASSIFY`; the labels are those of the last adapter
    /// that brings a classifier, else the base's own.
    pub task: u32,
    /// Not 0: score completions and the assistant's turns only.
    pub completions_only: u32,
    /// One of `LOWRANK_PRECISION_EXACT`, `LOWRANK_PRECISION_FAST`.
    pub precision: u32,
    /// 0.
    pub reserved: u32,
}

// SAFETY: begins with its size; numbers and pointers without padding.
unsafe impl CarriesSize for lowrank_evaluate_options {
    const FIRST: usize = size_of::<Self>();

    fn defaults() -> Self {
        lowrank_evaluate_options_default()
    }
}

/// The options of `lowrank evaluate`: a language model's perplexity under the base alone, exact, on
/// one thread per core.
pub fn lowrank_evaluate_options_default() -> lowrank_evaluate_options {
    lowrank_evaluate_options {
        size: size_of::<lowrank_evaluate_options>(),
        data: core::ptr::null(),
        adapters: core::ptr::null(),
        adapter_count: 0,
        max_length: 0,
        threads: 0,
        task: LOWRANK_TASK_LM,
        completions_only: 0,
        precision: LOWRANK_PRECISION_EXACT,
        reserved: 0,
    }
}

/// Writes what `lowrank_evaluate_options_default` returns to a struct of `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_evaluate_options_init(
    options: *mut lowrank_evaluate_options,
    size: usize,
) {
    // SAFETY: the caller's promises.
    unsafe { options::init(options, size, lowrank_evaluate_options_default()) };
}

/// What a model does on data.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lowrank_metrics {
    /// The mean loss of everything scored, in nats.
    pub loss: f64,
    /// exp(loss).
    pub perplexity: f64,
    /// The share of labels that were right, or a NaN.
    pub accuracy: f64,
    /// F1 of the second of two labels, of more the mean of all (macro), or a NaN.
    pub f1: f64,
    /// Tokens or sequences that were scored.
    pub scored: u64,
    /// Examples.
    pub examples: u64,
    /// How many of them were cut at `max_length` tokens.
    pub cut: u64,
    /// Records that were left out because nothing in them is scored.
    pub left_out: u64,
}

/// Measures the base whose archive is given, of any family, on the data in `options`, and writes
/// what it finds to `*metrics`. Blocks until it is done. Data and adapters that do not fit are
/// refused as `lowrank_train` refuses them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_evaluate(
    archive: *const c_void,
    archive_bytes: usize,
    options: *const lowrank_evaluate_options,
    metrics: *mut lowrank_metrics,
    error: *mut lowrank_error,
) -> lowrank_code {
    let told = Region::writes(metrics, 1, 4);
    let base = Region::reads(archive.cast::<u8>(), archive_bytes, 1);
    call(error, 5, &[base, options::region(options, 3), told], || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        unsafe {
            let c: lowrank_evaluate_options = options::read(options, 3)?;
            check(&[Region::reads(c.data, 1, 3), told])?;
            check(&[Region::reads(c.adapters, c.adapter_count, 3), told])?;
            let mut adapters: Vec<(&[u8], f32)> = Vec::with_capacity(c.adapter_count);
            for adapter in slice(c.adapters, c.adapter_count) {
                let &lowrank_weighted_archive { archive, archive_bytes, weight } = adapter;
                check(&[Region::reads(archive.cast::<u8>(), archive_bytes, 3), told])?;
                adapters.push((slice(archive.cast(), archive_bytes), weight));
            }
            let archive = slice::<u8>(archive.cast(), archive_bytes);
            metrics.write(metrics_of(archive, &adapters, path_of(c.data, 3)?, &c)?);
        }
        Ok(())
    })
}

fn metrics_of(
    archive: &[u8],
    adapters: &[(&[u8], f32)],
    path: &Path,
    c: &lowrank_evaluate_options,
) -> Outcome<lowrank_metrics> {
    let base = AnyBase::open(archive)?;
    let task = constant(c.task, &TASKS)?;
    let mut options = for_model(&data_options(c.max_length, c.completions_only), &base);
    if task == Task::Classify {
        options.labels = Some(labels(&base, adapters)?);
    }
    let tokenizer = tokenizer(&base);
    let tokenizer = tokenizer.as_ref().map(|tokenizer| tokenizer as &dyn Tokenize);
    let data = Dataset::open(path, task, tokenizer, options)?;
    let (precision, executor) = (precision_of(c.precision, 3)?, start(c.threads)?);
    let found = evaluate(base, adapters, &data, precision, &executor, &mut |_, _| ())?;
    Ok(lowrank_metrics {
        loss: found.loss,
        perplexity: found.perplexity,
        accuracy: found.accuracy.unwrap_or(f64::NAN),
        f1: found.f1.unwrap_or(f64::NAN),
        scored: found.scored as u64,
        examples: found.examples as u64,
        cut: data.truncated() as u64,
        left_out: data.skipped() as u64,
    })
}

/// The label names: the last adapter's that brings a classifier, else the base's own.
fn labels(base: &AnyBase<'_>, adapters: &[(&[u8], f32)]) -> Outcome<Vec<String>> {
    let mut labels = base.labels();
    for (archive, _) in adapters {
        if let Some(classifier) = Adapter::open(archive)?.classifier() {
            labels = classifier.labels().map(String::from).collect();
        }
    }
    if labels.is_empty() {
        return Err(Failure::Said(Refusal::Train, NO_CLASSIFIER.into()));
    }
    Ok(labels)
}

const NO_CLASSIFIER: &str =
    "neither the base nor an adapter brings a classifier: train one with LOWRANK_TASK_CLASSIFY";
