//! The classifier that PEFT saves beside a SEQ_CLS adapter of a BERT base (`modules_to_save`).
//!
//! transformers puts it on the pooler's output; a base without pooler cannot have been its own. adapter_config.json has no label
//! names: they are transformers' `LABEL_0`, `LABEL_1` … .

use std::collections::BTreeMap;
use std::path::Path;

use super::peft_config::Settings;
use super::safetensors::Stored;
use crate::adapter::{Base, ClassifierParts};
use crate::file::FileError;

const WEIGHT: &str = "base_model.model.classifier.weight";
const BIAS: &str = "base_model.model.classifier.bias";

/// The names of its tensors.
pub(super) const PARTS: [&str; 2] = [WEIGHT, BIAS];

/// The classifier among `tensors`, if the adapter announces one.
pub(super) fn read(
    file: &Path,
    tensors: &BTreeMap<&str, Stored<'_>>,
    settings: &Settings,
    base: &dyn Base,
    has_pooler: bool,
) -> Result<Option<ClassifierParts>, FileError> {
    if !settings.classifier {
        let unannounced = format!("modules_to_save does not announce it in {}", settings.path.display());
        return tensors.keys().next().map_or(Ok(None), |name| Err(FileError::format(file, *name, unannounced)));
    }
    if !has_pooler {
        return Err(FileError::format(file, WEIGHT, "the classifier reads the output of a pooler, and the base has none"));
    }
    let values = |name: &str, expected: &[usize]| {
        let stored = tensors.get(name).ok_or_else(|| FileError::format(file, name, "the tensor is missing"))?;
        if stored.shape != expected {
            let reason = format!("the shape is {:?}, the base and the other tensors ask for {expected:?}", stored.shape);
            return Err(FileError::format(file, name, reason));
        }
        let unsupported = || format!("tensors of type {:?} are not supported; F32, F16 and BF16 are", stored.dtype);
        stored.to_f32().ok_or_else(|| FileError::format(file, name, unsupported()))
    };
    let labels = tensors.get(WEIGHT).and_then(|stored| stored.shape.first().copied()).unwrap_or(1);
    if labels == 0 {
        return Err(FileError::format(file, WEIGHT, "a classifier without labels"));
    }
    Ok(Some(ClassifierParts {
        weight: values(WEIGHT, &[labels, base.dim()])?,
        bias: values(BIAS, &[labels])?,
        labels: (0..labels).map(|label| format!("LABEL_{label}")).collect(),
    }))
}
