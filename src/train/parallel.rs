//! Sharing work among lanes: items that own what they write, each handled once by some lane.
//!
//! Which lane takes an item never changes a result: items write only what they own, and nobody adds up across items here.

use std::sync::{Mutex, PoisonError};

use crate::kernel::{Kernels, kernels};
use crate::runtime::Executor;

/// What every operation of a training step runs on.
#[derive(Clone, Copy)]
pub(crate) struct Machine<'m> {
    pub(crate) kernels: &'static Kernels,
    pub(crate) executor: &'m dyn Executor,
}

impl<'m> Machine<'m> {
    /// The best kernels of this CPU on the lanes of `executor`.
    pub(crate) fn new(executor: &'m dyn Executor) -> Self {
        Self { kernels: kernels(), executor }
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
