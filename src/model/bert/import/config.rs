//! config.json of BERT encoders; what sentence-transformers says beside it is
//! `sentence_transformers`'.
//!
//! Every field that changes the mathematics is honoured or refused by name. No tensor is read here.

use std::path::Path;

use crate::file::FileError;
use crate::import::json::Json;
use crate::import::sentence_transformers::{self, Pipeline};
use crate::model::bert::{Activation, Config};

/// The numbers of the model, and the longest text its pipeline reads.
pub(crate) fn read(directory: &Path, json: &Json) -> Result<(Config, usize), FileError> {
    match json.required("model_type", json.text("model_type")?)? {
        "bert" => {}
        other => {
            return Err(json.error("model_type", format!("\"{other}\" is not supported; bert is")));
        }
    }
    json.refuse("position_embedding_type", |value| value == "absolute")?;
    ["is_decoder", "add_cross_attention", "chunk_size_feed_forward"]
        .iter()
        .try_for_each(|key| json.refuse(key, |_| false))?;
    let count = |key: &str| json.required(key, json.count(key)?);
    let dim = count("hidden_size")?;
    let Pipeline { pooling, normalize } = sentence_transformers::read(directory, dim)?;
    let config = Config {
        vocab: count("vocab_size")?,
        dim,
        layers: count("num_hidden_layers")?,
        heads: count("num_attention_heads")?,
        hidden: count("intermediate_size")?,
        context: count("max_position_embeddings")?,
        token_types: json.count("type_vocab_size")?.unwrap_or(2),
        activation: match json.text("hidden_act")?.unwrap_or("gelu") {
            "gelu" => Activation::Gelu,
            "gelu_new" | "gelu_pytorch_tanh" => Activation::GeluTanh,
            "relu" => Activation::Relu,
            other => {
                let known = "gelu, gelu_new, gelu_pytorch_tanh and relu are";
                return Err(
                    json.error("hidden_act", format!("\"{other}\" is not supported; {known}"))
                );
            }
        },
        pooling,
        normalize,
        norm_epsilon: json.number("layer_norm_eps")?.unwrap_or(1e-12),
    };
    config.check().map_err(|error| FileError::core(&json.path, "", error))?;
    Ok((config, sentence_transformers::max_length(directory, config.context)?))
}
