//! What a request says: the prompt, and how tokens are chosen. The same for one reply, a stream and
//! a batch.

use std::sync::Arc;

use lowrank::engine::{Bounds, End};
use lowrank::runtime::{Executor, Sampler, SamplerOptions, Serial, Threads};
use lowrank::text::{Message, TemplateVariables, Tokenizer};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use crate::adapter::Held;
use crate::adapters::adapters;
use crate::error::{Fault, Outcome};
use crate::named::{Keywords, ids};
use crate::tokenizer::{messages, variables};

/// What is continued.
pub(crate) enum Prompt {
    Text(String),
    Chat(Vec<Message>),
    Tokens(Vec<u32>),
}

impl Prompt {
    /// A string, a list of messages, or token ids.
    pub(crate) fn read(given: &Bound<'_, PyAny>) -> Outcome<Self> {
        if given.is_instance_of::<PyString>() {
            return Ok(Self::Text(given.extract()?));
        }
        let mut items = given.try_iter().map_err(|_| {
            PyTypeError::new_err(
                "the prompt: a string, a list of messages or one of token ids was expected",
            )
        })?;
        let first = items.next().transpose()?;
        match first {
            Some(first) if first.is_instance_of::<PyDict>() => Ok(Self::Chat(messages(given)?)),
            Some(_) => Ok(Self::Tokens(ids("prompt", given)?)),
            None => Err(Fault::input("the prompt is empty: a reply needs at least one token")),
        }
    }

    /// Its tokens, one at least.
    pub(crate) fn encode(
        self,
        tokenizer: &Tokenizer,
        variables: &TemplateVariables,
    ) -> Outcome<Vec<u32>> {
        let tokens = match self {
            Self::Tokens(tokens) => tokens,
            Self::Text(text) => tokenizer.encode_prompt(&text)?,
            Self::Chat(messages) => {
                tokenizer.encode_prompt(&tokenizer.render_chat_with(&messages, true, variables)?)?
            }
        };
        if tokens.is_empty() {
            return Err(Fault::input("the prompt is empty: a reply needs at least one token"));
        }
        Ok(tokens)
    }
}

/// How a prompt is continued.
#[derive(Clone)]
pub(crate) struct How {
    pub(crate) adapters: Vec<(Held, f32)>,
    pub(crate) tokens: usize,
    pub(crate) stops: Vec<String>,
    pub(crate) sampling: SamplerOptions,
    pub(crate) variables: TemplateVariables,
}

impl How {
    /// Reads the keywords of a request.
    pub(crate) fn read(keywords: &mut Keywords<'_>) -> Outcome<Self> {
        let default = SamplerOptions::default();
        let stop: Option<Bound<'_, PyAny>> = keywords.get("stop")?;
        let given: Option<Bound<'_, PyDict>> = keywords.get_dict("template_variables")?;
        let how = Self {
            adapters: adapters(keywords.get::<Bound<'_, PyAny>>("adapter")?.as_ref())?,
            tokens: keywords.or("max_tokens", 128)?,
            stops: stop.map_or_else(|| Ok(Vec::new()), |stop| stops(&stop))?,
            sampling: SamplerOptions {
                temperature: keywords.or("temperature", default.temperature)?,
                top_k: keywords.or("top_k", default.top_k)?,
                top_p: keywords.or("top_p", default.top_p)?,
                min_p: keywords.or("min_p", default.min_p)?,
                repetition_penalty: keywords
                    .or("repetition_penalty", default.repetition_penalty)?,
                seed: keywords.or("seed", default.seed)?,
            },
            variables: variables(given.as_ref())?,
        };
        Sampler::new(how.sampling)?;
        Ok(how)
    }

    pub(crate) fn bounds(&self) -> Bounds<'_> {
        Bounds { tokens: self.tokens, stops: &self.stops }
    }

    /// The largest number of adapters and the sum of their ranks.
    pub(crate) fn room(&self) -> (usize, usize) {
        let rank = |(held, _): &(Held, f32)| held.shared.adapter().max_rank();
        (self.adapters.len(), self.adapters.iter().map(rank).sum())
    }
}

/// One text or several, none of them empty.
fn stops(given: &Bound<'_, PyAny>) -> Outcome<Vec<String>> {
    let stops = match given.cast::<PyString>() {
        Ok(text) => vec![text.to_string()],
        Err(_) => given.extract::<Vec<String>>()?,
    };
    match stops.iter().any(String::is_empty) {
        true => Err(Fault::input("a stop text is empty: it would end nothing")),
        false => Ok(stops),
    }
}

/// A reply.
///
/// ``text`` is what was written, without a stop text; ``str(reply)`` gives it too.
#[pyclass(frozen, get_all, name = "Reply", module = "lowrank")]
pub(crate) struct PyReply {
    /// What was written.
    text: String,
    /// Its token ids; ``None`` of a batch, whose rows have texts only.
    tokens: Option<Vec<u32>>,
    /// ``"end"`` (of the turn), ``"stop"``, ``"length"``, ``"context"`` or ``"interrupted"``.
    stop_reason: &'static str,
    /// The stop text that ended it.
    stop: Option<String>,
    /// Tokens of the prompt.
    prompt_tokens: usize,
    /// Tokens of the reply.
    completion_tokens: usize,
}

#[pymethods]
impl PyReply {
    fn __str__(&self) -> &str {
        &self.text
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let text = self.text.clone().into_pyobject(py)?.repr()?.to_string();
        Ok(format!("Reply({text}, stop_reason='{}')", self.stop_reason))
    }
}

impl PyReply {
    /// A reply whose tokens are known.
    pub(crate) fn new(text: String, tokens: Vec<u32>, end: End, prompt: usize, how: &How) -> Self {
        let count = tokens.len();
        Self { tokens: Some(tokens), ..Self::counted(text, count, end, prompt, how) }
    }

    /// A reply whose tokens were only counted.
    pub(crate) fn counted(text: String, count: usize, end: End, prompt: usize, how: &How) -> Self {
        let stop = match end {
            End::Stop(number) => how.stops.get(number).cloned(),
            _ => None,
        };
        Self {
            text,
            tokens: None,
            stop_reason: end.name(),
            stop,
            prompt_tokens: prompt,
            completion_tokens: count,
        }
    }
}

/// Threads that compute; 0 is one per core.
pub(crate) fn executor(threads: usize) -> Outcome<Arc<dyn Executor + Send>> {
    if threads == 1 {
        return Ok(Arc::new(Serial));
    }
    let made = Threads::new(threads);
    Ok(Arc::new(made.map_err(|error| Fault::input(format!("threads is {threads}: {error}")))?))
}
