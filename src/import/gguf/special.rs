//! Which tokens of a GGUF file are special, and which end a generation.
//!
//! The rules are llama.cpp's: ids come from keys, and a vocabulary whose file lacks them is known
//! by the texts of its tokens.

use std::collections::BTreeSet;

use super::reader::Reader;
use super::vocabulary::{Kind, Vocabulary};
use crate::file::FileError;

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

/// The token id under a `tokenizer.ggml` key.
pub(super) fn special_id(
    reader: &Reader,
    key: &str,
    vocab: usize,
) -> Result<Option<u32>, FileError> {
    let key = format!("tokenizer.ggml.{key}");
    let Some(id) = reader.unsigned(&key)? else { return Ok(None) };
    match u32::try_from(id) {
        Ok(small) if id < vocab as u64 => Ok(Some(small)),
        _ => Err(reader.error(key, format!("token {id} is outside the vocabulary of {vocab}"))),
    }
}

/// Makes tokens special that llama.cpp knows by their text, and collects those that end a
/// generation: `eos` and what the file or the tokens' texts say.
pub(super) fn special_tokens(
    reader: &Reader,
    vocabulary: &mut Vocabulary<'_>,
    eos: Option<u32>,
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
    stop.extend(eos);
    for key in ["eot_token_id", "eom_token_id"] {
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
