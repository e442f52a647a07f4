//! Files: the error that names them, and writing that leaves a whole file or none. `std` only.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

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
    pub fn format(path: impl Into<PathBuf>, place: impl Into<String>, reason: impl Into<String>) -> Self {
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

impl std::error::Error for FileError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.reason {
            Reason::Io(error) => Some(error),
            Reason::Core(error) => Some(error),
            Reason::Format(_) => None,
        }
    }
}

/// Writes `path` through `fill`, under a temporary name in the same directory; synced and renamed only if `fill` succeeds.
///
/// # Errors
/// What `fill` returned, or an I/O error; then no file of that name appears and an existing one stays as it was.
pub fn write_whole<T>(path: &Path, fill: impl FnOnce(&mut File) -> Result<T, FileError>) -> Result<T, FileError> {
    let io = |error| FileError::io(path, error);
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut temporary = tempfile::Builder::new().prefix(".lowrank-").tempfile_in(directory).map_err(io)?;
    let value = fill(temporary.as_file_mut())?;
    temporary.as_file_mut().flush().map_err(io)?;
    temporary.as_file().sync_all().map_err(io)?;
    make_readable(temporary.as_file()).map_err(io)?;
    temporary.persist(path).map_err(|error| FileError::io(path, error.error))?;
    Ok(value)
}

/// Temporary files are private; the finished one has the permissions of an ordinary file.
#[cfg(unix)]
fn make_readable(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn make_readable(_: &File) -> io::Result<()> {
    Ok(())
}
