//! Chat templates, in the environment that transformers renders them in: blocks are trimmed, Python's string methods work,
//! `raise_exception` stops with a message. `strftime_now` is not offered: a prompt that depends on the clock is not repeatable.

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value, context};

use super::TextError;

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

/// Steps after which a template counts as endless; a real one takes a few dozen a message.
const FUEL: u64 = 10_000_000;

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
    let raise = |message: String| -> Result<String, Error> { Err(Error::new(ErrorKind::InvalidOperation, message)) };
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.map_err(|error| TextError(error.to_string()))?);
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", raise);
    let message = |m: &Message| context! { role => m.role.as_str(), content => m.content.as_str() };
    let messages: Vec<Value> = messages.iter().map(message).collect();
    let values = context! { messages, add_generation_prompt, bos_token, eos_token };
    let rendered = environment.render_str(template, values);
    rendered.map_err(|error| TextError(format!("the chat template cannot be rendered: {error}")))
}
