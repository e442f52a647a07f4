//! Fresh models to pre-train, from a configuration and a seed.
//!
//! A model directory is made as other programs would leave it (configuration, random weights,
//! tokenizer) and imported like any other: what the importers check is checked here too. Keys of
//! the configuration are those of the family's importer (a key that nothing reads is refused), and:
//!
//! | key | meaning |
//! |---|---|
//! | `tokenizer` | `"bytes"`: 256 byte tokens, `<s>` and `</s>`; else the path of a tokenizer.json, seen from the configuration |
//! | `vocab_size` | without the key: as many as the tokenizer knows |
//!
//! Which numbers weights are drawn from is in `fresh_tensors`.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::base::{BaseOptions, Progress};
use super::fresh_keys;
use super::fresh_tensors::{self, Drawn};
use super::gguf::byte_characters;
use super::huggingface::{HuggingFace, directory_kind};
use super::json::Json;
use super::pytorch::{PyTorch, pytorch_to_buffer, write_pytorch};
use super::{HuggingFaceBert, base_to_buffer, bert_to_buffer, write_base, write_bert};
use crate::archive::{Buffer, Header};
use crate::error::RootKind;
use crate::file::{FileError, Kind, ToOutput, space};
use crate::quant::Format;
use crate::text::gate;

/// Writes a fresh model after the configuration in the file `config` to `output`, a path or an
/// [`Output`](crate::file::Output) that was tried. The same seed gives the same bytes.
///
/// # Errors
/// A [`FileError`] that names the file and the key; before anything is drawn, what speaks against
/// writing there, and memory or room that the machine does not have.
pub fn write_fresh(
    config: &Path,
    seed: u64,
    options: &BaseOptions,
    output: impl ToOutput,
) -> Result<Header, FileError> {
    let output = output.output(Kind::Base, &[config])?;
    let design = Design::read(config)?;
    if let Some(GuardedTokenizer { file: Some(file), .. }) = &design.tokenizer {
        output.refuse_inputs(&[file])?;
    }
    output.check_room(design.bytes(options))?;
    let fresh = design.make(seed, options)?;
    let (directory, options, quiet) =
        (fresh.directory(), &fresh.options, &mut |_: Progress<'_>| {});
    match directory_kind(&directory)? {
        kind if kind.is_encoder() => write_bert(
            &HuggingFaceBert::open(directory)?.with_tokenizer_as_it_is(),
            options,
            &output,
            quiet,
        ),
        RootKind::LSTM | RootKind::MLP => {
            write_pytorch(&PyTorch::open(directory)?, options, &output, quiet)
        }
        _ => write_base(
            &HuggingFace::open(directory)?.with_tokenizer_as_it_is(),
            options,
            &output,
            quiet,
        ),
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
    let fresh = Design::read(config)?.make(seed, options)?;
    let (directory, options, quiet) =
        (fresh.directory(), &fresh.options, &mut |_: Progress<'_>| {});
    match directory_kind(&directory)? {
        kind if kind.is_encoder() => bert_to_buffer(
            &HuggingFaceBert::open(directory)?.with_tokenizer_as_it_is(),
            options,
            quiet,
        ),
        RootKind::LSTM | RootKind::MLP => {
            pytorch_to_buffer(&PyTorch::open(directory)?, options, quiet)
        }
        _ => {
            base_to_buffer(&HuggingFace::open(directory)?.with_tokenizer_as_it_is(), options, quiet)
        }
    }
}

/// What a configuration asks for, before anything is drawn.
struct Design<'p> {
    path: &'p Path,
    json: Json,
    tokenizer: Option<GuardedTokenizer>,
    tensors: Vec<Drawn>,
}

/// A tokenizer.json, and the file it is from unless it is ours.
struct GuardedTokenizer {
    json: Vec<u8>,
    file: Option<PathBuf>,
}

impl<'p> Design<'p> {
    fn read(path: &'p Path) -> Result<Self, FileError> {
        let mut json = Json::read(path)?;
        let stated = json.clone();
        let tokenizer = tokenizer(path, &mut json)?;
        let tensors = fresh_tensors::of(path, &json)?;
        // What is refused by its own name has been.
        fresh_keys::check(&stated)?;
        Ok(Self { path, json, tokenizer, tensors })
    }

    /// Numbers of all tensors.
    fn numbers(&self) -> u64 {
        self.tensors.iter().fold(0, |sum, tensor| tensor.numbers().saturating_add(sum))
    }

    /// About the bytes of the archive.
    fn bytes(&self, options: &BaseOptions) -> u64 {
        let of = |format: Format| {
            let (values, scales, nested) = format.payload(self.numbers(), options.block as u64);
            values.saturating_add(scales).saturating_add(nested)
        };
        of(options.weights).min(of(options.embedding))
    }

    /// Refuses what the machine cannot hold: the finished parts of the archive and one tensor, as
    /// numbers and as bytes; and the drawn tensors in a temporary folder.
    fn check(&self, options: &BaseOptions, parent: &Path) -> Result<(), FileError> {
        let largest = self.tensors.iter().map(Drawn::numbers).max().unwrap_or(0);
        let memory = self.bytes(options).saturating_add(largest.saturating_mul(8));
        space::check_memory(self.path, "the model", memory)?;
        space::check_disk(self.path, parent, self.numbers().saturating_mul(4))
    }

    /// Draws the tensors.
    fn make(self, seed: u64, options: &BaseOptions) -> Result<Fresh, FileError> {
        let io = |error| FileError::io(std::env::temp_dir(), error);
        let parent = tempfile::tempdir().map_err(io)?;
        self.check(options, parent.path())?;
        // The folder's name becomes the model's.
        let name = self
            .path
            .file_stem()
            .map_or_else(|| "fresh".into(), |stem| stem.to_string_lossy().into_owned());
        let fresh = Fresh {
            parent,
            name,
            options: BaseOptions {
                allow_missing_tokenizer: self.tokenizer.is_none(),
                ..options.clone()
            },
        };
        let directory = fresh.directory();
        std::fs::create_dir(&directory).map_err(|error| FileError::io(&directory, error))?;
        let put = |name: &str, bytes: &[u8]| {
            let path = directory.join(name);
            std::fs::write(&path, bytes).map_err(|error| FileError::io(&path, error))
        };
        put("config.json", Value::Object(self.json.fields).to_string().as_bytes())?;
        if let Some(tokenizer) = self.tokenizer {
            put("tokenizer.json", &tokenizer.json)?;
        }
        save(&directory.join("model.safetensors"), seed, &self.tensors)?;
        Ok(fresh)
    }
}

/// A model directory that goes away with this.
struct Fresh {
    parent: tempfile::TempDir,
    name: String,
    options: BaseOptions,
}

impl Fresh {
    fn directory(&self) -> PathBuf {
        self.parent.path().join(&self.name)
    }
}

/// A tensor that is drawn when its bytes are asked for, so that one at a time is in memory.
struct Lazy<'t> {
    tensor: &'t Drawn,
    seed: u64,
    index: u64,
}

impl safetensors::View for Lazy<'_> {
    fn dtype(&self) -> safetensors::Dtype {
        safetensors::Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.tensor.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let values = self.tensor.values(self.seed, self.index);
        Cow::Owned(values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    fn data_len(&self) -> usize {
        4 * self.tensor.shape.iter().product::<usize>()
    }
}

/// Draws every tensor and saves them.
fn save(path: &Path, seed: u64, tensors: &[Drawn]) -> Result<(), FileError> {
    let views = tensors
        .iter()
        .zip(0..)
        .map(|(tensor, index)| (tensor.name.as_str(), Lazy { tensor, seed, index }));
    safetensors::serialize_to_file(views, None, path)
        .map_err(|error| FileError::format(path, "", error.to_string()))
}

/// Takes `tokenizer` out of the configuration; fills in the vocabulary's size and, for bytes, the
/// special tokens.
fn tokenizer(path: &Path, json: &mut Json) -> Result<Option<GuardedTokenizer>, FileError> {
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
        let json = byte_tokenizer(is_encoder).to_string().into_bytes();
        return Ok(Some(GuardedTokenizer { json, file: None }));
    }
    let file = path.parent().unwrap_or(Path::new("")).join(&stated);
    let bytes = crate::foreign::read(&file)?;
    let tokenizer = gate::GuardedTokenizer::import(&bytes)
        .map_err(|refusal| super::huggingface_text::refused(&file, refusal))?;
    let last = tokenizer.get_vocab(true).into_values().max().unwrap_or(0);
    default(&mut json.fields, "vocab_size", json!(u64::from(last) + 1));
    Ok(Some(GuardedTokenizer { json: bytes, file: Some(file) }))
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
