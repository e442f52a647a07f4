//! Where the examples of a data set are, and how they are spelled there.

use std::fs::File;
use std::path::Path;
use std::sync::Mutex;

use super::{Example, Task};
use crate::file::FileError;

/// What kind of file it is, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Text,
    JsonLines,
    Tsv,
    Csv,
    Examples { are: Kind },
}

/// What examples in memory are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text, at least some of them.
    Text,
    Tokens,
    Features,
}

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

    pub(super) fn is_file(self) -> bool {
        !matches!(self, Self::Examples { .. })
    }

    pub(super) fn is_of_numbers(self) -> bool {
        matches!(self, Self::Csv | Self::Examples { are: Kind::Features })
    }
}

/// Where examples come from.
pub(super) enum Source {
    File(Mutex<File>),
    Memory(Vec<Example>),
}

/// Where an example is and what is known about it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    /// The first byte in the file; in a text file the first of the kept tokens; in memory the
    /// example's index.
    pub(super) offset: u64,
    /// Bytes in the file.
    pub(super) bytes: u32,
    /// From 1.
    pub(super) line: u32,
    /// Its label; 0 without one.
    pub(super) class: u32,
}
