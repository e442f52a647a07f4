//! The fields of a request, taken one by one; what is left in the end was asked for and is not done.

use std::ops::RangeInclusive;

use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use super::refusal::Refusal;

/// Fields that say nothing about the answer.
const HARMLESS: [&str; 8] = [
    "metadata",
    "parallel_tool_calls",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
    "user",
];

/// The lower end of a range that a number must be above.
pub(super) const ABOVE_ZERO: f64 = f32::MIN_POSITIVE as f64;

/// Does a field that this server does not know ask for what is done anyway?
fn asks_nothing(key: &str, value: &Value) -> bool {
    match key {
        _ if HARMLESS.contains(&key) => true,
        "frequency_penalty" | "presence_penalty" | "min_tokens" | "top_logprobs" => {
            value.as_f64() == Some(0.0)
        }
        "echo" | "ignore_eos" | "include_stop_str_in_output" | "logprobs" | "use_beam_search" => {
            *value == false
        }
        "add_generation_prompt" | "skip_special_tokens" | "spaces_between_special_tokens" => {
            *value == true
        }
        "best_of" => *value == 1,
        "logit_bias" => *value == json!({}),
        "functions" | "stop_token_ids" | "tools" => *value == json!([]),
        "function_call" | "tool_choice" => *value == "none" || *value == "auto",
        "modalities" => *value == json!(["text"]),
        "response_format" => *value == json!({ "type": "text" }),
        "suffix" => *value == "",
        _ => false,
    }
}

/// A text of a request, or its tokens.
#[derive(Debug)]
pub(super) enum Input {
    Text(String),
    Tokens(Vec<u32>),
}

/// One text or a list of up to `most`, each a string or token ids.
pub(super) fn inputs(key: &str, value: Option<Value>, most: usize) -> Result<Vec<Input>, Refusal> {
    let expected = || {
        let reason = format!("a text, token ids, or a list of up to {most} of them was expected");
        Refusal::field(key, format!("{key}: {reason}"))
    };
    let ids = |items: &[Value]| {
        let id = |item: &Value| item.as_u64().and_then(|id| u32::try_from(id).ok());
        items.iter().map(id).collect::<Option<Vec<u32>>>()
    };
    let one = |item: Value| match item {
        Value::String(text) => Ok(Input::Text(text)),
        Value::Array(items) => ids(&items).map(Input::Tokens).ok_or_else(expected),
        _ => Err(expected()),
    };
    match value {
        Some(text @ Value::String(_)) => Ok(vec![one(text)?]),
        Some(Value::Array(items)) if !items.is_empty() => match ids(&items) {
            Some(ids) => Ok(vec![Input::Tokens(ids)]),
            None if items.len() > most => Err(expected()),
            None => items.into_iter().map(one).collect(),
        },
        _ => Err(expected()),
    }
}

/// A JSON object of a request.
#[derive(Debug)]
pub(super) struct Fields(Map<String, Value>);

impl From<Map<String, Value>> for Fields {
    fn from(fields: Map<String, Value>) -> Self {
        Self(fields)
    }
}

impl Fields {
    pub(super) fn read(body: &[u8]) -> Result<Self, Refusal> {
        let wrong = |message| Refusal::new(StatusCode::BAD_REQUEST, "invalid_json", message);
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(_) => Err(wrong("the body is no JSON object".to_owned())),
            Err(error) => Err(wrong(format!("the body is not JSON: {error}"))),
        }
    }

    /// The value of a field; `null` is as good as none.
    pub(super) fn take(&mut self, key: &str) -> Option<Value> {
        self.0.remove(key).filter(|value| !value.is_null())
    }

    pub(super) fn text(&mut self, key: &str) -> Result<Option<String>, Refusal> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Refusal::field(key, format!("{key}: a string was expected"))),
        }
    }

    pub(super) fn required(&mut self, key: &str) -> Result<String, Refusal> {
        let missing =
            || Refusal::field(key, format!("{key}: a string was expected, there is none"));
        self.text(key)?.ok_or_else(missing)
    }

    pub(super) fn flag(&mut self, key: &str) -> Result<bool, Refusal> {
        match self.take(key) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(_) => Err(Refusal::field(key, format!("{key}: true or false was expected"))),
        }
    }

    pub(super) fn number(
        &mut self,
        key: &str,
        range: RangeInclusive<f64>,
    ) -> Result<Option<f32>, Refusal> {
        let Some(value) = self.take(key) else { return Ok(None) };
        match value.as_f64().filter(|number| range.contains(number)) {
            Some(number) => Ok(Some(number as f32)),
            None => {
                let from = match *range.start() {
                    ABOVE_ZERO => "above 0, at most".to_owned(),
                    start => format!("from {start} to"),
                };
                let end = range.end();
                let message = format!("{key}: {value}, a number {from} {end} was expected");
                Err(Refusal::field(key, message))
            }
        }
    }

    pub(super) fn count(
        &mut self,
        key: &str,
        range: RangeInclusive<u64>,
    ) -> Result<Option<u64>, Refusal> {
        let Some(value) = self.take(key) else { return Ok(None) };
        match value.as_u64().filter(|number| range.contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(Refusal::field(
                key,
                format!(
                    "{key}: {value}, a whole number from {} to {} was expected",
                    range.start(),
                    range.end()
                ),
            )),
        }
    }

    /// Refuses whatever is left.
    pub(super) fn finish_all(self) -> Result<(), Refusal> {
        self.0.keys().next().map_or(Ok(()), |key| Err(Refusal::unsupported(key)))
    }

    /// Refuses what is left, unless it is harmless or asks for nothing.
    pub(super) fn finish(self) -> Result<(), Refusal> {
        let asks = |key: &str, value: &Value| !value.is_null() && !asks_nothing(key, value);
        match self.0.iter().find(|(key, value)| asks(key, value)) {
            None => Ok(()),
            Some((key, _)) => Err(Refusal::unsupported(key)),
        }
    }
}
