//! A reply, token by token: chosen, read again, decoded, and ended by what was asked for. What was
//! said before it is the caller's business.

use std::fmt;
use std::ops::ControlFlow;

use crate::error::{Error, Result};
use crate::runtime::{Lookup, Sampler, Session};
use crate::text::{TextError, Tokenizer};

/// A sequence that a reply is written to: it has read a prompt and gives a next token.
pub trait Continue {
    /// Chooses the next token.
    ///
    /// # Errors
    /// Those of the sampler.
    fn sample(&mut self, sampler: &mut Sampler) -> Result<u32>;

    /// Reads it.
    ///
    /// # Errors
    /// Those of the session.
    fn step(&mut self, token: u32) -> Result<()>;

    /// Is there no room for another token?
    fn is_full(&self) -> bool;
}

impl<C: Continue + ?Sized> Continue for &mut C {
    fn sample(&mut self, sampler: &mut Sampler) -> Result<u32> {
        (**self).sample(sampler)
    }

    fn step(&mut self, token: u32) -> Result<()> {
        (**self).step(token)
    }

    fn is_full(&self) -> bool {
        (**self).is_full()
    }
}

/// One sequence of a decoder's session.
#[derive(Debug)]
pub struct Sequence<'s, 'w, 'm> {
    session: &'s mut Session<'w, 'm>,
    number: usize,
    lookup: Option<&'s mut Lookup>,
}

impl<'s, 'w, 'm> Sequence<'s, 'w, 'm> {
    /// Sequence `number` of `session`.
    ///
    /// # Errors
    /// [`Error::NoSuchSequence`].
    pub fn new(session: &'s mut Session<'w, 'm>, number: usize) -> Result<Self> {
        session.position(number)?;
        Ok(Self { session, number, lookup: None })
    }

    /// The same by prompt lookup, where the session has room for drafts
    /// ([`Limits::draft`](crate::runtime::Limits::draft)).
    #[must_use]
    pub fn with_lookup(mut self, lookup: Option<&'s mut Lookup>) -> Self {
        self.lookup = lookup;
        self
    }
}

impl Continue for Sequence<'_, '_, '_> {
    fn sample(&mut self, sampler: &mut Sampler) -> Result<u32> {
        self.session.sample(self.number, sampler)
    }

    fn step(&mut self, token: u32) -> Result<()> {
        match &mut self.lookup {
            Some(lookup) => self.session.step_by_lookup(self.number, token, lookup),
            None => self.session.step(&[(self.number, token)]),
        }
    }

    fn is_full(&self) -> bool {
        self.session.room(self.number) == Ok(0)
    }
}

/// Why a reply ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// The model ended its turn.
    Turn,
    /// The stop text of this number came.
    Stop(usize),
    /// It has as many tokens as were asked for.
    Length,
    /// The context is full.
    Context,
    /// Who was told the pieces said so.
    Interrupted,
}

impl End {
    /// The name in reports.
    pub const fn name(self) -> &'static str {
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Every token that was chosen, but for the one that ended the turn. The sequence has read all
    /// but the last.
    pub tokens: Vec<u32>,
    /// Their text, up to a stop text.
    pub text: String,
    /// Why there are no more.
    pub end: End,
}

/// Why there is no reply.
#[derive(Debug)]
#[non_exhaustive]
pub enum ReplyError {
    /// The session or the sampler refused.
    Session(Error),
    /// The tokenizer or the chat template refused.
    Text(TextError),
    /// No adapter has this name.
    UnknownAdapter(String),
    /// The prompt has no token.
    EmptyPrompt,
}

impl fmt::Display for ReplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Session(error) => error.fmt(f),
            Self::Text(error) => error.fmt(f),
            Self::UnknownAdapter(name) => {
                write!(f, "no adapter is called \"{name}\": attach it first")
            }
            Self::EmptyPrompt => {
                f.write_str("the prompt is empty: a reply needs at least one token")
            }
        }
    }
}

impl std::error::Error for ReplyError {}

impl From<Error> for ReplyError {
    fn from(error: Error) -> Self {
        Self::Session(error)
    }
}

impl From<TextError> for ReplyError {
    fn from(error: TextError) -> Self {
        Self::Text(error)
    }
}

/// What ends a reply, besides the end of the turn.
#[derive(Debug, Clone, Copy)]
pub struct Bounds<'b> {
    /// The most tokens.
    pub tokens: usize,
    /// Texts that end it; they are no part of it.
    pub stops: &'b [String],
}

/// Continues `sequence`, which has read a prompt, and tells the text as it comes: `piece` is called
/// once per token, with an empty text where none is finished yet, and once more at the end.
///
/// # Errors
/// [`ReplyError::Session`], [`ReplyError::Text`]; the sequence then holds what was read so far.
pub fn write_reply(
    sequence: &mut dyn Continue,
    tokenizer: &Tokenizer,
    sampler: &mut Sampler,
    bounds: Bounds<'_>,
    piece: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> std::result::Result<Reply, ReplyError> {
    let (mut stream, mut filter) = (tokenizer.stream(), Filter::new(bounds.stops));
    let (mut tokens, mut text) = (Vec::new(), String::new());
    let mut tell = |new: &str| {
        text.push_str(new);
        piece(new).is_break()
    };
    let mut end = None;
    while end.is_none() {
        if tokens.len() >= bounds.tokens {
            end = Some(End::Length);
        } else if !tokens.is_empty() && sequence.is_full() {
            end = Some(End::Context);
        } else {
            if let Some(&last) = tokens.last() {
                sequence.step(last)?;
            }
            let token = sequence.sample(sampler)?;
            if tokenizer.is_stop(token) {
                end = Some(End::Turn);
            } else {
                tokens.push(token);
                let (new, stop) = filter.push(&stream.push(token)?);
                let interrupted = tell(&new).then_some(End::Interrupted);
                end = stop.map(End::Stop).or(interrupted);
            }
        }
    }
    if !matches!(end, Some(End::Stop(_))) {
        let (new, stop) = filter.push(&stream.finish());
        end = stop.map(End::Stop).or(end);
        let held = if stop.is_none() { filter.held.as_str() } else { "" };
        tell(&(new + held));
    }
    Ok(Reply { tokens, text, end: end.unwrap_or(End::Length) })
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

    /// Adds text; returns what belongs to no stop text, and the number of the stop text that is
    /// complete, of several the one that begins first. An empty stop text is never complete.
    fn push(&mut self, text: &str) -> (String, Option<usize>) {
        self.held.push_str(text);
        let stops = || self.stops.iter().filter(|stop| !stop.is_empty());
        let found = self.stops.iter().enumerate().filter(|(_, stop)| !stop.is_empty());
        let found = found.filter_map(|(i, stop)| Some((self.held.find(stop.as_str())?, i)));
        if let Some((at, stop)) = found.min() {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), Some(stop));
        }
        // The end of the text is a whole character, so a beginning that it matches is one too.
        let begun = stops().filter_map(|stop| {
            let most = self.held.len().min(stop.len() - 1);
            (1..=most).rev().find(|&n| self.held.as_bytes().ends_with(&stop.as_bytes()[..n]))
        });
        let done = self.held.len() - begun.max().unwrap_or(0);
        let held = self.held.split_off(done);
        (std::mem::replace(&mut self.held, held), None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told of `parts` in the end, and which stop text ended it.
    fn filtered(stops: &[&str], parts: &[&str]) -> (String, Option<usize>) {
        let stops: Vec<String> = stops.iter().map(|&stop| stop.into()).collect();
        let (mut filter, mut told) = (Filter::new(&stops), String::new());
        for part in parts {
            let (new, stop) = filter.push(part);
            told += &new;
            if stop.is_some() {
                return (told, stop);
            }
        }
        (told + &filter.held, None)
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
            (&["", "end"], ("naïve: ", Some(1))),
        ] {
            for width in 1..=text.chars().count() {
                let characters: Vec<char> = text.chars().collect();
                let parts: Vec<String> =
                    characters.chunks(width).map(|part| part.iter().collect()).collect();
                let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
                let (told, stop) = filtered(stops, &parts);
                assert_eq!((told.as_str(), stop), expected, "{stops:?} in parts of {width}");
            }
        }
        // A beginning that comes to nothing is told, also where another one begins inside it.
        assert_eq!(filtered(&["aab"], &["a", "a", "a", "b", "c"]), ("a".into(), Some(0)));
        assert_eq!(filtered(&["aab"], &["a", "a", "c"]), ("aac".into(), None));
    }
}
