//! Opening archives for commands: every error names the file.

use std::path::{Path, PathBuf};

use lowrank::RootKind;
use lowrank::adapter::Adapter;
use lowrank::archive::{ArchiveFile, Header};
use lowrank::file::FileError;
use lowrank::model::llama::Llama;

/// A mapped archive with its path.
#[derive(Debug)]
pub(crate) struct File {
    pub(crate) path: PathBuf,
    pub(crate) map: ArchiveFile,
}

impl File {
    pub(crate) fn open(path: impl AsRef<Path>) -> Result<Self, FileError> {
        let path = path.as_ref().to_owned();
        Ok(Self { map: ArchiveFile::open(&path)?, path })
    }

    pub(crate) fn root(&self) -> Result<RootKind, FileError> {
        self.wrap(Header::parse(&self.map)).map(|header| header.root)
    }

    pub(crate) fn base(&self) -> Result<Llama<'_>, FileError> {
        self.wrap(Llama::open(&self.map))
    }

    pub(crate) fn adapter(&self) -> Result<Adapter<'_>, FileError> {
        self.wrap(Adapter::open(&self.map))
    }

    /// Adds the file's name to an error of the core.
    pub(crate) fn wrap<T>(&self, result: lowrank::Result<T>) -> Result<T, FileError> {
        result.map_err(|error| FileError::core(&self.path, "", error))
    }
}
