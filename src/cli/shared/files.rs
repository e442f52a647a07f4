//! Opening archives for commands: every error names the file.

use std::path::{Path, PathBuf};

use lowrank::RootKind;
use lowrank::adapter::Adapter;
use lowrank::archive::{ArchiveFile, Header};
use lowrank::file::FileError;
use lowrank::model::AnyBase;
use lowrank::model::bert::Bert;
use lowrank::model::llama::Llama;
use lowrank::text::Tokenizer;

use crate::Failure;

/// An archive in memory with its path.
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

    /// A copy in memory instead of a map.
    pub(crate) fn load(path: impl AsRef<Path>) -> Result<Self, FileError> {
        let path = path.as_ref().to_owned();
        Ok(Self { map: ArchiveFile::load(&path)?, path })
    }

    pub(crate) fn root(&self) -> Result<RootKind, FileError> {
        self.wrap(Header::parse(&self.map)).map(|header| header.root)
    }

    pub(crate) fn base(&self) -> Result<Llama<'_>, FileError> {
        self.wrap(Llama::open(&self.map))
    }

    pub(crate) fn encoder(&self) -> Result<Bert<'_>, FileError> {
        self.wrap(Bert::open(&self.map))
    }

    /// The base, of whatever family.
    pub(crate) fn any_base(&self) -> Result<AnyBase<'_>, FileError> {
        self.wrap(AnyBase::open(&self.map))
    }

    /// The base, of a family that PEFT knows.
    pub(crate) fn peft_base(&self) -> Result<AnyBase<'_>, FileError> {
        match self.any_base()? {
            base @ (AnyBase::Bert(_) | AnyBase::Llama(_)) => Ok(base),
            base => {
                let found = base.as_base().root();
                let reason = format!("{found}: PEFT's adapters are for decoders and encoders");
                Err(FileError::format(&self.path, "", reason))
            }
        }
    }

    /// The tokenizer of the base, of whatever family.
    pub(crate) fn text(&self) -> Result<Tokenizer, Failure> {
        let tokenizer = match self.any_base()? {
            AnyBase::Bert(model) => Tokenizer::for_encoder(&model),
            AnyBase::Lstm(model) => Tokenizer::for_lstm(&model),
            _ => Tokenizer::new(&self.base()?),
        };
        Ok(tokenizer.map_err(|error| format!("{}: {error}", self.path.display()))?)
    }

    pub(crate) fn adapter(&self) -> Result<Adapter<'_>, FileError> {
        self.wrap(Adapter::open(&self.map))
    }

    /// Adds the file's name to an error of the core.
    pub(crate) fn wrap<T>(&self, result: lowrank::Result<T>) -> Result<T, FileError> {
        result.map_err(|error| FileError::core(&self.path, "", error))
    }
}
