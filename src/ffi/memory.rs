//! Checks on the pointers of a call, before any of them is followed: null, alignment, length,
//! overlap. And the few places where a checked pointer and its length become a slice.

use core::ffi::{c_char, c_void};

use super::failure::Refusal;

/// A stretch of memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub(super) start: usize,
    pub(super) bytes: usize,
}

impl Span {
    pub(super) fn of<T>(slice: &[T]) -> Self {
        Self { start: slice.as_ptr().addr(), bytes: size_of_val(slice) }
    }

    /// Do they share a byte? Both ends are inside the address space.
    pub(super) fn meets(self, other: Self) -> bool {
        self.bytes > 0
            && other.bytes > 0
            && self.start < other.start + other.bytes
            && other.start < self.start + self.bytes
    }
}

/// A pointer argument: where, how much, what for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Region {
    span: Span,
    alignment: usize,
    /// Counted from 1.
    argument: u32,
    is_written: bool,
    may_be_null: bool,
}

impl Region {
    /// `count` values that the call reads.
    pub(super) fn reads<T>(pointer: *const T, count: usize, argument: u32) -> Self {
        // A length that overflows becomes one that no memory has.
        let span = Span { start: pointer.addr(), bytes: count.saturating_mul(size_of::<T>()) };
        Self { span, alignment: align_of::<T>(), argument, is_written: false, may_be_null: false }
    }

    /// `count` values that the call writes.
    pub(super) fn writes<T>(pointer: *mut T, count: usize, argument: u32) -> Self {
        Self { is_written: true, ..Self::reads(pointer.cast_const(), count, argument) }
    }

    /// `bytes` of memory that the call reads, on a boundary of `alignment`.
    pub(super) fn bytes(
        pointer: *const c_void,
        bytes: usize,
        alignment: usize,
        argument: u32,
    ) -> Self {
        Self { alignment, ..Self::reads(pointer.cast::<u8>(), bytes, argument) }
    }

    /// `bytes` of memory that the call writes, on a boundary of `alignment`.
    pub(super) fn memory(
        pointer: *mut c_void,
        bytes: usize,
        alignment: usize,
        argument: u32,
    ) -> Self {
        Self { alignment, ..Self::writes(pointer.cast::<u8>(), bytes, argument) }
    }

    /// The argument may be null, and is then left out.
    pub(super) fn optional(self) -> Self {
        if self.span.start == 0 {
            Self { span: Span { start: 0, bytes: 0 }, may_be_null: true, ..self }
        } else {
            self
        }
    }

    fn check(&self) -> Result<(), Refusal> {
        let (argument, Span { start, bytes }, alignment) =
            (self.argument, self.span, self.alignment);
        if start == 0 {
            return if self.may_be_null || bytes == 0 {
                Ok(())
            } else {
                Err(Refusal::NullPointer { argument })
            };
        }
        if start % alignment != 0 && bytes > 0 {
            return Err(Refusal::MisalignedPointer { argument, alignment });
        }
        let fits = bytes <= isize::MAX as usize && start.checked_add(bytes).is_some();
        if fits { Ok(()) } else { Err(Refusal::TooLong { argument }) }
    }

    /// Refuses two of which one would be written through the other.
    fn apart(&self, other: &Self) -> Result<(), Refusal> {
        if (self.is_written || other.is_written) && self.span.meets(other.span) {
            return Err(Refusal::Overlap { first: self.argument, second: other.argument });
        }
        Ok(())
    }

    /// Refuses an argument that lies in `used`, memory of the object in argument `owner`. Objects
    /// write to their memory; archives are only read, so reading from them is allowed
    /// (`is_written` says which it is).
    pub(super) fn clear_of(&self, used: Span, is_written: bool, owner: u32) -> Result<(), Refusal> {
        let used =
            Self { span: used, alignment: 1, argument: owner, is_written, may_be_null: true };
        self.apart(&used)
    }
}

/// Every argument alone, then each against each.
pub(super) fn check(regions: &[Region]) -> Result<(), Refusal> {
    regions.iter().try_for_each(Region::check)?;
    for (i, region) in regions.iter().enumerate() {
        regions.iter().skip(i + 1).try_for_each(|other| region.apart(other))?;
    }
    Ok(())
}

/// The pointer to an error: usable, and apart from all that can be compared with it.
pub(super) fn check_error_pointer(error: &Region, regions: &[Region]) -> Result<(), Refusal> {
    error.check()?;
    regions
        .iter()
        .filter(|region| region.check().is_ok())
        .try_for_each(|region| error.apart(region))
}

/// `count` values.
///
/// # Safety
/// A region with this pointer and count was checked, and the caller of the C function vouches for
/// the memory.
pub(super) unsafe fn slice<'a, T>(pointer: *const T, count: usize) -> &'a [T] {
    // SAFETY: not null if count is not 0, aligned, inside the address space; valid by the caller's
    // promise.
    if count == 0 { &[] } else { unsafe { core::slice::from_raw_parts(pointer, count) } }
}

/// `count` bytes to write.
///
/// # Safety
/// As [`slice`]; nothing else uses the memory during the call.
pub(super) unsafe fn bytes_mut<'a>(pointer: *mut c_char, count: usize) -> &'a mut [u8] {
    if count == 0 {
        &mut []
    } else {
        // SAFETY: as in `slice`; regions of a call do not overlap.
        unsafe { core::slice::from_raw_parts_mut(pointer.cast(), count) }
    }
}
