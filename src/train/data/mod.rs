//! Training data: a file is opened, checked and indexed once; batches are read from disk and
//! encoded when they are needed.
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
mod header;
mod identity;
mod labels;
mod lines;
mod options;
mod plan;
mod record;
mod scan;
mod summary;
mod tokenize;

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::file::{FileError, open};

use plan::Room;
use tokenize::Encoder;

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

/// What kind of file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Text,
    JsonLines,
    Tsv,
    Csv,
}

/// Where an example is and what is known about it.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// The first byte in the file; in a text file the first of the kept tokens.
    offset: u64,
    /// Bytes in the file.
    bytes: u32,
    /// From 1.
    line: u32,
    /// Its label; 0 without one.
    class: u32,
}

/// An opened and indexed file.
pub struct Dataset<'t> {
    path: PathBuf,
    file: Mutex<File>,
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
        path: &Path,
        task: Task,
        tokenizer: Option<&'t dyn Tokenize>,
        options: DataOptions,
    ) -> Result<Self, FileError> {
        let format = Format::of(path, task)?;
        options::check(format, task, tokenizer, &options)
            .map_err(|reason| FileError::format(path, "", reason))?;
        let file = open(path)?;
        let mut dataset = Self {
            path: path.to_owned(),
            file: Mutex::new(file),
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

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file's name, without its folder.
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
        if self.options.packing && self.format != Format::Csv {
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

    fn wrong(&self, reason: impl Into<String>) -> FileError {
        FileError::format(&self.path, "", reason)
    }
}
