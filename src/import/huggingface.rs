//! Hugging Face model directories: config.json, safetensors in one or many shards, tokenizer.json.
//!
//! Llama, Qwen2 and Qwen3 decoders; other families and weights in pickles are refused by name. The
//! configuration is read by the family's `import::config`, the tokenizer by `huggingface_text`.

use std::path::{Path, PathBuf};

use super::bitsandbytes::Quantization;
use super::json::{Json, folder_name, last_part};
use super::safetensors::{Shards, dense, pieces};
use super::{Pieces, Source, Tensor, TextParts, huggingface_text};
use crate::error::RootKind;
use crate::file::FileError;
use crate::model::bert;
use crate::model::llama::import::config::Family;
use crate::model::llama::{Config, Site};
use crate::quant::Format;

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
        let mut shards = open_shards(directory)?;
        shards.add_prefix("model.", "lm_head.");
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
    pub(crate) fn with_tokenizer_as_it_is(self) -> Self {
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

/// The name that a model states, without folders, else its folder's.
pub(crate) fn model_name(json: &Json, directory: &Path) -> String {
    let stated = json.text("_name_or_path").ok().flatten().map(last_part);
    let stated = stated.filter(|name| !name.is_empty()).map(str::to_owned);
    stated.or_else(|| folder_name(directory)).unwrap_or_default()
}

/// Which kind of base a model directory holds, as far as its `model_type` says; a type that is
/// neither is left to [`HuggingFace::open`] to refuse.
///
/// # Errors
/// A [`FileError`] if config.json cannot be read or has no `model_type`.
pub fn directory_kind(directory: impl AsRef<Path>) -> Result<RootKind, FileError> {
    let json = Json::read(&directory.as_ref().join("config.json"))?;
    let kind = json.required("model_type", json.text("model_type")?)?;
    if let Some(encoder) = bert::import::config::architecture(kind) {
        return Ok(encoder.kind());
    }
    Ok(match kind {
        "lstm" => RootKind::LSTM,
        "mlp" => RootKind::MLP,
        _ => RootKind::LLAMA,
    })
}

/// The safetensors files of a directory: the single file, or the shards of the index, which must
/// hold what it announces.
pub(crate) fn open_shards(directory: &Path) -> Result<Shards, FileError> {
    let (single, index) = (directory.join(FILE), directory.join(INDEX));
    if single.exists() {
        return Shards::open(&[single]);
    }
    let Some(json) = Json::read_if_there(&index)? else {
        return Err(no_safetensors(directory));
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

/// What stands in place of safetensors, and how to convert it.
fn no_safetensors(directory: &Path) -> FileError {
    const PICKLES: [&str; 5] = ["bin", "pt", "pth", "ckpt", "pkl"];
    const OTHERS: [&str; 6] = ["h5", "msgpack", "onnx", "gguf", "npz", "mlx"];
    let files: Vec<PathBuf> = std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    let of = |kinds: &[&str]| {
        let is_one = |file: &&PathBuf| {
            file.extension().and_then(|end| end.to_str()).is_some_and(|end| kinds.contains(&end))
                && file.file_name().is_some_and(|name| name != "training_args.bin")
        };
        files.iter().filter(is_one).min()
    };
    if let Some(pickle) = of(&PICKLES) {
        let reason = "weights in pickles are not read, because pickles can run code; save the model as safetensors: \
                      save_pretrained(\"FOLDER\") of transformers, or safetensors.torch.save_file(torch.load(\"FILE\", \
                      weights_only=True), \"model.safetensors\")";
        return FileError::format(pickle, "", reason);
    }
    let reason = match of(&OTHERS) {
        Some(other) if other.extension().is_some_and(|end| end == "gguf") => {
            return FileError::format(other, "", "this is a GGUF file: import it, not its folder");
        }
        Some(_) => {
            format!("there is neither {FILE} nor {INDEX}; other weight files are not supported")
        }
        None => format!("there is neither {FILE} nor {INDEX}"),
    };
    FileError::format(directory, "", reason)
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

    fn pieces(&self, name: &str) -> Result<Option<Pieces<'_>>, FileError> {
        match &self.quantization {
            Some(quantization) if quantization.is_packed(&self.shards, name) => Ok(None),
            _ => pieces(&self.shards, name),
        }
    }

    fn kept(&self, name: &str) -> Option<Format> {
        let quantization = self.quantization.as_ref()?;
        let is_embedding = name == format!("{}.weight", Site::Embedding);
        // An embedding is no module that bitsandbytes would quantize.
        if is_embedding && !self.is_tied && !quantization.names(&Site::Embedding.to_string()) {
            return None;
        }
        quantization.kept(&self.shards, name)
    }

    fn names(&self) -> Vec<String> {
        let companion =
            |name: &str| self.quantization.is_some() && Quantization::is_companion(name);
        let hidden = |name: &str| companion(name) || self.is_tied && name == "lm_head.weight";
        self.shards.names().filter(|name| !hidden(name)).map(str::to_owned).collect()
    }
}
