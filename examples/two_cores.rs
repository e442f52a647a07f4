//! An executor for two cores, as one writes it for a microcontroller with a second core (RP2040,
//! RP2350, …): the page to read for that.
//!
//! Core 1 waits at a mailbox in static memory. `run` on core 0 posts a job there, both compute
//! their parts, core 0 waits for core 1. No heap, no locks, no interrupts. Parts are dealt out
//! beforehand (the odd ones to core 1) and the mailbox is loads and stores of words, so it works on
//! cores without compare-and-swap, such as the RP2040's. Results do not depend on who computes
//! what.
//!
//! [`TwoCores`] and what it is made of are `no_std`; the rest is the host, where a thread stands
//! for core 1 and runs the same code: `cargo run --release --example two_cores -- base.lrk` prints
//! the tokens and whether they are those of one core.

use core::cell::Cell;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};

use lowrank::Error;
use lowrank::model::llama::Llama;
use lowrank::runtime::{Executor, Limits, Sampler, Session};

/// What `run` was asked for, on core 0's stack while it waits.
struct Job<'t> {
    task: &'t (dyn Fn(usize) + Sync),
    tasks: usize,
}

impl Job<'_> {
    /// Computes the parts of a core: 0 the even ones, 1 the odd ones.
    fn compute(&self, core: usize) {
        (core..self.tasks).step_by(2).for_each(self.task);
    }
}

/// Where core 0 leaves jobs for core 1. Every word has one core that writes it.
#[derive(Debug)]
pub struct TwoCores {
    /// Core 0: the job. Valid from the moment `posted` counts it until `done` does.
    job: AtomicPtr<Job<'static>>,
    /// Core 0: jobs posted.
    posted: AtomicU32,
    /// Core 1: jobs done.
    done: AtomicU32,
    /// Core 1: a part panicked (only where panics unwind).
    lost: AtomicBool,
    /// Core 0: `run` is running.
    busy: AtomicBool,
    /// What a core does while it waits: on a device `wfe` (and [`wake`](Self::wake) is `sev`), on
    /// the host it lets others run.
    wait: fn(),
    /// Wakes the other core.
    wake: fn(),
}

impl TwoCores {
    /// A mailbox, for a `static`. `wait` may return at any time.
    pub const fn new(wait: fn(), wake: fn()) -> Self {
        Self {
            job: AtomicPtr::new(core::ptr::null_mut()),
            posted: AtomicU32::new(0),
            done: AtomicU32::new(0),
            lost: AtomicBool::new(false),
            busy: AtomicBool::new(false),
            wait,
            wake,
        }
    }

    /// Core 1: the next job, if there is one.
    fn serve_one(&self) -> bool {
        let posted = self.posted.load(Ordering::Acquire);
        if posted == self.done.load(Ordering::Relaxed) {
            return false;
        }
        // Counts the job as done when it is dropped, also by a panic: core 0 must not wait forever.
        let answer = Answer { mailbox: self, posted, whole: Cell::new(false) };
        // SAFETY: core 0 stored the pointer before it counted the job in `posted`, and keeps the
        // job until `done` counts it.
        let job = unsafe { &*self.job.load(Ordering::Relaxed) };
        job.compute(1);
        answer.whole.set(true);
        true
    }

    /// What core 1 runs for good; `main` of the second core.
    pub fn serve(&self) -> ! {
        loop {
            if !self.serve_one() {
                (self.wait)();
            }
        }
    }

    /// Core 0 alone may post. True if nobody else is: another task of core 0 (or, on the host,
    /// another thread).
    fn claim(&self) -> bool {
        // Where there is no swap, core 0's tasks must not call `run` in the middle of each other;
        // elsewhere the second one is told.
        #[cfg(target_has_atomic = "8")]
        {
            !self.busy.swap(true, Ordering::Acquire)
        }
        #[cfg(not(target_has_atomic = "8"))]
        {
            let free = !self.busy.load(Ordering::Acquire);
            self.busy.store(true, Ordering::Relaxed);
            free
        }
    }
}

struct Answer<'m> {
    mailbox: &'m TwoCores,
    posted: u32,
    whole: Cell<bool>,
}

impl Drop for Answer<'_> {
    fn drop(&mut self) {
        if !self.whole.get() {
            self.mailbox.lost.store(true, Ordering::Relaxed);
        }
        self.mailbox.done.store(self.posted, Ordering::Release);
        (self.mailbox.wake)();
    }
}

/// Waits for core 1 when it is dropped, also by a panic of core 0's own part: the job lies on core
/// 0's stack.
struct Posted<'m>(&'m TwoCores, u32);

impl Drop for Posted<'_> {
    fn drop(&mut self) {
        while self.0.done.load(Ordering::Acquire) != self.1 {
            (self.0.wait)();
        }
        self.0.busy.store(false, Ordering::Release);
    }
}

// SAFETY: every core computes the numbers that are its own, core 0 all of them where it is alone,
// and `Posted` waits for core 1.
unsafe impl Executor for TwoCores {
    fn threads(&self) -> usize {
        2
    }

    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        // A single part, or core 1 busy with another task's job: core 0 does everything.
        if tasks < 2 || self.lost.load(Ordering::Relaxed) || !self.claim() {
            return (0..tasks).for_each(task);
        }
        let job = Job { task, tasks };
        self.job.store((&raw const job).cast_mut().cast(), Ordering::Relaxed);
        let posted = self.posted.load(Ordering::Relaxed).wrapping_add(1);
        self.posted.store(posted, Ordering::Release);
        (self.wake)();
        let waiting = Posted(self, posted);
        job.compute(0);
        drop(waiting);
        assert!(!self.lost.load(Ordering::Relaxed), "core 1 panicked");
    }
}

/// Generates greedily in memory of the caller.
pub fn generate(
    model: Llama<'_>,
    executor: &dyn Executor,
    memory: &mut [u8],
    limits: &Limits,
    prompt: &[u32],
    written: &mut [u32],
) -> Result<(), Error> {
    let mut session = Session::new(model, limits, memory, executor)?;
    let mut sampler = Sampler::greedy();
    session.prefill(0, prompt)?;
    for token in written {
        *token = session.sample(0, &mut sampler)?;
        session.step(&[(0, *token)])?;
    }
    Ok(())
}

/// On a device: `TwoCores::new(cortex_m::asm::wfe, cortex_m::asm::sev)`.
pub static CORES: TwoCores = TwoCores::new(std::thread::yield_now, || ());

#[allow(dead_code, reason = "the test of this page has a main of its own")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    use lowrank::archive::ArchiveFile;
    use lowrank::runtime::{Memory, Serial, need};

    let path = std::env::args().nth(1).ok_or("usage: two_cores BASE.lrk")?;
    let file = ArchiveFile::open(&path)?;
    let model = Llama::open(&file)?;
    // On a device: start core 1 with a stack of its own, at `|| CORES.serve()`. The host ends it
    // with the process.
    std::thread::spawn(|| CORES.serve());

    let limits = Limits { threads: CORES.threads(), ..Limits::new(64) };
    let mut memory = Memory::new(need(model.config(), &limits));
    let (mut one, mut two) = ([0; 32], [0; 32]);
    generate(model, &Serial, memory.as_mut(), &limits, &[1, 2, 3, 4], &mut one)?;
    generate(model, &CORES, memory.as_mut(), &limits, &[1, 2, 3, 4], &mut two)?;
    println!("{two:?}");
    if one != two {
        return Err("two cores give other tokens than one".into());
    }
    println!("the tokens of one core");
    Ok(())
}
