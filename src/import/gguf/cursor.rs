//! Reading little-endian numbers and strings from bytes, each read checked against what is left. No
//! file format of its own.

use std::path::Path;

use crate::file::FileError;

/// A position in a file's bytes, and the key or tensor being read there (for errors).
pub(super) struct Cursor<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    position: usize,
    place: String,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(path: &'a Path, bytes: &'a [u8]) -> Self {
        Self { path, bytes, position: 0, place: String::new() }
    }

    /// Errors from here on are about `place`.
    pub(super) fn at(&mut self, place: &str) {
        place.clone_into(&mut self.place);
    }

    /// An error about the current place.
    pub(super) fn error(&self, reason: impl Into<String>) -> FileError {
        FileError::format(self.path, self.place.as_str(), reason)
    }

    /// Do the bytes look like a safetensors file?
    pub(super) fn is_safetensors(&self) -> bool {
        crate::foreign::is_safetensors(self.bytes)
    }

    /// Bytes read so far.
    pub(super) fn position(&self) -> usize {
        self.position
    }

    /// Bytes left.
    pub(super) fn remaining(&self) -> usize {
        self.bytes.len() - self.position
    }

    /// The next `count` bytes.
    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], FileError> {
        let Some(bytes) = self.bytes[self.position..].get(..count) else {
            let (have, position) = (self.remaining(), self.position);
            return Err(self.error(format!(
                "{count} bytes expected at byte {position}, the file has {have} left"
            )));
        };
        self.position += count;
        Ok(bytes)
    }

    /// The next `N` bytes.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], FileError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(super) fn u32(&mut self) -> Result<u32, FileError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, FileError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A string's bytes, at most `most`.
    pub(super) fn string(&mut self, most: usize) -> Result<&'a [u8], FileError> {
        let length = self.u64()?;
        match usize::try_from(length) {
            Ok(length) if length <= most.min(self.remaining()) => self.take(length),
            _ => Err(self.error(format!(
                "a string of {length} bytes at byte {}, at most {} can be there",
                self.position,
                most.min(self.remaining())
            ))),
        }
    }

    /// A key or name; `what` says which.
    pub(super) fn name(&mut self, what: &str, most: usize) -> Result<String, FileError> {
        let after = std::mem::take(&mut self.place);
        self.place = if after.is_empty() { what.into() } else { format!("{what} after {after}") };
        let bytes = self.string(most)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| self.error("it is not UTF-8"))
    }
}
