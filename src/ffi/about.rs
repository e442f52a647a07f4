//! What this build of the library is: version, instruction set, features, sizes.

use core::ffi::c_char;
use core::fmt::Write;

use super::failure::{Cursor, call};
use super::memory::{Region, bytes_mut};
use super::object::ALIGN;
use crate::kernel::kernels;

/// `lowrank_features`: files and threads are there (the library was built with `std`).
pub const LOWRANK_FEATURE_STD: u32 = 1;
/// `lowrank_features`: an executor is used. Processors without atomic read-modify-write (Cortex-M0)
/// do all the work themselves.
pub const LOWRANK_FEATURE_EXECUTOR: u32 = 2;
/// `lowrank_features`: objects refuse use by two threads at once for certain, not just mostly.
pub const LOWRANK_FEATURE_LOCKS: u32 = 4;
/// `lowrank_features`: texts, streams, chats and `lowrank_generate` are there (`text`).
pub const LOWRANK_FEATURE_TEXT: u32 = 8;
/// `lowrank_features`: bases and adapters of other programs are imported (`import`).
pub const LOWRANK_FEATURE_IMPORT: u32 = 16;
/// `lowrank_features`: training, evaluation and estimates of memory are there (`train`).
pub const LOWRANK_FEATURE_TRAIN: u32 = 32;
/// `lowrank_features`: sessions run on NVIDIA GPUs too (the library was built with `cuda`).
pub const LOWRANK_FEATURE_CUDA: u32 = 64;

/// Every object's memory starts at a multiple of this.
pub const LOWRANK_OBJECT_ALIGN: usize = 8;
/// Workspaces and archives start at a multiple of this.
pub const LOWRANK_MEMORY_ALIGN: usize = 64;

const _: () = assert!(
    LOWRANK_OBJECT_ALIGN == ALIGN && LOWRANK_MEMORY_ALIGN == align_of::<crate::archive::Line>()
);

/// The library's version, a static string such as "0.1.0".
#[unsafe(no_mangle)]
pub extern "C" fn lowrank_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}

/// What this build can do: a sum of `LOWRANK_FEATURE_` constants. Bits that the header does not
/// name are to be ignored.
#[unsafe(no_mangle)]
pub extern "C" fn lowrank_features() -> u32 {
    let mut features = 0;
    for (bit, is_there) in [
        (LOWRANK_FEATURE_STD, cfg!(feature = "std")),
        (LOWRANK_FEATURE_EXECUTOR, cfg!(target_has_atomic = "ptr")),
        (LOWRANK_FEATURE_LOCKS, cfg!(target_has_atomic = "8")),
        (LOWRANK_FEATURE_TEXT, cfg!(feature = "text")),
        (LOWRANK_FEATURE_IMPORT, cfg!(feature = "import")),
        (LOWRANK_FEATURE_TRAIN, cfg!(feature = "train")),
        (LOWRANK_FEATURE_CUDA, cfg!(feature = "cuda")),
    ] {
        if is_there {
            features |= bit;
        }
    }
    features
}

/// Writes the name of the instruction set in use ("scalar", "avx2" …) into `buffer`, with a NUL at
/// its end, cut where `capacity` ends; returns the length of the whole name without the NUL. A
/// buffer that cannot be used: 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_isa(buffer: *mut c_char, capacity: usize) -> usize {
    let mut length = 0;
    call(core::ptr::null_mut(), 3, &[Region::writes(buffer, capacity, 1)], || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        let mut out = Cursor::new(unsafe { bytes_mut(buffer, capacity) });
        out.write_str(kernels().name()).ok();
        length = out.total();
        Ok(())
    });
    length
}
