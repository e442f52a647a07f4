//! `Tokenizer`: text to token ids and back, and conversations through the chat template.

use std::sync::Arc;

use lowrank::text::{Message, TemplateVariables, Tokenizer};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use crate::error::{Fault, Outcome};
use crate::json::from_python;
use crate::named::ids;

/// The tokenizer of a base.
///
/// >>> tokenizer = lowrank.Base.open("tiny.lrk").tokenizer
/// >>> tokenizer.decode(tokenizer.encode("A duck and a boat"))
/// 'A duck and a boat'
#[pyclass(frozen, name = "Tokenizer", module = "lowrank")]
pub(crate) struct PyTokenizer(pub(crate) Arc<Tokenizer>);

#[pymethods]
impl PyTokenizer {
    /// The ids of a text as the model reads it: with the special tokens that belong in front or
    /// around it, unless ``add_special_tokens`` is false. Special tokens in the text are parsed.
    #[pyo3(signature = (text, *, add_special_tokens=true))]
    fn encode(&self, py: Python<'_>, text: &str, add_special_tokens: bool) -> Outcome<Vec<u32>> {
        py.detach(|| match add_special_tokens {
            true => Ok(self.0.encode_for_model(text)?),
            false => Ok(self.0.encode(text, true)?),
        })
    }

    /// The text of ids; bytes that are no character become U+FFFD.
    #[pyo3(signature = (ids, *, skip_special_tokens=true))]
    fn decode(
        &self,
        py: Python<'_>,
        ids: &Bound<'_, PyAny>,
        skip_special_tokens: bool,
    ) -> Outcome<String> {
        let ids = self::ids("ids", ids)?;
        py.detach(|| Ok(self.0.decode(&ids, !skip_special_tokens)?))
    }

    /// A conversation, dictionaries with ``role`` and ``content``, through the model's chat template.
    /// Further keywords are variables of the template (``enable_thinking=False``).
    #[pyo3(signature = (messages, *, add_generation_prompt=true, **variables))]
    fn render_chat(
        &self,
        py: Python<'_>,
        messages: &Bound<'_, PyAny>,
        add_generation_prompt: bool,
        variables: Option<&Bound<'_, PyDict>>,
    ) -> Outcome<String> {
        let (messages, variables) = (self::messages(messages)?, self::variables(variables)?);
        py.detach(|| Ok(self.0.render_chat_with(&messages, add_generation_prompt, &variables)?))
    }

    /// Does the model have a chat template?
    #[getter]
    fn has_template(&self) -> bool {
        self.0.has_template()
    }

    /// The token that ends a turn, if there is one.
    #[getter]
    fn end_token(&self) -> Option<u32> {
        self.0.end_token()
    }

    /// Does this token end a turn?
    fn is_stop(&self, token: u32) -> bool {
        self.0.is_stop(token)
    }
}

/// Variables of a chat template.
pub(crate) fn variables(given: Option<&Bound<'_, PyDict>>) -> Outcome<TemplateVariables> {
    let mut variables = TemplateVariables::new();
    for (name, value) in given.into_iter().flatten() {
        variables.set(&name.extract::<String>()?, &from_python(&value)?.to_string())?;
    }
    Ok(variables)
}

/// The messages of a conversation: dictionaries with `role` and `content`.
pub(crate) fn messages(given: &Bound<'_, PyAny>) -> Outcome<Vec<Message>> {
    let message = |(at, item): (usize, PyResult<Bound<'_, PyAny>>)| {
        let item = item?;
        let wrong = || {
            Fault::format(format!(
                "message {}: a dictionary with the strings \"role\" and \"content\" was expected",
                at + 1
            ))
        };
        let fields = item.cast::<PyDict>().map_err(|_| wrong())?;
        let text = |key: &str| -> Outcome<String> {
            let value = fields.get_item(key)?.ok_or_else(wrong)?;
            Ok(value.cast::<PyString>().map_err(|_| wrong())?.to_string())
        };
        if fields.len() != 2 {
            return Err(wrong());
        }
        Ok(Message::new(text("role")?, text("content")?))
    };
    given.try_iter()?.enumerate().map(message).collect()
}
