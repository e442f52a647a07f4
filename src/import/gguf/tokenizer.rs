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

use serde_json::{Map, Value, json};

use super::reader::Reader;
use super::text::{Kind, Vocabulary};
use crate::file::FileError;

/// A pre-tokenizer that llama.cpp has a name for.
pub(super) struct PreTokenizer {
    /// Patterns that cut, one after the other.
    patterns: &'static [&'static str],
    /// Is a whole piece that is a token taken without merging?
    ignores_merges: bool,
    /// Is a begin-of-sequence token put in front if the file does not say?
    pub(super) adds_bos: bool,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{L}&&[^a-z]]*[\p{L}&&[^A-Z]]+|[^\r\n\p{L}\p{N}]?[\p{L}&&[^a-z]]+[\p{L}&&[^A-Z]]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The pre-tokenizer that the file names.
pub(super) fn pre_tokenizer(reader: &Reader) -> Result<PreTokenizer, FileError> {
    let key = "tokenizer.ggml.pre";
    let name = reader.string(key)?.ok_or_else(|| {
        reader.error(key, "the file does not say which pre-tokenizer its vocabulary needs")
    })?;
    let (patterns, ignores_merges, adds_bos): (&'static [&'static str], bool, bool) = match name {
        "gpt-2" | "phi-2" | "gigachat" | "a.x-4.0" | "mellum" | "mpt" | "olmo" | "jais"
        | "trillion" | "granite-docling" | "exaone4" => (&[GPT2], false, false),
        "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone" | "minerva-7b"
        | "mellum2" => (&[r"\p{N}", GPT2], false, false),
        "llama-bpe" | "llama3" | "llama-v3" | "falcon3" | "falcon-h1" | "pixtral" | "midm-2.0"
        | "lfm2" => (&[LLAMA3], true, true),
        "dbrx" | "smaug-bpe" => (&[LLAMA3], false, false),
        "qwen2" | "deepseek-r1-qwen" | "kormo" | "f2llmv2" | "megrez" | "stablelm2" | "hunyuan"
        | "solar-open" => (&[QWEN2], false, false),
        "tekken" => (&[TEKKEN], true, true),
        "default" => (&[r"[\p{P}$+<=>^~|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"], false, false),
        other => return Err(reader.error(key, format!("the pre-tokenizer {other:?} is not known"))),
    };
    Ok(PreTokenizer { patterns, ignores_merges, adds_bos })
}

/// The whole file.
pub(super) fn json(
    reader: &Reader,
    vocabulary: &Vocabulary<'_>,
    pre: &PreTokenizer,
) -> Result<Vec<u8>, FileError> {
    let ids: Map<String, Value> = (0u32..)
        .zip(&vocabulary.tokens)
        .map(|(id, token)| (token.to_string(), id.into()))
        .collect();
    let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false });
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added_tokens(vocabulary),
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
            "vocab": ids,
            "merges": merges(reader, vocabulary)?,
        },
    });
    Ok(tokenizer.to_string().into_bytes())
}

/// The tokens that are found in a text before anything else.
fn added_tokens(vocabulary: &Vocabulary<'_>) -> Vec<Value> {
    let special = (0u32..)
        .zip(&vocabulary.tokens)
        .zip(&vocabulary.kinds)
        .filter(|(_, kind)| **kind != Kind::Normal);
    special
        .map(|((id, token), kind)| {
            json!({
                "id": id, "content": token, "special": *kind == Kind::Control,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            })
        })
        .collect()
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
