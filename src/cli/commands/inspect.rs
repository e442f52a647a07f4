//! `lowrank inspect` and `lowrank verify`: what an archive holds, and whether it is whole.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use lowrank::RootKind;
use lowrank::adapter::Adapter;
use lowrank::archive::Header;
use lowrank::model::AnyBase;
use lowrank::model::bert::{self, Bert};
use lowrank::model::llama::{Llama, RopeScaling, Site};
use lowrank::model::lstm::{self, Lstm};
use lowrank::model::mlp::Mlp;
use lowrank::quant::{Matrix, Values};
use serde_json::{Value, json};

use crate::Failure;
use crate::files::File;
use crate::output::{line, printable};

const EXAMPLES: &str = "Examples:
  lowrank inspect base.lrk
  lowrank inspect style.lrk --json";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// A base or adapter archive
    file: PathBuf,
    /// Print JSON with stable names
    #[arg(long)]
    json: bool,
}

const VERIFY_EXAMPLE: &str = "Example:
  lowrank verify base.lrk";

#[derive(Debug, Args)]
#[command(after_help = VERIFY_EXAMPLE)]
pub(crate) struct VerifyArguments {
    /// A base or adapter archive
    file: PathBuf,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let file = File::open(&arguments.file)?;
    let header = file.wrap(Header::parse(&file.map))?;
    let mut facts = json!({
        "file": file.path.display().to_string(),
        "bytes": file.map.len(),
        "kind": header.root.to_string(),
        "fingerprint": header.fingerprint.to_string(),
        "content_version": header.content_version,
    });
    let more = match header.root {
        RootKind::LLAMA => base(&file.base()?),
        kind if kind.is_encoder() => encoder(&file.encoder()?),
        RootKind::LSTM => recurrent(&file.wrap(Lstm::open(&file.map))?),
        RootKind::MLP => perceptron(&file.wrap(Mlp::open(&file.map))?),
        RootKind::ADAPTER => adapter(&file.adapter()?),
        _ => json!({}),
    };
    if let (Value::Object(facts), Value::Object(more)) = (&mut facts, more) {
        facts.extend(more);
    }
    if arguments.json {
        line(format_args!("{facts:#}"))?;
    } else if let Value::Object(facts) = facts {
        let training = facts
            .get("facts")
            .and_then(|facts| facts.get("training"))
            .and_then(Value::as_object)
            .cloned();
        for (name, value) in facts.iter().filter(|(name, _)| *name != "facts" || training.is_none())
        {
            line(format_args!("{:<17}{}", name.replace('_', " "), text(value)))?;
        }
        if let Some(training) = training {
            line("training")?;
            for (name, value) in &training {
                line(format_args!("  {:<21}{}", name.replace('_', " "), text(value)))?;
            }
        }
    }
    Ok(())
}

/// Values of a list that people are shown.
const SHOWN: usize = 20;

/// Strings without quotes, everything else as JSON; of a long list the beginning.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => printable(text),
        Value::Array(list) if list.len() > SHOWN => {
            let shown = Value::from(&list[..SHOWN]);
            printable(&format!("{shown} and {} more (--json)", list.len() - SHOWN))
        }
        value => printable(&value.to_string()),
    }
}

fn base(model: &Llama<'_>) -> Value {
    let c = model.config();
    let sites = (0..c.sites() as u32)
        .filter_map(|n| Site::from_number(n, c.layers))
        .filter(|&s| s != Site::Head || !model.is_tied());
    let weights = weights(sites.map(|site| model.weight(site)));
    json!({
        "name": model.name(),
        "vocab": c.vocab, "dim": c.dim, "layers": c.layers, "heads": c.heads, "kv_heads": c.kv_heads, "head_dim": c.head_dim,
        "hidden": c.hidden, "context": c.context, "rope_theta": c.rope_theta, "rope_scaling": rope_scaling(c.rope_scaling),
        "tied_head": model.is_tied(), "weights": weights,
        "tokenizer": !model.tokenizer_json().is_empty(), "chat_template": !model.chat_template().is_empty(),
        "stop_tokens": model.stop_tokens().collect::<Vec<_>>(), "leading_bos": model.leading_bos(),
    })
}

fn encoder(model: &Bert<'_>) -> Value {
    let c = model.config();
    let sites = (0..c.sites() as u32).filter_map(|n| bert::Site::from_number(n, c.layers));
    let weights = weights(
        sites.filter_map(|site| model.weight(site)).chain([model.positions(), model.token_types()]),
    );
    json!({
        "name": model.name(),
        "vocab": c.vocab, "dim": c.dim, "layers": c.layers, "heads": c.heads, "hidden": c.hidden, "context": c.context,
        "token_types": c.token_types, "activation": c.activation.name(),
        "pooling": c.pooling.name(), "normalize": c.normalize, "max_length": model.max_length(),
        "pooler": model.pooler().is_some(), "weights": weights, "tokenizer": !model.tokenizer_json().is_empty(),
    })
}

fn recurrent(model: &Lstm<'_>) -> Value {
    let c = model.config();
    let sites = (0..c.sites() as u32).filter_map(|n| lstm::Site::from_number(n, c.layers));
    json!({
        "name": model.name(),
        "vocab": c.vocab, "dim": c.dim, "hidden": c.hidden, "layers": c.layers, "outputs": c.outputs,
        "head": c.head.name(), "labels": model.labels().collect::<Vec<_>>(),
        "weights": weights(sites.filter_map(|site| model.weight(site))), "tokenizer": !model.tokenizer_json().is_empty(),
        "stop_tokens": model.stop_tokens().collect::<Vec<_>>(), "leading_bos": model.leading_bos(),
    })
}

fn perceptron(model: &Mlp<'_>) -> Value {
    let c = model.config();
    json!({
        "name": model.name(),
        "inputs": c.inputs, "widths": (0..c.layers).map(|i| model.layer(i).weight.rows()).collect::<Vec<_>>(), "layers": c.layers,
        "activation": c.activation.name(), "labels": model.labels().collect::<Vec<_>>(),
        "weights": weights((0..c.layers).map(|i| model.layer(i).weight)),
    })
}

/// Weights, bytes and bits per weight of each format; of nf4 also how its scales were chosen.
fn weights<'a>(matrices: impl Iterator<Item = Matrix<'a>>) -> serde_json::Map<String, Value> {
    let mut formats = BTreeMap::<String, (u64, u64, usize)>::new();
    for weight in matrices {
        let entry = formats.entry(weight.format().name().to_owned()).or_default();
        entry.0 += (weight.rows() * weight.cols()) as u64;
        entry.1 += weight.bytes();
        if let Values::Nf4(nf4) = weight.values() {
            entry.2 = entry.2.max(usize::from(nf4.is_fitted()) + usize::from(nf4.is_calibrated()));
        }
    }
    let facts = |(format, (weights, bytes, scales)): (String, (u64, u64, usize))| {
        let bits = bytes as f64 * 8.0 / weights as f64;
        let bits = (bits * 1000.0).round() / 1000.0;
        let mut facts = json!({ "weights": weights, "bytes": bytes, "bits_per_weight": bits });
        if format.starts_with("nf4") {
            facts["scales"] = ["absmax", "fitted", "calibrated"][scales].into();
        }
        (format, facts)
    };
    formats.into_iter().map(facts).collect()
}

fn rope_scaling(scaling: RopeScaling) -> Value {
    match scaling {
        RopeScaling::None => Value::Null,
        RopeScaling::Linear { factor } => json!({ "type": "linear", "factor": factor }),
        RopeScaling::Llama3 { factor, low_frequency, high_frequency, original_context } => json!({
            "type": "llama3", "factor": factor, "low_frequency": low_frequency, "high_frequency": high_frequency,
            "original_context": original_context,
        }),
        _ => json!({ "type": "unknown" }),
    }
}

fn adapter(adapter: &Adapter<'_>) -> Value {
    let facts: Option<Value> = serde_json::from_str(adapter.facts()).ok();
    json!({
        "name": adapter.name(), "method": adapter.method(), "base_fingerprint": adapter.base().to_string(),
        "base_kind": adapter.base_root().to_string(), "targets": adapter.targets().len(), "max_rank": adapter.max_rank(),
        "dora": adapter.is_dora(), "ia3": adapter.is_ia3(), "labels": adapter.classifier().map(|classifier| classifier.labels().collect::<Vec<_>>()),
        "pooler": adapter.pooler().is_some(),
        "parameters": adapter.targets().map(|t| t.rank * (t.inputs + t.outputs) + t.bias.len() + t.magnitude.len()).sum::<usize>(),
        "facts": facts,
    })
}

pub(crate) fn verify(arguments: &VerifyArguments) -> Result<(), Failure> {
    let file = File::open(&arguments.file)?;
    let root = file.root()?;
    match root {
        RootKind::ADAPTER => drop(file.wrap(Adapter::verify(&file.map))?),
        RootKind::LLAMA | RootKind::LSTM | RootKind::MLP => {
            file.wrap(AnyBase::verify(&file.map)).map(drop)?
        }
        kind if kind.is_encoder() => file.wrap(AnyBase::verify(&file.map)).map(drop)?,
        _ => drop(file.wrap(lowrank::archive::verify(&file.map))?),
    }
    line(format_args!("{}: {root}, {} bytes, whole", file.path.display(), file.map.len()))?;
    Ok(())
}
