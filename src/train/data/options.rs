//! How a data file is read, and the refusal of what does not fit its format, the task or the model.

use super::{Format, Kind, Task, Tokenize};

/// The most tokens of a sequence where nothing else is asked for: in training, measuring and
/// classifying, in the library, in C and on the command line (there never more than the base has
/// positions for).
pub const MAX_LENGTH: usize = 512;

/// How a file is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataOptions {
    /// The most tokens of a sequence; longer ones are cut and counted. At least 2.
    /// Default: [`MAX_LENGTH`], with [`for_model`](Self::for_model) at most the model's context.
    pub max_length: usize,
    /// Score completions and the assistant's turns only, each with the token that ends it.
    /// Default: no.
    pub completions_only: bool,
    /// Fill batches by tokens (up to `batch_size · max_length`) instead of by examples. Examples
    /// stay apart. Default: no.
    pub packing: bool,
    /// The labels of the training file, for a validation file; `None`, the default, takes the
    /// file's own.
    pub labels: Option<Vec<String>>,
    /// What the model takes in, so that a file which does not fit is refused with the line;
    /// `None`, the default, if that is not known.
    pub input: Option<ModelInput>,
}

/// What a model takes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelInput {
    /// The most tokens of a sequence.
    pub context: usize,
    /// The tokens of its vocabulary; 0 of a model that reads numbers.
    pub vocab: usize,
    /// The numbers of a row; 0 of a model that reads tokens.
    pub features: usize,
}

impl ModelInput {
    /// For a sentence: "the model reads …".
    pub(super) fn described(self) -> String {
        match self.features {
            0 => "text".into(),
            1 => "rows of 1 number".into(),
            features => format!("rows of {features} numbers"),
        }
    }
}

impl DataOptions {
    /// The usual ones for a model that takes in `input`: as the command line reads data.
    pub fn for_model(input: ModelInput) -> Self {
        let max_length = MAX_LENGTH.min(input.context.max(2));
        Self { max_length, input: Some(input), ..Self::default() }
    }
}

impl Default for DataOptions {
    /// At most [`MAX_LENGTH`] tokens, every token scored, batches by examples, the file's own
    /// labels.
    fn default() -> Self {
        Self {
            max_length: MAX_LENGTH,
            completions_only: false,
            packing: false,
            labels: None,
            input: None,
        }
    }
}

/// Refuses what has no effect on such data.
fn check_effects(format: Format, task: Task, options: &DataOptions) -> Result<(), &'static str> {
    let without_effect = [
        (
            options.completions_only && task == Task::Classify,
            "completions-only has no effect on labels: it belongs to language models",
        ),
        (
            options.completions_only && format == Format::Text,
            "completions-only has no effect on .txt, which has no prompts: take .jsonl",
        ),
        (
            options.packing && format.is_of_numbers(),
            "packing has no effect on .csv, whose rows have one length",
        ),
        (
            options.packing && format == Format::Text,
            "packing has no effect on .txt, which is cut into windows of one length",
        ),
    ];
    let idle = without_effect.iter().find(|(is_so, _)| *is_so);
    idle.map_or(Ok(()), |(_, reason)| Err(*reason))
}

/// Refuses what the file's format, the task and the model cannot serve, and options that would have
/// no effect.
pub(super) fn check(
    format: Format,
    task: Task,
    tokenizer: Option<&dyn Tokenize>,
    options: &DataOptions,
) -> Result<(), String> {
    let of_numbers = format.is_of_numbers();
    match options.input {
        Some(input) if of_numbers && input.features == 0 => {
            return Err(match format {
                Format::Csv => {
                    "the model reads text, and a .csv holds numbers: take .tsv or .jsonl"
                }
                _ => "the model reads text, and these are rows of numbers",
            }
            .into());
        }
        Some(input) if !of_numbers && input.features > 0 => {
            let reads = input.described();
            let hint = if format.is_file() { "a .csv" } else { "rows of features" };
            return Err(format!("the model reads {reads}, not text: take {hint}"));
        }
        _ => {}
    }
    check_effects(format, task, options)?;
    if of_numbers {
        return Ok(());
    }
    let frame = tokenizer
        .map_or(0, |t| usize::from(t.begin().is_some()) + usize::from(t.close().is_some()));
    let least = if task == Task::Classify { frame + 1 } else { 2 };
    if options.max_length < least {
        return Err(format!(
            "sequences of at most {} tokens hold nothing to learn: at least {least} are needed",
            options.max_length
        ));
    }
    if tokenizer.is_none() && format != (Format::Examples { are: Kind::Tokens }) {
        return Err("the model has no tokenizer, so text cannot be its input".into());
    }
    Ok(())
}
