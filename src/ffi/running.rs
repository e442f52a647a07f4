//! What sessions, encoders, recurrent sessions and predictors have in common: opened over a base in
//! a workspace, with adapters chosen from a set for each sequence.

use core::ffi::{c_char, c_void};

use super::adapter::tell_label;
use super::base::{Family, lowrank_base};
use super::choice::{Chosen, lowrank_choice};
pub(super) use super::classified::Classified;
use super::executor::{Callback, lowrank_executor};
use super::failure::{Outcome, Refusal, clear_of, lowrank_code, lowrank_error};
use super::limits::lowrank_need;
use super::memory::{Region, Span};
use super::object::{self, Held, Kind, hold, place, region, share};
use super::options::{self, Options};
use super::set::lowrank_set;
use crate::adapter::{AdapterSet, Choice, Classifier};
use crate::archive::Line;
use crate::error::Result;
use crate::runtime::Need;

/// What runs a family's bases.
pub(super) trait Work: Sized + 'static {
    type Model: Family;
    /// The limits as C has them.
    type Options: Options;
    type Limits;

    /// Refuses constants that are none, in argument `argument`.
    fn limits(options: &Self::Options, argument: u32) -> Result<Self::Limits, Refusal>;
    /// Refuses limits that the model does not allow.
    fn need(model: &Self::Model, limits: &Self::Limits) -> Result<Need>;
    fn new(
        model: Self::Model,
        limits: &Self::Limits,
        memory: &'static mut [u8],
        executor: &'static Callback,
    ) -> Outcome<Self>;
    /// What a device says that has failed, if it says something.
    #[cfg(feature = "cuda")]
    fn device_error(&self) -> Option<String>;
    fn select(
        &mut self,
        sequence: usize,
        set: &AdapterSet<'_, 'static>,
        choices: &[Choice],
    ) -> Result<()>;
    fn classifier(&self, sequence: usize) -> Result<Classifier<'_>>;
}

/// Makes an object of C run what a type of the crate runs: its limits from options, and what memory
/// they need of a model.
macro_rules! runs {
    ($object:ident, $magic:literal, $Work:ident, $Model:ident, $Options:ident -> $Limits:ident,
     |$options:ident, $argument:ident| $limits:expr,
     |$config:ident, $checked:ident| $need:expr) => {
        runs! {
            $object, $magic, $Work, $Model, $Options -> $Limits,
            |$options, $argument| $limits,
            |$config, $checked| $need,
            |model, limits, memory, executor| Ok($Work::new(model, limits, memory, executor)?),
            |_work| None
        }
    };
    ($object:ident, $magic:literal, $Work:ident, $Model:ident, $Options:ident -> $Limits:ident,
     |$options:ident, $argument:ident| $limits:expr,
     |$config:ident, $checked:ident| $need:expr,
     |$model:ident, $placed:ident, $memory:ident, $executor:ident| $open:expr,
     |$work:ident| $error:expr) => {
        impl Kind for $object {
            type Value = Running<$Work<'static, 'static>>;
            const MAGIC: u32 = $magic;
        }

        impl Work for $Work<'static, 'static> {
            type Model = $Model<'static>;
            type Options = $Options;
            type Limits = $Limits;

            fn limits($options: &$Options, $argument: u32) -> Result<$Limits, Refusal> {
                Ok($limits)
            }

            fn need(model: &Self::Model, $checked: &$Limits) -> crate::Result<Need> {
                let $config = model.config();
                Ok($need)
            }

            fn new(
                $model: Self::Model,
                $placed: &$Limits,
                $memory: &'static mut [u8],
                $executor: &'static Callback,
            ) -> super::failure::Outcome<Self> {
                $open
            }

            #[cfg(feature = "cuda")]
            fn device_error(&self) -> Option<String> {
                let $work = self;
                $error
            }

            fn select(
                &mut self,
                sequence: usize,
                set: &AdapterSet<'_, 'static>,
                choices: &[Choice],
            ) -> crate::Result<()> {
                $Work::select(self, sequence, set, choices)
            }

            fn classifier(&self, sequence: usize) -> crate::Result<Classifier<'_>> {
                $Work::classifier(self, sequence)
            }
        }
    };
}
pub(super) use runs;

/// An object that runs a base. `work` borrows `executor`, which lies beside it: so they are only
/// reached one by one.
pub(super) struct Running<W> {
    work: W,
    workspace: Span,
    executor: Callback,
}

/// `lowrank_..._need`.
///
/// # Safety
/// The promises of the C function's caller; so in all functions here.
pub(super) unsafe fn need<W: Work>(
    base: *const lowrank_base,
    limits: *const W::Options,
    need: *mut lowrank_need,
    error: *mut lowrank_error,
) -> lowrank_code {
    let regions = [region(base, false, 1), options::region(limits, 2), Region::writes(need, 1, 3)];
    super::failure::call(error, 4, &regions, || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        let (value, limits) = unsafe { (share(base, 1)?, options::read(limits, 2)?) };
        regions[2].clear_of(value.archive, false, 1)?;
        let Need { bytes, kv_bytes } = W::need(value.model.get()?, &W::limits(&limits, 2)?)?;
        // SAFETY: as above.
        unsafe { need.write(lowrank_need { bytes, kv_bytes }) };
        Ok(())
    })
}

/// The arguments of `lowrank_..._open`, in their order.
pub(super) struct Opening<K, L> {
    pub(super) memory: *mut c_void,
    pub(super) memory_bytes: usize,
    pub(super) base: *const lowrank_base,
    pub(super) limits: *const L,
    pub(super) workspace: *mut c_void,
    pub(super) workspace_bytes: usize,
    pub(super) executor: *const lowrank_executor,
    pub(super) object: *mut *mut K,
    pub(super) error: *mut lowrank_error,
}

/// `lowrank_..._open`.
///
/// # Safety
/// As [`need`].
pub(super) unsafe fn open<K, W>(arguments: Opening<K, W::Options>) -> lowrank_code
where
    W: Work,
    K: Kind<Value = Running<W>>,
{
    let Opening { memory, memory_bytes, base, limits, workspace, workspace_bytes, .. } = arguments;
    let Opening { executor, object, error, .. } = arguments;
    let regions = [
        object::room(memory, memory_bytes, 1),
        region(base, false, 3),
        options::region(limits, 4),
        // Its alignment is the crate's to refuse, with the remainder.
        Region::memory(workspace, workspace_bytes, 1, 5),
        Region::reads(executor, 1, 7).optional(),
        Region::writes(object, 1, 8),
    ];
    super::failure::call(error, 9, &regions, || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        unsafe {
            object.write(core::ptr::null_mut());
            let (value, limits) = (share(base, 3)?, W::limits(&options::read(limits, 4)?, 4)?);
            let model = *value.model.get::<W::Model>()?;
            regions[0].clear_of(value.archive, false, 3)?;
            regions[3].clear_of(value.archive, false, 3)?;
            let executor = Callback(executor.as_ref().copied().unwrap_or(lowrank_executor::SERIAL));
            let bytes = W::need(&model, &limits)?.bytes.min(workspace_bytes);
            let work = work_of(workspace, workspace_bytes);
            let made: Outcome<_> = place(memory, memory_bytes, 1, |place: *mut Running<W>| {
                let own = &raw mut (*place).executor;
                own.write(executor);
                (&raw mut (*place).work).write(W::new(model, &limits, work, &*own)?);
                (&raw mut (*place).workspace).write(Span { start: workspace.addr(), bytes });
                Ok(())
            });
            object.write(made?);
        }
        Ok(())
    })
}

/// The workspace as a slice.
///
/// # Safety
/// It was checked as a region; nothing else uses it while the object lives.
unsafe fn work_of(workspace: *mut c_void, bytes: usize) -> &'static mut [u8] {
    // No bytes at all still start on a boundary, so that the error is about their number.
    let nowhere = core::ptr::without_provenance_mut(align_of::<Line>());
    let first = if bytes == 0 { nowhere } else { workspace.cast() };
    // SAFETY: the caller's promise.
    unsafe { core::slice::from_raw_parts_mut(first, bytes) }
}

/// Runs `body` with the object in argument 1 of a call whose other arguments, the `regions` behind
/// the first, do not lie in its workspace. The error is argument number `argument`.
///
/// # Safety
/// As [`need`]; `regions` begins with the object's.
pub(super) unsafe fn call<K, W: Work>(
    object: *mut K,
    error: *mut lowrank_error,
    argument: u32,
    regions: &[Region],
    body: impl FnOnce(&mut W, Span) -> Outcome,
) -> lowrank_code
where
    K: Kind<Value = Running<W>>,
{
    super::failure::call(error, argument, regions, || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        let held: Held<'_, K> = unsafe { hold(object, 1) }?;
        let value = held.pointer();
        // SAFETY: an open object; `executor` is not touched while `work` is borrowed.
        let (work, workspace) = unsafe { (&mut (*value).work, (*value).workspace) };
        clear_of(error, regions.get(1..).unwrap_or_default(), workspace, 1)?;
        let outcome = body(work, workspace);
        #[cfg(feature = "cuda")]
        let outcome = outcome.map_err(|failure| failure.in_words(|| work.device_error()));
        outcome
    })
}

/// [`call`] of a function that takes no other pointers.
///
/// # Safety
/// As [`need`].
pub(super) unsafe fn change<K, W: Work>(
    object: *mut K,
    error: *mut lowrank_error,
    argument: u32,
    body: impl FnOnce(&mut W) -> Result<()>,
) -> lowrank_code
where
    K: Kind<Value = Running<W>>,
{
    // SAFETY: the caller's promise.
    unsafe { call(object, error, argument, &[region(object, true, 1)], |work, _| Ok(body(work)?)) }
}

/// Points `*values`, argument `position`, at what `find` finds in the workspace, and tells how many
/// there are. They stay until the next call with the object.
///
/// # Safety
/// As [`need`].
pub(super) unsafe fn tell<K, W: Work, T>(
    object: *mut K,
    position: u32,
    values: *mut *const T,
    count: *mut usize,
    error: *mut lowrank_error,
    find: impl FnOnce(&mut W) -> Outcome<&[T]>,
) -> lowrank_code
where
    K: Kind<Value = Running<W>>,
{
    let regions = [
        region(object, true, 1),
        Region::writes(values, 1, position),
        Region::writes(count, 1, position + 1),
    ];
    // SAFETY: the caller's promise; checked by `call`.
    unsafe {
        call(object, error, position + 2, &regions, |work, _| {
            let found = find(work)?;
            values.write(found.as_ptr());
            count.write(found.len());
            Ok(())
        })
    }
}

/// `lowrank_..._select`.
///
/// # Safety
/// As [`need`].
pub(super) unsafe fn select<K, W>(
    object: *mut K,
    sequence: usize,
    set: *mut lowrank_set,
    choices: *const lowrank_choice,
    count: usize,
    error: *mut lowrank_error,
) -> lowrank_code
where
    W: Work,
    K: Kind<Value = Running<W>>,
{
    let regions = [region(object, true, 1), region(set, true, 3), Region::reads(choices, count, 4)];
    // SAFETY: the caller's promise; checked by `call`.
    unsafe {
        call(object, error, 6, &regions, |work: &mut W, workspace| {
            let mut set = hold(set, 3)?;
            let set = set.value();
            clear_of(error, &[regions[2]], set.memory, 3)?;
            let choices = Chosen::new(choices, count)?;
            choices.check(set, workspace)?;
            Ok(work.select(sequence, &set.set(), choices.as_slice())?)
        })
    }
}

/// `lowrank_..._label`.
///
/// # Safety
/// As [`need`].
pub(super) unsafe fn label<K, W>(
    object: *mut K,
    sequence: usize,
    label: u32,
    name: *mut *const c_char,
    name_bytes: *mut usize,
    error: *mut lowrank_error,
) -> lowrank_code
where
    W: Work,
    K: Kind<Value = Running<W>>,
{
    let regions =
        [region(object, true, 1), Region::writes(name, 1, 4), Region::writes(name_bytes, 1, 5)];
    // SAFETY: the caller's promise; checked by `call`.
    unsafe {
        call(object, error, 6, &regions, |work: &mut W, _| {
            tell_label(work.classifier(sequence)?.labels(), label, name, name_bytes)
        })
    }
}

/// `lowrank_..._classify` of what was computed before: `classify` fills the logits.
///
/// # Safety
/// As [`need`].
pub(super) unsafe fn classify<K, W>(
    object: *mut K,
    sequence: usize,
    to: Classified,
    error: *mut lowrank_error,
    classify: impl FnOnce(&mut W, &mut [f32]) -> Result<()>,
) -> lowrank_code
where
    W: Work,
    K: Kind<Value = Running<W>>,
{
    let [logits, count, label] = to.regions(3);
    let regions = [region(object, true, 1), logits, count, label];
    // SAFETY: the caller's promise; checked by `call`.
    unsafe {
        call(object, error, 7, &regions, |work: &mut W, _| {
            let need = work.classifier(sequence)?.len();
            to.fill(need, |logits| classify(work, logits))
        })
    }
}
