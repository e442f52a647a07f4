//! A reply in the making: chosen tokens go in, finished text comes out, until something ends it.

use super::End;
use crate::text::{StreamDecoder, TextError, Tokenizer};

/// What becomes of a chosen token.
#[derive(Debug)]
pub(crate) struct Written {
    /// Text that is now finished; may be empty.
    pub(crate) text: String,
    /// Why this was the last one.
    pub(crate) end: Option<End>,
}

/// A reply of which some tokens are chosen.
#[derive(Debug)]
pub(crate) struct Writer<'t> {
    tokenizer: &'t Tokenizer,
    stream: StreamDecoder<'t>,
    filter: Filter,
    tokens: Vec<u32>,
    most: usize,
}

impl<'t> Writer<'t> {
    /// A reply of at most `most` tokens, which these texts end.
    pub(crate) fn new(tokenizer: &'t Tokenizer, most: usize, stops: Vec<String>) -> Self {
        let (stream, filter) = (tokenizer.stream(), Filter::new(stops));
        Self { tokenizer, stream, filter, tokens: Vec::new(), most }
    }

    /// Why no token is to be chosen at all.
    pub(crate) fn before(&self) -> Option<End> {
        (self.most == 0).then_some(End::Length)
    }

    /// The token that was chosen last.
    pub(crate) fn last(&self) -> Option<u32> {
        self.tokens.last().copied()
    }

    /// Takes the next token.
    ///
    /// # Errors
    /// What the tokenizer says.
    pub(crate) fn push(&mut self, token: u32) -> Result<Written, TextError> {
        if self.tokenizer.is_stop(token) {
            return Ok(Written { text: String::new(), end: Some(End::Turn) });
        }
        self.tokens.push(token);
        let (text, stop) = self.filter.push(&self.stream.push(token)?);
        let full = (self.tokens.len() >= self.most).then_some(End::Length);
        Ok(Written { text, end: stop.map(End::Stop).or(full) })
    }

    /// What is left when something else than a stop text has ended it; and the number of the stop
    /// text that this completes.
    pub(crate) fn finish(&mut self) -> (String, Option<usize>) {
        let (mut text, stop) = self.filter.push(&self.stream.finish());
        if stop.is_none() {
            text += &std::mem::take(&mut self.filter.held);
        }
        (text, stop)
    }

    /// Every token of the reply.
    pub(crate) fn into_tokens(self) -> Vec<u32> {
        self.tokens
    }

    /// How many tokens the reply has.
    pub(crate) fn len(&self) -> usize {
        self.tokens.len()
    }
}

/// Finds stop texts across the borders of tokens: what may be the beginning of one is held back.
#[derive(Debug)]
struct Filter {
    stops: Vec<String>,
    held: String,
}

impl Filter {
    fn new(stops: Vec<String>) -> Self {
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
        let (mut filter, mut told) = (Filter::new(stops), String::new());
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
