//! The text border from a GGUF file's metadata: vocabulary, special tokens, chat template.
//!
//! The rules are llama.cpp's: which tokens are special, which end a generation (ids from keys, and
//! tokens known by their text), and whether a begin-of-sequence token is put in front. What becomes
//! of them in `tokenizer.json` is `tokenizer`'s matter.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::reader::Reader;
use super::tokenizer;
use crate::file::FileError;
use crate::import::TextParts;
use crate::text::gate::Tokenizer;

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text.
    Normal,
    /// Found in text before anything else, and shown as text.
    UserDefined,
    /// Found in text before anything else, and not shown.
    Control,
}

/// The tokens of a file.
pub(super) struct Vocabulary<'a> {
    pub(super) tokens: Vec<Cow<'a, str>>,
    pub(super) kinds: Vec<Kind>,
    /// Token → id.
    pub(super) ids: BTreeMap<Cow<'a, str>, u32>,
}

/// Tokens that end a generation wherever they occur.
const END_OF_GENERATION: [&str; 22] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];

/// Keys of code-filling tokens, the texts they are known by where the key is missing, and whether
/// they end a generation.
const FILL_IN: [(&[&str], &[&str], bool); 6] = [
    (
        &["fim_pre_token_id", "prefix_token_id"],
        &[
            "<|fim_prefix|>",
            "<fim-prefix>",
            "<fim_prefix>",
            "<｜fim▁begin｜>",
            "<PRE>",
            "▁<PRE>",
            "<|code_prefix|>",
            "<|prefix|>",
        ],
        false,
    ),
    (
        &["fim_suf_token_id", "suffix_token_id"],
        &[
            "<|fim_suffix|>",
            "<fim-suffix>",
            "<fim_suffix>",
            "<｜fim▁hole｜>",
            "<SUF>",
            "▁<SUF>",
            "<|code_suffix|>",
            "<|suffix|>",
        ],
        false,
    ),
    (
        &["fim_mid_token_id", "middle_token_id"],
        &[
            "<|fim_middle|>",
            "<fim-middle>",
            "<fim_middle>",
            "<｜fim▁end｜>",
            "<MID>",
            "▁<MID>",
            "<|code_middle|>",
            "<|middle|>",
        ],
        false,
    ),
    (&["fim_pad_token_id"], &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"], true),
    (
        &["fim_rep_token_id"],
        &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"],
        true,
    ),
    (&["fim_sep_token_id"], &["<|file_sep|>"], true),
];

/// Everything about text; empty if the file has no tokenizer.
pub(super) fn text(reader: &Reader, vocab: usize) -> Result<TextParts, FileError> {
    let key = "tokenizer.ggml.model";
    match reader.string(key)? {
        None | Some("no_vocab" | "none") => return Ok(TextParts::default()),
        Some("gpt2") => {}
        Some(other) => {
            let reason = format!(
                "the tokenizer {other:?} is not supported (gpt2, byte-level BPE, is); import the model's Hugging Face directory"
            );
            return Err(reader.error(key, reason));
        }
    }
    let pre = tokenizer::pre_tokenizer(reader)?;
    let mut vocabulary = vocabulary(reader, vocab)?;
    let eos = special_id(reader, "eos_token_id", vocab)?;
    let stops = special_tokens(reader, &mut vocabulary)?;
    // The end-of-sequence token comes first: it is what templates call eos_token.
    let stop = stops
        .iter()
        .filter(|id| Some(**id) == eos)
        .chain(stops.iter().filter(|id| Some(**id) != eos))
        .copied()
        .collect();
    let bos = special_id(reader, "bos_token_id", vocab)?;
    let key = "tokenizer.ggml.add_bos_token";
    let add_bos = reader.boolean(key)?.unwrap_or(pre.adds_bos);
    if add_bos && bos.is_none() {
        return Err(reader.error(key, "a begin-of-sequence token is to be put in front, but tokenizer.ggml.bos_token_id is missing"));
    }
    let key = "tokenizer.ggml.add_eos_token";
    if reader.boolean(key)? == Some(true) {
        return Err(
            reader.error(key, "an end-of-sequence token behind every text is not supported")
        );
    }
    let chat_template = reader.string("tokenizer.chat_template")?.unwrap_or_default().to_owned();
    let tokenizer = tokenizer::json(reader, &vocabulary, &pre)?;
    Tokenizer::import(&tokenizer).map_err(|refusal| {
        reader.error("tokenizer.ggml", format!("not a tokenizer that can be used: {refusal}"))
    })?;
    Ok(TextParts { tokenizer, chat_template, bos, add_bos, stop })
}

/// The token id under a `tokenizer.ggml` key.
fn special_id(reader: &Reader, key: &str, vocab: usize) -> Result<Option<u32>, FileError> {
    let key = format!("tokenizer.ggml.{key}");
    let Some(id) = reader.unsigned(&key)? else { return Ok(None) };
    match u32::try_from(id) {
        Ok(small) if id < vocab as u64 => Ok(Some(small)),
        _ => Err(reader.error(key, format!("token {id} is outside the vocabulary of {vocab}"))),
    }
}

/// The kind with GGUF's number: 2 unknown, 3 control, 4 user-defined; 1 normal, 5 unused and 6 byte
/// are text.
fn kind(number: i64) -> Kind {
    match number {
        2 | 3 => Kind::Control,
        4 => Kind::UserDefined,
        _ => Kind::Normal,
    }
}

/// The tokens with the kinds the file gives them.
fn vocabulary(reader: &Reader, vocab: usize) -> Result<Vocabulary<'_>, FileError> {
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
    Ok(Vocabulary { tokens, kinds, ids })
}

/// Makes tokens special that llama.cpp knows by their text, and collects those that end a
/// generation.
fn special_tokens(
    reader: &Reader,
    vocabulary: &mut Vocabulary<'_>,
) -> Result<BTreeSet<u32>, FileError> {
    let mut stop = BTreeSet::new();
    let vocab = vocabulary.tokens.len();
    let known = |vocabulary: &Vocabulary<'_>, text: &str| vocabulary.ids.get(text).copied();
    for (keys, texts, ends) in FILL_IN {
        let mut id = None;
        for key in keys {
            id = id.or(special_id(reader, key, vocab)?);
        }
        if id.is_none() {
            id = texts.iter().filter_map(|text| known(vocabulary, text)).min();
            id.into_iter().for_each(|id| vocabulary.kinds[id as usize] = Kind::Control);
        }
        stop.extend(id.filter(|_| ends));
    }
    for text in END_OF_GENERATION {
        if let Some(id) = known(vocabulary, text) {
            vocabulary.kinds[id as usize] = Kind::Control;
            stop.insert(id);
        }
    }
    for text in ["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"] {
        known(vocabulary, text)
            .into_iter()
            .for_each(|id| vocabulary.kinds[id as usize] = Kind::UserDefined);
    }
    for key in ["eos_token_id", "eot_token_id", "eom_token_id"] {
        stop.extend(special_id(reader, key, vocab)?);
    }
    // Vocabularies with channels: <|end|> ends a message there, not the generation.
    let stops = |stop: &BTreeSet<u32>, text| known(vocabulary, text).filter(|id| stop.contains(id));
    let call = stops(&stop, "<|call|>").or(stops(&stop, "<|calls|>")).is_some();
    let channels =
        call && (stops(&stop, "<|return|>").is_some() || stops(&stop, "<|flush|>").is_some());
    let message_end = stops(&stop, "<|end|>").filter(|_| channels);
    let sentence_end = stops(&stop, "</s>").filter(|_| stops(&stop, "<|tool_response>").is_some());
    for (id, kind) in [(message_end, Kind::UserDefined), (sentence_end, Kind::Normal)] {
        if let Some(id) = id {
            stop.remove(&id);
            vocabulary.kinds[id as usize] = kind;
        }
    }
    Ok(stop)
}
