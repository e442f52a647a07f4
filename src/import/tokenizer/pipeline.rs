//! What each class builds around the vocabulary of tokenizer.json: normalizer, pre-tokenizer, model
//! and decoder.
//!
//! Taken from the constructors in transformers 5 (`models/*/tokenization_*.py`). Added tokens and
//! special tokens are `special`'s.

use serde_json::{Value, json};

use super::class::Class;
use super::special::Special;
use crate::file::FileError;

use super::super::json::Json;

const QWEN2_PATTERN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Normalizer, pre-tokenizer, decoder and model of `class`, around the vocabulary of `file`; a
/// class that takes the file as it is has none.
pub(super) fn build(
    class: Class,
    file: &Json,
    settings: &Json,
    special: &Special,
) -> Result<Option<[Value; 4]>, FileError> {
    let prefix = |otherwise: bool| match settings.get("add_prefix_space") {
        None => Ok(otherwise),
        Some(_) => settings.flag("add_prefix_space"),
    };
    let byte_level = |prefix: bool, regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": regex });
    let unknown = || special.text("unk_token");
    let nfc = json!({ "type": "NFC" });
    Ok(Some(match class {
        Class::AsItIs => return Ok(None),
        Class::Bert => bert(file, settings, special)?,
        Class::Gemma => [
            json!({ "type": "Replace", "pattern": { "String": " " }, "content": "▁" }),
            json!({ "type": "Split", "pattern": { "String": " " }, "behavior": "MergedWithPrevious", "invert": false }),
            sentence_piece_decoder(false),
            bpe(file, unknown(), true)?,
        ],
        Class::Gpt2 | Class::Roberta => [
            Value::Null,
            byte_level(prefix(false)?, true),
            byte_level(true, true),
            bpe(file, None, false)?,
        ],
        Class::GptNeoX => {
            [nfc, byte_level(prefix(false)?, true), byte_level(true, true), bpe(file, None, false)?]
        }
        Class::Llama => {
            let (prefix, legacy) = (prefix(true)?, settings.flag("legacy")?);
            let scheme = match (prefix, legacy) {
                (false, _) => "never",
                (true, true) => "always",
                (true, false) => "first",
            };
            let metaspace = json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false });
            [Value::Null, metaspace, sentence_piece_decoder(prefix), bpe(file, None, true)?]
        }
        Class::Qwen2 => {
            let split = json!({ "type": "Split", "pattern": { "Regex": QWEN2_PATTERN }, "behavior": "Isolated", "invert": false });
            let steps = [split, byte_level(prefix(false)?, false)];
            [
                nfc,
                json!({ "type": "Sequence", "pretokenizers": steps }),
                byte_level(true, true),
                bpe(file, None, false)?,
            ]
        }
        Class::Camembert | Class::XlmRoberta => {
            let scheme = if prefix(true)? { "always" } else { "never" };
            let metaspace = json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": true });
            let steps = [json!({ "type": "WhitespaceSplit" }), metaspace.clone()];
            let steps = json!({ "type": "Sequence", "pretokenizers": steps });
            [precompiled(file), steps, metaspace, unigram(file, class, unknown())?]
        }
    }))
}

/// The table of characters of a SentencePiece normalizer, which is all that its class keeps.
fn precompiled(file: &Json) -> Value {
    let Some(normalizer) = file.get("normalizer") else { return Value::Null };
    let steps = normalizer["normalizers"].as_array();
    let steps = steps.map_or(std::slice::from_ref(normalizer), Vec::as_slice);
    steps.iter().find(|step| step["type"] == "Precompiled").cloned().unwrap_or_default()
}

/// A Unigram model. XLM-RoBERTa's fourth token stands for what is unknown, whatever it is called.
fn unigram(file: &Json, class: Class, unknown: Option<&str>) -> Result<Value, FileError> {
    let vocab = file.get("model").and_then(|model| model.get("vocab"));
    let vocab = vocab.filter(|vocab| vocab.is_array()).ok_or_else(|| {
        file.error(
            "model.vocab",
            "tokens with scores were expected, as the tokenizer's class has them",
        )
    })?;
    let named = || vocab.as_array()?.iter().position(|item| item[0].as_str() == unknown);
    let unknown = if class == Class::XlmRoberta { 3 } else { named().unwrap_or(0) };
    Ok(json!({ "type": "Unigram", "unk_id": unknown, "vocab": vocab, "byte_fallback": false }))
}

/// `BertTokenizer` lowers texts unless told not to, whatever tokenizer.json does.
fn bert(file: &Json, settings: &Json, special: &Special) -> Result<[Value; 4], FileError> {
    let switch = |key: &str| match settings.get(key) {
        None => Ok(true),
        Some(_) => settings.flag(key),
    };
    let strip_accents = match settings.get("strip_accents") {
        None => Value::Null,
        Some(_) => settings.flag("strip_accents")?.into(),
    };
    let normalizer = json!({
        "type": "BertNormalizer", "clean_text": true, "strip_accents": strip_accents,
        "handle_chinese_chars": switch("tokenize_chinese_chars")?, "lowercase": switch("do_lower_case")?,
    });
    let model = json!({
        "type": "WordPiece", "unk_token": special.required("unk_token", settings)?,
        "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": vocab(file)?,
    });
    let decoder = json!({ "type": "WordPiece", "prefix": "##", "cleanup": true });
    Ok([normalizer, json!({ "type": "BertPreTokenizer" }), decoder, model])
}

/// The tokens around a text that some classes set, whatever tokenizer.json says; `None` for the
/// others.
pub(super) fn frame(
    class: Class,
    special: &Special,
    settings: &Json,
    id: impl Fn(&str) -> Option<u32>,
) -> Result<Option<Value>, FileError> {
    // RoBERTa and its kin put one more token between two texts, and have one kind of tokens only.
    let (before, after, between, kind) = match class {
        Class::Bert => ("cls_token", "sep_token", 0, 1),
        Class::Roberta => ("cls_token", "sep_token", 1, 0),
        Class::Camembert | Class::XlmRoberta => ("bos_token", "eos_token", 1, 0),
        // It drops what the file has.
        Class::GptNeoX => return Ok(Some(Value::Null)),
        _ => return Ok(None),
    };
    let token_of = |key: &str| {
        let text = special.required(key, settings)?;
        let id = id(text).ok_or_else(|| settings.error(key, "the token is empty"))?;
        Ok::<_, FileError>((text, id))
    };
    let ((first, first_id), (last, last_id)) = (token_of(before)?, token_of(after)?);
    let token = |text: &str, kind: u32| json!({ "SpecialToken": { "id": text, "type_id": kind } });
    let text = |name: &str, kind: u32| json!({ "Sequence": { "id": name, "type_id": kind } });
    let ids = |text: &str, id: u32| json!({ "id": text, "ids": [id], "tokens": [text] });
    let single = vec![token(first, 0), text("A", 0), token(last, 0)];
    let mut pair = single.clone();
    pair.extend((0..between).map(|_| token(last, 0)));
    pair.extend([text("B", kind), token(last, kind)]);
    Ok(Some(json!({
        "type": "TemplateProcessing", "single": single, "pair": pair,
        "special_tokens": { first: ids(first, first_id), last: ids(last, last_id) },
    })))
}

fn sentence_piece_decoder(strips: bool) -> Value {
    let mut steps = vec![
        json!({ "type": "Replace", "pattern": { "String": "▁" }, "content": " " }),
        json!({ "type": "ByteFallback" }),
        json!({ "type": "Fuse" }),
    ];
    if strips {
        steps.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    json!({ "type": "Sequence", "decoders": steps })
}

/// The vocabulary of tokenizer.json: token to id.
fn vocab(file: &Json) -> Result<&Value, FileError> {
    file.get("model")
        .and_then(|model| model.get("vocab"))
        .filter(|vocab| vocab.is_object())
        .ok_or_else(|| {
            file.error("model.vocab", "token to id was expected, as the tokenizer's class has it")
        })
}

/// The BPE of SentencePiece (`is_sentence_piece`), or of bytes.
fn bpe(file: &Json, unknown: Option<&str>, is_sentence_piece: bool) -> Result<Value, FileError> {
    let vocab = vocab(file)?;
    let merges = file.get("model").and_then(|model| model.get("merges"));
    let merges = merges.filter(|merges| merges.is_array()).ok_or_else(|| {
        file.error("model.merges", "a list was expected, as the tokenizer's class has it")
    })?;
    Ok(json!({
        "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": is_sentence_piece, "byte_fallback": is_sentence_piece,
        "ignore_merges": false, "vocab": vocab, "merges": merges,
    }))
}
