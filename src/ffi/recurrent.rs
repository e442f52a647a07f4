//! Recurrent sessions: sequences that LSTM layers read. What a sequence leaves behind is a state of
//! fixed size, not its tokens: it has no longest length.

use core::ffi::{c_char, c_void};

use super::base::lowrank_base;
use super::choice::lowrank_choice;
use super::executor::{Callback, lowrank_executor};
use super::failure::{Refusal, lowrank_code, lowrank_error};
use super::limits::{lowrank_need, number_of, precision_of};
use super::memory::{Region, slice};
use super::object::{self, Kind, hold, region, size};
use super::options::{self, Options};
use super::running::{self, Classified, Opening, Running, Work, runs};
use super::sampler::lowrank_sampler;
use super::session::{Pair, lowrank_next};
use super::set::lowrank_set;
use crate::adapter::{AdapterSet, Choice, Classifier};
use crate::model::lstm::Lstm;
use crate::runtime::{Need, Recurrent, RecurrentLimits, recurrent_need};

/// What a recurrent session must have room for. Start from `lowrank_recurrent_limits_default`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lowrank_recurrent_limits {
    /// The bytes of this struct as the program knows it; `lowrank_recurrent_limits_default` sets
    /// it.
    pub size: usize,
    /// Sequences side by side.
    pub batch: usize,
    /// Tokens of one sequence computed at once.
    pub prefill_chunk: usize,
    /// Parts that the work is split into: as many as the executor has threads. Results do not
    /// depend on it.
    pub threads: usize,
    /// Adapters that one sequence can have at a time, at most `LOWRANK_MAX_CHOICES`.
    pub max_active: usize,
    /// The sum of their ranks.
    pub max_total_rank: usize,
    /// One of `LOWRANK_PRECISION_EXACT`, `LOWRANK_PRECISION_FAST`.
    pub precision: u32,
    /// 0.
    pub reserved: u32,
}

/// Sequences that LSTM layers read, each under its own adapters, in a workspace of the caller. One
/// thread at a time; a second one gets `LOWRANK_ERROR_BUSY`.
#[derive(Debug)]
pub struct lowrank_recurrent {
    _opaque: (),
}

/// Memory that is enough for a recurrent object, without its workspace, on every target.
pub const LOWRANK_RECURRENT_BYTES: usize = 1536;
const _: () = assert!(size::<lowrank_recurrent>() <= LOWRANK_RECURRENT_BYTES);

runs! {
    lowrank_recurrent, 0x6c72_6563, Recurrent, Lstm, lowrank_recurrent_limits -> RecurrentLimits,
    |c, argument| RecurrentLimits {
        batch: c.batch,
        prefill_chunk: c.prefill_chunk,
        precision: precision_of(c.precision, argument)?,
        threads: c.threads,
        max_active: c.max_active,
        max_total_rank: c.max_total_rank,
    },
    |config, limits| {
        limits.check()?;
        recurrent_need(config, limits)
    }
}

// SAFETY: begins with its size; numbers without padding.
unsafe impl Options for lowrank_recurrent_limits {
    const FIRST: usize = size_of::<Self>();

    fn defaults() -> Self {
        lowrank_recurrent_limits_default()
    }
}

/// Limits for one sequence: 32 tokens at once, one thread, exact products, up to two adapters of rank
/// 64 together.
pub fn lowrank_recurrent_limits_default() -> lowrank_recurrent_limits {
    of(&RecurrentLimits::new())
}

/// Limits as C has them.
pub(super) fn of(limits: &RecurrentLimits) -> lowrank_recurrent_limits {
    let &RecurrentLimits { batch, prefill_chunk, precision, threads, max_active, max_total_rank } =
        limits;
    lowrank_recurrent_limits {
        size: size_of::<lowrank_recurrent_limits>(),
        batch,
        prefill_chunk,
        threads,
        max_active,
        max_total_rank,
        precision: number_of(precision),
        reserved: 0,
    }
}

/// Writes what `lowrank_recurrent_limits_default` returns to a struct of `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_recurrent_limits_init(
    limits: *mut lowrank_recurrent_limits,
    size: usize,
) {
    // SAFETY: the caller's promises.
    unsafe { options::init(limits, size, lowrank_recurrent_limits_default()) };
}

/// Writes the size of the workspace that a recurrent session over `base` takes under `limits` to
/// `*need`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_recurrent_need(
    base: *const lowrank_base,
    limits: *const lowrank_recurrent_limits,
    need: *mut lowrank_need,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe { running::need::<Recurrent<'static, 'static>>(base, limits, need, error) }
}

/// Makes a recurrent session over `base` (of `lowrank_lstm_open`) in `memory` of at least
/// `lowrank_recurrent_bytes()` bytes, with `workspace` of at least `lowrank_recurrent_need` bytes,
/// as `lowrank_session_open` makes a session. On success `*recurrent` is the object, on failure
/// null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_recurrent_open(
    memory: *mut c_void,
    memory_bytes: usize,
    base: *const lowrank_base,
    limits: *const lowrank_recurrent_limits,
    workspace: *mut c_void,
    workspace_bytes: usize,
    executor: *const lowrank_executor,
    recurrent: *mut *mut lowrank_recurrent,
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
            object: recurrent,
            error,
        })
    }
}

/// Chooses the adapters of a sequence, as `lowrank_session_select` does.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_recurrent_select(
    recurrent: *mut lowrank_recurrent,
    sequence: usize,
    set: *mut lowrank_set,
    choices: *const lowrank_choice,
    count: usize,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe { running::select(recurrent, sequence, set, choices, count, error) }
}

/// Reads `count` tokens of a sequence and computes the outputs after the last one. On an error
/// nothing has changed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_recurrent_prefill(
    recurrent: *mut lowrank_recurrent,
    sequence: usize,
    tokens: *const u32,
    count: usize,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe {
        let regions = [region(recurrent, true, 1), Region::reads(tokens, count, 3)];
        running::call(recurrent, error, 5, &regions, |recurrent, _| {
            Ok(recurrent.prefill(sequence, slice(tokens, count))?)
        })
    }
}

/// Reads one token of each of `count` different sequences, in one pass, and computes their outputs.
/// On an error nothing has changed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_recurrent_step(
    recurrent: *mut lowrank_recurrent,
    tokens: *const lowrank_next,
    count: usize,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises; the pairs are laid out alike (asserted beside `Pair`).
    unsafe {
        let regions = [region(recurrent, true, 1), Region::reads(tokens, count, 2)];
        running::call(recurrent, error, 4, &regions, |recurrent, _| {
            Ok(recurrent.step(slice(tokens.cast::<Pair>(), count))?)
        })
    }
}

/// Chooses the next token of a sequence from its outputs and writes it to `*token`; does not read
/// it. `history` are the `history_count` tokens that a repetition penalty counts: the sequence does
/// not keep them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_recurrent_sample(
    recurrent: *mut lowrank_recurrent,
    sequence: usize,
    sampler: *mut lowrank_sampler,
    history: *const u32,
    history_count: usize,
    token: *mut u32,
    error: *mut lowrank_error,
) -> lowrank_code {
    let regions = [
        region(recurrent, true, 1),
        region(sampler, true, 3),
        Region::reads(history, history_count, 4),
        Region::writes(token, 1, 6),
    ];
    // SAFETY: the caller's promises.
    unsafe {
        running::call(recurrent, error, 7, &regions, |recurrent, _| {
            let mut sampler = hold(sampler, 3)?;
            let history = slice(history, history_count);
            token.write(recurrent.sample(sequence, sampler.value(), history)?);
            Ok(())
        })
    }
}

/// Points `*outputs` at what the base's head says after the last token of a sequence, `*count`
/// floats in the workspace: one for each token of the vocabulary, or for each of the base's labels.
/// They stay until the next call with this object. A base without a head is
/// `LOWRANK_ERROR_NO_HEAD`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_recurrent_outputs(
    recurrent: *mut lowrank_recurrent,
    sequence: usize,
    outputs: *mut *const f32,
    count: *mut usize,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe {
        running::tell(recurrent, 3, outputs, count, error, |recurrent| {
            Ok(recurrent.logits(sequence)?)
        })
    }
}

/// Points `*state` at the last layer's state after the last token of a sequence, `*count` floats in
/// the workspace. They stay until the next call with this object.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_recurrent_hidden(
    recurrent: *mut lowrank_recurrent,
    sequence: usize,
    state: *mut *const f32,
    count: *mut usize,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe {
        running::tell(
            recurrent,
            3,
            state,
            count,
            error,
            |recurrent| Ok(recurrent.hidden(sequence)?),
        )
    }
}

/// Classifies what a sequence has read with the classifier that one of its adapters brings, as
/// `lowrank_encoder_classify` does.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_recurrent_classify(
    recurrent: *mut lowrank_recurrent,
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
        running::classify(recurrent, sequence, to, error, |recurrent, logits| {
            recurrent.classify(sequence, logits)
        })
    }
}

/// Points `*name` at the name of a label of a sequence's classifier, as `lowrank_adapter_label`
/// does.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_recurrent_label(
    recurrent: *mut lowrank_recurrent,
    sequence: usize,
    label: u32,
    name: *mut *const c_char,
    name_bytes: *mut usize,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe { running::label(recurrent, sequence, label, name, name_bytes, error) }
}

/// Gives sequence `to` the adapters and the state of `from`: a beginning that several share is read
/// once. What `to` held is forgotten. There are no outputs until more tokens come.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_recurrent_fork(
    recurrent: *mut lowrank_recurrent,
    from: usize,
    to: usize,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe { running::change(recurrent, error, 4, |recurrent| recurrent.fork(from, to)) }
}

/// Forgets what a sequence has read. Its adapters stay chosen.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_recurrent_reset(
    recurrent: *mut lowrank_recurrent,
    sequence: usize,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe { running::change(recurrent, error, 3, |recurrent| recurrent.reset(sequence)) }
}

/// Ends a sequence: forgets what it has read and lets go of its adapters.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_recurrent_cancel(
    recurrent: *mut lowrank_recurrent,
    sequence: usize,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe { running::change(recurrent, error, 3, |recurrent| recurrent.cancel(sequence)) }
}

/// Closes a recurrent session: its memory and its workspace are free again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_recurrent_close(
    recurrent: *mut lowrank_recurrent,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe { object::close(recurrent, error) }
}

/// The bytes that a recurrent object takes, exactly, without its workspace;
/// `LOWRANK_RECURRENT_BYTES` is enough on every target.
#[unsafe(no_mangle)]
pub extern "C" fn lowrank_recurrent_bytes() -> usize {
    size::<lowrank_recurrent>()
}
