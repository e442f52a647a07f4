//! Opening: bytecheck's proof of structure behind the header's checks, and `verify`, which reads
//! every byte.
//!
//! What a root's fields mean is checked by the root's owner (`model`, `adapter`).

use rkyv::Portable;
use rkyv::api::low::LowValidator;
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Failure;
use xxhash_rust::xxh64::Xxh64;

use crate::error::{Error, Result, RootKind};
use crate::header::{HEADER_LEN, Header};

/// Reads the whole archive and compares its checksum.
///
/// # Errors
/// [`Error::Checksum`], or those of [`Header::parse`].
pub fn verify(archive: &[u8]) -> Result<Header> {
    let header = Header::parse(archive)?;
    let mut hash = Xxh64::new(0);
    hash.update(&archive[HEADER_LEN..]);
    let computed = header.finish_checksum(hash);
    if computed != header.checksum {
        return Err(Error::Checksum { stored: header.checksum, computed });
    }
    Ok(header)
}

/// The validated root of an archive of one of these kinds.
pub(crate) fn open_root<'a, T>(archive: &'a [u8], kinds: &[RootKind]) -> Result<(Header, &'a T)>
where
    T: Portable + for<'v> CheckBytes<LowValidator<'v, Failure>>,
{
    let header = Header::parse(archive)?;
    if !kinds.contains(&header.root) {
        return Err(Error::WrongRoot { found: header.root, expected: kinds[0] });
    }
    let payload = &archive[HEADER_LEN..];
    if payload.len() < size_of::<T>() {
        return Err(Error::Invalid);
    }
    let root = rkyv::api::low::access::<T, Failure>(payload).map_err(|_| Error::Invalid)?;
    Ok((header, root))
}

/// The root of an archive that [`open_root`] accepted before.
///
/// # Safety
/// `open_root::<T>` must have succeeded on the same, unchanged bytes.
#[cfg(feature = "std")]
pub(crate) unsafe fn trusted<T: Portable>(archive: &[u8]) -> &T {
    // SAFETY: the caller's promise; bytes that were validated and have not changed are valid.
    unsafe { rkyv::access_unchecked(&archive[HEADER_LEN..]) }
}

/// Refuses the first value that is not finite.
pub(crate) fn check_finite(site: u32, values: &[f32]) -> Result<()> {
    match values.iter().position(|value| !value.is_finite()) {
        Some(index) => Err(Error::NotFinite { site, index: index as u64 }),
        None => Ok(()),
    }
}
