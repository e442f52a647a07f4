//! A base of whatever family, opened from its archive.

use super::body::Network;
use super::trainer::sealed::Sealed;
use crate::archive::Header;
use crate::error::{Error, Result, RootKind};
use crate::model::bert::Bert;
use crate::model::llama::Llama;

/// An opened base of any family that can be trained.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum AnyBase<'a> {
    /// A decoder.
    Llama(Llama<'a>),
    /// An encoder.
    Bert(Bert<'a>),
}

impl<'a> AnyBase<'a> {
    /// Opens an archive by the kind of its root.
    ///
    /// # Errors
    /// Those of the family's `open`; [`Error::WrongRoot`] if it is no base.
    pub fn open(archive: &'a [u8]) -> Result<Self> {
        match Header::parse(archive)?.root {
            RootKind::LLAMA => Ok(Self::Llama(Llama::open(archive)?)),
            RootKind::BERT => Ok(Self::Bert(Bert::open(archive)?)),
            found => Err(Error::WrongRoot { found, expected: RootKind::LLAMA }),
        }
    }
}

impl<'a> Sealed<'a> for AnyBase<'a> {
    #[allow(private_interfaces, reason = "sealed")]
    fn network(self, checkpointing: bool) -> Box<dyn Network + Send + Sync + 'a> {
        match self {
            Self::Llama(model) => model.network(checkpointing),
            Self::Bert(model) => model.network(checkpointing),
        }
    }
}
