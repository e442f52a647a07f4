//! What training runs on: buffers, and workers that share the items of an operation.
//!
//! The device computes, or it does not: on the meta device buffers have lengths and no storage,
//! operations return at once, and what is left of a step is its account of memory. So the code of a
//! step tells what it will take. Numbers are read and written inside [`Machine::each`] and
//! [`Machine::compute`] only; what an operation allocates beside the machine's buffers it says in
//! [`Machine::temporary`].
//!
//! Which worker takes an item never changes a result: items write only what they own, and nobody
//! adds up across items here.

mod card;
mod meta;
mod pool;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

pub(crate) use card::Card;
pub(crate) use meta::Held;
pub(crate) use pool::{Floats, LINE, Pool, line};

use crate::kernel::{Kernels, kernels};
use crate::runtime::{Executor, Serial};

/// What every operation of a training step runs on.
#[derive(Clone, Copy)]
pub(crate) struct Machine<'m> {
    pub(crate) kernels: &'static Kernels,
    pub(crate) executor: &'m dyn Executor,
    workers: usize,
    pool: &'m Arc<Pool>,
    /// What has taken over the products with frozen weights, if something has.
    card: Option<&'m dyn Card>,
}

impl<'m> Machine<'m> {
    /// The best kernels of this CPU on the workers of `executor`.
    pub(crate) fn new(executor: &'m dyn Executor, pool: &'m Arc<Pool>) -> Self {
        Self { kernels: kernels(), executor, workers: executor.threads().max(1), pool, card: None }
    }

    /// The meta device, as if it had `workers`; `pool` is one of [`Pool::meta`].
    pub(crate) fn meta(workers: usize, pool: &'m Arc<Pool>) -> Self {
        Self { kernels: kernels(), executor: &Serial, workers: workers.max(1), pool, card: None }
    }

    /// This one, with products on a card if there is one.
    pub(crate) fn with_card(self, card: Option<&'m dyn Card>) -> Self {
        Self { card, ..self }
    }

    /// The card, if the layer at a site is there.
    pub(crate) fn card(&self, site: u32) -> Option<&'m dyn Card> {
        self.card.filter(|card| card.has(site))
    }

    pub(crate) fn is_meta(&self) -> bool {
        self.pool.is_meta()
    }

    /// Work on numbers; none on the meta device.
    pub(crate) fn compute(&self, work: impl FnOnce()) {
        if !self.is_meta() {
            work();
        }
    }

    /// Accounts for bytes of something that lives as long as what is returned.
    #[must_use]
    pub(crate) fn hold(&self, bytes: usize) -> Held {
        self.pool.hold(bytes)
    }

    /// Accounts for bytes that an operation allocates and frees.
    pub(crate) fn temporary(&self, bytes: usize) {
        drop(self.hold(bytes));
    }

    /// What follows is about a batch of `rows` rows.
    pub(crate) fn begin(&self, rows: usize) {
        self.pool.begin(rows);
    }

    /// Gives the buffers that nobody uses back to the system.
    pub(crate) fn trim(&self) {
        self.pool.clear();
    }

    /// `len` numbers of any value, to be written.
    pub(crate) fn unset(&self, len: usize) -> Floats {
        self.pool.take(len)
    }

    /// `len` zeros, to be added to.
    pub(crate) fn zeros(&self, len: usize) -> Floats {
        let mut zeros = self.unset(len);
        self.clear(&mut zeros);
        zeros
    }

    /// `len` zeros of their own: of what has no row for every row of the batch, or is used once.
    pub(crate) fn alone(&self, len: usize) -> Floats {
        self.pool.alone(len)
    }

    /// `x = 0`.
    pub(crate) fn clear(&self, x: &mut [f32]) {
        let share = self.share(x.len());
        self.each(x.chunks_mut(share), |part| part.fill(0.0));
    }

    /// A copy.
    pub(crate) fn copy(&self, x: &[f32]) -> Floats {
        let mut copy = self.unset(x.len());
        self.assign(&mut copy, x);
        copy
    }

    /// `y = x`.
    pub(crate) fn assign(&self, y: &mut [f32], x: &[f32]) {
        let share = self.share(y.len());
        self.each(y.chunks_mut(share).zip(x.chunks(share)), |(y, x)| y.copy_from_slice(x));
    }

    pub(crate) fn threads(&self) -> usize {
        self.workers
    }

    /// [`each`] on these workers; nothing on the meta device.
    pub(crate) fn each<T: Send>(
        &self,
        items: impl IntoIterator<Item = T>,
        work: impl Fn(T) + Sync,
    ) {
        self.compute(|| each(self.executor, items, work));
    }

    /// How many of `rows` rows make up one worker's part.
    pub(crate) fn share(&self, rows: usize) -> usize {
        rows.div_ceil(self.threads()).max(1)
    }

    /// Workers that have a part of `rows` rows.
    pub(crate) fn busy(&self, rows: usize) -> usize {
        self.threads().min(rows)
    }
}

/// `work(item)` for every item. A worker begins with its own part of them, the same part of the rows
/// in every operation, so that it finds in its caches what it wrote before; when it is done it
/// helps the others.
pub(crate) fn each<T: Send>(
    executor: &dyn Executor,
    items: impl IntoIterator<Item = T>,
    work: impl Fn(T) + Sync,
) {
    let items: Vec<Mutex<Option<T>>> =
        items.into_iter().map(|item| Mutex::new(Some(item))).collect();
    let threads = executor.threads().max(1).min(items.len());
    let start = |worker: usize| worker * items.len() / threads;
    let next: Vec<AtomicUsize> =
        (0..threads).map(|worker| AtomicUsize::new(start(worker))).collect();
    executor.run(threads, &|worker| {
        for part in (worker..threads).chain(0..worker) {
            loop {
                let index = next[part].fetch_add(1, Ordering::Relaxed);
                if index >= start(part + 1) {
                    break;
                }
                if let Some(item) =
                    items[index].lock().unwrap_or_else(PoisonError::into_inner).take()
                {
                    work(item);
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::runtime::Threads;

    #[test]
    fn every_item_is_handled_once() {
        let (pool, threads) = (Arc::new(Pool::default()), Threads::new(3).unwrap());
        let executors: [&dyn Executor; 2] = [&Serial, &threads];
        for executor in executors {
            for count in [0, 1, 2, 3, 7, 64] {
                let mut items = vec![0; count];
                Machine::new(executor, &pool).each(&mut items, |item| *item += 1);
                assert_eq!(items, vec![1; count]);
            }
        }
    }

    #[test]
    fn a_lane_that_is_held_up_is_helped() {
        let (pool, threads, done) =
            (Arc::new(Pool::default()), Threads::new(2).unwrap(), AtomicUsize::new(0));
        let deadline = Instant::now() + Duration::from_secs(60);
        // The first item is not done before all others are, those of its own worker among them.
        Machine::new(&threads, &pool).each(0..10, |item| {
            while item == 0 && done.load(Ordering::Relaxed) < 9 {
                assert!(Instant::now() < deadline, "nobody does the items of the first worker");
                std::thread::yield_now();
            }
            done.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(done.into_inner(), 10);
    }
}
