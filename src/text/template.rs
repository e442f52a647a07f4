//! Chat templates, in the environment that transformers renders them in: blocks are trimmed,
//! Python's string methods and its JSON work, `raise_exception` stops with a message,
//! `strftime_now` gives the date (so a template that asks for it renders differently tomorrow), `{%
//! generation %}` marks what training looks at and changes nothing here. Tools and documents are
//! `none` unless given. Methods of strings, lists and dictionaries are in `methods`.

use std::borrow::Cow;
use std::collections::BTreeMap;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Rest, Serde, merge_maps};
use minijinja::{Environment, Error, ErrorKind, Value, context};

use regex::Regex;

use super::gate::Job;
use super::{TextError, methods, python};

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

/// Values that a chat template reads beside the conversation: `enable_thinking`, `tools`, and
/// whatever else it asks for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TemplateVariables(BTreeMap<String, serde_json::Value>);

impl TemplateVariables {
    /// No variables.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `name` to `value`: JSON (`false`, `3`, `[…]`, `"text"`), or else the text as it is. The
    /// last value counts.
    ///
    /// # Errors
    /// If `name` is no name of a variable, or one that the conversation itself sets.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), TextError> {
        let is_name = name.chars().all(|c| c == '_' || c.is_alphanumeric())
            && name.chars().next().is_some_and(|c| !c.is_numeric());
        if !is_name {
            return Err(TextError(format!("{name:?} is no name of a template variable")));
        }
        if ["messages", "add_generation_prompt"].contains(&name) {
            return Err(TextError(format!(
                "the template variable {name} is set by the conversation, not from outside"
            )));
        }
        let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
        self.0.insert(name.to_owned(), value);
        Ok(())
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What a template is rendered with.
pub(super) struct Conversation<'c> {
    pub(super) messages: &'c [Message],
    pub(super) add_generation_prompt: bool,
    pub(super) bos_token: &'c str,
    pub(super) eos_token: &'c str,
    pub(super) variables: &'c TemplateVariables,
}

/// Renders `template`: the only place where one is run.
pub(super) fn render(template: &str, with: &Conversation<'_>) -> Result<String, TextError> {
    if template.is_empty() {
        return Err(TextError("the base has no chat template: give it a plain prompt".into()));
    }
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    let text = |message: &Message| message.role.len() + message.content.len();
    let given = serde_json::to_string(&with.variables.0).map_or(0, |json| json.len());
    let job = Job {
        source: &without_generation(template)?,
        syntax: syntax.map_err(|error| TextError(error.to_string()))?,
        bytes: with.messages.iter().map(text).sum::<usize>() + given,
        messages: with.messages.len(),
        methods: methods::call,
    };
    job.render(|environment| {
        prepare(environment);
        values(with)
    })
}

/// What a template reads.
fn values(with: &Conversation<'_>) -> Value {
    let message = |m: &Message| context! { role => m.role.as_str(), content => m.content.as_str() };
    let messages: Vec<Value> = with.messages.iter().map(message).collect();
    // As in transformers, what is given from outside goes before special tokens and tools.
    let variables = Value::from(Serde(&with.variables.0));
    let conversation = context! { messages, add_generation_prompt => with.add_generation_prompt };
    let defaults = context! {
        bos_token => with.bos_token,
        eos_token => with.eos_token,
        tools => (),
        documents => (),
    };
    merge_maps([defaults, variables, conversation])
}

/// Jinja as transformers sets it up.
fn prepare(environment: &mut Environment<'_>) {
    let raise = |message: String| -> Result<String, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    };
    environment.add_function("raise_exception", raise);
    environment.add_function("strftime_now", python::strftime_now);
    let cycler = |items: Rest<Value>| minijinja_contrib::globals::cycler(items.0);
    environment.add_function("cycler", cycler);
    environment.add_function("joiner", minijinja_contrib::globals::joiner);
    environment.add_filter("tojson", python::tojson);
    environment.add_filter("truncate", python::truncate);
    environment.add_filter("striptags", minijinja_contrib::filters::striptags);
    environment.add_filter("center", python::center);
    environment.add_filter("wordcount", python::word_count);
    environment.add_test("iterable", python::is_iterable);
    environment.add_test("sequence", python::is_sequence);
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
