//! What a request for text asks for, of chat and of completions: the fields that they share, and
//! the jobs that they become.

use std::hash::{BuildHasher, RandomState};
use std::ops::ControlFlow;
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::State;
use super::fields::{ABOVE_ZERO, Fields};
use super::refusal::Refusal;
use crate::adapter::SharedAdapter;
use crate::engine::{Event, Job, Listener};
use crate::runtime::SamplerOptions;

/// Replies to one request.
const REPLIES: u64 = 16;
/// Stop texts, as OpenAI allows; and bytes of one.
const STOPS: usize = 4;
const STOP_BYTES: usize = 1024;

/// How replies are written.
#[derive(Debug)]
pub(super) struct Ask {
    /// The name that the request gave.
    pub(super) model: String,
    /// Adapters with their weights, as they were when the request came.
    pub(super) adapters: Weighted,
    pub(super) sampling: SamplerOptions,
    /// The most tokens of a reply; what there is room for if `None`.
    pub(super) tokens: Option<usize>,
    pub(super) stops: Vec<String>,
    /// Replies to each prompt.
    pub(super) replies: usize,
    pub(super) stream: bool,
    pub(super) include_usage: bool,
}

impl Ask {
    /// Takes the fields that all requests for text have.
    pub(super) fn read(fields: &mut Fields, state: &State) -> Result<Self, Refusal> {
        let decoder = state.decoder()?;
        let model = fields.text("model")?.unwrap_or_else(|| decoder.name.clone());
        let most = decoder.scheduler.limits().max_active;
        let adapters = adapters(state, (&decoder.name, most), &model, fields.take("adapters"))?;
        let defaults = SamplerOptions::default();
        // OpenAI's own defaults: temperature 1, and another reply every time.
        let sampling = SamplerOptions {
            temperature: fields.number("temperature", 0.0..=2.0)?.unwrap_or(1.0),
            top_p: fields.number("top_p", ABOVE_ZERO..=1.0)?.unwrap_or(defaults.top_p),
            top_k: fields.count("top_k", 0..=u64::from(u32::MAX))?.unwrap_or(0) as usize,
            min_p: fields.number("min_p", 0.0..=1.0)?.unwrap_or(defaults.min_p),
            repetition_penalty: fields
                .number("repetition_penalty", ABOVE_ZERO..=10.0)?
                .unwrap_or(defaults.repetition_penalty),
            seed: fields
                .count("seed", 0..=u64::MAX)?
                .unwrap_or_else(|| RandomState::new().hash_one(0)),
        };
        let stream = fields.flag("stream")?;
        let mut options = match fields.take("stream_options") {
            Some(Value::Object(options)) if stream => Fields::from(options),
            None => Fields::from(serde_json::Map::new()),
            Some(_) => {
                let reason = "stream_options: an object is expected, and only with stream: true";
                return Err(Refusal::field("stream_options", reason));
            }
        };
        let include_usage = options.flag("include_usage")?;
        options.finish()?;
        Ok(Self {
            model,
            adapters,
            sampling,
            tokens: fields.count("max_tokens", 1..=u64::from(u32::MAX))?.map(|n| n as usize),
            stops: stops(fields)?,
            replies: fields.count("n", 1..=REPLIES)?.unwrap_or(1) as usize,
            stream,
            include_usage,
        })
    }

    /// Submits a job for each reply to each prompt; the events come with the number of their reply,
    /// prompt after prompt.
    pub(super) fn submit(
        &self,
        state: &State,
        prompts: &[Vec<u32>],
    ) -> Result<UnboundedReceiver<(usize, Event)>, Refusal> {
        let (sender, events) = unbounded_channel();
        let scheduler = &state.decoder()?.scheduler;
        let context = scheduler.limits().context;
        let mut jobs = Vec::new();
        for prompt in prompts {
            // One token at least must come: the prompt's last one gives it without room of its own.
            let room = (context + 1).saturating_sub(prompt.len());
            if room == 0 {
                let length = prompt.len();
                return Err(Refusal::context(format!(
                    "the prompt has {length} tokens, there is room for {context}"
                )));
            }
            for _ in 0..self.replies {
                let place = jobs.len();
                let seed = self.sampling.seed.wrapping_add(place as u64);
                jobs.push(Job {
                    prompt: prompt.clone(),
                    adapters: self.adapters.clone(),
                    tokens: self.tokens.unwrap_or(room),
                    stops: self.stops.clone(),
                    sampling: SamplerOptions { seed, ..self.sampling },
                    listener: Box::new(Client { place, sender: sender.clone() }),
                });
            }
        }
        scheduler.submit_all(jobs)?;
        Ok(events)
    }
}

/// Who waits for a reply, and the reply's number.
struct Client {
    place: usize,
    sender: UnboundedSender<(usize, Event)>,
}

impl Listener for Client {
    fn hear(&mut self, event: Event) -> ControlFlow<()> {
        match self.sender.send((self.place, event)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }

    fn is_gone(&self) -> bool {
        self.sender.is_closed()
    }
}

/// Adapters with their weights.
pub(super) type Weighted = Vec<(Arc<SharedAdapter>, f32)>;

/// The adapters of a request to a base, called so and with room for so many: that of the model's
/// name, or those of the list `[{"name", "weight"}]` over the base.
pub(super) fn adapters(
    state: &State,
    (base, most): (&str, usize),
    model: &str,
    listed: Option<Value>,
) -> Result<Weighted, Refusal> {
    let one = |name: &str, weight: f32| Ok((state.adapter(name)?.adapter, weight));
    let Some(listed) = listed else {
        return if model == base { Ok(Vec::new()) } else { Ok(vec![one(model, 1.0)?]) };
    };
    let wrong = |reason: &str| Refusal::field("adapters", format!("adapters: {reason}"));
    if model != base {
        return Err(wrong("a list goes with the base's name as model, not with an adapter's"));
    }
    let Value::Array(items) = listed else { return Err(wrong("a list was expected")) };
    if items.len() > most {
        return Err(wrong(&format!("{} of them, at most {most} at a time", items.len())));
    }
    let read = |item: Value| {
        let Value::Object(item) = item else { return Err(wrong("one is no object")) };
        let mut fields = Fields::from(item);
        let name = fields.required("name")?;
        let weight = fields.number("weight", -100.0..=100.0)?.unwrap_or(1.0);
        fields.finish_all()?;
        one(&name, weight)
    };
    items.into_iter().map(read).collect()
}

/// One stop text or a list of them.
fn stops(fields: &mut Fields) -> Result<Vec<String>, Refusal> {
    let wrong = || {
        let reason =
            format!("stop: at most {STOPS} texts of 1 to {STOP_BYTES} bytes were expected");
        Refusal::field("stop", reason)
    };
    let items = match fields.take("stop") {
        None => return Ok(Vec::new()),
        Some(Value::Array(items)) if items.len() <= STOPS => items,
        Some(one @ Value::String(_)) => vec![one],
        Some(_) => return Err(wrong()),
    };
    let text = |item: Value| match item {
        Value::String(text) if !text.is_empty() && text.len() <= STOP_BYTES => Ok(text),
        _ => Err(wrong()),
    };
    items.into_iter().map(text).collect()
}
