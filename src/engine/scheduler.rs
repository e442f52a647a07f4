//! Many requests at once: one thread owns a session of several sequences and answers whoever asks,
//! each under its own adapters, in shared passes.
//!
//! A request waits until a sequence is free. The one is taken that has most of its prompt read
//! already, under the same adapters; what a sequence beside it has read is copied. A pass takes one
//! token of every reply that is being written and some tokens of the prompts that are being read.
//!
//! What a request gets does not depend on who its neighbours are, nor on what of its prompt was read
//! before. That there are no neighbours changes the last bits: a product with one vector adds in
//! another order than one with several. With
//! [`Precision::Exact`](crate::kernel::Precision::Exact) no text was seen to change by it; with
//! `Fast`, which rounds activations, a greedy reply can take another turn.

mod batch;

use std::fmt;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::{End, OwnedSession, ReplyError};
use crate::adapter::{Bytes, SharedAdapter};
use crate::archive::Fingerprint;
use crate::exec::Executor;
use crate::model::llama::Llama;
use crate::runtime::{Limits, SamplerOptions};
use crate::text::Tokenizer;

/// A request: what to continue, how, and who is told.
pub struct Job {
    /// The prompt, one token at least.
    pub prompt: Vec<u32>,
    /// Adapters with their weights; their contributions add up. They are held until the reply has
    /// ended: what takes their place meanwhile does not touch it.
    pub adapters: Vec<(Arc<SharedAdapter>, f32)>,
    /// The most tokens of the reply.
    pub tokens: usize,
    /// Texts that end the reply and are no part of it.
    pub stops: Vec<String>,
    /// How tokens are chosen.
    pub sampling: SamplerOptions,
    /// Who is told what comes of it.
    pub listener: Box<dyn Listener>,
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("prompt", &self.prompt).finish_non_exhaustive()
    }
}

/// Is told what comes of a job, on the scheduler's thread: it must not wait. A closure that takes an
/// [`Event`] is one.
pub trait Listener: Send {
    /// Hears an event. Breaking off ends the job, and nothing more is told.
    fn hear(&mut self, event: Event) -> ControlFlow<()>;

    /// Does nobody wait for this job any more? It ends then, be it still in the queue, and nothing
    /// more is told.
    fn is_gone(&self) -> bool {
        false
    }
}

impl<F: FnMut(Event) -> ControlFlow<()> + Send> Listener for F {
    fn hear(&mut self, event: Event) -> ControlFlow<()> {
        self(event)
    }
}

/// What happens to a job, in this order; `Ended` or `Failed` is the last.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// It has a sequence; so many tokens of its prompt need not be read.
    Started {
        /// Tokens that were read before, for this request or another under the same adapters.
        known: usize,
    },
    /// Text that is finished; the rest of a character or of a possible stop text still waits.
    Text(String),
    /// The reply is whole.
    Ended {
        /// Why.
        end: End,
        /// How many tokens it has.
        tokens: usize,
    },
    /// There is no (more of a) reply.
    Failed(ReplyError),
}

/// Why a job was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Busy {
    /// As many jobs wait as may.
    Full {
        /// So many.
        waiting: usize,
    },
    /// More jobs at once than run and wait together at most: they will never be taken.
    TooMany {
        /// So many.
        asked: usize,
        /// The most.
        most: usize,
    },
    /// The scheduler takes no more jobs.
    Ending,
}

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full { waiting } => {
                write!(f, "{waiting} requests are waiting, no more may: try again later")
            }
            Self::TooMany { asked, most } => write!(
                f,
                "{asked} replies are asked for at once, at most {most} run and wait together: ask \
                 for fewer"
            ),
            Self::Ending => f.write_str("no more requests are taken: the program is about to end"),
        }
    }
}

impl std::error::Error for Busy {}

/// How much there is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// Jobs that have a sequence.
    pub running: usize,
    /// Jobs that wait for one.
    pub waiting: usize,
    /// Tokens of the running jobs in the cache of keys and values.
    pub cached: usize,
    /// Tokens that the cache has room for.
    pub room: usize,
}

/// What scheduler and callers see of each other.
#[derive(Debug, Default)]
struct Shared {
    /// Jobs that were taken and have not ended.
    taken: AtomicUsize,
    running: AtomicUsize,
    cached: AtomicUsize,
}

/// Answers many requests at once; see the module. Dropping it ends what is running first.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::ops::ControlFlow;
/// use std::sync::{Arc, mpsc};
/// use lowrank::engine::{Event, Job, Scheduler};
/// use lowrank::runtime::{Limits, SamplerOptions, Serial};
///
/// static BASE: &[u8] = lowrank::include_archive!(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/tiny.lrk"));
///
/// let scheduler = Scheduler::start(BASE, Arc::new(Serial), 16, |model, executor| Limits {
///     batch: 4,
///     ..Limits::for_model(model, 128, executor)
/// })?;
/// let (sender, events) = mpsc::channel();
/// for prompt in ["Duck", "The boat"] {
///     let sender = sender.clone();
///     scheduler.submit(Job {
///         prompt: scheduler.tokenizer().encode_prompt(prompt)?,
///         adapters: Vec::new(),
///         tokens: 8,
///         stops: Vec::new(),
///         sampling: SamplerOptions::default(),
///         listener: Box::new(move |event: Event| match sender.send(event) {
///             Ok(()) => ControlFlow::Continue(()),
///             Err(_) => ControlFlow::Break(()),
///         }),
///     })?;
/// }
/// drop(sender);
/// let ended = events.iter().filter(|event| matches!(event, Event::Ended { .. })).count();
/// assert_eq!(ended, 2);
/// # Ok(()) }
/// ```
pub struct Scheduler {
    jobs: Mutex<Option<Sender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    shared: Arc<Shared>,
    tokenizer: Arc<Tokenizer>,
    fingerprint: Fingerprint,
    limits: Limits,
    most: usize,
}

impl fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scheduler")
            .field("limits", &self.limits)
            .field("load", &self.load())
            .finish_non_exhaustive()
    }
}

impl Scheduler {
    /// Starts the thread that answers. At most `waiting` jobs wait; `limits` says how many run
    /// side by side and how long they may be, as for [`OwnedSession::open`].
    ///
    /// # Errors
    /// [`ReplyError::Text`] if the base has no tokenizer; [`ReplyError::Session`] as
    /// [`OwnedSession::open`].
    pub fn start(
        base: impl Into<Bytes>,
        executor: Arc<dyn Executor + Send>,
        waiting: usize,
        limits: impl FnOnce(&Llama<'_>, &dyn Executor) -> Limits,
    ) -> std::result::Result<Self, ReplyError> {
        let base = base.into();
        let model = Llama::open(base.get())?;
        let (tokenizer, fingerprint) = (Arc::new(Tokenizer::new(&model)?), model.fingerprint());
        let mut session = OwnedSession::open(base, executor, limits)?;
        let limits = session.with(|session| *session.limits());
        let (sender, jobs) = mpsc::channel();
        let shared = Arc::new(Shared::default());
        let thread = {
            let (tokenizer, shared) = (Arc::clone(&tokenizer), Arc::clone(&shared));
            std::thread::spawn(move || {
                session.with(|session| batch::serve(session, &tokenizer, &shared, &jobs));
            })
        };
        Ok(Self {
            jobs: Mutex::new(Some(sender)),
            thread: Mutex::new(Some(thread)),
            shared,
            tokenizer,
            fingerprint,
            limits,
            most: waiting,
        })
    }

    /// Takes a job. What is wrong with it is told its listener.
    ///
    /// # Errors
    /// [`Busy`]; the job is dropped then.
    pub fn submit(&self, job: Job) -> std::result::Result<(), Busy> {
        self.submit_all(vec![job])
    }

    /// Takes all of these jobs, or none.
    ///
    /// # Errors
    /// [`Busy`]; the jobs are dropped then.
    pub fn submit_all(&self, new: Vec<Job>) -> std::result::Result<(), Busy> {
        let (asked, batch) = (new.len(), self.limits.batch);
        let most = self.most.saturating_add(batch);
        if asked > most {
            return Err(Busy::TooMany { asked, most });
        }
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(sender) = jobs.as_ref() else { return Err(Busy::Ending) };
        let taken = self.shared.taken.fetch_add(asked, Ordering::Relaxed);
        if taken + asked > most {
            self.shared.taken.fetch_sub(asked, Ordering::Relaxed);
            return Err(Busy::Full { waiting: taken.saturating_sub(batch) });
        }
        new.into_iter().try_for_each(|job| sender.send(job).map_err(|_| Busy::Ending))
    }

    /// How much there is to do now.
    pub fn load(&self) -> Load {
        let number = |of: &AtomicUsize| of.load(Ordering::Relaxed);
        let running = number(&self.shared.running);
        Load {
            running,
            waiting: number(&self.shared.taken).saturating_sub(running),
            cached: number(&self.shared.cached),
            room: self.limits.batch * self.limits.context,
        }
    }

    /// The base's tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The base's fingerprint.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// What the session was made for.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Takes no more jobs, and returns when all that were taken have ended.
    pub fn finish(&self) {
        drop(self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A panic of the thread was printed; its jobs' listeners are dropped, which they notice.
        let _ = thread.map(JoinHandle::join);
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.finish();
    }
}
