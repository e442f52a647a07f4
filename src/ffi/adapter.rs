//! Adapters: opened where their archives lie.

use core::ffi::{c_char, c_void};

use super::failure::{Outcome, call, lowrank_code, lowrank_error};
use super::memory::{Region, Span, slice};
use super::object::{self, Kind, region, share, size};
use crate::adapter::Adapter;
use crate::error::Error;

/// An opened low-rank adapter. Only read, like a base; attaching it copies a few words, so it may
/// be closed after that. Its archive must stay until every set that has it, and every session that
/// chose it, is closed or has another.
#[derive(Debug)]
pub struct lowrank_adapter {
    _opaque: (),
}

/// Memory that is enough for an adapter object on every target.
pub const LOWRANK_ADAPTER_BYTES: usize = 96;
const _: () = assert!(size::<lowrank_adapter>() <= LOWRANK_ADAPTER_BYTES);

pub(super) struct AdapterValue {
    pub(super) adapter: Adapter<'static>,
    pub(super) archive: Span,
}

impl Kind for lowrank_adapter {
    type Value = AdapterValue;
    const MAGIC: u32 = 0x6c61_6461;
}

/// What is known of an adapter.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lowrank_adapter_info {
    /// Layers that it changes.
    pub targets: u32,
    /// The largest rank among them.
    pub max_rank: u32,
    /// Labels of the classifier that it brings; 0 if it brings none.
    pub labels: u32,
    /// The hash of its content.
    pub fingerprint: [u8; 16],
    /// The hash of the base that it was made for.
    pub base: [u8; 16],
    /// The name, UTF-8 in the archive, without a NUL.
    pub name: *const c_char,
    /// Its length.
    pub name_bytes: usize,
}

/// Opens an adapter over an archive, in place, in `memory` of at least `lowrank_adapter_bytes()`
/// bytes; reads its values once.
///
/// The archive starts at a multiple of `LOWRANK_MEMORY_ALIGN` and stays, unchanged, as long as the
/// adapter is used by anything. Whether it fits a base is checked when it is attached. On success
/// `*adapter` is the object, on failure null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_adapter_open(
    memory: *mut c_void,
    memory_bytes: usize,
    archive: *const c_void,
    archive_bytes: usize,
    adapter: *mut *mut lowrank_adapter,
    error: *mut lowrank_error,
) -> lowrank_code {
    let from = Region::reads(archive.cast::<u8>(), archive_bytes, 3);
    // SAFETY: the caller's promises, also for the archive as long as it is used.
    unsafe {
        object::open((memory, memory_bytes), from, adapter, 5, error, |_| {
            let archive = slice::<u8>(archive.cast(), archive_bytes);
            Ok(AdapterValue { adapter: Adapter::open(archive)?, archive: Span::of(archive) })
        })
    }
}

/// Writes what is known of an adapter to `*info`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_adapter_get_info(
    adapter: *const lowrank_adapter,
    info: *mut lowrank_adapter_info,
    error: *mut lowrank_error,
) -> lowrank_code {
    call(error, 3, &[region(adapter, false, 1), Region::writes(info, 1, 2)], || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        let value = unsafe { share(adapter, 1) }?;
        Region::writes(info, 1, 2).clear_of(value.archive, false, 1)?;
        let (opened, name) = (&value.adapter, value.adapter.name());
        let facts = lowrank_adapter_info {
            targets: opened.targets().len() as u32,
            max_rank: opened.max_rank() as u32,
            labels: opened.classifier().map_or(0, |classifier| classifier.len() as u32),
            fingerprint: opened.fingerprint().0,
            base: opened.base().0,
            name: name.as_ptr().cast(),
            name_bytes: name.len(),
        };
        // SAFETY: checked by `call` and above.
        unsafe { info.write(facts) };
        Ok(())
    })
}

/// Points `*name` at the name of a label (from 0) of an adapter's classifier, `*name_bytes` bytes
/// of UTF-8 without a NUL, in its archive. An adapter with fewer labels, or without a classifier,
/// is `LOWRANK_ERROR_LENGTH`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_adapter_label(
    adapter: *const lowrank_adapter,
    label: u32,
    name: *mut *const c_char,
    name_bytes: *mut usize,
    error: *mut lowrank_error,
) -> lowrank_code {
    let told = [Region::writes(name, 1, 3), Region::writes(name_bytes, 1, 4)];
    call(error, 5, &[region(adapter, false, 1), told[0], told[1]], || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        let value = unsafe { share(adapter, 1) }?;
        told.iter().try_for_each(|region| region.clear_of(value.archive, false, 1))?;
        // SAFETY: as above.
        unsafe {
            let names = value.adapter.classifier().into_iter().flat_map(|found| found.labels());
            tell_label(names, label, name, name_bytes)
        }
    })
}

/// The name of a label to where the caller wants it.
///
/// # Safety
/// The pointers were checked.
pub(super) unsafe fn tell_label<'a>(
    names: impl Iterator<Item = &'a str>,
    label: u32,
    name: *mut *const c_char,
    name_bytes: *mut usize,
) -> Outcome {
    let mut have = 0;
    for text in names {
        if have == label as usize {
            // SAFETY: the caller's promise.
            unsafe {
                name.write(text.as_ptr().cast());
                name_bytes.write(text.len());
            }
            return Ok(());
        }
        have += 1;
    }
    Err(Error::Length { have, need: (label as usize).saturating_add(1) }.into())
}

/// Closes an adapter. Where it was attached it stays.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_adapter_close(
    adapter: *mut lowrank_adapter,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe { object::close(adapter, error) }
}

/// The bytes that an adapter object takes, exactly; `LOWRANK_ADAPTER_BYTES` is enough on every
/// target.
#[unsafe(no_mangle)]
pub extern "C" fn lowrank_adapter_bytes() -> usize {
    size::<lowrank_adapter>()
}
