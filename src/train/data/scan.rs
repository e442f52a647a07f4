//! The one pass over a file that checks and indexes it.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};

use crate::file::{FileError, LINE, Lines, open, too_long};

use super::example::Example;
use super::header;
use super::labels::Names;
use super::lines::{Blanks, BoundedRows, LONGEST_TEXT_LINE};
use super::record;
use super::tokenize::Encoded;
use super::{Dataset, Entry, Format, Source, Task};

/// A text file is encoded in pieces of at least this many bytes that end with a line.
const PIECE: usize = 1 << 16;

/// Rows as they come, also of unequal lengths, so that the error is ours.
pub(super) fn csv_reader<R: Read>(reader: R) -> csv::Reader<R> {
    csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(reader)
}

/// A line with its place.
struct Line<'l> {
    text: &'l str,
    offset: u64,
    number: u64,
}

/// What the first row of a table says, until it is known whether it names the columns.
struct First {
    line: u64,
    /// The text, or nothing in a row of features.
    text: String,
    features: Vec<f32>,
    was_cut: bool,
}

impl First {
    /// Is it a header, if `others` are the labels of the other rows?
    fn is_header<'l>(&self, label: &str, others: impl IntoIterator<Item = &'l str>) -> bool {
        match self.text.is_empty() {
            false => header::is_of_texts(&self.text, label, others),
            true => header::is_of_features(&self.features, label, others),
        }
    }
}

impl Dataset<'_> {
    /// Fills the index.
    pub(super) fn scan(&mut self) -> Result<(), FileError> {
        let mut names = self.options.labels.as_deref().map(Names::given).unwrap_or_default();
        let first = match self.format {
            Format::Text => self.scan_text().map(|()| None)?,
            Format::JsonLines | Format::Tsv => self.scan_records(&mut names)?,
            Format::Csv => self.scan_csv(&mut names)?,
            Format::Examples { .. } => self.scan_examples(&mut names).map(|()| None)?,
        };
        if let Some(first) = first {
            self.leave_out_header(&first, &mut names);
        }
        if self.entries.is_empty() {
            return Err(self.wrong(match self.skipped {
                0 if self.format.is_file() => "the file holds no example".into(),
                0 => "there is no example".into(),
                skipped => format!(
                    "nothing is scored in any of its {skipped} records: prompts fill the longest \
                     sequence"
                ),
            }));
        }
        if u32::try_from(self.entries.len()).is_err() {
            return Err(self.wrong("there are more than 2^32 examples"));
        }
        if self.options.completions_only && !self.has_prompts {
            return Err(self.wrong(
                "completions-only has no effect: no record has a prompt or messages, so that every \
                 token is scored; leave the option out",
            ));
        }
        if self.task == Task::Classify {
            let sorted = names.sorted();
            self.entries
                .iter_mut()
                .for_each(|entry| entry.class = sorted.new[entry.class as usize]);
            (self.labels, self.label_counts) = (sorted.names, sorted.counts);
            if let [only] = &self.labels[..] {
                return Err(self.wrong(format!(
                    "every example has the label {only:?}: a classifier needs two"
                )));
            }
        }
        self.check_positions()
    }

    /// Refuses sequences that are longer than the model.
    fn check_positions(&self) -> Result<(), FileError> {
        let Some(input) = self.options.input.filter(|input| input.features == 0) else {
            return Ok(());
        };
        let longer = |length: &u32| *length as usize > input.context;
        let Some(index) = self.lengths.iter().position(longer) else { return Ok(()) };
        let reason = format!(
            "{} tokens, the model has positions for {}: ask for a max-length of at most that",
            self.lengths[index], input.context
        );
        let place = self.place(self.entries[index].line.into());
        Err(FileError::format(&self.path, place, reason))
    }

    /// The first row of a table is no example if it names the columns and no other row has its
    /// label.
    fn leave_out_header(&mut self, first: &First, names: &mut Names) {
        let is_header =
            names.lonely_first().is_some_and(|label| first.is_header(label, names.all().skip(1)));
        if !is_header {
            return;
        }
        names.remove_first();
        self.entries.remove(0);
        self.lengths.remove(0);
        self.entries.iter_mut().for_each(|entry| entry.class -= 1);
        self.truncated -= usize::from(first.was_cut);
        self.header = Some(first.line);
    }

    fn scan_records(&mut self, names: &mut Names) -> Result<Option<First>, FileError> {
        let (mut first, mut is_first) = (None, true);
        self.each_line(|dataset, line| {
            if line.text.trim().is_empty() {
                return Ok(());
            }
            let example = dataset.record(line.text)?;
            example.check()?;
            if let Example::Labelled { text, .. } = &example
                && std::mem::replace(&mut is_first, false)
                && dataset.format == Format::Tsv
            {
                let row = First {
                    line: line.number,
                    text: text.clone(),
                    features: Vec::new(),
                    was_cut: false,
                };
                let label = example.label().unwrap_or_default();
                if names.is_foreign(label) && row.is_header(label, names.all()) {
                    dataset.header = Some(line.number);
                    return Ok(());
                }
                first = Some(row);
            }
            let was_cut = dataset.add(names, &example, &line)?;
            if let Some(first) = first.as_mut().filter(|first| first.line == line.number) {
                first.was_cut = was_cut;
            }
            Ok(())
        })?;
        Ok(first)
    }

    fn scan_examples(&mut self, names: &mut Names) -> Result<(), FileError> {
        let Source::Memory(examples) = &mut self.source else { return Ok(()) };
        let examples = std::mem::take(examples);
        self.width = examples.first().map_or(0, |example| example.values().len());
        for (number, example) in (1..).zip(&examples) {
            let line = Line { text: "", offset: number - 1, number };
            self.check_held(example)
                .and_then(|()| self.add(names, example, &line))
                .map_err(|reason| FileError::format(&self.path, self.place(number), reason))?;
        }
        self.source = Source::Memory(examples);
        Ok(())
    }

    /// Refuses an example in memory that the task, the model or the first one does not allow.
    fn check_held(&self, example: &Example) -> Result<(), String> {
        example.check()?;
        example.check_task(self.task)?;
        let width = example.values().len();
        if width != self.width {
            return Err(format!("{width} features, the first example has {}", self.width));
        }
        let Some(input) = self.options.input else { return Ok(()) };
        if width != input.features {
            return Err(format!("{width} features, the model reads {}", input.described()));
        }
        let unknown = |token: &&u32| **token as usize >= input.vocab;
        match example.tokens().unwrap_or_default().iter().find(unknown) {
            Some(token) => {
                Err(format!("token {token}, the model's vocabulary has {}", input.vocab))
            }
            None => Ok(()),
        }
    }

    /// Counts an example and puts it into the index; was it cut?
    fn add(&mut self, names: &mut Names, example: &Example, at: &Line<'_>) -> Result<bool, String> {
        self.has_prompts |= matches!(example, Example::Completion { .. } | Example::Chat(_));
        let class = example.label().map_or(Ok(0), |label| names.index(label))?;
        let encoded = self.encode(example)?;
        self.truncated += usize::from(encoded.was_cut);
        if self.task == Task::LanguageModel && !encoded.scored.contains(&true) {
            self.skipped += 1;
        } else {
            let rows = if self.width > 0 { 1 } else { encoded.ids.len() };
            self.push(at.offset, at.text.len(), at.number, class, rows);
        }
        Ok(encoded.was_cut)
    }

    /// The tokens of an example, at most the longest sequence; none of features.
    pub(super) fn encode(&self, example: &Example) -> Result<Encoded, String> {
        match (example.tokens(), self.encoder()) {
            (Some(ids), _) => {
                Ok(Encoded::new(ids.to_vec(), vec![true; ids.len()], self.options.max_length))
            }
            (None, Some(encoder)) => encoder.encode(example),
            (None, None) => Ok(Encoded::default()),
        }
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

    fn scan_csv(&mut self, names: &mut Names) -> Result<Option<First>, FileError> {
        let mut reader = csv_reader(BoundedRows::new(self.reopened()?));
        let mut blanks = Blanks::new(self.reopened()?);
        let mut row = csv::ByteRecord::new();
        let (mut first, mut columns) = (None, None);
        loop {
            let (start, line) = (reader.position().byte(), reader.position().line());
            let blank = blanks.from(start).map_err(|error| FileError::io(&self.path, error))?;
            let line = line + blank;
            reader.get_mut().begin(start);
            let wrong =
                |reason: String| FileError::format(&self.path, format!("line {line}"), reason);
            match reader.read_byte_record(&mut row).map_err(csv::Error::into_kind) {
                Ok(true) => {}
                Ok(false) => return Ok(first),
                Err(csv::ErrorKind::Io(error)) if error.kind() == ErrorKind::FileTooLarge => {
                    return Err(wrong(too_long("row", LINE)));
                }
                Err(csv::ErrorKind::Io(error)) => return Err(FileError::io(&self.path, error)),
                Err(_) => return Err(wrong("not CSV".into())),
            }
            let is_first = columns.is_none();
            let width = *columns.get_or_insert(row.len());
            if is_first && record::is_header(&row) {
                self.header = Some(line);
                continue;
            }
            let (features, label) = self.csv_row(&row, width).map_err(wrong)?;
            self.width = features.len();
            if is_first {
                let (text, was_cut) = (String::new(), false);
                let row = First { line, text, features, was_cut };
                if names.is_foreign(&label) && row.is_header(&label, names.all()) {
                    self.header = Some(line);
                    continue;
                }
                first = Some(row);
            }
            let class = names.index(&label).map_err(wrong)?;
            let bytes = reader.position().byte().saturating_sub(start);
            self.push(start, usize::try_from(bytes).unwrap_or(usize::MAX), line, class, 1);
        }
    }

    /// Features and label of a row.
    fn csv_row(&self, row: &csv::ByteRecord, columns: usize) -> Result<(Vec<f32>, String), String> {
        if row.len() != columns {
            return Err(format!("{} columns, the first row has {columns}", row.len()));
        }
        let Example::Features { values, label } = record::from_csv(row)? else {
            return Err("a row of features was expected".into());
        };
        match self.options.input {
            Some(input) if input.features != values.len() => Err(format!(
                "{columns} columns, {} features and the label were expected: the model reads {}",
                input.features,
                input.described()
            )),
            _ => Ok((values, label)),
        }
    }

    /// Lines and rows are bounded, so that their lengths fit.
    fn push(&mut self, offset: u64, bytes: usize, line: u64, class: u32, rows: usize) {
        let number = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        let (bytes, line) = (number(bytes as u64), number(line));
        self.entries.push(Entry { offset, bytes, line, class });
        // The longest sequence bounds it.
        self.lengths.push(number(rows as u64));
    }

    /// Calls `each` with every line, which is UTF-8; records without the line's end, text with it.
    fn each_line(
        &mut self,
        mut each: impl FnMut(&mut Self, Line<'_>) -> Result<(), String>,
    ) -> Result<(), FileError> {
        let most = if self.format == Format::Text { LONGEST_TEXT_LINE } else { LINE };
        let mut lines = Lines::new(BufReader::new(self.reopened()?), most);
        let (mut bytes, mut offset, mut number) = (Vec::new(), 0u64, 0u64);
        loop {
            number += 1;
            let read = lines.next(&mut bytes).map_err(|error| match error.kind() {
                ErrorKind::InvalidData => {
                    FileError::format(&self.path, format!("line {number}"), error.to_string())
                }
                _ => FileError::io(&self.path, error),
            })?;
            if read == 0 {
                return Ok(());
            }
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
            offset += bytes.len() as u64;
        }
    }

    /// The file from its beginning.
    fn reopened(&self) -> Result<File, FileError> {
        open(&self.path)
    }
}
