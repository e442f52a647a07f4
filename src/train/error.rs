//! What goes wrong in training; a full sentence each.

use std::fmt;

use crate::error::Error;
use crate::file::FileError;
use crate::text::TextError;

/// An error of a training run.
#[derive(Debug)]
#[non_exhaustive]
pub enum TrainError {
    /// An option that cannot be, or that does not fit the model.
    Options(String),
    /// Gradients or the loss are not finite any more, or the loss has exploded.
    Diverged {
        /// The optimizer step, from 1.
        step: u64,
        /// The loss of that step.
        loss: f64,
    },
    /// More memory would be needed than is allowed.
    Memory {
        /// Bytes the run would take.
        need: u64,
        /// Bytes it may take.
        limit: u64,
    },
    /// The loss of an evaluation is not a number.
    NotANumber,
    /// What the core says.
    Core(Error),
    /// What is wrong with a file.
    File(FileError),
    /// What is wrong with a text.
    Text(TextError),
}

impl TrainError {
    pub(crate) fn options(message: impl Into<String>) -> Self {
        Self::Options(message.into())
    }
}

impl fmt::Display for TrainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Options(message) => f.write_str(message),
            Self::Diverged { step, loss } => write!(
                f,
                "training diverged at step {step} (loss {loss}): the last good adapter was kept; try a smaller learning rate or clipping"
            ),
            Self::Memory { need, limit } => write!(
                f,
                "the run would take {need} bytes, {limit} are allowed; a smaller batch or length, checkpointing or the 8-bit optimizer take less"
            ),
            Self::NotANumber => {
                f.write_str("the loss is not a number: the weights are damaged, run verify")
            }
            Self::Core(error) => error.fmt(f),
            Self::File(error) => error.fmt(f),
            Self::Text(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for TrainError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Core(error) => Some(error),
            Self::File(error) => Some(error),
            Self::Text(error) => Some(error),
            _ => None,
        }
    }
}

impl From<Error> for TrainError {
    fn from(error: Error) -> Self {
        Self::Core(error)
    }
}

impl From<FileError> for TrainError {
    fn from(error: FileError) -> Self {
        Self::File(error)
    }
}

impl From<TextError> for TrainError {
    fn from(error: TextError) -> Self {
        Self::Text(error)
    }
}
