//! A pool of threads with a short fork and join. `std` only.
//!
//! Decoding one token of a small model takes some two hundred products of 20 to 100 µs, each a fork
//! and a join. A general pool that sleeps between jobs pays several microseconds for each; here
//! idle threads watch a counter for a while before they sleep.
//!
//! A job is a pointer to the caller's closure, published by raising `round` and held open while
//! there are tasks. Threads and caller take task numbers from `next`. A thread enters (`inside`)
//! before it looks whether the job is still open; the caller closes the job, then waits until
//! nobody is inside: so the closure outlives every use of it, and a thread that the system has put
//! aside is waited for only if it holds a task.

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::Executor;
use crate::error::{Error, Field};

type Task<'t> = dyn Fn(usize) + Sync + 't;

/// How often an idle thread looks for a job before it gives its core away, and before it sleeps.
const SPINS: usize = 4_000;
const YIELDS: usize = 200;

/// The most threads of a pool: sessions have no room for more.
pub(crate) const MOST: usize = 1024;

/// A pool of threads, of which the caller is one.
#[derive(Debug)]
pub struct Threads {
    shared: Arc<Shared>,
    /// One job at a time.
    busy: Mutex<()>,
    handles: Vec<JoinHandle<()>>,
}

struct Shared {
    /// Raised by every job.
    round: AtomicUsize,
    job: UnsafeCell<Option<(*const Task<'static>, usize)>>,
    /// The next task to take.
    next: AtomicUsize,
    /// The round whose job can be entered, or 0.
    open: AtomicUsize,
    /// Threads that may be using the job.
    inside: AtomicUsize,
    panicked: AtomicBool,
    stop: AtomicBool,
    /// How many threads sleep.
    asleep: Mutex<usize>,
    wake: Condvar,
}

// SAFETY: `job` is written only by the holder of `busy` while no job is open, and read only by
// threads that are inside and have seen the job open; closing it and then seeing nobody inside
// (both sequentially consistent) excludes them.
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `job` is to a Sync closure and used only while its owner waits.
unsafe impl Send for Shared {}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("round", &self.round).finish_non_exhaustive()
    }
}

impl Threads {
    /// A pool of so many threads, the caller's included; 0 means one per core.
    ///
    /// # Errors
    /// What the operating system said when a thread could not be started; more than 1024 threads,
    /// before any is.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let threads = match threads {
            0 => std::thread::available_parallelism()?.get().min(MOST),
            found if found > MOST => {
                let error = Error::Limit { field: Field::Threads, found, most: MOST };
                return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, error));
            }
            threads => threads,
        };
        let shared = Arc::new(Shared {
            round: AtomicUsize::new(0),
            job: UnsafeCell::new(None),
            next: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            inside: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            asleep: Mutex::new(0),
            wake: Condvar::new(),
        });
        let mut pool = Self { shared, busy: Mutex::new(()), handles: Vec::new() };
        for _ in 1..threads {
            let shared = Arc::clone(&pool.shared);
            pool.handles.push(
                std::thread::Builder::new().name("lowrank".into()).spawn(move || shared.serve())?,
            );
        }
        Ok(pool)
    }
}

// SAFETY: `next` hands out every number once (or the caller takes all), and `run` waits until
// nobody is inside.
unsafe impl Executor for Threads {
    fn threads(&self) -> usize {
        self.handles.len() + 1
    }

    fn run(&self, tasks: usize, task: &Task<'_>) {
        // A pool that is busy (a task that forks, another session) is no reason to wait: the caller
        // does it alone.
        let guard =
            if tasks > 1 && !self.handles.is_empty() { self.busy.try_lock().ok() } else { None };
        let Some(guard) = guard else { return (0..tasks).for_each(task) };
        let shared = &*self.shared;
        shared.next.store(0, Ordering::Relaxed);
        // SAFETY: only the lifetime is erased; this function does not return while a thread is
        // inside.
        let erased = unsafe { std::mem::transmute::<*const Task<'_>, *const Task<'static>>(task) };
        // SAFETY: `busy` is held and no job is open: nobody else looks at it.
        unsafe { *shared.job.get() = Some((erased, tasks)) };
        let round = shared.round.load(Ordering::Relaxed) + 1;
        shared.open.store(round, Ordering::SeqCst);
        shared.round.store(round, Ordering::Release);
        if *shared.asleep.lock().unwrap_or_else(PoisonError::into_inner) > 0 {
            shared.wake.notify_all();
        }
        let own = catch_unwind(AssertUnwindSafe(|| shared.take_tasks(tasks, task)));
        shared.open.store(0, Ordering::SeqCst);
        let mut looks = 0;
        while shared.inside.load(Ordering::SeqCst) > 0 {
            looks += 1;
            if looks < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        let panicked = shared.panicked.swap(false, Ordering::Relaxed);
        drop(guard);
        if let Err(payload) = own {
            std::panic::resume_unwind(payload);
        }
        assert!(!panicked, "a task panicked on another thread");
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.round.fetch_add(1, Ordering::Release);
        // Taking the lock once: a thread is either before its look at `round` or asleep.
        drop(self.shared.asleep.lock());
        self.shared.wake.notify_all();
        for handle in self.handles.drain(..) {
            let _ = handle.join();
        }
    }
}

impl Shared {
    /// The life of a pool thread.
    fn serve(&self) {
        let mut seen = 0;
        loop {
            seen = self.wait(seen);
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            self.inside.fetch_add(1, Ordering::SeqCst);
            if self.open.load(Ordering::SeqCst) == seen {
                self.join_in();
            }
            self.inside.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Works on the open job; the caller is inside.
    fn join_in(&self) {
        // SAFETY: the job was written before it was opened, and this thread is inside.
        if let Some((task, tasks)) = unsafe { *self.job.get() } {
            // SAFETY: the closure lives while a thread is inside.
            let task = unsafe { &*task };
            if catch_unwind(AssertUnwindSafe(|| self.take_tasks(tasks, task))).is_err() {
                self.panicked.store(true, Ordering::Relaxed);
            }
        }
    }

    fn take_tasks(&self, tasks: usize, task: &Task<'_>) {
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index >= tasks {
                return;
            }
            task(index);
        }
    }

    /// Waits until `round` is no longer `seen`: watching, then giving the core away, then asleep.
    fn wait(&self, seen: usize) -> usize {
        for look in 0..SPINS + YIELDS {
            let round = self.round.load(Ordering::Acquire);
            if round != seen {
                return round;
            }
            if look < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        let mut asleep = self.asleep.lock().unwrap_or_else(PoisonError::into_inner);
        *asleep += 1;
        // `round` is raised before `asleep` is read, and read here after it was raised: no job is
        // missed.
        let mut round = self.round.load(Ordering::Acquire);
        while round == seen {
            asleep = self.wake.wait(asleep).unwrap_or_else(PoisonError::into_inner);
            round = self.round.load(Ordering::Acquire);
        }
        *asleep -= 1;
        round
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_whatever_the_pool_is_doing() {
        let pool = Threads::new(4).unwrap();
        for round in 0..2_000 {
            let tasks = round % 9;
            let counts: [AtomicUsize; 9] = Default::default();
            pool.run(tasks, &|i| {
                counts[i].fetch_add(1, Ordering::Relaxed);
                // A task that forks again is done by its own thread.
                pool.run(2, &|_| {});
            });
            let expected: Vec<_> = (0..9).map(|i| usize::from(i < tasks)).collect();
            assert_eq!(counts.map(AtomicUsize::into_inner).to_vec(), expected);
            if round % 500 == 0 {
                // Long enough for the threads to fall asleep.
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
        let pool = Threads::new(3).unwrap();
        for _ in 0..20 {
            let caught =
                catch_unwind(AssertUnwindSafe(|| pool.run(8, &|i| assert!(i != 5, "task five"))));
            assert!(caught.is_err());
            let done = AtomicUsize::new(0);
            pool.run(8, &|_| _ = done.fetch_add(1, Ordering::Relaxed));
            assert_eq!(done.into_inner(), 8);
        }
    }

    #[test]
    fn two_callers_share_a_pool() {
        let pool = Threads::new(2).unwrap();
        let done = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    (0..500)
                        .for_each(|_| pool.run(3, &|_| _ = done.fetch_add(1, Ordering::Relaxed)))
                });
            }
        });
        assert_eq!(done.into_inner(), 4_500);
    }
}
