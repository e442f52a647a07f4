//! `Session`: one sequence that continues prompts, and batches in which every row has adapters of
//! its own.

use std::sync::Arc;

use lowrank::engine::{OpenReply, Sequence};
use lowrank::runtime::{KvFormat, MOST_DRAFT, Sampler};
use numpy::{IntoPyArray, PyArray2, PyArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::adapters::adapters;
use crate::ask::{How, Prompt, PyReply, executor};
use crate::base::PyBase;
use crate::batch::Batches;
use crate::error::{Fault, Outcome};
use crate::machine::{self, Inner, Options, opened, scores};
use crate::named::{Keywords, ids};
use crate::stream::PyStream;
use crate::watch::{Watch, lock};

/// Tokens of prompt and reply where none are asked for.
const CONTEXT: usize = 2048;

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
        let (precision, kv) = (machine::precision(precision)?, machine::kv(kv)?);
        let base = Arc::clone(&base.0);
        py.detach(|| {
            let most = base.decoder()?.config().context;
            let context = context.unwrap_or(CONTEXT.min(most));
            let options = Options { context, precision, kv, lookup, batch, reuse };
            Ok(Self(Arc::new(Inner::start(base, executor(threads)?, options)?)))
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
        let precision = machine::precision(Some(precision))?;
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
