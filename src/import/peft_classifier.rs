//! The classifier that PEFT saves beside a SEQ_CLS adapter (`modules_to_save`), and what
//! transformers calls it.
//!
//! An encoder's has a bias and reads a pooler's output: the base's, or one that RoBERTa and
//! DistilBERT have in the head and PEFT saves with it. A decoder's is `score`, without bias, on the
//! last token's state.
//! PEFT keeps no label names. They are taken from `id2label` in adapter_config.json (this crate's
//! export puts it there), else from a config.json beside it, which some people save there;
//! else they are transformers' `LABEL_0`, `LABEL_1` … .

use std::collections::BTreeMap;
use std::path::Path;

use super::json::Json;
use super::peft_config::Settings;
use super::safetensors::Stored;
use crate::adapter::{Base, ClassifierParts, PoolerParts, label_fault};
use crate::error::RootKind;
use crate::file::FileError;
use crate::model::bert::Architecture;

/// The classifier of a family's models in transformers, by module paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    /// Its last layer.
    path: &'static str,
    /// The pooler, if it is part of the head.
    pooler: Option<&'static str>,
    /// Has its last layer a bias?
    is_biased: bool,
}

impl Head {
    /// That of bases with this root, if transformers has them.
    pub(crate) fn of(base: RootKind) -> Option<Self> {
        match (Architecture::of(base), base) {
            (Some(encoder), _) => {
                let (path, pooler) = (encoder.head_classifier(), encoder.head_pooler());
                Some(Self { path, pooler, is_biased: true })
            }
            (None, RootKind::LLAMA) => Some(Self { path: "score", pooler: None, is_biased: false }),
            _ => None,
        }
    }

    /// The name under which `modules_to_save` has it.
    pub(super) fn module(self) -> &'static str {
        self.path.split('.').next().unwrap_or(self.path)
    }

    /// The path of its last layer.
    pub(crate) fn path(self) -> &'static str {
        self.path
    }

    /// The path of its pooler, if that is part of it.
    pub(crate) fn pooler(self) -> Option<&'static str> {
        self.pooler
    }

    /// The names of its tensors in PEFT's file.
    fn tensors(self) -> impl Iterator<Item = String> {
        let weights = [Some(self.path), self.pooler].into_iter().flatten();
        let biases = [Some(self.path).filter(|_| self.is_biased), self.pooler];
        weights.map(weight).chain(biases.into_iter().flatten().map(bias))
    }

    /// The part of it that a tensor of this name is, if any. The adapter's name may be left in:
    /// `score.modules_to_save.NAME.weight`.
    pub(super) fn part(self, tensor: &str) -> Option<String> {
        let saved = || {
            let (module, rest) = tensor.split_once(".modules_to_save.")?;
            Some(format!("{module}.{}", rest.split_once('.')?.1))
        };
        let name = saved().unwrap_or_else(|| tensor.to_owned());
        self.tensors().find(|part| *part == name)
    }
}

/// The name in PEFT's file of the weight at a module path.
pub(crate) fn weight(path: &str) -> String {
    format!("base_model.model.{path}.weight")
}

/// The name of the bias there.
pub(crate) fn bias(path: &str) -> String {
    format!("base_model.model.{path}.bias")
}

/// The classifier among `tensors`, if the adapter announces one, and the pooler if it is with it.
pub(super) fn read(
    file: &Path,
    tensors: &BTreeMap<String, Stored<'_>>,
    settings: &Settings,
    base: &dyn Base,
) -> Result<Option<(ClassifierParts, Option<PoolerParts>)>, FileError> {
    let Some(head) = settings.classifier else {
        let unannounced =
            format!("modules_to_save does not announce it in {}", settings.path.display());
        return tensors
            .keys()
            .next()
            .map_or(Ok(None), |name| Err(FileError::format(file, name, unannounced)));
    };
    let values = |name: &str, expected: &[usize]| values(file, tensors, name, expected);
    let (name, dim) = (weight(head.path), base.dim());
    let own =
        |path: &&str| tensors.contains_key(&weight(path)) || tensors.contains_key(&bias(path));
    let pooler = head.pooler.filter(own).map(|path| {
        let (weight, bias) = (values(&weight(path), &[dim, dim])?, values(&bias(path), &[dim])?);
        Ok::<_, FileError>(PoolerParts { weight, bias })
    });
    if base.root().is_encoder() && pooler.is_none() && !has_pooler(base) {
        return Err(FileError::format(
            file,
            name,
            "the classifier reads the output of a pooler, and the base has none",
        ));
    }
    let labels = tensors.get(&name).and_then(|stored| stored.shape.first().copied()).unwrap_or(1);
    if labels < 2 {
        let reason = format!("a classifier of {labels} labels says nothing: 2 were expected");
        return Err(FileError::format(file, name, reason));
    }
    let bias = || values(&bias(head.path), &[labels]);
    let classifier = ClassifierParts {
        weight: values(&name, &[labels, dim])?,
        bias: if head.is_biased { bias()? } else { Vec::new() },
        labels: (0..labels).map(default_name).collect(),
    };
    Ok(Some((classifier, pooler.transpose()?)))
}

/// The finite numbers of a tensor of this shape.
fn values(
    file: &Path,
    tensors: &BTreeMap<String, Stored<'_>>,
    name: &str,
    expected: &[usize],
) -> Result<Vec<f32>, FileError> {
    let error = |reason: String| FileError::format(file, name, reason);
    let stored = tensors.get(name).ok_or_else(|| error("the tensor is missing".into()))?;
    if stored.shape != expected {
        return Err(error(format!(
            "the shape is {:?}, the base and the other tensors ask for {expected:?}",
            stored.shape
        )));
    }
    let values = stored.to_f32().ok_or_else(|| {
        let kind = stored.dtype;
        error(format!("tensors of type {kind:?} are not supported; F32, F16 and BF16 are"))
    })?;
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(values),
        Some(at) => Err(error(format!("value {at} is not finite"))),
    }
}

/// Refuses a classifier of something else than of texts that have one label of several: of tokens, of
/// choices, with several labels at once, or a number.
pub(super) fn check_task(config: &Json) -> Result<(), FileError> {
    if let Some(task) = config.text("task_type")?
        && task != "SEQ_CLS"
    {
        let reason = format!("\"{task}\" with a classifier is not supported; \"SEQ_CLS\" is");
        return Err(config.error("task_type", reason));
    }
    config.beside("config.json").map_or(Ok(()), |model| check_problem(&model))
}

/// The same of a model's config.json.
pub(crate) fn check_problem(model: &Json) -> Result<(), FileError> {
    match model.text("problem_type")? {
        None | Some("single_label_classification") => Ok(()),
        Some(other) => {
            let reason = format!("\"{other}\" is not supported: a text has one of several labels");
            Err(model.error("problem_type", reason))
        }
    }
}

/// Has the base a pooler that a classifier reads?
pub(crate) fn has_pooler(base: &dyn Base) -> bool {
    // It is the last site of every encoder.
    base.root().is_encoder() && base.site(base.sites() - 1).is_some()
}

/// What transformers calls label `index` unless it is told otherwise.
pub(crate) fn default_name(index: usize) -> String {
    format!("LABEL_{index}")
}

/// The names of `rows` labels that the directory has, if it has some; or a sentence about those it
/// has and that do not fit.
pub(crate) fn names(config: &Json, rows: usize) -> Result<Option<Vec<String>>, String> {
    let other = match config.get("id2label") {
        Some(_) => None,
        None => config.beside("config.json"),
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
