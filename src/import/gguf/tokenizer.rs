//! `tokenizer.json` of a byte-level BPE vocabulary, such that its ids are those of llama.cpp.
//!
//! A text is cut at special tokens, then by the pre-tokenizer's patterns, its bytes become
//! characters (GPT-2's map), and merges join them. Three rules of llama.cpp differ from a plain
//! conversion, and are kept:
//! - nothing is normalized (Qwen's own files compose characters first, llama.cpp does not);
//! - contractions are ASCII letters in either case, not everything that case folding reaches;
//! - a byte without a token of its own disappears, and what stood on either side of it is not
//!   joined.
//!
//! Two cases are not: special tokens that overlap in a text are found leftmost first, not longest
//! first; and a merge whose result has no token is left out, where llama.cpp would apply it and
//! lose the characters.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde_json::{Value, json};

use super::pretokenizers::PreTokenizer;
use super::reader::Reader;
use super::vocabulary::Vocabulary;
use crate::file::FileError;

/// The whole file.
pub(super) fn json(
    reader: &Reader,
    vocabulary: &Vocabulary<'_>,
    pre: &PreTokenizer,
) -> Result<Vec<u8>, FileError> {
    let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false });
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": vocabulary.added_tokens(),
        "normalizer": null,
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": pieces(vocabulary, pre, &byte_level) },
        "post_processor": null,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": pre.ignores_merges,
            "vocab": vocabulary.json(),
            "merges": merges(reader, vocabulary)?,
        },
    });
    Ok(tokenizer.to_string().into_bytes())
}

/// The steps that cut a text into pieces of byte characters.
fn pieces(vocabulary: &Vocabulary<'_>, pre: &PreTokenizer, byte_level: &Value) -> Vec<Value> {
    let split = |pattern: &str| json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false });
    let mut steps: Vec<Value> = pre.patterns.iter().map(|pattern| split(pattern)).collect();
    steps.push(byte_level.clone());
    // Bytes without a token stand alone, so that dropping them joins nothing.
    let missing: Vec<char> = byte_characters()
        .filter(|c| !vocabulary.ids.contains_key(c.to_string().as_str()))
        .collect();
    if !missing.is_empty() {
        let class = missing.iter().fold(String::new(), |mut class, c| {
            // Writing to a string cannot fail.
            let _ = write!(class, "\\x{{{:x}}}", u32::from(*c));
            class
        });
        steps.push(split(&format!("[{class}]")));
    }
    steps
}

/// GPT-2's character for each byte: printable Latin-1 as it is, the others from U+0100 on, in
/// order.
pub(in crate::import) fn byte_characters() -> impl Iterator<Item = char> {
    let mut next = 0x100;
    (0u8..=255).filter_map(move |byte| match byte {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => Some(byte.into()),
        _ => {
            next += 1;
            char::from_u32(next - 1)
        }
    })
}

/// The merges in order, first come first; those that name or make something that is no token are
/// left out.
fn merges(reader: &Reader, vocabulary: &Vocabulary<'_>) -> Result<Vec<Value>, FileError> {
    let key = "tokenizer.ggml.merges";
    let listed = reader.strings(key)?.ok_or_else(|| reader.error(key, "the key is missing"))?;
    let mut seen = BTreeSet::new();
    let mut merges = Vec::with_capacity(listed.len());
    for (i, merge) in listed.iter().enumerate() {
        // The first part may itself begin with a space.
        let space = merge.bytes().skip(1).position(|byte| byte == b' ').map(|at| at + 1);
        let Some((left, right)) =
            space.and_then(|at| Some((merge.get(..at)?, merge.get(at + 1..)?)))
        else {
            return Err(reader.error(
                key,
                format!("merge {i}, {merge:?}, is not two tokens with a space between"),
            ));
        };
        let whole = [left, right].concat();
        if [left, right, &whole].iter().all(|part| vocabulary.ids.contains_key(*part))
            && seen.insert((left, right))
        {
            merges.push(json!([left, right]));
        }
    }
    Ok(merges)
}
