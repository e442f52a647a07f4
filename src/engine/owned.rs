//! A session that owns all it works with: base, memory, executor. For programs that keep one in a
//! structure of theirs, or hand it to a thread.

use std::fmt;
use std::sync::Arc;

use self_cell::{MutBorrow, self_cell};

use crate::adapter::Bytes;
use crate::error::Result;
use crate::exec::Executor;
use crate::model::llama::Llama;
use crate::runtime::{Limits, Memory, Session, need};

/// What a session borrows.
struct Parts {
    base: Bytes,
    memory: MutBorrow<Memory>,
    executor: Arc<dyn Executor + Send>,
}

type Running<'p> = Session<'p, 'p>;

self_cell!(
    struct Cell {
        owner: Parts,
        #[not_covariant]
        dependent: Running,
    }
);

/// A [`Session`] with what it borrows: `'static` and `Send`.
///
/// Adapters are chosen from a [`SharedSet`](crate::adapter::SharedSet), whose adapters own their
/// bytes.
///
/// ```
/// # fn main() -> Result<(), lowrank::Error> {
/// use lowrank::engine::OwnedSession;
/// use lowrank::runtime::{Limits, Sampler, Threads};
///
/// static BASE: &[u8] = lowrank::include_archive!(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/tiny.lrk"));
///
/// let threads = std::sync::Arc::new(Threads::new(2).expect("threads"));
/// let mut session = OwnedSession::open(BASE, threads, |model, executor| {
///     Limits { batch: 4, ..Limits::for_model(model, 128, executor) }
/// })?;
/// let worker = std::thread::spawn(move || {
///     session.with(|session| {
///         session.prefill(0, &[256, 68, 117, 99, 107])?; // begin, "Duck"
///         session.sample(0, &mut Sampler::greedy())
///     })
/// });
/// assert_eq!(worker.join().expect("no panic")?, u32::from(b' '));
/// # Ok(()) }
/// ```
pub struct OwnedSession(Cell);

impl fmt::Debug for OwnedSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.with_dependent(|_, session| f.debug_tuple("OwnedSession").field(session).finish())
    }
}

impl OwnedSession {
    /// Opens a decoder's archive and takes it over; `limits` says what the session must have room
    /// for, given the model and the executor. Who needs the base elsewhere too, to train on it or for
    /// its tokenizer, shares it: `Arc<ArchiveFile>` is such [`Bytes`].
    ///
    /// # Errors
    /// As [`Llama::open`], [`Memory::try_new`] and [`Session::new`].
    pub fn open(
        base: impl Into<Bytes>,
        executor: Arc<dyn Executor + Send>,
        limits: impl FnOnce(&Llama<'_>, &dyn Executor) -> Limits,
    ) -> Result<Self> {
        let base = base.into();
        let model = Llama::open(base.get())?;
        let limits = limits(&model, executor.as_ref());
        limits.check(model.config())?;
        let memory = MutBorrow::new(Memory::try_new(need(model.config(), &limits))?);
        let parts = Parts { base, memory, executor };
        Cell::try_new(parts, |parts| {
            let model = Llama::open(parts.base.get())?;
            Session::new(
                model,
                &limits,
                parts.memory.borrow_mut().as_mut(),
                parts.executor.as_ref(),
            )
        })
        .map(Self)
    }

    /// Works with the session.
    pub fn with<T>(&mut self, use_it: impl for<'p> FnOnce(&mut Session<'p, 'p>) -> T) -> T {
        self.0.with_dependent_mut(|_, session| use_it(session))
    }
}
