//! The first 128 bytes of an archive: what it is, how long, of which content. Nothing here looks
//! at the payload; `archive` opens it.

use core::fmt;

use xxhash_rust::xxh64::Xxh64;

use crate::error::{Error, Result, RootKind};

/// The alignment of an archive in memory, in bytes.
const ALIGN: usize = 64;
/// The length of the header, in bytes.
pub const HEADER_LEN: usize = 128;
/// The format version this build writes and reads.
pub const FORMAT_VERSION: u32 = 1;

/// What every archive begins with.
pub(crate) const MAGIC: [u8; 8] = *b"LOWRANK\0";
const CHECKSUM: core::ops::Range<usize> = 24..32;
const RESERVED: usize = 56;

/// A 128-bit hash of what an archive means: configuration, shapes, formats, codes and scales, in
/// bitsandbytes' order. Independent of layout, tokenizer and platform. An adapter names the
/// fingerprint of the base it was made for.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 16]);

impl Fingerprint {
    /// The first eight bytes, big-endian: what error messages show.
    pub fn short(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

/// The 128 bytes before the payload.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Header {
    /// What the payload's root is.
    pub root: RootKind,
    /// The payload's length in bytes.
    pub payload: u64,
    /// XXH64 of the payload followed by the header with this field zero.
    pub checksum: u64,
    /// The hash of the content.
    pub fingerprint: Fingerprint,
    /// Counted upwards by whoever publishes the file; the crate only carries it.
    pub content_version: u64,
}

impl Header {
    /// Reads and checks the header of a whole archive.
    ///
    /// # Errors
    /// [`Error::Misaligned`], [`Error::Truncated`], [`Error::NotAnArchive`],
    /// [`Error::FormatVersion`], [`Error::Reserved`].
    pub fn parse(archive: &[u8]) -> Result<Self> {
        let remainder = archive.as_ptr().addr() % ALIGN;
        let header = archive.first_chunk::<HEADER_LEN>();
        let header = header
            .ok_or(Error::Truncated { have: archive.len() as u64, need: HEADER_LEN as u64 })?;
        let u32_at = |at: usize| {
            u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        if header[..8] != MAGIC {
            return Err(Error::NotAnArchive);
        }
        if u32_at(8) != FORMAT_VERSION {
            return Err(Error::FormatVersion { found: u32_at(8), supported: FORMAT_VERSION });
        }
        if let Some(offset) = header[RESERVED..].iter().position(|&byte| byte != 0) {
            return Err(Error::Reserved { offset: RESERVED + offset });
        }
        let payload = u64_at(16);
        let (have, need) = (archive.len() as u64, payload.saturating_add(HEADER_LEN as u64));
        if have != need {
            return Err(Error::Truncated { have, need });
        }
        if remainder != 0 {
            return Err(Error::Misaligned { remainder });
        }
        let mut fingerprint = [0; 16];
        fingerprint.copy_from_slice(&header[32..48]);
        Ok(Self {
            root: RootKind(u32_at(12)),
            payload,
            checksum: u64_at(CHECKSUM.start),
            fingerprint: Fingerprint(fingerprint),
            content_version: u64_at(48),
        })
    }

    /// The header as it is stored.
    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.root.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.payload.to_le_bytes());
        bytes[CHECKSUM].copy_from_slice(&self.checksum.to_le_bytes());
        bytes[32..48].copy_from_slice(&self.fingerprint.0);
        bytes[48..56].copy_from_slice(&self.content_version.to_le_bytes());
        bytes
    }

    /// Completes a checksum that has seen the payload.
    pub(crate) fn finish_checksum(&self, mut payload: Xxh64) -> u64 {
        payload.update(&Self { checksum: 0, ..*self }.to_bytes());
        payload.digest()
    }
}
