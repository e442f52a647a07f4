//! Objects in the caller's memory: a word that says what they are and where, a lock, then the
//! value.
//!
//! The word is a number per type, mixed with the object's address: memory that was never opened, an
//! object that was closed, and one that was copied elsewhere are told from an open one. The lock
//! makes a second use at the same time an error instead of a race.

use core::ffi::c_void;
use core::marker::PhantomData;
use core::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use super::failure::{Outcome, Refusal, call, lowrank_code, lowrank_error};
use super::memory::Region;

/// The alignment of every object.
pub(super) const ALIGN: usize = 8;

/// A type of C and what it stands for.
pub(super) trait Kind {
    type Value;
    /// Tells this type from the others.
    const MAGIC: u32;
}

/// An object as it lies in memory.
#[repr(C)]
pub(super) struct Stored<V> {
    magic: AtomicUsize,
    busy: AtomicU8,
    value: V,
}

/// The bytes of an object.
pub(super) const fn size<K: Kind>() -> usize {
    const { assert!(align_of::<Stored<K::Value>>() <= ALIGN) };
    size_of::<Stored<K::Value>>().next_multiple_of(ALIGN)
}

fn magic<K: Kind>(address: usize) -> usize {
    address ^ K::MAGIC as usize
}

/// The memory for a new object.
pub(super) fn room(memory: *mut c_void, bytes: usize, argument: u32) -> Region {
    Region::memory(memory, bytes, ALIGN, argument)
}

/// An object in an argument.
pub(super) fn region<K: Kind>(object: *const K, is_written: bool, argument: u32) -> Region {
    let memory = Region::memory(object.cast_mut().cast(), size::<K>(), ALIGN, argument);
    if is_written {
        memory
    } else {
        Region::reads(object.cast::<u64>(), size::<K>() / ALIGN, argument)
    }
}

/// Opens an object that is made of one thing, which `from` points at: `make` is called once all
/// pointers are checked, with the object's memory. Arguments 1 and 2 of the C function are that
/// memory, `position` is the number of `object`, and the error is the one behind it.
///
/// # Safety
/// The promises of the C function's caller.
pub(super) unsafe fn open<K: Kind>(
    (memory, bytes): (*mut c_void, usize),
    from: Region,
    object: *mut *mut K,
    position: u32,
    error: *mut lowrank_error,
    make: impl FnOnce(Region) -> Outcome<K::Value>,
) -> lowrank_code {
    let regions = [room(memory, bytes, 1), from, Region::writes(object, 1, position)];
    call(error, position + 1, &regions, || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        unsafe {
            object.write(core::ptr::null_mut());
            let made: Outcome<_> = place(memory, bytes, 1, |place: *mut K::Value| {
                place.write(make(regions[0])?);
                Ok(())
            });
            object.write(made?);
        }
        Ok(())
    })
}

/// Closes the object in argument 1; the error is argument 2.
///
/// # Safety
/// The promises of the C function's caller.
pub(super) unsafe fn close<K: Kind>(object: *mut K, error: *mut lowrank_error) -> lowrank_code {
    call(error, 2, &[region(object, true, 1)], || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        unsafe { hold(object, 1) }?.close();
        Ok(())
    })
}

/// Makes an object of what `value` makes, in memory that was checked as [`room`]. `value` gets the
/// place where it will lie.
///
/// # Safety
/// `bytes` at `memory` are the caller's to write.
pub(super) unsafe fn place<K: Kind, E: From<Refusal>>(
    memory: *mut c_void,
    bytes: usize,
    argument: u32,
    value: impl FnOnce(*mut K::Value) -> Result<(), E>,
) -> Result<*mut K, E> {
    let need = size::<K>();
    if bytes < need {
        return Err(Refusal::ObjectTooSmall { argument, have: bytes, need }.into());
    }
    let stored = memory.cast::<Stored<K::Value>>();
    // SAFETY: room for a Stored, aligned; nobody else uses it.
    value(unsafe { &raw mut (*stored).value })?;
    // SAFETY: as above.
    unsafe {
        (&raw mut (*stored).busy).write(AtomicU8::new(0));
        (&raw mut (*stored).magic).write(AtomicUsize::new(magic::<K>(memory.addr())));
    }
    Ok(memory.cast())
}

/// The object behind `object`, if it is one.
///
/// # Safety
/// `object` was checked as a [`region`] and its memory can be read.
unsafe fn stored<K: Kind>(
    object: *const K,
    argument: u32,
) -> Result<*mut Stored<K::Value>, Refusal> {
    let stored = object.cast_mut().cast::<Stored<K::Value>>();
    // SAFETY: aligned and readable.
    let found = unsafe { &(*stored).magic }.load(Ordering::Acquire);
    if found == magic::<K>(object.addr()) {
        Ok(stored)
    } else {
        Err(Refusal::NotAnObject { argument })
    }
}

/// An object that calls only read: any number of threads at once.
///
/// # Safety
/// As [`hold`]; nobody closes it meanwhile.
pub(super) unsafe fn share<'a, K: Kind>(
    object: *const K,
    argument: u32,
) -> Result<&'a K::Value, Refusal> {
    // SAFETY: the caller's promise.
    let stored = unsafe { stored(object, argument) }?;
    // SAFETY: an open object has a value.
    Ok(unsafe { &(*stored).value })
}

/// An object for one call at a time.
///
/// # Safety
/// `object` was checked as a [`region`] and its memory can be read and written.
pub(super) unsafe fn hold<'a, K: Kind>(
    object: *mut K,
    argument: u32,
) -> Result<Held<'a, K>, Refusal> {
    // SAFETY: the caller's promise.
    let stored = unsafe { stored(object, argument) }?;
    // SAFETY: an open object has a lock.
    if !try_lock(unsafe { &(*stored).busy }) {
        return Err(Refusal::Busy { argument });
    }
    Ok(Held { stored, lifetime: PhantomData })
}

#[cfg(target_has_atomic = "8")]
fn try_lock(busy: &AtomicU8) -> bool {
    busy.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok()
}

/// Without compare-and-swap the lock finds calls from inside a call, and most others.
#[cfg(not(target_has_atomic = "8"))]
fn try_lock(busy: &AtomicU8) -> bool {
    let free = busy.load(Ordering::Acquire) == 0;
    if free {
        busy.store(1, Ordering::Relaxed);
    }
    free
}

/// An object in use.
pub(super) struct Held<'a, K: Kind> {
    stored: *mut Stored<K::Value>,
    lifetime: PhantomData<&'a mut K::Value>,
}

impl<K: Kind> Held<'_, K> {
    /// The value; for those that are built of parts which refer to each other.
    pub(super) fn pointer(&self) -> *mut K::Value {
        // SAFETY: the place of a value in an open object.
        unsafe { &raw mut (*self.stored).value }
    }

    /// The value.
    pub(super) fn value(&mut self) -> &mut K::Value {
        // SAFETY: an open object has a value, and the lock keeps others away.
        unsafe { &mut *self.pointer() }
    }

    /// Closes the object: what was its memory can be used for anything.
    pub(super) fn close(self) {
        // SAFETY: open until here; the magic word is gone before the value is.
        unsafe {
            (*self.stored).magic.store(0, Ordering::Release);
            self.pointer().drop_in_place();
        }
    }
}

impl<K: Kind> Drop for Held<'_, K> {
    fn drop(&mut self) {
        // SAFETY: the head of an object outlives its value.
        let (magic, busy) = unsafe { (&(*self.stored).magic, &(*self.stored).busy) };
        #[cfg(feature = "std")]
        if std::thread::panicking() {
            magic.store(0, Ordering::Release);
        }
        let _ = magic;
        busy.store(0, Ordering::Release);
    }
}
