//! The tokenizer as transformers wants it in a directory: tokenizer.json, tokenizer_config.json,
//! generation_config.json.
//!
//! Not the weights. transformers 5 reads the rule about the begin-of-sequence token off the
//! tokenizer's post-processor alone, so a tokenizer that does not say it there is told; otherwise
//! tokenizer.json goes out as it came.

use std::borrow::Cow;
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

use crate::file::{FileError, write_whole};
use crate::model::llama::Llama;
use crate::text::gate::GuardedTokenizer;
use crate::text::leading_token;

/// The files' names.
pub(super) const GENERATION: &str = "generation_config.json";
pub(super) const TOKENIZER: &str = "tokenizer.json";
pub(super) const SETTINGS: &str = "tokenizer_config.json";

/// The files, ready to be written. A base without tokenizer has the generation settings alone.
pub(super) struct TextFiles<'a> {
    generation: Value,
    /// tokenizer.json and tokenizer_config.json.
    tokenizer: Option<(Cow<'a, [u8]>, Value)>,
}

impl<'a> TextFiles<'a> {
    /// The files of `base`, or what is wrong with its tokenizer.
    pub(super) fn of(base: &Llama<'a>) -> Result<Self, String> {
        let generation = json!({ "bos_token_id": base.bos(), "eos_token_id": eos(base) });
        if base.tokenizer_json().is_empty() {
            return Ok(Self { generation, tokenizer: None });
        }
        let unreadable =
            |error: &dyn std::fmt::Display| format!("the base's tokenizer cannot be read: {error}");
        let tokenizer = GuardedTokenizer::from_json(base.tokenizer_json())
            .map_err(|error| unreadable(&error))?;
        let mut json: Value =
            serde_json::from_slice(base.tokenizer_json()).map_err(|error| unreadable(&error))?;
        let leading = base.leading_bos().and_then(|id| Some((id, tokenizer.id_to_token(id)?)));
        let changed = match (leading, json.as_object_mut()) {
            (Some((id, text)), Some(fields)) => {
                put_in_front(fields.entry("post_processor").or_insert(Value::Null), id, &text)
            }
            _ => false,
        };
        let bytes = if changed {
            Cow::Owned(json.to_string().into_bytes())
        } else {
            Cow::Borrowed(base.tokenizer_json())
        };
        Ok(Self { generation, tokenizer: Some((bytes, settings(base, &tokenizer))) })
    }

    pub(super) fn write(&self, directory: &Path) -> Result<(), FileError> {
        write_json(&directory.join(GENERATION), &self.generation)?;
        let Some((tokenizer, settings)) = &self.tokenizer else { return Ok(()) };
        let path = directory.join(TOKENIZER);
        write_whole(&path, |file| {
            file.write_all(tokenizer).map_err(|error| FileError::io(&path, error))
        })?;
        write_json(&directory.join(SETTINGS), settings)
    }
}

/// tokenizer_config.json: what transformers wants to know beside tokenizer.json.
fn settings(base: &Llama<'_>, tokenizer: &GuardedTokenizer) -> Value {
    let mut settings = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": base.leading_bos().is_some(),
        "clean_up_tokenization_spaces": false,
    });
    // Of several tokens that end a turn, the one that the chat template writes.
    let stops: Vec<String> =
        base.stop_tokens().filter_map(|id| tokenizer.id_to_token(id)).collect();
    let eos = stops
        .iter()
        .find(|text| base.chat_template().contains(text.as_str()))
        .or(stops.first())
        .cloned();
    let bos = base.bos().and_then(|id| tokenizer.id_to_token(id));
    for (key, text) in [("bos_token", bos), ("eos_token", eos)] {
        if let Some(text) = text {
            settings[key] = text.into();
        }
    }
    if !base.chat_template().is_empty() {
        settings["chat_template"] = base.chat_template().into();
    }
    settings
}

/// Lets the post-processor put a token in front of every text, which is the only place where
/// transformers 5 looks for that rule; says whether it had to be changed.
fn put_in_front(post: &mut Value, id: u32, text: &str) -> bool {
    if leading_token(post) == Ok(Some(id)) {
        return false;
    }
    let special = |part: u32| json!({ "SpecialToken": { "id": text, "type_id": part } });
    let sequence = |name: &str, part: u32| json!({ "Sequence": { "id": name, "type_id": part } });
    let template = json!({
        "type": "TemplateProcessing",
        "single": [special(0), sequence("A", 0)],
        "pair": [special(0), sequence("A", 0), special(1), sequence("B", 1)],
        "special_tokens": { text: { "id": text, "ids": [id], "tokens": [text] } },
    });
    let mut steps = match post.take() {
        Value::Null => Vec::new(),
        Value::Object(mut object) if object.contains_key("processors") => {
            match object.remove("processors") {
                Some(Value::Array(steps)) => steps,
                _ => Vec::new(),
            }
        }
        other => vec![other],
    };
    steps.push(template);
    *post = json!({ "type": "Sequence", "processors": steps });
    true
}

/// The tokens that end a turn, as transformers has them: none, one, or a list.
pub(super) fn eos(base: &Llama<'_>) -> Value {
    let stop: Vec<u32> = base.stop_tokens().collect();
    match stop[..] {
        [] => Value::Null,
        [one] => one.into(),
        _ => stop.into(),
    }
}

/// Indented JSON, whole or not at all.
pub(super) fn write_json(path: &Path, value: &Value) -> Result<(), FileError> {
    write_whole(path, |file| {
        writeln!(file, "{value:#}").map_err(|error| FileError::io(path, error))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_post_processor_is_told_what_is_put_in_front_and_nothing_else_changes() {
        let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
        let sequence = json!({ "type": "Sequence", "processors": [byte_level] });
        for (mut post, steps) in [(Value::Null, 1), (byte_level.clone(), 2), (sequence, 2)] {
            assert!(put_in_front(&mut post, 5, "<s>"));
            assert_eq!(leading_token(&post), Ok(Some(5)));
            assert_eq!(post["processors"].as_array().map(Vec::len), Some(steps));
            assert_eq!(post["processors"][0] == byte_level, steps == 2);
            let before = post.clone();
            assert!(!put_in_front(&mut post, 5, "<s>"));
            assert_eq!(post, before);
        }
    }

    #[test]
    fn tokenizers_obey_what_they_are_told() {
        let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
        for mut post in [Value::Null, byte_level] {
            put_in_front(&mut post, 1, "<s>");
            let model = json!({ "type": "BPE", "vocab": { "a": 0, "<s>": 1 }, "merges": [] });
            let json = json!({ "version": "1.0", "added_tokens": [], "post_processor": post, "model": model }).to_string();
            let tokenizer = tokenizers::Tokenizer::from_bytes(json).unwrap();
            assert_eq!(tokenizer.encode("aa", true).unwrap().get_ids(), [1, 0, 0]);
            assert_eq!(tokenizer.encode(("a", "a"), true).unwrap().get_ids(), [1, 0, 1, 0]);
        }
    }
}
