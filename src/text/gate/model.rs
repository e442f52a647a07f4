//! The model of a tokenizer.json: vocabulary and merges that fit each other, ids in range, an
//! unknown token that exists where one can be needed; and the library's model of them.
//!
//! The library's own reader of this part copies it five times. Its builders take what was checked.

use std::borrow::Cow;

use serde_json::{Map, Value};
use tokenizers::ModelWrapper;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::models::unigram::Unigram;
use tokenizers::models::wordlevel::WordLevel;
use tokenizers::models::wordpiece::WordPiece;

use super::Refusal;
use super::json::{self, Json};
use super::quiet::{PANICKED, guarded};

/// Token ids; the largest published vocabularies have a million.
const IDS: u64 = 1 << 24;
/// Bytes of prefixes and suffixes of pieces (`##`, `</w>`).
const AFFIX: usize = 64;
/// Bytes of a Unigram piece, and nodes of all: the library keeps a map for every letter, one in the
/// other.
const PIECE: usize = 512;
const NODES: usize = 6_000_000;
/// Letters of a word that WordPiece searches; the work is their square.
const WORD: u64 = 1_000;

/// The model that `part` describes; `is_bytes` says that texts arrive in GPT-2's alphabet.
pub(super) fn build(part: Option<Json<'_>>, is_bytes: bool) -> Result<ModelWrapper, Refusal> {
    let Some(Json::Map(mut fields)) = part else {
        return Err(Refusal::new("model", "an object was expected"));
    };
    let refused = |reason| Refusal::new("model", reason);
    let vocab = json::take(&mut fields, "vocab").map_err(refused)?;
    let merges = json::take(&mut fields, "merges").map_err(refused)?;
    let fields = json::into_map(fields).map_err(refused)?;
    // Old files do not name the kind.
    let kind = match fields.get("type").map(|kind| kind.as_str().unwrap_or("")) {
        Some(kind) => kind,
        None if merges.is_some() => "BPE",
        None if matches!(vocab, Some(Json::List(_))) => "Unigram",
        None if fields.contains_key("max_input_chars_per_word") => "WordPiece",
        None => "WordLevel",
    };
    let model = match kind {
        "BPE" => bpe(&fields, vocab, merges, is_bytes),
        "Unigram" => unigram(&fields, vocab),
        "WordPiece" => word_piece(&fields, vocab),
        "WordLevel" => word_level(&fields, vocab),
        other => Err(("type", format!("the type {other:?} is not known"))),
    };
    model.map_err(|(key, reason)| {
        Refusal::new(if key.is_empty() { "model".into() } else { format!("model.{key}") }, reason)
    })
}

type Outcome<T> = Result<T, (&'static str, String)>;
type Fields = Map<String, Value>;

/// What the library makes of checked parts.
fn built<T: Into<ModelWrapper>>(
    build: impl FnOnce() -> tokenizers::Result<T>,
) -> Outcome<ModelWrapper> {
    guarded(build)
        .ok_or_else(|| ("", PANICKED.to_owned()))?
        .map(Into::into)
        .map_err(|error| ("", error.to_string()))
}

/// A vocabulary of names with ids, each id once.
fn vocabulary(part: Option<Json<'_>>) -> Outcome<Vocab> {
    let wrong = |reason| Err(("vocab", reason));
    let Some(Json::Map(tokens)) = part else {
        return wrong("an object of tokens and ids was expected".to_owned());
    };
    let (mut vocab, mut seen) = (Vocab::default(), Vec::new());
    vocab.reserve(tokens.len());
    for (token, id) in tokens {
        let number = match &id {
            Json::Number(id) => id.as_u64().filter(|&id| id < IDS),
            _ => None,
        };
        let Some(id) = number.map(|id| id as usize) else {
            let id = id.into_value().map_or_else(|reason| reason, |id| id.to_string());
            return wrong(format!("{token:?} has the id {id}: 0 to {} was expected", IDS - 1));
        };
        if seen.len() <= id {
            seen.resize(id + 1, false);
        }
        if vocab.contains_key(&*token) {
            return wrong(json::twice(&token));
        }
        if std::mem::replace(&mut seen[id], true) {
            return wrong(format!("{token:?} has the id {id}, which another token has too"));
        }
        vocab.insert(token.into_owned(), id as u32);
    }
    Ok(vocab)
}

/// An optional value, which `null` leaves out too.
fn optional<T>(
    fields: &Fields,
    key: &'static str,
    expected: &str,
    read: impl FnOnce(&Value) -> Option<T>,
) -> Outcome<Option<T>> {
    match fields.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match read(value) {
            Some(value) => Ok(Some(value)),
            None => Err((key, format!("{expected} was expected"))),
        },
    }
}

fn flag(fields: &Fields, key: &'static str) -> Outcome<bool> {
    Ok(optional(fields, key, "true or false", Value::as_bool)?.unwrap_or(false))
}

fn string(fields: &Fields, key: &'static str) -> Outcome<Option<String>> {
    optional(fields, key, "a string", |value| value.as_str().map(str::to_owned))
}

/// A short text.
fn affix(fields: &Fields, key: &'static str) -> Outcome<Option<String>> {
    optional(fields, key, &format!("a string of at most {AFFIX} bytes"), |value| {
        value.as_str().filter(|text| text.len() <= AFFIX).map(str::to_owned)
    })
}

fn bpe(
    fields: &Fields,
    vocab: Option<Json<'_>>,
    merges: Option<Json<'_>>,
    is_bytes: bool,
) -> Outcome<ModelWrapper> {
    let vocab = vocabulary(vocab)?;
    let prefix = affix(fields, "continuing_subword_prefix")?;
    let suffix = affix(fields, "end_of_word_suffix")?;
    let merges = checked_merges(merges, &vocab, prefix.as_deref().unwrap_or(""))?;
    let unknown = string(fields, "unk_token")?;
    let byte_fallback = flag(fields, "byte_fallback")?;
    if let Some(token) = unknown.as_deref().filter(|&token| !vocab.contains_key(token)) {
        let named = |byte: u8| format!("<0x{byte:02X}>");
        let never = is_bytes && has_alphabet(&vocab)
            || byte_fallback && (0..=255).all(|byte| vocab.contains_key(&named(byte)));
        if !never {
            let reason = "is not in the vocabulary, and unknown letters can occur";
            return Err(("unk_token", format!("{token:?} {reason}")));
        }
    }
    let mut builder = BPE::builder()
        .fuse_unk(flag(fields, "fuse_unk")?)
        .byte_fallback(byte_fallback)
        .ignore_merges(flag(fields, "ignore_merges")?);
    if let Some(dropout) = optional(fields, "dropout", "a number", Value::as_f64)? {
        builder = builder.dropout(dropout as f32);
    }
    if let Some(token) = unknown {
        builder = builder.unk_token(token);
    }
    if let Some(prefix) = prefix {
        builder = builder.continuing_subword_prefix(prefix);
    }
    if let Some(suffix) = suffix {
        builder = builder.end_of_word_suffix(suffix);
    }
    built(|| builder.vocab_and_merges(vocab, merges).build())
}

/// Is every byte of GPT-2's alphabet a token? (It has 256 letters below U+0144.)
fn has_alphabet(vocab: &Vocab) -> bool {
    let letters = ('!'..='~').chain('¡'..='¬').chain('®'..='ÿ').chain('\u{100}'..='\u{143}');
    letters.map(String::from).all(|letter| vocab.contains_key(&letter))
}

/// Both parts of every merge are tokens, and so is what they make; the library panics or reads past
/// a part otherwise.
fn checked_merges(part: Option<Json<'_>>, vocab: &Vocab, prefix: &str) -> Outcome<Merges> {
    let Some(Json::List(list)) = part else {
        return Err(("merges", "a list was expected".to_owned()));
    };
    let mut merges = Merges::with_capacity(list.len());
    let mut made = String::new();
    for (index, merge) in list.into_iter().enumerate() {
        if matches!(&merge, Json::Text(line) if line.starts_with("#version")) {
            continue;
        }
        let wrong = |reason: &str| Err(("merges", format!("merge {index} {reason}")));
        let Some((a, b)) = two_tokens(merge) else { return wrong("is not two tokens") };
        let pair = || format!("({a} {b})");
        let Some(rest) = b.strip_prefix(prefix) else {
            return wrong(&format!(
                "{} has no continuing_subword_prefix in its second part",
                pair()
            ));
        };
        made.clear();
        made.push_str(&a);
        made.push_str(rest);
        for token in [&*a, &*b, &*made] {
            if !vocab.contains_key(token) {
                let reason = "which is not in the vocabulary";
                return wrong(&format!("{} needs {token:?}, {reason}", pair()));
            }
        }
        merges.push((a.into_owned(), b.into_owned()));
    }
    Ok(merges)
}

/// A merge as a list of two, or as old files have it, with a space between them.
fn two_tokens(merge: Json<'_>) -> Option<(Cow<'_, str>, Cow<'_, str>)> {
    match merge {
        Json::Text(line) => {
            let (a, b) = line.split_once(' ').filter(|(_, b)| !b.contains(' '))?;
            Some((a.to_owned().into(), b.to_owned().into()))
        }
        Json::List(items) => match <[Json<'_>; 2]>::try_from(items) {
            Ok([Json::Text(a), Json::Text(b)]) => Some((a, b)),
            _ => None,
        },
        _ => None,
    }
}

fn unigram(fields: &Fields, part: Option<Json<'_>>) -> Outcome<ModelWrapper> {
    let Some(Json::List(list)) = part else {
        return Err(("vocab", "a list of pieces with scores was expected".to_owned()));
    };
    let mut vocab = Vec::with_capacity(list.len());
    for (index, entry) in list.into_iter().enumerate() {
        let Some((piece, score)) = scored(entry).filter(|(piece, _)| piece.len() <= PIECE) else {
            let expected = format!("of at most {PIECE} bytes and a score were expected");
            return Err(("vocab", format!("entry {index}: a piece {expected}")));
        };
        vocab.push((piece.into_owned(), score));
    }
    let nodes = nodes(&vocab);
    if vocab.len() as u64 > IDS || nodes > NODES {
        return Err(("vocab", format!("its pieces make {nodes} nodes, at most {NODES}")));
    }
    let unknown = optional(fields, "unk_id", "a token's id", Value::as_u64)?;
    let Some(unknown) = unknown.filter(|&id| id < vocab.len() as u64) else {
        return Err(("unk_id", format!("a piece among the {} was expected", vocab.len())));
    };
    let byte_fallback = flag(fields, "byte_fallback")?;
    built(|| Unigram::from(vocab, Some(unknown as usize), byte_fallback))
}

/// A piece and its score.
fn scored(entry: Json<'_>) -> Option<(Cow<'_, str>, f64)> {
    let Json::List(items) = entry else { return None };
    match <[Json<'_>; 2]>::try_from(items) {
        Ok([Json::Text(piece), Json::Number(score)]) => Some((piece, score.as_f64()?)),
        _ => None,
    }
}

/// Nodes of the tree of all pieces, a byte each.
fn nodes(vocab: &[(String, f64)]) -> usize {
    let mut pieces: Vec<&[u8]> = vocab.iter().map(|(piece, _)| piece.as_bytes()).collect();
    pieces.sort_unstable();
    let first = pieces.first().map_or(0, |piece| piece.len());
    let more = pieces.windows(2).map(|pair| {
        let shared = pair[0].iter().zip(pair[1]).take_while(|(a, b)| a == b).count();
        pair[1].len() - shared
    });
    first + more.sum::<usize>()
}

fn word_piece(fields: &Fields, vocab: Option<Json<'_>>) -> Outcome<ModelWrapper> {
    let vocab = vocabulary(vocab)?;
    let prefix = "continuing_subword_prefix";
    let Some(affix) = affix(fields, prefix)? else {
        return Err((prefix, "a string was expected".to_owned()));
    };
    let key = "max_input_chars_per_word";
    let Some(most) = fields.get(key).and_then(Value::as_u64).filter(|&most| most <= WORD) else {
        return Err((key, format!("a number of at most {WORD} was expected")));
    };
    let unknown = unknown(fields, &vocab)?;
    built(|| {
        WordPiece::builder()
            .vocab(vocab)
            .unk_token(unknown)
            .continuing_subword_prefix(affix)
            .max_input_chars_per_word(most as usize)
            .build()
    })
}

fn word_level(fields: &Fields, vocab: Option<Json<'_>>) -> Outcome<ModelWrapper> {
    let vocab = vocabulary(vocab)?;
    let unknown = unknown(fields, &vocab)?;
    built(|| WordLevel::builder().vocab(vocab).unk_token(unknown).build())
}

fn unknown(fields: &Fields, vocab: &Vocab) -> Outcome<String> {
    match fields.get("unk_token").and_then(Value::as_str) {
        Some(token) if vocab.contains_key(token) => Ok(token.to_owned()),
        _ => Err(("unk_token", "a token of the vocabulary was expected".to_owned())),
    }
}
