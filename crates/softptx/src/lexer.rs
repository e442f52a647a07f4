//! Words and punctuation of PTX, each with its line.

use crate::{Fault, Kind, Result};

/// The tokens of a source and where the next one is.
#[derive(Debug)]
pub(crate) struct Tokens<'s> {
    tokens: Vec<(&'s str, u32)>,
    at: usize,
}

impl<'s> Tokens<'s> {
    /// Splits a source; comments are left out.
    pub(crate) fn new(source: &'s str) -> Self {
        let (mut tokens, mut line, mut rest) = (Vec::new(), 1, source);
        while let Some(first) = rest.chars().next() {
            let length = token(rest, first);
            let (token, behind) = rest.split_at(length);
            if !first.is_whitespace() && !token.starts_with("//") && !token.starts_with("/*") {
                tokens.push((token, line));
            }
            line += token.matches('\n').count() as u32;
            rest = behind;
        }
        Self { tokens, at: 0 }
    }

    /// The next token; empty at the end.
    pub(crate) fn peek(&self) -> &'s str {
        self.tokens.get(self.at).map_or("", |token| token.0)
    }

    /// The line of the next token.
    pub(crate) fn line(&self) -> u32 {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(0, |token| token.1)
    }

    /// Takes the next token; empty at the end.
    pub(crate) fn next(&mut self) -> &'s str {
        let token = self.peek();
        self.at += 1;
        token
    }

    /// Takes the next token if it is `token`.
    pub(crate) fn eat(&mut self, token: &str) -> bool {
        let is = self.peek() == token;
        self.at += usize::from(is);
        is
    }

    /// Takes `token` or fails.
    pub(crate) fn want(&mut self, token: &str) -> Result<()> {
        if self.eat(token) { Ok(()) } else { Err(self.unexpected(&format!("`{token}`"))) }
    }

    /// Takes a number.
    pub(crate) fn number(&mut self) -> Result<usize> {
        let found = number(self.peek()).ok_or_else(|| self.unexpected("a number"))?;
        self.at += 1;
        Ok(found as usize)
    }

    /// Skips up to and including `token`.
    pub(crate) fn skip(&mut self, token: &str) {
        while self.at < self.tokens.len() && self.next() != token {}
    }

    /// Are all tokens taken?
    pub(crate) fn is_done(&self) -> bool {
        self.at >= self.tokens.len()
    }

    pub(crate) fn unexpected(&self, wanted: &str) -> Fault {
        self.unknown(format!("expected {wanted}, found `{}`", self.peek()))
    }

    pub(crate) fn unknown(&self, text: impl Into<String>) -> Fault {
        Fault::new(self.line(), Kind::Unknown, text)
    }
}

/// The length of the token, comment or space that `rest` begins with.
fn token(rest: &str, first: char) -> usize {
    let is_word = |c: char| c.is_ascii_alphanumeric() || "_.$%".contains(c);
    let up_to = |end: &str, from: usize| {
        rest[from..].find(end).map_or(rest.len(), |at| from + at + end.len())
    };
    let while_is = |is: &dyn Fn(char) -> bool| rest.find(|c| !is(c)).unwrap_or(rest.len());
    match first {
        _ if first.is_whitespace() => while_is(&char::is_whitespace),
        '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
        '/' if rest.starts_with("/*") => up_to("*/", 2),
        '"' => up_to("\"", 1),
        // `shl::inner` and the like are one word.
        _ if is_word(first) => while_is(&is_word),
        _ => first.len_utf8(),
    }
}

/// A literal: an integer, or the bits of a float.
pub(crate) fn number(word: &str) -> Option<u64> {
    let digits = word.trim_end_matches('U');
    let (digits, radix) = match digits.get(..2) {
        Some("0f" | "0F" | "0d" | "0D" | "0x" | "0X") => (&digits[2..], 16),
        _ => (digits, 10),
    };
    u64::from_str_radix(digits, radix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_keep_their_lines() {
        let mut tokens = Tokens::new("add.s32 %r1, /* a\nb */ -4; // end\n$L_1: \"x y\"");
        let mut found = Vec::new();
        while !tokens.is_done() {
            found.push((tokens.line(), tokens.next()));
        }
        let expected = [
            (1, "add.s32"),
            (1, "%r1"),
            (1, ","),
            (2, "-"),
            (2, "4"),
            (2, ";"),
            (3, "$L_1"),
            (3, ":"),
            (3, "\"x y\""),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn literals() {
        assert_eq!(number("0f3F800000"), Some(0x3f80_0000));
        assert_eq!(number("0x10U"), Some(16));
        assert_eq!(number("12"), Some(12));
        assert_eq!(number("%r1"), None);
    }
}
