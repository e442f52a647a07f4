//! Systems on which the driver's library is not looked for.

use core::ffi::{CStr, c_void};

/// There is none.
pub(crate) enum Library {}

impl Library {
    pub(crate) fn symbol(&self, _: &CStr) -> *const c_void {
        match *self {}
    }
}

pub(crate) fn open() -> Result<Library, String> {
    Err("the CUDA driver is looked for on Unix only".into())
}
