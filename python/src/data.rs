//! Training data from Python: a file, or examples in memory.

use std::path::PathBuf;

use lowrank::file::FileError;
use lowrank::train::data::{DataOptions, Dataset, Example, Task, Tokenize};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use crate::error::{Fault, Outcome};
use crate::named::{ids, named};
use crate::tokenizer::messages;

/// Where examples come from.
#[derive(Clone)]
pub(crate) enum Source {
    File(PathBuf),
    Memory(Vec<Example>),
}

/// The keys that an example has, and what it is then.
const KINDS: &str = "a string, or a dictionary with text, prompt and completion, messages, text and \
                     label, tokens (and label), or values and label was expected";

impl Source {
    /// A path, or an iterable of examples.
    pub(crate) fn read(given: &Bound<'_, PyAny>) -> Outcome<Self> {
        if given.is_instance_of::<PyString>() || given.hasattr("__fspath__")? {
            return Ok(Self::File(given.extract()?));
        }
        let items = given
            .try_iter()
            .map_err(|_| PyTypeError::new_err("data: a path or a list of examples was expected"))?;
        let example = |(at, item): (usize, PyResult<Bound<'_, PyAny>>)| example(at + 1, &item?);
        Ok(Self::Memory(items.enumerate().map(example).collect::<Outcome<_>>()?))
    }

    /// Checks and indexes it.
    pub(crate) fn open<'t>(
        &self,
        task: Task,
        tokenizer: Option<&'t dyn Tokenize>,
        options: DataOptions,
    ) -> Result<Dataset<'t>, FileError> {
        match self {
            Self::File(path) => Dataset::open(path, task, tokenizer, options),
            Self::Memory(examples) => {
                Dataset::from_examples(examples.iter().cloned(), task, tokenizer, options)
            }
        }
    }
}

/// The example with this number.
fn example(number: usize, item: &Bound<'_, PyAny>) -> Outcome<Example> {
    if let Ok(text) = item.cast::<PyString>() {
        return Ok(Example::Text(text.to_string()));
    }
    let wrong = || Fault::format(format!("example {number}: {KINDS}"));
    let fields = item.cast::<PyDict>().map_err(|_| wrong())?;
    let keys: Vec<String> = fields.keys().extract().map_err(|_| wrong())?;
    let mut keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    keys.sort_unstable();
    let get = |key: &str| -> Outcome<Bound<'_, PyAny>> { fields.get_item(key)?.ok_or_else(wrong) };
    let of_type =
        |key: &str, error: PyErr| Fault::format(format!("example {number}: {key}: {error}"));
    let text = |key: &str| -> Outcome<String> {
        get(key)?.extract().map_err(|error: PyErr| of_type(key, error))
    };
    let label = || -> Outcome<String> {
        // Labels are names: 0 and "0" are the same one.
        Ok(get("label")?.str()?.to_string())
    };
    let tokens = || ids(&format!("example {number}: tokens"), &get("tokens")?);
    let values = || -> Outcome<Vec<f32>> {
        let value = |item: PyResult<Bound<'_, PyAny>>| item?.extract::<f32>();
        let values = get("values")?.try_iter().and_then(|items| items.map(value).collect());
        values.map_err(|error| of_type("values", error))
    };
    Ok(match keys.as_slice() {
        ["text"] => Example::Text(text("text")?),
        ["completion", "prompt"] => {
            Example::Completion { prompt: text("prompt")?, completion: text("completion")? }
        }
        ["messages"] => Example::Chat(messages(&get("messages")?)?),
        ["label", "text"] => Example::Labelled { text: text("text")?, label: label()? },
        ["tokens"] => Example::Tokens(tokens()?),
        ["label", "tokens"] => Example::LabelledTokens { tokens: tokens()?, label: label()? },
        ["label", "values"] => Example::Features { values: values()?, label: label()? },
        _ => return Err(wrong()),
    })
}

/// A task by its name.
pub(crate) fn task(name: &str) -> Outcome<Task> {
    let known = [("lm", Task::LanguageModel), ("classify", Task::Classify)];
    named("task", name, &known)
}
