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

use super::schema::ArchivedLstm;
use super::{Config, Head, Site};
use crate::file::FileError;
use crate::import::base::{BaseOptions, Finished, Progress, Tensors, checked_text};
use crate::import::huggingface_text;
use crate::import::json::Json;
use crate::import::pytorch::{PyTorch, is_biased, labels};
use crate::import::reader::Reader;
use crate::import::safetensors::Shards;

/// What config.json says, with the label names.
pub(crate) fn config(json: &Json) -> Result<(Config, Vec<String>), FileError> {
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
pub(crate) fn names(
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

/// Reads every tensor.
pub(crate) fn read(
    source: &PyTorch,
    options: &BaseOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Finished<ArchivedLstm<'static>>, FileError> {
    let (config, labels) = config(&source.json)?;
    let (directory, vocab, layers) = (&source.directory, config.vocab, config.layers);
    let text = if options.without_tokenizer {
        huggingface_text::read_ids(directory, &source.json)?.within(vocab)
    } else {
        let text = huggingface_text::read(directory, &source.json, vocab, false);
        checked_text(directory, text, vocab, options)?
    };
    let mut reader = Reader::new(source, options, progress);
    let biased = is_biased(&source.json)?;
    let mut tensors = Tensors::default();
    let sites = (0..config.sites() as u32).filter_map(|number| Site::from_number(number, layers));
    for site in sites.filter(|&site| config.head != Head::None || site != Site::Head) {
        let (path, shape) = (site.to_string(), site.shape(&config));
        let layer = match site {
            Site::Embedding => reader.weight(&path, shape, options.embedding)?.into(),
            Site::Head => reader.edge(&path, shape, false)?,
            Site::Ih(_) | Site::Hh(_) => reader.any_linear(&path, shape, biased)?,
        };
        tensors.places.insert(site.number(layers), layer);
    }
    reader.refuse_leftovers(|_| false)?;
    let (name, config) = (source.name(), config.to_schema());
    Ok(Finished { name, config, layers, text, labels, max_length: 0, tensors })
}
