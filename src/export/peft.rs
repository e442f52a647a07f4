//! An adapter archive as a PEFT directory: adapter_config.json and adapter_model.safetensors.
//!
//! A, B and m keep their numbers: f32 and f16 as they are, int8 as the f32 it stands for. Ranks and
//! alphas that differ among layers become patterns. IA3 is in `peft_ia3`. DoRA's k is not written: PEFT computes it from
//! m and its own base. Names of tensors and the meaning of patterns are those of PEFT 0.21; the
//! base's weights are not written. PEFT keeps no label names: where they are not transformers'
//! `LABEL_0`, `LABEL_1` …, adapter_config.json has them as `id2label` and `label2id`, keys that PEFT
//! passes over. (A config.json beside it would make transformers take the directory for a whole
//! model, and refuse it.)

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::adapter::{Adapter, Base, Classifier, LowRank, Scaled, check_fit};
use crate::error::RootKind;
use crate::file::{FileError, FolderKind, ToFolder, write_whole};
use crate::import::peft_classifier::{default_name, has_pooler};
use crate::model::bert::{Architecture, Site};

use super::peft_head as head;
use super::peft_ia3 as ia3;
use super::peft_tensors::{Tensor, tensors};

/// What a PEFT directory is to whoever writes one.
pub static PEFT: FolderKind = FolderKind {
    name: "a PEFT directory",
    files: &[CONFIG, WEIGHTS],
    key: CONFIG,
    is_own: |folder| super::is_own(&folder.join(CONFIG), &KEYS),
};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// What `config` begins with; see [`is_own`](super::is_own).
const KEYS: [&str; 4] = ["peft_type", "task_type", "base_model_name_or_path", "revision"];

/// Writes `adapter`, made for `base`, as the PEFT directory `directory`, a path or an
/// [`OutputFolder`](crate::file::OutputFolder) that was tried: it appears as a whole.
///
/// # Errors
/// A path where something else is than what this crate wrote, see
/// [`OutputFolder::new`](crate::file::OutputFolder::new). An adapter of another base, or one that PEFT has no form for (a bias of B beside DoRA or on an
/// embedding, DoRA on some layers only; a classifier that stands alone; a classifier with a bias or beside an adapted output head
/// on a decoder, on an encoder without pooler, or on another family); I/O errors.
pub fn export_peft(
    adapter: &Adapter<'_>,
    base: &dyn Base,
    directory: impl ToFolder,
) -> Result<(), FileError> {
    let place = directory.folder(&PEFT)?;
    let PeftState { config, weights } = state(adapter, base, place.path())?;
    place.check_room((weights.len() + config.len()) as u64)?;
    place.write(|folder| {
        [(WEIGHTS, &weights[..]), (CONFIG, config.as_bytes())].iter().try_for_each(
            |(name, bytes)| {
                let path = folder.join(name);
                write_whole(&path, |file| {
                    file.write_all(bytes).map_err(|error| FileError::io(&path, error))
                })
            },
        )
    })
}

/// An adapter as PEFT has it, in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeftState {
    /// What adapter_config.json says: JSON.
    pub config: String,
    /// The bytes of adapter_model.safetensors.
    pub weights: Vec<u8>,
}

/// `adapter`, made for `base`, as PEFT has it, in memory: what [`export_peft`] writes.
/// [`import_peft_state`](crate::import::import_peft_state) is the way back.
///
/// # Errors
/// As [`export_peft`], but for files; the error's path is `adapter`.
pub fn peft_state(adapter: &Adapter<'_>, base: &dyn Base) -> Result<PeftState, FileError> {
    state(adapter, base, Path::new("adapter"))
}

/// The same, for the place at `path`.
fn state(adapter: &Adapter<'_>, base: &dyn Base, path: &Path) -> Result<PeftState, FileError> {
    check_fit(adapter, base).map_err(|error| FileError::core(path, "", error))?;
    let refused = |reason: String| FileError::format(path, "", reason);
    let model = Model::new(adapter, base).map_err(refused)?;
    if model.targets.is_empty() {
        return Err(refused(
            "the adapter classifies and changes no layer: PEFT's LoRA has no form for that, \
             train it with a low-rank method"
                .into(),
        ));
    }
    let is_ia3 = model.targets.iter().any(|(_, target)| target.scaled.is_some());
    let config = match is_ia3 {
        true => ia3::config(adapter, &model),
        false => config(adapter, &model),
    };
    let config = config.map_err(refused)?;
    let biased = model.targets.iter().any(|(_, target)| !target.bias.is_empty());
    let full = |path: &str| format!("{}{path}", model.prefix);
    let mut all: BTreeMap<String, Tensor> = model
        .targets
        .iter()
        .flat_map(|(path, target)| tensors(&full(path), target, biased))
        .collect();
    if let Some(classifier) = adapter.classifier() {
        all.extend(head::tensors(adapter, &classifier, base));
    }
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let weights = safetensors::serialize(all, Some(metadata))
        .map_err(|error| FileError::format(path.join(WEIGHTS), "", error.to_string()))?;
    Ok(PeftState { config, weights })
}

/// The adapter beside the model that PEFT will wrap.
pub(super) struct Model<'t> {
    /// Module path and change of each adapted layer.
    pub(super) targets: Vec<(String, LowRank<'t>)>,
    /// The module paths of all layers that an adapter could change.
    paths: Vec<String>,
    /// Where transformers' model has the base.
    prefix: &'static str,
    pub(super) task: &'static str,
}

impl<'t> Model<'t> {
    fn new(adapter: &Adapter<'t>, base: &dyn Base) -> Result<Self, String> {
        let path = |site: u32| {
            let mut path = String::new();
            base.site(site)?;
            base.write_path(site, &mut path).ok()?;
            Some(path)
        };
        let mut targets: Vec<_> =
            adapter.targets().filter_map(|target| Some((path(target.site)?, target))).collect();
        let mut paths: Vec<String> = (0..base.sites()).filter_map(path).collect();
        let encoder = Architecture::of(base.root());
        let (prefix, task) = match (encoder, base.root(), adapter.classifier()) {
            (Some(encoder), _, Some(_)) if adapter.pooler().is_some() || has_pooler(base) => {
                if encoder.head_pooler().is_some() {
                    // It is saved whole, with what the adapter changes in it.
                    targets.retain(|(path, _)| *path != encoder.path(Site::Pooler));
                    paths.retain(|path| *path != encoder.path(Site::Pooler));
                }
                (encoder.prefix(), "SEQ_CLS")
            }
            (Some(_), _, Some(_)) => {
                return Err(
                    "PEFT's classifiers on encoders read a pooler's output, and there is none"
                        .into(),
                );
            }
            (Some(_), _, None) => ("", "FEATURE_EXTRACTION"),
            (_, RootKind::LLAMA, Some(classifier)) => {
                check_score(&classifier, &targets)?;
                ("", "SEQ_CLS")
            }
            (_, _, Some(_)) => return Err("PEFT has no classifier on such a base".into()),
            (_, _, None) => ("", "CAUSAL_LM"),
        };
        Ok(Self { targets, paths, prefix, task })
    }

    /// Are these all the layers whose path ends in `part`?
    fn are_all(&self, part: &str, paths: &[&str]) -> bool {
        self.paths.iter().filter(|path| last(path) == part).count() == paths.len()
    }
}

/// transformers' classifiers on decoders (`score`) have no bias, and stand where the output head
/// was.
fn check_score(
    classifier: &Classifier<'_>,
    targets: &[(String, LowRank<'_>)],
) -> Result<(), String> {
    if let Some(bias) = classifier.bias().iter().find(|bias| **bias != 0.0) {
        return Err(format!(
            "PEFT's classifiers on decoders have no bias, and one of this classifier is {bias}"
        ));
    }
    match targets.iter().find(|(path, _)| path == "lm_head") {
        Some((path, _)) => Err(format!(
            "PEFT's classifiers on decoders stand in place of {path}, and the adapter changes it"
        )),
        None => Ok(()),
    }
}

/// adapter_config.json, or why PEFT has no form for the adapter.
fn config(adapter: &Adapter<'_>, model: &Model<'_>) -> Result<String, String> {
    let targets = &model.targets;
    let (dora, biased) = common_form(targets)?;
    // One flag for all layers: where they differ, the √r goes into alpha.
    let rank_stabilized = targets.iter().all(|(_, target)| target.rank_stabilized);
    let alpha = |target: &LowRank<'_>| match target.rank_stabilized == rank_stabilized {
        true => f64::from(target.alpha),
        false => f64::from(target.alpha) * (target.rank as f64).sqrt(),
    };
    let (rank, rank_pattern) = patterns(model, |target| target.rank as f64);
    let (alpha, alpha_pattern) = patterns(model, alpha);
    let facts: Value = serde_json::from_str(adapter.facts()).unwrap_or_default();
    let fact = |key: &str| facts.get(key).cloned().unwrap_or_default();
    let mut config = json!({
        "peft_type": "LORA",
        "task_type": facts.get("task_type").cloned().unwrap_or_else(|| model.task.into()),
        "base_model_name_or_path": fact("base_model_name_or_path"),
        "revision": fact("revision"),
        "inference_mode": true,
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": rank_pattern,
        "alpha_pattern": alpha_pattern,
        "use_rslora": rank_stabilized,
        "use_dora": dora,
        "target_modules": modules(model, None),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": false,
        "init_lora_weights": true,
        // PEFT lists the two names that classifiers have in transformers, whichever the model uses.
        "modules_to_save": adapter.classifier().map(|_| head::modules(adapter.base_root())),
    });
    if biased {
        // Older versions of PEFT refuse keys they do not know.
        config["lora_bias"] = true.into();
    }
    write_labels(adapter, &mut config);
    serde_json::to_string_pretty(&config).map_err(|error| error.to_string())
}

/// Have the layers DoRA, and a bias of B? PEFT has one answer for all of them.
fn common_form(targets: &[(String, LowRank<'_>)]) -> Result<(bool, bool), String> {
    let dora = targets.iter().any(|(_, target)| !target.magnitude.is_empty());
    let biased = targets.iter().find(|(_, target)| !target.bias.is_empty());
    if let Some((path, _)) = targets.iter().find(|(_, target)| dora && target.magnitude.is_empty())
    {
        return Err(format!("PEFT has DoRA on all layers or on none, and {path} has no magnitude"));
    }
    if let Some((path, _)) = biased.filter(|_| dora) {
        return Err(format!("PEFT has no bias of B beside DoRA, and {path} has one"));
    }
    if let Some((path, _)) =
        targets.iter().find(|(_, target)| biased.is_some() && target.is_embedding)
    {
        return Err(format!(
            "PEFT has a bias of B on all layers or on none, and none on embeddings such as {path}"
        ));
    }
    Ok((dora, biased.is_some()))
}

/// The names of a classifier's labels, unless they are those that transformers invents.
pub(super) fn write_labels(adapter: &Adapter<'_>, config: &mut Value) {
    if let Some(classifier) = adapter.classifier() {
        let labels: Vec<&str> = classifier.labels().collect();
        if labels.iter().enumerate().any(|(index, label)| *label != default_name(index)) {
            let numbered = || labels.iter().enumerate();
            config["id2label"] = numbered()
                .map(|(index, label)| (index.to_string(), Value::from(*label)))
                .collect::<Map<_, _>>()
                .into();
            config["label2id"] = numbered()
                .map(|(index, label)| ((*label).to_owned(), Value::from(index)))
                .collect::<Map<_, _>>()
                .into();
        }
    }
}

/// The last part of a module path: what layers of all blocks have in common.
fn last(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

/// The shortest name by which PEFT finds just this layer.
fn short(path: &str) -> String {
    path.strip_prefix("model.").unwrap_or(path).to_owned()
}

/// `target_modules`: the part's name where it is adapted wherever the model has it, else a path for
/// each layer; of the layers that are scaled so.
pub(super) fn modules(model: &Model<'_>, scaled: Option<Scaled>) -> Vec<String> {
    let mut parts = BTreeMap::<&str, Vec<&str>>::new();
    let of_kind = model.targets.iter().filter(|(_, target)| target.scaled == scaled);
    of_kind.for_each(|(path, _)| parts.entry(last(path)).or_default().push(path));
    let names = |(part, paths): (&str, Vec<&str>)| {
        if model.are_all(part, &paths) {
            vec![part.to_owned()]
        } else {
            paths.into_iter().map(short).collect()
        }
    };
    parts.into_iter().flat_map(names).collect()
}

/// The commonest value, and a pattern for each part or layer that has another.
fn patterns(model: &Model<'_>, value: impl Fn(&LowRank<'_>) -> f64) -> (Value, Map<String, Value>) {
    let mut counts = BTreeMap::<u64, usize>::new();
    let mut parts = BTreeMap::<&str, Vec<(&str, f64)>>::new();
    for (path, target) in &model.targets {
        *counts.entry(value(target).to_bits()).or_default() += 1;
        parts.entry(last(path)).or_default().push((path, value(target)));
    }
    let common = counts
        .iter()
        .rev()
        .max_by_key(|(_, count)| **count)
        .map_or(0.0, |(bits, _)| f64::from_bits(*bits));
    let mut patterns = Map::new();
    for (part, values) in parts {
        let first = values[0].1;
        let paths: Vec<&str> = values.iter().map(|(path, _)| *path).collect();
        if model.are_all(part, &paths) && values.iter().all(|(_, value)| *value == first) {
            if first != common {
                patterns.insert(part.to_owned(), number(first));
            }
            continue;
        }
        patterns.extend(
            values
                .into_iter()
                .filter(|(_, value)| *value != common)
                .map(|(path, value)| (short(path), number(value))),
        );
    }
    (number(common), patterns)
}

/// Whole numbers without a point: PEFT's r is an integer.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 { (value as i64).into() } else { value.into() }
}
