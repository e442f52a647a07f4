//! A conversation of `chat`: what was said, which part of it the session still holds, and the next
//! reply.
//!
//! The session keeps the keys and values of what it has read: of the next prompt only what differs
//! is read. When the context is full, whole turns are left out from the oldest on; the system
//! message stays.

use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use lowrank::adapter::{AdapterSet, Choice};
use lowrank::engine::{Bounds, End};
use lowrank::file::{FileError, write_whole};
use lowrank::runtime::{Lookup, Sampler, Session};
use lowrank::text::{Message, Tokenizer};
use serde_json::json;

use crate::Failure;
use crate::output::{line, note, part};
use crate::prompt::{NO_SYSTEM, has_system};
use crate::reply::{Continues, read_prompt, write_reply};

pub(crate) struct Conversation<'c, 'w, 'm> {
    session: Session<'w, 'm>,
    tokenizer: &'c Tokenizer,
    /// As it was at the start.
    fresh: Sampler,
    sampler: Sampler,
    lookup: Option<Lookup>,
    /// The most tokens of a reply.
    tokens: usize,
    system: Option<String>,
    /// All that was said.
    messages: Vec<Message>,
    /// The first message that the model still reads.
    start: usize,
    was_told: bool,
    interrupt: &'c AtomicBool,
}

impl<'c, 'w, 'm> Conversation<'c, 'w, 'm> {
    /// An empty conversation whose replies are drawn by the sampler, by prompt lookup if there is
    /// one, with at most so many tokens.
    ///
    /// # Errors
    /// If the chat template has no place for the system message.
    pub(crate) fn new(
        session: Session<'w, 'm>,
        tokenizer: &'c Tokenizer,
        (sampler, lookup): (Sampler, Option<Lookup>),
        tokens: usize,
        system: Option<String>,
        interrupt: &'c AtomicBool,
    ) -> Result<Self, Failure> {
        let mut new = Self {
            session,
            tokenizer,
            fresh: sampler.clone(),
            sampler,
            lookup,
            tokens,
            system: None,
            messages: Vec::new(),
            start: 0,
            was_told: false,
            interrupt,
        };
        new.set_system(system)?;
        Ok(new)
    }

    /// Forgets what was said, but for the system message; the next replies are those of a new conversation.
    pub(crate) fn reset(&mut self) {
        self.messages.clear();
        self.start = 0;
        self.was_told = false;
        self.sampler = self.fresh.clone();
    }

    /// Was nothing said yet?
    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// The system message.
    pub(crate) fn system(&self) -> Option<&str> {
        self.system.as_deref()
    }

    /// Another system message.
    ///
    /// # Errors
    /// If the chat template has no place for it; the old one stays.
    pub(crate) fn set_system(&mut self, system: Option<String>) -> Result<(), Failure> {
        if let Some(text) = &system {
            let messages = [Message::new("system", text), Message::new("user", "?")];
            if !has_system(&self.tokenizer.render_chat(&messages, true)?, text) {
                return Err(NO_SYSTEM.into());
            }
        }
        self.system = system;
        Ok(())
    }

    /// Chooses other adapters. What was said stays; it is read again under them, as keys and values
    /// of others cannot be continued.
    pub(crate) fn select(
        &mut self,
        set: &AdapterSet<'_, 'm>,
        choices: &[Choice],
    ) -> Result<(), Failure> {
        Ok(self.session.start_over(set, choices)?)
    }

    /// Adds the user's message and prints the reply. If something fails, or is stopped before the
    /// reply begins, the conversation is as it was before.
    pub(crate) fn say(&mut self, text: &str) -> Result<(), Failure> {
        self.interrupt.store(false, Ordering::Relaxed);
        self.messages.push(Message::new("user", text));
        let start = self.start;
        let failed = match self.reply() {
            Ok(Some(reply)) => {
                self.messages.push(Message::new("assistant", reply));
                return Ok(());
            }
            Ok(None) => None,
            Err(error) => Some(error),
        };
        self.messages.pop();
        self.start = start;
        failed.map_or(Ok(()), Err)
    }

    /// Feeds what the session does not hold yet and prints what follows; `None` if Ctrl-C came
    /// before anything did.
    fn reply(&mut self) -> Result<Option<String>, Failure> {
        let ids = self.fitting()?;
        let held = self.session.tokens(0)?;
        let shared = held.iter().zip(&ids).take_while(|(held, new)| held == new).count();
        // The last token is always read: its logits are those of the reply.
        let known = shared.min(ids.len() - 1);
        self.session.rewind(0, known)?;
        let bounds = Bounds { tokens: self.tokens, stops: &[] };
        if !read_prompt(&mut self.session, &ids[known..], self.interrupt)? {
            note("stopped before the reply began; the message is forgotten");
            return Ok(None);
        }
        let (tokenizer, interrupt) = (self.tokenizer, self.interrupt);
        let choosing = (&mut self.sampler, self.lookup.as_mut());
        let session = &mut self.session;
        let reply =
            write_reply(session, tokenizer, choosing, bounds, interrupt, &mut |text| part(text))?;
        line("")?;
        match reply.end {
            End::Length => note(format_args!(
                "the reply was cut at {} tokens (--tokens gives more)",
                self.tokens
            )),
            End::Context => note(format_args!(
                "the reply was cut: the context of {} tokens is full (--context gives more)",
                self.session.limits().context
            )),
            End::Interrupted => note("stopped"),
            _ => {}
        }
        Ok(Some(reply.text))
    }

    /// The tokens of the conversation, with room for a reply behind them: where it is too long,
    /// without its oldest turns.
    fn fitting(&mut self) -> Result<Vec<u32>, Failure> {
        let context = self.session.limits().context;
        let reply = self.tokens.clamp(1, (context / 4).max(1));
        let mut ids = self.ids(self.start)?;
        if ids.len() + reply > context {
            // What is left has to be read again: so that this does not happen every time, a
            // quarter of the context is made free.
            let most = (context - context / 4).min(context - reply);
            let users =
                (self.start + 1..self.messages.len()).filter(|&i| self.messages[i].role == "user");
            let starts: Vec<usize> = users.collect();
            let (mut low, mut high) = (0, starts.len());
            while low < high {
                let middle = low + (high - low) / 2;
                if self.ids(starts[middle])?.len() <= most {
                    high = middle;
                } else {
                    low = middle + 1;
                }
            }
            // Not even the last message may leave a quarter free.
            if let Some(&start) = starts.get(low).or(starts.last()) {
                ids = self.ids(start)?;
                self.start = start;
            }
        }
        if ids.len() >= context {
            return Err(format!(
                "the message takes {} tokens with what stands around it, the context has room for \
                 {context}; it is forgotten (--context gives more room)",
                ids.len()
            )
            .into());
        }
        if self.start > 0 && !self.was_told {
            self.was_told = true;
            note(format_args!(
                "the context of {context} tokens is full: from now on the oldest turns are left out \
                 (--context gives more room)"
            ));
        }
        Ok(ids)
    }

    /// The tokens of a prompt that begins with message `start`, behind the system message.
    fn ids(&self, start: usize) -> Result<Vec<u32>, Failure> {
        let system = self.system.iter().map(|text| Message::new("system", text));
        let messages: Vec<_> = system.chain(self.messages[start..].iter().cloned()).collect();
        Ok(self.tokenizer.encode_prompt(&self.tokenizer.render_chat(&messages, true)?)?)
    }

    /// Writes all that was said as one line of JSON, `{"messages": […]}`, which `train` reads;
    /// returns the number of messages.
    ///
    /// # Errors
    /// If something else than a saved conversation is there, or it cannot be written.
    pub(crate) fn save(&self, path: &Path) -> Result<usize, Failure> {
        if self.messages.is_empty() {
            return Err("/save: nothing was said yet".into());
        }
        if !is_free(path) {
            return Err(format!(
                "{}: it exists and is not one saved conversation; choose another name",
                path.display()
            )
            .into());
        }
        let system = self.system.iter().map(|text| ("system", text.as_str()));
        let said = self.messages.iter().map(|m| (m.role.as_str(), m.content.as_str()));
        let messages: Vec<_> = system
            .chain(said)
            .map(|(role, content)| json!({ "role": role, "content": content }))
            .collect();
        let count = messages.len();
        let text = format!("{}\n", json!({ "messages": messages }));
        write_whole(path, |file| {
            file.write_all(text.as_bytes()).map_err(|error| FileError::io(path, error))
        })
        .map_err(|error| Failure::from(error.to_string()))?;
        Ok(count)
    }
}

/// Is nothing at `path`, or one conversation that was saved before? A file of several is somebody's
/// data.
fn is_free(path: &Path) -> bool {
    use std::io::{BufRead, BufReader};
    const BEGIN: &[u8] = b"{\"messages\":[";
    match std::fs::metadata(path) {
        // What is a link to nowhere is left to the writer.
        Err(_) => true,
        Ok(facts) if !facts.is_file() => false,
        Ok(facts) => {
            let mut line = Vec::new();
            let read = std::fs::File::open(path)
                .and_then(|file| BufReader::new(file).read_until(b'\n', &mut line));
            read.is_ok_and(|read| read as u64 == facts.len()) && line.starts_with(BEGIN)
        }
    }
}
