//! Chat templates, in the environment that transformers renders them in: blocks are trimmed,
//! Python's string methods and its JSON work, `raise_exception` stops with a message,
//! `strftime_now` gives the date (so a template that asks for it renders differently tomorrow), `{%
//! generation %}` marks what training looks at and changes nothing here. Tools and documents are
//! `none`.

use std::borrow::Cow;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Error, ErrorKind, Value, context};

use regex::Regex;

use super::gate::Job;
use super::{TextError, python};

/// A message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What was said.
    pub content: String,
}

impl Message {
    /// A message.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

pub(super) fn render(
    template: &str,
    messages: &[Message],
    add_generation_prompt: bool,
    bos_token: &str,
    eos_token: &str,
) -> Result<String, TextError> {
    if template.is_empty() {
        return Err(TextError("the base has no chat template: give it a plain prompt".into()));
    }
    let raise = |message: String| -> Result<String, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    };
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    let job = Job {
        source: &without_generation(template)?,
        syntax: syntax.map_err(|error| TextError(error.to_string()))?,
        bytes: messages.iter().map(|message| message.role.len() + message.content.len()).sum(),
        messages: messages.len(),
        methods: minijinja_contrib::pycompat::unknown_method_callback,
    };
    job.render(|environment| {
        environment.add_function("raise_exception", raise);
        environment.add_function("strftime_now", python::strftime_now);
        environment.add_filter("tojson", python::tojson);
        environment.add_test("iterable", python::is_iterable);
        environment.add_test("sequence", python::is_sequence);
        let message =
            |m: &Message| context! { role => m.role.as_str(), content => m.content.as_str() };
        let messages: Vec<Value> = messages.iter().map(message).collect();
        context! { messages, add_generation_prompt, bos_token, eos_token, tools => (), documents => () }
    })
}

/// `{% generation %}` … `{% endgeneration %}` as a condition that always holds, so that the space
/// around them is trimmed alike.
fn without_generation(template: &str) -> Result<Cow<'_, str>, TextError> {
    if !template.contains("generation") {
        return Ok(template.into());
    }
    let tag = |name: &str| {
        Regex::new(&format!(r"\{{%([-+]?)\s*{name}\s*([-+]?)%\}}"))
            .map_err(|error| TextError(error.to_string()))
    };
    let opened = tag("generation")?.replace_all(template, "{%$1 if true $2%}").into_owned();
    Ok(tag("endgeneration")?.replace_all(&opened, "{%$1 endif $2%}").into_owned().into())
}
