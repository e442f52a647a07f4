//! Sessions: the calls that continue sequences of a decoder.

use core::ffi::{c_char, c_void};
use core::mem::offset_of;

use super::base::lowrank_base;
use super::choice::lowrank_choice;
use super::executor::{Callback, lowrank_executor};
use super::failure::{Refusal, lowrank_code, lowrank_error};
use super::limits::{lowrank_limits, lowrank_need, to_limits};
use super::memory::{Region, slice};
use super::object::{self, Kind, hold, region, size};
use super::place::{Placed, Session};
use super::running::{self, Classified, Opening, Running, Work, runs};
use super::sampler::lowrank_sampler;
use super::set::lowrank_set;
use crate::adapter::{AdapterSet, Choice, Classifier};
use crate::model::llama::Llama;
use crate::runtime::{Limits, Need};

/// One token of a step.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lowrank_next {
    /// The sequence that it continues.
    pub sequence: usize,
    /// The token.
    pub token: u32,
}

// A slice of these is handed on as a slice of pairs: the compiler lays both out alike, or this does
// not build.
pub(super) type Pair = (usize, u32);
const _: () = assert!(
    size_of::<Pair>() == size_of::<lowrank_next>()
        && align_of::<Pair>() == align_of::<lowrank_next>()
);
const _: () = assert!(
    offset_of!(Pair, 0) == offset_of!(lowrank_next, sequence)
        && offset_of!(Pair, 1) == offset_of!(lowrank_next, token)
);

/// Sequences that a base continues, each under its own adapters, in a workspace of the caller. One
/// thread at a time; a second one gets `LOWRANK_ERROR_BUSY`.
#[derive(Debug)]
pub struct lowrank_session {
    _opaque: (),
}

/// Memory that is enough for a session object, without its workspace, on every target.
pub const LOWRANK_SESSION_BYTES: usize = 1536;
const _: () = assert!(size::<lowrank_session>() <= LOWRANK_SESSION_BYTES);

type PlacedLimits = Placed<Limits>;

runs! {
    lowrank_session, 0x6c73_6573, Session, Llama, lowrank_limits -> PlacedLimits,
    |c, argument| Placed::new(to_limits(c, argument)?, c.device, c.card, argument)?,
    |config, placed| placed.need(config)?,
    |model, placed, memory, executor| placed.open(model, memory, executor),
    |session| session.device_error().map(ToString::to_string)
}

/// Writes the size of the workspace that a session over `base` takes under `limits` to `*need`.
/// `lowrank memory --firmware` prints it beforehand, as a line of C.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_session_need(
    base: *const lowrank_base,
    limits: *const lowrank_limits,
    need: *mut lowrank_need,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe { running::need::<Session<'static, 'static>>(base, limits, need, error) }
}

/// Makes a session over `base` in `memory` of at least `lowrank_session_bytes()` bytes, with
/// `workspace` of at least `lowrank_session_need` bytes at a multiple of `LOWRANK_MEMORY_ALIGN`;
/// what the two hold does not matter. Both stay, and are not touched, until the session is closed.
/// `executor` is copied; it may be null: the calling thread does everything. `limits` say where the
/// session runs; a card that cannot be used is `LOWRANK_ERROR_DEVICE`, with the driver's words in the
/// error. On success `*session` is the object, on failure null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_session_open(
    memory: *mut c_void,
    memory_bytes: usize,
    base: *const lowrank_base,
    limits: *const lowrank_limits,
    workspace: *mut c_void,
    workspace_bytes: usize,
    executor: *const lowrank_executor,
    session: *mut *mut lowrank_session,
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
            object: session,
            error,
        })
    }
}

/// Chooses the adapters of a sequence: `count` of them, 0 for the base alone. The session keeps
/// them: later swaps in `set` don't touch it, and the set may be closed. A sequence that holds
/// tokens computed under other adapters is `LOWRANK_ERROR_CACHE_OF_OTHER_ADAPTERS`: reset it first.
/// On an error the previous choice stays.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_session_select(
    session: *mut lowrank_session,
    sequence: usize,
    set: *mut lowrank_set,
    choices: *const lowrank_choice,
    count: usize,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe { running::select(session, sequence, set, choices, count, error) }
}

/// Appends `count` tokens to a sequence and computes the logits after the last one. On an error
/// nothing has changed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_session_prefill(
    session: *mut lowrank_session,
    sequence: usize,
    tokens: *const u32,
    count: usize,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe {
        let regions = [region(session, true, 1), Region::reads(tokens, count, 3)];
        running::call(session, error, 5, &regions, |session, _| {
            Ok(session.prefill(sequence, slice(tokens, count))?)
        })
    }
}

/// Appends `count` tokens to a sequence as `lowrank_session_prefill` does, but classifies it with
/// the classifier that one of its adapters brings: writes the logit of each label to `logits`,
/// their number to `*labels`, and the label with the largest one to `*label`, which may be null. If
/// there are more than `capacity`, nothing has changed but the number
/// (`LOWRANK_ERROR_BUFFER_TOO_SMALL`). No adapter with a classifier, or two, is
/// `LOWRANK_ERROR_CLASSIFIERS`. There are no logits of a next token afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_session_classify(
    session: *mut lowrank_session,
    sequence: usize,
    tokens: *const u32,
    count: usize,
    logits: *mut f32,
    capacity: usize,
    labels: *mut usize,
    label: *mut u32,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe {
        let to = Classified { logits, capacity, count: labels, label };
        let [told, number, best] = to.regions(5);
        let tokens_region = Region::reads(tokens, count, 3);
        let regions = [region(session, true, 1), tokens_region, told, number, best];
        running::call(session, error, 9, &regions, |session, _| {
            let need = session.classifier(sequence)?.len();
            to.fill(need, |logits| session.classify(sequence, slice(tokens, count), logits))
        })
    }
}

/// Points `*name` at the name of a label of a sequence's classifier, as `lowrank_adapter_label`
/// does.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_session_label(
    session: *mut lowrank_session,
    sequence: usize,
    label: u32,
    name: *mut *const c_char,
    name_bytes: *mut usize,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe { running::label(session, sequence, label, name, name_bytes, error) }
}

/// Appends one token to each of `count` different sequences, in one pass, and computes their
/// logits. On an error nothing has changed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_session_step(
    session: *mut lowrank_session,
    tokens: *const lowrank_next,
    count: usize,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises; the pairs are laid out alike (asserted beside `Pair`).
    unsafe {
        let regions = [region(session, true, 1), Region::reads(tokens, count, 2)];
        running::call(session, error, 4, &regions, |session, _| {
            Ok(session.step(slice(tokens.cast::<Pair>(), count))?)
        })
    }
}

/// Chooses the next token of a sequence and writes it to `*token`; does not append it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_session_sample(
    session: *mut lowrank_session,
    sequence: usize,
    sampler: *mut lowrank_sampler,
    token: *mut u32,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe {
        let regions =
            [region(session, true, 1), region(sampler, true, 3), Region::writes(token, 1, 4)];
        running::call(session, error, 5, &regions, |session, _| {
            let mut sampler = hold(sampler, 3)?;
            token.write(session.sample(sequence, sampler.value())?);
            Ok(())
        })
    }
}

/// Points `*logits` at the logits after the last token of a sequence, `*count` floats in the
/// workspace, one for each token of the vocabulary. They stay until the next call with this
/// session.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_session_logits(
    session: *mut lowrank_session,
    sequence: usize,
    logits: *mut *const f32,
    count: *mut usize,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe {
        running::tell(session, 3, logits, count, error, |session| Ok(session.logits(sequence)?))
    }
}

/// Points `*tokens` at the `*count` tokens of a sequence, in the workspace. They stay until the
/// next call with this session.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_session_tokens(
    session: *mut lowrank_session,
    sequence: usize,
    tokens: *mut *const u32,
    count: *mut usize,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe {
        running::tell(session, 3, tokens, count, error, |session| Ok(session.tokens(sequence)?))
    }
}

/// Writes to `*room` how many more tokens a sequence can take.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_session_room(
    session: *mut lowrank_session,
    sequence: usize,
    room: *mut usize,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe {
        let regions = [region(session, true, 1), Region::writes(room, 1, 3)];
        running::call(session, error, 4, &regions, |session, _| {
            room.write(session.room(sequence)?);
            Ok(())
        })
    }
}

/// Forgets the tokens of a sequence. Its adapters stay chosen.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_session_reset(
    session: *mut lowrank_session,
    sequence: usize,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe { running::change(session, error, 3, |session| session.reset(sequence)) }
}

/// Closes a session: its memory and its workspace are free again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_session_close(
    session: *mut lowrank_session,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe { object::close(session, error) }
}

/// The bytes that a session object takes, exactly, without its workspace; `LOWRANK_SESSION_BYTES`
/// is enough on every target.
#[unsafe(no_mangle)]
pub extern "C" fn lowrank_session_bytes() -> usize {
    size::<lowrank_session>()
}
