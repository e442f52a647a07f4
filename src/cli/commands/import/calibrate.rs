//! `lowrank import --calibrate`: where the text comes from, the float archive that is calibrated, and
//! what there is to say about it.

use std::io::Write;
use std::path::Path;

use clap::Args;
use lowrank::archive::Header;
use lowrank::file::{FileError, Output, read_text};
use lowrank::import::{AnySource, BaseOptions};
use lowrank::model::AnyBase;
use lowrank::quant::{BlockScale, Format};
use lowrank::runtime::Executor;
use lowrank::text::{Message, Tokenizer};
use lowrank::train::{
    CalibrateOptions, CalibrateProgress, Calibrated, LEAST_TOKENS, calibrate, calibration_text,
    own_text,
};

use crate::Failure;
use crate::files::File;
use crate::model::executor;
use crate::output::note;
use crate::progress::Progress;

/// Tokens of text that are enough for most models.
const TOKENS: usize = 32_768;

#[derive(Debug, Args)]
#[command(next_help_heading = "Calibration")]
pub(crate) struct Calibration {
    /// Round the layers to nf4 one after the other so that they do the same to real text: "self" lets
    /// the model write it, or a UTF-8 text FILE. Much better text from the same bytes; takes minutes
    #[arg(long, value_name = "self|FILE", conflicts_with = "fit")]
    pub(crate) calibrate: Option<String>,
    /// Tokens of text to calibrate with, of FILE as many as it has; at least 512
    /// [default: 32768]
    #[arg(long, value_name = "N", requires = "calibrate")]
    calibration_tokens: Option<usize>,
    /// What the text is written, or its parts are chosen, by: the same seed gives the same archive
    #[arg(long, value_name = "S", requires = "calibrate", default_value_t = 0)]
    seed: u64,
    /// Threads that calibrate; 0 means one per core. The archive is the same for any number
    #[arg(long, value_name = "N", requires = "calibrate", default_value_t = 0)]
    threads: usize,
}

/// What the beginning of a text that a model writes may be: of as many kinds as a model reads.
const OPENINGS: [&str; 24] = [
    "The history of the city begins",
    "In this chapter we",
    "# Introduction\n\n",
    "def main():\n",
    "#include <stdio.h>\n\nint ",
    "import numpy as np\n\n",
    "SELECT name, ",
    "Once upon a time, there was",
    "Dear Sir or Madam,\n\n",
    "The main advantage of this method is",
    "Abstract. We present",
    "Chapter 1\n\n",
    "\"I don't know,\" she said,",
    "According to a report published on Monday,",
    "This agreement is made between",
    "To install the program, first",
    "Theorem 1. Let",
    "Q: What is the difference between",
    "The patient was",
    "Ingredients:\n\n- ",
    "Photosynthesis is the process by which",
    "In 1969, the",
    "The function returns",
    "Minutes of the meeting\n\n1. ",
];

/// What a model with a chat template may be asked.
const QUESTIONS: [&str; 12] = [
    "Explain how a car engine works.",
    "Write a short story about a lighthouse.",
    "What are the main causes of inflation?",
    "Write a Python function that sorts a list of words by length.",
    "Summarize the plot of Romeo and Juliet.",
    "How do I write a formal letter of complaint?",
    "Give me a recipe for vegetable soup with exact amounts.",
    "What is the difference between a virus and a bacterium?",
    "Describe the rules of chess to a beginner.",
    "Solve step by step: a train travels 120 km in 1.5 hours. What is its speed?",
    "How can I repair a bicycle tyre?",
    "List ten facts about the ocean.",
];

/// What is imported.
pub(super) struct Source<'s> {
    pub(super) path: &'s Path,
    /// What it is, unless it is an archive.
    pub(super) opened: Option<&'s AnySource>,
}

impl Source<'_> {
    /// Can it be a decoder? Of an archive that is known when it is open.
    fn may_write(&self) -> bool {
        matches!(self.opened, None | Some(AnySource::Gguf(_) | AnySource::HuggingFace(_)))
    }
}

fn not_a_writer(path: &Path) -> String {
    format!("{}: only a decoder writes its own text: --calibrate FILE was expected", path.display())
}

/// Writes `source` to `output`, calibrated with what `--calibrate` names.
pub(super) fn write(
    calibration: &Calibration,
    named: &str,
    source: &Source<'_>,
    options: &BaseOptions,
    output: &Output,
) -> Result<Header, Failure> {
    if options.weights != Format::Nf4 {
        return Err("--calibrate has no effect: --weights is not nf4".into());
    }
    if let Some(tokens) = calibration.calibration_tokens.filter(|&tokens| tokens < LEAST_TOKENS) {
        return Err(
            format!("--calibration-tokens {tokens}: at least {LEAST_TOKENS} are needed").into()
        );
    }
    let text = if named == "self" { None } else { Some((named, read_text(named)?)) };
    if matches!(&text, Some((_, text)) if text.trim().is_empty()) {
        return Err(format!("{named}: the text is empty").into());
    }
    if text.is_none() && !source.may_write() {
        return Err(not_a_writer(source.path).into());
    }
    let float = floats(source, options, output)?;
    let base = float.any_base()?;
    let executor = executor(calibration.threads)?;
    let sequences = match &text {
        Some((path, text)) => of_text(calibration, path, text, &float, &base)?,
        None => of_model(calibration, source.path, &float, &base, executor.as_ref())?,
    };
    let mut progress = Progress::new("calibrating");
    let mut show = |p: CalibrateProgress<'_>| progress.show(p.done as u64, p.total as u64, p.name);
    let options = CalibrateOptions {
        embedding: options.embedding,
        block: options.block,
        content_version: options.content_version,
    };
    let calibrated = calibrate(&base, &sequences, &options, executor.as_ref(), &mut show);
    progress.finish();
    let Calibrated { archive, fitted } =
        calibrated.map_err(|error| format!("{}: {error}", source.path.display()))?;
    if let [first, ..] = &fitted[..] {
        note(format_args!(
            "{}: rows of {first} are not whole blocks of {} weights: the scales of {} such layers are \
             fitted, not calibrated",
            source.path.display(),
            options.block,
            fitted.len()
        ));
    }
    output.write(|file| {
        file.write_all(&archive).map_err(|error| FileError::io(output.path(), error))
    })?;
    Ok(Header::parse(&archive).map_err(|error| FileError::core(output.path(), "", error))?)
}

/// The sequences of a text file.
fn of_text(
    calibration: &Calibration,
    path: &str,
    text: &str,
    float: &File,
    base: &AnyBase<'_>,
) -> Result<Vec<Vec<u32>>, Failure> {
    let tokens = calibration.calibration_tokens.unwrap_or(TOKENS);
    let sequences = calibration_text(base, &float.text()?, text, tokens, calibration.seed)
        .map_err(|error| format!("{path}: {error}"))?;
    let found: usize = sequences.iter().map(Vec::len).sum();
    if found < LEAST_TOKENS {
        return Err(format!(
            "{path}: its {found} tokens are too few to calibrate with: at least {LEAST_TOKENS} were \
             expected"
        )
        .into());
    }
    if found < tokens && calibration.calibration_tokens.is_some() {
        note(format_args!("{path}: it has {found} tokens, {tokens} were asked for"));
    }
    Ok(sequences)
}

/// The sequences that a decoder writes itself.
fn of_model(
    calibration: &Calibration,
    source: &Path,
    float: &File,
    base: &AnyBase<'_>,
    executor: &dyn Executor,
) -> Result<Vec<Vec<u32>>, Failure> {
    let AnyBase::Llama(model) = base else {
        return Err(not_a_writer(source).into());
    };
    let openings = float.text().map_or(Ok(Vec::new()), |tokenizer| openings(&tokenizer))?;
    let tokens = calibration.calibration_tokens.unwrap_or(TOKENS);
    let mut progress = Progress::new("writing text");
    let mut show = |done, total| progress.show(done as u64, total as u64, "");
    let written = own_text(model, &openings, tokens, calibration.seed, executor, &mut show);
    progress.finish();
    Ok(written.map_err(|error| format!("{}: {error}", source.display()))?)
}

/// The openings as tokens: plain ones, and questions where the model has a template for them.
fn openings(tokenizer: &Tokenizer) -> Result<Vec<Vec<u32>>, Failure> {
    let mut openings = Vec::new();
    for (i, opening) in OPENINGS.iter().enumerate() {
        openings.push(tokenizer.encode_prompt(opening)?);
        if tokenizer.has_template()
            && let Some(question) = QUESTIONS.get(i)
            && let Ok(chat) = tokenizer.render_chat(&[Message::new("user", *question)], true)
        {
            openings.push(tokenizer.encode_prompt(&chat)?);
        }
    }
    Ok(openings)
}

/// `source` as an archive of floats: itself, or imported into a file that is gone when the program ends.
fn floats(source: &Source<'_>, options: &BaseOptions, output: &Output) -> Result<File, Failure> {
    let Some(opened) = source.opened else {
        if options.without_tokenizer {
            let path = source.path.display();
            return Err(format!("{path}: an archive is imported with its tokenizer").into());
        }
        return Ok(File::open(source.path)?);
    };
    let options = BaseOptions {
        weights: Format::F32,
        embedding: Format::F32,
        // Refuses weights that are in 4 bits already.
        scale: BlockScale::Fitted,
        ..options.clone()
    };
    let folder = match output.beside("float").as_deref().and_then(Path::parent) {
        Some(parent) if parent.as_os_str().is_empty() => tempfile::tempdir_in("."),
        Some(parent) => tempfile::tempdir_in(parent),
        None => tempfile::tempdir(),
    };
    let folder = folder.map_err(|error| FileError::io(output.path(), error))?;
    let path = folder.path().join("float.lrk");
    let mut progress = Progress::new("importing");
    let mut show =
        |p: lowrank::import::Progress<'_>| progress.show(p.done as u64, p.total as u64, p.name);
    opened.write(&options, &path, &mut show)?;
    progress.finish();
    let file = File { path: source.path.to_owned(), ..File::open(&path)? };
    // Where a file that is open can be deleted, it is: then nothing is left behind whatever happens.
    drop(folder);
    Ok(file)
}
