//! The model of a tokenizer.json: vocabulary and merges that fit each other, ids in range, an
//! unknown token that exists where one can be needed.

use serde_json::{Map, Value};

use super::Refusal;

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

/// Checks the part `model`; `is_bytes` says that texts arrive in GPT-2's alphabet.
pub(super) fn check(model: &Value, is_bytes: bool) -> Result<(), Refusal> {
    let model = model.as_object().ok_or_else(|| Refusal::new("model", "an object was expected"))?;
    // Old files do not name the kind.
    let kind = match model.get("type").map(|kind| kind.as_str().unwrap_or("")) {
        Some(kind) => kind,
        None if model.contains_key("merges") => "BPE",
        None if model.get("vocab").is_some_and(Value::is_array) => "Unigram",
        None if model.contains_key("max_input_chars_per_word") => "WordPiece",
        None => "WordLevel",
    };
    let result = match kind {
        "BPE" => bpe(model, is_bytes),
        "Unigram" => unigram(model),
        "WordPiece" => word_piece(model),
        "WordLevel" => vocabulary(model).and_then(|vocab| unknown(model, vocab)),
        other => Err(("type", format!("the type {other:?} is not known"))),
    };
    result.map_err(|(key, reason)| Refusal::new(format!("model.{key}"), reason))
}

type Outcome<T = ()> = Result<T, (&'static str, String)>;
type Fields = Map<String, Value>;

/// A vocabulary of names with ids, each id once.
fn vocabulary(model: &Fields) -> Outcome<&Fields> {
    let wrong = |reason| Err(("vocab", reason));
    let Some(vocab) = model.get("vocab").and_then(Value::as_object) else {
        return wrong("an object of tokens and ids was expected".to_owned());
    };
    let mut seen = Vec::new();
    for (token, id) in vocab {
        let Some(id) = id.as_u64().filter(|&id| id < IDS) else {
            return wrong(format!("{token:?} has the id {id}: 0 to {} was expected", IDS - 1));
        };
        let id = id as usize;
        if seen.len() <= id {
            seen.resize(id + 1, false);
        }
        if std::mem::replace(&mut seen[id], true) {
            return wrong(format!("{token:?} has the id {id}, which another token has too"));
        }
    }
    Ok(vocab)
}

/// A short optional text.
fn affix<'m>(model: &'m Fields, key: &'static str) -> Outcome<&'m str> {
    match model.get(key) {
        None | Some(Value::Null) => Ok(""),
        Some(Value::String(text)) if text.len() <= AFFIX => Ok(text),
        Some(_) => Err((key, format!("a string of at most {AFFIX} bytes was expected"))),
    }
}

fn bpe(model: &Fields, is_bytes: bool) -> Outcome {
    let vocab = vocabulary(model)?;
    let prefix = affix(model, "continuing_subword_prefix")?;
    affix(model, "end_of_word_suffix")?;
    merges(model, vocab, prefix)?;
    let Some(token) = model.get("unk_token").and_then(Value::as_str) else { return Ok(()) };
    let named = |byte: u8| format!("<0x{byte:02X}>");
    let never = is_bytes && has_alphabet(vocab)
        || model.get("byte_fallback").is_some_and(|value| value == true)
            && (0..=255).all(|byte| vocab.contains_key(&named(byte)));
    if vocab.contains_key(token) || never {
        return Ok(());
    }
    Err(("unk_token", format!("{token:?} is not in the vocabulary, and unknown letters can occur")))
}

/// Is every byte of GPT-2's alphabet a token? (It has 256 letters below U+0144.)
fn has_alphabet(vocab: &Fields) -> bool {
    let letters = ('!'..='~').chain('¡'..='¬').chain('®'..='ÿ').chain('\u{100}'..='\u{143}');
    letters.map(String::from).all(|letter| vocab.contains_key(&letter))
}

/// Both parts of every merge are tokens, and so is what they make; the library panics or reads past
/// a part otherwise.
fn merges(model: &Fields, vocab: &Fields, prefix: &str) -> Outcome {
    let Some(merges) = model.get("merges").and_then(Value::as_array) else {
        return Err(("merges", "a list was expected".to_owned()));
    };
    let mut made = String::new();
    for (index, merge) in merges.iter().enumerate() {
        let wrong = |reason: &str| Err(("merges", format!("merge {index} ({merge}) {reason}")));
        let (a, b) = match merge {
            Value::String(line) if line.starts_with("#version") => continue,
            Value::String(line) => match line.split_once(' ') {
                Some((a, b)) if !b.contains(' ') => (a, b),
                _ => return wrong("is not two tokens"),
            },
            _ => match merge.as_array().map(Vec::as_slice) {
                Some([Value::String(a), Value::String(b)]) => (a.as_str(), b.as_str()),
                _ => return wrong("is not two tokens"),
            },
        };
        let Some(rest) = b.strip_prefix(prefix) else {
            return wrong("has a second part without the continuing_subword_prefix");
        };
        made.clear();
        made.push_str(a);
        made.push_str(rest);
        for token in [a, b, &made] {
            if !vocab.contains_key(token) {
                return wrong(&format!("needs {token:?}, which is not in the vocabulary"));
            }
        }
    }
    Ok(())
}

fn unigram(model: &Fields) -> Outcome {
    let Some(vocab) = model.get("vocab").and_then(Value::as_array) else {
        return Err(("vocab", "a list of pieces with scores was expected".to_owned()));
    };
    let mut pieces = Vec::with_capacity(vocab.len());
    for (index, entry) in vocab.iter().enumerate() {
        match entry.as_array().map(Vec::as_slice) {
            Some([Value::String(piece), Value::Number(_)]) if piece.len() <= PIECE => {
                pieces.push(piece.as_bytes());
            }
            _ => {
                let expected = format!("of at most {PIECE} bytes and a score were expected");
                return Err(("vocab", format!("entry {index}: a piece {expected}")));
            }
        }
    }
    pieces.sort_unstable();
    let mut nodes = pieces.first().map_or(0, |piece| piece.len());
    for pair in pieces.windows(2) {
        let shared = pair[0].iter().zip(pair[1]).take_while(|(a, b)| a == b).count();
        nodes += pair[1].len() - shared;
    }
    if vocab.len() as u64 > IDS || nodes > NODES {
        return Err(("vocab", format!("its pieces make {nodes} nodes, at most {NODES}")));
    }
    match model.get("unk_id").and_then(Value::as_u64) {
        Some(id) if id < vocab.len() as u64 => Ok(()),
        _ => Err(("unk_id", format!("a piece among the {} was expected", vocab.len()))),
    }
}

fn word_piece(model: &Fields) -> Outcome {
    let vocab = vocabulary(model)?;
    affix(model, "continuing_subword_prefix")?;
    let key = "max_input_chars_per_word";
    if model.get(key).and_then(Value::as_u64).is_none_or(|most| most > WORD) {
        return Err((key, format!("a number of at most {WORD} was expected")));
    }
    unknown(model, vocab)
}

fn unknown(model: &Fields, vocab: &Fields) -> Outcome {
    match model.get("unk_token").and_then(Value::as_str) {
        Some(token) if vocab.contains_key(token) => Ok(()),
        _ => Err(("unk_token", "a token of the vocabulary was expected".to_owned())),
    }
}
