//! What every pass of a session runs on, whatever the model: kernels, an executor, and how work and
//! adapters are counted out.

use super::{Pass, Segment};
use crate::adapter::Handle;
use crate::exec::Executor;
use crate::kernel::{Kernels, kernels};

/// Kernels, an executor, and how work and adapters are counted out.
#[derive(Clone, Copy)]
pub(crate) struct Engine<'w> {
    pub(crate) kernels: &'static Kernels,
    executor: &'w dyn Executor,
    threads: usize,
    max_active: usize,
}

impl<'w> Engine<'w> {
    /// The best kernels of this CPU, on so many threads of `executor`.
    pub(crate) fn new(executor: &'w dyn Executor, threads: usize, max_active: usize) -> Self {
        Self { kernels: kernels(), executor, threads, max_active }
    }

    /// A pass over the rows of `segments`; `active` are the adapters of all sequences, `[batch,
    /// max_active]`.
    pub(crate) fn pass<'p, 'a>(
        &self,
        segments: &'p [Segment],
        active: &'p [Handle<'a>],
    ) -> Pass<'p, 'a>
    where
        'w: 'p,
    {
        let Self { kernels, executor, threads, max_active } = *self;
        let mut pass = Pass {
            kernels,
            executor,
            threads,
            segments,
            active,
            max_active,
            has_factors: false,
            has_scales: false,
        };
        for active in active.iter().flatten() {
            let is_ia3 = active.adapter.is_ia3();
            pass.has_factors |= !is_ia3;
            pass.has_scales |= is_ia3;
        }
        pass
    }
}
