//! `Stream`: a reply that is asked for piece by piece, on the thread that asks.

use std::sync::{Arc, Mutex};

use lowrank::engine::{OpenReply, Sequence};
use lowrank::runtime::{Lookup, Sampler};
use lowrank::text::Tokenizer;
use pyo3::prelude::*;
use self_cell::self_cell;

use crate::ask::{How, PyReply};
use crate::error::{Fault, Outcome};
use crate::machine::{Inner, opened};
use crate::watch::{Watch, lock};

type Open<'t> = OpenReply<'t>;

self_cell!(
    /// A reply with the tokenizer that it is decoded with.
    struct Written {
        owner: Arc<Tokenizer>,
        #[not_covariant]
        dependent: Open,
    }
);

/// A reply that goes on.
struct Running {
    written: Written,
    sampler: Sampler,
    lookup: Option<Lookup>,
    watch: Watch,
}

enum State {
    Running(Box<Running>),
    Ended(Py<PyReply>),
    /// An error ended it.
    Failed,
}

/// The pieces of a reply, an iterator. It belongs to its session's last prompt: when the session is
/// used for another one, it is over.
#[pyclass(frozen, name = "Stream", module = "lowrank")]
pub(crate) struct PyStream {
    session: Arc<Inner>,
    turn: u64,
    prompt: usize,
    how: How,
    state: Mutex<State>,
}

impl PyStream {
    pub(crate) fn new(
        session: Arc<Inner>,
        turn: u64,
        tokenizer: Arc<Tokenizer>,
        prompt: usize,
        how: How,
        lookup: Option<Lookup>,
    ) -> Outcome<Self> {
        let written = Written::new(tokenizer, |tokenizer| OpenReply::new(tokenizer, how.bounds()));
        let (sampler, watch) = (Sampler::new(how.sampling)?, Watch::new());
        let running = Running { written, sampler, lookup, watch };
        let state = Mutex::new(State::Running(Box::new(running)));
        Ok(Self { session, turn, prompt, how, state })
    }

    /// The next piece that is not empty; `None` when the reply has ended.
    fn next(&self) -> Outcome<Option<String>> {
        let mut state = lock(&self.state, &mut Watch::new())?;
        let State::Running(running) = &mut *state else { return Ok(None) };
        let piece = self.piece(running);
        match piece {
            Ok(Some(text)) => return Ok(Some(text)),
            Ok(None) => self.finish(&mut state)?,
            Err(error) => {
                *state = State::Failed;
                return Err(error);
            }
        }
        Ok(None)
    }

    fn piece(&self, running: &mut Running) -> Outcome<Option<String>> {
        let Running { written, sampler, lookup, watch } = running;
        let mut guard = self.session.machine(watch)?;
        let machine = opened(&mut guard)?;
        if machine.turn != self.turn {
            return Err(Fault::busy(
                "the session was used for another prompt, so this stream is over: read a stream \
                 to its end first, or open a second session",
            ));
        }
        machine.session.with(|session| {
            let mut sequence = Sequence::new(session, 0)?.with_lookup(lookup.as_mut());
            loop {
                let next =
                    written.with_dependent_mut(|_, reply| reply.next(&mut sequence, sampler));
                match next? {
                    Some(text) if text.is_empty() => {}
                    piece => return Ok(piece),
                }
                watch.check()?;
            }
        })
    }

    /// Keeps what was written; a reply that has not ended is interrupted.
    fn finish(&self, state: &mut State) -> Outcome<()> {
        let State::Running(running) = state else { return Ok(()) };
        let reply = running.written.with_dependent_mut(|tokenizer, reply| {
            let empty = lowrank::engine::Bounds { tokens: 0, stops: &[] };
            std::mem::replace(reply, OpenReply::new(tokenizer, empty)).into_reply()
        });
        let reply = PyReply::new(reply.text, reply.tokens, reply.end, self.prompt, &self.how);
        *state = State::Ended(Python::attach(|py| Py::new(py, reply))?);
        Ok(())
    }
}

#[pymethods]
impl PyStream {
    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> Outcome<Option<String>> {
        py.detach(|| self.next())
    }

    /// The whole reply; ``None`` as long as it goes on, or if an error ended it.
    #[getter]
    fn reply(&self, py: Python<'_>) -> Outcome<Option<Py<PyReply>>> {
        py.detach(|| {
            let state = lock(&self.state, &mut Watch::new())?;
            match &*state {
                State::Ended(reply) => Ok(Some(Python::attach(|py| reply.clone_ref(py)))),
                State::Running(_) | State::Failed => Ok(None),
            }
        })
    }

    /// Ends the reply here; what was written is in ``reply``.
    fn close(&self, py: Python<'_>) -> Outcome<()> {
        py.detach(|| self.finish(&mut *lock(&self.state, &mut Watch::new())?))
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_error))]
    fn __exit__(&self, py: Python<'_>, _error: &Bound<'_, pyo3::types::PyTuple>) -> Outcome<()> {
        self.close(py)
    }
}
