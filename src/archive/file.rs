//! Archives in files: mapped or loaded for reading, written whole or not at all. `std` only.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Deref;
use std::path::Path;

use super::write::{Buffer, Output, Root};
use super::{HEADER_LEN, Header};
use crate::error::{Error, Result};
use crate::file::{self, FileError, Kind, ToOutput};
use crate::foreign;

/// Maps the file at `path` for reading: the crate's one memory map.
pub(crate) fn map(path: &Path) -> Result<memmap2::Mmap, FileError> {
    let file = file::open(path)?;
    // SAFETY: the one promise this crate asks of its users: mapped files are not changed in place.
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|error| FileError::io(path, error))?;
    foreign::refuse(path, &map)?;
    Ok(map)
}

/// An archive file in memory, read-only: mapped, or a copy. Dereferences to its bytes,
/// page-aligned.
///
/// ```
/// use lowrank::archive::ArchiveFile;
/// use lowrank::model::llama::Llama;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let file = ArchiveFile::open("assets/tiny.lrk")?;
/// let model = Llama::open(&file)?; // checked, not copied
/// assert_eq!(model.config().vocab, 258);
/// # Ok(())
/// # }
/// ```
///
/// The file must not be changed while it is mapped: replace it by rename, as [`write_file`] does.
#[derive(Debug)]
pub struct ArchiveFile {
    map: memmap2::Mmap,
}

impl ArchiveFile {
    /// Maps the file at `path`. Its content is checked by whoever opens a root from it.
    ///
    /// # Errors
    /// An I/O error, or a file too short to have a header.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, FileError> {
        let path = path.as_ref();
        let map = map(path)?;
        Self::checked(path, map)
    }

    /// Copies the file at `path` into memory of the process, in large pages where the system has
    /// them (Linux, transparent huge pages). Decoding walks through all weights for every
    /// token; with small pages it waits for address translation too. The price: the
    /// file is read as a whole, and the copy is neither shared between processes nor given up when
    /// memory runs short.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn load(path: impl AsRef<Path>) -> Result<Self, FileError> {
        let path = path.as_ref();
        let io = |error| FileError::io(path, error);
        let mut file = file::open(path)?;
        let len = file.metadata().map_err(io)?.len();
        // What is no archive is not waited for, nor is memory for it.
        drop(Self::open(path)?);
        let len = usize::try_from(len).map_err(|_| io(std::io::ErrorKind::FileTooLarge.into()))?;
        // A map of nothing is refused by some systems; a header is checked for below.
        let mut memory = memmap2::MmapMut::map_anon(len.max(1)).map_err(io)?;
        #[cfg(target_os = "linux")]
        // A wish: a kernel without large pages refuses it, and small ones serve as well.
        let _ = memory.advise(memmap2::Advice::HugePage);
        file.read_exact(&mut memory[..len]).map_err(io)?;
        Self::checked(path, memory.make_read_only().map_err(io)?)
    }

    fn checked(path: &Path, map: memmap2::Mmap) -> Result<Self, FileError> {
        foreign::refuse(path, &map)?;
        Header::parse(&map).map_err(|error| FileError::core(path, "", error))?;
        Ok(Self { map })
    }
}

impl Buffer {
    /// Reads the file at `path` as a whole and checks it against its header, checksum included: for
    /// small archives, which may then be changed or copied over in place. Only the root is checked
    /// by whoever opens it.
    ///
    /// # Errors
    /// An I/O error, [`Error::Checksum`] or what [`Header::parse`] says, with the file's name.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, FileError> {
        let path = path.as_ref();
        let mut bytes = Vec::new();
        file::open(path)?.read_to_end(&mut bytes).map_err(|error| FileError::io(path, error))?;
        foreign::refuse(path, &bytes)?;
        let buffer = Self::from(&bytes[..]);
        super::verify(&buffer).map_err(|error| FileError::core(path, "", error))?;
        Ok(buffer)
    }
}

impl Deref for ArchiveFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

impl AsRef<[u8]> for ArchiveFile {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

/// Buffered output to a file that remembers the operating system's error.
#[derive(Debug)]
struct FileOutput<'a> {
    file: std::io::BufWriter<&'a mut File>,
    error: Option<std::io::Error>,
}

impl FileOutput<'_> {
    fn keep<T>(&mut self, result: std::io::Result<T>) -> Result<T> {
        result.map_err(|error| {
            self.error = Some(error);
            Error::Write
        })
    }
}

impl Output for FileOutput<'_> {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let result = self.file.write_all(bytes);
        self.keep(result)
    }

    fn set_header(&mut self, header: &[u8; HEADER_LEN]) -> Result<()> {
        let result = self
            .file
            .seek(SeekFrom::Start(0))
            .and_then(|_| self.file.write_all(header))
            .and_then(|()| self.file.flush());
        self.keep(result)
    }
}

/// Writes `root` to `output`, a path or an [`Output`](file::Output) that was tried: under a
/// temporary name, synced, then renamed.
///
/// # Errors
/// A path where something else than an archive of this kind is, see
/// [`Output::new`](file::Output::new); an I/O error that names the file. An existing file is then
/// untouched.
pub fn write_file<R: Root>(
    root: &R,
    content_version: u64,
    output: impl ToOutput,
) -> Result<Header, FileError> {
    let place = output.output(Kind::of_root(root.kind()), &[])?;
    place.write(|file| {
        let mut output =
            FileOutput { file: std::io::BufWriter::with_capacity(1 << 20, file), error: None };
        super::write(root, content_version, &mut output).map_err(|error| {
            match output.error.take() {
                Some(io) => FileError::io(place.path(), io),
                None => FileError::core(place.path(), "", error),
            }
        })
    })
}
