//! config.json of Llama, Qwen2 and Qwen3 decoders: the numbers, and what each family has beside its
//! weights.
//!
//! The rules and defaults are those of transformers 5; keys of transformers 4 are read too. Every
//! field that changes the mathematics is honoured or refused by name. No tensor is read here.

use serde_json::Value;

use crate::file::FileError;
use crate::import::json::Json;
use crate::model::bert;
use crate::model::llama::{Config, RopeScaling};

/// A supported `model_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    Llama,
    Qwen2,
    Qwen3,
}

impl Family {
    /// The family that `model_type` and `architectures` name.
    pub(crate) fn of(json: &Json) -> Result<Self, FileError> {
        let family = match json.required("model_type", json.text("model_type")?)? {
            "llama" => Self::Llama,
            "qwen2" => Self::Qwen2,
            "qwen3" => Self::Qwen3,
            other if bert::import::config::architecture(other).is_some() => {
                return Err(json.error("model_type", "an encoder: open it as HuggingFaceBert"));
            }
            other => {
                return Err(json.error(
                    "model_type",
                    format!(
                        "\"{other}\" is not supported; llama, qwen2, qwen3 and the encoders bert, \
                         roberta, xlm-roberta, camembert and distilbert are"
                    ),
                ));
            }
        };
        // `…Model` is the decoder without its head, as embedding models are saved.
        let decoder = |name: &Value| {
            name.as_str().is_some_and(|name| {
                name.ends_with("ForCausalLM")
                    || matches!(name, "LlamaModel" | "Qwen2Model" | "Qwen3Model")
            })
        };
        json.refuse("architectures", |value| {
            value.as_array().is_some_and(|names| names.iter().all(decoder))
        })?;
        Ok(family)
    }

    /// The numbers of the model.
    pub(crate) fn config(self, json: &Json) -> Result<Config, FileError> {
        refuse_foreign(json)?;
        let count = |key: &str| json.required(key, json.count(key)?);
        let (dim, heads) = (count("hidden_size")?, count("num_attention_heads")?);
        let (layers, context) = (count("num_hidden_layers")?, count("max_position_embeddings")?);
        self.refuse_windows(json, layers, context)?;
        let (rope_theta, rope_scaling) = rope(json)?;
        let config = Config {
            vocab: count("vocab_size")?,
            dim,
            layers,
            heads,
            kv_heads: self.kv_heads(json, heads)?,
            head_dim: self.head_dim(json, dim, heads)?,
            hidden: count("intermediate_size")?,
            context,
            rope_theta,
            rope_scaling,
            norm_epsilon: json.number("rms_norm_eps")?.unwrap_or(1e-6),
        };
        config.check().map_err(|error| FileError::core(&json.path, "", error))?;
        Ok(config)
    }

    /// Without the key Qwen has 32 heads, with null (and for Llama) as many as there are query
    /// heads.
    fn kv_heads(self, json: &Json, heads: usize) -> Result<usize, FileError> {
        let key = "num_key_value_heads";
        let otherwise =
            if self == Self::Llama || json.fields.contains_key(key) { heads } else { 32 };
        Ok(json.count(key)?.unwrap_or(otherwise))
    }

    fn head_dim(self, json: &Json, dim: usize, heads: usize) -> Result<usize, FileError> {
        match json.count("head_dim")? {
            Some(head_dim) => Ok(head_dim),
            None if self == Self::Qwen3 => Ok(128),
            None if heads == 0 => {
                Err(json.error("num_attention_heads", "at least 1 was expected, found 0"))
            }
            None if dim.is_multiple_of(heads) => Ok(dim / heads),
            None => Err(json.error(
                "num_attention_heads",
                format!("{heads} does not divide hidden_size, {dim}, and head_dim is missing"),
            )),
        }
    }

    /// A window that is switched off, that no layer has, or that is as long as the model, is no
    /// window.
    fn refuse_windows(self, json: &Json, layers: usize, context: usize) -> Result<(), FileError> {
        let Some(window) = json.count("sliding_window")? else { return Ok(()) };
        let acts = match self {
            // transformers' Llama knows no windows: who states one has a model that does.
            Self::Llama => true,
            // `layer_types`, refused unless all of them are full, overrules the number of layers
            // without window.
            Self::Qwen2 | Self::Qwen3 => {
                let full = json.count("max_window_layers")?.unwrap_or(28);
                json.flag("use_sliding_window")?
                    && json.get("layer_types").is_none()
                    && full < layers
            }
        };
        if acts && window < context {
            return Err(json.error(
                "sliding_window",
                format!("attention windows are not supported ({window} of {context} tokens)"),
            ));
        }
        Ok(())
    }

    /// The tensors of a decoder block, by the end of their names, that only some models have; and
    /// whether this one does.
    pub(crate) fn announced(self, json: &Json) -> Result<[(&'static str, bool); 9], FileError> {
        let (attention, mlp) = (json.flag("attention_bias")?, json.flag("mlp_bias")?);
        let qkv = if self == Self::Qwen2 { true } else { attention };
        let (o, mlp, norms) =
            (attention && self != Self::Qwen2, mlp && self == Self::Llama, self == Self::Qwen3);
        Ok([
            ("self_attn.q_proj.bias", qkv),
            ("self_attn.k_proj.bias", qkv),
            ("self_attn.v_proj.bias", qkv),
            ("self_attn.o_proj.bias", o),
            ("self_attn.q_norm.weight", norms),
            ("self_attn.k_norm.weight", norms),
            ("mlp.gate_proj.bias", mlp),
            ("mlp.up_proj.bias", mlp),
            ("mlp.down_proj.bias", mlp),
        ])
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        })
    }
}

/// Fields by which related families differ from Llama, at values that would change the mathematics.
fn refuse_foreign(json: &Json) -> Result<(), FileError> {
    const FACTORS: [&str; 9] = [
        "partial_rotary_factor",
        "attention_multiplier",
        "embedding_multiplier",
        "residual_multiplier",
        "logits_scaling",
        "logit_scale",
        "scale_emb",
        "scale_depth",
        "pretraining_tp",
    ];
    const SWITCHES: [&str; 15] = [
        "no_rope_layers",
        "no_rope_layer_interval",
        "rope_interleaved",
        "final_logit_softcapping",
        "attn_logit_softcapping",
        "query_pre_attn_scalar",
        "attention_chunk_size",
        "clip_qkv",
        "qk_layernorm",
        "use_qk_norm",
        "alibi",
        "use_parallel_residual",
        "num_experts",
        "num_local_experts",
        "n_routed_experts",
    ];
    json.refuse("hidden_act", |value| matches!(value.as_str(), Some("silu" | "swish")))?;
    json.refuse("layer_types", |value| {
        value.as_array().is_some_and(|types| types.iter().all(|kind| kind == "full_attention"))
    })?;
    FACTORS.iter().try_for_each(|key| json.refuse(key, |value| value.as_f64() == Some(1.0)))?;
    SWITCHES.iter().try_for_each(|key| json.refuse(key, |_| false))
}

/// θ and scaling, from `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling`
/// (transformers 4).
fn rope(json: &Json) -> Result<(f32, RopeScaling), FileError> {
    let theta = json.number("rope_theta")?.unwrap_or(10_000.0);
    let stated = |key: &str| -> Result<_, FileError> {
        let parameters = json.object(key)?.filter(|parameters| !parameters.fields.is_empty());
        parameters.map(|parameters| rope_parameters(json, parameters, theta)).transpose()
    };
    match (stated("rope_parameters")?, stated("rope_scaling")?) {
        (Some(new), Some(old)) if new != old => {
            Err(json.error("rope_scaling", "it contradicts rope_parameters"))
        }
        (Some(parameters), _) | (None, Some(parameters)) => Ok(parameters),
        (None, None) => Ok((theta, RopeScaling::None)),
    }
}

/// One object of rotary parameters; `theta` counts where it has none.
fn rope_parameters(
    json: &Json,
    parameters: Json,
    theta: f32,
) -> Result<(f32, RopeScaling), FileError> {
    // Where parameters are given per kind of layer, all layers are of this kind.
    let parameters = parameters.object("full_attention")?.unwrap_or(parameters);
    parameters.refuse("partial_rotary_factor", |value| value.as_f64() == Some(1.0))?;
    let theta = parameters.number("rope_theta")?.unwrap_or(theta);
    let number = |key: &str| parameters.required(key, parameters.number(key)?);
    let kind = parameters.text("rope_type")?.or(parameters.text("type")?);
    let scaling = match kind {
        None if parameters.get("factor").is_some() => {
            return Err(parameters.error("rope_type", "the key is missing"));
        }
        None | Some("default") => RopeScaling::None,
        Some("linear") => RopeScaling::Linear { factor: number("factor")? },
        Some("llama3") => {
            let original = number("original_max_position_embeddings")?;
            if json
                .number("original_max_position_embeddings")?
                .is_some_and(|outer| outer != original)
            {
                return Err(json.error(
                    "original_max_position_embeddings",
                    format!("it contradicts the rotary parameters, {original}"),
                ));
            }
            RopeScaling::Llama3 {
                factor: number("factor")?,
                low_frequency: number("low_freq_factor")?,
                high_frequency: number("high_freq_factor")?,
                original_context: original,
            }
        }
        Some(other) => {
            return Err(parameters.error(
                "rope_type",
                format!("\"{other}\" is not supported; default, linear and llama3 are"),
            ));
        }
    };
    Ok((theta, scaling))
}
