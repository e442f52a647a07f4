//! MLP bases from PyTorch state dicts: linear layers in a `ModuleList` or `Sequential`.
//!
//! | key of config.json | meaning |
//! |---|---|
//! | `input_size` | features of a row |
//! | `hidden_sizes` | the rows of all layers but the last, may be empty |
//! | `output_size` | the rows of the last; may be left out if there are `labels` |
//! | `activation` | `relu`, `gelu` or `gelu_tanh`, between the layers |
//! | `bias` | have the layers biases; without the key they have |
//! | `labels` | the names of the outputs |
//!
//! Layers are ordered by the number in their names: `layers.0.weight`, `layers.2.weight`, and bare
//! `0.weight`.

use std::collections::BTreeMap;
use std::path::Path;

use super::schema::ArchivedMlp;
use super::{Activation, Config, Site};
use crate::file::FileError;
use crate::import::TextParts;
use crate::import::base::{BaseOptions, Finished, Progress, Tensors};
use crate::import::json::Json;
use crate::import::pytorch::{PyTorch, is_biased, labels};
use crate::import::reader::Reader;
use crate::import::safetensors::Shards;

/// What config.json says: the numbers, the rows of every layer, the label names.
pub(crate) fn config(json: &Json) -> Result<(Config, Vec<usize>, Vec<String>), FileError> {
    let labels = labels(json)?;
    let outputs = match (json.count("output_size")?, labels.len()) {
        (None, 0) => {
            return Err(json.error("output_size", "the key is missing, and there are no labels"));
        }
        (Some(outputs), names) if names > 0 && names != outputs => {
            return Err(json.error(
                "labels",
                format!("output_size is {outputs}, there are {names} label names"),
            ));
        }
        (Some(outputs), _) => outputs,
        (None, names) => names,
    };
    let mut widths = Vec::new();
    if let Some(value) = json.get("hidden_sizes") {
        let wrong = || {
            json.error(
                "hidden_sizes",
                format!("a list of whole numbers was expected, found {value}"),
            )
        };
        for item in value.as_array().ok_or_else(wrong)? {
            widths.push(
                item.as_u64().and_then(|width| usize::try_from(width).ok()).ok_or_else(wrong)?,
            );
        }
    }
    widths.push(outputs);
    let activation = match json.text("activation")?.unwrap_or("relu") {
        "relu" => Activation::Relu,
        "gelu" => Activation::Gelu,
        "gelu_tanh" => Activation::GeluTanh,
        other => {
            return Err(json.error(
                "activation",
                format!("\"{other}\" is not supported; relu, gelu and gelu_tanh are"),
            ));
        }
    };
    let inputs = json.required("input_size", json.count("input_size")?)?;
    let config = Config::new(inputs, activation, widths.iter().copied())
        .map_err(|error| FileError::core(&json.path, "", error))?;
    Ok((config, widths, labels))
}

/// Names as this crate knows the parts (`layers.1.weight`) to those in the files (`layers.2.weight`
/// of a `Sequential`).
pub(crate) fn names(
    directory: &Path,
    shards: &Shards,
) -> Result<BTreeMap<String, String>, FileError> {
    let mut parts: Vec<(u64, &str, &str)> = Vec::new();
    for stored in shards.names() {
        let bare = stored.strip_prefix("layers.").unwrap_or(stored);
        let part = bare
            .split_once('.')
            .and_then(|(number, part)| Some((number.parse().ok()?, part, stored)));
        let unknown = || {
            FileError::format(
                directory,
                stored,
                "the layers of an MLP are called layers.0.weight, layers.0.bias and so on",
            )
        };
        parts.push(
            part.filter(|(_, part, _)| matches!(*part, "weight" | "bias")).ok_or_else(unknown)?,
        );
    }
    let mut numbers: Vec<u64> = parts.iter().map(|(number, _, _)| *number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let mut names = BTreeMap::new();
    for (number, part, stored) in parts {
        let index = numbers.binary_search(&number).unwrap_or_default();
        if let Some(other) = names.insert(format!("{}.{part}", Site(index)), stored.to_owned()) {
            return Err(FileError::format(
                directory,
                stored,
                format!("{other} is the same part of the model: one of the two is too many"),
            ));
        }
    }
    Ok(names)
}

/// Reads every tensor.
pub(crate) fn read(
    source: &PyTorch,
    options: &BaseOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Finished<ArchivedMlp<'static>>, FileError> {
    let (config, widths, labels) = config(&source.json)?;
    let mut reader = Reader::new(source, options, progress);
    let biased = is_biased(&source.json)?;
    let (mut tensors, mut inputs, layers) = (Tensors::default(), config.inputs, config.layers);
    for (index, rows) in widths.into_iter().enumerate() {
        let (path, shape) = (Site(index).to_string(), (rows, inputs));
        let layer = if index + 1 == layers {
            reader.edge(&path, shape, biased)?
        } else {
            reader.any_linear(&path, shape, biased)?
        };
        tensors.places.insert(Site(index).number(), layer);
        inputs = rows;
    }
    reader.refuse_leftovers(|_| false)?;
    let (name, config, text) = (source.name(), config.to_schema(), TextParts::default());
    Ok(Finished { name, config, layers, text, labels, max_length: 0, tensors })
}
