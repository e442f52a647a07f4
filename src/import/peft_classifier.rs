//! The classifier that PEFT saves beside a SEQ_CLS adapter (`modules_to_save`), and what
//! transformers calls it.
//!
//! An encoder's is `classifier`, with a bias, on the pooler's output; a base without pooler cannot
//! have been its own. A decoder's is `score`, without bias, on the last token's state.
//! PEFT keeps no label names. They are taken from `id2label` in adapter_config.json (this crate's
//! export puts it there), else from a config.json beside it, which some people save there;
//! else they are transformers' `LABEL_0`, `LABEL_1` … .

use std::collections::BTreeMap;
use std::path::Path;

use super::json::Json;
use super::peft_config::Settings;
use super::safetensors::Stored;
use crate::adapter::{Base, ClassifierParts, label_fault};
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
        labels: (0..labels).map(default_name).collect(),
    }))
}

/// What transformers calls label `index` unless it is told otherwise.
pub(crate) fn default_name(index: usize) -> String {
    format!("LABEL_{index}")
}

/// The names of `rows` labels that the directory has, if it has some; or a sentence about those it
/// has and that do not fit.
pub(super) fn names(config: &Json, rows: usize) -> Result<Option<Vec<String>>, String> {
    let beside = config.path.with_file_name("config.json");
    let other = match config.get("id2label") {
        Some(_) => None,
        // Another program's file: what is wrong with it is no reason to refuse the adapter.
        None => Json::read_if_there(&beside).ok().flatten(),
    };
    let json = other.as_ref().unwrap_or(config);
    let Some(stated) = json.get("id2label").and_then(|value| value.as_object()) else {
        return Ok(None);
    };
    let name = |index: usize| stated.get(&index.to_string())?.as_str().map(str::to_owned);
    let names: Option<Vec<String>> = (0..rows).map(name).collect();
    let is_usable =
        |names: &Vec<String>| (0..rows).all(|index| label_fault(names, index).is_none());
    match names.filter(|names| stated.len() == rows && is_usable(names)) {
        Some(names) => Ok(Some(names)),
        None => Err(format!(
            "{}: id2label does not name the classifier's {rows} labels, one each: they are called \
             {} to {} (--labels names them)",
            json.path.display(),
            default_name(0),
            default_name(rows.saturating_sub(1))
        )),
    }
}
