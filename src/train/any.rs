//! A base of whatever family, opened from its archive.

use super::body::Network;
use super::data::ModelInput;
use super::trainer::sealed::Sealed;
use crate::archive::Header;
use crate::error::{Error, Result, RootKind};
use crate::model::bert::Bert;
use crate::model::llama::Llama;
use crate::model::lstm::Lstm;
use crate::model::mlp::Mlp;

/// An opened base of any family that can be trained.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum AnyBase<'a> {
    /// A decoder.
    Llama(Llama<'a>),
    /// An encoder.
    Bert(Bert<'a>),
    /// A recurrent model.
    Lstm(Lstm<'a>),
    /// Linear layers.
    Mlp(Mlp<'a>),
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
            RootKind::LSTM => Ok(Self::Lstm(Lstm::open(archive)?)),
            RootKind::MLP => Ok(Self::Mlp(Mlp::open(archive)?)),
            found => Err(Error::WrongRoot { found, expected: RootKind::LLAMA }),
        }
    }

    /// What it takes in.
    pub fn input(&self) -> ModelInput {
        Sealed::network(*self, false).borders().input()
    }

    /// The label names that the base itself knows; none if it has no classifier of its own.
    pub fn labels(&self) -> Vec<String> {
        match self {
            Self::Llama(_) | Self::Bert(_) => Vec::new(),
            Self::Lstm(model) => model.labels().map(String::from).collect(),
            Self::Mlp(model) => model.labels().map(String::from).collect(),
        }
    }
}

impl<'a> Sealed<'a> for AnyBase<'a> {
    #[allow(private_interfaces, reason = "sealed")]
    fn network(self, checkpointing: bool) -> Box<dyn Network + Send + Sync + 'a> {
        match self {
            Self::Llama(model) => model.network(checkpointing),
            Self::Bert(model) => model.network(checkpointing),
            Self::Lstm(model) => model.network(checkpointing),
            Self::Mlp(model) => model.network(checkpointing),
        }
    }
}
