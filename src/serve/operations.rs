//! What surrounds the model: tokens, health, metrics, keys.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Json;
use axum::extract::{self, Request};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::State;
use super::body::{Body, check_length};
use super::chat::{messages, rendered};
use super::fields::Fields;
use super::refusal::Refusal;
use crate::text::{TemplateVariables, TextError, Tokenizer};

/// `{prompt | messages, add_special_tokens?}` into token ids, as vLLM has it.
pub(super) async fn tokenize(
    extract::State(state): extract::State<Arc<State>>,
    Body(body): Body,
) -> Result<Json<Value>, Refusal> {
    let (ids, context) = state.work(move |state| tokens(state, &body)).await?;
    Ok(Json(json!({ "count": ids.len(), "max_model_len": context, "tokens": ids })))
}

/// The tokenizer of a base, with its context; the decoder's unless the encoder is named, or alone.
fn tokenizer(state: &State, model: Option<Value>) -> Result<(&Tokenizer, usize), Refusal> {
    match (&state.models.decoder, &state.models.encoder) {
        (Some(decoder), encoder)
            if encoder
                .as_ref()
                .is_none_or(|encoder| model != Some(encoder.name.as_str().into())) =>
        {
            Ok((decoder.scheduler.tokenizer(), decoder.scheduler.limits().context))
        }
        _ => {
            let scheduler = &state.encoder()?.scheduler;
            Ok((scheduler.tokenizer(), scheduler.limits().context))
        }
    }
}

/// The ids of a text, and the context of the model that reads it.
fn tokens(state: &State, body: &[u8]) -> Result<(Vec<u32>, usize), Refusal> {
    let mut fields = Fields::read(body)?;
    let (tokenizer, context) = tokenizer(state, fields.take("model"))?;
    let is_plain = fields.take("add_special_tokens") == Some(Value::Bool(false));
    let prompt = fields.text("prompt")?;
    let messages = match prompt {
        Some(_) => Vec::new(),
        None => messages(fields.take("messages"))?,
    };
    fields.finish()?;
    let Some(text) = prompt else {
        let ids = rendered(state, &messages, &TemplateVariables::new())?;
        return Ok((ids, context));
    };
    check_length("prompt", text.len(), context)?;
    let ids = match is_plain {
        true => tokenizer.encode(&text, true),
        false => tokenizer.encode_for_model(&text),
    };
    Ok((ids.map_err(|error| of_text("prompt", &error))?, context))
}

fn of_text(param: &str, error: &TextError) -> Refusal {
    Refusal::field(param, error.to_string())
}

/// `{tokens}` into text.
pub(super) async fn detokenize(
    extract::State(state): extract::State<Arc<State>>,
    Body(body): Body,
) -> Result<Json<Value>, Refusal> {
    let text = state.work(move |state| text(state, &body)).await?;
    Ok(Json(json!({ "prompt": text })))
}

fn text(state: &State, body: &[u8]) -> Result<String, Refusal> {
    let mut fields = Fields::read(body)?;
    let (tokenizer, _) = tokenizer(state, fields.take("model"))?;
    let wrong = |reason: &str| Refusal::field("tokens", format!("tokens: {reason}"));
    let expected = || wrong("a list of token ids was expected");
    let Some(Value::Array(items)) = fields.take("tokens") else { return Err(expected()) };
    fields.finish()?;
    let id = |item: &Value| item.as_u64().and_then(|id| u32::try_from(id).ok());
    let ids: Vec<u32> = items.iter().map(id).collect::<Option<_>>().ok_or_else(expected)?;
    if let Some(id) = ids.iter().find(|&&id| tokenizer.token(id).is_none()) {
        return Err(wrong(&format!("the vocabulary has no token {id}")));
    }
    tokenizer.decode(&ids, true).map_err(|error| of_text("tokens", &error))
}

/// The process answers.
pub(super) async fn health() -> StatusCode {
    StatusCode::OK
}

/// Requests are taken.
pub(super) async fn ready(extract::State(state): extract::State<Arc<State>>) -> StatusCode {
    match state.is_ending.load(Ordering::Relaxed) {
        false => StatusCode::OK,
        true => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// Gauges by the names of the Kubernetes Model Server Protocol, as vLLM gives them.
pub(super) async fn metrics(extract::State(state): extract::State<Arc<State>>) -> Response {
    let label = |name: &str| {
        let name = name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        format!("{{model_name=\"{name}\"}}")
    };
    let (mut running, mut waiting, mut cached) = (Vec::new(), Vec::new(), Vec::new());
    if let Some(decoder) = &state.models.decoder {
        let (load, label) = (decoder.scheduler.load(), label(&decoder.name));
        running.push((label.clone(), load.running as f64));
        waiting.push((label.clone(), load.waiting as f64));
        cached.push((label, load.cached as f64 / load.room.max(1) as f64));
    }
    if let Some(encoder) = &state.models.encoder {
        // Texts share passes as they come: none waits for a place.
        running.push((label(&encoder.name), encoder.scheduler.taken() as f64));
        waiting.push((label(&encoder.name), 0.0));
    }
    let resident = state.registry.known().iter().filter(|known| known.is_resident).count();
    let mut text = String::new();
    for (name, help, values) in [
        ("vllm:num_requests_running", "Requests that are answered now.", running),
        ("vllm:num_requests_waiting", "Requests that wait.", waiting),
        ("vllm:kv_cache_usage_perc", "Share of the cache in use, 0 to 1.", cached),
        (
            "lowrank:adapters_resident",
            "Adapters in memory.",
            vec![(String::new(), resident as f64)],
        ),
    ] {
        if values.is_empty() {
            continue;
        }
        // Writing to a string does not fail.
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n");
        for (label, value) in values {
            let _ = writeln!(text, "{name}{label} {value}");
        }
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

/// The keys that requests must bring: digests, compared as a whole, so that the time says nothing
/// about the key.
#[derive(Debug, Default)]
pub(super) struct Keys {
    inference: Vec<[u8; 32]>,
    admin: Vec<[u8; 32]>,
}

impl Keys {
    pub(super) fn new(inference: &[String], admin: &[String]) -> Self {
        let digests = |keys: &[String]| keys.iter().map(|key| digest(key)).collect();
        Self { inference: digests(inference), admin: digests(admin) }
    }

    /// Does nobody need a key?
    pub(super) fn is_empty(&self) -> bool {
        self.inference.is_empty()
    }

    /// May a request with this key have its wish? An admin's key opens everything; without keys for
    /// admins, those for inference do.
    fn allow(&self, request: &Request, is_admin: bool) -> bool {
        let needed = match is_admin && !self.admin.is_empty() {
            true => &self.admin,
            false => &self.inference,
        };
        let value = request.headers().get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
        let given = value.and_then(|value| value.split_once(' '));
        let given = given.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("Bearer"));
        let given = given.map(|(_, key)| digest(key.trim()));
        needed.is_empty()
            || given.is_some_and(|given| needed.contains(&given) || self.admin.contains(&given))
    }
}

fn digest(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

/// Lets through who brings a key for inference.
pub(super) async fn inference_key(
    extract::State(state): extract::State<Arc<State>>,
    request: Request,
    next: Next,
) -> Response {
    guard(&state, request, next, false).await
}

/// Lets through who brings a key for changes.
pub(super) async fn admin_key(
    extract::State(state): extract::State<Arc<State>>,
    request: Request,
    next: Next,
) -> Response {
    guard(&state, request, next, true).await
}

async fn guard(state: &State, request: Request, next: Next, is_admin: bool) -> Response {
    if state.keys.allow(&request, is_admin) {
        return next.run(request).await;
    }
    let message = "a valid key is needed: Authorization: Bearer KEY";
    Refusal::new(StatusCode::UNAUTHORIZED, "invalid_api_key", message).into_response()
}

/// Repeats a request's id, and puts what the framework itself refuses (a body too large, a path that
/// is not there) into the form that clients read.
pub(super) async fn in_form(request: Request, next: Next) -> Response {
    let id = request.headers().get("x-request-id").cloned();
    let mut response = next.run(request).await;
    let status = response.status();
    let is_json = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    if (status.is_client_error() || status.is_server_error()) && !is_json {
        let (code, message) = match status {
            StatusCode::NOT_FOUND => ("unknown_url", "there is nothing at this address"),
            StatusCode::METHOD_NOT_ALLOWED => ("method", "this address takes another method"),
            StatusCode::PAYLOAD_TOO_LARGE => ("body_too_large", "the body is too large"),
            StatusCode::SERVICE_UNAVAILABLE => ("ending", "the server is about to end"),
            _ => ("invalid_request", "the request is not one that this server understands"),
        };
        response = Refusal::new(status, code, message).into_response();
    }
    if let Some(id) = id {
        response.headers_mut().insert("x-request-id", id);
    }
    response
}
