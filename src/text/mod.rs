//! The text border: strings to token ids and back, and chat templates. `std` only.
//!
//! Everything comes from the base's archive: tokenizer, template, special tokens, and the rule
//! about the begin-of-sequence token.

pub(crate) mod gate;
mod pieces;
mod python;
mod stream;
mod template;

use std::fmt;
use std::sync::OnceLock;

use tokenizers::TruncationDirection;

use crate::model::bert::Bert;
use crate::model::llama::Llama;
use crate::model::lstm::Lstm;

use gate::Tokenizer;
use pieces::{Pieces, Position};

pub use stream::StreamDecoder;
pub use template::Message;

/// What goes wrong at the text border; a full sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextError(pub(crate) String);

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TextError {}

/// Encodes, decodes and renders for one base.
#[derive(Debug)]
pub struct TextBorder {
    tokenizer: Tokenizer,
    /// The same tokenizer for text in which special tokens are plain text; made when first needed.
    plain: OnceLock<Tokenizer>,
    /// The bytes of tokens; `None` if the tokenizer's decoder does not work token by token.
    pieces: Option<Pieces>,
    template: String,
    bos: Option<u32>,
    leading_bos: Option<u32>,
    stop: Vec<u32>,
}

impl TextBorder {
    /// The text border of a base.
    ///
    /// # Errors
    /// If the archive has no tokenizer, or one that cannot be read or that knows tokens outside the
    /// vocabulary.
    pub fn new(model: &Llama<'_>) -> Result<Self, TextError> {
        Ok(Self {
            template: model.chat_template().to_owned(),
            bos: model.bos(),
            leading_bos: model.leading_bos(),
            stop: model.stop_tokens().collect(),
            ..Self::from_tokenizer(model.tokenizer_json(), model.config().vocab)?
        })
    }

    /// The text border of an encoder; it has neither template nor tokens that end a turn.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn for_encoder(model: &Bert<'_>) -> Result<Self, TextError> {
        Self::from_tokenizer(model.tokenizer_json(), model.config().vocab)
    }

    /// The text border of an LSTM base; it has no template.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn for_lstm(model: &Lstm<'_>) -> Result<Self, TextError> {
        Ok(Self {
            bos: model.bos(),
            leading_bos: model.leading_bos(),
            stop: model.stop_tokens().collect(),
            ..Self::from_tokenizer(model.tokenizer_json(), model.config().vocab)?
        })
    }

    fn from_tokenizer(json: &[u8], vocab: usize) -> Result<Self, TextError> {
        if json.is_empty() {
            return Err(TextError(
                "the base has no tokenizer: import it again from a source that has one".into(),
            ));
        }
        let unreadable = |error: &dyn fmt::Display| {
            TextError(format!("the base's tokenizer cannot be read: {error}"))
        };
        let tokenizer = Tokenizer::from_json(json).map_err(|refusal| unreadable(&refusal))?;
        let decoder =
            serde_json::to_value(tokenizer.get_decoder()).map_err(|error| unreadable(&error))?;
        let last = tokenizer.get_vocab(true).into_values().max().unwrap_or(0);
        if last as usize >= vocab {
            return Err(TextError(format!(
                "the base's tokenizer knows token {last}, its vocabulary has {vocab}"
            )));
        }
        Ok(Self {
            tokenizer,
            plain: OnceLock::new(),
            pieces: Pieces::new(&decoder),
            template: String::new(),
            bos: None,
            leading_bos: None,
            stop: Vec::new(),
        })
    }

    /// The ids of a text as an encoder reads it, with the special tokens that belong around it
    /// (`[CLS]` … `[SEP]`), at most `max_length` together; and how many of the text's own
    /// tokens were cut off for that.
    ///
    /// # Errors
    /// If the special tokens leave no room, or what the tokenizer says.
    pub fn encode_text(
        &self,
        text: &str,
        max_length: usize,
    ) -> Result<(Vec<u32>, usize), TextError> {
        let refused =
            |error: &dyn fmt::Display| TextError(format!("the text cannot be encoded: {error}"));
        let mut encoding =
            self.tokenizer.encode_fast(text, false).map_err(|error| refused(&error))?;
        let added = self.tokenizer.added_tokens();
        let Some(room) = max_length.checked_sub(added).filter(|&room| room > 0) else {
            return Err(TextError(format!(
                "{max_length} tokens leave no room beside the {added} special ones around every text"
            )));
        };
        let cut = encoding.len().saturating_sub(room);
        if cut > 0 {
            encoding.truncate(room, 0, TruncationDirection::Right);
        }
        let encoding = self.tokenizer.post_process(encoding).map_err(|error| refused(&error))?;
        Ok((encoding.get_ids().to_vec(), cut))
    }

    /// The ids of `text`; special tokens in it (`<|im_start|>` …) are parsed if `special`, else
    /// plain text. No token is put in front.
    ///
    /// # Errors
    /// What the tokenizer says.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, TextError> {
        let tokenizer = if special { &self.tokenizer } else { self.plain() };
        let encoding = tokenizer
            .encode_fast(text, false)
            .map_err(|error| TextError(format!("the text cannot be encoded: {error}")))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The ids of a prompt: [`encode`](Self::encode) behind the begin-of-sequence token where the
    /// model's rule asks for one and the text does not begin with it.
    ///
    /// # Errors
    /// What the tokenizer says.
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>, TextError> {
        let mut ids = self.encode(text, true)?;
        if let Some(bos) = self.leading_bos
            && ids.first() != Some(&bos)
        {
            ids.insert(0, bos);
        }
        Ok(ids)
    }

    /// The text of `ids`; special tokens are left out unless `special`, ids without a token always.
    /// Bytes that are no character become U+FFFD.
    ///
    /// # Errors
    /// What the tokenizer says.
    pub fn decode(&self, ids: &[u32], special: bool) -> Result<String, TextError> {
        if self.pieces.is_none() {
            return self
                .tokenizer
                .decode(ids, !special)
                .map_err(|error| TextError(format!("the tokens cannot be decoded: {error}")));
        }
        let (mut position, mut bytes) = (Position::start(), Vec::new());
        for &id in ids {
            self.append(id, special, &mut position, &mut bytes)?;
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// A decoder for tokens that come one by one.
    pub fn stream(&self) -> StreamDecoder<'_> {
        StreamDecoder::new(self)
    }

    /// A conversation through the model's chat template, ready for
    /// [`encode_prompt`](Self::encode_prompt).
    ///
    /// # Errors
    /// If the model has no template, or what the template says.
    pub fn render_chat(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, TextError> {
        let name =
            |id: Option<u32>| id.and_then(|id| self.tokenizer.id_to_token(id)).unwrap_or_default();
        template::render(
            &self.template,
            messages,
            add_generation_prompt,
            &name(self.bos),
            &name(self.stop.first().copied()),
        )
    }

    /// Does the model have a chat template?
    pub fn has_template(&self) -> bool {
        !self.template.is_empty()
    }

    /// The token put before every prompt, if the model's rule asks for one.
    pub fn leading_bos(&self) -> Option<u32> {
        self.leading_bos
    }

    /// The end-of-sequence token: the first among those that end a turn.
    pub fn end_token(&self) -> Option<u32> {
        self.stop.first().copied()
    }

    /// Does this token end a turn?
    pub fn is_stop(&self, token: u32) -> bool {
        self.stop.contains(&token)
    }

    /// Appends the bytes of a token.
    fn append(
        &self,
        id: u32,
        special: bool,
        position: &mut Position,
        bytes: &mut Vec<u8>,
    ) -> Result<(), TextError> {
        let Some(pieces) = &self.pieces else {
            return Err(TextError(
                "the base's tokenizer has a decoder that cannot decode tokens one by one".into(),
            ));
        };
        let added = self.tokenizer.get_added_vocabulary();
        if let Some(token) = self.tokenizer.id_to_token(id)
            && (special || !added.is_special_token(&token))
        {
            pieces.append(&token, added.simple_id_to_token(id).is_some(), position, bytes);
        }
        Ok(())
    }

    fn plain(&self) -> &Tokenizer {
        self.plain.get_or_init(|| {
            let mut tokenizer = self.tokenizer.clone();
            tokenizer.set_encode_special_tokens(true);
            tokenizer
        })
    }
}
