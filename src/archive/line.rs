//! How slices of numbers are written into an archive: as whole [`Line`]s of 64 bytes, so that any
//! vector instruction can read them in place.
//!
//! rkyv aligns archived slices to their element type and pads at most 31 bytes, so the unit is a
//! type of its own and [`Lines`] writes the padding itself.

use bytemuck::Pod;
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Fallible;
use rkyv::ser::Writer;
use rkyv::vec::{ArchivedVec, VecResolver};
use rkyv::with::{ArchiveWith, SerializeWith};
use rkyv::{Place, Portable};

pub use crate::tensor::line::Line;

/// The alignment of payload slices, in bytes.
const ALIGN: usize = align_of::<Line>();

// SAFETY: bytes have the same layout on every target.
unsafe impl Portable for Line {}
// SAFETY: every bit pattern is valid.
unsafe impl<C: Fallible + ?Sized> CheckBytes<C> for Line {
    unsafe fn check_bytes(_: *const Self, _: &mut C) -> Result<(), C::Error> {
        Ok(())
    }
}

/// Archives a slice of plain numbers as whole [`Line`]s, zero-padded at the end.
#[derive(Debug)]
pub struct Lines;

impl<T: Pod> ArchiveWith<&[T]> for Lines {
    type Archived = ArchivedVec<Line>;
    type Resolver = VecResolver;

    fn resolve_with(field: &&[T], resolver: VecResolver, out: Place<Self::Archived>) {
        ArchivedVec::resolve_from_len(size_of_val(*field).div_ceil(ALIGN), resolver, out);
    }
}

impl<T: Pod, S: Fallible + Writer + ?Sized> SerializeWith<&[T], S> for Lines {
    fn serialize_with(field: &&[T], serializer: &mut S) -> Result<VecResolver, S::Error> {
        pad(serializer)?;
        let resolver = VecResolver::from_pos(serializer.pos());
        serializer.write(bytemuck::cast_slice(field))?;
        pad(serializer)?;
        Ok(resolver)
    }
}

fn pad<S: Fallible + Writer + ?Sized>(serializer: &mut S) -> Result<(), S::Error> {
    let missing = serializer.pos().next_multiple_of(ALIGN) - serializer.pos();
    serializer.write(&[0; ALIGN][..missing])
}
