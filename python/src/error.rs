//! Errors of the library as Python's exceptions, by kind. The classes are in `lowrank/_errors.py`.

use std::convert::Infallible;

use lowrank::engine::{Busy, ReplyError};
use lowrank::file::{FileError, Reason};
use lowrank::text::TextError;
use lowrank::train::TrainError;
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use pyo3::{CastError, PyErr};

/// The classes, as Python has them.
mod classes {
    #![allow(missing_docs, reason = "documented where they are defined, in Python")]
    pyo3::import_exception!(lowrank._errors, BusyError);
    pyo3::import_exception!(lowrank._errors, DivergedError);
    pyo3::import_exception!(lowrank._errors, FormatError);
    pyo3::import_exception!(lowrank._errors, InputError);
    pyo3::import_exception!(lowrank._errors, OtherBaseError);
    pyo3::import_exception!(lowrank._errors, OutOfMemoryError);
}
use classes::{
    BusyError, DivergedError, FormatError, InputError, OtherBaseError, OutOfMemoryError,
};

/// An exception that is about to be raised.
#[derive(Debug)]
pub(crate) struct Fault(PyErr);

/// What functions of this crate return.
pub(crate) type Outcome<T> = Result<T, Fault>;

impl Fault {
    /// An argument cannot be.
    pub(crate) fn input(message: impl Into<String>) -> Self {
        Self(InputError::new_err(message.into()))
    }

    /// Something is not what it should be.
    pub(crate) fn format(message: impl Into<String>) -> Self {
        Self(FormatError::new_err(message.into()))
    }

    /// An object is closed, or was used for something else.
    pub(crate) fn busy(message: impl Into<String>) -> Self {
        Self(BusyError::new_err(message.into()))
    }

    /// A result is not a number.
    pub(crate) fn not_finite(message: impl Into<String>) -> Self {
        Self(DivergedError::new_err(message.into()))
    }

    /// Says in which row of a batch it is, from 0 as Python counts.
    pub(crate) fn in_row(self, row: usize) -> Self {
        self.said_of(&format!("prompt {row}"))
    }

    /// The same exception, of which it is said what it is about.
    pub(crate) fn said_of(self, what: &str) -> Self {
        Python::attach(|py| {
            let (class, text) = (self.0.get_type(py), self.0.value(py).to_string());
            let made = class.call1((format!("{what}: {text}"),));
            Self(made.map_or_else(|error| error, PyErr::from_value))
        })
    }

    /// More memory would be needed than there is, or than is allowed.
    pub(crate) fn memory(message: impl Into<String>) -> Self {
        Self(OutOfMemoryError::new_err(message.into()))
    }
}

impl From<Fault> for PyErr {
    fn from(fault: Fault) -> Self {
        fault.0
    }
}

impl From<PyErr> for Fault {
    fn from(error: PyErr) -> Self {
        Self(error)
    }
}

impl From<CastError<'_, '_>> for Fault {
    fn from(error: CastError<'_, '_>) -> Self {
        Self(error.into())
    }
}

impl From<Infallible> for Fault {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// The exception for an error of the core, with the sentence that the caller has made of it.
fn of_core(error: lowrank::Error, sentence: String) -> Fault {
    use lowrank::Error as E;
    match error {
        E::OtherBase { .. } => Fault(OtherBaseError::new_err(sentence)),
        E::WorkspaceTooSmall { .. } => Fault::memory(sentence),
        E::NotFinite { .. } | E::BadLogits { .. } | E::CacheOverflow { .. } => {
            Fault::not_finite(sentence)
        }
        E::Misaligned { .. }
        | E::Truncated { .. }
        | E::NotAnArchive
        | E::FormatVersion { .. }
        | E::WrongRoot { .. }
        | E::Reserved { .. }
        | E::Invalid
        | E::Checksum { .. }
        | E::Content { .. }
        | E::Shape { .. }
        | E::UnknownSite { .. }
        | E::PayloadLength { .. }
        | E::Format { .. } => Fault::format(sentence),
        _ => Fault::input(sentence),
    }
}

impl From<lowrank::Error> for Fault {
    fn from(error: lowrank::Error) -> Self {
        of_core(error, error.to_string())
    }
}

impl From<FileError> for Fault {
    fn from(error: FileError) -> Self {
        match &error.reason {
            Reason::Io(io) => match io.raw_os_error() {
                // Python chooses the class by the number: FileNotFoundError, PermissionError …
                Some(number) => {
                    let text = io.to_string();
                    let text = text.split(" (os error").next().unwrap_or_default().to_owned();
                    Self(PyOSError::new_err((number, text, error.path.into_os_string())))
                }
                None => Self(PyOSError::new_err(error.to_string())),
            },
            Reason::Core(core) => of_core(*core, error.to_string()),
            _ => Self::format(error.to_string()),
        }
    }
}

impl From<TextError> for Fault {
    fn from(error: TextError) -> Self {
        Self::input(error.to_string())
    }
}

impl From<ReplyError> for Fault {
    fn from(error: ReplyError) -> Self {
        match error {
            ReplyError::Session(error) => error.into(),
            error => Self::input(error.to_string()),
        }
    }
}

impl From<Busy> for Fault {
    fn from(error: Busy) -> Self {
        Self::busy(error.to_string())
    }
}

impl From<TrainError> for Fault {
    fn from(error: TrainError) -> Self {
        match error {
            TrainError::Core(error) => error.into(),
            TrainError::File(error) => error.into(),
            TrainError::Text(error) => error.into(),
            TrainError::Memory { .. } => Self::memory(error.to_string()),
            TrainError::Diverged { .. } | TrainError::NotANumber | TrainError::Value { .. } => {
                Self::not_finite(error.to_string())
            }
            error => Self::input(error.to_string()),
        }
    }
}
