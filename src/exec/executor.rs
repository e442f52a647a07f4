//! Who runs the tasks of a product: one after the other here, threads with `std`, whatever the
//! caller brings.
//!
//! Work is split the same way whoever runs it, so results do not depend on the executor.

/// Runs independent tasks.
///
/// # Safety
/// [`run`](Executor::run) calls no task twice, and returns only when every task that it called has
/// returned: tasks write, without locks, to parts of the output that their numbers tell apart. What
/// an implementation does beside that is its own affair; it may call them in any order, on any
/// threads.
pub unsafe trait Executor: Sync {
    /// How many tasks can run at the same time; what [`Limits::threads`](crate::runtime::Limits) should be.
    fn threads(&self) -> usize;

    /// Calls `task(0)` to `task(tasks − 1)`, each once, and returns when all have returned.
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync));
}

/// One task after the other, on the caller's thread.
#[derive(Debug, Clone, Copy, Default)]
pub struct Serial;

// SAFETY: every number of the range comes once, and a call has returned before the next.
unsafe impl Executor for Serial {
    fn threads(&self) -> usize {
        1
    }

    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        (0..tasks).for_each(task);
    }
}
