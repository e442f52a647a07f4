//! The archive (`.lrk`): a 128-byte header and one rkyv payload that is used in place.
//!
//! | bytes | field |
//! |---|---|
//! | 0–8 | magic `LOWRANK\0` |
//! | 8–12 | format version |
//! | 12–16 | root kind ([`RootKind`](crate::RootKind)) |
//! | 16–24 | payload length |
//! | 24–32 | checksum (XXH64) of the payload followed by the header with this field zero |
//! | 32–48 | fingerprint of the content |
//! | 48–56 | content version, counted by the owner of the file |
//! | 56–128 | reserved, zero |
//!
//! All numbers are little-endian. Opening ([`Header::parse`] and the root's own `open`) proves
//! structure and memory safety in a time that depends on the number of tensors, not on their size;
//! [`verify`] reads everything. Files must not change while they are open: replace them by rename.

#[cfg(feature = "std")]
#[allow(unsafe_code)]
mod file;
#[cfg(feature = "alloc")]
mod fingerprint;
#[allow(unsafe_code)]
mod line;
#[allow(unsafe_code)]
mod open;
pub mod schema;
#[cfg(feature = "alloc")]
mod write;

#[cfg(feature = "std")]
pub(crate) use crate::tensor::line::bytes_of;
pub(crate) use crate::tensor::line::{floats, halves, signed};
#[cfg(feature = "std")]
pub(crate) use file::map;
#[cfg(feature = "std")]
pub use file::{ArchiveFile, write_file};
#[cfg(feature = "alloc")]
pub use fingerprint::Hasher;
pub use line::{Line, Lines};
#[cfg(feature = "std")]
pub(crate) use open::trusted;
pub use open::verify;
pub(crate) use open::{check_finite, open_root};
#[cfg(feature = "alloc")]
pub use write::{Buffer, Output, Root, to_buffer, write};

pub use crate::header::{FORMAT_VERSION, Fingerprint, HEADER_LEN, Header};

/// Includes an archive in the program, aligned as [`open`](Header::parse) wants it; evaluates to a
/// `&'static [u8]`.
///
/// ```ignore
/// static BASE: &[u8] = lowrank::include_archive!("base.lrk");
/// ```
#[macro_export]
macro_rules! include_archive {
    ($path:expr) => {{
        #[repr(C, align(64))]
        struct Aligned<T: ?Sized>(T);
        static ALIGNED: &Aligned<[u8]> = &Aligned(*include_bytes!($path));
        &ALIGNED.0
    }};
}

// The payload's format depends on rkyv features, which any crate in the build could switch. These
// sizes would change with them.
const _: () =
    assert!(size_of::<rkyv::primitive::FixedUsize>() == 8, "lowrank needs rkyv's pointer_width_64");
const _: () =
    assert!(align_of::<rkyv::Archived<u64>>() == 8, "lowrank needs rkyv's aligned primitives");
#[cfg(target_endian = "big")]
compile_error!("lowrank reads archives in place and supports little-endian targets only");
