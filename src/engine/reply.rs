//! A reply, token by token: chosen, read again, decoded, and ended by what was asked for. What was
//! said before it is the caller's business.

use std::fmt;
use std::ops::ControlFlow;

use crate::error::{Error, Result};
use crate::runtime::{Lookup, Sampler, Session};
use crate::text::{TextError, Tokenizer};

use super::writer::Writer;

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

/// A reply that is asked for token by token: whoever calls [`next`](Self::next) decides when. It
/// belongs to one sequence, which has read a prompt; [`write_reply`] asks until the end.
#[derive(Debug)]
pub struct OpenReply<'t> {
    writer: Writer<'t>,
    text: String,
    end: Option<End>,
}

impl<'t> OpenReply<'t> {
    /// A reply of which no token is chosen yet.
    pub fn new(tokenizer: &'t Tokenizer, bounds: Bounds<'_>) -> Self {
        let writer = Writer::new(tokenizer, bounds.tokens, bounds.stops.to_vec());
        Self { writer, text: String::new(), end: None }
    }

    /// Chooses one more token; returns the text that is finished by it, often none, or `None` when
    /// the reply has ended. The text that was held back comes with the last token.
    ///
    /// # Errors
    /// [`ReplyError::Session`], [`ReplyError::Text`]; the sequence then holds what was read so far.
    pub fn next(
        &mut self,
        sequence: &mut dyn Continue,
        sampler: &mut Sampler,
    ) -> std::result::Result<Option<String>, ReplyError> {
        if self.end.is_some() {
            return Ok(None);
        }
        if let Some(end) = self.writer.before() {
            self.end = Some(end);
            return Ok(None);
        }
        if let Some(last) = self.writer.last() {
            sequence.step(last)?;
        }
        let written = self.writer.push(sequence.sample(sampler)?)?;
        let mut text = written.text;
        self.end = written.end.or(sequence.is_full().then_some(End::Context));
        match self.end {
            None | Some(End::Stop(_)) => self.text.push_str(&text),
            Some(end) => {
                self.text.push_str(&text);
                text += &self.finish(end);
            }
        }
        Ok(Some(text))
    }

    /// Ends it here, unless it has ended; returns the text that was held back.
    pub fn interrupt(&mut self) -> String {
        if self.end.is_some() { String::new() } else { self.finish(End::Interrupted) }
    }

    /// Why it has ended; `None` if it goes on.
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// What was written; interrupted if it has not ended.
    pub fn into_reply(mut self) -> Reply {
        self.interrupt();
        let end = self.end.unwrap_or(End::Interrupted);
        Reply { tokens: self.writer.into_tokens(), text: self.text, end }
    }

    /// Tells what was held back; it can complete a stop text.
    fn finish(&mut self, end: End) -> String {
        let (rest, stop) = self.writer.finish();
        self.end = Some(stop.map_or(end, End::Stop));
        self.text.push_str(&rest);
        rest
    }
}

/// Continues `sequence`, which has read a prompt, and tells the text as it comes: `piece` is called
/// once per token, with an empty text where none is finished yet, and can end the reply; what was
/// held back then comes after it.
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
    let mut reply = OpenReply::new(tokenizer, bounds);
    while let Some(text) = reply.next(sequence, sampler)? {
        if piece(&text).is_break() {
            let rest = reply.interrupt();
            if !rest.is_empty() {
                let _ = piece(&rest);
            }
        }
    }
    Ok(reply.into_reply())
}
