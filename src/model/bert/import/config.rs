//! config.json of the encoders of the BERT family; what sentence-transformers says beside it is
//! `sentence_transformers`'.
//!
//! Every field that changes the mathematics is honoured or refused by name. No tensor is read here.

use std::path::Path;

use crate::file::FileError;
use crate::import::json::Json;
use crate::import::sentence_transformers::{self, Pipeline};
use crate::model::bert::{Activation, Architecture, Config};

/// What config.json says.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) config: Config,
    /// The longest text that its pipeline reads.
    pub(crate) max_length: usize,
    /// Rows of the table of positions before that of the first token.
    pub(crate) first_position: usize,
}

/// The architecture of a `model_type`, if it is an encoder's.
pub(crate) fn architecture(model_type: &str) -> Option<Architecture> {
    match model_type {
        "bert" => Some(Architecture::Bert),
        "roberta" | "xlm-roberta" | "camembert" => Some(Architecture::Roberta),
        "distilbert" => Some(Architecture::DistilBert),
        _ => None,
    }
}

/// How an architecture calls its numbers; of two names transformers takes either.
struct Keys {
    dim: &'static [&'static str],
    layers: &'static [&'static str],
    heads: &'static [&'static str],
    hidden: &'static str,
    activation: &'static str,
}

const BERT: Keys = Keys {
    dim: &["hidden_size"],
    layers: &["num_hidden_layers"],
    heads: &["num_attention_heads"],
    hidden: "intermediate_size",
    activation: "hidden_act",
};
const DISTILBERT: Keys = Keys {
    dim: &["dim", "hidden_size"],
    layers: &["n_layers", "num_hidden_layers"],
    heads: &["n_heads", "num_attention_heads"],
    hidden: "hidden_dim",
    activation: "activation",
};

/// Reads the configuration of the model in `directory`.
pub(crate) fn read(directory: &Path, json: &Json) -> Result<Facts, FileError> {
    let kind = json.required("model_type", json.text("model_type")?)?;
    let architecture = architecture(kind).ok_or_else(|| {
        let known = "bert, roberta, xlm-roberta, camembert and distilbert are";
        json.error("model_type", format!("\"{kind}\" is not supported; {known}"))
    })?;
    json.refuse("position_embedding_type", |value| value == "absolute")?;
    ["is_decoder", "add_cross_attention", "chunk_size_feed_forward"]
        .iter()
        .try_for_each(|key| json.refuse(key, |_| false))?;
    let is_distil = architecture == Architecture::DistilBert;
    let keys = if is_distil { DISTILBERT } else { BERT };
    let count = |key: &str| json.required(key, json.count(key)?);
    let dim = one_of(json, keys.dim)?;
    let Pipeline { pooling, normalize } = sentence_transformers::read(directory, dim)?;
    let (first_position, context) = positions(json, architecture)?;
    let heads = one_of(json, keys.heads)?;
    if heads == 0 || !dim.is_multiple_of(heads) {
        let reason = format!("{heads}: a divisor of {}, {dim}, was expected", keys.dim[0]);
        return Err(json.error(keys.heads[0], reason));
    }
    let config = Config {
        architecture,
        vocab: count("vocab_size")?,
        dim,
        layers: one_of(json, keys.layers)?,
        heads,
        hidden: count(keys.hidden)?,
        context,
        token_types: if is_distil { 1 } else { json.count("type_vocab_size")?.unwrap_or(2) },
        activation: activation(json, keys.activation)?,
        pooling,
        normalize,
        norm_epsilon: if is_distil { EPSILON } else { epsilon(json)? },
    };
    config.check().map_err(|error| FileError::core(&json.path, "", error))?;
    let max_length = sentence_transformers::max_length(directory, context)?;
    Ok(Facts { config, max_length, first_position })
}

/// What is added to the variance of norms; DistilBERT has no key for it.
const EPSILON: f32 = 1e-12;

fn epsilon(json: &Json) -> Result<f32, FileError> {
    let key = "layer_norm_eps";
    match json.number(key)? {
        Some(found) if found <= 0.0 => {
            Err(json.error(key, format!("{found}: a number above 0 was expected")))
        }
        found => Ok(found.unwrap_or(EPSILON)),
    }
}

/// The count under one of two names; under both it has to be the same.
fn one_of(json: &Json, keys: &[&str]) -> Result<usize, FileError> {
    let mut found = None;
    for key in keys {
        match (json.count(key)?, found) {
            (Some(count), Some((other, before))) if count != before => {
                let reason = format!("{count}: {other} is {before}, which is the same number");
                return Err(json.error(key, reason));
            }
            (Some(count), None) => found = Some((key, count)),
            _ => {}
        }
    }
    json.required(keys[0], found.map(|(_, count)| count))
}

/// The row of the first token's position, and the positions from there on. RoBERTa counts from the
/// row behind the padding token's.
fn positions(json: &Json, architecture: Architecture) -> Result<(usize, usize), FileError> {
    let key = "max_position_embeddings";
    let all = json.required(key, json.count(key)?)?;
    if architecture != Architecture::Roberta {
        return Ok((0, all));
    }
    let first = json.count("pad_token_id")?.unwrap_or(1).saturating_add(1);
    match all.checked_sub(first) {
        Some(context @ 1..) => Ok((first, context)),
        _ => Err(json.error(
            key,
            format!("{all}: more than {first} were expected, pad_token_id takes up the first ones"),
        )),
    }
}

fn activation(json: &Json, key: &str) -> Result<Activation, FileError> {
    match json.text(key)?.unwrap_or("gelu") {
        "gelu" => Ok(Activation::Gelu),
        "gelu_new" | "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
        "relu" => Ok(Activation::Relu),
        other => {
            let known = "gelu, gelu_new, gelu_pytorch_tanh and relu are";
            Err(json.error(key, format!("\"{other}\" is not supported; {known}")))
        }
    }
}
