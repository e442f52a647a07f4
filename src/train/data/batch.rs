//! Batches: examples taken from memory, or read from the file again as they were when it was
//! indexed, and laid end to end.

use std::io::{Read, Seek, SeekFrom};
use std::sync::PoisonError;

use crate::file::FileError;
use crate::runtime::{Executor, Serial};
use crate::train::device::each;

use super::example::Example;
use super::record;
use super::tokenize::Encoded;
use super::{Batch, Dataset, Entry, Format, IGNORE, Inputs, Source, Targets, Task, scan};

/// What an example says: tokens, or features.
#[derive(Default)]
struct Row {
    encoded: Encoded,
    features: Vec<f32>,
    class: u32,
}

impl Dataset<'_> {
    /// Reads and encodes these examples, in this order.
    ///
    /// # Errors
    /// [`FileError`] if the file cannot be read or has changed since it was opened, or if there is
    /// no such example.
    pub fn batch(&self, examples: &[u32]) -> Result<Batch, FileError> {
        self.batch_on(&Serial, examples)
    }

    /// [`batch`](Self::batch) on the threads of `executor`.
    pub(crate) fn batch_on(
        &self,
        executor: &dyn Executor,
        examples: &[u32],
    ) -> Result<Batch, FileError> {
        let mut read: Vec<Option<Result<Row, FileError>>> = examples.iter().map(|_| None).collect();
        each(executor, read.iter_mut().zip(examples), |(read, &example)| {
            *read = Some(self.example(example))
        });
        let rows = examples.iter().map(|&example| self.length(example)).sum();
        let mut starts = Vec::with_capacity(examples.len() + 1);
        starts.push(0);
        let (mut tokens, mut next, mut values, mut classes) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for example in read.into_iter().flatten() {
            let Row { encoded, features, class } = example?;
            if self.width > 0 {
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
        let inputs = match self.width {
            0 => Inputs::Tokens(tokens),
            width => Inputs::Features { values, width },
        };
        let targets = match self.task {
            Task::LanguageModel => Targets::Next(next),
            Task::Classify => Targets::Class(classes),
        };
        Ok(Batch { inputs, starts, targets })
    }

    fn example(&self, example: u32) -> Result<Row, FileError> {
        let (entry, length) = self.entry(example)?;
        let mut row = Row { class: entry.class, ..Row::default() };
        match self.width {
            0 => row.encoded = self.encoded(&entry, length)?,
            _ => row.features = self.features(&entry)?,
        }
        Ok(row)
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
        if self.format == Format::Text {
            return Ok(self.window(entry, length));
        }
        let changed = || self.changed(entry);
        if let Some(example) = self.held(entry) {
            return self.encode(example).map_err(|_| changed());
        }
        let bytes = self.read(entry)?;
        let line = std::str::from_utf8(&bytes).map_err(|_| changed())?;
        let example = self.record(line).map_err(|_| changed())?;
        let encoded = self.encode(&example).map_err(|_| changed())?;
        if encoded.ids.len() == length { Ok(encoded) } else { Err(changed()) }
    }

    /// The example, where it is in memory.
    fn held(&self, entry: &Entry) -> Option<&Example> {
        let Source::Memory(examples) = &self.source else { return None };
        examples.get(usize::try_from(entry.offset).ok()?)
    }

    fn features(&self, entry: &Entry) -> Result<Vec<f32>, FileError> {
        if let Some(example) = self.held(entry) {
            return Ok(example.values().to_vec());
        }
        let bytes = self.read(entry)?;
        let mut row = csv::ByteRecord::new();
        let is_row = scan::csv_reader(bytes.as_slice()).read_byte_record(&mut row).unwrap_or(false);
        match record::from_csv(&row) {
            Ok(Example::Features { values, .. }) if is_row && values.len() == self.width => {
                Ok(values)
            }
            _ => Err(self.changed(entry)),
        }
    }

    pub(super) fn record(&self, line: &str) -> Result<Example, String> {
        match self.format {
            Format::Tsv => record::from_tsv(line),
            _ => record::from_json(line, self.task),
        }
    }

    fn read(&self, entry: &Entry) -> Result<Vec<u8>, FileError> {
        let Source::File(file) = &self.source else { return Ok(Vec::new()) };
        let mut bytes = vec![0; entry.bytes as usize];
        // A reader that panicked left no state behind but the position, which is set here.
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
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

    fn changed(&self, entry: &Entry) -> FileError {
        let reason = "the file has changed since it was opened; start the run again";
        FileError::format(&self.path, self.place(entry.line.into()), reason)
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
    use crate::train::data::{DataOptions, Tokenize};

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
    fn threads_read_what_one_reads_and_report_the_same_error() {
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
