//! Decoding tokens as they come, without ever printing half a character.
//!
//! A character can be spread over tokens, and what a token looks like can depend on the one before it (leading spaces). So the text
//! of a short window of tokens is compared with and without the new one; a window that ends in the replacement character is not
//! finished. The window moves on with every finished piece, so the cost of a token does not grow with the length of the text.

use super::{TextBorder, TextError};

/// What an unfinished character decodes to.
const UNFINISHED: char = '\u{fffd}';
/// Tokens a single character can take (four bytes, and one to spare); past it the bytes are no character and are printed as they are.
const LONGEST: usize = 5;

/// Turns tokens into printable pieces of text.
#[derive(Debug)]
pub struct StreamDecoder<'b> {
    border: &'b TextBorder,
    /// The tokens of the last finished piece and those that came since.
    window: Vec<u32>,
    /// How many of them are printed.
    printed: usize,
}

impl<'b> StreamDecoder<'b> {
    pub(super) fn new(border: &'b TextBorder) -> Self {
        Self { border, window: Vec::new(), printed: 0 }
    }

    /// Adds a token; returns the text that is now finished, which may be empty.
    ///
    /// # Errors
    /// What the tokenizer says.
    pub fn push(&mut self, token: u32) -> Result<String, TextError> {
        self.window.push(token);
        let piece = self.piece()?;
        let is_unfinished = piece.ends_with(UNFINISHED) && self.window.len() - self.printed < LONGEST;
        if is_unfinished || piece.is_empty() {
            return Ok(String::new());
        }
        self.window.drain(..self.printed);
        self.printed = self.window.len();
        Ok(piece)
    }

    /// What is left at the end, half characters included.
    ///
    /// # Errors
    /// What the tokenizer says.
    pub fn finish(&mut self) -> Result<String, TextError> {
        let piece = self.piece()?;
        (self.window, self.printed) = (Vec::new(), 0);
        Ok(piece)
    }

    /// The text of the tokens that are not printed yet, in the context of those that are.
    fn piece(&self) -> Result<String, TextError> {
        let printed = self.border.decode(&self.window[..self.printed], false)?;
        let whole = self.border.decode(&self.window, false)?;
        Ok(whole.strip_prefix(&printed).map_or(whole.clone(), str::to_owned))
    }
}
