//! Training from C: an adapter, or a whole float base, as `lowrank train` makes it. `std` only.
//!
//! The base is only read: sessions may go on with it on other threads, and what was trained is
//! opened and swapped in like any other archive.

use core::ffi::c_void;

use super::failure::{Failure, Outcome, Refusal, call, lowrank_code, lowrank_error};
use super::file::{FileValue, lowrank_file};
use super::job::Job;
use super::memory::{Region, check, slice};
use super::object::{self, place};
use super::options;
use super::train_options::lowrank_train_options;
use super::train_run::Run;
use crate::train::Control;

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

/// What `lowrank_train_watch` returns: go on.
pub const LOWRANK_TRAIN_CONTINUE: u32 = 0;
/// What `lowrank_train_watch` returns: stop; there is a checkpoint, if one was asked for, and no
/// result.
pub const LOWRANK_TRAIN_STOP: u32 = 1;
/// What `lowrank_train_watch` returns: what was learnt so far is the result, as if the run had been
/// this long.
pub const LOWRANK_TRAIN_KEEP: u32 = 2;

/// Is told what a run does, on the thread that called `lowrank_train`; returns
/// `LOWRANK_TRAIN_CONTINUE`, `LOWRANK_TRAIN_KEEP`, or anything else to stop. `context` is what
/// `lowrank_train` was given. It must return; it may use objects of the library like any other
/// code.
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
    /// 1 if the callback stopped the run (`LOWRANK_TRAIN_STOP`): then there is a checkpoint, if one
    /// was asked for, and no result.
    pub stopped: u32,
    /// Examples of the training data.
    pub examples: u64,
    /// How many of them were cut at `max_length` tokens.
    pub cut: u64,
    /// Records that were left out because nothing in them is scored.
    pub left_out: u64,
    /// Labels of the training data; 0 for a language model.
    pub labels: u32,
    /// 0.
    pub reserved: u32,
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
/// `LOWRANK_ERROR_FILE` with a sentence. A base is known by its fingerprint, wherever its bytes
/// are.
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
    let base = Region::reads(archive.cast::<u8>(), archive_bytes, 1);
    call(error, 7, &[base, options::region(options, 3), told], || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        unsafe {
            let options = options_of(options, told)?;
            check(&[Region::reads(options.output, 1, 3)])?;
            let archive = slice::<u8>(archive.cast(), archive_bytes);
            let watch = &mut |progress| ask(watch, context, &progress);
            let (done, _) = Run { archive, job: &Job::new(&options, told)?, watch }.train(true)?;
            if !report.is_null() {
                report.write(done);
            }
        }
        Ok(())
    })
}

/// As `lowrank_train`, but the result stays in memory: a file object in `memory` of at least
/// `lowrank_file_bytes()` bytes, whose archive `lowrank_file_archive` tells, and which must be
/// closed. `options->output` is null. On success `*result` is the object, on failure, and where the
/// callback stopped the run, null; a run that diverges leaves nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_train_in_memory(
    memory: *mut c_void,
    memory_bytes: usize,
    archive: *const c_void,
    archive_bytes: usize,
    options: *const lowrank_train_options,
    watch: lowrank_train_watch,
    context: *mut c_void,
    report: *mut lowrank_train_report,
    result: *mut *mut lowrank_file,
    error: *mut lowrank_error,
) -> lowrank_code {
    let told = Region::writes(report, 1, 8).optional();
    let regions = [
        object::room(memory, memory_bytes, 1),
        Region::reads(archive.cast::<u8>(), archive_bytes, 3),
        options::region(options, 5),
        told,
        Region::writes(result, 1, 9),
    ];
    call(error, 10, &regions, || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        unsafe {
            result.write(core::ptr::null_mut());
            let need = object::size::<lowrank_file>();
            if memory_bytes < need {
                let (argument, have) = (1, memory_bytes);
                return Err(Refusal::ObjectTooSmall { argument, have, need }.into());
            }
            let options = options_of(options, told)?;
            if !options.output.is_null() {
                return Err(Failure::Said(Refusal::Train, NO_OUTPUT.into()));
            }
            let archive = slice::<u8>(archive.cast(), archive_bytes);
            let watch = &mut |progress| ask(watch, context, &progress);
            let (done, made) =
                Run { archive, job: &Job::new(&options, told)?, watch }.train(false)?;
            if let Some(buffer) = made {
                let object: Outcome<_> = place(memory, memory_bytes, 1, |place| {
                    core::ptr::write(place, FileValue::Made(buffer));
                    Ok(())
                });
                result.write(object?);
            }
            if !report.is_null() {
                report.write(done);
            }
        }
        Ok(())
    })
}

const NO_OUTPUT: &str =
    "options->output is set, but the result stays in memory: leave it null, or call lowrank_train";

/// Asks the program whether to go on.
///
/// # Safety
/// `watch` is the caller's own function, with its own context.
unsafe fn ask(
    watch: lowrank_train_watch,
    context: *mut c_void,
    progress: &lowrank_train_progress,
) -> Control {
    // SAFETY: the caller's promise.
    match watch.map(|watch| unsafe { watch(context, progress) }) {
        None | Some(LOWRANK_TRAIN_CONTINUE) => Control::Continue,
        Some(LOWRANK_TRAIN_KEEP) => Control::Keep,
        Some(_) => Control::Stop,
    }
}

/// The options of a program, whose strings do not lie where the call writes.
///
/// # Safety
/// Checked as a region of options in argument 3; the caller of the C function vouches for the rest.
pub(super) unsafe fn options_of(
    options: *const lowrank_train_options,
    told: Region,
) -> Outcome<lowrank_train_options> {
    // SAFETY: the caller's promise.
    let c: lowrank_train_options = unsafe { options::read(options, 3) }?;
    let strings =
        [c.data, c.validation, c.output, c.checkpoint, c.adapter, c.target_modules, c.name];
    strings
        .iter()
        .try_for_each(|string| check(&[Region::reads(*string, 1, 3).optional(), told]))?;
    Ok(c)
}
