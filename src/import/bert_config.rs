//! config.json of BERT encoders, and what sentence-transformers says beside it: pooling,
//! normalization, the longest text.
//!
//! Every field that changes the mathematics is honoured or refused by name. No tensor is read here.

use std::path::Path;

use serde_json::Value;

use super::json::Json;
use crate::file::FileError;
use crate::model::bert::{Activation, Config, Pooling};
use crate::text::without_mark;

/// The numbers of the model, and the longest text its pipeline reads.
pub(super) fn read(directory: &Path, json: &Json) -> Result<(Config, usize), FileError> {
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
    let (pooling, normalize) = sentence(directory)?;
    let config = Config {
        vocab: count("vocab_size")?,
        dim: count("hidden_size")?,
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
    Ok((config, max_length(directory, config.context)?))
}

/// How sentence-transformers makes one vector of a text, and whether it normalizes it. Without its
/// files: the mean, as it is.
fn sentence(directory: &Path) -> Result<(Pooling, bool), FileError> {
    let path = directory.join("modules.json");
    if !path.exists() {
        let pooling = Json::read_if_there(&directory.join("1_Pooling/config.json"))?;
        return Ok((pooling.map_or(Ok(Pooling::Mean), |json| pooling_mode(&json))?, false));
    }
    let bytes = std::fs::read(&path).map_err(|error| FileError::io(&path, error))?;
    let wrong = |place: &str, reason: String| FileError::format(&path, place, reason);
    let modules: Value = serde_json::from_slice(without_mark(&bytes))
        .map_err(|error| wrong("", format!("not valid JSON: {error}")))?;
    let modules =
        modules.as_array().ok_or_else(|| wrong("", "a list of modules was expected".into()))?;
    let (mut pooling, mut normalize) = (Pooling::Mean, false);
    for module in modules {
        let (kind, folder) = (
            module["type"].as_str().unwrap_or_default(),
            module["path"].as_str().unwrap_or_default(),
        );
        match kind.rsplit('.').next().unwrap_or_default() {
            "Transformer" if folder.is_empty() => {}
            "Transformer" => {
                return Err(wrong(
                    kind,
                    format!("the model lies in the folder {folder}: import that one"),
                ));
            }
            "Pooling" if !folder.contains(['/', '\\']) && folder != ".." => {
                pooling = pooling_mode(&Json::read(&directory.join(folder).join("config.json"))?)?;
            }
            "Normalize" => normalize = true,
            _ => {
                return Err(wrong(
                    kind,
                    "the module is not supported; Transformer, Pooling and Normalize are".into(),
                ));
            }
        }
    }
    Ok((pooling, normalize))
}

/// The one mode of a pooling module.
fn pooling_mode(json: &Json) -> Result<Pooling, FileError> {
    let mut found = Vec::new();
    for (key, value) in &json.fields {
        if let Some(mode) = key.strip_prefix("pooling_mode_")
            && value.as_bool() == Some(true)
        {
            found.push(mode);
        }
    }
    found.extend(json.text("pooling_mode")?);
    match found.as_slice() {
        ["mean_tokens" | "mean"] => Ok(Pooling::Mean),
        ["cls_token" | "cls"] => Ok(Pooling::Cls),
        [] => Err(json.error("pooling_mode_mean_tokens", "no pooling is switched on")),
        [one] => Err(json.error(
            &format!("pooling_mode_{one}"),
            "this pooling is not supported; the mean and the first token are",
        )),
        [..] => Err(json.error(
            &format!("pooling_mode_{}", found[1]),
            "several poolings side by side are not supported",
        )),
    }
}

/// As sentence-transformers: its own setting, else the tokenizer's; never more than there are
/// positions.
fn max_length(directory: &Path, context: usize) -> Result<usize, FileError> {
    for (file, key) in [
        ("sentence_bert_config.json", "max_seq_length"),
        ("tokenizer_config.json", "model_max_length"),
    ] {
        // Tokenizers without a limit state an enormous float.
        let json = Json::read_if_there(&directory.join(file))?;
        let stated = json.as_ref().and_then(|json| json.get(key)).and_then(Value::as_u64);
        if let Some(length) = stated.filter(|&length| length > 0) {
            return Ok(usize::try_from(length).unwrap_or(usize::MAX).min(context));
        }
    }
    Ok(context)
}
