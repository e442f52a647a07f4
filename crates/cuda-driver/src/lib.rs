//! The functions of the CUDA driver that `cust` calls, forwarded to the driver's library, which is
//! opened at the first call. A program that links this builds, starts and tests on machines without
//! CUDA, and hears why there is none from [`driver`].
//!
//! The library is `libcuda.so.1` where the system's loader finds it, or where some hosts keep it;
//! with [`OVERRIDE`] set, that file and no other. One program can link this once: it *defines*
//! `cuInit` and the others. It knows nothing of kernels, and systems other than Unix have no driver
//! here.

use core::ffi::{CStr, c_char, c_uint, c_void};
use std::sync::OnceLock;

#[cfg(unix)]
mod library;
#[cfg(not(unix))]
#[path = "no_library.rs"]
mod library;
mod table;

/// The environment variable that names the driver's library instead of the usual places.
pub const OVERRIDE: &str = "LOWRANK_CUDA_DRIVER";

/// Results that `cust_raw` has a name for. Its enum is that of CUDA 11.4; for Rust a newer driver's
/// result would be no value of it at all.
const KNOWN: [core::ops::RangeInclusive<c_uint>; 14] = [
    0..=8,
    34..=34,
    100..=102,
    200..=202,
    205..=224,
    300..=304,
    400..=401,
    500..=500,
    600..=600,
    700..=705,
    708..=720,
    800..=809,
    900..=911,
    999..=999,
];

const SYMBOL_NOT_FOUND: c_uint = 302;
const NO_LIBRARY: c_uint = 303;
const UNKNOWN: c_uint = 999;

/// `code` if `cust_raw` knows it, or CUDA's "unknown".
pub(crate) fn known(code: c_uint) -> c_uint {
    if KNOWN.iter().any(|codes| codes.contains(&code)) { code } else { UNKNOWN }
}

/// The result of a function that was not found.
pub(crate) fn missing() -> c_uint {
    if driver().is_ok() { SYMBOL_NOT_FOUND } else { NO_LIBRARY }
}

static CHOSEN: OnceLock<std::path::PathBuf> = OnceLock::new();

/// Names the driver's library, as [`OVERRIDE`] does, from within the program; false if it has been
/// named or looked for before.
pub fn use_library(path: impl Into<std::path::PathBuf>) -> bool {
    CHOSEN.set(path.into()).is_ok()
}

/// The library that somebody named.
pub(crate) fn chosen() -> Option<&'static std::path::Path> {
    let named = CHOSEN.get_or_init(|| std::env::var_os(OVERRIDE).unwrap_or_default().into());
    (!named.as_os_str().is_empty()).then_some(named)
}

/// Opens the driver's library, once for the whole process.
///
/// # Errors
/// What the system says about it.
pub fn driver() -> Result<(), &'static str> {
    library().as_ref().map(|_| ()).map_err(String::as_str)
}

fn library() -> &'static Result<library::Library, String> {
    static LIBRARY: OnceLock<Result<library::Library, String>> = OnceLock::new();
    LIBRARY.get_or_init(library::open)
}

/// The address of a driver function, or null.
pub(crate) fn function(name: &CStr) -> *const c_void {
    library().as_ref().map_or(core::ptr::null(), |library| library.symbol(name))
}

/// What a result means, in the driver's words.
pub fn error_text(code: u32) -> String {
    let mut text = core::ptr::null();
    // SAFETY: a place for the answer.
    unsafe { cuGetErrorString(code, &mut text) };
    // SAFETY: never null, and the driver's texts end with a NUL and stay.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// What a result means. Never fails and never leaves `text` unset: `cust` would panic.
///
/// # Safety
/// `text` is valid for a write.
#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "the driver's name")]
pub unsafe extern "C" fn cuGetErrorString(code: c_uint, text: *mut *const c_char) -> c_uint {
    type Function = unsafe extern "C" fn(c_uint, *mut *const c_char) -> c_uint;
    let found = function(c"cuGetErrorString");
    let mut answer = core::ptr::null();
    if !found.is_null() {
        // SAFETY: the driver's function of this name has this signature; `answer` may be written.
        unsafe { core::mem::transmute::<*const c_void, Function>(found)(code, &mut answer) };
    }
    if answer.is_null() {
        answer = match code {
            NO_LIBRARY => c"there is no CUDA driver: libcuda.so.1 could not be opened",
            SYMBOL_NOT_FOUND => c"the CUDA driver is too old or too new: it lacks a function",
            _ => c"the CUDA driver has no text for this error",
        }
        .as_ptr();
    }
    // SAFETY: the caller's promise.
    unsafe { *text = answer };
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_newer_drivers_become_unknown() {
        for code in [36, 46, 225, 226, 402, 721, 810, 812, 912, 916, u32::MAX] {
            assert_eq!(known(code), UNKNOWN, "{code}");
        }
        for code in [0, 8, 34, 222, 304, 700, 720, 911, 999] {
            assert_eq!(known(code), code);
        }
    }
}
