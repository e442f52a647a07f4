//! Sessions: limits, the memory they need, and the calls that continue sequences.

use core::ffi::{c_char, c_void};
use core::mem::offset_of;

use super::base::{lowrank_base, tell_label};
use super::executor::{Callback, lowrank_executor};
use super::failure::{Outcome, Refusal, call, clear_of, lowrank_code, lowrank_error};
use super::memory::{Region, Span, slice};
use super::object::{self, Held, Kind, hold, place, region, share, size};
use super::sampler::lowrank_sampler;
use super::set::{SetValue, lowrank_set};
use crate::adapter::Choice;
use crate::archive::Line;
use crate::kernel::Precision;
use crate::runtime::{KvFormat, Limits, Need, Session, need};

/// `kv_format`: keys and values take 4 bytes a number.
pub const LOWRANK_KV_F32: u32 = 0;
/// `kv_format`: keys and values take 2 bytes a number.
pub const LOWRANK_KV_F16: u32 = 1;
/// `kv_format`: keys and values take 1 byte a number, and 4 for the scale of each token and head.
pub const LOWRANK_KV_INT8: u32 = 2;
/// `precision`: f32 activations; the same tokens on every target.
pub const LOWRANK_PRECISION_EXACT: u32 = 0;
/// `precision`: activations rounded to 8 bits where the weights allow it; faster.
pub const LOWRANK_PRECISION_FAST: u32 = 1;

/// What a session must have room for. Start from `lowrank_limits_default`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lowrank_limits {
    /// The longest sequence, in tokens.
    pub context: usize,
    /// Sequences side by side.
    pub batch: usize,
    /// Prompt tokens computed at once.
    pub prefill_chunk: usize,
    /// Parts that the work is split into: as many as the executor has threads. Results do not
    /// depend on it.
    pub lanes: usize,
    /// Adapters that one sequence can have at a time, at most `LOWRANK_MAX_CHOICES`.
    pub max_active: usize,
    /// The sum of their ranks.
    pub max_total_rank: usize,
    /// One of `LOWRANK_KV_F16`, `LOWRANK_KV_F32`, `LOWRANK_KV_INT8`.
    pub kv_format: u32,
    /// One of `LOWRANK_PRECISION_EXACT`, `LOWRANK_PRECISION_FAST`.
    pub precision: u32,
}

/// The size of a workspace.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lowrank_need {
    /// Bytes, exactly: one less is an error.
    pub bytes: usize,
    /// The part of them that keeps keys and values.
    pub kv_bytes: usize,
}

/// The most adapters that can be chosen at once.
pub const LOWRANK_MAX_CHOICES: usize = 32;

/// One adapter of a choice.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lowrank_choice {
    /// The slot of the set.
    pub slot: u32,
    /// 1 is as trained, 0 switches it off, other values scale its effect.
    pub weight: f32,
    /// A rank below the trained one (DyLoRA), or 0 for all of it. Refused for DoRA.
    pub rank: u32,
}

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
type Pair = (usize, u32);
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

/// `session` borrows `executor`, which lies beside it: so they are only reached one by one.
pub(super) struct SessionValue {
    session: Session<'static, 'static>,
    workspace: Span,
    executor: Callback,
}

impl Kind for lowrank_session {
    type Value = SessionValue;
    const MAGIC: u32 = 0x6c73_6573;
}

/// Limits for one sequence of `context` tokens: one lane, 32 prompt tokens at once, f16 keys and
/// values, exact products, up to two adapters of rank 64 together.
#[unsafe(no_mangle)]
pub extern "C" fn lowrank_limits_default(context: usize) -> lowrank_limits {
    let Limits {
        context,
        batch,
        prefill_chunk,
        kv_format: _,
        precision: _,
        lanes,
        max_active,
        max_total_rank,
    } = Limits::new(context);
    let (kv_format, precision) = (LOWRANK_KV_F16, LOWRANK_PRECISION_EXACT);
    lowrank_limits {
        context,
        batch,
        prefill_chunk,
        lanes,
        max_active,
        max_total_rank,
        kv_format,
        precision,
    }
}

fn limits_of(limits: &lowrank_limits, argument: u32) -> Result<Limits, Refusal> {
    let kv_format = match limits.kv_format {
        LOWRANK_KV_F32 => KvFormat::F32,
        LOWRANK_KV_F16 => KvFormat::F16,
        LOWRANK_KV_INT8 => KvFormat::Int8,
        found => return Err(Refusal::UnknownConstant { argument, found }),
    };
    let precision = precision_of(limits.precision, argument)?;
    let &lowrank_limits {
        context, batch, prefill_chunk, lanes, max_active, max_total_rank, ..
    } = limits;
    Ok(Limits {
        context,
        batch,
        prefill_chunk,
        kv_format,
        precision,
        lanes,
        max_active,
        max_total_rank,
    })
}

pub(super) fn precision_of(precision: u32, argument: u32) -> Result<Precision, Refusal> {
    match precision {
        LOWRANK_PRECISION_EXACT => Ok(Precision::Exact),
        LOWRANK_PRECISION_FAST => Ok(Precision::Fast),
        found => Err(Refusal::UnknownConstant { argument, found }),
    }
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
    let regions = [region(base, false, 1), Region::reads(limits, 1, 2), Region::writes(need, 1, 3)];
    call(error, 4, &regions, || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        let (value, limits) = unsafe { (share(base, 1)?, limits_of(&*limits, 2)?) };
        regions[2].clear_of(value.archive, false, 1)?;
        let config = value.model.llama()?.config();
        limits.check(config)?;
        let Need { bytes, kv_bytes } = crate::runtime::need(config, &limits);
        // SAFETY: as above.
        unsafe { need.write(lowrank_need { bytes, kv_bytes }) };
        Ok(())
    })
}

/// Makes a session over `base` in `memory` of at least `lowrank_session_bytes()` bytes, with
/// `workspace` of at least `lowrank_session_need` bytes at a multiple of `LOWRANK_MEMORY_ALIGN`;
/// what the two hold does not matter. Both stay, and are not touched, until the session is closed.
/// `executor` is copied; it may be null: the calling thread does everything. On success `*session`
/// is the object, on failure null.
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
    let regions = [
        object::room(memory, memory_bytes, 1),
        region(base, false, 3),
        Region::reads(limits, 1, 4),
        // Its alignment is the crate's to refuse, with the remainder.
        Region::memory(workspace, workspace_bytes, 1, 5),
        Region::reads(executor, 1, 7).optional(),
        Region::writes(session, 1, 8),
    ];
    call(error, 9, &regions, || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        unsafe {
            session.write(core::ptr::null_mut());
            let (value, limits) = (share(base, 3)?, limits_of(&*limits, 4)?);
            let model = *value.model.llama()?;
            regions[0].clear_of(value.archive, false, 3)?;
            regions[3].clear_of(value.archive, false, 3)?;
            let executor = Callback(executor.as_ref().copied().unwrap_or(lowrank_executor::SERIAL));
            let work = work_of(workspace, workspace_bytes);
            let used = Span {
                start: workspace.addr(),
                bytes: need(model.config(), &limits).bytes.min(workspace_bytes),
            };
            let object: Outcome<_> = place(memory, memory_bytes, 1, |place: *mut SessionValue| {
                let own = &raw mut (*place).executor;
                own.write(executor);
                let made = Session::new(model, &limits, work, &*own)?;
                (&raw mut (*place).session).write(made);
                (&raw mut (*place).workspace).write(used);
                Ok(())
            });
            session.write(object?);
        }
        Ok(())
    })
}

/// The workspace as a slice.
///
/// # Safety
/// It was checked as a region; nothing else uses it while the object lives.
pub(super) unsafe fn work_of(workspace: *mut c_void, bytes: usize) -> &'static mut [u8] {
    // No bytes at all still start somewhere: on a boundary, so that the error is about their
    // number.
    let first = if bytes == 0 {
        core::ptr::without_provenance_mut(align_of::<Line>())
    } else {
        workspace.cast()
    };
    // SAFETY: the caller's promise.
    unsafe { core::slice::from_raw_parts_mut(first, bytes) }
}

/// Runs `body` with the session of a call whose arguments do not lie in the session's workspace.
pub(super) unsafe fn with_session(
    session: *mut lowrank_session,
    error: *mut lowrank_error,
    regions: &[Region],
    body: impl FnOnce(&mut Session<'static, 'static>, Span) -> Outcome,
) -> Outcome {
    // SAFETY: checked by the caller's `call`.
    let held: Held<'_, lowrank_session> = unsafe { hold(session, 1) }?;
    let value = held.pointer();
    // SAFETY: an open session; `executor` is not touched while `session` is borrowed.
    let (session, workspace) = unsafe { (&mut (*value).session, (*value).workspace) };
    clear_of(error, regions, workspace, 1)?;
    body(session, workspace)
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
    let regions =
        [region(session, true, 1), region(set, true, 3), Region::reads(choices, count, 4)];
    call(error, 6, &regions, || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        let mut set = unsafe { hold(set, 3) }?;
        let set = set.value();
        clear_of(error, &[regions[2]], set.memory, 3)?;
        // SAFETY: as above.
        unsafe {
            let choices = Chosen::new(choices, count)?;
            with_session(session, error, &regions[1..], |session, workspace| {
                choices.check(set, workspace)?;
                Ok(session.select(sequence, &set.set(), choices.as_slice())?)
            })
        }
    })
}

/// The choices of a call.
pub(super) struct Chosen {
    choices: [Choice; LOWRANK_MAX_CHOICES],
    count: usize,
}

impl Chosen {
    /// Copies `count` choices.
    ///
    /// # Safety
    /// As [`slice`].
    pub(super) unsafe fn new(choices: *const lowrank_choice, count: usize) -> Outcome<Self> {
        if count > LOWRANK_MAX_CHOICES {
            return Err(Refusal::TooManyChoices { have: count, most: LOWRANK_MAX_CHOICES }.into());
        }
        let mut chosen = Self { choices: [Choice::slot(0); LOWRANK_MAX_CHOICES], count };
        // SAFETY: the caller's promise.
        for (to, from) in chosen.choices.iter_mut().zip(unsafe { slice(choices, count) }) {
            *to = Choice {
                slot: from.slot,
                weight: from.weight,
                rank: (from.rank > 0).then_some(from.rank),
            };
        }
        Ok(chosen)
    }

    pub(super) fn as_slice(&self) -> &[Choice] {
        self.choices.get(..self.count).unwrap_or_default()
    }

    /// Refuses a set (argument 3) or chosen adapters that lie in the `workspace` of the object in
    /// argument 1.
    pub(super) fn check(&self, set: &SetValue, workspace: Span) -> Outcome {
        let inside = |choice: &Choice| {
            set.archive(choice.slot).is_some_and(|archive| archive.meets(workspace))
        };
        if set.memory.meets(workspace) || self.as_slice().iter().any(inside) {
            return Err(Refusal::Overlap { first: 1, second: 3 }.into());
        }
        Ok(())
    }
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
    let regions = [region(session, true, 1), Region::reads(tokens, count, 3)];
    call(error, 5, &regions, || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        unsafe {
            with_session(session, error, &regions[1..], |session, _| {
                Ok(session.prefill(sequence, slice(tokens, count))?)
            })
        }
    })
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
    let regions = [
        region(session, true, 1),
        Region::reads(tokens, count, 3),
        Region::writes(logits, capacity, 5),
        Region::writes(labels, 1, 7),
        Region::writes(label, 1, 8).optional(),
    ];
    call(error, 9, &regions, || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        unsafe {
            with_session(session, error, &regions[1..], |session, _| {
                let need = session.classifier(sequence)?.len();
                classified(need, logits, capacity, labels, label, |logits| {
                    Ok(session.classify(sequence, slice(tokens, count), logits)?)
                })
            })
        }
    })
}

/// Lets `classify` fill `need` logits and tells their number and the largest one's label.
///
/// # Safety
/// The pointers were checked: room for `capacity` logits, apart from everything else.
pub(super) unsafe fn classified(
    need: usize,
    logits: *mut f32,
    capacity: usize,
    labels: *mut usize,
    label: *mut u32,
    classify: impl FnOnce(&mut [f32]) -> Outcome,
) -> Outcome {
    // SAFETY: the caller's promise; what the buffer holds is no float before it is written.
    unsafe {
        labels.write(need);
        if need > capacity {
            return Err(Refusal::BufferTooSmall { have: capacity, need }.into());
        }
        logits.write_bytes(0, need);
        let logits = core::slice::from_raw_parts_mut(logits, need);
        classify(logits)?;
        if !label.is_null() {
            let best = logits.iter().enumerate().fold((0, f32::NEG_INFINITY), |best, (i, &at)| {
                if at > best.1 { (i, at) } else { best }
            });
            label.write(best.0 as u32);
        }
    }
    Ok(())
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
    let regions =
        [region(session, true, 1), Region::writes(name, 1, 4), Region::writes(name_bytes, 1, 5)];
    call(error, 6, &regions, || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        unsafe {
            with_session(session, error, &regions[1..], |session, _| {
                tell_label(Some(session.classifier(sequence)?), label, name, name_bytes)
            })
        }
    })
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
    let regions = [region(session, true, 1), Region::reads(tokens, count, 2)];
    call(error, 4, &regions, || {
        // SAFETY: checked by `call`; the caller vouches for the memory; the pairs are laid out
        // alike (asserted above).
        unsafe {
            with_session(session, error, &regions[1..], |session, _| {
                Ok(session.step(slice(tokens.cast::<Pair>(), count))?)
            })
        }
    })
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
    let regions = [region(session, true, 1), region(sampler, true, 3), Region::writes(token, 1, 4)];
    call(error, 5, &regions, || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        unsafe {
            let mut sampler = hold(sampler, 3)?;
            with_session(session, error, &regions[1..], |session, _| {
                token.write(session.sample(sequence, sampler.value())?);
                Ok(())
            })
        }
    })
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
    let regions =
        [region(session, true, 1), Region::writes(logits, 1, 3), Region::writes(count, 1, 4)];
    call(error, 5, &regions, || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        unsafe {
            with_session(session, error, &regions[1..], |session, _| {
                let found = session.logits(sequence)?;
                logits.write(found.as_ptr());
                count.write(found.len());
                Ok(())
            })
        }
    })
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
    let regions =
        [region(session, true, 1), Region::writes(tokens, 1, 3), Region::writes(count, 1, 4)];
    call(error, 5, &regions, || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        unsafe {
            with_session(session, error, &regions[1..], |session, _| {
                let found = session.tokens(sequence)?;
                tokens.write(found.as_ptr());
                count.write(found.len());
                Ok(())
            })
        }
    })
}

/// Writes to `*room` how many more tokens a sequence can take.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_session_room(
    session: *mut lowrank_session,
    sequence: usize,
    room: *mut usize,
    error: *mut lowrank_error,
) -> lowrank_code {
    let regions = [region(session, true, 1), Region::writes(room, 1, 3)];
    call(error, 4, &regions, || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        unsafe {
            with_session(session, error, &regions[1..], |session, _| {
                room.write(session.room(sequence)?);
                Ok(())
            })
        }
    })
}

/// Forgets the tokens of a sequence. Its adapters stay chosen.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_session_reset(
    session: *mut lowrank_session,
    sequence: usize,
    error: *mut lowrank_error,
) -> lowrank_code {
    call(error, 3, &[region(session, true, 1)], || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        unsafe { with_session(session, error, &[], |session, _| Ok(session.reset(sequence)?)) }
    })
}

/// Closes a session: its memory and its workspace are free again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_session_close(
    session: *mut lowrank_session,
    error: *mut lowrank_error,
) -> lowrank_code {
    call(error, 2, &[region(session, true, 1)], || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        unsafe { hold(session, 1) }?.close();
        Ok(())
    })
}
