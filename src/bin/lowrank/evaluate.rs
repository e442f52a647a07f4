//! `lowrank evaluate`: perplexity of a language model, or accuracy and F1 of a classifier, on a data file.
//!
//! Language models: `.txt` in non-overlapping windows of `--max-length` tokens, each behind the begin-of-sequence token where the
//! model's rule asks for one; `.jsonl` example by example, as training reads it. The first token of a sequence is not scored; all
//! scored tokens have the same weight. Classifiers: the label names come from the adapter.

use std::path::PathBuf;

use clap::Args;
use lowrank::train::data::{DataOptions, Dataset, Tokenize};
use lowrank::train::{AnyBase, evaluate};

use crate::Failure;
use crate::model::{AdapterOptions, ModelOptions, open_adapters};
use crate::output::line;
use crate::progress::Progress;
use crate::train::{TaskName, measures_json, measures_text};

const EXAMPLES: &str = "Examples:
  lowrank evaluate --base base.lrk --adapter style.lrk --data held-out.jsonl --task lm --json
  lowrank evaluate --base minilm.lrk --adapter sentiment.lrk --data dev.tsv --task classify";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    adapters: AdapterOptions,
    /// .txt or .jsonl; to classify .tsv, .jsonl or .csv
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// What to measure
    #[arg(long, value_enum, default_value_t = TaskName::Lm)]
    task: TaskName,
    /// Tokens of a sequence
    #[arg(long, default_value_t = 512, value_name = "N")]
    max_length: usize,
    /// Score completions and the assistant's turns only
    #[arg(long)]
    completions_only: bool,
    /// Print JSON with stable names
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let base = arguments.model.open()?;
    let model = base.wrap(AnyBase::open(&base.map))?;
    let border = base.text().ok();
    let adapters = open_adapters(&arguments.adapters.adapters)?;
    let mut labels = None;
    for (file, weight) in &adapters {
        if *weight != 1.0 {
            return Err(
                format!("{}: evaluate measures adapters as they were trained, weight {weight} was asked for", file.path.display()).into()
            );
        }
        if let Some(classifier) = file.adapter()?.classifier() {
            labels = Some(classifier.labels().map(String::from).collect());
        }
    }
    let labels = labels.or_else(|| Some(model.labels()).filter(|labels| !labels.is_empty()));
    if arguments.task == TaskName::Classify && labels.is_none() {
        return Err("neither the base nor an adapter brings a classifier: train one with lowrank train --task classify".into());
    }
    let options = DataOptions {
        max_length: arguments.max_length,
        completions_only: arguments.completions_only,
        labels: labels.filter(|_| arguments.task == TaskName::Classify),
        ..DataOptions::default()
    };
    let tokenizer = border.as_ref().map(|border| border as &dyn Tokenize);
    let data = Dataset::open(&arguments.data, arguments.task.into(), tokenizer, options)?;
    let executor = arguments.model.executor()?;
    let archives: Vec<&[u8]> = adapters.iter().map(|(file, _)| &file.map[..]).collect();
    let mut progress = Progress::new("evaluating");
    let measured = evaluate(model, &archives, &data, arguments.model.exact_precision(), executor.as_ref(), &mut |done, total| {
        progress.show(done, total, "")
    });
    progress.finish();
    let measures = measured.map_err(|error| format!("{}: {error}", base.path.display()))?;
    if arguments.json {
        line(measures_json(&measures))?
    } else {
        line(measures_text(&measures))?
    }
    Ok(())
}
