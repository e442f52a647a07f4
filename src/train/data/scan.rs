//! The one pass over a file that checks and indexes it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use crate::file::{FileError, LINE, Lines, open};

use super::record::{self, Record};
use super::tokenize::Encoded;
use super::{Dataset, Entry, Format, Task};

/// A text file is encoded in pieces of at least this many bytes that end with a line.
const PIECE: usize = 1 << 16;

/// The most bytes of a line of a text file: whole books come without an end of line.
const TEXT_LINE: usize = 1 << 28;

impl Format {
    /// By the extension, if it serves the task.
    pub(super) fn of(path: &Path, task: Task) -> Result<Self, FileError> {
        let extension = path
            .extension()
            .and_then(|extension| extension.to_str())
            .unwrap_or_default()
            .to_ascii_lowercase();
        match (extension.as_str(), task) {
            ("txt", Task::LanguageModel) => Ok(Self::Text),
            ("jsonl", _) => Ok(Self::JsonLines),
            ("tsv", Task::Classify) => Ok(Self::Tsv),
            ("csv", Task::Classify) => Ok(Self::Csv),
            (other, Task::LanguageModel) => Err(FileError::format(
                path,
                "",
                format!("a language model learns from .txt or .jsonl, not from {other:?}"),
            )),
            (other, Task::Classify) => Err(FileError::format(
                path,
                "",
                format!("a classifier learns from .tsv, .jsonl or .csv, not from {other:?}"),
            )),
        }
    }
}

/// Rows as they come, also of unequal lengths, so that the error is ours.
pub(super) fn csv_reader<R: Read>(reader: R) -> csv::Reader<R> {
    csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(reader)
}

/// Counts the ends of lines in front of rows: a CSV reader takes them with the row behind.
struct Blanks {
    reader: BufReader<File>,
    at: u64,
}

impl Blanks {
    /// Ends of lines from byte `start` on, up to anything else. `start` only grows.
    fn from(&mut self, start: u64) -> io::Result<u64> {
        self.reader
            .seek_relative(i64::try_from(start.saturating_sub(self.at)).unwrap_or(i64::MAX))?;
        self.at = start;
        let mut lines = 0;
        loop {
            let buffer = self.reader.fill_buf()?;
            let blank = buffer.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            lines += buffer[..blank].iter().filter(|byte| **byte == b'\n').count() as u64;
            let is_over = blank < buffer.len() || buffer.is_empty();
            self.reader.consume(blank);
            self.at += blank as u64;
            if is_over {
                return Ok(lines);
            }
        }
    }
}

/// Names and their indices in the order of their first appearance.
#[derive(Default)]
struct Names {
    indices: HashMap<String, u32>,
    names: Vec<String>,
    are_given: bool,
}

impl Names {
    fn given(names: &[String]) -> Self {
        Self {
            indices: names.iter().cloned().zip(0..).collect(),
            names: names.to_vec(),
            are_given: true,
        }
    }

    fn index(&mut self, name: &str) -> Result<u32, String> {
        if let Some(&index) = self.indices.get(name) {
            return Ok(index);
        }
        if self.are_given {
            let known: Vec<&str> = self.names.iter().take(20).map(String::as_str).collect();
            let more = if self.names.len() > 20 { ", …" } else { "" };
            return Err(format!(
                "label {name:?} is not one of the training data's {}: {}{more}",
                self.names.len(),
                known.join(", ")
            ));
        }
        let index = u32::try_from(self.names.len()).map_err(|_| "too many labels")?;
        self.indices.insert(name.to_owned(), index);
        self.names.push(name.to_owned());
        Ok(index)
    }

    /// The names in order, and for each old index the new one.
    fn sorted(self) -> (Vec<String>, Vec<u32>) {
        if self.are_given {
            let same = (0..).take(self.names.len()).collect();
            return (self.names, same);
        }
        let mut order: Vec<u32> = (0..).take(self.names.len()).collect();
        let numbers: Option<Vec<i64>> = self.names.iter().map(|name| name.parse().ok()).collect();
        let name = |i: &u32| self.names[*i as usize].as_str();
        match &numbers {
            Some(numbers) => order.sort_by_key(|i| (numbers[*i as usize], name(i))),
            None => order.sort_by_key(name),
        }
        let mut new = vec![0; order.len()];
        order.iter().zip(0..).for_each(|(&old, index)| new[old as usize] = index);
        (order.iter().map(|i| name(i).to_owned()).collect(), new)
    }
}

/// A line with its place.
struct Line<'l> {
    text: &'l str,
    offset: u64,
    number: u64,
}

impl Dataset<'_> {
    /// Fills the index.
    pub(super) fn scan(&mut self) -> Result<(), FileError> {
        let mut names = self.options.labels.as_deref().map(Names::given).unwrap_or_default();
        match self.format {
            Format::Text => self.scan_text()?,
            Format::JsonLines | Format::Tsv => self.scan_records(&mut names)?,
            Format::Csv => self.scan_csv(&mut names)?,
        }
        if self.entries.is_empty() {
            return Err(self.wrong(match self.skipped {
                0 => "the file holds no example".into(),
                skipped => format!("nothing is scored in any of its {skipped} records: prompts fill the longest sequence"),
            }));
        }
        if u32::try_from(self.entries.len()).is_err() {
            return Err(self.wrong("the file has more than 2^32 examples"));
        }
        if self.task == Task::Classify {
            let (labels, new) = names.sorted();
            self.entries.iter_mut().for_each(|entry| entry.class = new[entry.class as usize]);
            self.labels = labels;
            if let [only] = &self.labels[..] {
                return Err(self.wrong(format!(
                    "every example has the label {only:?}: a classifier needs two"
                )));
            }
        }
        Ok(())
    }

    fn scan_records(&mut self, names: &mut Names) -> Result<(), FileError> {
        let Some(encoder) = self.encoder() else { return Ok(()) };
        self.each_line(|dataset, line| {
            if line.text.trim().is_empty() {
                return Ok(());
            }
            let record = dataset.record(line.text)?;
            if dataset.format == Format::Tsv && line.number == 1 && record.label() == Some("label")
            {
                return Ok(());
            }
            let class = record.label().map_or(Ok(0), |label| names.index(label))?;
            let encoded = encoder.encode(&record)?;
            dataset.truncated += usize::from(encoded.was_cut);
            if dataset.task == Task::LanguageModel && !encoded.scored.contains(&true) {
                dataset.skipped += 1;
                return Ok(());
            }
            let bytes =
                u32::try_from(line.text.len()).map_err(|_| "the line is longer than 4 GiB")?;
            dataset.push(line.offset, bytes, line.number, class, encoded.ids.len());
            Ok(())
        })
    }

    fn scan_text(&mut self) -> Result<(), FileError> {
        let Some(encoder) = self.encoder() else { return Ok(()) };
        let mut piece = String::new();
        let mut tokens = Vec::new();
        self.each_line(|_, line| {
            piece.push_str(line.text);
            if piece.len() >= PIECE {
                tokens.extend(encoder.ids(&piece)?);
                piece.clear();
            }
            Ok(())
        })?;
        tokens.extend(encoder.ids(&piece).map_err(|reason| self.wrong(reason))?);
        if tokens.is_empty() {
            return Ok(());
        }
        tokens.extend(encoder.tokenizer.end());
        let begin = usize::from(encoder.tokenizer.begin().is_some());
        // At least one token of the text fits beside the one that begins a sequence.
        let window = self.options.max_length - begin;
        let mut offset = 0;
        for part in tokens.chunks(window) {
            if begin + part.len() >= 2 {
                self.push(offset, 0, 1, 0, begin + part.len());
            }
            offset += part.len() as u64;
        }
        self.tokens = tokens;
        self.tokens.shrink_to_fit();
        Ok(())
    }

    /// The tokens of a window of a text file.
    pub(super) fn window(&self, entry: &Entry, length: usize) -> Encoded {
        let begin = self.tokenizer.and_then(|tokenizer| tokenizer.begin());
        let start = usize::try_from(entry.offset).unwrap_or(usize::MAX);
        let text = self.tokens.get(start..).unwrap_or_default().iter().copied();
        let ids: Vec<u32> = begin.into_iter().chain(text).take(length).collect();
        let scored = vec![true; ids.len()];
        Encoded { ids, scored, was_cut: false }
    }

    fn scan_csv(&mut self, names: &mut Names) -> Result<(), FileError> {
        let mut reader = csv_reader(BufReader::new(self.reopened()?));
        let mut blanks = Blanks { reader: BufReader::new(self.reopened()?), at: 0 };
        let mut row = csv::ByteRecord::new();
        let (mut first, mut columns) = (true, 0);
        loop {
            let (start, line) = (reader.position().byte(), reader.position().line());
            if !reader
                .read_byte_record(&mut row)
                .map_err(|error| FileError::io(&self.path, error.into()))?
            {
                return Ok(());
            }
            let line =
                line + blanks.from(start).map_err(|error| FileError::io(&self.path, error))?;
            let is_first = std::mem::replace(&mut first, false);
            if is_first {
                columns = row.len();
            }
            if is_first && record::is_header(&row) {
                continue;
            }
            let checked = self.csv_row(&row, columns, names);
            let (values, class) = checked
                .map_err(|reason| FileError::format(&self.path, format!("line {line}"), reason))?;
            self.width = values;
            let bytes = u32::try_from(reader.position().byte().saturating_sub(start));
            let bytes = bytes.map_err(|_| {
                FileError::format(
                    &self.path,
                    format!("line {line}"),
                    "the row is longer than 4 GiB",
                )
            })?;
            self.push(start, bytes, line, class, 1);
        }
    }

    /// Features and class of a row.
    fn csv_row(
        &self,
        row: &csv::ByteRecord,
        columns: usize,
        names: &mut Names,
    ) -> Result<(usize, u32), String> {
        if row.len() != columns {
            return Err(format!("{} columns, the first row has {columns}", row.len()));
        }
        match record::from_csv(row)? {
            Record::Features { values, label } => Ok((values.len(), names.index(&label)?)),
            _ => Err("a row of features was expected".into()),
        }
    }

    fn push(&mut self, offset: u64, bytes: u32, line: u64, class: u32, rows: usize) {
        self.entries.push(Entry {
            offset,
            bytes,
            line: u32::try_from(line).unwrap_or(u32::MAX),
            class,
        });
        // The longest sequence bounds it.
        self.lengths.push(u32::try_from(rows).unwrap_or(u32::MAX));
    }

    /// Calls `each` with every line, which is UTF-8; records without the line's end, text with it.
    fn each_line(
        &mut self,
        mut each: impl FnMut(&mut Self, Line<'_>) -> Result<(), String>,
    ) -> Result<(), FileError> {
        let most = if self.format == Format::Text { TEXT_LINE } else { LINE };
        let mut lines = Lines::new(BufReader::new(self.reopened()?), most);
        let (mut bytes, mut offset, mut number) = (Vec::new(), 0u64, 0u64);
        loop {
            let read = lines.next(&mut bytes).map_err(|error| match error.kind() {
                io::ErrorKind::InvalidData => {
                    FileError::format(&self.path, format!("line {}", number + 1), error.to_string())
                }
                _ => FileError::io(&self.path, error),
            })?;
            if read == 0 {
                return Ok(());
            }
            number += 1;
            let mark = if number == 1 && bytes.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
            let text = std::str::from_utf8(&bytes[mark..]).map_err(|error| {
                let byte = mark + error.valid_up_to();
                let reason =
                    format!("not UTF-8: byte {} of the line is 0x{:02x}", byte + 1, bytes[byte]);
                FileError::format(&self.path, format!("line {number}"), reason)
            })?;
            let text = if self.format == Format::Text {
                text
            } else {
                text.trim_end_matches(['\n', '\r'])
            };
            if let Err(reason) = each(self, Line { text, offset: offset + mark as u64, number }) {
                return Err(FileError::format(&self.path, format!("line {number}"), reason));
            }
            offset += read as u64;
        }
    }

    /// The file from its beginning.
    fn reopened(&self) -> Result<File, FileError> {
        open(&self.path)
    }
}
