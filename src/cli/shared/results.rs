//! What `train`, `evaluate` and `compare` report alike: data files and measurements.

use std::path::Path;

use lowrank::train::data::Dataset;
use lowrank::train::{Divergence, Measures};
use serde_json::{Value, json};

use crate::output::note;

/// Says what a file holds, and what of it is cut or left out.
pub(crate) fn say_data(path: &Path, data: &Dataset<'_>) {
    note(format_args!("{}: {}", path.display(), data.summary()));
    say_losses(path, data);
}

/// Says what of a file is cut or left out.
pub(crate) fn say_losses(path: &Path, data: &Dataset<'_>) {
    for lost in data.losses() {
        note(format_args!("{}: {lost}", path.display()));
    }
}

/// The stable names of an evaluation.
pub(crate) fn measures_json(measures: &Measures) -> Value {
    let mut facts = json!({
        "loss": measures.loss,
        "perplexity": measures.perplexity,
        "examples": measures.examples,
        "scored": measures.scored,
    });
    if let (Some(accuracy), Some(f1)) = (measures.accuracy, measures.f1) {
        facts["accuracy"] = json!(accuracy);
        facts["f1"] = json!(f1);
    }
    facts
}

/// An evaluation for people.
pub(crate) fn measures_text(measures: &Measures) -> String {
    match (measures.accuracy, measures.f1) {
        (Some(accuracy), Some(f1)) => {
            format!(
                "accuracy {accuracy:.4}  f1 {f1:.4}  loss {:.4}  examples {}",
                measures.loss, measures.examples
            )
        }
        _ => format!(
            "perplexity {:.4}  loss {:.4}  examples {}  scored tokens {}",
            measures.perplexity, measures.loss, measures.examples, measures.scored
        ),
    }
}

/// The stable names of what `--against` measures; `bits` per weight of the layers between embedding and
/// output head, and of all weights.
pub(crate) fn divergence_json(divergence: &Divergence, bits: [f64; 2]) -> Value {
    json!({
        "perplexity": divergence.perplexity,
        "kl_mean": divergence.mean,
        "kl_p99": divergence.percentile_99,
        "top1_agreement": divergence.agreement,
        "bits_per_weight": bits[0],
        "bits_per_weight_all": bits[1],
    })
}

/// The same for people.
pub(crate) fn divergence_text(reference: &Path, divergence: &Divergence, bits: [f64; 2]) -> String {
    format!(
        "against {} (perplexity {:.4}): KL mean {:.5}  99th percentile {:.4}  same first choice {:.4}  \
         bits per weight {:.3}, with embedding and head {:.3}",
        reference.display(),
        divergence.perplexity,
        divergence.mean,
        divergence.percentile_99,
        divergence.agreement,
        bits[0],
        bits[1]
    )
}
