//! LoRA adapters in GGUF files, in transformers' order, and on their way to an archive.
//!
//! A linear layer's `X.weight.lora_a` is A, `[r, in]`, and `X.weight.lora_b` is B, `[out, r]`. For
//! the embedding ggml looks rows of `lora_a` up, so there it is A transposed, `[vocab, r]`, while
//! `lora_b` is B, `[dim, r]`. Rows of B for q and k of the llama architecture are in llama.cpp's
//! order. The scale is alpha / r, or 1 without an alpha.

use std::path::Path;

use super::config::{self, Architecture};
use super::names::{self, Part};
use super::reader::{Reader, TensorInfo};
use crate::adapter::{AdapterBuilder, Numbers, Orientation, Place, TargetParts};
use crate::file::FileError;
use crate::import::AdapterOptions;
use crate::import::json::last_part;
use crate::model::llama::{Config, Llama, Site};

/// A LoRA adapter as a GGUF file has it.
#[derive(Debug, Clone, PartialEq)]
pub struct GgufAdapter {
    /// alpha; the scale of every target is alpha / r. `None` (missing or zero in the file) means a
    /// scale of 1.
    pub alpha: Option<f32>,
    /// The base's architecture as GGUF spells it.
    pub architecture: String,
    /// The adapter's name for people, or empty.
    pub name: String,
    /// What it changes, by rising site.
    pub targets: Vec<GgufTarget>,
}

/// What a [`GgufAdapter`] does to one linear layer or to the embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct GgufTarget {
    /// Which one; its `Display` is transformers' module path.
    pub site: Site,
    /// A, `[r, inputs]`, row-major; as PEFT's `lora_A` and `lora_embedding_A`.
    pub a: Vec<f32>,
    /// B, `[outputs, r]`, row-major; as PEFT's `lora_B` and `lora_embedding_B`.
    pub b: Vec<f32>,
    /// The rank.
    pub r: usize,
    /// Columns of a linear layer's W; for the embedding the vocabulary.
    pub inputs: usize,
    /// Rows of a linear layer's W; for the embedding the dimension.
    pub outputs: usize,
}

/// Reads the GGUF adapter at `path` for `base`.
///
/// # Errors
/// As [`GgufAdapter::open`].
pub fn import_gguf_adapter(
    path: impl AsRef<Path>,
    base: &Llama<'_>,
    options: &AdapterOptions,
) -> Result<AdapterBuilder, FileError> {
    let path = path.as_ref();
    let adapter = GgufAdapter::open(path, base.config())?;
    let stem =
        || path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let stated = (!adapter.name.is_empty()).then_some(adapter.name);
    let name = options.name.clone().or(stated).unwrap_or_else(stem);
    let mut builder = AdapterBuilder::new(name, "lora");
    builder.format = options.format;
    for target in adapter.targets {
        let parts = TargetParts {
            rank: target.r,
            alpha: adapter.alpha.unwrap_or(target.r as f32),
            rank_stabilized: false,
            orientation: Orientation::Peft,
            a: Numbers::F32(target.a),
            b: Numbers::F32(target.b),
            bias: Vec::new(),
            magnitude: Vec::new(),
            scaled: None,
        };
        builder.targets.insert(Place(target.site.number(base.config().layers)), parts);
    }
    Ok(builder)
}

impl GgufAdapter {
    /// Reads the adapter at `path`, made for a base with the numbers `config`.
    ///
    /// # Errors
    /// A [`FileError`] that names the key or tensor: not a LoRA adapter, an unknown architecture,
    /// activation by invocation tokens (aLoRA), a tensor that is not A or B of a place the base
    /// has, one of a pair missing, shapes that do not fit.
    pub fn open(path: impl AsRef<Path>, config: &Config) -> Result<Self, FileError> {
        let reader = Reader::open(path.as_ref())?;
        config::check_type(&reader, "adapter")?;
        let key = "adapter.type";
        match reader.string(key)? {
            Some("lora") => {}
            Some(other) => {
                return Err(reader.error(
                    key,
                    format!("adapters of type {other:?} are not supported (\"lora\" is)"),
                ));
            }
            None => return Err(reader.error(key, "the key is missing, \"lora\" was expected")),
        }
        let key = "adapter.alora.invocation_tokens";
        if reader.has(key) {
            return Err(reader
                .error(key, "adapters that invocation tokens activate (aLoRA) are not supported"));
        }
        let architecture = Architecture::of(&reader)?;
        let key = "adapter.lora.alpha";
        let alpha = reader.float(key)?.filter(|&alpha| alpha != 0.0);
        if let Some(alpha) = alpha.filter(|alpha| !alpha.is_finite()) {
            return Err(reader.error(key, format!("alpha is {alpha}")));
        }
        let mut targets = Vec::new();
        for (name, tensor) in reader.tensors() {
            targets.extend(target(&reader, architecture, config, name, tensor)?);
        }
        targets.sort_by_key(|target| target.site.number(config.layers));
        if targets.is_empty() {
            return Err(reader.error("", "the adapter has no tensors"));
        }
        let name = last_part(reader.string("general.name")?.unwrap_or_default()).to_owned();
        Ok(Self { alpha, architecture: architecture.name().to_owned(), name, targets })
    }
}

/// The target whose A is the tensor `name`; `None` if it is a B that has its A.
fn target(
    reader: &Reader,
    architecture: Architecture,
    config: &Config,
    name: &str,
    tensor: &TensorInfo,
) -> Result<Option<GgufTarget>, FileError> {
    let other = |base: &str, suffix: &str| {
        let other = format!("{base}{suffix}");
        reader
            .tensors()
            .get(&other)
            .ok_or_else(|| reader.error(name, format!("its partner {other} is missing")))
    };
    if let Some(base) = name.strip_suffix(".lora_b") {
        return other(base, ".lora_a").map(|_| None);
    }
    let Some(base) = name.strip_suffix(".lora_a") else {
        return Err(reader.error(name, "this is neither A (.lora_a) nor B (.lora_b) of an adapter"));
    };
    let part =
        Part::from_gguf(base).filter(|part| part.layer().is_none_or(|layer| layer < config.layers));
    let Some(part @ Part::Weight(site)) = part else {
        return Err(reader.error(
            name,
            format!(
                "the base (of {} blocks) has no linear layer or embedding {base}",
                config.layers
            ),
        ));
    };
    let partner = other(base, ".lora_b")?;
    let flipped = site == Site::Embedding;
    let (rows, cols) = site.shape(config);
    // The embedding is a lookup: its input is a token, its output a vector.
    let (outputs, inputs) = if flipped { (cols, rows) } else { (rows, cols) };
    let r = partner.shape.last().copied().unwrap_or_default();
    let expected = if flipped { [inputs, r] } else { [r, inputs] };
    if tensor.shape != expected || partner.shape != [outputs, r] {
        let reason = format!(
            "A has shape {:?} and B {:?}, expected {expected:?} and [{outputs}, {r}]: the adapter is of another base",
            tensor.shape, partner.shape
        );
        return Err(reader.error(name, reason));
    }
    let (mut a, mut b) = (reader.values(tensor), reader.values(partner));
    if flipped {
        a = transposed(&a, r);
    }
    if architecture == Architecture::Llama && part.is_rotated() {
        names::unpermute(&mut b, config.head_dim, r);
    }
    Ok(Some(GgufTarget { site, a, b, r, inputs, outputs }))
}

/// `[rows, cols]` to `[cols, rows]`.
fn transposed(values: &[f32], cols: usize) -> Vec<f32> {
    (0..cols).flat_map(|col| values.iter().skip(col).step_by(cols)).copied().collect()
}
