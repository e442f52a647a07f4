//! Work on the caller's threads: the executor callback.
//!
//! A callback that goes wrong must not make two threads write the same rows. So it is not told
//! which part to compute: every call of `task` takes the next part that nobody has, and when the
//! callback has returned, what is left is computed by the thread that made the call.

use core::ffi::c_void;
#[cfg(target_has_atomic = "ptr")]
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::runtime::Executor;

/// A part of the work: takes the next part that nobody has, computes it, and returns. From any
/// thread, also several at once.
pub type lowrank_task = Option<unsafe extern "C" fn(argument: *mut c_void)>;

/// Threads or tasks of the caller that share the work of a session.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lowrank_executor {
    /// Calls `task(argument)` `tasks` times, on any threads, and returns when all of these calls
    /// have returned. `context` is the one beside it. Null: the calling thread does
    /// everything. It is called many times for each token, so waking threads should be
    /// cheap. It must not use the session that it works for.
    pub run: Option<
        unsafe extern "C" fn(
            context: *mut c_void,
            tasks: usize,
            task: lowrank_task,
            argument: *mut c_void,
        ),
    >,
    /// Handed to `run`.
    pub context: *mut c_void,
}

impl lowrank_executor {
    /// The calling thread does everything.
    pub(super) const SERIAL: Self = Self { run: None, context: core::ptr::null_mut() };
}

/// An executor that calls back.
#[derive(Debug)]
pub(super) struct Callback(pub(super) lowrank_executor);

// SAFETY: the context is never looked at here, only handed back; `run` is documented to be called
// by the session's thread.
unsafe impl Sync for Callback {}

#[cfg(target_has_atomic = "ptr")]
struct Job<'t> {
    task: &'t (dyn Fn(usize) + Sync),
    tasks: usize,
    next: AtomicUsize,
    /// Calls that are running.
    inside: AtomicUsize,
    panicked: AtomicBool,
}

#[cfg(target_has_atomic = "ptr")]
impl Job<'_> {
    /// Computes the next part; false if there is none.
    fn take(&self) -> bool {
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        if index < self.tasks {
            (self.task)(index);
        }
        index < self.tasks
    }
}

/// Waits, when it goes, until nobody is inside the job.
#[cfg(target_has_atomic = "ptr")]
struct Wait<'j, 't>(&'j Job<'t>);

#[cfg(target_has_atomic = "ptr")]
impl Drop for Wait<'_, '_> {
    fn drop(&mut self) {
        while self.0.inside.load(Ordering::SeqCst) > 0 {
            core::hint::spin_loop();
        }
    }
}

#[cfg(target_has_atomic = "ptr")]
unsafe extern "C" fn work(argument: *mut c_void) {
    // SAFETY: `argument` is the job of a `run` that has not returned: it waits until nobody is
    // inside.
    let Some(job) = (unsafe { argument.cast::<Job<'_>>().as_ref() }) else { return };
    job.inside.fetch_add(1, Ordering::SeqCst);
    #[cfg(feature = "std")]
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| job.take())).is_err() {
        job.panicked.store(true, Ordering::Relaxed);
    }
    #[cfg(not(feature = "std"))]
    job.take();
    job.inside.fetch_sub(1, Ordering::SeqCst);
}

// SAFETY: `Job::take` hands out every number once, however often `work` is called, and `run` waits
// until nobody is inside.
unsafe impl Executor for Callback {
    /// Not known here: `lowrank_limits` says into how many parts the work is split.
    fn threads(&self) -> usize {
        1
    }

    #[cfg(target_has_atomic = "ptr")]
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        let (Some(run), true) = (self.0.run, tasks > 1) else { return (0..tasks).for_each(task) };
        let job = Job {
            task,
            tasks,
            next: AtomicUsize::new(0),
            inside: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
        };
        // Waits also when a part that this thread computes panics: the job is on its stack.
        let wait = Wait(&job);
        // SAFETY: the callback is the caller's, with the context it came with; the job outlives it.
        unsafe { run(self.0.context, tasks, Some(work), (&raw const job).cast_mut().cast()) };
        while job.take() {}
        drop(wait);
        assert!(!job.panicked.load(Ordering::Relaxed), "a task panicked on another thread");
    }

    /// Without atomic read-modify-write nobody could take parts safely.
    #[cfg(not(target_has_atomic = "ptr"))]
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        (0..tasks).for_each(task);
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::AtomicU32;

    use super::*;

    /// A second thread computes a part and is still at it when the callback returns.
    unsafe extern "C" fn one_elsewhere(
        context: *mut c_void,
        _: usize,
        task: lowrank_task,
        argument: *mut c_void,
    ) {
        struct Shared(*mut c_void);
        // SAFETY: the job may be used from any thread.
        unsafe impl Send for Shared {}
        let (argument, task) = (Shared(argument), task.unwrap());
        // SAFETY: the test's own number.
        let entered = unsafe { &*context.cast::<AtomicU32>() };
        std::thread::spawn(move || {
            let argument = argument;
            // SAFETY: the job waits while somebody is inside.
            unsafe { task(argument.0) };
        });
        while entered.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_panic_of_the_callers_part_waits_for_the_parts_of_others() {
        let (entered, left) = (AtomicU32::new(0), AtomicU32::new(0));
        let caller = std::thread::current().id();
        let context = (&raw const entered).cast_mut().cast();
        let callback = Callback(lowrank_executor { run: Some(one_elsewhere), context });
        let run = || {
            callback.run(2, &|_| {
                assert!(std::thread::current().id() != caller, "the caller's part");
                entered.store(1, Ordering::SeqCst);
                std::thread::sleep(std::time::Duration::from_millis(50));
                left.store(1, Ordering::SeqCst);
            });
        };
        assert!(catch_unwind(AssertUnwindSafe(run)).is_err());
        assert_eq!(left.load(Ordering::SeqCst), 1, "run returned while another thread was inside");
    }
}
