//! What is read: regular files only. A pipe or a device has no end that could be known, and would
//! be waited for; a folder is no file. Whole files are read up to a bound, lines too.

use std::fs::{File, Metadata};
use std::io::{self, BufRead, Read};
use std::path::Path;

use super::FileError;

/// The most bytes of a file that is read as a whole: configurations, tokenizers, templates.
const WHOLE: u64 = 256 << 20;

/// The most bytes of a line that holds one record or one text.
pub const LINE: usize = 16 << 20;

/// Opens the regular file at `path` for reading.
///
/// # Errors
/// An I/O error; a folder, a pipe or a device.
pub fn open(path: impl AsRef<Path>) -> Result<File, FileError> {
    let path = path.as_ref();
    let io = |error| FileError::io(path, error);
    // Before it is opened: opening a pipe waits for somebody who writes into it.
    check(path, &path.metadata().map_err(io)?)?;
    let file = File::open(path).map_err(io)?;
    check(path, &file.metadata().map_err(io)?)?;
    Ok(file)
}

fn check(path: &Path, metadata: &Metadata) -> Result<(), FileError> {
    if metadata.is_file() {
        return Ok(());
    }
    let found = if metadata.is_dir() { "a folder" } else { special(metadata) };
    let reason = format!("this is {found}, a regular file was expected");
    Err(FileError::format(path, "", reason))
}

/// What something is that is neither file nor folder.
#[cfg(unix)]
pub(super) fn special(metadata: &Metadata) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    let kind = metadata.file_type();
    match () {
        () if kind.is_fifo() => "a pipe",
        () if kind.is_socket() => "a socket",
        () => "a device",
    }
}

#[cfg(not(unix))]
pub(super) fn special(_: &Metadata) -> &'static str {
    "a device"
}

/// The content of the file at `path`.
///
/// # Errors
/// As [`open`]; a file of more than 256 MiB.
pub fn read(path: impl AsRef<Path>) -> Result<Vec<u8>, FileError> {
    let path = path.as_ref();
    let mut bytes = Vec::new();
    // One byte more than is allowed: some files do not say how long they are.
    let mut file = open(path)?.take(WHOLE + 1);
    file.read_to_end(&mut bytes).map_err(|error| FileError::io(path, error))?;
    if bytes.len() as u64 > WHOLE {
        let reason = format!("the file has more than {WHOLE} bytes, too many for what it is");
        return Err(FileError::format(path, "", reason));
    }
    Ok(bytes)
}

/// The content of the UTF-8 file at `path`.
///
/// # Errors
/// As [`read`]; bytes that are not UTF-8.
pub fn read_text(path: impl AsRef<Path>) -> Result<String, FileError> {
    let path = path.as_ref();
    String::from_utf8(read(path)?).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        FileError::format(path, "", format!("not UTF-8 at byte {}", at + 1))
    })
}

/// What a line or row of more than `most` bytes gets.
pub(crate) fn too_long(what: &str, most: usize) -> String {
    let whole = match most >> 20 {
        0 => String::new(),
        mebibytes => format!(" ({mebibytes} MiB)"),
    };
    format!("the {what} is longer than {most} bytes{whole}, the most that one may have: divide it")
}

/// Lines of a reader, none longer than a bound.
#[derive(Debug)]
pub struct Lines<R> {
    reader: R,
    most: usize,
}

impl<R: BufRead> Lines<R> {
    /// Lines of at most `most` bytes, their ends included.
    pub fn new(reader: R, most: usize) -> Self {
        Self { reader, most }
    }

    /// Puts the next line with its end into `line`, in place of what was there; returns its bytes,
    /// 0 at the end.
    ///
    /// # Errors
    /// What the reader says; [`io::ErrorKind::InvalidData`] for a line that is too long.
    pub fn next(&mut self, line: &mut Vec<u8>) -> io::Result<usize> {
        line.clear();
        let bound = self.most as u64 + 1;
        let read = (&mut self.reader).take(bound).read_until(b'\n', line)?;
        if read > self.most {
            line.clear();
            return Err(io::Error::new(io::ErrorKind::InvalidData, too_long("line", self.most)));
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_bounded_and_its_neighbours_are_read() {
        let mut lines = Lines::new(&b"four\nfives\n\nend"[..], 5);
        let mut line = Vec::new();
        assert_eq!((lines.next(&mut line).unwrap(), &line[..]), (5, &b"four\n"[..]));
        let error = lines.next(&mut line).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the line is longer than 5 bytes, the most that one may have: divide it"
        );
        // An endless line without an end is given up after the bound.
        let mut endless = Lines::new(io::BufReader::new(io::repeat(0)), 1000);
        assert_eq!(endless.next(&mut line).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let mut last = Lines::new(&b"end"[..], 3);
        assert_eq!((last.next(&mut line).unwrap(), last.next(&mut line).unwrap()), (3, 0));
    }
}
