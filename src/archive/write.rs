//! Writing: a root goes through rkyv to an output in one pass; the header follows when length and
//! checksum are known.
//!
//! Needs `alloc`. Memory: the borrowed parts and rkyv's bookkeeping, no copy of the payload.

use alloc::vec::Vec;

use rkyv::Serialize;
use rkyv::api::high::HighSerializer;
use rkyv::rancor::Failure;
use rkyv::ser::allocator::Arena;
use rkyv::ser::{Positional, Serializer, Writer};
use xxhash_rust::xxh64::Xxh64;

use super::fingerprint::Hasher;
use super::line::Line;
use super::{HEADER_LEN, Header};
use crate::error::{Error, Result, RootKind};

/// Where an archive is written to.
pub trait Output {
    /// Appends bytes.
    ///
    /// # Errors
    /// Any error stops the writing.
    fn append(&mut self, bytes: &[u8]) -> Result<()>;

    /// Overwrites the first [`HEADER_LEN`] bytes.
    ///
    /// # Errors
    /// Any error stops the writing.
    fn set_header(&mut self, header: &[u8; HEADER_LEN]) -> Result<()>;
}

/// Something that can be the root of an archive.
pub trait Root:
    for<'s, 'o> Serialize<HighSerializer<Hashed<'o>, rkyv::ser::allocator::ArenaHandle<'s>, Failure>>
{
    /// Its number in the header.
    fn kind(&self) -> RootKind;
    /// Feeds what the archive means, independent of layout and platform.
    fn hash(&self, hasher: &mut Hasher);
}

/// Writes `root` as an archive; returns its header.
///
/// # Errors
/// [`Error::Write`], or what the output returned.
pub fn write<R: Root>(root: &R, content_version: u64, output: &mut dyn Output) -> Result<Header> {
    output.append(&[0; HEADER_LEN])?;
    let mut hasher = Hasher::new(root.kind());
    root.hash(&mut hasher);
    let Hashed { output, hash, position, .. } = serialize(root, output)?;
    let mut header = Header {
        root: root.kind(),
        payload: position as u64,
        checksum: 0,
        fingerprint: hasher.finish(),
        content_version,
    };
    header.checksum = header.finish_checksum(hash);
    output.set_header(&header.to_bytes())?;
    Ok(header)
}

/// The payload, without header.
fn serialize<'o, R: Root>(root: &R, output: &'o mut dyn Output) -> Result<Hashed<'o>> {
    let mut arena = Arena::new();
    let hashed = Hashed { output, hash: Xxh64::new(0), position: 0, error: Error::Write };
    let mut serializer = Serializer::new(hashed, arena.acquire(), rkyv::ser::sharing::Share::new());
    let outcome = rkyv::api::serialize_using::<_, Failure>(root, &mut serializer);
    let hashed = serializer.into_writer();
    outcome.map_err(|_| hashed.error)?;
    Ok(hashed)
}

/// An output that rkyv can write to: keeps position and checksum, and the first error.
#[allow(missing_debug_implementations, reason = "only rkyv sees it")]
pub struct Hashed<'o> {
    output: &'o mut dyn Output,
    hash: Xxh64,
    position: usize,
    error: Error,
}

impl Positional for Hashed<'_> {
    fn pos(&self) -> usize {
        self.position
    }
}

impl Writer<Failure> for Hashed<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.output.append(bytes).map_err(|error| {
            self.error = error;
            Failure
        })?;
        self.hash.update(bytes);
        self.position += bytes.len();
        Ok(())
    }
}

/// An archive in memory, aligned as opening wants it.
#[derive(Debug, Clone, Default)]
pub struct Buffer {
    lines: Vec<Line>,
    len: usize,
}

impl core::ops::Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<&[u8]> for Buffer {
    fn from(bytes: &[u8]) -> Self {
        let mut buffer = Self::default();
        buffer.extend(bytes);
        buffer
    }
}

impl Buffer {
    fn extend(&mut self, bytes: &[u8]) {
        let end = self.len + bytes.len();
        self.lines.resize(end.div_ceil(size_of::<Line>()), Line::ZERO);
        bytemuck::cast_slice_mut(&mut self.lines)[self.len..end].copy_from_slice(bytes);
        self.len = end;
    }
}

impl Output for Buffer {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.extend(bytes);
        Ok(())
    }

    fn set_header(&mut self, header: &[u8; HEADER_LEN]) -> Result<()> {
        bytemuck::cast_slice_mut(&mut self.lines)[..HEADER_LEN].copy_from_slice(header);
        Ok(())
    }
}

/// Writes `root` into memory.
///
/// # Errors
/// As [`write()`].
pub fn to_buffer<R: Root>(root: &R, content_version: u64) -> Result<Buffer> {
    // A first pass counts: a buffer that grew on the way would for a moment hold an archive twice.
    let mut count = Count(0);
    serialize(root, &mut count)?;
    let mut buffer = Buffer::default();
    buffer.lines.reserve_exact((HEADER_LEN + count.0).div_ceil(size_of::<Line>()));
    write(root, content_version, &mut buffer)?;
    Ok(buffer)
}

/// An output that only counts.
struct Count(usize);

impl Output for Count {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.0 += bytes.len();
        Ok(())
    }

    fn set_header(&mut self, _: &[u8; HEADER_LEN]) -> Result<()> {
        Ok(())
    }
}
