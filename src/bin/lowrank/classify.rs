//! `lowrank classify`: which label texts have, and how probable it is. The classifier is an adapter's, or the base's own.

use std::path::PathBuf;

use clap::Args;
use lowrank::train::data::Tokenize;
use lowrank::train::{AnyBase, classify};
use serde_json::{Map, Value, json};

use crate::Failure;
use crate::evaluate::{check_weights, labels};
use crate::model::{AdapterOptions, ModelOptions, open_adapters};
use crate::output::{line, note};
use crate::tokenize::texts;

const EXAMPLES: &str = r#"Examples:
  lowrank classify --base minilm.lrk --adapter sentiment.lrk --text "a film to remember" --text "two hours of rain"
  lowrank classify --base minilm.lrk --adapter sentiment.lrk --file texts.jsonl --json"#;

/// Texts that are read and answered at a time.
const PART: usize = 256;

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    adapters: AdapterOptions,
    /// A text; may be repeated
    #[arg(long = "text", value_name = "TEXT", required_unless_present = "file", conflicts_with = "file")]
    texts: Vec<String>,
    /// JSON lines {"text": …}
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Tokens of a text; what is longer is cut
    #[arg(long, default_value_t = 512, value_name = "N")]
    max_length: usize,
    /// Print one JSON object a text, with stable names: label, probability, probabilities
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let base = arguments.model.open()?;
    let model = base.wrap(AnyBase::open(&base.map))?;
    if matches!(model, AnyBase::Mlp(_)) {
        return Err(format!("{}: the base reads numbers, not text: evaluate measures it on a .csv", base.path.display()).into());
    }
    let border = base.text()?;
    let adapters = open_adapters(&arguments.adapters.adapters)?;
    check_weights(&adapters)?;
    let labels = labels(&model, &adapters)?;
    let archives: Vec<&[u8]> = adapters.iter().map(|(file, _)| &file.map[..]).collect();
    let executor = arguments.model.executor()?;
    let mut all: Box<dyn Iterator<Item = Result<String, Failure>>> = match &arguments.file {
        Some(path) => Box::new(texts(path)?.map(|text| Ok(text?))),
        None => Box::new(arguments.texts.iter().cloned().map(Ok)),
    };
    let mut cut = 0;
    loop {
        let part = all.by_ref().take(PART).collect::<Result<Vec<_>, _>>()?;
        if part.is_empty() {
            break;
        }
        let mut ids = Vec::with_capacity(part.len());
        for text in &part {
            let (tokens, was_cut) = border.classified(text, arguments.max_length)?;
            cut += usize::from(was_cut);
            ids.push(tokens);
        }
        let answers = classify(model, &archives, &ids, arguments.model.exact_precision(), executor.as_ref());
        let answers = answers.map_err(|error| format!("{}: {error}", base.path.display()))?;
        for (text, probabilities) in part.iter().zip(&answers) {
            tell(arguments.json, &labels, text, probabilities)?;
        }
    }
    if cut > 0 {
        note(format_args!("lowrank: {cut} texts are longer than {} tokens and were cut (--max-length)", arguments.max_length));
    }
    Ok(())
}

/// One line: the likeliest label, its probability, the text.
fn tell(as_json: bool, labels: &[String], text: &str, probabilities: &[f32]) -> Result<(), Failure> {
    let mut best = 0;
    for (i, probability) in probabilities.iter().enumerate() {
        best = if *probability > probabilities[best] { i } else { best };
    }
    let (label, probability) = (&labels[best], probabilities[best]);
    Ok(if as_json {
        let all: Map<String, Value> = labels.iter().cloned().zip(probabilities.iter().map(|&probability| json!(probability))).collect();
        line(json!({ "label": label, "probability": probability, "probabilities": all }))
    } else {
        line(format_args!("{label}\t{probability:.4}\t{}", text.replace(['\n', '\r', '\t'], " ")))
    }?)
}
