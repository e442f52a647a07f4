//! The text border of a Hugging Face directory: tokenizer.json, chat template, special tokens.
//!
//! The rules are those of transformers 5: which token is put in front of a text is read off the
//! tokenizer's post-processor, never off `add_bos_token`. Tokenizers in other files (sentencepiece
//! models, vocab.json with merges.txt) are not read.

use std::path::Path;

use serde_json::Value;

use super::TextParts;
use super::json::Json;
use crate::file::FileError;
use crate::text::gate::{Refusal, Tokenizer};

/// Tokens that end a turn wherever a tokenizer has them.
const END_OF_TURN: [&str; 5] =
    ["<|im_end|>", "<|eot_id|>", "<|end_of_turn|>", "<end_of_turn>", "<|end|>"];

/// Reads what is there; a directory without tokenizer.json gives parts without tokenizer.
pub(super) fn read(directory: &Path, config: &Json, vocab: usize) -> Result<TextParts, FileError> {
    let generation = Json::read_if_there(&directory.join("generation_config.json"))?;
    let mut stop = generation.as_ref().map_or(Ok(Vec::new()), ids)?;
    if stop.is_empty() {
        stop = ids(config)?;
    }
    let stated_bos = id(config, "bos_token_id")?;
    let path = directory.join("tokenizer.json");
    if !path.exists() {
        return Ok(TextParts { bos: stated_bos, stop, ..TextParts::default() });
    }
    let bytes = std::fs::read(&path).map_err(|error| FileError::io(&path, error))?;
    let tokenizer = Json::read(&path)?;
    Tokenizer::import(&bytes).map_err(|refusal| refused(&path, refusal))?;
    let settings = Json::read_if_there(&directory.join("tokenizer_config.json"))?;
    let map = Json::read_if_there(&directory.join("special_tokens_map.json"))?;
    let named = |key: &str| {
        let text = [&settings, &map].into_iter().flatten().find_map(|json| token_text(json, key));
        text.and_then(|text| token_id(&tokenizer, &text))
    };

    // The tokenizer's own end token first: chat templates call it `eos_token`.
    let mut ordered: Vec<u32> = named("eos_token").into_iter().collect();
    ordered.extend(stop);
    // A tokenizer may know more tokens than the model: one that the model cannot produce ends no
    // turn.
    ordered.extend(
        END_OF_TURN
            .iter()
            .filter_map(|text| token_id(&tokenizer, text))
            .filter(|&id| (id as usize) < vocab),
    );
    let mut stop = Vec::with_capacity(ordered.len());
    ordered.into_iter().for_each(|id| {
        if !stop.contains(&id) {
            stop.push(id)
        }
    });

    let post = tokenizer.get("post_processor").unwrap_or(&Value::Null);
    let leading =
        leading_token(post).map_err(|reason| tokenizer.error("post_processor", reason))?;
    // A null is a tokenizer that has none, whatever the model's configuration says.
    let denied = settings
        .as_ref()
        .is_some_and(|json| json.fields.get("bos_token").is_some_and(Value::is_null));
    let bos = leading.or_else(|| named("bos_token")).or(if denied { None } else { stated_bos });
    let chat_template = chat_template(directory, settings.as_ref())?;
    Ok(TextParts { tokenizer: bytes, chat_template, bos, add_bos: leading.is_some(), stop })
}

/// tokenizer.json of an encoder, checked, or nothing. Its post-processor puts the special tokens
/// around a text.
pub(super) fn encoder_tokenizer(directory: &Path) -> Result<Vec<u8>, FileError> {
    let path = directory.join("tokenizer.json");
    if !path.exists() {
        return Ok(Vec::new());
    }
    let bytes = std::fs::read(&path).map_err(|error| FileError::io(&path, error))?;
    Tokenizer::import(&bytes).map_err(|refusal| refused(&path, refusal))?;
    // sentence-transformers lowers texts itself if told to; only a tokenizer that does it too gives
    // the same ids.
    let settings = Json::read_if_there(&directory.join("sentence_bert_config.json"))?;
    if let Some(settings) = settings
        && settings.flag("do_lower_case")?
        && Json::read(&path)?
            .get("normalizer")
            .is_none_or(|normalizer| normalizer["lowercase"] != true)
    {
        return Err(settings.error(
            "do_lower_case",
            "true is not supported where the tokenizer does not lower texts itself",
        ));
    }
    Ok(bytes)
}

/// A tokenizer.json at `path` that is not taken.
pub(super) fn refused(path: &Path, refusal: Refusal) -> FileError {
    let reason = format!("not a tokenizer that can be used: {}", refusal.reason);
    FileError::format(path, &refusal.key, reason)
}

fn id(json: &Json, key: &str) -> Result<Option<u32>, FileError> {
    let Some(value) = json.get(key) else { return Ok(None) };
    token(value)
        .map(Some)
        .ok_or_else(|| json.error(key, format!("a token id was expected, found {value}")))
}

fn token(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok())
}

/// `eos_token_id`: a number or a list of numbers.
fn ids(json: &Json) -> Result<Vec<u32>, FileError> {
    let key = "eos_token_id";
    match json.get(key) {
        Some(Value::Array(items)) => {
            let list: Option<Vec<u32>> = items.iter().map(token).collect();
            list.ok_or_else(|| json.error(key, "token ids were expected"))
        }
        _ => Ok(id(json, key)?.into_iter().collect()),
    }
}

/// A special token of tokenizer_config.json: a string, or an object with `content`.
fn token_text(json: &Json, key: &str) -> Option<String> {
    match json.get(key)? {
        Value::String(text) => Some(text.clone()),
        Value::Object(fields) => fields.get("content")?.as_str().map(str::to_owned),
        _ => None,
    }
}

/// The id of a token, among the added ones or in the model's vocabulary.
fn token_id(tokenizer: &Json, text: &str) -> Option<u32> {
    let added = tokenizer.get("added_tokens").and_then(Value::as_array).into_iter().flatten();
    let added =
        added.filter(|entry| entry["content"] == text).find_map(|entry| token(&entry["id"]));
    added.or_else(|| token(tokenizer.get("model")?.get("vocab")?.get(text)?))
}

/// The token that a tokenizer's post-processor puts in front of a single text, or what is wrong
/// with it. Tokens at other places are refused: they would be missing from every prompt.
pub(crate) fn leading_token(post: &Value) -> Result<Option<u32>, String> {
    if post.is_null() {
        return Ok(None);
    }
    let steps = post["processors"].as_array().map_or(std::slice::from_ref(post), Vec::as_slice);
    let mut leading = None;
    for step in steps {
        match step["type"].as_str() {
            Some("ByteLevel") => continue,
            Some("TemplateProcessing") => {}
            other => {
                return Err(format!(
                    "{} is not supported; ByteLevel and TemplateProcessing are",
                    other.unwrap_or("a step without type")
                ));
            }
        }
        let pieces = step["single"].as_array().map_or(&[][..], Vec::as_slice);
        let text =
            pieces.iter().position(|piece| !piece["Sequence"].is_null()).unwrap_or(pieces.len());
        if text + 1 < pieces.len() {
            return Err("a token behind every text is not supported".into());
        }
        for piece in &pieces[..text] {
            let name = piece["SpecialToken"]["id"].as_str().unwrap_or_default();
            match step["special_tokens"][name]["ids"]
                .as_array()
                .map(|ids| ids.iter().map(token).collect::<Vec<_>>())
                .as_deref()
            {
                Some([Some(id)]) if leading.is_none() => leading = Some(*id),
                _ => {
                    return Err(
                        "more than one token in front of every text is not supported".into()
                    );
                }
            }
        }
    }
    Ok(leading)
}

/// `chat_template.jinja`, or `chat_template` of tokenizer_config.json: a string, or a list of named
/// ones of which `default` counts.
fn chat_template(directory: &Path, settings: Option<&Json>) -> Result<String, FileError> {
    let path = directory.join("chat_template.jinja");
    if path.exists() {
        return std::fs::read_to_string(&path).map_err(|error| FileError::io(&path, error));
    }
    let Some(json) = settings else { return Ok(String::new()) };
    match json.get("chat_template") {
        None => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Array(named)) => {
            let default = named
                .iter()
                .find(|entry| entry["name"] == "default")
                .and_then(|entry| entry["template"].as_str());
            default.map(str::to_owned).ok_or_else(|| {
                json.error("chat_template", "the list has no template called \"default\"")
            })
        }
        Some(value) => {
            Err(json.error("chat_template", format!("a template was expected, found {value}")))
        }
    }
}
