//! Reading rows of a bounded length: a file without an end of line fills no memory.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

use crate::file::too_long;

/// The longest line or row of a data file that holds records, in bytes: 16 MiB.
pub const LONGEST_LINE: usize = crate::file::LINE;

/// The longest line of a `.txt` file, in bytes: 256 MiB, as whole books come without an end of line.
pub const LONGEST_TEXT_LINE: usize = 256 << 20;

/// A file of which a CSV reader gets no more than the row may have.
pub(super) struct BoundedRows {
    file: File,
    read: u64,
    most: u64,
}

impl BoundedRows {
    pub(super) fn new(file: File) -> Self {
        Self { file, read: 0, most: LONGEST_LINE as u64 }
    }

    /// A row begins at byte `start`.
    pub(super) fn begin(&mut self, start: u64) {
        self.most = start.saturating_add(LONGEST_LINE as u64);
    }
}

impl Read for BoundedRows {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // Readers fetch whole buffers, so what they have may be a little more than was asked for.
        if self.read > self.most {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, too_long("row", LONGEST_LINE)));
        }
        let read = self.file.read(buffer)?;
        self.read += read as u64;
        Ok(read)
    }
}

/// Counts the ends of lines in front of rows: a CSV reader takes them with the row behind.
pub(super) struct Blanks {
    reader: BufReader<File>,
    at: u64,
}

impl Blanks {
    pub(super) fn new(file: File) -> Self {
        Self { reader: BufReader::new(file), at: 0 }
    }

    /// Ends of lines from byte `start` on, up to anything else. `start` only grows.
    pub(super) fn from(&mut self, start: u64) -> io::Result<u64> {
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
