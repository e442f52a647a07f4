//! An IA3 adapter as PEFT has it: adapter_config.json, and l as `[out, 1]` or `[1, in]`. The
//! directory is written by `peft`.

use serde_json::{Value, json};

use super::peft::{Model, modules, write_labels};
use super::peft_head as head;
use super::peft_tensors::{Tensor, vector};
use crate::adapter::{Adapter, Scaled};

/// adapter_config.json. Layers whose inputs are scaled are in both lists, under the same names.
pub(super) fn config(adapter: &Adapter<'_>, model: &Model<'_>) -> Result<String, String> {
    let (outputs, inputs) =
        (modules(model, Some(Scaled::Output)), modules(model, Some(Scaled::Input)));
    let mut all = [&outputs[..], &inputs[..]].concat();
    all.sort();
    let facts: Value = serde_json::from_str(adapter.facts()).unwrap_or_default();
    let fact = |key: &str| facts.get(key).cloned().unwrap_or_default();
    let mut config = json!({
        "peft_type": "IA3",
        "task_type": facts.get("task_type").cloned().unwrap_or_else(|| model.task.into()),
        "base_model_name_or_path": fact("base_model_name_or_path"),
        "revision": fact("revision"),
        "inference_mode": true,
        "target_modules": all,
        "feedforward_modules": inputs,
        "fan_in_fan_out": false,
        "init_ia3_weights": true,
        "modules_to_save": adapter.classifier().map(|_| head::modules(adapter.base_root())),
    });
    write_labels(adapter, &mut config);
    serde_json::to_string_pretty(&config).map_err(|error| error.to_string())
}

/// l, which scales this side of a layer.
pub(super) fn tensor(side: Scaled, l: &[f32]) -> Tensor {
    let shape = match side {
        Scaled::Output => vec![l.len(), 1],
        Scaled::Input => vec![1, l.len()],
    };
    Tensor { shape, ..vector(l) }
}
