//! Sharing work among lanes: items that own what they write, each handled once by some lane.
//!
//! Which lane takes an item never changes a result: items write only what they own, and nobody adds up across items here.

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
        let share = self.share(len);
        self.each(zeros.chunks_mut(share), |part| part.fill(0.0));
        zeros
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

    /// `work(item)` for every item.
    pub(crate) fn each<T: Send>(&self, items: impl IntoIterator<Item = T>, work: impl Fn(T) + Sync) {
        let items: Vec<Mutex<Option<T>>> = items.into_iter().map(|item| Mutex::new(Some(item))).collect();
        self.executor.run(items.len(), &|index| {
            let item = items[index].lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(item) = item {
                work(item);
            }
        });
    }

    /// How many of `rows` rows make up one lane's part.
    pub(crate) fn share(&self, rows: usize) -> usize {
        rows.div_ceil(self.lanes()).max(1)
    }
}
