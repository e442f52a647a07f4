//! The program of `../../src/main.rs` without a processor: it is linked for several targets by `../sizes.sh`, which measures it. It is
//! not run, prints nothing and compares nothing.
//!
//! No model is linked: the archives come from [`black_box`], so that nothing is known of them when the program is compiled, and the
//! tokens go into one, so that all of them are needed.
#![no_std]
#![no_main]

#[path = "../../../tiny/task.rs"]
#[allow(dead_code, reason = "the names of what a clock measures are the firmware's")]
mod task;

use core::hint::black_box;
use core::panic::PanicInfo;

use lowrank::runtime::{Serial, need};
use task::{CONFIG, Clock, LIMITS, What};

/// Known when the program is compiled, as in the firmware.
const WORKSPACE: usize = need(&CONFIG, &LIMITS).bytes;

/// The workspace starts on a cache line, as sessions want it.
#[repr(align(64))]
struct Aligned([u8; WORKSPACE]);

static mut MEMORY: Aligned = Aligned([0; WORKSPACE]);

/// What the firmware's clock measures, nothing here.
struct NoClock;

impl Clock for NoClock {
    fn start(&mut self) {}

    fn stop(&mut self, _: What) {}
}

/// Where linkers look for the program, if nobody tells them otherwise.
#[unsafe(no_mangle)]
pub extern "C" fn _start() -> ! {
    let archive = || black_box::<&[u8]>(&[]);
    // SAFETY: the only use of the static, in a function that is entered once and never left.
    let memory = unsafe { &mut *(&raw mut MEMORY) };
    black_box(&task::run(archive(), [archive(), archive()], &mut memory.0, &Serial, &mut NoClock));
    stop()
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    stop()
}

fn stop() -> ! {
    loop {
        core::hint::spin_loop();
    }
}
