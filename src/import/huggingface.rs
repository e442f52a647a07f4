//! Hugging Face model directories: config.json, safetensors in one or many shards, tokenizer.json.
//!
//! Llama, Qwen2 and Qwen3 decoders; other families and weights in pickles are refused by name. The
//! configuration is read by `huggingface_config`, the text border by `huggingface_text`.

use std::path::{Path, PathBuf};

use super::bitsandbytes::Quantization;
use super::huggingface_config::Family;
use super::json::Json;
use super::safetensors::{Shards, dense};
use super::{Source, Tensor, TextParts, huggingface_text};
use crate::error::RootKind;
use crate::file::FileError;
use crate::model::llama::{Config, Site};

const FILE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// A model directory.
#[derive(Debug)]
pub struct HuggingFace {
    directory: PathBuf,
    json: Json,
    config: Config,
    shards: Shards,
    quantization: Option<Quantization>,
    is_tied: bool,
    tokenizer_as_it_is: bool,
}

impl HuggingFace {
    /// Opens a directory: reads the configuration and maps the weights.
    ///
    /// # Errors
    /// A [`FileError`] that names the file and the key or tensor: missing or damaged files, an
    /// unknown model type or quantization, a field that changes the mathematics and is not
    /// supported, biases and norms that the family does not have.
    pub fn open(directory: impl AsRef<Path>) -> Result<Self, FileError> {
        let directory = directory.as_ref();
        let json = Json::read(&directory.join("config.json"))?;
        let family = Family::of(&json)?;
        let config = family.config(&json)?;
        let quantization = json
            .object("quantization_config")?
            .map(|json| Quantization::read(&json))
            .transpose()?;
        let shards = open_shards(directory)?;
        check_announced(directory, family, family.announced(&json)?, config.layers, &shards)?;
        let is_tied = is_tied(directory, &json, &shards)?;
        Ok(Self {
            directory: directory.to_owned(),
            json,
            config,
            shards,
            quantization,
            is_tied,
            tokenizer_as_it_is: false,
        })
    }

    /// Takes tokenizer.json as it is, whatever class transformers would read it with.
    pub(super) fn with_tokenizer_as_it_is(self) -> Self {
        Self { tokenizer_as_it_is: true, ..self }
    }
}

/// Biases and head norms are there if the family has them or the configuration announces them, and
/// not otherwise: transformers would start from random ones where they are missing, and ignore
/// those that it does not expect.
fn check_announced(
    directory: &Path,
    family: Family,
    parts: [(&'static str, bool); 9],
    layers: usize,
    shards: &Shards,
) -> Result<(), FileError> {
    let (announced, others): (Vec<_>, Vec<_>) =
        parts.into_iter().partition(|(_, announced)| *announced);
    if let Some(name) =
        shards.names().find(|name| others.iter().any(|(part, _)| name.ends_with(part)))
    {
        let reason = format!(
            "the configuration of a {family} model announces no such tensor, transformers would ignore it"
        );
        return Err(FileError::format(directory, name, reason));
    }
    let names = |layer: usize| {
        announced.iter().map(move |(part, _)| format!("model.layers.{layer}.{part}"))
    };
    match (0..layers).flat_map(names).find(|name| shards.get(name).is_none()) {
        Some(name) => Err(FileError::format(
            directory,
            name,
            "the tensor is missing, and the configuration announces it",
        )),
        None => Ok(()),
    }
}

/// Is the output head the embedding? A head in the file that differs counts, as it does for
/// transformers 5.
fn is_tied(directory: &Path, json: &Json, shards: &Shards) -> Result<bool, FileError> {
    let [head, embedding] = [Site::Head, Site::Embedding].map(|site| format!("{site}.weight"));
    let stored = |name: &str| shards.get(name).map(|(stored, _)| stored);
    match (
        json.get("tie_word_embeddings").is_some(),
        json.flag("tie_word_embeddings")?,
        stored(&head),
    ) {
        (true, false, None) => Err(FileError::format(
            directory,
            head,
            "the tensor is missing, and tie_word_embeddings is false",
        )),
        (_, _, None) => Ok(true),
        (_, true, found) => Ok(found == stored(&embedding)),
        (_, false, Some(_)) => Ok(false),
    }
}

/// The name that a model states, else its folder's.
pub(super) fn model_name(json: &Json, directory: &Path) -> String {
    let stated = json.text("_name_or_path").ok().flatten().filter(|name| !name.is_empty());
    let folder = directory.file_name().map(|name| name.to_string_lossy().into_owned());
    stated.map(str::to_owned).or(folder).unwrap_or_default()
}

/// Which kind of base a model directory holds, as far as its `model_type` says; a type that is
/// neither is left to [`HuggingFace::open`] to refuse.
///
/// # Errors
/// A [`FileError`] if config.json cannot be read or has no `model_type`.
pub fn directory_kind(directory: impl AsRef<Path>) -> Result<RootKind, FileError> {
    let json = Json::read(&directory.as_ref().join("config.json"))?;
    let kind = json.required("model_type", json.text("model_type")?)?;
    Ok(match kind {
        "bert" => RootKind::BERT,
        "lstm" => RootKind::LSTM,
        "mlp" => RootKind::MLP,
        _ => RootKind::LLAMA,
    })
}

/// The safetensors files of a directory: the single file, or the shards of the index, which must
/// hold what it announces.
pub(super) fn open_shards(directory: &Path) -> Result<Shards, FileError> {
    let (single, index) = (directory.join(FILE), directory.join(INDEX));
    if single.exists() {
        return Shards::open(&[single]);
    }
    let Some(json) = Json::read_if_there(&index)? else {
        return Err(FileError::format(
            directory,
            "",
            format!("there is neither {FILE} nor {INDEX}; other weight files are not supported"),
        ));
    };
    let map = json.required("weight_map", json.object("weight_map")?)?;
    let mut files = Vec::new();
    for (tensor, file) in &map.fields {
        let name = file.as_str().filter(|name| !name.contains(['/', '\\']) && *name != "..");
        let name = name.ok_or_else(|| {
            FileError::format(&index, tensor, format!("a file name was expected, found {file}"))
        })?;
        files.push(directory.join(name));
    }
    files.sort();
    files.dedup();
    let shards = Shards::open(&files)?;
    match map.fields.keys().find(|tensor| shards.get(tensor).is_none()) {
        Some(tensor) => Err(FileError::format(
            &index,
            tensor,
            "the index announces the tensor, none of its files holds it",
        )),
        None => Ok(shards),
    }
}

impl Source for HuggingFace {
    fn path(&self) -> &Path {
        &self.directory
    }

    fn name(&self) -> String {
        model_name(&self.json, &self.directory)
    }

    fn config(&self) -> Result<Config, FileError> {
        Ok(self.config)
    }

    fn text(&self) -> Result<TextParts, FileError> {
        let (directory, vocab) = (&self.directory, self.config.vocab);
        huggingface_text::read(directory, &self.json, vocab, self.tokenizer_as_it_is)
    }

    fn text_without_tokenizer(&self) -> Result<TextParts, FileError> {
        huggingface_text::read_ids(&self.directory, &self.json)
    }

    fn tensor(&self, name: &str) -> Result<Option<Tensor>, FileError> {
        if let Some(quantization) = &self.quantization
            && let Some(matrix) = quantization.packed(&self.shards, name)?
        {
            return Ok(Some(Tensor::Packed(matrix)));
        }
        Ok(dense(&self.shards, name)?.map(|(shape, values)| Tensor::Dense { shape, values }))
    }

    fn names(&self) -> Vec<String> {
        let companion =
            |name: &str| self.quantization.is_some() && Quantization::is_companion(name);
        let hidden = |name: &str| companion(name) || self.is_tied && name == "lm_head.weight";
        self.shards.names().filter(|name| !hidden(name)).map(str::to_owned).collect()
    }
}
