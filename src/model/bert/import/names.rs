//! What the tensors of an encoder's checkpoint are, by their names. Reads none.
//!
//! Heads of pre-training (`cls.…`, `lm_head.…`, `vocab_…`) are no part of an encoder and are left
//! out. The head of a text classifier is taken apart: what stands before its last layer is the
//! pooler, the last layer comes as an adapter (`head`); where it has a pooler of its own, one of the
//! encoder's is read by nobody, as transformers' classes have it. Heads of other tasks are refused.

use std::collections::BTreeMap;
use std::path::Path;

use crate::file::FileError;
use crate::import::bitsandbytes::Quantization;
use crate::import::json::Json;
use crate::import::safetensors::Shards;
use crate::model::bert::{Architecture, Site};

/// Under which name the weight and bias of a classifier of texts stand in [`read`]'s answer.
pub(super) const CLASSIFIER: &str = "classifier";

const PRETRAINING: [&str; 5] =
    ["cls.", "lm_head.", "vocab_transform.", "vocab_layer_norm.", "vocab_projector."];

/// The names of the bare model, its pooler and a classifier of texts, to those in `shards`: without
/// the prefix that task models put in front, and with the norms' names of today.
pub(super) fn read(
    json: &Json,
    architecture: Architecture,
    shards: &Shards,
    quantized: bool,
) -> Result<BTreeMap<String, String>, FileError> {
    let directory = json.path.parent().unwrap_or(Path::new(""));
    let error = |name: &str, reason: &str| FileError::format(directory, name, reason);
    let (prefix, pooler) = (architecture.prefix(), architecture.path(Site::Pooler));
    let is_prefixed = shards.names().any(|name| name.starts_with(prefix));
    let has_own_pooler = shards.names().any(|name| own_pooler(architecture, name).is_some());
    let mut names = BTreeMap::new();
    for stored in shards.names() {
        let bare = stored.strip_prefix(prefix);
        if PRETRAINING.iter().any(|head| stored.starts_with(head))
            || quantized && Quantization::is_companion(stored)
            || has_own_pooler && bare.is_some_and(|name| part(name, &pooler).is_some())
        {
            continue;
        }
        let name = if let Some(part) = part(stored, architecture.head_classifier()) {
            if !is_read(json, stored)? {
                continue;
            }
            format!("{CLASSIFIER}{part}")
        } else if let Some(part) = own_pooler(architecture, stored) {
            format!("{pooler}{part}")
        } else if bare.is_none() && (is_prefixed || stored.starts_with("classifier.")) {
            return Err(error(stored, UNKNOWN));
        } else {
            todays(bare.unwrap_or(stored))
        };
        if let Some(other) = names.insert(name, stored.to_owned()) {
            let reason = "is the same part of the model: one of the two is too many";
            return Err(error(stored, &format!("{other} {reason}")));
        }
    }
    let has = |path: &str| names.contains_key(&format!("{path}.weight"));
    if has(CLASSIFIER) && !has(&pooler) {
        let reason = "this classifier reads the output of a pooler, and the checkpoint holds none";
        return Err(error(architecture.head_classifier(), reason));
    }
    Ok(names)
}

const OTHER_TASK: &str = "the head of a task other than the classification of texts is not \
                          supported: save the model without it (AutoModel)";

const UNKNOWN: &str = "is no part of the encoder, of its pre-training or of a classifier of texts: \
                       save the model without it (AutoModel)";

/// `.weight` or `.bias`, if `name` is that of the module at `path`.
fn part<'n>(name: &'n str, path: &str) -> Option<&'n str> {
    name.strip_prefix(path).filter(|part| matches!(*part, ".weight" | ".bias"))
}

/// `.weight` or `.bias`, if `name` is that of a pooler in the head.
fn own_pooler(architecture: Architecture, name: &str) -> Option<&str> {
    part(name, architecture.head_pooler()?)
}

/// Does the class that the checkpoint states read this classifier? Of texts it is one by its
/// `architectures`, where they are stated: those of tokens and of choices may have the same
/// tensors. A bare model reads none.
fn is_read(json: &Json, classifier: &str) -> Result<bool, FileError> {
    let stated = json.get("architectures").and_then(|value| value.get(0)?.as_str());
    match stated {
        Some(class) if class.ends_with("Model") => Ok(false),
        Some(class) if !class.ends_with("ForSequenceClassification") => {
            let reason =
                format!("the checkpoint holds {classifier}, and {class} has none of texts");
            Err(json.error("architectures", format!("{reason}; {OTHER_TASK}")))
        }
        _ => Ok(true),
    }
}

/// A name as transformers writes it today.
fn todays(name: &str) -> String {
    let renamed = |old: &str, new: &str| name.strip_suffix(old).map(|stem| format!("{stem}{new}"));
    renamed("LayerNorm.gamma", "LayerNorm.weight")
        .or_else(|| renamed("LayerNorm.beta", "LayerNorm.bias"))
        .unwrap_or_else(|| name.to_owned())
}
