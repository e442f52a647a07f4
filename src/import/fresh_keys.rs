//! Which keys the configuration of a fresh model may have: a key that nothing reads is refused, with
//! the nearest one that is read. What the values mean is not checked here.

use serde_json::Value;

use super::json::{Json, is_neutral};
use crate::file::FileError;
use crate::nearest::{either, nearest};

/// Of everything that reads text; what transformers writes into every config.json and what acts in
/// its training or generation only is among them.
const TEXT: [&str; 17] = [
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "attention_probs_dropout_prob",
    "bos_token_id",
    "classifier_dropout",
    "dtype",
    "eos_token_id",
    "hidden_dropout_prob",
    "initializer_range",
    "model_type",
    "pad_token_id",
    "tokenizer",
    "torch_dtype",
    "transformers_version",
    "use_cache",
    "vocab_size",
];

/// Of decoders and encoders. transformers writes `tie_word_embeddings` for encoders too, which have
/// no output head here that it could act on.
const TRANSFORMER: [&str; 7] = [
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "tie_word_embeddings",
];

const DECODER: [&str; 13] = [
    "attention_bias",
    "head_dim",
    "layer_types",
    "max_window_layers",
    "mlp_bias",
    "num_key_value_heads",
    "original_max_position_embeddings",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "sliding_window",
    "use_sliding_window",
];

/// Factors of related families, which may be there as 1.
const FACTORS: [&str; 9] = [
    "attention_multiplier",
    "embedding_multiplier",
    "logit_scale",
    "logits_scaling",
    "partial_rotary_factor",
    "pretraining_tp",
    "residual_multiplier",
    "scale_depth",
    "scale_emb",
];

const ROPE: [&str; 9] = [
    "factor",
    "full_attention",
    "high_freq_factor",
    "low_freq_factor",
    "original_max_position_embeddings",
    "partial_rotary_factor",
    "rope_theta",
    "rope_type",
    "type",
];

const ENCODER: [&str; 3] = ["layer_norm_eps", "position_embedding_type", "type_vocab_size"];

const LSTM: [&str; 7] =
    ["bias", "dropout", "embedding_size", "head", "hidden_size", "labels", "num_layers"];

const MLP: [&str; 7] =
    ["activation", "bias", "hidden_sizes", "input_size", "labels", "model_type", "output_size"];

/// Refuses a key that the family does not read, unless its value changes nothing.
pub(super) fn check(json: &Json) -> Result<(), FileError> {
    let known: &[&[&str]] = match json.text("model_type")? {
        Some("mlp") => &[&MLP],
        Some("lstm") => &[&TEXT, &LSTM],
        Some("bert") => &[&TEXT, &TRANSFORMER, &ENCODER],
        _ => &[&TEXT, &TRANSFORMER, &DECODER, &FACTORS],
    };
    only(json, known)?;
    for key in ["rope_parameters", "rope_scaling"] {
        if let Some(parameters) = json.object(key)? {
            only(&parameters, &[&ROPE])?;
        }
    }
    Ok(())
}

fn only(json: &Json, known: &[&[&str]]) -> Result<(), FileError> {
    let known = || known.iter().flat_map(|keys| keys.iter().copied());
    let is_unknown = |(key, value): &(&String, &Value)| {
        !is_neutral(value) && !known().any(|known| known == key.as_str())
    };
    let Some((key, _)) = json.fields.iter().find(is_unknown) else { return Ok(()) };
    let near = nearest(key, known(), 1);
    Err(json.error(
        key,
        format!("nothing reads this key of such a model; the nearest is {}", either(&near)),
    ))
}
