//! `/v1/chat/completions` and `/v1/completions`: prompts out of requests, replies into objects.

use std::sync::Arc;

use axum::extract;
use axum::response::Response;
use serde_json::Value;

use super::State;
use super::ask::Ask;
use super::body::{Body, check_length};
use super::fields::{Fields, Input, inputs};
use super::refusal::Refusal;
use super::reply::{Kind, answer};
use crate::text::{Message, TemplateVariables, TextError};

/// Messages of one conversation.
const MESSAGES: usize = 4096;
/// Prompts of one request.
const PROMPTS: usize = 64;
/// Tokens of a completion that names no number, as OpenAI has it.
const COMPLETION: usize = 16;

/// Answers a conversation.
pub(super) async fn chat(
    extract::State(state): extract::State<Arc<State>>,
    Body(body): Body,
) -> Result<Response, Refusal> {
    let (ask, prompt) = state.work(move |state| conversation(state, &body)).await?;
    answer(&state, Kind::Chat, &ask, vec![prompt]).await
}

/// Continues texts.
pub(super) async fn complete(
    extract::State(state): extract::State<Arc<State>>,
    Body(body): Body,
) -> Result<Response, Refusal> {
    let (ask, prompts) = state.work(move |state| texts(state, &body)).await?;
    answer(&state, Kind::Completion, &ask, prompts).await
}

/// What a conversation asks for, and its prompt.
fn conversation(state: &State, body: &[u8]) -> Result<(Ask, Vec<u32>), Refusal> {
    let mut fields = Fields::read(body)?;
    let mut ask = Ask::read(&mut fields, state)?;
    // The newer name of the same number counts.
    let newer = fields.count("max_completion_tokens", 1..=u64::from(u32::MAX))?;
    ask.tokens = newer.map(|tokens| tokens as usize).or(ask.tokens);
    let messages = messages(fields.take("messages"))?;
    let variables = variables(fields.take("chat_template_kwargs"))?;
    fields.finish()?;
    Ok((ask, rendered(state, &messages, &variables)?))
}

/// The tokens of a conversation.
pub(super) fn rendered(
    state: &State,
    messages: &[Message],
    variables: &TemplateVariables,
) -> Result<Vec<u32>, Refusal> {
    let scheduler = &state.decoder()?.scheduler;
    let (tokenizer, context) = (scheduler.tokenizer(), scheduler.limits().context);
    let refused = |error: TextError| Refusal::field("messages", error.to_string());
    let bytes = messages.iter().map(|message| message.content.len()).sum();
    check_length("messages", bytes, context)?;
    let text = tokenizer.render_chat_with(messages, true, variables).map_err(refused)?;
    check_length("messages", text.len(), context)?;
    tokenizer.encode_prompt(&text).map_err(refused)
}

/// What a request for completions asks for, and its prompts.
fn texts(state: &State, body: &[u8]) -> Result<(Ask, Vec<Vec<u32>>), Refusal> {
    let mut fields = Fields::read(body)?;
    let mut ask = Ask::read(&mut fields, state)?;
    ask.tokens = Some(ask.tokens.unwrap_or(COMPLETION));
    let prompts = prompts(state, fields.take("prompt"))?;
    fields.finish()?;
    Ok((ask, prompts))
}

/// The messages of a conversation; a content is a text or a list of parts that are texts.
pub(super) fn messages(value: Option<Value>) -> Result<Vec<Message>, Refusal> {
    let wrong = |reason: String| Refusal::field("messages", format!("messages: {reason}"));
    let items = match value {
        Some(Value::Array(items)) if !items.is_empty() && items.len() <= MESSAGES => items,
        _ => return Err(wrong(format!("a list of 1 to {MESSAGES} was expected"))),
    };
    let read = |(number, item): (usize, Value)| {
        let wrong = |reason: &str| wrong(format!("number {number}: {reason}"));
        let role = item["role"].as_str().ok_or_else(|| wrong("it has no role"))?;
        if ["tool_calls", "function_call"].iter().any(|key| !item[*key].is_null()) {
            return Err(wrong("calls of tools are not supported by this server"));
        }
        let content = match &item["content"] {
            Value::String(text) => text.clone(),
            Value::Array(parts) => {
                let text = |part: &Value| Some(part["text"].as_str()?.to_owned());
                let texts: Option<Vec<String>> = parts.iter().map(text).collect();
                texts.ok_or_else(|| wrong("a part of its content is no text"))?.concat()
            }
            _ => return Err(wrong("its content is no text")),
        };
        Ok(Message::new(role, content))
    };
    items.into_iter().enumerate().map(read).collect()
}

/// What the chat template is told beside the conversation.
fn variables(value: Option<Value>) -> Result<TemplateVariables, Refusal> {
    let key = "chat_template_kwargs";
    let mut variables = TemplateVariables::new();
    let Some(value) = value else { return Ok(variables) };
    let Value::Object(fields) = value else {
        return Err(Refusal::field(key, format!("{key}: an object was expected")));
    };
    for (name, value) in fields {
        variables
            .set(&name, &value.to_string())
            .map_err(|error| Refusal::field(key, format!("{key}: {error}")))?;
    }
    Ok(variables)
}

/// The tokens of the prompts.
fn prompts(state: &State, value: Option<Value>) -> Result<Vec<Vec<u32>>, Refusal> {
    let scheduler = &state.decoder()?.scheduler;
    let wrong = |reason: &str| Refusal::field("prompt", format!("prompt: {reason}"));
    let encode = |text: &str| {
        check_length("prompt", text.len(), scheduler.limits().context)?;
        scheduler.tokenizer().encode_prompt(text).map_err(|error| wrong(&error.to_string()))
    };
    let prompts = inputs("prompt", value, PROMPTS)?;
    let prompts = prompts.into_iter().map(|prompt| match prompt {
        Input::Text(text) => encode(&text),
        Input::Tokens(ids) => Ok(ids),
    });
    let prompts: Vec<Vec<u32>> = prompts.collect::<Result<_, _>>()?;
    if prompts.iter().any(Vec::is_empty) {
        return Err(wrong("a prompt needs at least one token"));
    }
    Ok(prompts)
}
