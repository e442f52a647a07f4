//! `tokenizer.json` of a BERT vocabulary: WordPiece behind BERT's normalizer, `[CLS]` and `[SEP]`
//! around every text.
//!
//! llama.cpp's converter writes the beginning of a word as `▁word` and what continues it as it is;
//! a vocabulary of BERT has `word` and `##continued`, and so has `tokenizer.json`. The ids are those
//! of transformers. (llama.cpp drops marks that take space of their own, in Indic scripts, and all
//! but the first letter of a Korean syllable where accents are stripped; both are kept here, as the
//! model was trained with them. And a word of over 100 characters is unknown.)

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::reader::Reader;
use super::vocabulary::{Kind, Vocabulary};
use crate::file::FileError;

/// The whole file; `special` are the ids of the token in front of a text, of that behind it, and of
/// that which stands for an unknown word.
pub(super) fn json(
    reader: &Reader,
    vocabulary: &Vocabulary<'_>,
    special: [Option<u32>; 3],
) -> Result<Vec<u8>, FileError> {
    let token = |id: Option<u32>, key: &str| match id.map(|id| (id, id as usize)) {
        Some((id, at)) => Ok((id, vocabulary.tokens[at].as_ref())),
        None => Err(reader.error(format!("tokenizer.ggml.{key}"), "the key is missing")),
    };
    let [first, last, unknown] = special;
    let (first, first_text) = token(first, "bos_token_id")?;
    let (last, last_text) = token(last, "seperator_token_id")?;
    let (_, unknown) = token(unknown, "unknown_token_id")?;
    let key = "tokenizer.ggml.normalizer.lowercase";
    let lowercase = reader.boolean(key)?.unwrap_or(true);
    let key = "tokenizer.ggml.normalizer.strip_accents";
    let strip_accents = reader.boolean(key)?.unwrap_or(lowercase);
    let special = |id: u32, text: &str| json!({ "id": text, "ids": [id], "tokens": [text] });
    let part =
        |text: &str, segment: u8| json!({ "SpecialToken": { "id": text, "type_id": segment } });
    let text = |id: &str, segment: u8| json!({ "Sequence": { "id": id, "type_id": segment } });
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": vocabulary.added_tokens(),
        "normalizer": {
            "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": strip_accents, "lowercase": lowercase,
        },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [part(first_text, 0), text("A", 0), part(last_text, 0)],
            "pair": [
                part(first_text, 0), text("A", 0), part(last_text, 0), text("B", 1),
                part(last_text, 1),
            ],
            "special_tokens": {
                first_text: special(first, first_text), last_text: special(last, last_text),
            },
        },
        "decoder": { "type": "WordPiece", "prefix": "##", "cleanup": true },
        "model": {
            "type": "WordPiece",
            "unk_token": unknown,
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": words(reader, vocabulary)?,
        },
    });
    Ok(tokenizer.to_string().into_bytes())
}

/// The vocabulary as BERT writes it. Special tokens and what stands in brackets (`[unused1]`) have
/// the same text in both.
fn words(reader: &Reader, vocabulary: &Vocabulary<'_>) -> Result<Map<String, Value>, FileError> {
    let mut words = Map::new();
    let mut ids: BTreeMap<String, u32> = BTreeMap::new();
    for (id, token, kind) in vocabulary.iter() {
        let is_bracketed = token.len() > 2 && token.starts_with('[') && token.ends_with(']');
        let word = match token.strip_prefix('▁') {
            _ if kind != Kind::Normal || is_bracketed => token.to_owned(),
            Some(word) => word.to_owned(),
            None => format!("##{token}"),
        };
        if let Some(first) = ids.insert(word.clone(), id) {
            let reason = format!("tokens {first} and {id} are both {word:?}");
            return Err(reader.error("tokenizer.ggml.tokens", reason));
        }
        words.insert(word, id.into());
    }
    Ok(words)
}
