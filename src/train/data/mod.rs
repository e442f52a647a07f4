//! Training data: a file is opened, checked and indexed once; batches are read from disk and
//! encoded when they are needed.
//!
//! | extension | a record | task |
//! |---|---|---|
//! | `.txt` | the whole file, cut into windows of the longest sequence | language model |
//! | `.jsonl` | `{"text"}`, `{"prompt", "completion"}` or `{"messages": [{"role", "content"}]}` | language model |
//! | `.jsonl` | `{"text", "label"}` | classify |
//! | `.tsv` | `text<TAB>label`; a first line whose label is `label` is a header | classify |
//! | `.csv` | numbers, last the label; a first row without a number among its features is a header | classify |
//!
//! Blank lines are left out. Tokens of a language model: begin of sequence where the model's rule
//! says so, the text, end of sequence (conversations end as their template ends them). Each token
//! is predicted from those before it in its own example; the first never is, those of a prompt only
//! without [`DataOptions::completions_only`].
//!
//! Per example the index takes 28 bytes; of a `.txt` file the tokens are kept, 4 bytes each.

mod identity;
mod plan;
mod record;
mod scan;
mod tokenize;

use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::parallel::each;
use crate::file::FileError;
use crate::runtime::{Executor, Serial};

use plan::Room;
use record::Record;
use tokenize::{Encoded, Encoder};

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

/// How a file is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataOptions {
    /// The most tokens of a sequence; longer ones are cut and counted. At least 2.
    pub max_length: usize,
    /// Score completions and the assistant's turns only, each with the token that ends it.
    pub completions_only: bool,
    /// Fill batches by tokens (up to `batch_size · max_length`) instead of by examples. Examples
    /// stay apart.
    pub packing: bool,
    /// The labels of the training file, for a validation file; `None` takes the file's own.
    pub labels: Option<Vec<String>>,
}

impl Default for DataOptions {
    /// At most 512 tokens, every token scored, batches by examples, the file's own labels.
    fn default() -> Self {
        Self { max_length: 512, completions_only: false, packing: false, labels: None }
    }
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

/// What an example says: tokens, or features.
#[derive(Default)]
struct Example {
    encoded: Encoded,
    features: Vec<f32>,
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
    entries: Vec<Entry>,
    /// Rows of each example.
    lengths: Vec<u32>,
    /// The tokens of a text file.
    tokens: Vec<u32>,
    width: usize,
    truncated: usize,
    skipped: usize,
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
    /// [`FileError`] with the line: a record that is not as the table above says, a label that is
    /// not among the given ones, text that is not UTF-8, a token beyond the vocabulary. With
    /// the file: another extension, a task that it cannot serve, a missing tokenizer, no
    /// example or only one label in it.
    pub fn open(
        path: &Path,
        task: Task,
        tokenizer: Option<&'t dyn Tokenize>,
        options: DataOptions,
    ) -> Result<Self, FileError> {
        let format = Format::of(path, task)?;
        if format != Format::Csv {
            let frame = tokenizer
                .map_or(0, |t| usize::from(t.begin().is_some()) + usize::from(t.close().is_some()));
            let least = if task == Task::Classify { frame + 1 } else { 2 };
            let wrong = |reason| Err(FileError::format(path, "", reason));
            if options.max_length < least {
                return wrong(format!(
                    "sequences of at most {} tokens hold nothing to learn: at least {least} are needed",
                    options.max_length
                ));
            }
            if tokenizer.is_none() {
                return wrong("the model has no tokenizer, so text cannot be its input".into());
            }
        }
        let file = File::open(path).map_err(|error| FileError::io(path, error))?;
        let mut dataset = Self {
            path: path.to_owned(),
            file: Mutex::new(file),
            format,
            task,
            tokenizer,
            labels: Vec::new(),
            options,
            entries: Vec::new(),
            lengths: Vec::new(),
            tokens: Vec::new(),
            width: 0,
            truncated: 0,
            skipped: 0,
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

    /// Reads and encodes these examples, in this order.
    ///
    /// # Errors
    /// [`FileError`] if the file cannot be read or has changed since it was opened, or if there is
    /// no such example.
    pub fn batch(&self, examples: &[u32]) -> Result<Batch, FileError> {
        self.batch_on(&Serial, examples)
    }

    /// [`batch`](Self::batch) on the lanes of `executor`.
    pub(crate) fn batch_on(
        &self,
        executor: &dyn Executor,
        examples: &[u32],
    ) -> Result<Batch, FileError> {
        let mut read: Vec<Option<Result<Example, FileError>>> =
            examples.iter().map(|_| None).collect();
        each(executor, read.iter_mut().zip(examples), |(read, &example)| {
            *read = Some(self.example(example))
        });
        let rows = examples.iter().map(|&example| self.length(example)).sum();
        let mut starts = Vec::with_capacity(examples.len() + 1);
        starts.push(0);
        let (mut tokens, mut next, mut values, mut classes) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for example in read.into_iter().flatten() {
            let Example { encoded, features, class } = example?;
            if self.format == Format::Csv {
                values.extend(features);
                starts.push(starts.len());
            } else {
                if tokens.is_empty() {
                    tokens.reserve(rows);
                }
                if self.task == Task::LanguageModel {
                    next.extend(targets(&encoded));
                }
                tokens.extend(encoded.ids);
                starts.push(tokens.len());
            }
            classes.push(class);
        }
        let inputs = match self.format {
            Format::Csv => Inputs::Features { values, width: self.width },
            Format::Text | Format::JsonLines | Format::Tsv => Inputs::Tokens(tokens),
        };
        let targets = match self.task {
            Task::LanguageModel => Targets::Next(next),
            Task::Classify => Targets::Class(classes),
        };
        Ok(Batch { inputs, starts, targets })
    }

    fn example(&self, example: u32) -> Result<Example, FileError> {
        let (entry, length) = self.entry(example)?;
        let mut read = Example { class: entry.class, ..Example::default() };
        match self.format {
            Format::Csv => read.features = self.features(&entry)?,
            Format::Text | Format::JsonLines | Format::Tsv => {
                read.encoded = self.encoded(&entry, length)?
            }
        }
        Ok(read)
    }

    fn entry(&self, example: u32) -> Result<(Entry, usize), FileError> {
        let entry = self.entries.get(example as usize).copied();
        let known = |entry| (entry, self.length(example));
        entry.map(known).ok_or_else(|| {
            self.wrong(format!("there is no example {example}: the file has {}", self.len()))
        })
    }

    /// The tokens of an example, as they were when the file was opened.
    fn encoded(&self, entry: &Entry, length: usize) -> Result<Encoded, FileError> {
        let Some(encoder) = self.encoder() else { return Ok(Encoded::default()) };
        if self.format == Format::Text {
            return Ok(self.window(entry, length));
        }
        let bytes = self.read(entry)?;
        let changed = || self.changed(entry);
        let line = std::str::from_utf8(&bytes).map_err(|_| changed())?;
        let record = self.record(line).map_err(|_| changed())?;
        let encoded = encoder.encode(&record).map_err(|_| changed())?;
        if encoded.ids.len() == length { Ok(encoded) } else { Err(changed()) }
    }

    fn features(&self, entry: &Entry) -> Result<Vec<f32>, FileError> {
        let bytes = self.read(entry)?;
        let mut row = csv::ByteRecord::new();
        let is_row = scan::csv_reader(bytes.as_slice()).read_byte_record(&mut row).unwrap_or(false);
        match record::from_csv(&row) {
            Ok(Record::Features { values, .. }) if is_row && values.len() == self.width => {
                Ok(values)
            }
            _ => Err(self.changed(entry)),
        }
    }

    fn record(&self, line: &str) -> Result<Record, String> {
        match self.format {
            Format::Tsv => record::from_tsv(line),
            Format::Text | Format::JsonLines | Format::Csv => record::from_json(line, self.task),
        }
    }

    fn read(&self, entry: &Entry) -> Result<Vec<u8>, FileError> {
        let mut bytes = vec![0; entry.bytes as usize];
        // A reader that panicked left no state behind but the position, which is set here.
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let read =
            file.seek(SeekFrom::Start(entry.offset)).and_then(|_| file.read_exact(&mut bytes));
        match read {
            Ok(()) => Ok(bytes),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                Err(self.changed(entry))
            }
            Err(error) => Err(FileError::io(&self.path, error)),
        }
    }

    fn encoder(&self) -> Option<Encoder<'t>> {
        let DataOptions { max_length, completions_only, .. } = self.options;
        self.tokenizer.map(|tokenizer| Encoder { tokenizer, max_length, completions_only })
    }

    fn changed(&self, entry: &Entry) -> FileError {
        let reason = "the file has changed since it was opened; start the run again";
        FileError::format(&self.path, format!("line {}", entry.line), reason)
    }

    fn wrong(&self, reason: impl Into<String>) -> FileError {
        FileError::format(&self.path, "", reason)
    }
}

/// For each token the one behind it if that is scored.
fn targets(encoded: &Encoded) -> impl Iterator<Item = u32> {
    let behind = encoded.ids.iter().zip(&encoded.scored).skip(1);
    behind
        .map(|(&id, &is_scored)| if is_scored { id } else { IGNORE })
        .chain((!encoded.ids.is_empty()).then_some(IGNORE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Threads;
    use crate::text::{Message, TextError};

    /// A token per byte.
    struct Bytes;

    impl Tokenize for Bytes {
        fn encode(&self, text: &str) -> Result<Vec<u32>, TextError> {
            Ok(text.bytes().map(u32::from).collect())
        }

        fn render_chat(&self, _: &[Message], _: bool) -> Result<String, TextError> {
            Ok(String::new())
        }
    }

    #[test]
    fn lanes_read_what_one_reads_and_report_the_same_error() {
        let folder = tempfile::tempdir().unwrap();
        let threads = Threads::new(3).unwrap();
        let lines = |line: &dyn Fn(usize) -> String| (0..20).map(line).collect::<String>();
        let files = [
            ("a.txt", Task::LanguageModel, "a text of some length, ".repeat(20)),
            (
                "a.jsonl",
                Task::LanguageModel,
                lines(&|i| format!("{{\"text\": \"{}\"}}\n", "word ".repeat(i % 5 + 1))),
            ),
            (
                "a.tsv",
                Task::Classify,
                lines(&|i| format!("{}\t{}\n", "word ".repeat(i % 7 + 1), i % 3)),
            ),
            ("a.csv", Task::Classify, lines(&|i| format!("{i},{},{}\n", 2 * i, i % 2))),
        ];
        for (name, task, content) in files {
            let path = folder.path().join(name);
            std::fs::write(&path, &content).unwrap();
            let options = DataOptions { max_length: 24, ..DataOptions::default() };
            let data = Dataset::open(&path, task, Some(&Bytes), options).unwrap();
            let order: Vec<u32> = (0..data.len() as u32).rev().collect();
            assert!(order.len() >= 19, "{name}");
            assert_eq!(
                data.batch_on(&threads, &order).unwrap(),
                data.batch(&order).unwrap(),
                "{name}"
            );

            // Two examples that are not there: the first is the one that is named.
            let wrong: Vec<u32> = order.iter().copied().chain([500, 3, 400]).collect();
            let error = data.batch_on(&threads, &wrong).unwrap_err().to_string();
            assert!(error.contains("500"), "{error}");
            assert_eq!(error, data.batch(&wrong).unwrap_err().to_string());
        }
    }
}
