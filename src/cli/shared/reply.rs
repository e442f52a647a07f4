//! What `generate` and `chat` do with a session of one sequence: read a prompt, write what follows
//! it, and know why it ended.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};

use lowrank::adapter::{AdapterSet, Choice};
use lowrank::runtime::{Sampler, Session, need};
use lowrank::text::Tokenizer;

use crate::Failure;
use crate::output::note;
use crate::progress::Progress;

/// A session of one sequence that continues a text; the adapters of its selections live for `'m`.
pub(crate) trait Continues<'m> {
    /// Reads the prompt.
    fn prefill(&mut self, tokens: &[u32]) -> lowrank::Result<()>;
    /// Chooses the next token.
    fn sample(&mut self, sampler: &mut Sampler) -> lowrank::Result<u32>;
    /// Reads it.
    fn step(&mut self, token: u32) -> lowrank::Result<()>;
    /// Is there no room for another?
    fn is_full(&self) -> lowrank::Result<bool>;
    /// Forgets everything and chooses other adapters.
    fn start_over(&mut self, set: &AdapterSet<'_, 'm>, choices: &[Choice]) -> lowrank::Result<()>;
    /// What it takes, for people.
    fn workspace(&self) -> String;
}

impl<'m> Continues<'m> for Session<'_, 'm> {
    fn prefill(&mut self, tokens: &[u32]) -> lowrank::Result<()> {
        self.prefill(0, tokens)
    }

    fn sample(&mut self, sampler: &mut Sampler) -> lowrank::Result<u32> {
        self.sample(0, sampler)
    }

    fn step(&mut self, token: u32) -> lowrank::Result<()> {
        self.step(&[(0, token)])
    }

    fn is_full(&self) -> lowrank::Result<bool> {
        Ok(self.room(0)? == 0)
    }

    fn start_over(&mut self, set: &AdapterSet<'_, 'm>, choices: &[Choice]) -> lowrank::Result<()> {
        self.reset(0)?;
        self.select(0, set, choices)
    }

    fn workspace(&self) -> String {
        let need = need(self.model().config(), self.limits());
        let mb = |bytes: usize| bytes as f64 / 1e6;
        format!(
            "workspace {:.1} MB, of which keys and values {:.1} MB",
            mb(need.bytes),
            mb(need.kv_bytes)
        )
    }
}

/// Tokens of a prompt that are read at a time: a whole number of the session's chunks, so that the
/// numbers are those of one call. A longer prompt takes long enough that people are told.
const PART: usize = 64;

/// Reads a prompt; false if `interrupt` was set before its end.
pub(crate) fn read_prompt<'m>(
    session: &mut impl Continues<'m>,
    tokens: &[u32],
    interrupt: &AtomicBool,
) -> Result<bool, Failure> {
    let is_long = tokens.len() > PART;
    let mut bar =
        (is_long && std::io::stderr().is_terminal()).then(|| Progress::new("reading the prompt"));
    if is_long && bar.is_none() {
        note(format_args!("reading the prompt: {} tokens", tokens.len()));
    }
    let mut read = Ok(true);
    for (i, part) in tokens.chunks(PART).enumerate() {
        if let Some(bar) = &mut bar {
            bar.show((i * PART) as u64, tokens.len() as u64, "");
        }
        read = session.prefill(part).map(|()| !interrupt.load(Ordering::Relaxed));
        if !matches!(read, Ok(true)) {
            break;
        }
    }
    if let Some(bar) = &bar {
        bar.finish();
    }
    Ok(read?)
}

/// What ends a reply, besides the end of the turn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds<'b> {
    /// The most tokens.
    pub(crate) most: usize,
    /// Texts that end it and are not printed.
    pub(crate) stops: &'b [String],
    /// Set by Ctrl-C.
    pub(crate) interrupt: &'b AtomicBool,
}

/// Why a reply ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The model ended its turn.
    Turn,
    /// The stop text of this number was written.
    Stop(usize),
    /// It has as many tokens as were asked for.
    Length,
    /// The context is full.
    Context,
    /// Somebody pressed Ctrl-C.
    Interrupted,
}

impl End {
    /// The stable name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Turn => "end",
            Self::Stop(_) => "stop",
            Self::Length => "length",
            Self::Context => "context",
            Self::Interrupted => "interrupted",
        }
    }
}

/// What was written.
#[derive(Debug)]
pub(crate) struct Reply {
    /// Every token that was chosen, but for the one that ended the turn.
    pub(crate) tokens: Vec<u32>,
    /// Their text, up to a stop text.
    pub(crate) text: String,
    /// Why there are no more.
    pub(crate) end: End,
}

/// Chooses tokens until something ends the reply, and hands their text to `tell` as it comes.
pub(crate) fn write_reply<'m>(
    session: &mut impl Continues<'m>,
    tokenizer: &Tokenizer,
    sampler: &mut Sampler,
    bounds: Bounds<'_>,
    tell: &mut dyn FnMut(&str) -> std::io::Result<()>,
) -> Result<Reply, Failure> {
    let (mut stream, mut filter) = (tokenizer.stream(), Filter::new(bounds.stops));
    let (mut tokens, mut text) = (Vec::new(), String::new());
    let mut print = |new: &str| {
        text.push_str(new);
        tell(new)
    };
    let mut end = None;
    while end.is_none() {
        if tokens.len() >= bounds.most {
            end = Some(End::Length);
        } else if bounds.interrupt.load(Ordering::Relaxed) {
            end = Some(End::Interrupted);
        } else if !tokens.is_empty() && session.is_full()? {
            end = Some(End::Context);
        } else {
            if let Some(&last) = tokens.last() {
                session.step(last)?;
            }
            let token = session.sample(sampler)?;
            if tokenizer.is_stop(token) {
                end = Some(End::Turn);
            } else {
                tokens.push(token);
                end = filter.push(&stream.push(token)?, &mut print)?.map(End::Stop);
            }
        }
    }
    let stopped = match end {
        Some(End::Stop(_)) => None,
        _ => filter.push(&stream.finish(), &mut print)?,
    };
    if stopped.is_none() && !matches!(end, Some(End::Stop(_))) {
        print(&filter.held)?;
    }
    let end = stopped.map(End::Stop).or(end).unwrap_or(End::Length);
    Ok(Reply { tokens, text, end })
}

/// Finds stop texts across the borders of tokens: what may be the beginning of one is held back.
#[derive(Debug)]
struct Filter<'s> {
    stops: &'s [String],
    held: String,
}

impl<'s> Filter<'s> {
    fn new(stops: &'s [String]) -> Self {
        Self { stops, held: String::new() }
    }

    /// Adds text and prints what belongs to no stop text; the number of the stop text that is
    /// complete, of several the one that begins first.
    fn push(
        &mut self,
        text: &str,
        print: &mut dyn FnMut(&str) -> std::io::Result<()>,
    ) -> std::io::Result<Option<usize>> {
        self.held.push_str(text);
        let found = self.stops.iter().enumerate();
        let found = found.filter_map(|(i, stop)| Some((self.held.find(stop.as_str())?, i)));
        if let Some((at, stop)) = found.min() {
            print(&self.held[..at])?;
            self.held.clear();
            return Ok(Some(stop));
        }
        // The end of the text is a whole character, so a beginning that it matches is one too.
        let is_begun = |stop: &String| {
            let most = self.held.len().min(stop.len() - 1);
            (1..=most).rev().find(|&n| self.held.as_bytes().ends_with(&stop.as_bytes()[..n]))
        };
        let begun = self.stops.iter().filter_map(is_begun).max().unwrap_or(0);
        let done = self.held.len() - begun;
        print(&self.held[..done])?;
        self.held.drain(..done);
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is printed of `parts` in the end, and which stop text ended it.
    fn filtered(stops: &[&str], parts: &[&str]) -> (String, Option<usize>) {
        let stops: Vec<String> = stops.iter().map(|&stop| stop.into()).collect();
        let (mut filter, mut printed) = (Filter::new(&stops), String::new());
        for part in parts {
            let mut print = |text: &str| {
                printed.push_str(text);
                Ok(())
            };
            if let Some(stop) = filter.push(part, &mut print).unwrap() {
                return (printed, Some(stop));
            }
        }
        (printed + &filter.held, None)
    }

    #[test]
    fn stop_texts_are_found_wherever_the_text_is_cut() {
        let text = "naïve: end. And Ende";
        for (stops, expected) in [
            (&["."][..], ("naïve: end", Some(0))),
            (&["end. A"], ("naïve: ", Some(0))),
            (&["Ende", "ï"], ("na", Some(1))),
            (&["ve: x", "nd. An"], ("naïve: e", Some(1))),
            (&["Ende!"], (text, None)),
            (&[], (text, None)),
        ] {
            for width in 1..=text.chars().count() {
                let characters: Vec<char> = text.chars().collect();
                let parts: Vec<String> =
                    characters.chunks(width).map(|part| part.iter().collect()).collect();
                let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
                let (printed, stop) = filtered(stops, &parts);
                assert_eq!((printed.as_str(), stop), expected, "{stops:?} in parts of {width}");
            }
        }
        // A beginning that comes to nothing is printed, also where another one begins inside it.
        assert_eq!(filtered(&["aab"], &["a", "a", "a", "b", "c"]), ("a".into(), Some(0)));
        assert_eq!(filtered(&["aab"], &["a", "a", "c"]), ("aac".into(), None));
    }
}
