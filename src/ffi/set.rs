//! Adapter sets: slots with generations, in the caller's memory.
//!
//! A set object is followed by its slots, and by a note for each of where its adapter's archive
//! lies.

use core::ffi::c_void;

use super::adapter::{AdapterValue, lowrank_adapter};
use super::base::lowrank_base;
use super::failure::{Failure, Outcome, Refusal, call, clear_of, lowrank_code, lowrank_error};
use super::family::Model;
use super::memory::{Region, Span};
use super::object::{self, Held, Kind, hold, place, region, share, size};
use crate::adapter::{AdapterSet, Generation, Slot};
use crate::error::{Error, Field};

/// Slots for adapters of one base. What an application swaps: a session copies what it chooses, so
/// a swap never touches it.
///
/// One thread at a time; a second one gets `LOWRANK_ERROR_BUSY` and may try again.
#[derive(Debug)]
pub struct lowrank_set {
    _opaque: (),
}

/// Memory that is enough for a set without its slots on every target.
pub const LOWRANK_SET_HEAD_BYTES: usize = 512;
/// Memory that is enough for one slot on every target.
pub const LOWRANK_SLOT_BYTES: usize = 64;
const SLOT: usize = size_of::<Slot<'static>>() + size_of::<Span>();
const _: () =
    assert!(size::<lowrank_set>() <= LOWRANK_SET_HEAD_BYTES && SLOT <= LOWRANK_SLOT_BYTES);
// Slots lie behind the object, notes behind the slots.
const _: () = assert!(
    align_of::<Slot<'static>>() <= object::ALIGN
        && align_of::<Span>() <= align_of::<Slot<'static>>()
);

/// The most slots of a set.
const MOST: usize = 1 << 16;

pub(super) struct SetValue {
    model: Model,
    slots: *mut Slot<'static>,
    archives: *mut Span,
    count: usize,
    /// All of its memory.
    pub(super) memory: Span,
}

impl Kind for lowrank_set {
    type Value = SetValue;
    const MAGIC: u32 = 0x6c73_6574;
}

impl SetValue {
    /// The set as the crate knows it.
    pub(super) fn set(&mut self) -> AdapterSet<'_, 'static> {
        // SAFETY: `count` slots were written when the set was opened; only a held set hands them
        // out.
        AdapterSet::new(
            unsafe { core::slice::from_raw_parts_mut(self.slots, self.count) },
            self.model.base(),
        )
    }

    /// Where the archive of the adapter in `slot` lies.
    pub(super) fn archive(&self, slot: u32) -> Option<Span> {
        // SAFETY: as in `set`; `Span` is plain data.
        unsafe { core::slice::from_raw_parts(self.archives, self.count) }
            .get(slot as usize)
            .copied()
    }

    fn note_archive(&mut self, slot: u32, archive: Span) {
        // SAFETY: as in `set`.
        if let Some(note) = unsafe { core::slice::from_raw_parts_mut(self.archives, self.count) }
            .get_mut(slot as usize)
        {
            *note = archive;
        }
    }
}

/// The bytes that a set with `slots` slots takes, exactly; `LOWRANK_SET_BYTES(slots)` is enough on
/// every target. 0 for more than 65,536.
#[unsafe(no_mangle)]
pub extern "C" fn lowrank_set_bytes(slots: u32) -> usize {
    if slots as usize > MOST {
        0
    } else {
        (size::<lowrank_set>() + slots as usize * SLOT).next_multiple_of(object::ALIGN)
    }
}

/// Makes an empty set of `slots` slots (1 to 65,536) for adapters of `base`, in `memory` of at
/// least `lowrank_set_bytes(slots)` bytes. On success `*set` is the object, on failure null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_set_open(
    memory: *mut c_void,
    memory_bytes: usize,
    base: *const lowrank_base,
    slots: u32,
    set: *mut *mut lowrank_set,
    error: *mut lowrank_error,
) -> lowrank_code {
    let regions =
        [object::room(memory, memory_bytes, 1), region(base, false, 3), Region::writes(set, 1, 5)];
    call(error, 6, &regions, || {
        let count = slots as usize;
        // SAFETY: checked by `call`; the caller vouches for the memory.
        let value = unsafe {
            set.write(core::ptr::null_mut());
            share(base, 3)?
        };
        regions[0].clear_of(value.archive, false, 3)?;
        if count == 0 || count > MOST {
            return Err(Error::Limit { field: Field::Slots, found: count, most: MOST }.into());
        }
        let need = lowrank_set_bytes(slots);
        if memory_bytes < need {
            return Err(Refusal::ObjectTooSmall { argument: 1, have: memory_bytes, need }.into());
        }
        // SAFETY: `need` bytes are there, which has room for the object, the slots and the notes,
        // each aligned (asserted above).
        unsafe {
            let first = memory.byte_add(size::<lowrank_set>()).cast::<Slot<'static>>();
            let archives = first.add(count).cast::<Span>();
            for i in 0..count {
                first.add(i).write(Slot::EMPTY);
                archives.add(i).write(Span { start: 0, bytes: 0 });
            }
            let whole = Span { start: memory.addr(), bytes: need };
            let object: Outcome<_> = place(memory, memory_bytes, 1, |place: *mut SetValue| {
                place.write(SetValue {
                    model: value.model,
                    slots: first,
                    archives,
                    count,
                    memory: whole,
                });
                Ok(())
            });
            set.write(object?);
        }
        Ok(())
    })
}

/// What the three changes of a slot have in common: the set is held, the arguments don't lie in it,
/// the new generation is told.
unsafe fn change(
    set: *mut lowrank_set,
    generation: *mut u64,
    position: u32,
    error: *mut lowrank_error,
    body: impl FnOnce(&mut SetValue) -> Outcome<Generation>,
) -> Outcome {
    // SAFETY: checked by the caller's `call`.
    let mut held: Held<'_, lowrank_set> = unsafe { hold(set, 1) }?;
    let told = Region::writes(generation, 1, position).optional();
    clear_of(error, &[told], held.value().memory, 1)?;
    let new = body(held.value())?;
    if !generation.is_null() {
        // SAFETY: checked by the caller's `call` and above.
        unsafe { generation.write(new) };
    }
    Ok(())
}

/// Puts an adapter into an empty slot (numbered from 0). `generation` may be null, else it gets the
/// slot's new generation. A slot that is taken is `LOWRANK_ERROR_SLOT_TAKEN`; an adapter of
/// another base is refused and says so.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_set_attach(
    set: *mut lowrank_set,
    slot: u32,
    adapter: *const lowrank_adapter,
    generation: *mut u64,
    error: *mut lowrank_error,
) -> lowrank_code {
    let told = Region::writes(generation, 1, 4).optional();
    call(error, 5, &[region(set, true, 1), region(adapter, false, 3), told], || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        unsafe {
            let value = share(adapter, 3)?;
            change(set, generation, 4, error, |set| attach(set, slot, None, value))
        }
    })
}

/// Puts an adapter into a slot if its generation is still `expected`, and tells the new one as
/// `lowrank_set_attach` does: compare and swap. If somebody else was there first
/// (`LOWRANK_ERROR_STALE_GENERATION`), or the adapter does not fit, the old one stays.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_set_replace(
    set: *mut lowrank_set,
    slot: u32,
    expected: u64,
    adapter: *const lowrank_adapter,
    generation: *mut u64,
    error: *mut lowrank_error,
) -> lowrank_code {
    let told = Region::writes(generation, 1, 5).optional();
    call(error, 6, &[region(set, true, 1), region(adapter, false, 4), told], || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        unsafe {
            let value = share(adapter, 4)?;
            change(set, generation, 5, error, |set| attach(set, slot, Some(expected), value))
        }
    })
}

fn attach(
    set: &mut SetValue,
    slot: u32,
    expected: Option<Generation>,
    value: &AdapterValue,
) -> Outcome<Generation> {
    // The set's own memory must not be that of the adapter it will read.
    if set.memory.meets(value.archive) {
        return Err(
            Refusal::Overlap { first: 1, second: if expected.is_some() { 4 } else { 3 } }.into()
        );
    }
    let new = match expected {
        Some(expected) => set.set().replace(slot, expected, value.adapter)?,
        None => set.set().attach(slot, value.adapter)?,
    };
    set.note_archive(slot, value.archive);
    Ok(new)
}

/// Empties a slot if its generation is still `expected`, and tells the new one as
/// `lowrank_set_attach` does. Sessions that chose the adapter keep it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_set_detach(
    set: *mut lowrank_set,
    slot: u32,
    expected: u64,
    generation: *mut u64,
    error: *mut lowrank_error,
) -> lowrank_code {
    call(error, 5, &[region(set, true, 1), Region::writes(generation, 1, 4).optional()], || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        unsafe {
            change(set, generation, 4, error, |set| {
                set.set().detach(slot, expected).map_err(Failure::from)
            })
        }
    })
}

/// Writes the generation of a slot to `*generation`, and to `*occupied` 1 if it holds an adapter,
/// else 0. Either may be null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_set_get(
    set: *mut lowrank_set,
    slot: u32,
    generation: *mut u64,
    occupied: *mut u32,
    error: *mut lowrank_error,
) -> lowrank_code {
    let holds = Region::writes(occupied, 1, 4).optional();
    call(
        error,
        5,
        &[region(set, true, 1), Region::writes(generation, 1, 3).optional(), holds],
        || {
            // SAFETY: checked by `call`; the caller vouches for the memory.
            unsafe {
                change(set, generation, 3, error, |set| {
                    let memory = set.memory;
                    holds.clear_of(memory, true, 1)?;
                    let (adapter, current) = set.set().get(slot)?;
                    if !occupied.is_null() {
                        occupied.write(adapter.is_some().into());
                    }
                    Ok(current)
                })
            }
        },
    )
}

/// Closes a set. Sessions go on with what they chose.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_set_close(
    set: *mut lowrank_set,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe { object::close(set, error) }
}
