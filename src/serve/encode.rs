//! `/v1/embeddings` and `/classify`: vectors and labels of texts.

use std::sync::Arc;

use axum::Json;
use axum::extract;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::State;
use super::ask::{Weighted, adapters};
use super::body::{Body, check_length};
use super::fields::{Fields, Input, inputs};
use super::refusal::Refusal;
use super::reply::{gone, now};
use crate::engine::{Answer, TextJob, TextListener, Wish};

/// Texts of one request, as OpenAI allows.
const TEXTS: usize = 2048;

/// A request, read.
struct Texts {
    model: String,
    adapters: Weighted,
    texts: Vec<Vec<u32>>,
}

impl Texts {
    /// Tokens of all texts.
    fn tokens(&self) -> usize {
        self.texts.iter().map(Vec::len).sum()
    }
}

/// Vectors: `{input, model?, encoding_format?, truncate_prompt_tokens?, adapters?}`.
pub(super) async fn embeddings(
    extract::State(state): extract::State<Arc<State>>,
    Body(body): Body,
) -> Result<Json<Value>, Refusal> {
    let read = move |state: &State| {
        let mut fields = Fields::read(&body)?;
        let as_bytes = match fields.text("encoding_format")?.as_deref() {
            None | Some("float") => false,
            Some("base64") => true,
            Some(_) => {
                let reason = "encoding_format: float or base64 was expected";
                return Err(Refusal::field("encoding_format", reason));
            }
        };
        Ok((texts(state, fields)?, as_bytes))
    };
    let (asked, as_bytes) = state.work(read).await?;
    let (model, tokens) = (asked.model.clone(), asked.tokens());
    let rows = answer(&state, asked, Wish::Embeddings).await?;
    let vector = |row: &[f32]| match as_bytes {
        true => {
            let bytes: Vec<u8> = row.iter().flat_map(|value| value.to_le_bytes()).collect();
            Value::from(STANDARD.encode(bytes))
        }
        false => json!(row),
    };
    let one = |(index, row): (usize, &Vec<f32>)| json!({ "object": "embedding", "index": index, "embedding": vector(row) });
    let data: Vec<Value> = rows.iter().enumerate().map(one).collect();
    Ok(Json(json!({
        "object": "list", "model": model, "data": data,
        "usage": { "prompt_tokens": tokens, "total_tokens": tokens },
    })))
}

/// Labels: `{input, model, truncate_prompt_tokens?, adapters?}`; the adapter brings the classifier.
pub(super) async fn classify(
    extract::State(state): extract::State<Arc<State>>,
    Body(body): Body,
) -> Result<Json<Value>, Refusal> {
    let asked = state.work(move |state| texts(state, Fields::read(&body)?)).await?;
    let (model, tokens) = (asked.model.clone(), asked.tokens());
    let classifier = asked.adapters.iter().find_map(|(adapter, _)| {
        let labels = adapter.adapter().classifier()?.labels().map(str::to_owned).collect();
        Some::<Vec<String>>(labels)
    });
    let labels = classifier.ok_or_else(|| {
        let reason = "model: it has no classifier, and the base has none: name an adapter that \
                      brings one";
        Refusal::field("model", reason)
    })?;
    let rows = answer(&state, asked, Wish::Labels).await?;
    let one = |(index, row): (usize, &Vec<f32>)| {
        // Of equals the first.
        let best = labels.iter().zip(row).rev().max_by(|a, b| a.1.total_cmp(b.1));
        json!({
            "index": index, "label": best.map(|(label, _)| label), "probs": row,
            "num_classes": row.len(),
        })
    };
    let data: Vec<Value> = rows.iter().enumerate().map(one).collect();
    Ok(Json(json!({
        "id": state.id("classify"), "object": "list", "created": now(), "model": model,
        "labels": labels, "data": data,
        "usage": {
            "prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0,
            "prompt_tokens_details": null,
        },
    })))
}

/// The texts of a request, and the adapters that read them.
fn texts(state: &State, mut fields: Fields) -> Result<Texts, Refusal> {
    let encoder = state.encoder()?;
    let limits = encoder.scheduler.limits();
    let model = fields.text("model")?.unwrap_or_else(|| encoder.name.clone());
    let listed = fields.take("adapters");
    let adapters = adapters(state, (&encoder.name, limits.max_active), &model, listed)?;
    let most = cut(&mut fields, limits.context)?;
    let asked = inputs("input", fields.take("input"), TEXTS)?;
    fields.finish()?;
    let tokenizer = encoder.scheduler.tokenizer();
    let wrong = |reason: String| Refusal::field("input", format!("input: {reason}"));
    let read = |(number, input): (usize, Input)| {
        let text = match input {
            Input::Tokens(ids) if ids.is_empty() => {
                return Err(wrong(format!("text {number} has no token")));
            }
            Input::Tokens(ids) => return Ok(ids),
            Input::Text(text) => text,
        };
        check_length("input", text.len(), limits.context)?;
        let length = most.unwrap_or(limits.context);
        let (ids, lost) =
            tokenizer.encode_text(&text, length).map_err(|error| wrong(error.to_string()))?;
        if lost > 0 && most.is_none() {
            let (tokens, context) = (ids.len() + lost, limits.context);
            return Err(Refusal::context(format!(
                "input: text {number} has {tokens} tokens, the model reads {context}: \
                 truncate_prompt_tokens: -1 cuts it"
            )));
        }
        Ok(ids)
    };
    let texts = asked.into_iter().enumerate().map(read).collect::<Result<_, _>>()?;
    Ok(Texts { model, adapters, texts })
}

/// How many tokens of a longer text are read; −1 is as many as the model reads, `None` that a
/// longer one is refused.
fn cut(fields: &mut Fields, context: usize) -> Result<Option<usize>, Refusal> {
    let key = "truncate_prompt_tokens";
    let Some(value) = fields.take(key) else { return Ok(None) };
    match value.as_i64() {
        Some(-1) => Ok(Some(context)),
        Some(number @ 1..) if number as u64 <= context as u64 => Ok(Some(number as usize)),
        _ => {
            let reason = format!("{key}: {value}, -1 or a number from 1 to {context} was expected");
            Err(Refusal::field(key, reason))
        }
    }
}

/// Who waits for the rows.
struct Client(oneshot::Sender<Answer>);

impl TextListener for Client {
    fn hear(self: Box<Self>, answer: Answer) {
        // Who is gone hears nothing.
        let _ = self.0.send(answer);
    }

    fn is_gone(&self) -> bool {
        self.0.is_closed()
    }
}

async fn answer(state: &State, asked: Texts, wish: Wish) -> Result<Vec<Vec<f32>>, Refusal> {
    let (sender, rows) = oneshot::channel();
    let listener = Box::new(Client(sender));
    let Texts { adapters, texts, .. } = asked;
    state.encoder()?.scheduler.submit(TextJob { texts, adapters, wish, listener })?;
    Ok(rows.await.map_err(|_| gone())??)
}
