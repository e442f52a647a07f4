//! Training data: a file, or examples in memory, checked and indexed once; batches are read and
//! encoded when they are needed.
//!
//! [`Dataset::from_examples`] takes [`Example`]s that a program has; [`Dataset::open`] a file:
//!
//! | extension | a record | task |
//! |---|---|---|
//! | `.txt` | the whole file, cut into windows of the longest sequence | language model |
//! | `.jsonl` | `{"text"}`, `{"prompt", "completion"}` or `{"messages": [{"role", "content"}]}` | language model |
//! | `.jsonl` | `{"text", "label"}` | classify |
//! | `.tsv` | `text<TAB>label` | classify |
//! | `.csv` | numbers, last the label | classify |
//!
//! Blank lines are left out, and a byte order mark at the beginning. A line or row has at most
//! [`LONGEST_LINE`] bytes, in `.txt` [`LONGEST_TEXT_LINE`]. Objects have these keys and no others, and a label is one line. The
//! first row of a table is no example if it names the columns ("Review", "sentiment") and no other
//! row has its label, or if none of its features is a number; [`Dataset::header`] tells.
//!
//! Tokens of a language model: begin of sequence where the model's rule says so, the text, end of sequence (conversations end as their template ends them). Each token
//! is predicted from those before it in its own example; the first never is, those of a prompt only
//! without [`DataOptions::completions_only`].
//!
//! Per example the index takes 28 bytes; of a `.txt` file the tokens are kept, 4 bytes each.

mod batch;
mod example;
mod header;
mod identity;
mod labels;
mod lines;
mod options;
mod plan;
mod record;
mod scan;
mod source;
mod summary;
mod tokenize;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::file::{FileError, open};

use plan::Room;
use source::{Entry, Format, Kind, Source};
use tokenize::Encoder;

pub use example::Example;
pub use lines::{LONGEST_LINE, LONGEST_TEXT_LINE};
pub use options::{DataOptions, MAX_LENGTH, ModelInput};
pub use tokenize::Tokenize;

/// The target of a row whose prediction is not scored.
pub const IGNORE: u32 = u32::MAX;

/// What is learnt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// The next token.
    LanguageModel,
    /// One label for a whole sequence or row of features.
    Classify,
}

/// What goes into a model.
#[derive(Debug, Clone, PartialEq)]
pub enum Inputs {
    /// One token a row.
    Tokens(Vec<u32>),
    /// `[rows, width]`.
    Features {
        /// Row-major.
        values: Vec<f32>,
        /// Features of a row.
        width: usize,
    },
}

/// What it should say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Targets {
    /// Per row: the token to predict, or [`IGNORE`].
    Next(Vec<u32>),
    /// Per sequence: the index of its label.
    Class(Vec<u32>),
}

/// Sequences laid end to end without padding.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// The rows.
    pub inputs: Inputs,
    /// Rows `starts[i]..starts[i + 1]` are sequence i; the first is 0, the last the number of
    /// rows.
    pub starts: Vec<usize>,
    /// What the rows or sequences should give.
    pub targets: Targets,
}

/// A file, or examples in memory, checked and indexed.
pub struct Dataset<'t> {
    /// What messages call it where it is no file.
    path: PathBuf,
    source: Source,
    format: Format,
    task: Task,
    tokenizer: Option<&'t dyn Tokenize>,
    options: DataOptions,
    labels: Vec<String>,
    label_counts: Vec<u64>,
    entries: Vec<Entry>,
    /// Rows of each example.
    lengths: Vec<u32>,
    /// The tokens of a text file.
    tokens: Vec<u32>,
    width: usize,
    truncated: usize,
    skipped: usize,
    /// The line that names the columns.
    header: Option<u64>,
    /// Is there a record with a prompt or messages?
    has_prompts: bool,
}

impl fmt::Debug for Dataset<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dataset")
            .field("path", &self.path)
            .field("task", &self.task)
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

impl<'t> Dataset<'t> {
    /// Opens, checks and indexes a file; every record is read and encoded once. Features need no
    /// tokenizer.
    ///
    /// # Errors
    /// [`FileError`] with the line: a record that is not as the table above says or that does not
    /// fit [`DataOptions::input`], a label that is not among the given ones, text that is not
    /// UTF-8, a token beyond the vocabulary, a line that is too long. With the file: another
    /// extension, a task or model that it cannot serve, an option that has no effect on it, a
    /// missing tokenizer, no example or only one label in it.
    pub fn open(
        path: impl AsRef<Path>,
        task: Task,
        tokenizer: Option<&'t dyn Tokenize>,
        options: DataOptions,
    ) -> Result<Self, FileError> {
        let path = path.as_ref();
        // What is no file has no kind either.
        let file = open(path)?;
        let format = Format::of(path, task)?;
        check(path, format, task, tokenizer, &options)?;
        let source = Source::File(Mutex::new(file));
        Self::new(path, format, source, task, tokenizer, options)
    }

    /// Checks and indexes examples that are in memory, as [`open`](Self::open) does those of a file.
    /// Token ids and features need no tokenizer.
    ///
    /// ```
    /// use lowrank::train::data::{DataOptions, Dataset, Example, Task};
    /// # use lowrank::{adapter::SharedAdapter, archive::ArchiveFile, model::llama::Llama};
    /// # use lowrank::{runtime::Serial, text::Tokenizer, train::*};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let base = ArchiveFile::open("assets/tiny.lrk")?;
    /// let model = Llama::open(&base)?;
    /// let tokenizer = Tokenizer::new(&model)?;
    /// let examples = ["boat", "duck"].map(|word| Example::Completion {
    ///     prompt: format!("A {word}:"),
    ///     completion: " arr".into(),
    /// });
    /// let options = DataOptions::for_model(AnyBase::Llama(model).input());
    /// let data = Dataset::from_examples(examples, Task::LanguageModel, Some(&tokenizer), options)?;
    ///
    /// let mut trainer = Trainer::new(model, Options::new(Method::QLora), Vec::new())?;
    /// let go_on = &mut |_| Control::Continue;
    /// let report = run(&mut trainer, &data, None, &RunOptions::default(), &Serial, go_on)?;
    /// let adapter = SharedAdapter::open(finish(&trainer, &report, "pirate")?)?;
    /// # assert_eq!(report.steps, 1);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`open`](Self::open), with the number of the example in place of the line, from 1.
    pub fn from_examples(
        examples: impl IntoIterator<Item = Example>,
        task: Task,
        tokenizer: Option<&'t dyn Tokenize>,
        options: DataOptions,
    ) -> Result<Self, FileError> {
        let examples: Vec<Example> = examples.into_iter().collect();
        let are = match examples.first() {
            Some(Example::Features { .. }) => Kind::Features,
            _ if examples.iter().any(Example::is_text) => Kind::Text,
            _ => Kind::Tokens,
        };
        let (path, format) = (Path::new("examples"), Format::Examples { are });
        check(path, format, task, tokenizer, &options)?;
        Self::new(path, format, Source::Memory(examples), task, tokenizer, options)
    }

    fn new(
        path: &Path,
        format: Format,
        source: Source,
        task: Task,
        tokenizer: Option<&'t dyn Tokenize>,
        options: DataOptions,
    ) -> Result<Self, FileError> {
        let mut dataset = Self {
            path: path.to_owned(),
            source,
            format,
            task,
            tokenizer,
            labels: Vec::new(),
            label_counts: Vec::new(),
            options,
            entries: Vec::new(),
            lengths: Vec::new(),
            tokens: Vec::new(),
            width: 0,
            truncated: 0,
            skipped: 0,
            header: None,
            has_prompts: false,
        };
        dataset.scan()?;
        Ok(dataset)
    }

    /// Examples.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Is there no example? Never so after [`open`](Self::open).
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The file, if it is one.
    pub fn path(&self) -> Option<&Path> {
        self.format.is_file().then_some(&self.path)
    }

    /// The file's name, without its folder; `examples` in memory.
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// What it is read for.
    pub fn task(&self) -> Task {
        self.task
    }

    /// The names of the classes, in the order of their indices: sorted, as numbers if all are; or
    /// as given. Empty for a language model.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// Examples of each label, in their order; empty for a language model.
    pub fn label_counts(&self) -> &[u64] {
        &self.label_counts
    }

    /// The line that names the columns and is no example, if there is one.
    pub fn header(&self) -> Option<u64> {
        self.header
    }

    /// Features of a row; 0 where tokens go in.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows of an example: its tokens, or 1 for features; 0 if there is no such example.
    pub fn length(&self, example: u32) -> usize {
        self.lengths.get(example as usize).map_or(0, |&length| length as usize)
    }

    /// Rows of the longest example.
    pub fn longest(&self) -> usize {
        self.lengths.iter().max().map_or(0, |&length| length as usize)
    }

    /// Rows of all examples.
    pub fn rows(&self) -> u64 {
        self.lengths.iter().map(|&length| u64::from(length)).sum()
    }

    /// Examples that were cut at the longest sequence.
    pub fn truncated(&self) -> usize {
        self.truncated
    }

    /// Records left out because nothing in them is scored: one token, or a prompt that fills the
    /// longest sequence.
    pub fn skipped(&self) -> usize {
        self.skipped
    }

    /// The batches of an epoch, each example once, the same for the same seed and epoch. With
    /// `sort_by_length` a batch holds examples of similar lengths: shuffled, sorted inside
    /// stretches of 50 batches, cut, and the batches shuffled.
    pub fn plan(
        &self,
        batch_size: usize,
        seed: u64,
        epoch: u64,
        sort_by_length: bool,
    ) -> Vec<Vec<u32>> {
        plan::epoch(&self.lengths, self.room(batch_size), seed, epoch, sort_by_length)
    }

    /// Batches in the order of the file, for evaluation.
    pub fn plan_in_order(&self, batch_size: usize) -> Vec<Vec<u32>> {
        let order: Vec<u32> = (0..).take(self.len()).collect();
        plan::cut(&order, &self.lengths, self.room(batch_size))
    }

    fn room(&self, batch_size: usize) -> Room {
        if self.options.packing && !self.format.is_of_numbers() {
            Room::Tokens(batch_size.saturating_mul(self.options.max_length))
        } else {
            Room::Examples(batch_size)
        }
    }

    fn encoder(&self) -> Option<Encoder<'t>> {
        let DataOptions { max_length, completions_only, .. } = self.options;
        self.tokenizer.map(|tokenizer| Encoder { tokenizer, max_length, completions_only })
    }

    /// Refuses a file whose rows the model cannot take in.
    pub(crate) fn check_input(&self, input: ModelInput) -> Result<(), FileError> {
        if self.width == input.features {
            return Ok(());
        }
        let holds = match self.width {
            0 => "it holds text".into(),
            width => format!("its rows have {width} features"),
        };
        Err(self.wrong(format!("{holds}, the model reads {}", input.described())))
    }

    /// Where an example is, for messages: its number is the line's in a file.
    fn place(&self, number: u64) -> String {
        match self.format {
            Format::Text => String::new(),
            Format::Examples { .. } => format!("number {number}"),
            Format::JsonLines | Format::Tsv | Format::Csv => format!("line {number}"),
        }
    }

    fn wrong(&self, reason: impl Into<String>) -> FileError {
        FileError::format(&self.path, "", reason)
    }
}

fn check(
    path: &Path,
    format: Format,
    task: Task,
    tokenizer: Option<&dyn Tokenize>,
    options: &DataOptions,
) -> Result<(), FileError> {
    options::check(format, task, tokenizer, options)
        .map_err(|reason| FileError::format(path, "", reason))
}
