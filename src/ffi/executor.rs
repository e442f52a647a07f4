//! Lanes on the caller's threads: the executor callback.
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
    fn lanes(&self) -> usize {
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
        // SAFETY: the callback is the caller's, with the context it came with; the job outlives it.
        unsafe { run(self.0.context, tasks, Some(work), (&raw const job).cast_mut().cast()) };
        while job.take() {}
        while job.inside.load(Ordering::SeqCst) > 0 {
            core::hint::spin_loop();
        }
        assert!(!job.panicked.load(Ordering::Relaxed), "a lane panicked on another thread");
    }

    /// Without atomic read-modify-write nobody could take parts safely.
    #[cfg(not(target_has_atomic = "ptr"))]
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        (0..tasks).for_each(task);
    }
}
