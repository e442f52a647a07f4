//! The tokens of a GGUF file with what each is for, and the parts of `tokenizer.json` that say so.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::reader::Reader;
use crate::file::FileError;

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text.
    Normal,
    /// Found in text before anything else, and shown as text.
    UserDefined,
    /// Found in text before anything else, and not shown.
    Control,
    /// One byte of a character that has no token (SentencePiece).
    Byte,
}

/// The tokens of a file.
pub(super) struct Vocabulary<'a> {
    pub(super) tokens: Vec<Cow<'a, str>>,
    pub(super) kinds: Vec<Kind>,
    /// Token → id.
    pub(super) ids: BTreeMap<Cow<'a, str>, u32>,
    /// Do special tokens take the space behind them? llama.cpp does so for Phi-3, by its name.
    pub(super) takes_space: bool,
}

impl Vocabulary<'_> {
    /// Id, token and kind, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &str, Kind)> {
        let parts = self.tokens.iter().zip(&self.kinds);
        (0u32..).zip(parts).map(|(id, (token, kind))| (id, &**token, *kind))
    }

    /// Token → id, as `tokenizer.json` has it.
    pub(super) fn json(&self) -> Map<String, Value> {
        self.iter().map(|(id, token, _)| (token.to_owned(), id.into())).collect()
    }

    /// The tokens that are found in a text before anything else.
    pub(super) fn added_tokens(&self) -> Vec<Value> {
        let special = self
            .iter()
            .filter(|(.., kind)| matches!(kind, Kind::UserDefined | Kind::Control))
            .map(|(id, token, kind)| {
                let keeps = ["<unk>", "<s>", "<|endoftext|>"].contains(&token);
                json!({
                    "id": id, "content": token, "special": kind == Kind::Control,
                    "single_word": false, "lstrip": false, "rstrip": self.takes_space && !keeps,
                    "normalized": false,
                })
            });
        special.collect()
    }
}

/// The kind with GGUF's number: 2 unknown, 3 control, 4 user-defined, 6 byte; 1 normal and 5 unused
/// are text.
fn kind(number: i64) -> Kind {
    match number {
        2 | 3 => Kind::Control,
        4 => Kind::UserDefined,
        6 => Kind::Byte,
        _ => Kind::Normal,
    }
}

/// The tokens with the kinds the file gives them.
pub(super) fn read(reader: &Reader, vocab: usize) -> Result<Vocabulary<'_>, FileError> {
    let key = "tokenizer.ggml.tokens";
    let listed = reader.strings(key)?.ok_or_else(|| reader.error(key, "the key is missing"))?;
    if listed.len() != vocab {
        return Err(reader.error(
            key,
            format!("{} tokens, but token_embd.weight has {vocab} rows", listed.len()),
        ));
    }
    let key = "tokenizer.ggml.token_type";
    let kinds = match reader.integers(key)? {
        Some(types) if types.len() != vocab => {
            return Err(reader.error(key, format!("{} types for {vocab} tokens", types.len())));
        }
        Some(types) => types.into_iter().map(kind).collect(),
        None => vec![Kind::Normal; vocab],
    };
    let mut ids = BTreeMap::new();
    let mut tokens = Vec::with_capacity(vocab);
    for (id, token) in (0u32..).zip(listed) {
        // llama.cpp's name for a token without text.
        let token = if token.is_empty() {
            Cow::Owned(format!("[EMPTY_{id}]"))
        } else {
            Cow::Borrowed(token)
        };
        if let Some(first) = ids.insert(token.clone(), id) {
            return Err(reader.error(
                "tokenizer.ggml.tokens",
                format!("tokens {first} and {id} are both {token:?}"),
            ));
        }
        tokens.push(token);
    }
    let name = reader.string("general.name")?.unwrap_or_default().to_lowercase();
    let takes_space = ["phi-3", "phi3"].iter().any(|phi| name.contains(phi));
    Ok(Vocabulary { tokens, kinds, ids, takes_space })
}
