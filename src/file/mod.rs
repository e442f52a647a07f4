//! Files: the error that names them, and the two doors that all of them come and go through. `std`
//! only.
//!
//! `source` opens what is read: regular files, of bounded length where they are read as a whole.
//! `output` opens what is written, and refuses what would destroy something; `folder` does the
//! same for folders; `kind`, `links` and `same` tell what is there. `replace` writes whole files or
//! none, `space` knows what the machine has left.

mod folder;
mod kind;
mod links;
mod output;
mod replace;
mod same;
mod source;
pub(crate) mod space;

use std::fmt;
use std::io;
use std::path::PathBuf;

pub use self::folder::{FolderKind, OutputFolder, ToFolder};
pub use self::kind::Kind;
pub use self::output::{Output, ToOutput, write_whole};
pub(crate) use self::source::too_long;
pub use self::source::{LINE, Lines, open, read, read_text};
use crate::error::Error;

/// An error at the border to files and foreign formats: which file, where in it, what is wrong.
#[derive(Debug)]
pub struct FileError {
    /// The file or directory.
    pub path: PathBuf,
    /// The key, tensor or line inside it; empty if the file as a whole is meant.
    pub place: String,
    /// What is wrong.
    pub reason: Reason,
}

/// What is wrong with a file.
#[derive(Debug)]
#[non_exhaustive]
pub enum Reason {
    /// The operating system refused.
    Io(io::Error),
    /// The core refused.
    Core(Error),
    /// The format is wrong or not supported; a full sentence with the numbers.
    Format(String),
}

impl FileError {
    /// The format of `path` is wrong at `place`.
    pub fn format(
        path: impl Into<PathBuf>,
        place: impl Into<String>,
        reason: impl Into<String>,
    ) -> Self {
        Self { path: path.into(), place: place.into(), reason: Reason::Format(reason.into()) }
    }

    /// The operating system refused something about `path`.
    pub fn io(path: impl Into<PathBuf>, error: io::Error) -> Self {
        Self { path: path.into(), place: String::new(), reason: Reason::Io(error) }
    }

    /// The core refused what `path` holds at `place`.
    pub fn core(path: impl Into<PathBuf>, place: impl Into<String>, error: Error) -> Self {
        Self { path: path.into(), place: place.into(), reason: Reason::Core(error) }
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.path.display())?;
        if !self.place.is_empty() {
            write!(f, "{}: ", self.place)?;
        }
        match &self.reason {
            Reason::Io(error) => error.fmt(f),
            Reason::Core(error) => error.fmt(f),
            Reason::Format(text) => f.write_str(text),
        }
    }
}

/// Without a source: the sentence has it in it already, and [`reason`](FileError::reason) is it.
impl std::error::Error for FileError {}
