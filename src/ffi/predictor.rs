//! Predictors: rows of numbers through a multilayer perceptron.

use core::ffi::{c_char, c_void};

use super::base::lowrank_base;
use super::choice::lowrank_choice;
use super::executor::{Callback, lowrank_executor};
use super::failure::{Refusal, lowrank_code, lowrank_error};
use super::limits::{lowrank_need, number_of, precision_of};
use super::memory::{Region, slice};
use super::object::{self, Kind, region, size};
use super::options::{self, Options};
use super::running::{self, Classified, Opening, Running, Work, runs};
use super::set::lowrank_set;
use crate::adapter::{AdapterSet, Choice, Classifier};
use crate::model::mlp::Mlp;
use crate::runtime::{Need, Predictor, PredictorLimits, predictor_need};

/// What a predictor must have room for. Start from `lowrank_predictor_limits_default`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lowrank_predictor_limits {
    /// The bytes of this struct as the program knows it; `lowrank_predictor_limits_default` sets
    /// it.
    pub size: usize,
    /// Rows of features computed at once.
    pub batch: usize,
    /// Parts that the work is split into: as many as the executor has threads. Results do not
    /// depend on it.
    pub threads: usize,
    /// Adapters that one row can have at a time, at most `LOWRANK_MAX_CHOICES`.
    pub max_active: usize,
    /// The sum of their ranks.
    pub max_total_rank: usize,
    /// One of `LOWRANK_PRECISION_EXACT`, `LOWRANK_PRECISION_FAST`.
    pub precision: u32,
    /// 0.
    pub reserved: u32,
}

/// Runs rows of features through a multilayer perceptron, each row under its own adapters, in a
/// workspace of the caller. Row i of a batch is sequence i. One thread at a time; a second one gets
/// `LOWRANK_ERROR_BUSY`.
#[derive(Debug)]
pub struct lowrank_predictor {
    _opaque: (),
}

/// Memory that is enough for a predictor object, without its workspace, on every target.
pub const LOWRANK_PREDICTOR_BYTES: usize = 1024;
const _: () = assert!(size::<lowrank_predictor>() <= LOWRANK_PREDICTOR_BYTES);

runs! {
    lowrank_predictor, 0x6c70_7265, Predictor, Mlp, lowrank_predictor_limits -> PredictorLimits,
    |c, argument| PredictorLimits {
        batch: c.batch,
        precision: precision_of(c.precision, argument)?,
        threads: c.threads,
        max_active: c.max_active,
        max_total_rank: c.max_total_rank,
    },
    |config, limits| {
        limits.check()?;
        predictor_need(config, limits)
    }
}

// SAFETY: begins with its size; numbers without padding.
unsafe impl Options for lowrank_predictor_limits {
    const FIRST: usize = size_of::<Self>();

    fn defaults() -> Self {
        lowrank_predictor_limits_default(1)
    }
}

/// Limits for `batch` rows at once: one thread, exact products, up to two adapters of rank 64
/// together.
pub fn lowrank_predictor_limits_default(batch: usize) -> lowrank_predictor_limits {
    of(&PredictorLimits::new(batch))
}

/// Limits as C has them.
pub(super) fn of(limits: &PredictorLimits) -> lowrank_predictor_limits {
    let &PredictorLimits { batch, precision, threads, max_active, max_total_rank } = limits;
    lowrank_predictor_limits {
        size: size_of::<lowrank_predictor_limits>(),
        batch,
        threads,
        max_active,
        max_total_rank,
        precision: number_of(precision),
        reserved: 0,
    }
}

/// Writes what `lowrank_predictor_limits_default` returns to a struct of `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_predictor_limits_init(
    limits: *mut lowrank_predictor_limits,
    size: usize,
    batch: usize,
) {
    // SAFETY: the caller's promises.
    unsafe { options::init(limits, size, lowrank_predictor_limits_default(batch)) };
}

/// Writes the size of the workspace that a predictor over `base` takes under `limits` to `*need`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_predictor_need(
    base: *const lowrank_base,
    limits: *const lowrank_predictor_limits,
    need: *mut lowrank_need,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe { running::need::<Predictor<'static, 'static>>(base, limits, need, error) }
}

/// Makes a predictor over `base` (of `lowrank_mlp_open`) in `memory` of at least
/// `lowrank_predictor_bytes()` bytes, with `workspace` of at least `lowrank_predictor_need` bytes,
/// as `lowrank_session_open` makes a session. On success `*predictor` is the object, on failure
/// null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_predictor_open(
    memory: *mut c_void,
    memory_bytes: usize,
    base: *const lowrank_base,
    limits: *const lowrank_predictor_limits,
    workspace: *mut c_void,
    workspace_bytes: usize,
    executor: *const lowrank_executor,
    predictor: *mut *mut lowrank_predictor,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe {
        running::open(Opening {
            memory,
            memory_bytes,
            base,
            limits,
            workspace,
            workspace_bytes,
            executor,
            object: predictor,
            error,
        })
    }
}

/// Chooses the adapters of a row for the batches to come, as `lowrank_encoder_select` does for a
/// text.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_predictor_select(
    predictor: *mut lowrank_predictor,
    sequence: usize,
    set: *mut lowrank_set,
    choices: *const lowrank_choice,
    count: usize,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe { running::select(predictor, sequence, set, choices, count, error) }
}

/// Computes the outputs of some rows: `features` are `count` numbers, the base's `inputs` for each
/// row, row by row. A feature that is not finite gives outputs that are not. On an error nothing is
/// computed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_predictor_infer(
    predictor: *mut lowrank_predictor,
    features: *const f32,
    count: usize,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe {
        let regions = [region(predictor, true, 1), Region::reads(features, count, 2)];
        running::call(predictor, error, 4, &regions, |predictor, _| {
            Ok(predictor.infer(slice(features, count))?)
        })
    }
}

/// Points `*outputs` at the outputs of a row, `*count` floats in the workspace: the last layer as
/// it is, one for each label of a base that has labels. They stay until the next call with this
/// object.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_predictor_outputs(
    predictor: *mut lowrank_predictor,
    sequence: usize,
    outputs: *mut *const f32,
    count: *mut usize,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe {
        running::tell(predictor, 3, outputs, count, error, |predictor| {
            Ok(predictor.outputs(sequence)?)
        })
    }
}

/// Points `*state` at what the last layer read of a row, `*count` floats in the workspace: what the
/// classifiers of adapters read too. They stay until the next call with this object.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_predictor_hidden(
    predictor: *mut lowrank_predictor,
    sequence: usize,
    state: *mut *const f32,
    count: *mut usize,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe {
        running::tell(
            predictor,
            3,
            state,
            count,
            error,
            |predictor| Ok(predictor.hidden(sequence)?),
        )
    }
}

/// Classifies a row with the classifier that one of its adapters brings, as
/// `lowrank_encoder_classify` does a text.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_predictor_classify(
    predictor: *mut lowrank_predictor,
    sequence: usize,
    logits: *mut f32,
    capacity: usize,
    count: *mut usize,
    label: *mut u32,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe {
        let to = Classified { logits, capacity, count, label };
        running::classify(predictor, sequence, to, error, |predictor, logits| {
            predictor.classify(sequence, logits)
        })
    }
}

/// Points `*name` at the name of a label of a row's classifier, as `lowrank_adapter_label` does.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_predictor_label(
    predictor: *mut lowrank_predictor,
    sequence: usize,
    label: u32,
    name: *mut *const c_char,
    name_bytes: *mut usize,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe { running::label(predictor, sequence, label, name, name_bytes, error) }
}

/// Closes a predictor: its memory and its workspace are free again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_predictor_close(
    predictor: *mut lowrank_predictor,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe { object::close(predictor, error) }
}

/// The bytes that a predictor object takes, exactly, without its workspace;
/// `LOWRANK_PREDICTOR_BYTES` is enough on every target.
#[unsafe(no_mangle)]
pub extern "C" fn lowrank_predictor_bytes() -> usize {
    size::<lowrank_predictor>()
}
