//! The tokenizer from a GGUF file's metadata: vocabulary, special tokens, chat template.
//!
//! The rules are llama.cpp's. One file per kind of tokenizer builds its `tokenizer.json`:
//! `tokenizer` (gpt2: byte-level BPE), `sentencepiece` (llama), `wordpiece` (bert).

use super::pretokenizers::PreTokenizer;
use super::reader::Reader;
use super::special::{special_id, special_tokens};
use super::{pretokenizers, sentencepiece, tokenizer, vocabulary, wordpiece};
use crate::file::FileError;
use crate::import::TextParts;
use crate::text::gate::GuardedTokenizer;

/// The kinds of tokenizer that are read.
enum Model {
    ByteLevel(PreTokenizer),
    SentencePiece,
    WordPiece,
}

/// The ids that llama.cpp falls back to for a kind of tokenizer whose file does not name them.
struct Defaults {
    bos: Option<u32>,
    eos: Option<u32>,
    unknown: Option<u32>,
    separator: Option<u32>,
}

impl Model {
    /// The one that the file names, or `None` if it has no tokenizer.
    fn of(reader: &Reader) -> Result<Option<Self>, FileError> {
        let key = "tokenizer.ggml.model";
        match reader.string(key)? {
            None | Some("no_vocab" | "none") => Ok(None),
            Some("gpt2") => Ok(Some(Self::ByteLevel(pretokenizers::of(reader)?))),
            Some("llama") => Ok(Some(Self::SentencePiece)),
            Some("bert") => Ok(Some(Self::WordPiece)),
            Some(other) => {
                let reason = format!(
                    "the tokenizer {other:?} is not supported (gpt2, byte-level BPE; llama, \
                     SentencePiece; bert, WordPiece are); import the model's Hugging Face directory"
                );
                Err(reader.error(key, reason))
            }
        }
    }

    fn defaults(&self) -> Defaults {
        match self {
            Self::ByteLevel(_) => Defaults { bos: None, eos: None, unknown: None, separator: None },
            Self::SentencePiece => {
                Defaults { bos: Some(1), eos: Some(2), unknown: Some(0), separator: None }
            }
            Self::WordPiece => {
                Defaults { bos: Some(101), eos: None, unknown: Some(100), separator: Some(102) }
            }
        }
    }

    /// Is a begin-of-sequence token put in front if the file does not say?
    const fn adds_bos(&self) -> bool {
        match self {
            Self::ByteLevel(pre) => pre.adds_bos,
            Self::SentencePiece | Self::WordPiece => true,
        }
    }
}

/// Everything about text; empty if the file has no tokenizer.
pub(super) fn text(reader: &Reader, vocab: usize) -> Result<TextParts, FileError> {
    let Some(model) = Model::of(reader)? else { return Ok(TextParts::default()) };
    let mut vocabulary = vocabulary::read(reader, vocab)?;
    let id = |key: &str, default: Option<u32>| {
        let inside = default.filter(|&id| (id as usize) < vocab);
        special_id(reader, key, vocab).map(|id| id.or(inside))
    };
    let default = model.defaults();
    let eos = id("eos_token_id", default.eos)?;
    let stops = special_tokens(reader, &mut vocabulary, eos)?;
    // The end-of-sequence token comes first: it is what templates call eos_token.
    let stop = stops
        .iter()
        .filter(|id| Some(**id) == eos)
        .chain(stops.iter().filter(|id| Some(**id) != eos))
        .copied()
        .collect();
    let classifier = id("cls_token_id", default.bos)?;
    let bos = match model {
        Model::WordPiece => id("bos_token_id", classifier)?,
        _ => id("bos_token_id", default.bos)?,
    };
    let key = "tokenizer.ggml.add_bos_token";
    let add_bos = reader.boolean(key)?.unwrap_or(model.adds_bos());
    if add_bos && bos.is_none() {
        let reason = "a begin-of-sequence token is to be put in front, but \
                      tokenizer.ggml.bos_token_id is missing";
        return Err(reader.error(key, reason));
    }
    let unknown = id("unknown_token_id", default.unknown)?;
    // [SEP] behind a text of WordPiece is part of its frame.
    let key = "tokenizer.ggml.add_eos_token";
    if reader.boolean(key)? == Some(true) && !matches!(model, Model::WordPiece) {
        let reason = "an end-of-sequence token behind every text is not supported";
        return Err(reader.error(key, reason));
    }
    let tokenizer = match &model {
        Model::ByteLevel(pre) => tokenizer::json(reader, &vocabulary, pre)?,
        Model::SentencePiece => sentencepiece::json(reader, &vocabulary, unknown)?,
        Model::WordPiece => {
            let separator = id("seperator_token_id", default.separator)?;
            wordpiece::json(reader, &vocabulary, [bos, separator, unknown])?
        }
    };
    GuardedTokenizer::import(&tokenizer).map_err(|refusal| {
        reader.error("tokenizer.ggml", format!("not a tokenizer that can be used: {refusal}"))
    })?;
    let chat_template = reader.string("tokenizer.chat_template")?.unwrap_or_default().to_owned();
    Ok(TextParts { tokenizer, chat_template, bos, add_bos, stop })
}
