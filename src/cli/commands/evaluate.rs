//! `lowrank evaluate`: perplexity of a language model, or accuracy and F1 of a classifier, on a
//! data file.
//!
//! Language models: `.txt` in non-overlapping windows of `--max-length` tokens, each behind the
//! begin-of-sequence token where the model's rule asks for one; `.jsonl` example by example, as
//! training reads it. The first token of a sequence is not scored; all scored tokens have the same
//! weight. Classifiers: the label names come from the adapter.

use std::path::{Path, PathBuf};

use clap::Args;
use lowrank::kernel::Precision;
use lowrank::runtime::Executor;
#[cfg(feature = "cuda")]
use lowrank::train::DeviceBase;
use lowrank::train::data::{DataOptions, Dataset, Tokenize};
use lowrank::train::{
    AnyBase, Divergence, Measures, bits_per_weight, evaluate, evaluate_against, labels,
};

use crate::Failure;
use crate::attach::{AdapterOptions, archives, note_classifiers, open_adapters, opened};
use crate::files::File;
use crate::model::ModelOptions;
use crate::output::{line, note};
use crate::progress::Progress;
use crate::results::{divergence_json, divergence_text, measures_json, measures_text, say_losses};
use crate::template::TemplateOptions;
use crate::train_options::{TaskName, check_length};

const EXAMPLES: &str = r"Examples:
  lowrank evaluate --base base.lrk --adapter style.lrk \
    --data held-out.jsonl --json
  lowrank evaluate --base minilm.lrk --adapter sentiment.lrk \
    --data dev.tsv --task classify
  lowrank evaluate --base base.lrk --against f32.lrk --data held-out.txt";

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
    /// Also measure how far the base is from this archive of the same model, as a rule its import with
    /// --weights f32 --embedding f32: KL(reference || base) per token, how often both expect the same
    /// token, bits per weight. The reference runs without adapters
    #[arg(long, value_name = "REFERENCE")]
    against: Option<PathBuf>,
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
        TaskName::Classify => Some(labels(&model, opened(&adapters)?)?),
        TaskName::Lm if matches!(model, AnyBase::Bert(_)) => {
            let path = base.path.display();
            return Err(format!("{path}: an encoder predicts no text: --task classify").into());
        }
        TaskName::Lm => {
            note_classifiers(&adapters)?;
            None
        }
    };
    if arguments.against.is_some() && arguments.task == TaskName::Classify {
        return Err("--against compares what is expected next: it is for --task lm".into());
    }
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
    let (measures, further) = match &arguments.against {
        None => (measured(arguments, &base, model, &archives, &data, executor.as_ref())?, None),
        Some(path) => {
            let reference = File::open(path)?;
            let how = (arguments.model.exact_precision(), executor.as_ref());
            let (measures, divergence) =
                against(arguments, &base, &archives, &reference, &data, how)?;
            (measures, Some((path.as_path(), divergence, bits_per_weight(&model))))
        }
    };
    say(arguments, &data, &measures, further)
}

/// Prints what was measured.
fn say(
    arguments: &Arguments,
    data: &Dataset<'_>,
    measures: &Measures,
    further: Option<(&Path, Divergence, [f64; 2])>,
) -> Result<(), Failure> {
    if arguments.json {
        let mut facts = measures_json(measures);
        facts["cut"] = data.truncated().into();
        facts["left_out"] = data.skipped().into();
        if let Some((_, divergence, bits)) = &further {
            facts["against"] = divergence_json(divergence, *bits);
        }
        line(facts)?
    } else {
        line(measures_text(measures))?;
        if let Some((path, divergence, bits)) = &further {
            line(divergence_text(path, divergence, *bits))?;
        }
    }
    Ok(())
}

/// What the base does on the data.
fn measured(
    arguments: &Arguments,
    base: &File,
    model: AnyBase<'_>,
    archives: &[(&[u8], f32)],
    data: &Dataset<'_>,
    executor: &dyn Executor,
) -> Result<Measures, Failure> {
    let (card, precision) = (arguments.model.card()?, arguments.model.exact_precision());
    let mut progress = Progress::new("evaluating");
    let mut show = |done, total| progress.show(done as u64, total as u64, "");
    let measured = match card {
        #[cfg(feature = "cuda")]
        Some(card) => DeviceBase::upload(&card, model)
            .and_then(|base| base.evaluate(archives, data, executor, &mut show)),
        #[cfg(not(feature = "cuda"))]
        Some(never) => match never {},
        None => evaluate(model, archives, data, precision, executor, &mut show),
    };
    progress.finish();
    Ok(measured.map_err(|error| format!("{}: {error}", base.path.display()))?)
}

/// What the base does on the data, and how far that is from what a reference does.
fn against(
    arguments: &Arguments,
    base: &File,
    archives: &[(&[u8], f32)],
    reference: &File,
    data: &Dataset<'_>,
    (precision, executor): (Precision, &dyn Executor),
) -> Result<(Measures, Divergence), Failure> {
    if arguments.model.card()?.is_some() {
        return Err("--against: a base is compared on the CPU only".into());
    }
    let (model, other) = (base.any_base()?, reference.any_base()?);
    let mut progress = Progress::new("evaluating");
    let mut show = |done, total| progress.show(done as u64, total as u64, "");
    let measured = evaluate_against(&model, archives, &other, data, precision, executor, &mut show);
    progress.finish();
    let paths = (base.path.display(), reference.path.display());
    Ok(measured.map_err(|error| format!("{} against {}: {error}", paths.0, paths.1))?)
}
