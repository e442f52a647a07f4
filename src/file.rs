//! Files: the error that names them, and writing that leaves a whole file or none. `std` only.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

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

impl std::error::Error for FileError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.reason {
            Reason::Io(error) => Some(error),
            Reason::Core(error) => Some(error),
            Reason::Format(_) => None,
        }
    }
}

/// Writes `path` through `fill`, under a temporary name in the same directory; synced and renamed
/// only if `fill` succeeds.
///
/// What a writer that was killed left beside it goes with the next success: a temporary file is
/// locked as long as its writer lives.
///
/// # Errors
/// What `fill` returned, or an I/O error; then no file of that name appears and an existing one
/// stays as it was.
pub fn write_whole<T>(
    path: &Path,
    fill: impl FnOnce(&mut File) -> Result<T, FileError>,
) -> Result<T, FileError> {
    let io = |error| FileError::io(path, error);
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut temporary = locked(directory).map_err(io)?;
    let value = fill(temporary.as_file_mut())?;
    temporary.as_file_mut().flush().map_err(io)?;
    temporary.as_file().sync_all().map_err(io)?;
    make_readable(temporary.as_file()).map_err(io)?;
    temporary.persist(path).map_err(|error| FileError::io(path, error.error))?;
    remove_abandoned(directory);
    Ok(value)
}

/// Around the six random characters of a temporary file's name.
const PREFIX: &str = ".lowrank-";
const SUFFIX: &str = ".part";

/// A temporary file in `directory`, locked where the file system has locks.
fn locked(directory: &Path) -> io::Result<NamedTempFile> {
    loop {
        let temporary =
            tempfile::Builder::new().prefix(PREFIX).suffix(SUFFIX).tempfile_in(directory)?;
        match temporary.as_file().lock() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Somebody may have taken it for abandoned before it was locked.
            Ok(()) if !temporary.path().exists() => {}
            _ => return Ok(temporary),
        }
    }
}

/// Removes the temporary files in `directory` that nobody has locked. What cannot be removed stays:
/// the work is done.
fn remove_abandoned(directory: &Path) {
    let is_ours = |name: &str| {
        name.len() == PREFIX.len() + 6 + SUFFIX.len()
            && name.starts_with(PREFIX)
            && name.ends_with(SUFFIX)
    };
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().to_str().is_some_and(is_ours)) {
        if entry.file_type().is_ok_and(|kind| kind.is_file())
            && let Ok(file) = File::options().write(true).open(entry.path())
            && file.try_lock().is_ok()
        {
            let _ = std::fs::remove_file(entry.path());
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_writer_left_goes_and_nothing_else_does() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        for name in [
            ".lowrank-aB3xYz.part",
            ".lowrank-aB3xYz",
            ".lowrank-notes.part",
            "lowrank-aB3xYz.part",
        ] {
            std::fs::write(file(name), "left").unwrap();
        }
        std::fs::create_dir(file(".lowrank-aaaaaa.part")).unwrap();
        let target = file("whole");
        let names = || {
            let names = std::fs::read_dir(folder.path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap());
            std::collections::BTreeSet::from_iter(names)
        };
        // One that fails changes nothing, and one inside another keeps what the other is writing.
        let before = names();
        let failed: Result<(), _> =
            write_whole(&target, |_| Err(FileError::format(&target, "", "no")));
        assert!(failed.is_err() && names() == before);
        write_whole(&target, |outer| {
            write_whole(&file("inner"), |inner| {
                inner.write_all(b"inner").map_err(|error| FileError::io("inner", error))
            })?;
            assert!(!file(".lowrank-aB3xYz.part").exists());
            outer.write_all(b"outer").map_err(|error| FileError::io("outer", error))
        })
        .unwrap();
        assert_eq!(
            (std::fs::read(&target).unwrap(), std::fs::read(file("inner")).unwrap()),
            (b"outer".to_vec(), b"inner".to_vec())
        );
        let left = [
            ".lowrank-aB3xYz",
            ".lowrank-aaaaaa.part",
            ".lowrank-notes.part",
            "inner",
            "lowrank-aB3xYz.part",
            "whole",
        ];
        assert_eq!(names(), left.map(String::from).into());
    }
}
