//! Examples to tokens, and which of them are scored.
//!
//! Prompt and completion are encoded as inference meets them: the prompt alone, then what follows.
//! Where the tokens of both together begin with the prompt's, those of both together are taken.

use crate::text::{Message, TextError, Tokenizer};

use super::example::Example;

/// What training asks of a tokenizer: byte-level, word-level, or a base's tokenizer.
pub trait Tokenize: Send + Sync {
    /// The ids of `text`, nothing in front and nothing behind; special tokens in it are parsed.
    ///
    /// # Errors
    /// What the tokenizer says.
    fn encode(&self, text: &str) -> Result<Vec<u32>, TextError>;

    /// The token in front of every sequence: begin of sequence, or `[CLS]`.
    fn begin(&self) -> Option<u32> {
        None
    }

    /// The token behind a language model's text or completion: end of sequence.
    fn end(&self) -> Option<u32> {
        None
    }

    /// The token behind a text to classify: `[SEP]`.
    fn close(&self) -> Option<u32> {
        None
    }

    /// Does this token end a turn?
    fn is_stop(&self, token: u32) -> bool {
        self.end() == Some(token)
    }

    /// A text to classify as the model reads it, at most `max_length` tokens with what stands
    /// around it; and whether it was cut.
    ///
    /// # Errors
    /// What the tokenizer says.
    fn classified(&self, text: &str, max_length: usize) -> Result<(Vec<u32>, bool), TextError> {
        let mut ids = self.encode(text)?;
        if let Some(begin) = self.begin()
            && ids.first() != Some(&begin)
        {
            ids.insert(0, begin);
        }
        let close = self.close();
        let room = max_length.saturating_sub(usize::from(close.is_some()));
        let was_cut = ids.len() > room;
        ids.truncate(room);
        ids.extend(close);
        Ok((ids, was_cut))
    }

    /// The size of the vocabulary that ids must be in; `None` if that has been checked.
    fn vocabulary(&self) -> Option<u32> {
        None
    }

    /// A conversation as the model's chat template renders it.
    ///
    /// # Errors
    /// If there is no template, or what it says.
    fn render_chat(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, TextError>;
}

impl Tokenize for Tokenizer {
    fn encode(&self, text: &str) -> Result<Vec<u32>, TextError> {
        Self::encode(self, text, true)
    }

    fn begin(&self) -> Option<u32> {
        self.leading_bos()
    }

    fn end(&self) -> Option<u32> {
        self.end_token()
    }

    /// As the tokenizer frames it (`[CLS]` … `[SEP]`), behind the begin-of-sequence token where the
    /// model's rule asks for one and the tokenizer has not put it there.
    fn classified(&self, text: &str, max_length: usize) -> Result<(Vec<u32>, bool), TextError> {
        let (mut ids, cut) = self.encode_text(text, max_length)?;
        if let Some(begin) = self.leading_bos()
            && ids.first() != Some(&begin)
        {
            ids.insert(0, begin);
        }
        let was_cut = cut > 0 || ids.len() > max_length;
        ids.truncate(max_length);
        Ok((ids, was_cut))
    }

    fn is_stop(&self, token: u32) -> bool {
        Self::is_stop(self, token)
    }

    fn render_chat(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, TextError> {
        Self::render_chat(self, messages, add_generation_prompt)
    }
}

/// The tokens of an example.
#[derive(Debug, Default)]
pub(super) struct Encoded {
    pub(super) ids: Vec<u32>,
    /// For each token whether it is to be predicted; empty in a text to classify.
    pub(super) scored: Vec<bool>,
    /// Were there more than the longest sequence holds?
    pub(super) was_cut: bool,
}

impl Encoded {
    /// At most `most` tokens; the first is never scored, nothing predicts it.
    pub(super) fn new(mut ids: Vec<u32>, mut scored: Vec<bool>, most: usize) -> Self {
        let was_cut = ids.len() > most;
        ids.truncate(most);
        scored.truncate(most);
        if let Some(first) = scored.first_mut() {
            *first = false;
        }
        Self { ids, scored, was_cut }
    }
}

/// How records become tokens.
#[derive(Clone, Copy)]
pub(super) struct Encoder<'t> {
    pub(super) tokenizer: &'t dyn Tokenize,
    pub(super) max_length: usize,
    pub(super) completions_only: bool,
}

impl Encoder<'_> {
    /// The tokens of an example that is text, at most the longest sequence.
    pub(super) fn encode(&self, example: &Example) -> Result<Encoded, String> {
        match example {
            Example::Text(text) => self.completion("", text),
            Example::Completion { prompt, completion } => self.completion(prompt, completion),
            Example::Chat(messages) if self.completions_only => self.turns(messages),
            Example::Chat(messages) => {
                let ids = self.begun(&self.render(messages, false)?)?;
                let scored = vec![true; ids.len()];
                Ok(Encoded::new(ids, scored, self.max_length))
            }
            Example::Labelled { text, .. } => self.classified(text),
            Example::Tokens(_) | Example::LabelledTokens { .. } | Example::Features { .. } => {
                Ok(Encoded::default())
            }
        }
    }

    /// The ids of a text in the vocabulary, nothing in front.
    pub(super) fn ids(&self, text: &str) -> Result<Vec<u32>, String> {
        self.known(self.tokenizer.encode(text).map_err(|error| error.to_string())?)
    }

    /// These ids, if the vocabulary has them.
    fn known(&self, ids: Vec<u32>) -> Result<Vec<u32>, String> {
        if let Some(vocabulary) = self.tokenizer.vocabulary()
            && let Some(token) = ids.iter().find(|&&id| id >= vocabulary)
        {
            return Err(format!(
                "the tokenizer gives token {token}, the model's vocabulary has {vocabulary}"
            ));
        }
        Ok(ids)
    }

    /// The ids of a text behind the token that begins a sequence, unless the text brings it.
    fn begun(&self, text: &str) -> Result<Vec<u32>, String> {
        let mut ids = self.ids(text)?;
        if let Some(begin) = self.tokenizer.begin()
            && ids.first() != Some(&begin)
        {
            ids.insert(0, begin);
        }
        Ok(ids)
    }

    /// The ids of `text`, of which `ids` are the first `known` bytes.
    fn continued(&self, mut ids: Vec<u32>, text: &str, known: usize) -> Result<Vec<u32>, String> {
        let whole = self.begun(text)?;
        if whole.starts_with(&ids) {
            return Ok(whole);
        }
        ids.extend(self.ids(text.get(known..).unwrap_or_default())?);
        Ok(ids)
    }

    /// A completion with its end behind a prompt, which may be empty.
    fn completion(&self, prompt: &str, completion: &str) -> Result<Encoded, String> {
        let before = self.begun(prompt)?;
        let prompted = before.len();
        let mut ids = self.continued(before, &format!("{prompt}{completion}"), prompt.len())?;
        if let Some(end) = self.tokenizer.end()
            && ids.last() != Some(&end)
        {
            ids.push(end);
        }
        let scored = (0..ids.len()).map(|i| !self.completions_only || i >= prompted).collect();
        Ok(Encoded::new(ids, scored, self.max_length))
    }

    /// A conversation of which the assistant's turns are scored, each with the token that ends it.
    ///
    /// The template is asked for every prefix: up to an assistant's turn with the prompt that
    /// generation would see, then with the turn itself. What the turn adds is the assistant's.
    fn turns(&self, messages: &[Message]) -> Result<Encoded, String> {
        let (mut text, mut ids, mut spans) = (String::new(), Vec::new(), Vec::new());
        for (turn, _) in
            messages.iter().enumerate().filter(|(_, message)| message.role == "assistant")
        {
            let prompt = self.render(&messages[..turn], true)?;
            ids = self.grown(ids, &text, &prompt, turn)?;
            let start = ids.len();
            text = self.render(&messages[..=turn], false)?;
            ids = self.grown(ids, &prompt, &text, turn)?;
            let stop = ids[start..].iter().rposition(|&id| self.tokenizer.is_stop(id));
            spans.push(start..stop.map_or(ids.len(), |stop| start + stop + 1));
        }
        if spans.is_empty() {
            return Err(
                "the conversation has no turn of the assistant, and only those are scored".into()
            );
        }
        let whole = self.render(messages, false)?;
        ids = self.grown(ids, &text, &whole, messages.len() - 1)?;
        let mut scored = vec![false; ids.len()];
        spans.into_iter().for_each(|span| scored[span].fill(true));
        Ok(Encoded::new(ids, scored, self.max_length))
    }

    fn grown(
        &self,
        ids: Vec<u32>,
        before: &str,
        now: &str,
        turn: usize,
    ) -> Result<Vec<u32>, String> {
        if !now.starts_with(before) {
            let turn = turn + 1;
            let hint = "split the conversation into one line per turn of the assistant, or score every token";
            return Err(format!(
                "the chat template changes what comes before message {turn}, so its tokens cannot be told apart: {hint}"
            ));
        }
        self.continued(ids, now, before.len())
    }

    fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, String> {
        self.tokenizer
            .render_chat(messages, add_generation_prompt)
            .map_err(|error| error.to_string())
    }

    /// A text to classify: cut inside its frame, which stays whole.
    fn classified(&self, text: &str) -> Result<Encoded, String> {
        let (ids, was_cut) =
            self.tokenizer.classified(text, self.max_length).map_err(|error| error.to_string())?;
        Ok(Encoded { ids: self.known(ids)?, scored: Vec::new(), was_cut })
    }
}
