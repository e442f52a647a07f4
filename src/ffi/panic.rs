//! What a static library does when it panics and there is no std: tells the program, then stops for
//! good.
//!
//! Bad arguments and bad archives never get here; a bug of the library does.

use core::ffi::c_char;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicPtr, Ordering};

/// A function that is told where in the library's source a panic happened: the file's name (not
/// ended by a NUL), its length, the line. It should not return; if it does, the library waits
/// forever.
pub type lowrank_panic_hook =
    Option<unsafe extern "C" fn(file: *const c_char, file_bytes: usize, line: u32)>;

static HOOK: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

/// Sets the function that is called when the library panics, or none. Only in libraries built with
/// the feature `panic-handler` and without `std`; hosted libraries return `LOWRANK_ERROR_PANICKED`
/// instead.
#[unsafe(no_mangle)]
pub extern "C" fn lowrank_on_panic(hook: lowrank_panic_hook) {
    let hook = hook.map_or(core::ptr::null_mut(), |hook| hook as *mut ());
    HOOK.store(hook, Ordering::Release);
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let hook = HOOK.load(Ordering::Acquire);
    // SAFETY: only `lowrank_on_panic` stores here: null, which is None, or a function of this type.
    let hook: lowrank_panic_hook = unsafe { core::mem::transmute(hook) };
    if let (Some(hook), Some(place)) = (hook, info.location()) {
        // SAFETY: the program's own function.
        unsafe { hook(place.file().as_ptr().cast(), place.file().len(), place.line()) };
    }
    loop {
        core::hint::spin_loop();
    }
}
