//! `tokenizer.json` of a SentencePiece BPE vocabulary, such that its ids are those of llama.cpp.
//!
//! SentencePiece joins the two neighbours whose piece has the best score, the leftmost first.
//! `tokenizer.json` knows no scores but an order of merges: every way to cut a piece into two
//! pieces is one, and a better score comes first. Spaces become `▁`, one of them stands in front of
//! what follows the beginning or a special token, and a character without a piece becomes its
//! bytes, or the unknown token in a vocabulary without bytes.
//!
//! Three kinds of tokens are never made of text, as in SentencePiece itself: control tokens, the
//! unknown token and bytes.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Value, json};

use super::reader::Reader;
use super::vocabulary::{Kind, Vocabulary};
use crate::file::FileError;

const SCORES: &str = "tokenizer.ggml.scores";

/// The whole file; `unknown` stands for what has no token.
pub(super) fn json(
    reader: &Reader,
    vocabulary: &Vocabulary<'_>,
    unknown: Option<u32>,
) -> Result<Vec<u8>, FileError> {
    let prefix = reader.boolean("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let trims = reader.boolean("tokenizer.ggml.remove_extra_whitespaces")?.unwrap_or(false);
    let byte_fallback = has_bytes(reader, vocabulary, unknown)?;
    let unknown = unknown.and_then(|id| vocabulary.tokens.get(id as usize));
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": vocabulary.added_tokens(),
        "normalizer": normalizer(prefix, trims),
        "pre_tokenizer": null,
        "post_processor": null,
        "decoder": decoder(prefix),
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": unknown,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": true,
            "byte_fallback": byte_fallback,
            "ignore_merges": false,
            "vocab": vocabulary.json(),
            "merges": merges(reader, vocabulary)?,
        },
    });
    Ok(tokenizer.to_string().into_bytes())
}

/// How a text between special tokens is written before it is cut into characters.
fn normalizer(prefix: bool, trims: bool) -> Value {
    let mut steps = Vec::new();
    if trims {
        steps.push(json!({ "type": "Replace", "pattern": { "Regex": " {2,}" }, "content": " " }));
        steps.push(json!({ "type": "Replace", "pattern": { "Regex": "^ | $" }, "content": "" }));
    }
    if prefix {
        steps.push(json!({ "type": "Prepend", "prepend": "▁" }));
    }
    steps.push(json!({ "type": "Replace", "pattern": { "String": " " }, "content": "▁" }));
    json!({ "type": "Sequence", "normalizers": steps })
}

fn decoder(prefix: bool) -> Value {
    let mut steps = vec![
        json!({ "type": "Replace", "pattern": { "String": "▁" }, "content": " " }),
        json!({ "type": "ByteFallback" }),
        json!({ "type": "Fuse" }),
    ];
    if prefix {
        steps.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    json!({ "type": "Sequence", "decoders": steps })
}

/// Has every byte a token? Only some, or none and no unknown token, leaves characters without one.
fn has_bytes(
    reader: &Reader,
    vocabulary: &Vocabulary<'_>,
    unknown: Option<u32>,
) -> Result<bool, FileError> {
    let count = (0..=255u8)
        .filter(|byte| vocabulary.ids.contains_key(format!("<0x{byte:02X}>").as_str()))
        .count();
    match (count, unknown) {
        (256, _) => Ok(true),
        (0, Some(_)) => Ok(false),
        (0, None) => {
            let key = "tokenizer.ggml.unknown_token_id";
            Err(reader.error(key, "there are neither tokens of bytes nor an unknown token"))
        }
        _ => {
            let reason = format!("{count} of the 256 tokens of bytes (<0x00> to <0xFF>)");
            Err(reader.error("tokenizer.ggml.tokens", reason))
        }
    }
}

/// A piece of text and its two halves.
#[derive(Debug, Clone, Copy)]
struct Merge {
    left: u32,
    right: u32,
    piece: u32,
}

/// Every way to make a piece of two others, in the order in which they are to be tried.
fn merges(reader: &Reader, vocabulary: &Vocabulary<'_>) -> Result<Vec<Value>, FileError> {
    let scores = scores(reader, vocabulary.tokens.len())?;
    let kind = |id: u32| vocabulary.kinds[id as usize];
    let is_text = |id: u32| matches!(kind(id), Kind::Normal | Kind::UserDefined);
    let part = |text: &str| vocabulary.ids.get(text).copied().filter(|&id| is_text(id));
    let mut found = Vec::new();
    for (piece, token, _) in vocabulary.iter().filter(|(id, ..)| is_text(*id)) {
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if let (Some(left), Some(right)) = (part(left), part(right)) {
                found.push(Merge { left, right, piece });
            }
        }
    }
    let score = |merge: &Merge| scores[merge.piece as usize];
    found.sort_by(|a, b| score(b).total_cmp(&score(a)));
    let mut merges = Vec::with_capacity(found.len());
    let token = |id: u32| &*vocabulary.tokens[id as usize];
    for group in found.chunk_by(|a, b| score(a) == score(b)) {
        let ordered = if group.iter().all(|merge| merge.piece == group[0].piece) {
            group.to_vec()
        } else {
            leftmost_first(vocabulary, group).map_err(|merge| {
                let reason = format!(
                    "{:?} and other tokens have the score {}: which of them comes first depends \
                     on the text, and a tokenizer.json cannot say so; import the model's Hugging \
                     Face directory",
                    token(merge.piece),
                    score(&merge),
                );
                reader.error(SCORES, reason)
            })?
        };
        merges.extend(ordered.iter().map(|merge| json!([token(merge.left), token(merge.right)])));
    }
    Ok(merges)
}

/// One score per token, without negative zeros.
fn scores(reader: &Reader, vocab: usize) -> Result<Vec<f32>, FileError> {
    let Some(scores) = reader.floats(SCORES)? else {
        return Err(reader.error(SCORES, "the key is missing"));
    };
    if scores.len() != vocab {
        return Err(reader.error(SCORES, format!("{} scores for {vocab} tokens", scores.len())));
    }
    match scores.iter().position(|score| score.is_nan()) {
        Some(token) => Err(reader.error(SCORES, format!("the score of token {token} is NaN"))),
        None => Ok(scores.into_iter().map(|score| score + 0.0).collect()),
    }
}

/// Merges of one score in an order that joins the leftmost first: of two that share a token, that
/// to the right of the one comes after that to the left of the other. Where no order does so, one
/// of the merges that are left.
fn leftmost_first(vocabulary: &Vocabulary<'_>, group: &[Merge]) -> Result<Vec<Merge>, Merge> {
    // Leftmost first makes a run of one character from its left end: a short part left of a longer
    // one does not come up.
    let is_odd = |merge: &Merge| {
        let [left, right] = [merge.left, merge.right].map(|id| &*vocabulary.tokens[id as usize]);
        let mut characters = left.chars().chain(right.chars());
        let first = characters.next();
        left.len() < right.len() && characters.all(|c| Some(c) == first)
    };
    let (last, group): (Vec<Merge>, Vec<Merge>) = group.iter().copied().partition(is_odd);
    // How many merges that are not placed yet end with a token; which begin with it.
    let mut before: BTreeMap<u32, usize> = BTreeMap::new();
    let mut beginning: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (i, merge) in group.iter().enumerate() {
        *before.entry(merge.right).or_default() += 1;
        beginning.entry(merge.left).or_default().push(i);
    }
    // A token doubled does not wait for itself.
    let own = |merge: &Merge| usize::from(merge.left == merge.right);
    let waits = |before: &BTreeMap<u32, usize>, merge: &Merge| {
        before.get(&merge.left).copied().unwrap_or(0) > own(merge)
    };
    let mut is_ready: Vec<bool> = group.iter().map(|merge| !waits(&before, merge)).collect();
    let mut ready: VecDeque<usize> = (0..group.len()).filter(|&i| is_ready[i]).collect();
    let mut ordered = Vec::with_capacity(group.len() + last.len());
    while let Some(i) = ready.pop_front() {
        let merge = group[i];
        ordered.push(merge);
        let left = before.get_mut(&merge.right).map_or(0, |count| {
            *count -= 1;
            *count
        });
        // All of them, or the doubled token alone.
        if left <= 1 {
            for &next in beginning.get(&merge.right).map_or(&[][..], Vec::as_slice) {
                if !is_ready[next] && !waits(&before, &group[next]) {
                    is_ready[next] = true;
                    ready.push_back(next);
                }
            }
        }
    }
    if let Some(i) = is_ready.iter().position(|ready| !ready) {
        return Err(group[i]);
    }
    ordered.extend(last);
    Ok(ordered)
}
