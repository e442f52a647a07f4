//! The tokenizer of a Hugging Face folder as `AutoTokenizer` of transformers 5 builds it, as one
//! tokenizer.json.
//!
//! A folder's other files change what tokenizer.json says: the class that reads it (`class`) may
//! build everything around the vocabulary anew (`pipeline`), and tokens are added (`special`,
//! `added`). The result goes into the archive, so that nothing beside it is needed later; it is the
//! file itself where nothing changes it. Other tokenizer files (sentencepiece models, vocab.json
//! with merges.txt) are not read.

mod added;
mod class;
mod pipeline;
mod special;

use std::path::Path;

use serde_json::{Value, json};

use added::{Added, Token};
use class::Class;
use special::Special;

use super::huggingface_text::refused;
use super::json::Json;
use crate::file::FileError;
use crate::foreign;
use crate::text::gate::GuardedTokenizer;

/// A folder's tokenizer.
pub(super) struct FolderTokenizer {
    /// What goes into the archive.
    pub(super) bytes: Vec<u8>,
    json: Json,
    tokenizer: GuardedTokenizer,
    /// tokenizer_config.json, and what older files say beside it.
    pub(super) settings: Json,
    special: Special,
}

impl FolderTokenizer {
    /// The tokenizer of `directory`, if it has a tokenizer.json. With `as_it_is` the file alone
    /// counts, whatever class the folder names.
    pub(super) fn read(
        directory: &Path,
        config: &Json,
        as_it_is: bool,
    ) -> Result<Option<Self>, FileError> {
        let path = directory.join("tokenizer.json");
        if !path.exists() {
            return Ok(None);
        }
        let bytes = foreign::read(&path)?;
        let mut json = Json::read(&path)?;
        let mut tokenizer = check(&path, &bytes)?;
        let mut settings = Json::read_or_empty(&directory.join("tokenizer_config.json"))?;
        refuse_unknown(&settings)?;
        let class = if as_it_is { Class::AsItIs } else { Class::of(config, &settings, &bytes)? };
        let special = Special::read(directory, class, &json, &mut settings)?;
        let before = Value::Object(json.fields.clone());
        build(class, &mut json, &settings, &special)?;
        cut_side(&mut json, &settings)?;
        let bytes = if Value::Object(json.fields.clone()) == before {
            bytes
        } else {
            let bytes = Value::Object(json.fields.clone()).to_string().into_bytes();
            tokenizer = check(&path, &bytes)?;
            bytes
        };
        Ok(Some(Self { bytes, json, tokenizer, settings, special }))
    }

    /// A part of the tokenizer.json that goes into the archive.
    pub(super) fn part(&self, key: &str) -> Option<&Value> {
        self.json.get(key)
    }

    /// The error that tokenizer.json has at `key`.
    pub(super) fn error(&self, key: &str, reason: impl Into<String>) -> FileError {
        self.json.error(key, reason)
    }

    /// Lowers texts before anything else, as sentence-transformers does where it is told to.
    pub(super) fn lower(&mut self) -> Result<(), FileError> {
        let normalizer = self.json.fields.remove("normalizer").unwrap_or_default();
        let mut steps = match normalizer {
            Value::Null => Vec::new(),
            Value::Object(mut object) if object.contains_key("normalizers") => {
                object["normalizers"].as_array_mut().map(std::mem::take).unwrap_or_default()
            }
            other => vec![other],
        };
        if !steps.iter().any(|step| step["type"] == "Lowercase") {
            steps.insert(0, json!({ "type": "Lowercase" }));
        }
        let normalizer = json!({ "type": "Sequence", "normalizers": steps });
        self.json.fields.insert("normalizer".into(), normalizer);
        self.bytes = Value::Object(self.json.fields.clone()).to_string().into_bytes();
        self.tokenizer = check(&self.json.path, &self.bytes)?;
        Ok(())
    }

    /// The id of a token.
    pub(super) fn id(&self, text: &str) -> Option<u32> {
        self.tokenizer.token_to_id(text)
    }

    /// The id of the token with this role (`eos_token`).
    pub(super) fn role(&self, role: &str) -> Option<u32> {
        self.special.text(role).and_then(|text| self.id(text))
    }
}

/// Keys that change ids in a way that an archive cannot hold.
fn refuse_unknown(settings: &Json) -> Result<(), FileError> {
    settings.refuse("split_special_tokens", |_| false)?;
    settings.refuse("fast_tokenizer_files", |files| {
        files.as_array().is_some_and(|files| files.iter().all(|file| file == "tokenizer.json"))
    })
}

/// Everything that a class builds, and the added tokens.
fn build(
    class: Class,
    json: &mut Json,
    settings: &Json,
    special: &Special,
) -> Result<(), FileError> {
    let parts = pipeline::build(class, json, settings, special)?;
    let vocab = match &parts {
        Some([.., model]) => model["vocab"].clone(),
        None => json.get("model").and_then(|model| model.get("vocab")).cloned().unwrap_or_default(),
    };
    let mut added = Added::new(&vocab);
    if class == Class::AsItIs {
        added.add(listed(json)?);
    }
    let before = added.to_json();
    special.add_to(&mut added, class);
    let frame = pipeline::frame(class, special, settings, |text| added.id(text))?;
    let mut put = |key: &str, value: Value| json.fields.insert(key.to_owned(), value);
    if class != Class::AsItIs || added.to_json() != before {
        put("added_tokens", added.to_json());
    }
    if let Some(frame) = frame {
        put("post_processor", frame);
    }
    if let Some(parts) = parts {
        for (key, part) in
            ["normalizer", "pre_tokenizer", "decoder", "model"].into_iter().zip(parts)
        {
            put(key, part);
        }
    }
    Ok(())
}

/// `added_tokens` of tokenizer.json.
fn listed(json: &Json) -> Result<Vec<Token>, FileError> {
    let entries = json.get("added_tokens").and_then(Value::as_array).into_iter().flatten();
    entries
        .map(|entry| Token::parse(entry).map_err(|reason| json.error("added_tokens", reason)))
        .collect()
}

/// From which side a text that is too long is cut: `truncation_side`, else what tokenizer.json's
/// own truncation says.
fn cut_side(json: &mut Json, settings: &Json) -> Result<(), FileError> {
    let own = json.get("truncation").map(|truncation| truncation["direction"] == "Left");
    let left = match settings.text("truncation_side")? {
        None => own == Some(true),
        Some("right") => false,
        Some("left") => true,
        Some(other) => {
            let reason = format!("left or right was expected, found \"{other}\"");
            return Err(settings.error("truncation_side", reason));
        }
    };
    if left != own.unwrap_or(false) {
        let direction = if left { "Left" } else { "Right" };
        let truncation = json!({ "direction": direction, "max_length": 512, "strategy": "LongestFirst", "stride": 0 });
        json.fields.insert("truncation".into(), truncation);
    }
    Ok(())
}

/// A tokenizer.json through the gate: what would fail later is refused now.
fn check(path: &Path, bytes: &[u8]) -> Result<GuardedTokenizer, FileError> {
    GuardedTokenizer::import(bytes).map_err(|refusal| refused(path, refusal))
}
