//! A Cortex-M4F image: opens and verifies a base and two adapters in flash, generates with the base, swaps to each adapter,
//! generates again, and compares every token with what the host computed.
//!
//! No heap, no `alloc`, no formatting. It prints what it wrote through semihosting and ends with status 0 only if every token agrees.
//! `run.sh` builds and runs it.
#![no_std]
#![no_main]

mod exit;
mod print;
mod stack;
#[path = "../../tiny/task.rs"]
mod task;

/// The host's tokens; made by `run.sh`.
mod expected {
    include!("../expected/tokens.rs");
}

use cortex_m::peripheral::SYST;
use cortex_m::peripheral::syst::SystClkSource;
use cortex_m_rt::entry;
use exit::exit;
use expected::EXPECTED;
use lowrank::include_archive;
use lowrank::runtime::{Serial, need};
use print::print;
use task::{CONFIG, COUNT, Clock, LIMITS, PROMPT, ROUNDS, What};

static BASE: &[u8] = include_archive!("../../../assets/tiny.lrk");
static ADAPTERS: [&[u8]; ROUNDS - 1] =
    [include_archive!("../../../assets/tiny-pirate.lrk"), include_archive!("../../../assets/tiny-notes.lrk")];
const NAMES: [&str; ROUNDS] = ["base", "pirate", "notes"];

/// Known when the program is compiled; one byte less would be an error.
const WORKSPACE: usize = need(&CONFIG, &LIMITS).bytes;

/// The workspace starts on a cache line, as sessions want it.
#[repr(align(64))]
struct Aligned([u8; WORKSPACE]);

#[entry]
fn main() -> ! {
    // `entry` runs once and lends its statics exclusively.
    static mut MEMORY: Aligned = Aligned([0; WORKSPACE]);
    let Some(peripherals) = cortex_m::Peripherals::take() else { exit(false) };
    let mut clock = SysTick::new(peripherals.SYST);
    print(&[&"SysTick: 400000 instructions take ", &clock.calibrate(), &" ticks"]);
    let passed = match task::run(BASE, ADAPTERS, &mut MEMORY.0, &Serial, &mut clock) {
        Ok(rounds) => compare(&rounds),
        Err(error) => {
            print(&[&"FAIL: error ", &error.code()]);
            false
        }
    };
    clock.report();
    print(&[&"workspace ", &(WORKSPACE as u32), &" bytes, static RAM ", &stack::static_bytes(), &" bytes with it"]);
    print(&[&"stack high-water mark ", &stack::high_water(), &" bytes"]);
    exit(passed)
}

/// Every round's text, and its tokens against the host's: they must be the same; whether the logits are too is said.
fn compare(rounds: &[task::Round; ROUNDS]) -> bool {
    let mut passed = true;
    for (i, ((tokens, bits), (expected, expected_bits))) in rounds.iter().zip(&EXPECTED).enumerate() {
        let same = tokens.iter().zip(expected).take_while(|(have, want)| have == want).count();
        let logits = if bits == expected_bits { "identical in every bit" } else { "different in some bits" };
        print(&[&"[", &NAMES[i], &"] ", &PROMPT, &text(tokens, &mut [0; COUNT])]);
        print(&[&"round ", &(i as u32), &": ", &(same as u32), &" of ", &(COUNT as u32), &" tokens as on the host, logits ", &logits]);
        passed &= same == COUNT;
    }
    passed
}

/// The bytes among the tokens up to the end of the text.
fn text<'t>(tokens: &[u32; COUNT], bytes: &'t mut [u8; COUNT]) -> &'t [u8] {
    let mut count = 0;
    for (byte, token) in bytes.iter_mut().zip(tokens) {
        let Ok(found) = u8::try_from(*token) else { break };
        *byte = found;
        count += 1;
    }
    bytes.get(..count).unwrap_or_default()
}

/// The processor's own timer: 24 bits that count down at its clock. (The cycle counter of the DWT does not count under QEMU.)
struct SysTick {
    timer: SYST,
    ticks: [u32; KINDS],
    counts: [u32; KINDS],
    most: [u32; KINDS],
}

const KINDS: usize = 6;
const KIND_NAMES: [&str; KINDS] = ["verify", "open base", "open adapter", "swap", "prefill", "token"];

impl SysTick {
    const RELOAD: u32 = 0x00ff_ffff;

    fn new(mut timer: SYST) -> Self {
        timer.set_clock_source(SystClkSource::Core);
        timer.set_reload(Self::RELOAD);
        timer.clear_current();
        timer.enable_counter();
        Self { timer, ticks: [0; KINDS], counts: [0; KINDS], most: [0; KINDS] }
    }

    /// The ticks of 400 002 instructions, so that ticks can be read as instructions: cortex-m's delay runs a loop of two
    /// instructions once more often than it is told.
    fn calibrate(&mut self) -> u32 {
        self.start();
        cortex_m::asm::delay(200_000);
        self.elapsed()
    }

    fn elapsed(&mut self) -> u32 {
        if self.timer.has_wrapped() { Self::RELOAD } else { Self::RELOAD.saturating_sub(SYST::get_current()) }
    }

    fn report(&self) {
        for (i, name) in KIND_NAMES.iter().enumerate() {
            let mean = self.ticks[i].checked_div(self.counts[i]).unwrap_or(0);
            print(&[&"SysTick: ", name, &" ", &mean, &" ticks (mean of ", &self.counts[i], &", most ", &self.most[i], &")"]);
        }
    }
}

impl Clock for SysTick {
    fn start(&mut self) {
        // Writing any value clears the counter and its wrap flag; it reloads at the next tick.
        self.timer.clear_current();
    }

    fn stop(&mut self, what: What) {
        let ticks = self.elapsed();
        let kind = what as usize;
        self.ticks[kind] = self.ticks[kind].saturating_add(ticks);
        self.counts[kind] += 1;
        self.most[kind] = self.most[kind].max(ticks);
    }
}
