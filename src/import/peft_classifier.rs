//! The classifier that PEFT saves beside a SEQ_CLS adapter (`modules_to_save`), and what
//! transformers calls it.
//!
//! An encoder's is `classifier`, with a bias, on the pooler's output; a base without pooler cannot
//! have been its own. A decoder's is `score`, without bias, on the last token's state.
//! adapter_config.json has no label names: they are transformers' `LABEL_0`, `LABEL_1` … .

use std::collections::BTreeMap;
use std::path::Path;

use super::peft_config::Settings;
use super::safetensors::Stored;
use crate::adapter::{Base, ClassifierParts};
use crate::error::RootKind;
use crate::file::FileError;

/// The classifier of a family's models in transformers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// Its module's name.
    pub(super) module: &'static str,
    weight: &'static str,
    /// None if it has none.
    bias: Option<&'static str>,
    /// Must the base have a pooler?
    reads_pooler: bool,
}

const ENCODER: Head = Head {
    module: "classifier",
    weight: "base_model.model.classifier.weight",
    bias: Some("base_model.model.classifier.bias"),
    reads_pooler: true,
};
const DECODER: Head = Head {
    module: "score",
    weight: "base_model.model.score.weight",
    bias: None,
    reads_pooler: false,
};

impl Head {
    /// That of bases with this root, if transformers has them.
    pub(super) fn of(base: RootKind) -> Option<Self> {
        match base {
            RootKind::BERT => Some(ENCODER),
            RootKind::LLAMA => Some(DECODER),
            _ => None,
        }
    }

    /// The part of it that a tensor of this name is, if any. The adapter's name may be left in:
    /// `score.modules_to_save.NAME.weight`.
    pub(super) fn part(&self, tensor: &str) -> Option<&'static str> {
        let is_part = |part: &&'static str| {
            let named = || {
                let (module, rest) = tensor.split_once(".modules_to_save.")?;
                let (_, tail) = rest.split_once('.')?;
                Some(part.strip_prefix(module)?.strip_prefix('.')? == tail)
            };
            tensor == *part || named().unwrap_or(false)
        };
        [Some(self.weight), self.bias].into_iter().flatten().find(is_part)
    }
}

/// The classifier among `tensors`, if the adapter announces one.
pub(super) fn read(
    file: &Path,
    tensors: &BTreeMap<&str, Stored<'_>>,
    settings: &Settings,
    base: &dyn Base,
    has_pooler: bool,
) -> Result<Option<ClassifierParts>, FileError> {
    let Some(head) = settings.classifier else {
        let unannounced =
            format!("modules_to_save does not announce it in {}", settings.path.display());
        return tensors
            .keys()
            .next()
            .map_or(Ok(None), |name| Err(FileError::format(file, *name, unannounced)));
    };
    if head.reads_pooler && !has_pooler {
        return Err(FileError::format(
            file,
            head.weight,
            "the classifier reads the output of a pooler, and the base has none",
        ));
    }
    let values = |name: &str, expected: &[usize]| {
        let stored = tensors
            .get(name)
            .ok_or_else(|| FileError::format(file, name, "the tensor is missing"))?;
        if stored.shape != expected {
            let reason = format!(
                "the shape is {:?}, the base and the other tensors ask for {expected:?}",
                stored.shape
            );
            return Err(FileError::format(file, name, reason));
        }
        let unsupported = || {
            format!("tensors of type {:?} are not supported; F32, F16 and BF16 are", stored.dtype)
        };
        stored.to_f32().ok_or_else(|| FileError::format(file, name, unsupported()))
    };
    let labels =
        tensors.get(head.weight).and_then(|stored| stored.shape.first().copied()).unwrap_or(1);
    if labels == 0 {
        return Err(FileError::format(file, head.weight, "a classifier without labels"));
    }
    Ok(Some(ClassifierParts {
        weight: values(head.weight, &[labels, base.dim()])?,
        bias: head.bias.map_or(Ok(Vec::new()), |bias| values(bias, &[labels]))?,
        labels: (0..labels).map(|label| format!("LABEL_{label}")).collect(),
    }))
}
