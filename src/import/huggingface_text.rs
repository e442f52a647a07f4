//! The tokenizer of a Hugging Face directory: tokenizer, chat template, special tokens.
//!
//! The rules are those of transformers 5: `tokenizer` builds the tokenizer as its classes do, and
//! which token is put in front of a text is read off the post-processor, never off `add_bos_token`.

use std::path::Path;

use serde_json::Value;

use super::TextParts;
use super::json::Json;
use super::tokenizer::FolderTokenizer;
use crate::file::{FileError, Reason};
use crate::foreign;
use crate::text::gate::Refusal;
use crate::text::leading_token;

/// Tokens that end a turn wherever a tokenizer has them.
const END_OF_TURN: [&str; 5] =
    ["<|im_end|>", "<|eot_id|>", "<|end_of_turn|>", "<end_of_turn>", "<|end|>"];

/// Reads what is there; a directory without tokenizer.json gives parts without tokenizer. With
/// `as_it_is` tokenizer.json counts whatever class the directory names.
pub(crate) fn read(
    directory: &Path,
    config: &Json,
    vocab: usize,
    as_it_is: bool,
) -> Result<TextParts, FileError> {
    let Some(tokenizer) = FolderTokenizer::read(directory, config, as_it_is)? else {
        return read_ids(directory, config);
    };
    let TextParts { bos: stated_bos, stop, .. } = read_ids(directory, config)?;
    let chat_template = chat_template(directory, &tokenizer.settings)?;

    // The tokenizer's own end token first: chat templates call it `eos_token`.
    let named = tokenizer.role("eos_token").filter(|&id| {
        // One that the model cannot produce ends no turn, but a template may write it.
        (id as usize) < vocab || chat_template.contains("eos_token")
    });
    let end_of_turn = END_OF_TURN.iter().filter_map(|text| tokenizer.id(text));
    let ordered =
        named.into_iter().chain(stop).chain(end_of_turn.filter(|&id| (id as usize) < vocab));
    let mut stop = Vec::new();
    for id in ordered {
        if !stop.contains(&id) {
            stop.push(id);
        }
    }

    let post = tokenizer.part("post_processor").unwrap_or(&Value::Null);
    let leading =
        leading_token(post).map_err(|reason| tokenizer.error("post_processor", reason))?;
    // A null is a tokenizer that has none, whatever the model's configuration says.
    let denied = tokenizer.settings.fields.get("bos_token").is_some_and(Value::is_null);
    let bos = leading.or(tokenizer.role("bos_token"));
    let bos = bos.or(if denied { None } else { stated_bos });
    Ok(TextParts {
        add_bos: leading.is_some(),
        tokenizer: tokenizer.bytes,
        chat_template,
        bos,
        stop,
    })
}

/// What the model's configuration alone says: the begin token, and the tokens that end a text.
pub(crate) fn read_ids(directory: &Path, config: &Json) -> Result<TextParts, FileError> {
    let generation = Json::read_if_there(&directory.join("generation_config.json"))?;
    let mut stop = generation.as_ref().map_or(Ok(Vec::new()), ids)?;
    if stop.is_empty() {
        stop = ids(config)?;
    }
    Ok(TextParts { bos: id(config, "bos_token_id")?, stop, ..TextParts::default() })
}

/// tokenizer.json of an encoder, or nothing. Its post-processor puts the special tokens around a
/// text.
pub(crate) fn encoder_tokenizer(
    directory: &Path,
    config: &Json,
    as_it_is: bool,
) -> Result<Vec<u8>, FileError> {
    let Some(mut tokenizer) = FolderTokenizer::read(directory, config, as_it_is)? else {
        return Ok(Vec::new());
    };
    if let Some(settings) = super::sentence_transformers::module_settings(directory)?
        && settings.flag("do_lower_case")?
    {
        tokenizer.lower()?;
    }
    Ok(tokenizer.bytes)
}

/// A tokenizer.json at `path` that is not taken.
pub(crate) fn refused(path: &Path, refusal: Refusal) -> FileError {
    let reason = format!("not a tokenizer that can be used: {}", refusal.reason);
    FileError::format(path, &refusal.key, reason)
}

/// Says beside an error about a tokenizer how to do without.
pub(crate) fn with_hint(error: FileError) -> FileError {
    let reason = match &error.reason {
        Reason::Io(reason) => reason.to_string(),
        Reason::Core(reason) => reason.to_string(),
        Reason::Format(reason) => reason.clone(),
    };
    let hint = "--without-tokenizer imports the model alone";
    FileError::format(error.path, error.place, format!("{reason} ({hint})"))
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

/// `chat_template.jinja`, or `chat_template` of tokenizer_config.json: a string, or a list of named
/// ones of which `default` counts.
fn chat_template(directory: &Path, settings: &Json) -> Result<String, FileError> {
    let path = directory.join("chat_template.jinja");
    if path.exists() {
        return foreign::read_text(&path);
    }
    match settings.get("chat_template") {
        None => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Array(named)) => {
            let default = named
                .iter()
                .find(|entry| entry["name"] == "default")
                .and_then(|entry| entry["template"].as_str());
            default.map(str::to_owned).ok_or_else(|| {
                settings.error("chat_template", "the list has no template called \"default\"")
            })
        }
        Some(value) => {
            Err(settings.error("chat_template", format!("a template was expected, found {value}")))
        }
    }
}
