//! What a file is that nothing here reads, told from its first bytes: said instead of "not valid
//! JSON" or "the magic number is missing". `std` only.

use std::path::Path;

use crate::file::{self, FileError};

/// How files begin that are never what was asked for, and what to do about them.
const KINDS: [(&[u8], &str); 9] = [
    (
        b"version https://git-lfs.github.com/spec/",
        "this is a Git LFS pointer, not the file itself: fetch it with \"git lfs pull\", or download it",
    ),
    (
        b"version https://hawser.github.com/spec/",
        "this is a Git LFS pointer, not the file itself: fetch it with \"git lfs pull\", or download it",
    ),
    (b"PK\x03\x04", PICKLE),
    (b"\x80\x02", PICKLE),
    (b"\x80\x03", PICKLE),
    (b"\x80\x04", PICKLE),
    (b"<!DOCTYPE", PAGE),
    (b"<!doctype", PAGE),
    (b"<html", PAGE),
];

const PICKLE: &str = "this is a pickle or a zip archive, as torch.save writes it; pickles are not read, because \
                      they can run code: convert it to safetensors";

const PAGE: &str = "this is a web page, not the file itself: download it again";

/// What a file that begins with `bytes` is, if it is something that no reader here reads.
pub(crate) fn kind(bytes: &[u8]) -> Option<&'static str> {
    // The length of a header may look like the start of anything.
    if is_safetensors(bytes) {
        return None;
    }
    KINDS.iter().find(|(start, _)| bytes.starts_with(start)).map(|(_, what)| *what)
}

/// Is it a safetensors file: the length of its header in eight bytes, then the header, JSON?
pub(crate) fn is_safetensors(bytes: &[u8]) -> bool {
    bytes.get(4..9) == Some(b"\0\0\0\0{")
}

/// Refuses the file at `path` if its bytes say that it is something else.
///
/// # Errors
/// A [`FileError`] that says what it is and what to do.
pub(crate) fn refuse(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    kind(bytes).map_or(Ok(()), |what| Err(FileError::format(path, "", what)))
}

/// Reads the file at `path`, unless it is something else.
///
/// # Errors
/// An I/O error, or as [`refuse`].
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    let bytes = file::read(path)?;
    refuse(path, &bytes)?;
    Ok(bytes)
}

/// As [`read`], of text in UTF-8.
///
/// # Errors
/// Those of [`read`]; one for bytes that are not text.
pub(crate) fn read_text(path: &Path) -> Result<String, FileError> {
    let text = String::from_utf8(read(path)?);
    text.map_err(|_| FileError::format(path, "", "not valid UTF-8"))
}
