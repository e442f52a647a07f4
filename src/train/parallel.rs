//! Sharing work among lanes: items that own what they write, each handled once by some lane.
//!
//! Which lane takes an item never changes a result: items write only what they own, and nobody adds
//! up across items here.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::pool::{Floats, Pool};
use crate::kernel::{Kernels, kernels};
use crate::runtime::Executor;

/// What every operation of a training step runs on.
#[derive(Clone, Copy)]
pub(crate) struct Machine<'m> {
    pub(crate) kernels: &'static Kernels,
    pub(crate) executor: &'m dyn Executor,
    pool: &'m Arc<Pool>,
}

impl<'m> Machine<'m> {
    /// The best kernels of this CPU on the lanes of `executor`.
    pub(crate) fn new(executor: &'m dyn Executor, pool: &'m Arc<Pool>) -> Self {
        Self { kernels: kernels(), executor, pool }
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

    /// `x = 0`.
    pub(crate) fn clear(&self, x: &mut [f32]) {
        let share = self.share(x.len());
        self.each(x.chunks_mut(share), |part| part.fill(0.0));
    }

    /// A copy.
    pub(crate) fn copy(&self, x: &[f32]) -> Floats {
        let mut copy = self.unset(x.len());
        let share = self.share(x.len());
        self.each(copy.chunks_mut(share).zip(x.chunks(share)), |(copy, x)| copy.copy_from_slice(x));
        copy
    }

    pub(crate) fn lanes(&self) -> usize {
        self.executor.lanes().max(1)
    }

    /// [`each`] on these lanes.
    pub(crate) fn each<T: Send>(
        &self,
        items: impl IntoIterator<Item = T>,
        work: impl Fn(T) + Sync,
    ) {
        each(self.executor, items, work);
    }

    /// How many of `rows` rows make up one lane's part.
    pub(crate) fn share(&self, rows: usize) -> usize {
        rows.div_ceil(self.lanes()).max(1)
    }
}

/// `work(item)` for every item. A lane begins with its own part of them, the same part of the rows
/// in every operation, so that it finds in its caches what it wrote before; when it is done it
/// helps the others.
pub(crate) fn each<T: Send>(
    executor: &dyn Executor,
    items: impl IntoIterator<Item = T>,
    work: impl Fn(T) + Sync,
) {
    let items: Vec<Mutex<Option<T>>> =
        items.into_iter().map(|item| Mutex::new(Some(item))).collect();
    let lanes = executor.lanes().max(1).min(items.len());
    let start = |lane: usize| lane * items.len() / lanes;
    let next: Vec<AtomicUsize> = (0..lanes).map(|lane| AtomicUsize::new(start(lane))).collect();
    executor.run(lanes, &|lane| {
        for part in (lane..lanes).chain(0..lane) {
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
    use crate::runtime::{Serial, Threads};

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
        // The first item is not done before all others are, those of its own lane among them.
        Machine::new(&threads, &pool).each(0..10, |item| {
            while item == 0 && done.load(Ordering::Relaxed) < 9 {
                assert!(Instant::now() < deadline, "nobody does the items of the first lane");
                std::thread::yield_now();
            }
            done.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(done.into_inner(), 10);
    }
}
