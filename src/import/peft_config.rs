//! adapter_config.json: what it says about the mathematics, and the refusal, by name, of what this
//! build would not compute.
//!
//! A key that is neither known to be harmless nor absent, null, false, zero or empty is refused, so
//! that a setting of a later PEFT can't be ignored silently.

use std::path::PathBuf;

use regex::Regex;
use serde_json::{Map, Value};

use super::json::{Json, is_neutral, public_place};
use super::peft_classifier::{Head, check_task};
use crate::file::FileError;

/// What adapter_config.json says about the mathematics.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) path: PathBuf,
    pub(super) rank_stabilized: bool,
    pub(super) dora: bool,
    pub(super) bias: bool,
    /// Does the head share the embedding's adapter if the two share their weights?
    pub(super) tied: bool,
    /// The classifier that is saved beside the adapter, if one is.
    pub(super) classifier: Option<Head>,
    /// Where the adapter comes from: JSON for the archive's facts.
    pub(super) facts: String,
    /// Is it IA3, without anything of LoRA?
    pub(super) is_ia3: bool,
    /// IA3: the layers whose inputs are scaled, by the ends of their paths or as one regular
    /// expression.
    feedforward: Option<Value>,
    rank: usize,
    alpha: f32,
    rank_pattern: Vec<(Regex, f64)>,
    alpha_pattern: Vec<(Regex, f64)>,
}

/// Keys that are read below.
const READ: [&str; 9] = [
    "peft_type",
    "r",
    "lora_alpha",
    "use_rslora",
    "use_dora",
    "lora_bias",
    "rank_pattern",
    "alpha_pattern",
    "ensure_weight_tying",
];

/// Those of an IA3. Where training started changes no output.
const READ_IA3: [&str; 3] = ["peft_type", "feedforward_modules", "init_ia3_weights"];

/// Keys that name the adapter or say how it was started and trained or where its tensors go: they
/// change no output. Which layers are adapted is read from the tensors; what `init_lora_weights`
/// did to the base is asked below.
const HARMLESS: [&str; 20] = [
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "eva_config",
    "exclude_modules",
    // Label names that this crate's export leaves.
    "id2label",
    "inference_mode",
    "label2id",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
];

/// Keys that change what the adapter computes in a way this build does not have.
const REFUSED: [(&str, &str); 15] = [
    (
        "alora_invocation_tokens",
        "adapters that invocation tokens switch on (aLoRA) are not supported",
    ),
    ("arrow_config", "routing among adapters (Arrow) is not supported"),
    ("bias", "trained biases of the base are not supported, only \"none\""),
    ("enable_lora", "fused layers (MergedLinear) are not supported"),
    ("fan_in_fan_out", "transposed weights (Conv1D) are not supported"),
    ("kasa_config", "KaSA is not supported"),
    ("layer_replication", "replicated layers are not supported"),
    ("megatron_config", "Megatron's parallel layers are not supported"),
    ("modules_to_save", "whole tensors that replace the base's are not supported"),
    ("monteclora_config", "MonteCLoRA is not supported"),
    ("target_parameters", "adapters on bare parameters are not supported"),
    ("trainable_token_indices", "replaced embeddings of single tokens are not supported"),
    ("use_bdlora", "block-diagonal factors (BD-LoRA) are not supported"),
    ("use_qalora", "QALoRA is not supported"),
    ("velora_config", "VeLoRA is not supported"),
];

impl Settings {
    /// `head`: the classifier that the adapter may bring (PEFT's SEQ_CLS).
    pub(super) fn read(json: &Json, head: Option<Head>) -> Result<Self, FileError> {
        let is_ia3 = is_ia3(json)?;
        // PEFT lists the two names that classifiers have in transformers, whichever the model uses.
        let pooler = head.and_then(Head::pooler);
        let is_head = |name: &Value| {
            name == "classifier" || name == "score" || pooler.is_some_and(|pooler| name == pooler)
        };
        let saved = json
            .get("modules_to_save")
            .and_then(Value::as_array)
            .filter(|saved| head.is_some() && saved.iter().all(is_head));
        let classifier = head.filter(|head| {
            saved.is_some_and(|saved| saved.iter().any(|name| name == head.module()))
        });
        if classifier.is_some() {
            check_task(json)?;
        }
        check_keys(json, saved.is_some(), if is_ia3 { &READ_IA3 } else { &READ })?;
        let (dora, bias) = (json.flag("use_dora")?, json.flag("lora_bias")?);
        if dora && bias {
            return Err(json.error(
                "lora_bias",
                "a bias of B together with use_dora is not supported (nor by PEFT)",
            ));
        }
        let alpha = json.number("lora_alpha")?.unwrap_or(8.0);
        if !alpha.is_finite() {
            return Err(json.error("lora_alpha", format!("{alpha} is not a scale")));
        }
        Ok(Self {
            path: json.path.clone(),
            rank_stabilized: json.flag("use_rslora")?,
            dora,
            bias,
            tied: json.flag("ensure_weight_tying")?,
            classifier,
            facts: facts(json),
            is_ia3,
            feedforward: json.get("feedforward_modules").cloned(),
            rank: json.count("r")?.unwrap_or(8),
            alpha,
            rank_pattern: patterns(
                json,
                "rank_pattern",
                |rank| rank >= 1.0 && rank.fract() == 0.0,
                "a whole number above 0",
            )?,
            alpha_pattern: patterns(
                json,
                "alpha_pattern",
                |alpha| (alpha as f32).is_finite(),
                "a number",
            )?,
        })
    }

    /// What it is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        if self.is_ia3 { "IA3" } else { "LoRA" }
    }

    /// As PEFT names it.
    pub(super) fn method(&self) -> &'static str {
        match (self.dora, self.rank_stabilized) {
            _ if self.is_ia3 => "ia3",
            (true, _) => "dora",
            (false, true) => "rslora",
            (false, false) => "lora",
        }
    }

    /// Does IA3 scale the inputs of the layer at this module path? `None` if nothing says so: PEFT
    /// takes the list of the model's type then. Its rule: the path ends in one of the names,
    /// wherever that begins, or the regular expression matches all of it.
    pub(super) fn scales_inputs(&self, module: &str) -> Result<Option<bool>, String> {
        match &self.feedforward {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(pattern)) => Regex::new(&format!("^(?:{pattern})$"))
                .map(|pattern| Some(pattern.is_match(module)))
                .map_err(|_| {
                    format!("{pattern} is not a regular expression that this build can read")
                }),
            Some(names) => {
                let mut names = names.as_array().into_iter().flatten().filter_map(Value::as_str);
                Ok(Some(names.any(|name| module.ends_with(name))))
            }
        }
    }

    /// r of the layer at this module path.
    pub(super) fn rank_of(&self, module: &str) -> usize {
        first_match(&self.rank_pattern, module).map_or(self.rank, |rank| rank as usize)
    }

    /// alpha of the layer at this module path.
    pub(super) fn alpha_of(&self, module: &str) -> f32 {
        first_match(&self.alpha_pattern, module).map_or(self.alpha, |alpha| alpha as f32)
    }
}

/// Is it IA3? Else it is LoRA.
fn is_ia3(json: &Json) -> Result<bool, FileError> {
    match json.required("peft_type", json.text("peft_type")?)? {
        "LORA" => Ok(false),
        "IA3" => Ok(true),
        other => {
            let reason = format!("\"{other}\" is not supported; \"LORA\" and \"IA3\" are");
            Err(json.error("peft_type", reason))
        }
    }
}

fn check_keys(json: &Json, heads_only: bool, read: &[&str]) -> Result<(), FileError> {
    for (key, value) in &json.fields {
        let known = read.contains(&key.as_str())
            || HARMLESS.contains(&key.as_str())
            || heads_only && key == "modules_to_save";
        if known
            || is_neutral(value)
            || key == "init_lora_weights"
            || key == "bias" && value == "none"
        {
            continue;
        }
        let reason = match REFUSED.iter().find(|(name, _)| name == key) {
            Some((_, reason)) => format!("{value}: {reason}"),
            None => format!(
                "{value}: this build does not know the key; it might change what the adapter computes"
            ),
        };
        return Err(json.error(key, reason));
    }
    // PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA and the like change the base; these only choose where
    // training starts.
    match json.get("init_lora_weights") {
        None | Some(Value::Bool(_)) => Ok(()),
        Some(Value::String(name)) if matches!(name.as_str(), "gaussian" | "eva" | "orthogonal" | "true" | "True") => Ok(()),
        Some(value) => Err(json.error(
            "init_lora_weights",
            format!(
                "{value} is not supported: it may have changed the base (save_pretrained of PEFT converts PiSSA, CorDA, OLoRA and \
                 LoRA-GA with path_initial_model_for_weight_conversion)"
            ),
        )),
    }
}

/// A path without its folders.
fn public(value: &Value) -> Value {
    value.as_str().map_or_else(|| value.clone(), |text| public_place(text).into())
}

/// Where the adapter comes from, as far as the file says.
fn facts(json: &Json) -> String {
    let keys = ["base_model_name_or_path", "revision", "task_type", "peft_version", "lora_dropout"];
    let fields: Map<String, Value> =
        keys.iter().filter_map(|&key| Some((key.to_owned(), public(json.get(key)?)))).collect();
    if fields.is_empty() { String::new() } else { Value::Object(fields).to_string() }
}

/// PEFT's rule: the key is a regular expression that matches the end of the module path, at a dot;
/// the first that does wins.
fn patterns(
    json: &Json,
    key: &str,
    fits: impl Fn(f64) -> bool,
    what: &str,
) -> Result<Vec<(Regex, f64)>, FileError> {
    let Some(object) = json.object(key)? else { return Ok(Vec::new()) };
    let pattern = |(name, value): (&String, &Value)| {
        let number = value.as_f64().filter(|&number| fits(number));
        let number = number
            .ok_or_else(|| object.error(name, format!("{what} was expected, found {value}")))?;
        let regex = Regex::new(&format!(r"^(?:.*\.)?(?:{name})$"));
        let regex = regex
            .map_err(|_| object.error(name, "not a regular expression that this build can read"))?;
        Ok((regex, number))
    };
    object.fields.iter().map(pattern).collect()
}

fn first_match(patterns: &[(Regex, f64)], module: &str) -> Option<f64> {
    patterns.iter().find(|(regex, _)| regex.is_match(module)).map(|(_, number)| *number)
}
