//! `lowrank evaluate`: perplexity of a language model, or accuracy and F1 of a classifier, on a
//! data file.
//!
//! Language models: `.txt` in non-overlapping windows of `--max-length` tokens, each behind the
//! begin-of-sequence token where the model's rule asks for one; `.jsonl` example by example, as
//! training reads it. The first token of a sequence is not scored; all scored tokens have the same
//! weight. Classifiers: the label names come from the adapter.

use std::path::PathBuf;

use clap::Args;
#[cfg(feature = "cuda")]
use lowrank::train::DeviceBase;
use lowrank::train::data::{DataOptions, Dataset, Tokenize};
use lowrank::train::{AnyBase, evaluate};

use crate::Failure;
use crate::attach::{AdapterOptions, OpenAdapter, archives, note_classifiers, open_adapters};
use crate::model::ModelOptions;
use crate::output::{line, note};
use crate::progress::Progress;
use crate::results::{measures_json, measures_text, say_losses};
use crate::template::TemplateOptions;
use crate::train_options::{TaskName, check_length};

const EXAMPLES: &str = r"Examples:
  lowrank evaluate --base base.lrk --adapter style.lrk \
    --data held-out.jsonl --json
  lowrank evaluate --base minilm.lrk --adapter sentiment.lrk \
    --data dev.tsv --task classify";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    adapters: AdapterOptions,
    /// .txt or .jsonl; to classify .tsv, .jsonl or .csv (numbers and a label)
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// What to measure: lm the loss and perplexity of the next token, classify loss, accuracy and F1
    /// (with two labels that of the second in alphabetical order, else the mean of those that occur)
    #[arg(long, value_enum, default_value_t = TaskName::Lm)]
    task: TaskName,
    /// Tokens of a sequence [default: 512, or the positions of the base if those are fewer]
    #[arg(long, value_name = "N")]
    max_length: Option<usize>,
    /// Score completions and the assistant's turns only
    #[arg(long)]
    completions_only: bool,
    #[command(flatten)]
    template: TemplateOptions,
    /// Print JSON with stable names
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let base = arguments.model.file()?;
    let model = base.wrap(AnyBase::open(&base.map))?;
    let tokenizer = arguments.template.apply_to(base.text().ok())?;
    let adapters = open_adapters(&arguments.adapters.adapters)?;
    let labels = match arguments.task {
        TaskName::Classify => Some(labels(&model, &adapters)?),
        TaskName::Lm if matches!(model, AnyBase::Bert(_)) => {
            let path = base.path.display();
            return Err(format!("{path}: an encoder predicts no text: --task classify").into());
        }
        TaskName::Lm => {
            note_classifiers(&adapters)?;
            None
        }
    };
    let input = model.input();
    check_length(arguments.max_length, input)?;
    let usual = DataOptions::for_model(input);
    let options = DataOptions {
        max_length: arguments.max_length.unwrap_or(usual.max_length),
        completions_only: arguments.completions_only,
        labels,
        ..usual
    };
    let tokenize = tokenizer.as_ref().map(|tokenizer| tokenizer as &dyn Tokenize);
    let data = Dataset::open(&arguments.data, arguments.task.into(), tokenize, options)?;
    arguments.template.check_used(tokenizer.as_ref())?;
    say_losses(&arguments.data, &data);
    if let Some(line) = data.header() {
        note(format_args!("{}: line {line} names the columns", arguments.data.display()));
    }
    let executor = arguments.model.executor()?;
    let archives = archives(&adapters);
    let (card, precision) = (arguments.model.card()?, arguments.model.exact_precision());
    let mut progress = Progress::new("evaluating");
    let mut show = |done, total| progress.show(done as u64, total as u64, "");
    let measured = match card {
        #[cfg(feature = "cuda")]
        Some(card) => DeviceBase::upload(&card, model)
            .and_then(|base| base.evaluate(&archives, &data, executor.as_ref(), &mut show)),
        #[cfg(not(feature = "cuda"))]
        Some(never) => match never {},
        None => evaluate(model, &archives, &data, precision, executor.as_ref(), &mut show),
    };
    progress.finish();
    let measures = measured.map_err(|error| format!("{}: {error}", base.path.display()))?;
    if arguments.json {
        let mut facts = measures_json(&measures);
        facts["cut"] = data.truncated().into();
        facts["left_out"] = data.skipped().into();
        line(facts)?
    } else {
        line(measures_text(&measures))?
    }
    Ok(())
}

/// The label names: the last adapter's that brings a classifier, else the base's own.
pub(crate) fn labels(
    model: &AnyBase<'_>,
    adapters: &[OpenAdapter],
) -> Result<Vec<String>, Failure> {
    let mut labels = model.labels();
    for adapter in adapters {
        if let Some(classifier) = adapter.file.adapter()?.classifier() {
            labels = classifier.labels().map(String::from).collect();
        }
    }
    if labels.is_empty() {
        return Err("neither the base nor an adapter brings a classifier: train one with lowrank train --task classify".into());
    }
    Ok(labels)
}
