//! The numbers of a decoder from a GGUF file's metadata. What would change the mathematics and is
//! not supported is refused here.

use super::reader::Reader;
use super::rope;
use crate::file::FileError;
use crate::model::llama::{Config, RopeScaling};

/// An architecture that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Architecture {
    Llama,
    Qwen2,
    Qwen3,
}

impl Architecture {
    /// The architecture that the file names.
    pub(super) fn of(reader: &Reader) -> Result<Self, FileError> {
        let key = "general.architecture";
        match reader.string(key)? {
            Some("llama") => Ok(Self::Llama),
            Some("qwen2") => Ok(Self::Qwen2),
            Some("qwen3") => Ok(Self::Qwen3),
            Some(other) => Err(reader.error(
                key,
                format!("the architecture {other:?} is not supported (llama, qwen2 and qwen3 are)"),
            )),
            None => Err(reader.error(key, "the key is missing")),
        }
    }

    /// GGUF's name, which is the prefix of its keys.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }
}

/// Refuses another kind of file than `expected` (`model` or `adapter`).
pub(super) fn check_type(reader: &Reader, expected: &str) -> Result<(), FileError> {
    let key = "general.type";
    match reader.string(key)? {
        Some(found) if found != expected => {
            let hint =
                if found == "adapter" { "; attach it to a base with `adapter import`" } else { "" };
            Err(reader
                .error(key, format!("the file holds {found:?}, {expected:?} was expected{hint}")))
        }
        None if expected != "model" => {
            Err(reader.error(key, format!("the key is missing, {expected:?} was expected")))
        }
        _ => Ok(()),
    }
}

/// The keys of one architecture.
struct Keys<'r> {
    reader: &'r Reader,
    architecture: Architecture,
}

impl Keys<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture.name())
    }

    fn error(&self, name: &str, reason: impl Into<String>) -> FileError {
        self.reader.error(self.key(name), reason)
    }

    fn missing(&self, name: &str) -> FileError {
        self.error(name, "the key is missing")
    }

    fn optional(&self, name: &str) -> Result<Option<usize>, FileError> {
        let Some(value) = self.reader.unsigned(&self.key(name))? else { return Ok(None) };
        let fits = usize::try_from(value).map(Some);
        fits.map_err(|_| self.error(name, format!("{value} does not fit")))
    }

    fn required(&self, name: &str) -> Result<usize, FileError> {
        self.optional(name)?.ok_or_else(|| self.missing(name))
    }

    fn float(&self, name: &str) -> Result<Option<f32>, FileError> {
        match self.reader.float(&self.key(name))? {
            Some(found) if !(found.is_finite() && found > 0.0) => {
                Err(self.error(name, format!("{found}, a finite number above 0 was expected")))
            }
            found => Ok(found),
        }
    }

    /// The dimension of a head: the stated one, or the heads' share of `dim`.
    fn head_dim(&self, dim: usize, heads: usize) -> Result<usize, FileError> {
        let head_dim = match self.optional("attention.key_length")? {
            Some(head_dim) => head_dim,
            None if heads > 0 && dim.is_multiple_of(heads) => dim / heads,
            None => {
                let reason = format!("{heads} heads do not divide the dimension {dim}");
                return Err(self.error("attention.head_count", reason));
            }
        };
        for name in ["attention.value_length", "rope.dimension_count"] {
            if let Some(found) = self.optional(name)?.filter(|&found| found != head_dim) {
                let reason =
                    format!("{found} is not supported, it must be the head dimension {head_dim}");
                return Err(self.error(name, reason));
            }
        }
        Ok(head_dim)
    }

    /// Refuses windows shorter than the context.
    fn refuse_window(&self, context: usize) -> Result<(), FileError> {
        let name = "attention.sliding_window";
        match self.optional(name)?.filter(|&window| window > 0 && window < context) {
            None => Ok(()),
            Some(window) => Err(self.error(
                name,
                format!("a sliding window of {window} tokens (context {context}) is not supported"),
            )),
        }
    }
}

/// Reads the numbers and checks them.
pub(super) fn config(reader: &Reader, architecture: Architecture) -> Result<Config, FileError> {
    refuse_unsupported(reader, architecture)?;
    let keys = Keys { reader, architecture };
    let layers = keys.required("block_count")?;
    let per_block = |name: &str| same_in_every_block(reader, &keys.key(name), layers);
    let of_every_block = |name: &str| per_block(name)?.ok_or_else(|| keys.missing(name));
    let heads = of_every_block("attention.head_count")?;
    let dim = keys.required("embedding_length")?;
    let head_dim = keys.head_dim(dim, heads)?;
    let embedding = reader.tensors().get("token_embd.weight");
    let vocab = embedding
        .and_then(|tensor| tensor.shape.first().copied())
        .ok_or_else(|| reader.error("token_embd.weight", "the tensor is missing"))?;
    let epsilon = "attention.layer_norm_rms_epsilon";
    let mut config = Config {
        vocab,
        dim,
        layers,
        heads,
        kv_heads: per_block("attention.head_count_kv")?.unwrap_or(heads),
        head_dim,
        hidden: of_every_block("feed_forward_length")?,
        context: keys.required("context_length")?,
        rope_theta: keys.float("rope.freq_base")?.unwrap_or(10_000.0),
        rope_scaling: RopeScaling::None,
        norm_epsilon: keys.float(epsilon)?.ok_or_else(|| keys.missing(epsilon))?,
    };
    let checked = |config: &Config| {
        config.check().map_err(|error| FileError::core(reader.path(), architecture.name(), error))
    };
    checked(&config)?;
    keys.refuse_window(config.context)?;
    config.rope_scaling = rope::scaling(reader, architecture, &config)?;
    checked(&config)?;
    Ok(config)
}

/// A number of all blocks, or one number per block if they are all the same.
fn same_in_every_block(
    reader: &Reader,
    key: &str,
    layers: usize,
) -> Result<Option<usize>, FileError> {
    let fit = |value: i128| {
        usize::try_from(value).map_err(|_| reader.error(key, format!("{value} does not fit")))
    };
    if !reader.is_array(key) {
        return reader.unsigned(key)?.map(|value| fit(value.into())).transpose();
    }
    let Some(values) = reader.integers(key)? else { return Ok(None) };
    if values.len() != layers {
        let reason = format!("{} numbers for {layers} blocks", values.len());
        return Err(reader.error(key, reason));
    }
    let Some(&first) = values.first() else { return Ok(None) };
    match values.iter().enumerate().find(|(_, value)| **value != first) {
        Some((block, other)) => {
            let reason = format!(
                "{first} in block 0 and {other} in block {block}: blocks that differ are not \
                 supported"
            );
            Err(reader.error(key, reason))
        }
        None => fit(first.into()).map(Some),
    }
}

/// Keys that change the mathematics, refused unless they say "not here".
fn refuse_unsupported(reader: &Reader, architecture: Architecture) -> Result<(), FileError> {
    let key = |name: &str| format!("{}.{name}", architecture.name());
    let refuse = |key: String, value: &dyn std::fmt::Display| {
        Err(reader.error(key, format!("{value} is not supported")))
    };
    // Zero means "none" to ggml; one changes nothing where it multiplies.
    let neutral_at_one =
        ["logit_scale", "residual_scale", "embedding_scale", "rope.scaling.attn_factor"];
    let neutral_at_zero = [
        "attention.scale",
        "attention.clamp_kqv",
        "attention.max_alibi_bias",
        "attn_logit_softcapping",
        "final_logit_softcapping",
        "router_logit_softcapping",
    ];
    for (names, one) in [(&neutral_at_one[..], 1.0), (&neutral_at_zero[..], 0.0)] {
        for name in names {
            let key = key(name);
            if let Some(value) = reader.float(&key)?.filter(|&value| value != 0.0 && value != one) {
                return refuse(key, &value);
            }
        }
    }
    for (name, plain) in [("attention.causal", true), ("use_parallel_residual", false)] {
        let key = key(name);
        if let Some(value) = reader.boolean(&key)?.filter(|&value| value != plain) {
            return refuse(key, &value);
        }
    }
    let experts = key("expert_count");
    if let Some(count) = reader.unsigned(&experts)?.filter(|&count| count > 0) {
        return Err(reader.error(experts, format!("a mixture of {count} experts is not supported")));
    }
    if let Some(parts) = reader.unsigned("split.count")?.filter(|&parts| parts > 1) {
        return Err(reader.error(
            "split.count",
            format!("the model is split into {parts} files; merge them first"),
        ));
    }
    Ok(())
}
