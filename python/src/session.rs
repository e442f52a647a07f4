//! `Session`: one sequence that continues prompts, and batches in which every row has adapters of
//! its own.

use std::sync::{Arc, Mutex, MutexGuard};

use lowrank::adapter::{Bytes, Choice, SharedSet};
use lowrank::engine::{OpenReply, OwnedSession, Sequence};
use lowrank::exec::Executor;
use lowrank::kernel::Precision;
use lowrank::model::llama::Llama;
use lowrank::runtime::{KvFormat, Limits, Lookup, MOST_DRAFT, Sampler};
use numpy::{IntoPyArray, PyArray2, PyArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::adapter::adapters;
use crate::ask::{How, Prompt, PyReply, executor};
use crate::base::{Opened, PyBase};
use crate::batch::Batches;
use crate::error::{Fault, Outcome};
use crate::named::{Keywords, ids, named};
use crate::stream::PyStream;
use crate::watch::{Watch, lock};

/// Tokens of a prompt that are read between two looks for signals: a whole number of the session's
/// chunks, so that the numbers are those of one call.
const PART: usize = 64;

/// Tokens of prompt and reply where none are asked for.
const CONTEXT: usize = 2048;

/// How a session runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    pub(crate) context: usize,
    pub(crate) precision: Option<Precision>,
    pub(crate) kv: KvFormat,
    pub(crate) lookup: usize,
    pub(crate) batch: usize,
    reuse: bool,
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
    executor: Arc<dyn Executor + Send>,
    options: Options,
    /// `None` once it is closed.
    machine: Mutex<Option<Machine>>,
    batches: Mutex<Batches>,
}

impl Inner {
    fn bytes(&self) -> Bytes {
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

/// Continues prompts with a decoder.
///
/// ``context`` is the room for prompt and reply in tokens (2048 or what the model takes), ``threads``
/// how many compute (0: one per core), ``precision`` ``"exact"`` or ``"fast"`` (what is measured to
/// be as good), ``kv`` how keys and values are kept (``"f32"``, ``"f16"``, ``"int8"``), ``lookup`` how
/// many tokens are guessed ahead, ``batch`` how many rows of ``generate_batch`` run side by side. With
/// ``reuse=True`` what a prompt has in common with the one before is not read again, as in a chat; the
/// last bits may then differ from those of a fresh session.
///
/// Threads may share a session: they take turns. It is closed by ``with`` or when nobody has it.
///
/// >>> base = lowrank.Base.open("tiny.lrk")
/// >>> pirate = lowrank.Adapter.open("tiny-pirate.lrk")
/// >>> with lowrank.Session(base) as session:
/// ...     reply = session.generate("Duck and boat:", adapter=pirate, max_tokens=8)
/// >>> reply.stop_reason, reply.completion_tokens
/// ('length', 8)
#[pyclass(frozen, name = "Session", module = "lowrank")]
pub(crate) struct PySession(Arc<Inner>);

#[pymethods]
impl PySession {
    #[new]
    #[pyo3(signature = (base, *, context=None, threads=0, precision=None, kv="f16", lookup=0, batch=8,
        reuse=false))]
    #[allow(clippy::too_many_arguments, reason = "how a session runs")]
    fn new(
        py: Python<'_>,
        base: &PyBase,
        context: Option<usize>,
        threads: usize,
        precision: Option<&str>,
        kv: &str,
        lookup: usize,
        batch: usize,
        reuse: bool,
    ) -> Outcome<Self> {
        if lookup > MOST_DRAFT {
            let text = format!("lookup is {lookup}, 0 to {MOST_DRAFT} tokens were expected");
            return Err(Fault::input(text));
        }
        if batch == 0 {
            return Err(Fault::input("batch is 0, at least 1 row was expected"));
        }
        let (precision, kv) = (self::precision(precision)?, self::kv(kv)?);
        let base = Arc::clone(&base.0);
        py.detach(|| {
            let most = base.decoder()?.config().context;
            let context = context.unwrap_or(CONTEXT.min(most));
            let options = Options { context, precision, kv, lookup, batch, reuse };
            let (executor, batches) = (executor(threads)?, Mutex::default());
            let inner = Inner { base, executor, options, machine: Mutex::new(None), batches };
            // Room for one adapter of a usual rank, so that most sessions are made once.
            let room = (1, 16);
            let machine = Machine { session: inner.open(room)?, room, turn: 0 };
            let machine = Mutex::new(Some(machine));
            Ok(Self(Arc::new(Inner { machine, ..inner })))
        })
    }

    /// Continues a prompt: a string as it is, a list of messages through the chat template, or token
    /// ids.
    ///
    /// Keywords: ``adapter`` (an Adapter, a pair ``(adapter, weight)``, or a list of those, whose
    /// contributions add up), ``max_tokens`` (128), ``stop`` (a text or several), ``temperature`` (0:
    /// always the most probable), ``top_k``, ``top_p``, ``min_p``, ``repetition_penalty``, ``seed``,
    /// ``template_variables``.
    #[pyo3(signature = (prompt, **options))]
    fn generate(
        &self,
        py: Python<'_>,
        prompt: &Bound<'_, PyAny>,
        options: Option<&Bound<'_, PyDict>>,
    ) -> Outcome<PyReply> {
        let (prompt, how) = request(prompt, options)?;
        py.detach(|| {
            let mut watch = Watch::new();
            let tokenizer = self.0.base.tokenizer()?;
            let prompt = prompt.encode(&tokenizer, &how.variables)?;
            let mut guard = self.0.begin(&prompt, &how, &mut watch)?;
            let mut sampler = Sampler::new(how.sampling)?;
            let mut reply = OpenReply::new(&tokenizer, how.bounds());
            opened(&mut guard)?.session.with(|session| {
                let mut lookup = self.0.lookup(session.limits());
                let mut sequence = Sequence::new(session, 0)?.with_lookup(lookup.as_mut());
                while reply.next(&mut sequence, &mut sampler)?.is_some() {
                    watch.check()?;
                }
                Ok::<_, Fault>(())
            })?;
            let reply = reply.into_reply();
            Ok(PyReply::new(reply.text, reply.tokens, reply.end, prompt.len(), &how))
        })
    }

    /// The same piece by piece: an iterator over texts, each as soon as it is finished. Its ``reply``
    /// is there when it has ended.
    ///
    /// >>> session = lowrank.Session(lowrank.Base.open("tiny.lrk"))
    /// >>> with session.stream("Duck and boat:", max_tokens=8) as pieces:
    /// ...     text = "".join(pieces)
    /// >>> text == pieces.reply.text
    /// True
    #[pyo3(signature = (prompt, **options))]
    fn stream(
        &self,
        py: Python<'_>,
        prompt: &Bound<'_, PyAny>,
        options: Option<&Bound<'_, PyDict>>,
    ) -> Outcome<PyStream> {
        let (prompt, how) = request(prompt, options)?;
        py.detach(|| {
            let tokenizer = self.0.base.tokenizer()?;
            let prompt = prompt.encode(&tokenizer, &how.variables)?;
            let mut watch = Watch::new();
            let mut guard = self.0.begin(&prompt, &how, &mut watch)?;
            let machine = opened(&mut guard)?;
            let lookup = machine.session.with(|session| self.0.lookup(session.limits()));
            let turn = machine.turn;
            PyStream::new(Arc::clone(&self.0), turn, tokenizer, prompt.len(), how, lookup)
        })
    }

    /// Continues several prompts side by side, in shared passes. ``adapters`` has one entry a prompt,
    /// each as ``adapter`` of ``generate`` (or ``None``); the other keywords are for all rows. What a
    /// row says does not depend on its neighbours.
    ///
    /// >>> base = lowrank.Base.open("tiny.lrk")
    /// >>> pirate = lowrank.Adapter.open("tiny-pirate.lrk")
    /// >>> session = lowrank.Session(base)
    /// >>> replies = session.generate_batch(["Duck:", "Duck:"], adapters=[None, pirate], max_tokens=8)
    /// >>> [reply.completion_tokens for reply in replies]
    /// [8, 8]
    #[pyo3(signature = (prompts, *, adapters=None, **options))]
    fn generate_batch(
        &self,
        py: Python<'_>,
        prompts: Vec<Bound<'_, PyAny>>,
        adapters: Option<Vec<Option<Bound<'_, PyAny>>>>,
        options: Option<&Bound<'_, PyDict>>,
    ) -> Outcome<Vec<PyReply>> {
        let rows = rows(&prompts, adapters, options)?;
        py.detach(|| {
            let mut watch = Watch::new();
            if self.0.machine(&mut watch)?.is_none() {
                return Err(Fault::busy("the session is closed: open another one"));
            }
            let (bytes, executor) = (self.0.bytes(), Arc::clone(&self.0.executor));
            let mut batches = lock(&self.0.batches, &mut watch)?;
            batches.run(bytes, executor, &self.0.options, rows, &mut watch)
        })
    }

    /// The logits after each of the tokens: float32, ``[tokens, vocab]``. As ``lowrank logits``: exact,
    /// keys and values in f32, whatever the session was made for.
    #[pyo3(signature = (tokens, *, adapter=None, precision="exact"))]
    fn logits<'py>(
        &self,
        py: Python<'py>,
        tokens: &Bound<'py, PyAny>,
        adapter: Option<&Bound<'py, PyAny>>,
        precision: &str,
    ) -> Outcome<Bound<'py, PyArray2<f32>>> {
        let tokens = ids("tokens", tokens)?;
        if tokens.is_empty() {
            return Err(Fault::input("there are no tokens: at least one was expected"));
        }
        let adapters = adapters(adapter)?;
        let precision = self::precision(Some(precision))?;
        let options = Options {
            context: tokens.len(),
            precision,
            kv: KvFormat::F32,
            lookup: 0,
            batch: 1,
            reuse: false,
        };
        let (values, vocab) = py.detach(|| scores(&self.0, options, &tokens, adapters))?;
        Ok(values.into_pyarray(py).reshape([tokens.len(), vocab])?)
    }

    /// The base.
    #[getter]
    fn base(&self) -> PyBase {
        PyBase(Arc::clone(&self.0.base))
    }

    /// Tokens that prompt and reply have room for.
    #[getter]
    fn context(&self) -> usize {
        self.0.options.context
    }

    /// Gives back the memory; what runs in other threads ends first.
    fn close(&self, py: Python<'_>) -> Outcome<()> {
        py.detach(|| {
            let mut watch = Watch::new();
            *self.0.machine(&mut watch)? = None;
            *lock(&self.0.batches, &mut watch)? = Batches::default();
            Ok(())
        })
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_error))]
    fn __exit__(&self, py: Python<'_>, _error: &Bound<'_, pyo3::types::PyTuple>) -> Outcome<()> {
        self.close(py)
    }
}

impl Inner {
    /// What prompt lookup learns, if it is on: anew for each reply.
    fn lookup(&self, limits: &Limits) -> Option<Lookup> {
        (self.options.lookup > 0).then(|| Lookup::new(limits))
    }
}

/// Reads a prompt and the keywords of a request.
fn request(
    prompt: &Bound<'_, PyAny>,
    options: Option<&Bound<'_, PyDict>>,
) -> Outcome<(Prompt, How)> {
    let mut keywords = Keywords::new(options);
    let how = How::read(&mut keywords)?;
    keywords.finish()?;
    Ok((Prompt::read(prompt)?, how))
}

/// Reads the rows of a batch.
fn rows(
    prompts: &[Bound<'_, PyAny>],
    adapters: Option<Vec<Option<Bound<'_, PyAny>>>>,
    options: Option<&Bound<'_, PyDict>>,
) -> Outcome<Vec<(Prompt, How)>> {
    let mut keywords = Keywords::new(options);
    let how = How::read(&mut keywords)?;
    keywords.finish()?;
    if let Some(adapters) = &adapters {
        if adapters.len() != prompts.len() {
            let (rows, found) = (prompts.len(), adapters.len());
            return Err(Fault::input(format!(
                "adapters has {found} entries, {rows} were expected: one a prompt"
            )));
        }
        if !how.adapters.is_empty() {
            return Err(Fault::input("adapter and adapters are both given: one says them all"));
        }
    }
    let row = |(at, prompt): (usize, &Bound<'_, PyAny>)| {
        let mut how = how.clone();
        if let Some(all) = &adapters {
            how.adapters = self::adapters(all[at].as_ref())?;
        }
        Ok((Prompt::read(prompt)?, how))
    };
    prompts.iter().enumerate().map(row).collect()
}

/// The logits after each token, `[tokens, vocab]`, and vocab.
fn scores(
    inner: &Inner,
    options: Options,
    tokens: &[u32],
    adapters: Vec<(crate::adapter::Held, f32)>,
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
