//! Replies as objects: whole ones, or chunks as server-sent events while they are written.

use std::convert::Infallible;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::sync::mpsc::{Sender, UnboundedReceiver, channel};
use tokio_stream::wrappers::ReceiverStream;

use super::State;
use super::ask::Ask;
use super::refusal::Refusal;
use crate::engine::{End, Event};

/// How often a client hears that its reply is still coming.
const PING: Duration = Duration::from_secs(15);
/// Chunks that wait for a slow client.
const CHUNKS: usize = 64;

/// Which of the two dialects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Chat,
    Completion,
}

/// What all objects of one reply share.
#[derive(Debug, Clone)]
struct Head {
    kind: Kind,
    id: String,
    created: u64,
    model: String,
}

/// Tokens read and written.
#[derive(Debug, Clone, Copy, Default)]
struct Usage {
    prompt: usize,
    known: usize,
    reply: usize,
}

impl Usage {
    fn object(self) -> Value {
        json!({
            "prompt_tokens": self.prompt,
            "completion_tokens": self.reply,
            "total_tokens": self.prompt + self.reply,
            "prompt_tokens_details": { "cached_tokens": self.known },
        })
    }
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Why a reply ended, in OpenAI's words.
fn reason(end: End) -> &'static str {
    match end {
        End::Length | End::Context => "length",
        _ => "stop",
    }
}

/// Lets the replies to these prompts be written.
pub(super) async fn answer(
    state: &State,
    kind: Kind,
    ask: &Ask,
    prompts: Vec<Vec<u32>>,
) -> Result<Response, Refusal> {
    let count = prompts.len() * ask.replies;
    let usage = Usage { prompt: prompts.iter().map(Vec::len).sum(), ..Usage::default() };
    let mut events = ask.submit(state, &prompts)?;
    let prefix = if kind == Kind::Chat { "chatcmpl" } else { "cmpl" };
    let head = Head { kind, id: state.id(prefix), created: now(), model: ask.model.clone() };
    if !ask.stream {
        return whole(&head, usage, &mut events, count).await.map(IntoResponse::into_response);
    }
    // What is wrong with the first reply is an answer with a status; later, it is an event.
    let first = match events.recv().await {
        Some((_, Event::Failed(error))) => return Err(error.into()),
        Some(first) => first,
        None => return Err(gone()),
    };
    let (sender, chunks) = channel(CHUNKS);
    let stream = Stream { head, usage, include_usage: ask.include_usage, sender };
    tokio::spawn(stream.run(first, events, count));
    let body = Sse::new(ReceiverStream::new(chunks));
    Ok(body.keep_alive(KeepAlive::new().interval(PING)).into_response())
}

/// What is said when the scheduler has ended under a request.
pub(super) fn gone() -> Refusal {
    let status = axum::http::StatusCode::INTERNAL_SERVER_ERROR;
    Refusal::new(status, "model_failed", "the model has stopped: start the server again")
}

/// Waits for all replies.
async fn whole(
    head: &Head,
    mut usage: Usage,
    events: &mut UnboundedReceiver<(usize, Event)>,
    count: usize,
) -> Result<axum::Json<Value>, Refusal> {
    let mut texts = vec![String::new(); count];
    let mut ends: Vec<Option<End>> = vec![None; count];
    while ends.iter().any(Option::is_none) {
        let Some((place, event)) = events.recv().await else { return Err(gone()) };
        match event {
            Event::Started { known } => usage.known += known,
            Event::Text(text) => texts[place].push_str(&text),
            Event::Ended { end, tokens } => {
                usage.reply += tokens;
                ends[place] = Some(end);
            }
            Event::Failed(error) => return Err(error.into()),
        }
    }
    let choice = |(index, (text, end)): (usize, (String, Option<End>))| {
        let reason = end.map(reason);
        match head.kind {
            Kind::Chat => json!({
                "index": index, "finish_reason": reason, "logprobs": null,
                "message": { "role": "assistant", "content": text, "refusal": null },
            }),
            Kind::Completion => json!({
                "index": index, "finish_reason": reason, "logprobs": null, "text": text,
            }),
        }
    };
    let choices: Vec<Value> = texts.into_iter().zip(ends).enumerate().map(choice).collect();
    let object = match head.kind {
        Kind::Chat => "chat.completion",
        Kind::Completion => "text_completion",
    };
    Ok(axum::Json(json!({
        "id": head.id, "object": object, "created": head.created, "model": head.model,
        "choices": choices, "usage": usage.object(),
    })))
}

/// A reply on its way to a client.
struct Stream {
    head: Head,
    usage: Usage,
    include_usage: bool,
    sender: Sender<Result<sse::Event, Infallible>>,
}

impl Stream {
    async fn run(
        mut self,
        first: (usize, Event),
        mut events: UnboundedReceiver<(usize, Event)>,
        count: usize,
    ) {
        let (mut left, mut next) = (count, Some(first));
        while left > 0 {
            let event = match next.take() {
                Some(event) => Some(event),
                None => events.recv().await,
            };
            let Some((place, event)) = event else {
                self.send(gone().body()).await;
                break;
            };
            let is_sent = match event {
                Event::Started { known } => {
                    self.usage.known += known;
                    self.head.kind != Kind::Chat
                        || self.send(self.chunk(place, Some(""), None)).await
                }
                Event::Text(text) => self.send(self.chunk(place, Some(&text), None)).await,
                Event::Ended { end, tokens } => {
                    self.usage.reply += tokens;
                    left -= 1;
                    self.send(self.chunk(place, None, Some(reason(end)))).await
                }
                Event::Failed(error) => {
                    self.send(Refusal::from(error).body()).await;
                    break;
                }
            };
            // Nobody reads any more: the receiver goes with this task, and the jobs end.
            if !is_sent {
                return;
            }
        }
        if left == 0 && self.include_usage {
            let mut chunk = self.chunk(0, None, None);
            chunk["choices"] = json!([]);
            chunk["usage"] = self.usage.object();
            self.send(chunk).await;
        }
        let _ = self.sender.send(Ok(sse::Event::default().data("[DONE]"))).await;
    }

    async fn send(&self, object: Value) -> bool {
        self.sender.send(Ok(sse::Event::default().data(object.to_string()))).await.is_ok()
    }

    /// One chunk of a reply.
    fn chunk(&self, index: usize, text: Option<&str>, end: Option<&str>) -> Value {
        let head = &self.head;
        let (object, choice) = match (head.kind, text) {
            (Kind::Chat, Some("")) => {
                let delta = json!({ "role": "assistant", "content": "" });
                ("chat.completion.chunk", json!({ "delta": delta }))
            }
            (Kind::Chat, Some(text)) => {
                ("chat.completion.chunk", json!({ "delta": { "content": text } }))
            }
            (Kind::Chat, None) => ("chat.completion.chunk", json!({ "delta": {} })),
            (Kind::Completion, text) => {
                ("text_completion", json!({ "text": text.unwrap_or_default() }))
            }
        };
        let mut choice = choice;
        choice["index"] = index.into();
        choice["finish_reason"] = end.into();
        choice["logprobs"] = Value::Null;
        let mut chunk = json!({
            "id": head.id, "object": object, "created": head.created, "model": head.model,
            "choices": [choice],
        });
        if self.include_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }
}
