//! How an image ends: its verdict, QEMU's exit status, and what a panic says. Shared by the images; no messages, which would bring in
//! formatting.

use core::panic::PanicInfo;

use cortex_m_semihosting::debug;

use crate::print::print;

/// Says the verdict and leaves QEMU with it.
pub fn exit(passed: bool) -> ! {
    print(&[if passed { &"PASS" } else { &"FAIL" }]);
    debug::exit(if passed { debug::EXIT_SUCCESS } else { debug::EXIT_FAILURE });
    loop {
        cortex_m::asm::wfi();
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    if let Some(place) = info.location() {
        print(&[&"FAIL: panic at ", &place.file(), &":", &place.line()]);
    }
    exit(false)
}
