//! The tokenizer: strings to token ids and back, and chat templates. Feature `text`.
//!
//! Everything comes from the base's archive: tokenizer, template, special tokens, and the rule
//! about the begin-of-sequence token.

pub(crate) mod gate;
mod mark;
mod methods;
mod pieces;
mod post_processor;
mod python;
mod stream;
mod strings;
mod template;

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use tokenizers::TruncationDirection;

use crate::model::bert::{Architecture, Bert};
use crate::model::llama::Llama;
use crate::model::lstm::Lstm;

use gate::GuardedTokenizer;
use pieces::{Pieces, Position};

pub use mark::without_mark;
pub(crate) use post_processor::leading_token;
pub use stream::StreamDecoder;
pub use template::{Message, TemplateVariables};

/// What goes wrong at the tokenizer; a full sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextError(pub(crate) String);

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TextError {}

/// Encodes, decodes and renders for one base.
///
/// ```
/// # use lowrank::{archive::ArchiveFile, model::llama::Llama};
/// use lowrank::text::Tokenizer;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let base = ArchiveFile::open("assets/tiny.lrk")?;
/// let model = Llama::open(&base)?;
/// let tokenizer = Tokenizer::new(&model)?;
/// let tokens = tokenizer.encode_prompt("A duck and a boat")?;
/// assert_eq!(tokenizer.decode(&tokens, false)?, "A duck and a boat");
///
/// // Tokens that come one by one: a piece is whole characters.
/// let mut stream = tokenizer.stream();
/// let mut text = String::new();
/// for token in tokens {
///     text += &stream.push(token)?;
/// }
/// # Ok(())
/// # }
/// ```
#[doc(alias = "chat template")]
#[derive(Debug)]
pub struct Tokenizer {
    tokenizer: GuardedTokenizer,
    /// The same tokenizer for text in which special tokens are plain text; made when first needed.
    plain: OnceLock<GuardedTokenizer>,
    /// Tokens that the model has; the tokenizer may know more.
    vocab: usize,
    /// From which side a text that is too long is cut.
    cut: TruncationDirection,
    /// Is a text framed by the tokenizer's post-processor, as an encoder reads it?
    is_framed: bool,
    /// The bytes of tokens; `None` if the tokenizer's decoder does not work token by token.
    pieces: Option<Pieces>,
    template: String,
    /// What every conversation is rendered with.
    variables: TemplateVariables,
    /// Has a conversation been rendered?
    has_rendered: AtomicBool,
    bos: Option<u32>,
    leading_bos: Option<u32>,
    /// The token that fills batches up, where the model counts no position at it.
    pad: Option<u32>,
    stop: Vec<u32>,
}

/// What tokens that fill batches up are called.
pub(crate) const PADS: [&str; 2] = ["<pad>", "[PAD]"];

impl Tokenizer {
    /// The tokenizer of a base.
    ///
    /// # Errors
    /// If the archive has no tokenizer, or one that cannot be read.
    pub fn new(model: &Llama<'_>) -> Result<Self, TextError> {
        Ok(Self {
            template: model.chat_template().to_owned(),
            bos: model.bos(),
            leading_bos: model.leading_bos(),
            stop: model.stop_tokens().collect(),
            ..Self::from_tokenizer(model.tokenizer_json(), model.config().vocab)?
        })
    }

    /// The tokenizer of an encoder; it has neither template nor tokens that end a turn.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn for_encoder(model: &Bert<'_>) -> Result<Self, TextError> {
        let tokenizer = Self::from_tokenizer(model.tokenizer_json(), model.config().vocab)?;
        let counts_no_pads = model.config().architecture == Architecture::Roberta;
        let known = |name: &&str| tokenizer.tokenizer.token_to_id(name);
        let pad = PADS.iter().find_map(known).filter(|_| counts_no_pads);
        Ok(Self { is_framed: true, pad, ..tokenizer })
    }

    /// The tokenizer of an LSTM base; it has no template.
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
        let tokenizer =
            GuardedTokenizer::from_json(json).map_err(|refusal| unreadable(&refusal))?;
        let cut = tokenizer.cut();
        let decoder =
            serde_json::to_value(tokenizer.get_decoder()).map_err(|error| unreadable(&error))?;
        Ok(Self {
            tokenizer,
            plain: OnceLock::new(),
            vocab,
            cut,
            is_framed: false,
            pieces: Pieces::new(&decoder),
            template: String::new(),
            variables: TemplateVariables::new(),
            has_rendered: AtomicBool::new(false),
            bos: None,
            leading_bos: None,
            pad: None,
            stop: Vec::new(),
        })
    }

    /// The ids of a text as an encoder reads it, with the special tokens that belong around it
    /// (`[CLS]` … `[SEP]`), at most `max_length` together; and how many of the text's own
    /// tokens were cut off for that.
    ///
    /// # Errors
    /// If the special tokens leave no room, if a token is none of the model's, or what the
    /// tokenizer says.
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
            encoding.truncate(room, 0, self.cut);
        }
        let encoding = self.tokenizer.post_process(encoding).map_err(|error| refused(&error))?;
        Ok((self.known(encoding.get_ids())?, cut))
    }

    /// The ids of `text`; special tokens in it (`<|im_start|>` …) are parsed if `special`, else
    /// plain text. No token is put in front.
    ///
    /// # Errors
    /// If a token is none of the model's, or what the tokenizer says.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, TextError> {
        let tokenizer = if special { &self.tokenizer } else { self.plain() };
        let encoding = tokenizer
            .encode_fast(text, false)
            .map_err(|error| TextError(format!("the text cannot be encoded: {error}")))?;
        self.known(encoding.get_ids())
    }

    /// These ids, if the model has them all.
    fn known(&self, ids: &[u32]) -> Result<Vec<u32>, TextError> {
        if let Some(pad) = self.pad.filter(|pad| ids.contains(pad)) {
            let token = self.tokenizer.id_to_token(pad).unwrap_or_default();
            return Err(TextError(format!(
                "the text has the token {token}, at which this model counts no position: take it out"
            )));
        }
        let Some(&id) = ids.iter().find(|&&id| id as usize >= self.vocab) else {
            return Ok(ids.to_vec());
        };
        let token = self.tokenizer.id_to_token(id).unwrap_or_default();
        Err(TextError(format!(
            "the text has the token \"{token}\" with id {id}, the model's vocabulary ends at {}",
            self.vocab - 1
        )))
    }

    /// The ids of a prompt: [`encode`](Self::encode) behind the begin-of-sequence token where the
    /// model's rule asks for one and the text does not begin with it.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>, TextError> {
        let mut ids = self.encode(text, true)?;
        if let Some(bos) = self.leading_bos
            && ids.first() != Some(&bos)
        {
            ids.insert(0, bos);
        }
        Ok(ids)
    }

    /// The ids of a text as the base's model reads it, uncut: [`encode_text`](Self::encode_text) for
    /// an encoder, else [`encode_prompt`](Self::encode_prompt).
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_for_model(&self, text: &str) -> Result<Vec<u32>, TextError> {
        if self.is_framed {
            self.encode_text(text, usize::MAX).map(|(ids, _)| ids)
        } else {
            self.encode_prompt(text)
        }
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

    /// The token with this id as the vocabulary has it, `None` if there is none.
    pub fn token(&self, id: u32) -> Option<String> {
        self.tokenizer.id_to_token(id)
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
        self.render_chat_with(messages, add_generation_prompt, &self.variables)
    }

    /// [`render_chat`](Self::render_chat) with these template variables and no others.
    ///
    /// # Errors
    /// If the model has no template, or what the template says.
    pub fn render_chat_with(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
        variables: &TemplateVariables,
    ) -> Result<String, TextError> {
        let name =
            |id: Option<u32>| id.and_then(|id| self.tokenizer.id_to_token(id)).unwrap_or_default();
        let conversation = template::Conversation {
            messages,
            add_generation_prompt,
            bos_token: &name(self.bos),
            eos_token: &name(self.stop.first().copied()),
            variables,
        };
        self.has_rendered.store(true, Ordering::Relaxed);
        template::render(&self.template, &conversation)
    }

    /// The same tokenizer, whose conversations are all rendered with these template variables.
    #[must_use]
    pub fn with_template_variables(self, variables: TemplateVariables) -> Self {
        Self { variables, ..self }
    }

    /// Has a conversation been rendered since this tokenizer was made?
    pub fn has_rendered(&self) -> bool {
        self.has_rendered.load(Ordering::Relaxed)
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

    fn plain(&self) -> &GuardedTokenizer {
        self.plain.get_or_init(|| {
            let mut tokenizer = self.tokenizer.clone();
            tokenizer.set_encode_special_tokens(true);
            tokenizer
        })
    }
}
