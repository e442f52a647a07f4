//! LSTM bases from PyTorch state dicts: `torch.nn.Embedding`, `torch.nn.LSTM` and an optional
//! `torch.nn.Linear` on top.
//!
//! | key of config.json | meaning |
//! |---|---|
//! | `vocab_size`, `embedding_size`, `hidden_size`, `num_layers` | the numbers |
//! | `labels` | the head chooses one of these |
//! | `head` | `lm` (the next token), `labels` or `none`; without the key: `labels` if there are some, else `lm` |
//! | `modules` | other names of the modules: `{"embedding": …, "lstm": …, "head": …}` |
//! | `bias` | have the layers biases (the head may have one in any case); without the key they have |
//! | `bos_token_id`, `eos_token_id` | as in Hugging Face's files |
//!
//! Both biases of PyTorch are kept. Two directions, projections and dropout between layers are
//! refused (dropout does not act when a model runs, so its key may be there).

use std::collections::BTreeMap;
use std::path::Path;

use super::TextParts;
use super::base::{BaseOptions, Progress, checked_text};
use super::huggingface_text;
use super::json::Json;
use super::pytorch::{PyTorch, is_biased, labels};
use super::reader::{Layer, Reader};
use super::safetensors::Shards;
use crate::archive::schema;
use crate::archive::schema::lstm::{Lstm, LstmLayer};
use crate::file::FileError;
use crate::model::lstm::{Config, Head, Site};
use crate::quant::OwnedMatrix;

/// What config.json says, with the label names.
pub(super) fn config(json: &Json) -> Result<(Config, Vec<String>), FileError> {
    ["bidirectional", "proj_size"].iter().try_for_each(|key| json.refuse(key, |_| false))?;
    let labels = labels(json)?;
    let stated = json.text("head")?.unwrap_or(if labels.is_empty() { "lm" } else { "labels" });
    let head = match stated {
        "lm" => Head::LanguageModel,
        "labels" => Head::Labels,
        "none" => Head::None,
        other => {
            return Err(json
                .error("head", format!("\"{other}\" is not supported; lm, labels and none are")));
        }
    };
    if (head == Head::Labels) == labels.is_empty() {
        return Err(json.error(
            "labels",
            format!(
                "label names belong to the head \"labels\"; the head is \"{stated}\", there are {}",
                labels.len()
            ),
        ));
    }
    let count = |key: &str| json.required(key, json.count(key)?);
    let vocab = count("vocab_size")?;
    let outputs = match head {
        Head::None => 0,
        Head::LanguageModel => vocab,
        Head::Labels => labels.len(),
    };
    let config = Config {
        vocab,
        dim: count("embedding_size")?,
        hidden: count("hidden_size")?,
        layers: count("num_layers")?,
        head,
        outputs,
    };
    config.check().map_err(|error| FileError::core(&json.path, "", error))?;
    Ok((config, labels))
}

/// What a module is called in the files.
fn module<'j>(modules: &'j Option<Json>, name: &'j str) -> Result<&'j str, FileError> {
    Ok(modules.as_ref().map_or(Ok(None), |modules| modules.text(name))?.unwrap_or(name))
}

/// Names as this crate knows the parts (`lstm.ih_l0.weight`) to those in the files
/// (`lstm.weight_ih_l0`).
pub(super) fn names(
    directory: &Path,
    json: &Json,
    shards: &Shards,
) -> Result<BTreeMap<String, String>, FileError> {
    let modules = json.object("modules")?;
    let (embedding, lstm, head) =
        (module(&modules, "embedding")?, module(&modules, "lstm")?, module(&modules, "head")?);
    let mut names = BTreeMap::new();
    for stored in shards.names() {
        let part = |module: &str| stored.strip_prefix(module)?.strip_prefix('.');
        let name = if let Some(part) = part(lstm) {
            let place = |kind: &str| {
                part.strip_prefix(kind)
                    .filter(|place| place.starts_with("ih_l") || place.starts_with("hh_l"))
            };
            match (place("weight_"), place("bias_")) {
                (Some(place), _) if !place.ends_with("_reverse") => format!("lstm.{place}.weight"),
                (_, Some(place)) if !place.ends_with("_reverse") => format!("lstm.{place}.bias"),
                _ => {
                    let reason = "this parameter of an LSTM is not supported: one direction without projection is";
                    return Err(FileError::format(directory, stored, reason));
                }
            }
        } else if let Some(part) = part(embedding) {
            format!("embedding.{part}")
        } else if let Some(part) = part(head) {
            format!("head.{part}")
        } else {
            stored.to_owned()
        };
        names.insert(name, stored.to_owned());
    }
    Ok(names)
}

/// An LSTM base, finished.
pub(super) struct LstmParts {
    name: String,
    config: Config,
    text: TextParts,
    labels: String,
    embedding: OwnedMatrix,
    /// ih and hh.
    layers: Vec<[Layer; 2]>,
    head: Option<Layer>,
}

impl LstmParts {
    pub(super) fn read(
        source: &PyTorch,
        options: &BaseOptions,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Self, FileError> {
        let (config, labels) = config(&source.json)?;
        let (directory, vocab) = (&source.directory, config.vocab);
        let text = if options.without_tokenizer {
            huggingface_text::read_ids(directory, &source.json)?.within(vocab)
        } else {
            let text = huggingface_text::read(directory, &source.json, vocab, false);
            checked_text(directory, text, vocab, options)?
        };
        let mut reader = Reader::new(source, options, progress);
        let biased = is_biased(&source.json)?;
        let path = |site: Site| site.to_string();
        let embedding = reader.weight(
            &path(Site::Embedding),
            Site::Embedding.shape(&config),
            options.embedding,
        )?;
        let mut layers = Vec::with_capacity(config.layers);
        for index in 0..config.layers {
            let mut part = |site: Site| reader.any_linear(&path(site), site.shape(&config), biased);
            layers.push([part(Site::Ih(index))?, part(Site::Hh(index))?]);
        }
        let head = (config.head != Head::None)
            .then(|| reader.edge(&path(Site::Head), Site::Head.shape(&config), false))
            .transpose()?;
        reader.refuse_leftovers(|_| false)?;
        Ok(Self {
            name: source.name(),
            config,
            text,
            labels: labels.join("\n"),
            embedding,
            layers,
            head,
        })
    }

    /// Lends the parts as a root.
    pub(super) fn with_root<T>(&self, use_it: impl FnOnce(&Lstm<'_>) -> T) -> T {
        let layers: Vec<_> =
            self.layers.iter().map(|[ih, hh]| LstmLayer { ih: ih.view(), hh: hh.view() }).collect();
        use_it(&Lstm {
            name: &self.name,
            config: self.config.to_schema(),
            text: schema::Text {
                tokenizer: &self.text.tokenizer,
                chat_template: &self.text.chat_template,
                bos: self.text.bos,
                add_bos: self.text.add_bos,
                stop: &self.text.stop,
            },
            embedding: self.embedding.view().into(),
            layers: &layers,
            head: self.head.as_ref().map(Layer::view),
            labels: &self.labels,
        })
    }
}
