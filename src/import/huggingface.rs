//! Hugging Face model directories: config.json, safetensors in one or many shards, tokenizer.json.
//!
//! Llama, Qwen2 and Qwen3 decoders. Every field of the configuration that changes the mathematics is honoured or refused by name.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::bitsandbytes::Quantization;
use super::json::Json;
use super::safetensors::{Shards, dense};
use super::{Source, Tensor, TextParts};
use crate::file::FileError;
use crate::model::llama::{Config, RopeScaling};

/// A model directory.
#[derive(Debug)]
pub struct HuggingFace {
    directory: PathBuf,
    config: Json,
    shards: Shards,
    quantization: Option<Quantization>,
    is_tied: bool,
}

impl HuggingFace {
    /// Opens a directory: reads the configuration and maps the weights.
    ///
    /// # Errors
    /// A [`FileError`] for missing or damaged files, an unknown model type or quantization.
    pub fn open(directory: impl AsRef<Path>) -> Result<Self, FileError> {
        let directory = directory.as_ref();
        let config = Json::read(&directory.join("config.json"))?;
        let family = config.required("model_type", config.text("model_type")?)?;
        if !matches!(family, "llama" | "qwen2" | "qwen3") {
            return Err(config.error("model_type", format!("\"{family}\" is not supported; llama, qwen2 and qwen3 are")));
        }
        let causal = |value: &Value| {
            value.as_array().is_some_and(|names| names.iter().all(|name| name.as_str().is_some_and(|n| n.ends_with("ForCausalLM"))))
        };
        config.refuse("architectures", causal)?;
        let shards = open_shards(directory)?;
        let quantization = config.object("quantization_config")?.map(|json| Quantization::read(&json)).transpose()?;
        // Every one of the three families unties unless told otherwise, but transformers' own default is tied.
        let is_tied = match config.get("tie_word_embeddings") {
            Some(_) => config.flag("tie_word_embeddings")?,
            None => shards.get("lm_head.weight").is_none(),
        };
        if !is_tied && shards.get("lm_head.weight").is_none() {
            return Err(FileError::format(directory, "lm_head.weight", "the tensor is missing, and tie_word_embeddings is false"));
        }
        Ok(Self { directory: directory.to_owned(), config, shards, quantization, is_tied })
    }

    /// Biases and head norms are there if the family has them or the configuration announces them, and not otherwise: transformers
    /// would start from random ones where they are missing, and ignore those that it does not expect.
    fn check_announced(&self, layers: usize) -> Result<(), FileError> {
        let family = self.config.text("model_type")?.unwrap_or_default();
        let (attention, mlp) = (self.config.flag("attention_bias")?, self.config.flag("mlp_bias")?);
        let (qkv, o) = (family == "qwen2" || attention, family != "qwen2" && attention);
        let parts = [
            ("self_attn.q_proj.bias", qkv),
            ("self_attn.k_proj.bias", qkv),
            ("self_attn.v_proj.bias", qkv),
            ("self_attn.o_proj.bias", o),
            ("self_attn.q_norm.weight", family == "qwen3"),
            ("self_attn.k_norm.weight", family == "qwen3"),
            ("mlp.gate_proj.bias", family == "llama" && mlp),
            ("mlp.up_proj.bias", family == "llama" && mlp),
            ("mlp.down_proj.bias", family == "llama" && mlp),
        ];
        let (announced, others): (Vec<_>, Vec<_>) = parts.into_iter().partition(|(_, announced)| *announced);
        if let Some(name) = self.shards.names().find(|name| others.iter().any(|(part, _)| name.ends_with(part))) {
            let reason = format!("the configuration of a {family} model announces no such tensor, transformers would ignore it");
            return Err(FileError::format(&self.directory, name, reason));
        }
        let names = |layer: usize| announced.iter().map(move |(part, _)| format!("model.layers.{layer}.{part}"));
        let layers = if announced.is_empty() { 0 } else { layers };
        match (0..layers).flat_map(names).find(|name| self.shards.get(name).is_none()) {
            Some(name) => Err(FileError::format(&self.directory, name, "the tensor is missing, and the configuration announces it")),
            None => Ok(()),
        }
    }
}

/// The safetensors files of a directory: the shards of the index, which must hold what it announces, or the single file.
fn open_shards(directory: &Path) -> Result<Shards, FileError> {
    let index = directory.join("model.safetensors.index.json");
    let Some(json) = Json::read_if_there(&index)? else { return Shards::open(&[directory.join("model.safetensors")]) };
    let map = json.required("weight_map", json.object("weight_map")?)?;
    let mut files = Vec::new();
    for (tensor, file) in &map.fields {
        let name = file.as_str().filter(|name| !name.contains(['/', '\\']) && *name != "..");
        let name = name.ok_or_else(|| FileError::format(&index, tensor, format!("a file name was expected, found {file}")))?;
        files.push(directory.join(name));
    }
    files.sort();
    files.dedup();
    let shards = Shards::open(&files)?;
    match map.fields.keys().find(|tensor| shards.get(tensor).is_none()) {
        Some(tensor) => Err(FileError::format(&index, tensor, "the index announces the tensor, none of its files holds it")),
        None => Ok(shards),
    }
}

impl Source for HuggingFace {
    fn path(&self) -> &Path {
        &self.directory
    }

    fn name(&self) -> String {
        let stated = self.config.text("_name_or_path").ok().flatten().filter(|name| !name.is_empty());
        let folder = self.directory.file_name().map(|name| name.to_string_lossy().into_owned());
        stated.map(str::to_owned).or(folder).unwrap_or_default()
    }

    fn config(&self) -> Result<Config, FileError> {
        let json = &self.config;
        refuse_unsupported(json)?;
        let count = |key: &str| json.required(key, json.count(key)?);
        let (dim, heads) = (count("hidden_size")?, count("num_attention_heads")?);
        let head_dim = match json.count("head_dim")? {
            Some(head_dim) => head_dim,
            None => dim.checked_div(heads).ok_or_else(|| json.error("num_attention_heads", "at least 1 was expected, found 0"))?,
        };
        let (rope_theta, rope_scaling) = rope(json)?;
        let layers = count("num_hidden_layers")?;
        self.check_announced(layers)?;
        Ok(Config {
            vocab: count("vocab_size")?,
            dim,
            layers,
            heads,
            kv_heads: json.count("num_key_value_heads")?.unwrap_or(heads),
            head_dim,
            hidden: count("intermediate_size")?,
            context: count("max_position_embeddings")?,
            rope_theta,
            rope_scaling,
            norm_epsilon: json.number("rms_norm_eps")?.unwrap_or(1e-6),
        })
    }

    fn text(&self) -> Result<TextParts, FileError> {
        super::huggingface_text::read(&self.directory, &self.config)
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
        let companion = |name: &str| self.quantization.is_some() && Quantization::is_companion(name);
        let hidden = |name: &str| companion(name) || self.is_tied && name == "lm_head.weight";
        self.shards.names().filter(|name| !hidden(name)).map(str::to_owned).collect()
    }
}

/// Fields that change the mathematics and that this build does not honour.
fn refuse_unsupported(json: &Json) -> Result<(), FileError> {
    let one = |value: &Value| value.as_f64() == Some(1.0);
    json.refuse("hidden_act", |value| matches!(value.as_str(), Some("silu" | "swish")))?;
    json.refuse("pretraining_tp", one)?;
    json.refuse("layer_types", |value| value.as_array().is_some_and(|types| types.iter().all(|t| t == "full_attention")))?;
    for key in ["partial_rotary_factor", "attention_multiplier", "embedding_multiplier", "residual_multiplier", "logits_scaling"] {
        json.refuse(key, one)?;
    }
    for key in
        ["no_rope_layers", "final_logit_softcapping", "attn_logit_softcapping", "num_experts", "num_local_experts", "attention_chunk_size"]
    {
        json.refuse(key, |_| false)?;
    }
    // A window that is switched off, or as long as the model, is no window. Llama has no switch: a value is one that acts.
    let windowed = if json.get("use_sliding_window").is_some() { json.flag("use_sliding_window")? } else { true };
    let context = json.count("max_position_embeddings")?.unwrap_or(usize::MAX);
    match json.count("sliding_window")? {
        Some(window) if windowed && window < context => {
            Err(json.error("sliding_window", format!("attention windows are not supported ({window} of {context} tokens)")))
        }
        _ => Ok(()),
    }
}

/// θ and scaling, in the keys of transformers 5 (`rope_parameters`) or 4 (`rope_theta`, `rope_scaling`).
fn rope(json: &Json) -> Result<(f32, RopeScaling), FileError> {
    let parameters = json.object("rope_parameters")?;
    let scaling = match &parameters {
        Some(parameters) => Some(parameters.clone()),
        None => json.object("rope_scaling")?,
    };
    let stated = parameters.as_ref().map_or(Ok(None), |parameters| parameters.number("rope_theta"))?;
    let theta = stated.or(json.number("rope_theta")?).unwrap_or(10_000.0);
    let Some(scaling) = scaling else { return Ok((theta, RopeScaling::None)) };
    if let Some(factor) = scaling.number("partial_rotary_factor")?
        && factor != 1.0
    {
        return Err(scaling.error("partial_rotary_factor", format!("{factor} is not supported; 1 is")));
    }
    let kind = scaling.text("rope_type")?.or(scaling.text("type")?).unwrap_or("default");
    let number = |key: &str| scaling.required(key, scaling.number(key)?);
    let scaling = match kind {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: number("factor")? },
        "llama3" => RopeScaling::Llama3 {
            factor: number("factor")?,
            low_frequency: number("low_freq_factor")?,
            high_frequency: number("high_freq_factor")?,
            original_context: number("original_max_position_embeddings")?,
        },
        other => return Err(scaling.error("rope_type", format!("\"{other}\" is not supported; default, linear and llama3 are"))),
    };
    Ok((theta, scaling))
}
