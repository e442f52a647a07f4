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
    let mut writer = Writer::new(tokenizer, bounds.tokens, bounds.stops.to_vec());
    let mut text = String::new();
    let mut tell = |new: &str| {
        text.push_str(new);
        piece(new).is_break()
    };
    let mut end = writer.before();
    while end.is_none() {
        if let Some(last) = writer.last() {
            sequence.step(last)?;
        }
        let written = writer.push(sequence.sample(sampler)?)?;
        let interrupted = written.token.is_some() && tell(&written.text);
        end = written.end.or(interrupted.then_some(End::Interrupted));
        if end.is_none() && sequence.is_full() {
            end = Some(End::Context);
        }
    }
    let mut end = end.unwrap_or(End::Length);
    if !matches!(end, End::Stop(_)) {
        let (rest, stop) = writer.finish();
        end = stop.map_or(end, End::Stop);
        tell(&rest);
    }
    Ok(Reply { tokens: writer.into_tokens(), text, end })
}
