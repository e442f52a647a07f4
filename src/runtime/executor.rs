//! Who runs the lanes of a product: one after the other here, threads with `std`, whatever the caller brings.
//!
//! Work is split the same way whoever runs it, so results do not depend on the executor.

/// Runs independent tasks.
pub trait Executor: Sync {
    /// How many tasks can run at the same time; what [`Limits::lanes`](super::Limits) should be.
    fn lanes(&self) -> usize;

    /// Calls `task(0)` to `task(tasks − 1)`, each once, in any order, and returns when all have returned.
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync));
}

/// One task after the other, on the caller's thread.
#[derive(Debug, Clone, Copy, Default)]
pub struct Serial;

impl Executor for Serial {
    fn lanes(&self) -> usize {
        1
    }

    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        (0..tasks).for_each(task);
    }
}

#[cfg(feature = "std")]
pub use threads::Threads;

#[cfg(feature = "std")]
mod threads {
    use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};

    use super::Executor;

    /// A pool of threads.
    #[derive(Debug)]
    pub struct Threads {
        pool: rayon::ThreadPool,
    }

    impl Threads {
        /// A pool of `lanes` threads; 0 means one per core.
        ///
        /// # Errors
        /// What the operating system said when a thread could not be started.
        pub fn new(lanes: usize) -> std::io::Result<Self> {
            let builder = rayon::ThreadPoolBuilder::new().num_threads(lanes);
            builder.build().map(|pool| Self { pool }).map_err(std::io::Error::other)
        }
    }

    impl Executor for Threads {
        fn lanes(&self) -> usize {
            self.pool.current_num_threads()
        }

        fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
            if tasks == 1 {
                return task(0);
            }
            self.pool.install(|| (0..tasks).into_par_iter().with_max_len(1).for_each(task));
        }
    }
}
