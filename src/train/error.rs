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
    /// The loss has exploded, has fallen back to guessing, or is not a number any more.
    Diverged {
        /// The optimizer step, from 1.
        step: u64,
        /// The loss before, of the last good numbers.
        from: f64,
        /// The loss of that step; not a number if its gradient was not finite.
        loss: f64,
        /// The step whose numbers are kept; `None` if none was good but those it began with.
        kept: Option<u64>,
    },
    /// A batch has a class that the run has no label for.
    Class {
        /// The class, from 0.
        class: u32,
        /// The labels of the run.
        labels: usize,
    },
    /// A number to be trained is not finite.
    Value {
        /// The layer and the part of it that the number belongs to.
        place: String,
        /// The number's index in that part.
        index: usize,
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
    /// What the runtime says.
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

    /// Does it say that numbers have become infinite, or none at all?
    pub(crate) fn is_not_a_number(&self) -> bool {
        let of_core =
            |error: &Error| matches!(error, Error::NotFinite { .. } | Error::BadLogits { .. });
        match self {
            Self::NotANumber | Self::Value { .. } => true,
            Self::Core(error) => of_core(error),
            _ => false,
        }
    }
}

impl fmt::Display for TrainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Options(message) => f.write_str(message),
            Self::Diverged { step, from, loss, kept } => {
                write!(f, "training diverged at step {step}: the loss went from {from:.4} to ")?;
                match loss.is_finite() {
                    true => write!(f, "{loss:.4}")?,
                    false => write!(f, "what is not a number")?,
                }
                write!(f, "; try a smaller learning rate or clipping; ")?;
                match kept {
                    Some(kept) => write!(f, "the last good adapter, of step {kept}, was kept"),
                    None => f.write_str("no step had left a good adapter, so none was kept"),
                }
            }
            Self::Class { class, labels } => {
                write!(f, "a batch has class {class}, this run has {labels} labels (from 0)")
            }
            Self::Value { place, index } => {
                write!(f, "value {index} of {place} is not finite")
            }
            Self::Memory { need, limit } => write!(
                f,
                "the run would take {need} bytes, {limit} are allowed; a smaller batch or length, checkpointing or the 8-bit optimizer take less"
            ),
            Self::NotANumber => f.write_str(
                "the result is not a number: the weights are damaged (run verify), or an \
                     adapter's weight is far too large",
            ),
            Self::Core(error) => error.fmt(f),
            Self::File(error) => error.fmt(f),
            Self::Text(error) => error.fmt(f),
        }
    }
}

/// Without a source: the sentence has it in it already, and the variant holds it.
impl std::error::Error for TrainError {}

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
