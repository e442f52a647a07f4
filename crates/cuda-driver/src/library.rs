//! The driver's library, opened by the system's loader.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::ptr::NonNull;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;

/// Where drivers are, the first that opens is taken: the loader's own places, then those of
/// containers and of WSL.
const PLACES: [&CStr; 4] = [
    c"libcuda.so.1",
    c"libcuda.so",
    c"/usr/local/nvidia/lib64/libcuda.so.1",
    c"/usr/lib/wsl/lib/libcuda.so.1",
];

const RTLD_NOW: c_int = 2;

unsafe extern "C" {
    fn dlopen(name: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
    fn dlerror() -> *const c_char;
}

/// An opened library; it is never closed.
pub(crate) struct Library(NonNull<c_void>);

// SAFETY: a handle of the loader, which any thread may ask.
unsafe impl Send for Library {}
// SAFETY: as above.
unsafe impl Sync for Library {}

impl Library {
    fn open(name: &CStr) -> Result<Self, String> {
        // SAFETY: `name` ends with a NUL. Constructors of the library run: it is the driver, or
        // what the user named as one.
        let handle = unsafe { dlopen(name.as_ptr(), RTLD_NOW) };
        NonNull::new(handle).map(Self).ok_or_else(|| {
            // SAFETY: no arguments; what it returns is valid until this thread's next call.
            let error = unsafe { dlerror() };
            if error.is_null() {
                return format!("{} cannot be opened", name.to_string_lossy());
            }
            // SAFETY: not null, and the loader's texts end with a NUL.
            unsafe { CStr::from_ptr(error) }.to_string_lossy().into_owned()
        })
    }

    /// The address of `name`, or null.
    pub(crate) fn symbol(&self, name: &CStr) -> *const c_void {
        // SAFETY: an open library and a name that ends with a NUL.
        unsafe { dlsym(self.0.as_ptr(), name.as_ptr()) }
    }
}

/// The library that somebody named, or the first of the usual ones; the error is
/// that of the first.
pub(crate) fn open() -> Result<Library, String> {
    if let Some(path) = crate::chosen() {
        let name = CString::new(path.as_os_str().as_bytes())
            .map_err(|_| format!("{} holds a NUL byte", path.display()))?;
        return Library::open(&name);
    }
    let [first, others @ ..] = PLACES;
    Library::open(first)
        .or_else(|error| others.iter().find_map(|name| Library::open(name).ok()).ok_or(error))
}
