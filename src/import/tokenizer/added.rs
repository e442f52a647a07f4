//! Added tokens: what stands beside a tokenizer's vocabulary, with its flags, in the order in which
//! ids are given out.
//!
//! The rules are those of the `tokenizers` library's `add_tokens`: a token that the vocabulary has
//! keeps its id, another one gets the next free one; the same text again changes the flags.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

/// One added token, as `AddedToken` of transformers.
#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) content: String,
    pub(super) special: bool,
    /// Matched only as a whole word; takes the white space before it; behind it.
    places: [bool; 3],
    /// Matched in the normalized text; unless stated, all but special tokens are.
    normalized: Option<bool>,
}

/// The names of `Token::places`.
const PLACES: [&str; 3] = ["single_word", "lstrip", "rstrip"];

impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        (&self.content, self.special, self.places, self.normalized())
            == (&other.content, other.special, other.places, other.normalized())
    }
}

impl Token {
    /// A special token without further flags, as a plain string stands for.
    pub(super) fn special(content: impl Into<String>) -> Self {
        Self { content: content.into(), special: true, places: [false; 3], normalized: None }
    }

    /// A token of added_tokens.json, which has no flags.
    pub(super) fn plain(content: &str, special: bool) -> Self {
        Self { special, ..Self::special(content) }
    }

    /// A string, or an object with `content` and flags.
    pub(super) fn parse(value: &Value) -> Result<Self, String> {
        let wrong = || format!("a token or an object with \"content\" was expected, found {value}");
        if let Value::String(text) = value {
            return Ok(Self::special(text));
        }
        let fields = value.as_object().ok_or_else(wrong)?;
        let content = fields.get("content").and_then(Value::as_str).ok_or_else(wrong)?;
        let flag = |name: &str| match fields.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(format!("{name}: true or false was expected, found {other}")),
        };
        let mut places = [false; 3];
        for (place, name) in places.iter_mut().zip(PLACES) {
            *place = flag(name)?.unwrap_or(false);
        }
        Ok(Self {
            content: content.to_owned(),
            special: flag("special")?.unwrap_or(false),
            places,
            normalized: flag("normalized")?,
        })
    }

    /// Takes the white space before it.
    pub(super) fn strip_left(&mut self) {
        self.places[1] = true;
    }

    fn normalized(&self) -> bool {
        self.normalized.unwrap_or(!self.special)
    }

    /// The entry of tokenizer.json.
    fn to_json(&self, id: u32) -> Value {
        let [single_word, lstrip, rstrip] = self.places;
        json!({
            "id": id, "content": self.content, "single_word": single_word, "lstrip": lstrip,
            "rstrip": rstrip, "normalized": self.normalized(), "special": self.special,
        })
    }
}

/// The added tokens of one tokenizer.
#[derive(Debug)]
pub(super) struct Added<'v> {
    vocab: &'v Value,
    /// The ids of a vocabulary that is a list of tokens with scores.
    listed: HashMap<&'v str, u32>,
    size: usize,
    tokens: Vec<(u32, Token)>,
    /// Where in `tokens` a text stands.
    places: HashMap<String, usize>,
}

impl<'v> Added<'v> {
    /// None yet, beside this vocabulary: an object of ids, or a list of tokens with scores.
    pub(super) fn new(vocab: &'v Value) -> Self {
        let items = vocab.as_array().map_or(&[][..], Vec::as_slice);
        let listed =
            (0..).zip(items).filter_map(|(id, item)| Some((item[0].as_str()?, id))).collect();
        let size = vocab.as_object().map_or(items.len(), Map::len);
        Self { vocab, listed, size, tokens: Vec::new(), places: HashMap::new() }
    }

    fn get(&self, text: &str) -> Option<&(u32, Token)> {
        self.places.get(text).map(|&place| &self.tokens[place])
    }

    /// The id of a token, added or in the vocabulary.
    pub(super) fn id(&self, text: &str) -> Option<u32> {
        self.get(text)
            .map(|(id, _)| *id)
            .or_else(|| self.vocab.get(text)?.as_u64()?.try_into().ok())
            .or_else(|| self.listed.get(text).copied())
    }

    pub(super) fn has(&self, text: &str) -> bool {
        self.places.contains_key(text)
    }

    pub(super) fn has_exactly(&self, token: &Token) -> bool {
        self.get(&token.content).is_some_and(|(_, known)| known == token)
    }

    /// Adds tokens together.
    pub(super) fn add(&mut self, tokens: impl IntoIterator<Item = Token>) {
        let size = self.size as u32;
        let last = self.tokens.iter().map(|(id, _)| *id).max();
        let mut next = last.filter(|&id| id >= size || size == 0).map_or(size, |id| id + 1);
        for token in tokens.into_iter().filter(|token| !token.content.is_empty()) {
            if let Some(&place) = self.places.get(&token.content) {
                self.tokens[place].1 = token;
                continue;
            }
            let id = self.id(&token.content).unwrap_or_else(|| {
                next += 1;
                next - 1
            });
            self.places.insert(token.content.clone(), self.tokens.len());
            self.tokens.push((id, token));
        }
    }

    /// `added_tokens` of tokenizer.json.
    pub(super) fn to_json(&self) -> Value {
        self.tokens.iter().map(|(id, token)| token.to_json(*id)).collect()
    }
}
