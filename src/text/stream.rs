//! Decoding tokens as they come, without ever printing half a character.
//!
//! A character can be spread over tokens. So tokens become bytes, and bytes become text as soon as
//! they are a whole character; at most three bytes wait. Bytes that can be no character are shown
//! as U+FFFD, one for each longest beginning of a character, as `String::from_utf8_lossy` does:
//! what a stream has printed in the end is what [`Tokenizer::decode`] gives, always.

use super::pieces::Position;
use super::{TextError, Tokenizer};

/// Turns tokens into printable pieces of text. Special tokens are left out.
#[derive(Debug)]
pub struct StreamDecoder<'b> {
    tokenizer: &'b Tokenizer,
    position: Position,
    /// The beginning of a character.
    pending: Vec<u8>,
}

impl<'b> StreamDecoder<'b> {
    pub(super) fn new(tokenizer: &'b Tokenizer) -> Self {
        Self { tokenizer, position: Position::start(), pending: Vec::new() }
    }

    /// Adds a token; returns the text that is now finished, which may be empty. The time does not
    /// depend on what came before.
    ///
    /// # Errors
    /// If the tokenizer is of a kind that cannot decode tokens one by one.
    pub fn push(&mut self, token: u32) -> Result<String, TextError> {
        self.tokenizer.append(token, false, &mut self.position, &mut self.pending)?;
        Ok(take_text(&mut self.pending))
    }

    /// What is left at the end: U+FFFD for half a character, else nothing. The decoder is then as
    /// new.
    pub fn finish(&mut self) -> String {
        let left = String::from_utf8_lossy(&self.pending).into_owned();
        *self = Self::new(self.tokenizer);
        left
    }
}

/// Takes all but an unfinished character out of `bytes`.
fn take_text(bytes: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut rest = bytes.as_slice();
    loop {
        let error = match std::str::from_utf8(rest) {
            Ok(whole) => {
                text.push_str(whole);
                rest = &[];
                break;
            }
            Err(error) => error,
        };
        let (valid, after) = rest.split_at(error.valid_up_to());
        text.push_str(&String::from_utf8_lossy(valid));
        rest = after;
        // Without a length the end came too early: the character may still be finished.
        let Some(length) = error.error_len() else { break };
        text.push(char::REPLACEMENT_CHARACTER);
        rest = &rest[length..];
    }
    let kept = rest.len();
    bytes.drain(..bytes.len() - kept);
    text
}
