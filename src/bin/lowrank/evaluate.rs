//! `lowrank evaluate`: perplexity of a language model, or accuracy and F1 of a classifier, on a
//! data file.
//!
//! Language models: `.txt` in non-overlapping windows of `--max-length` tokens, each behind the
//! begin-of-sequence token where the model's rule asks for one; `.jsonl` example by example, as
//! training reads it. The first token of a sequence is not scored; all scored tokens have the same
//! weight. Classifiers: the label names come from the adapter.

use std::path::PathBuf;

use clap::Args;
use lowrank::train::data::{DataOptions, Dataset, Tokenize};
use lowrank::train::{AnyBase, evaluate};

use crate::Failure;
use crate::files::File;
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
    check_weights(&adapters)?;
    let labels =
        if arguments.task == TaskName::Classify { Some(labels(&model, &adapters)?) } else { None };
    let options = DataOptions {
        max_length: arguments.max_length,
        completions_only: arguments.completions_only,
        labels,
        ..DataOptions::default()
    };
    let tokenizer = border.as_ref().map(|border| border as &dyn Tokenize);
    let data = Dataset::open(&arguments.data, arguments.task.into(), tokenizer, options)?;
    let executor = arguments.model.executor()?;
    let archives: Vec<&[u8]> = adapters.iter().map(|(file, _)| &file.map[..]).collect();
    let mut progress = Progress::new("evaluating");
    let measured = evaluate(
        model,
        &archives,
        &data,
        arguments.model.exact_precision(),
        executor.as_ref(),
        &mut |done, total| progress.show(done as u64, total as u64, ""),
    );
    progress.finish();
    let measures = measured.map_err(|error| format!("{}: {error}", base.path.display()))?;
    if arguments.json {
        line(measures_json(&measures))?
    } else {
        line(measures_text(&measures))?
    }
    Ok(())
}

/// Refuses weights: measures and labels are those of adapters as they were trained.
pub(crate) fn check_weights(adapters: &[(File, f32)]) -> Result<(), Failure> {
    match adapters.iter().find(|(_, weight)| *weight != 1.0) {
        Some((file, weight)) => Err(format!(
            "{}: adapters are measured as they were trained, weight {weight} was asked for",
            file.path.display()
        )
        .into()),
        None => Ok(()),
    }
}

/// The label names: the last adapter's that brings a classifier, else the base's own.
pub(crate) fn labels(
    model: &AnyBase<'_>,
    adapters: &[(File, f32)],
) -> Result<Vec<String>, Failure> {
    let mut labels = model.labels();
    for (file, _) in adapters {
        if let Some(classifier) = file.adapter()?.classifier() {
            labels = classifier.labels().map(String::from).collect();
        }
    }
    if labels.is_empty() {
        return Err("neither the base nor an adapter brings a classifier: train one with lowrank train --task classify".into());
    }
    Ok(labels)
}
