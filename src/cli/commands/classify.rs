//! `lowrank classify`: which label texts have, and how probable it is. The classifier is an
//! adapter's, or the base's own.

use clap::Args;
#[cfg(feature = "cuda")]
use lowrank::train::DeviceBase;
use lowrank::train::data::{DataOptions, Tokenize};
use lowrank::train::{AnyBase, classify, labels};
use serde_json::{Map, Value, json};

use crate::Failure;
use crate::attach::{AdapterOptions, archives, open_adapters, opened};
use crate::model::ModelOptions;
use crate::output::{line, note, printable};
use crate::tokenize::TextOptions;

const EXAMPLES: &str = r#"Examples:
  lowrank classify --base minilm.lrk --adapter sentiment.lrk \
    --text "a film to remember" --text "two hours of rain"
  lowrank classify --base minilm.lrk --adapter sentiment.lrk \
    --file texts.jsonl --json"#;

/// Texts that are read and answered at a time.
const PART: usize = 256;

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    adapters: AdapterOptions,
    #[command(flatten)]
    texts: TextOptions,
    /// Tokens of a text; what is longer is cut [default: 512, or the positions of the base if those
    /// are fewer]
    #[arg(long, value_name = "N")]
    max_length: Option<usize>,
    /// Print one JSON object a text, with stable names: label, probability, probabilities
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let base = arguments.model.file()?;
    let model = base.wrap(AnyBase::open(&base.map))?;
    if matches!(model, AnyBase::Mlp(_)) {
        return Err(format!(
            "{}: the base reads numbers, not text: evaluate measures it on a .csv",
            base.path.display()
        )
        .into());
    }
    let tokenizer = base.text()?;
    let max_length = max_length(arguments, &model)?;
    let adapters = open_adapters(&arguments.adapters.adapters)?;
    let labels = labels(&model, opened(&adapters)?)?;
    let archives = archives(&adapters);
    let executor = arguments.model.executor()?;
    #[cfg(feature = "cuda")]
    let card = arguments.model.card()?.map(|card| DeviceBase::upload(&card, model)).transpose()?;
    #[cfg(not(feature = "cuda"))]
    arguments.model.card()?;
    let ask = |texts: &[Vec<u32>]| {
        #[cfg(feature = "cuda")]
        if let Some(card) = &card {
            return card.classify(&archives, texts);
        }
        classify(model, &archives, texts, arguments.model.exact_precision(), executor.as_ref())
    };
    let mut all = arguments.texts.texts()?;
    let (mut cut, mut count) = (0, 0);
    loop {
        let part = all.by_ref().take(PART).collect::<Result<Vec<_>, _>>()?;
        if part.is_empty() {
            break;
        }
        count += part.len();
        let mut ids = Vec::with_capacity(part.len());
        for text in &part {
            let (tokens, was_cut) = tokenizer.classified(text, max_length)?;
            cut += usize::from(was_cut);
            ids.push(tokens);
        }
        let answers = ask(&ids).map_err(|error| format!("{}: {error}", base.path.display()))?;
        for (text, probabilities) in part.iter().zip(&answers) {
            tell(arguments.json, &labels, text, probabilities)?;
        }
    }
    if cut > 0 {
        note(format_args!(
            "lowrank: {cut} of {count} texts are longer than {max_length} tokens and were cut \
             (--max-length)"
        ));
    }
    Ok(())
}

/// The most tokens of a text.
fn max_length(arguments: &Arguments, model: &AnyBase<'_>) -> Result<usize, Failure> {
    let positions = model.input().context;
    let usual = DataOptions::for_model(model.input()).max_length;
    let length = arguments.max_length.unwrap_or(usual);
    if length > positions {
        let text = format!("--max-length {length}: the base has positions for {positions} tokens");
        return Err(text.into());
    }
    Ok(length)
}

/// One line: the likeliest label, its probability, the text.
fn tell(
    as_json: bool,
    labels: &[String],
    text: &str,
    probabilities: &[f32],
) -> Result<(), Failure> {
    // Of equals the first, as `evaluate` counts.
    let Some((label, probability)) =
        labels.iter().zip(probabilities).rev().max_by(|a, b| a.1.total_cmp(b.1))
    else {
        return Ok(());
    };
    if !as_json {
        return Ok(line(format_args!(
            "{}\t{probability:.4}\t{}",
            printable(label),
            printable(&text.replace(['\n', '\r', '\t'], " "))
        ))?);
    }
    let all: Map<String, Value> = labels
        .iter()
        .cloned()
        .zip(probabilities.iter().map(|&probability| json!(probability)))
        .collect();
    Ok(line(json!({ "label": label, "probability": probability, "probabilities": all }))?)
}
