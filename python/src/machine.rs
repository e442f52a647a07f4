//! What is behind sessions and streams: one sequence with its lock, and the room it has.

use std::sync::{Arc, Mutex, MutexGuard};

use lowrank::adapter::{Bytes, Choice, SharedSet};
use lowrank::engine::OwnedSession;
use lowrank::exec::Executor;
use lowrank::kernel::Precision;
use lowrank::model::llama::Llama;
use lowrank::runtime::{KvFormat, Limits, Lookup};

use crate::adapter::Held;
use crate::ask::How;
use crate::base::Opened;
use crate::batch::Batches;
use crate::error::{Fault, Outcome};
use crate::named::named;
use crate::watch::{Watch, lock};

/// Tokens of a prompt that are read between two looks for signals: a whole number of the session's
/// chunks, so that the numbers are those of one call.
const PART: usize = 64;

/// How a session runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    pub(crate) context: usize,
    pub(crate) precision: Option<Precision>,
    pub(crate) kv: KvFormat,
    pub(crate) lookup: usize,
    pub(crate) batch: usize,
    pub(crate) reuse: bool,
}

impl Options {
    /// The limits of a session with room for so many adapters and the sum of their ranks.
    pub(crate) fn limits(
        &self,
        model: &Llama<'_>,
        executor: &dyn Executor,
        (max_active, max_total_rank): (usize, usize),
    ) -> Limits {
        let limits = Limits::for_model(model, self.context, executor);
        Limits {
            precision: self.precision.unwrap_or(limits.precision),
            kv_format: self.kv,
            max_active,
            max_total_rank,
            draft: self.lookup,
            ..limits
        }
    }
}

/// A session of one sequence.
pub(crate) struct Machine {
    pub(crate) session: OwnedSession,
    /// Adapters at a time, and the sum of their ranks.
    room: (usize, usize),
    /// Counts what it was used for: a stream of an earlier use is over.
    pub(crate) turn: u64,
}

/// What Python's sessions and streams share.
pub(crate) struct Inner {
    pub(crate) base: Arc<Opened>,
    pub(crate) executor: Arc<dyn Executor + Send>,
    pub(crate) options: Options,
    /// `None` once it is closed.
    machine: Mutex<Option<Machine>>,
    pub(crate) batches: Mutex<Batches>,
}

impl Inner {
    /// A session that is open, with its first machine.
    pub(crate) fn start(
        base: Arc<Opened>,
        executor: Arc<dyn Executor + Send>,
        options: Options,
    ) -> Outcome<Self> {
        let (machine, batches) = (Mutex::new(None), Mutex::default());
        let inner = Self { base, executor, options, machine, batches };
        // Room for one adapter of a usual rank, so that most sessions are made once.
        let room = (1, 16);
        let machine = Machine { session: inner.open(room)?, room, turn: 0 };
        Ok(Self { machine: Mutex::new(Some(machine)), ..inner })
    }

    pub(crate) fn bytes(&self) -> Bytes {
        Bytes::from(Arc::clone(&self.base.file))
    }

    /// A new session with this room.
    fn open(&self, room: (usize, usize)) -> Outcome<OwnedSession> {
        let limits =
            |model: &Llama<'_>, executor: &dyn Executor| self.options.limits(model, executor, room);
        Ok(OwnedSession::open(self.bytes(), Arc::clone(&self.executor), limits)?)
    }

    /// The machine, when nobody else uses it.
    pub(crate) fn machine(&self, watch: &mut Watch) -> Outcome<MutexGuard<'_, Option<Machine>>> {
        lock(&self.machine, watch)
    }

    /// Reads a prompt under its adapters; what was read for an earlier one is forgotten, or kept as
    /// far as it is the same.
    pub(crate) fn begin(
        &self,
        prompt: &[u32],
        how: &How,
        watch: &mut Watch,
    ) -> Outcome<MutexGuard<'_, Option<Machine>>> {
        let mut guard = self.machine(watch)?;
        let machine = opened(&mut guard)?;
        let room = how.room();
        let room = (machine.room.0.max(room.0), machine.room.1.max(room.1));
        if room != machine.room {
            (machine.session, machine.room) = (self.open(room)?, room);
        }
        machine.turn += 1;
        let is_kept = self.options.reuse;
        machine.session.with(|session| {
            check_room(prompt.len(), session.limits().context, session.model().config().context)?;
            let set = SharedSet::new(*session.model());
            let mut choices = Vec::new();
            for (slot, (held, weight)) in (0..).zip(&how.adapters) {
                set.replace(slot, 0, Arc::clone(&held.shared))?;
                choices.push(Choice { weight: *weight, ..Choice::slot(slot) });
            }
            let slots: Vec<u32> = choices.iter().map(|choice| choice.slot).collect();
            let pinned = set.pin(&slots)?;
            if !is_kept || session.select(0, &pinned, &choices).is_err() {
                session.reset(0)?;
                session.select(0, &pinned, &choices)?;
            }
            let held = session.tokens(0)?;
            let same = held.iter().zip(prompt).take_while(|(held, new)| held == new).count();
            // The last token is always read: its logits are those of the reply.
            let known = same.min(prompt.len() - 1);
            session.rewind(0, known)?;
            for part in prompt[known..].chunks(PART) {
                session.prefill(0, part)?;
                watch.check()?;
            }
            Ok::<_, Fault>(())
        })?;
        Ok(guard)
    }
}

/// The machine of a session that is not closed.
pub(crate) fn opened<'g>(
    guard: &'g mut MutexGuard<'_, Option<Machine>>,
) -> Outcome<&'g mut Machine> {
    guard.as_mut().ok_or_else(|| Fault::busy("the session is closed: open another one"))
}

/// Refuses a prompt that does not fit.
fn check_room(prompt: usize, context: usize, most: usize) -> Outcome<()> {
    if prompt <= context {
        return Ok(());
    }
    Err(Fault::input(format!(
        "the prompt has {prompt} tokens, the session has room for {context} \
         (Session(base, context=…); the model takes up to {most})"
    )))
}

impl Inner {
    /// What prompt lookup learns, if it is on: anew for each reply.
    pub(crate) fn lookup(&self, limits: &Limits) -> Option<Lookup> {
        (self.options.lookup > 0).then(|| Lookup::new(limits))
    }
}

/// The logits after each token, `[tokens, vocab]`, and vocab.
pub(crate) fn scores(
    inner: &Inner,
    options: Options,
    tokens: &[u32],
    adapters: Vec<(Held, f32)>,
) -> Outcome<(Vec<f32>, usize)> {
    let rank = adapters.iter().map(|(held, _)| held.shared.adapter().max_rank()).sum();
    let room = (adapters.len(), rank);
    let limits = |model: &Llama<'_>, executor: &dyn Executor| options.limits(model, executor, room);
    let mut session = OwnedSession::open(inner.bytes(), Arc::clone(&inner.executor), limits)?;
    session.with(|session| {
        let set = SharedSet::new(*session.model());
        let mut choices = Vec::new();
        for (slot, (held, weight)) in (0..).zip(&adapters) {
            set.replace(slot, 0, Arc::clone(&held.shared))?;
            choices.push(Choice { weight: *weight, ..Choice::slot(slot) });
        }
        let slots: Vec<u32> = choices.iter().map(|choice| choice.slot).collect();
        session.select(0, &set.pin(&slots)?, &choices)?;
        let vocab = session.model().config().vocab;
        let mut values = Vec::with_capacity(tokens.len() * vocab);
        session.score(0, tokens, |_, logits| values.extend_from_slice(logits))?;
        match values.iter().position(|value| !value.is_finite()) {
            None => Ok((values, vocab)),
            Some(at) => Err(Fault::not_finite(format!("token {}: {NOT_FINITE}", at / vocab + 1))),
        }
    })
}

/// What is said of numbers that came out so.
pub(crate) const NOT_FINITE: &str = "the result is not finite: the weights are damaged \
                                     (Base.verify), or an adapter's weight is far too large";

/// A precision by its name.
pub(crate) fn precision(name: Option<&str>) -> Outcome<Option<Precision>> {
    let known = [("exact", Precision::Exact), ("fast", Precision::Fast)];
    name.map(|name| named("precision", name, &known)).transpose()
}

/// A format of keys and values by its name.
pub(crate) fn kv(name: &str) -> Outcome<KvFormat> {
    let known = [("f32", KvFormat::F32), ("f16", KvFormat::F16), ("int8", KvFormat::Int8)];
    named("kv", name, &known)
}
