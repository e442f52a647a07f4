//! Fresh models to pre-train, from a configuration and a seed.
//!
//! A model directory is made as other programs would leave it (configuration, random weights,
//! tokenizer) and imported like any other: what the importers check is checked here too. Keys of
//! the configuration are those of the family's importer, and:
//!
//! | key | meaning |
//! |---|---|
//! | `tokenizer` | `"bytes"`: 256 byte tokens, `<s>` and `</s>`; else the path of a tokenizer.json, seen from the configuration |
//! | `vocab_size` | without the key: as many as the tokenizer knows |
//!
//! Which numbers weights are drawn from is in `fresh_tensors`.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::base::{BaseOptions, Progress, base_to_buffer};
use super::bert::{HuggingFaceBert, bert_to_buffer, write_bert};
use super::fresh_tensors::{self, Drawn};
use super::gguf::byte_characters;
use super::huggingface::{HuggingFace, directory_kind};
use super::json::Json;
use super::pytorch::{PyTorch, pytorch_to_buffer, write_pytorch};
use super::write_base;
use crate::archive::{Buffer, Header};
use crate::error::RootKind;
use crate::file::FileError;
use crate::text::gate::Tokenizer;

/// Writes a fresh model after the configuration in the file `config` to `output`. The same seed
/// gives the same bytes.
///
/// # Errors
/// A [`FileError`] that names the file and the key.
pub fn write_fresh(
    config: &Path,
    seed: u64,
    options: &BaseOptions,
    output: &Path,
) -> Result<Header, FileError> {
    let fresh = Fresh::make(config, seed, options)?;
    let (directory, options, quiet) =
        (fresh.directory(), &fresh.options, &mut |_: Progress<'_>| {});
    match directory_kind(&directory)? {
        RootKind::BERT => write_bert(&HuggingFaceBert::open(directory)?, options, output, quiet),
        RootKind::LSTM | RootKind::MLP => {
            write_pytorch(&PyTorch::open(directory)?, options, output, quiet)
        }
        _ => write_base(&HuggingFace::open(directory)?, options, output, quiet),
    }
}

/// As [`write_fresh`], into memory.
///
/// # Errors
/// As [`write_fresh`].
pub fn fresh_to_buffer(
    config: &Path,
    seed: u64,
    options: &BaseOptions,
) -> Result<Buffer, FileError> {
    let fresh = Fresh::make(config, seed, options)?;
    let (directory, options, quiet) =
        (fresh.directory(), &fresh.options, &mut |_: Progress<'_>| {});
    match directory_kind(&directory)? {
        RootKind::BERT => bert_to_buffer(&HuggingFaceBert::open(directory)?, options, quiet),
        RootKind::LSTM | RootKind::MLP => {
            pytorch_to_buffer(&PyTorch::open(directory)?, options, quiet)
        }
        _ => base_to_buffer(&HuggingFace::open(directory)?, options, quiet),
    }
}

/// A model directory that goes away with this.
struct Fresh {
    parent: tempfile::TempDir,
    name: String,
    options: BaseOptions,
}

impl Fresh {
    fn directory(&self) -> std::path::PathBuf {
        self.parent.path().join(&self.name)
    }

    fn make(path: &Path, seed: u64, options: &BaseOptions) -> Result<Self, FileError> {
        let mut json = Json::read(path)?;
        let tokenizer = tokenizer(path, &mut json)?;
        let tensors = fresh_tensors::of(path, &json)?;
        let parent =
            tempfile::tempdir().map_err(|error| FileError::io(std::env::temp_dir(), error))?;
        // The folder's name becomes the model's.
        let name = path
            .file_stem()
            .map_or_else(|| "fresh".into(), |stem| stem.to_string_lossy().into_owned());
        let fresh = Self {
            parent,
            name,
            options: BaseOptions {
                allow_missing_tokenizer: tokenizer.is_none(),
                ..options.clone()
            },
        };
        let directory = fresh.directory();
        std::fs::create_dir(&directory).map_err(|error| FileError::io(&directory, error))?;
        let put = |name: &str, bytes: &[u8]| {
            let path = directory.join(name);
            std::fs::write(&path, bytes).map_err(|error| FileError::io(&path, error))
        };
        put("config.json", Value::Object(json.fields).to_string().as_bytes())?;
        if let Some(tokenizer) = tokenizer {
            put("tokenizer.json", &tokenizer)?;
        }
        save(&directory.join("model.safetensors"), seed, &tensors)?;
        Ok(fresh)
    }
}

/// Draws every tensor and saves them.
fn save(path: &Path, seed: u64, tensors: &[Drawn]) -> Result<(), FileError> {
    let wrong =
        |error: safetensors::SafeTensorError| FileError::format(path, "", error.to_string());
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .enumerate()
        .map(|(index, tensor)| {
            tensor.values(seed, index as u64).iter().flat_map(|value| value.to_le_bytes()).collect()
        })
        .collect();
    let mut views = Vec::with_capacity(tensors.len());
    for (tensor, bytes) in tensors.iter().zip(&bytes) {
        let view = safetensors::tensor::TensorView::new(
            safetensors::Dtype::F32,
            tensor.shape.clone(),
            bytes,
        )
        .map_err(wrong)?;
        views.push((tensor.name.as_str(), view));
    }
    safetensors::serialize_to_file(views, None, path).map_err(wrong)
}

/// Takes `tokenizer` out of the configuration; fills in the vocabulary's size and, for bytes, the
/// special tokens.
fn tokenizer(path: &Path, json: &mut Json) -> Result<Option<Vec<u8>>, FileError> {
    let Some(stated) = json.text("tokenizer")?.map(str::to_owned) else { return Ok(None) };
    json.fields.remove("tokenizer");
    let default = |fields: &mut Map<String, Value>, key: &str, value: Value| {
        if fields.get(key).is_none_or(Value::is_null) {
            fields.insert(key.to_owned(), value);
        }
    };
    if stated == "bytes" {
        default(&mut json.fields, "vocab_size", json!(BYTES_VOCAB));
        default(&mut json.fields, "bos_token_id", json!(256));
        default(&mut json.fields, "eos_token_id", json!(257));
        let is_encoder = json.text("model_type")? == Some("bert");
        return Ok(Some(byte_tokenizer(is_encoder).to_string().into_bytes()));
    }
    let file = path.parent().unwrap_or(Path::new("")).join(&stated);
    let bytes = std::fs::read(&file).map_err(|error| FileError::io(&file, error))?;
    let tokenizer = Tokenizer::import(&bytes)
        .map_err(|refusal| super::huggingface_text::refused(&file, refusal))?;
    let last = tokenizer.get_vocab(true).into_values().max().unwrap_or(0);
    default(&mut json.fields, "vocab_size", json!(u64::from(last) + 1));
    Ok(Some(bytes))
}

/// Tokens of the byte-level tokenizer.
const BYTES_VOCAB: usize = 258;

/// Token i is byte i; 256 is `<s>`, put before every text, 257 `</s>`, put behind every text that
/// an encoder reads.
fn byte_tokenizer(is_encoder: bool) -> Value {
    let vocab: Map<String, Value> =
        byte_characters().zip(0..256u32).map(|(c, id)| (c.to_string(), id.into())).collect();
    let special = |id: u32, text: &str| json!({ "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true });
    let token = |text: &str| json!({ "SpecialToken": { "id": text, "type_id": 0 } });
    let text = |name: &str, kind: u32| json!({ "Sequence": { "id": name, "type_id": kind } });
    let (mut single, mut pair) =
        (vec![token("<s>"), text("A", 0)], vec![token("<s>"), text("A", 0), text("B", 1)]);
    if is_encoder {
        single.push(token("</s>"));
        pair = vec![token("<s>"), text("A", 0), token("</s>"), text("B", 1), token("</s>")];
    }
    let ids = |text: &str, id: u32| json!({ "id": text, "ids": [id], "tokens": [text] });
    let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false });
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(256, "<s>"), special(257, "</s>")],
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": {
            "type": "TemplateProcessing", "single": single, "pair": pair,
            "special_tokens": { "<s>": ids("<s>", 256), "</s>": ids("</s>", 257) },
        },
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": vocab, "merges": [],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_its_own_token() {
        for is_encoder in [false, true] {
            let tokenizer =
                tokenizers::Tokenizer::from_bytes(byte_tokenizer(is_encoder).to_string()).unwrap();
            let text = "Grüße, \t 1+1\n 雨 \u{7f}\0</p>";
            let ids = tokenizer.encode_fast(text, true).unwrap().get_ids().to_vec();
            let mut expected: Vec<u32> =
                [256].into_iter().chain(text.bytes().map(u32::from)).collect();
            expected.extend(is_encoder.then_some(257));
            assert_eq!(ids, expected);
            assert_eq!(tokenizer.decode(&ids, true).unwrap(), text);
            assert_eq!(tokenizer.encode_fast("a<s>", false).unwrap().get_ids(), [97, 256]);
        }
    }
}
