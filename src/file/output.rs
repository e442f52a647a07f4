//! The door that every output goes through, made before the work begins.
//!
//! An output that is one of the inputs is refused, and so is one whose place is taken by something
//! of another kind, unless it is forced. A link is followed and the file behind it replaced as a
//! whole; devices, pipes and standard output are written to, never replaced. What can be tried in
//! advance is: the folder is there, it can be written to, there is room.

use std::fs::{File, FileType, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::kind::{Kind, NPY, root};
use super::links::{Behind, behind_links};
use super::replace::{folder_of, replace, try_folder};
use super::source::special;
use super::{FileError, same, space};
use crate::header::{Fingerprint, HEADER_LEN};

/// A place to write to that has been tried.
#[derive(Debug, Clone)]
pub struct Output {
    /// As it was named.
    path: PathBuf,
    target: Target,
    is_forced: bool,
}

#[derive(Debug, Clone)]
enum Target {
    /// The file behind all links, there or not yet.
    File(PathBuf),
    /// Something that is written to as it goes.
    Stream(Arc<File>, IsStdout),
}

type IsStdout = bool;

impl Output {
    /// Tries the place `path` for something of this kind; `-` is standard output. `inputs` are the
    /// files and folders that are read for it. With `force` a file of another kind is replaced,
    /// and a disk is written to.
    ///
    /// # Errors
    /// The output is one of the inputs; something of another kind is there and `force` is not
    /// given; a folder is there, or the folder that it should be in is not; what the system says
    /// against writing there.
    pub fn new(
        path: impl AsRef<Path>,
        kind: Kind,
        inputs: &[&Path],
        force: bool,
    ) -> Result<Self, FileError> {
        let path = path.as_ref();
        let made =
            Self { path: path.to_owned(), target: Target::of(path, force)?, is_forced: force };
        made.refuse_inputs(inputs)?;
        let Target::File(real) = &made.target else { return Ok(made) };
        if real.exists() {
            // Also opened for writing: a file that this user may not change is not replaced.
            let mut options = OpenOptions::new();
            let file = options.read(!force).write(true).open(real);
            let file = file.map_err(|error| FileError::io(path, error))?;
            if !force {
                refuse_other(path, kind, file)?;
            }
        }
        let folder = folder_of(real);
        try_folder(folder).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => missing(path, folder),
            _ => FileError::io(path, plain(error)),
        })?;
        Ok(made)
    }

    /// As it was named.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// May it be written over something of another kind?
    pub fn is_forced(&self) -> bool {
        self.is_forced
    }

    /// Does it go to standard output? Then nothing else should.
    pub fn is_stdout(&self) -> bool {
        matches!(self.target, Target::Stream(_, true))
    }

    /// The path of a file that belongs to this one and is called `FILE.suffix`; `None` where
    /// nothing lies beside it: at a device, a pipe or standard output.
    pub fn beside(&self, suffix: &str) -> Option<PathBuf> {
        let Target::File(_) = &self.target else { return None };
        let mut name = self.path.file_name()?.to_os_string();
        name.push(".");
        name.push(suffix);
        Some(self.path.with_file_name(name))
    }

    /// Refuses the output if it is one of `inputs`, or in one of them that is a folder. Forcing
    /// does not help: what is read would be gone.
    ///
    /// # Errors
    /// Which input it is.
    pub fn refuse_inputs(&self, inputs: &[&Path]) -> Result<(), FileError> {
        let Target::File(real) = &self.target else { return Ok(()) };
        match same::find(real, inputs) {
            None => Ok(()),
            Some(input) => Err(FileError::format(
                &self.path,
                "",
                format!(
                    "the output is the input {} (or a part of it), which would be lost: \
                     name another file",
                    input.display()
                ),
            )),
        }
    }

    /// Refuses to replace the base with this fingerprint, which is what the output is made from.
    /// For whoever has the base in memory and does not know its file; forcing allows it.
    ///
    /// # Errors
    /// The base is there.
    pub fn refuse_base(&self, base: Fingerprint) -> Result<(), FileError> {
        let Target::File(real) = &self.target else { return Ok(()) };
        let Ok(file) = File::open(real) else { return Ok(()) };
        let mut head = Vec::new();
        let read = file.take(HEADER_LEN as u64).read_to_end(&mut head);
        let is_base = root(&head).is_some_and(|root| Kind::of_root(root) == Kind::Base);
        if read.is_err() || self.is_forced || !is_base || head.get(32..48) != Some(&base.0[..]) {
            return Ok(());
        }
        let reason = "the base that the work begins with is in this file, and would be lost: \
                      name another file";
        Err(FileError::format(&self.path, "", reason))
    }

    /// Refuses `bytes` where there is no room for them.
    ///
    /// # Errors
    /// Both numbers.
    pub fn check_room(&self, bytes: u64) -> Result<(), FileError> {
        match &self.target {
            Target::File(real) => space::check_disk(&self.path, folder_of(real), bytes),
            Target::Stream(..) => Ok(()),
        }
    }

    /// Writes it through `fill`. A file appears as a whole, under its name only if `fill` succeeds,
    /// synced; a stream gets its bytes then.
    ///
    /// # Errors
    /// What `fill` returned, or an I/O error; an existing file is then as it was.
    pub fn write<T>(
        &self,
        fill: impl FnOnce(&mut File) -> Result<T, FileError>,
    ) -> Result<T, FileError> {
        match &self.target {
            Target::File(real) => replace(&self.path, real, fill),
            Target::Stream(stream, is_stdout) => {
                let io = |error| FileError::io(&self.path, plain(error));
                // Writers go back to their headers, which streams cannot.
                let mut whole = tempfile::tempfile().map_err(io)?;
                let value = fill(&mut whole)?;
                whole.seek(SeekFrom::Start(0)).map_err(io)?;
                if *is_stdout {
                    io::stdout().flush().map_err(io)?;
                }
                io::copy(&mut whole, &mut &**stream).map_err(io)?;
                (&**stream).flush().map_err(io)?;
                Ok(value)
            }
        }
    }
}

/// The system's words without the temporary name that stands behind them.
fn plain(error: io::Error) -> io::Error {
    error.raw_os_error().map_or(error, io::Error::from_raw_os_error)
}

fn missing(path: &Path, folder: &Path) -> FileError {
    let reason = format!("there is no folder {}: make it first", folder.display());
    FileError::format(path, "", reason)
}

/// Refuses what is not of this kind.
fn refuse_other(path: &Path, kind: Kind, file: File) -> Result<(), FileError> {
    let mut head = Vec::new();
    file.take(HEADER_LEN as u64)
        .read_to_end(&mut head)
        .map_err(|error| FileError::io(path, error))?;
    if kind.matches(&head) {
        return Ok(());
    }
    let found = match root(&head) {
        Some(root) => root.to_string(),
        None if head.starts_with(NPY) => Kind::Npy.to_string(),
        None => format!("something that is not {kind}"),
    };
    let reason = format!(
        "the file holds {found}, and {kind} would be written over it: \
         name another file, or use --force"
    );
    Err(FileError::format(path, "", reason))
}

impl Target {
    fn of(path: &Path, force: bool) -> Result<Self, FileError> {
        let wrong = |reason: String| Err(FileError::format(path, "", reason));
        let io = |error| FileError::io(path, error);
        if path == Path::new("-") {
            return stdout().map_err(io);
        }
        if path.as_os_str().is_empty() {
            return wrong("the name of the output is empty".into());
        }
        let real = match behind_links(path).map_err(io)? {
            Behind::Descriptor(number) => return descriptor(path, number).map_err(io),
            Behind::Path(real) => real,
        };
        let metadata = match real.metadata() {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let folder = folder_of(&real);
                if !folder.exists() {
                    return Err(missing(path, folder));
                }
                if path.as_os_str().as_encoded_bytes().ends_with(b"/") {
                    return wrong("this names a folder, a file was expected".into());
                }
                return Ok(Self::File(real));
            }
            Err(error) => return Err(io(error)),
        };
        if metadata.is_file() {
            return Ok(Self::File(real.canonicalize().map_err(io)?));
        }
        if metadata.is_dir() {
            return wrong("this is a folder, a file was expected: name a file in it".into());
        }
        let (is_disk, is_socket) = disk_or_socket(metadata.file_type());
        if is_socket {
            return wrong(format!("this is {}, which cannot be written to", special(&metadata)));
        }
        if is_disk && !force {
            return wrong(
                "this is a disk, whose content would be lost: use --force if it is meant".into(),
            );
        }
        let stream = OpenOptions::new().write(true).open(&real).map_err(io)?;
        Ok(Self::Stream(Arc::new(stream), false))
    }
}

/// A file that this process has open, under its number.
fn descriptor(path: &Path, number: u32) -> io::Result<Target> {
    match number {
        1 => stdout(),
        // Behind what is there: the file's own position is not known here.
        _ => {
            let stream = OpenOptions::new().append(true).open(path)?;
            Ok(Target::Stream(Arc::new(stream), false))
        }
    }
}

#[cfg(unix)]
fn stdout() -> io::Result<Target> {
    use std::os::fd::AsFd;
    let stream = io::stdout().as_fd().try_clone_to_owned()?;
    Ok(Target::Stream(Arc::new(File::from(stream)), true))
}

#[cfg(windows)]
fn stdout() -> io::Result<Target> {
    use std::os::windows::io::AsHandle;
    let stream = io::stdout().as_handle().try_clone_to_owned()?;
    Ok(Target::Stream(Arc::new(File::from(stream)), true))
}

#[cfg(not(any(unix, windows)))]
fn stdout() -> io::Result<Target> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(unix)]
fn disk_or_socket(kind: FileType) -> (bool, bool) {
    use std::os::unix::fs::FileTypeExt;
    (kind.is_block_device(), kind.is_socket())
}

#[cfg(not(unix))]
fn disk_or_socket(_: FileType) -> (bool, bool) {
    (false, false)
}

/// What functions that write a file take: a path, which is then tried without force, or an
/// [`Output`] that was tried before.
pub trait ToOutput {
    /// The tried place for something of this kind that is made from `inputs`.
    ///
    /// # Errors
    /// As [`Output::new`].
    fn output(&self, kind: Kind, inputs: &[&Path]) -> Result<Output, FileError>;
}

impl<P: AsRef<Path> + ?Sized> ToOutput for P {
    fn output(&self, kind: Kind, inputs: &[&Path]) -> Result<Output, FileError> {
        Output::new(self, kind, inputs, false)
    }
}

impl ToOutput for &Output {
    fn output(&self, _: Kind, inputs: &[&Path]) -> Result<Output, FileError> {
        self.refuse_inputs(inputs)?;
        Ok((*self).clone())
    }
}

/// Writes `path` through `fill`, whatever is there: a file as a whole, a device, a pipe or `-` as
/// it goes.
///
/// # Errors
/// What `fill` returned, or why the place cannot be written to; an existing file is then as it was.
pub fn write_whole<T>(
    path: &Path,
    fill: impl FnOnce(&mut File) -> Result<T, FileError>,
) -> Result<T, FileError> {
    Output::new(path, Kind::Any, &[], false)?.write(fill)
}
