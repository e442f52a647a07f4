//! The text border of a Hugging Face directory: tokenizer.json, chat template, special tokens.

use std::path::Path;

use serde_json::Value;

use super::TextParts;
use super::json::Json;
use crate::file::FileError;

/// Reads what is there; a directory without tokenizer.json gives parts without tokenizer.
pub(super) fn read(directory: &Path, config: &Json) -> Result<TextParts, FileError> {
    let path = directory.join("tokenizer.json");
    if !path.exists() {
        return Ok(TextParts { bos: id(config, "bos_token_id")?, stop: ids(config)?, ..TextParts::default() });
    }
    let tokenizer = std::fs::read(&path).map_err(|error| FileError::io(&path, error))?;
    let parsed = Json::read(&path)?;
    let settings = Json::read_if_there(&directory.join("tokenizer_config.json"))?;
    let generation = Json::read_if_there(&directory.join("generation_config.json"))?;
    let named = |key: &str| settings.as_ref().and_then(|json| token_text(json, key)).and_then(|text| token_id(&parsed, &text));

    let mut stop = generation.as_ref().map_or_else(|| ids(config), ids)?;
    stop.extend(named("eos_token"));
    // A tokenizer may know more tokens than the model: one that the model cannot produce ends no turn.
    let vocab = config.count("vocab_size")?.unwrap_or(usize::MAX);
    for text in ["<|im_end|>", "<|eot_id|>", "<|end_of_turn|>", "<end_of_turn>", "<|end|>"] {
        stop.extend(token_id(&parsed, text).filter(|&id| (id as usize) < vocab));
    }
    stop.sort_unstable();
    stop.dedup();
    // The end-of-sequence token comes first: it is what templates call eos_token.
    let eos = named("eos_token");
    stop.sort_by_key(|&id| Some(id) != eos);
    let bos = named("bos_token").or(id(config, "bos_token_id")?);
    let stated = settings.as_ref().and_then(|json| json.get("add_bos_token")).and_then(Value::as_bool);
    let add_bos = bos.is_some() && stated.unwrap_or_else(|| bos.is_some_and(|bos| template_begins_with(&parsed, bos)));
    Ok(TextParts { tokenizer, chat_template: chat_template(directory, settings.as_ref())?, bos, add_bos, stop })
}

fn id(json: &Json, key: &str) -> Result<Option<u32>, FileError> {
    Ok(json.count(key)?.and_then(|id| u32::try_from(id).ok()))
}

/// `eos_token_id`: a number or a list of numbers.
fn ids(json: &Json) -> Result<Vec<u32>, FileError> {
    let number = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match json.get("eos_token_id") {
        None => Ok(Vec::new()),
        Some(Value::Array(items)) => {
            let list: Option<Vec<u32>> = items.iter().map(number).collect();
            list.ok_or_else(|| json.error("eos_token_id", "token ids were expected"))
        }
        Some(value) => {
            number(value).map(|id| vec![id]).ok_or_else(|| json.error("eos_token_id", format!("a token id was expected, found {value}")))
        }
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
    let added = added.filter(|token| token["content"] == text).find_map(|token| token["id"].as_u64());
    let id = added.or_else(|| tokenizer.get("model")?.get("vocab")?.get(text)?.as_u64())?;
    u32::try_from(id).ok()
}

/// Does the post-processor put `bos` before a single sequence?
fn template_begins_with(tokenizer: &Json, bos: u32) -> bool {
    let Some(post) = tokenizer.get("post_processor") else { return false };
    let nested = post["processors"].as_array().cloned().unwrap_or_default();
    nested.iter().chain([post]).any(|processor| {
        let first = processor["single"].get(0).and_then(|first| first["SpecialToken"]["id"].as_str());
        let ids = first.map(|name| &processor["special_tokens"][name]["ids"]);
        ids.is_some_and(|ids| ids.get(0).and_then(Value::as_u64) == Some(bos.into()))
    })
}

/// `chat_template.jinja`, or `chat_template` of tokenizer_config.json: a string, or a list of named ones of which `default` counts.
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
            let default = named.iter().find(|entry| entry["name"] == "default").and_then(|entry| entry["template"].as_str());
            default.map(str::to_owned).ok_or_else(|| json.error("chat_template", "the list has no template called \"default\""))
        }
        Some(value) => Err(json.error("chat_template", format!("a template was expected, found {value}"))),
    }
}
