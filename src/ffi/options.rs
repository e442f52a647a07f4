//! Structs of options, which begin with their size: so a program goes on working with libraries
//! that know more options than it does, or fewer.
//!
//! The C function that fills in the defaults is told the program's size of the struct, and writes
//! no more; the header wraps it into `lowrank_..._default()`, which returns the struct.

use super::failure::Refusal;
use super::memory::Region;

/// A struct of options.
///
/// # Safety
/// `repr(C)` without padding, begins with its size in a `usize`, and any bytes are a value of it.
/// New fields come at the end.
pub(super) unsafe trait Options: Copy {
    /// The bytes of its first version.
    const FIRST: usize;
    /// The defaults of what no version of a program knows yet.
    fn defaults() -> Self;
}

/// No version of a struct is as large.
const MOST: usize = 4096;

/// What a program says that its struct has; the size of a number where there is no struct.
fn size_of_program<T>(options: *const T) -> usize {
    if options.is_null() || !options.is_aligned() {
        return size_of::<usize>();
    }
    // SAFETY: the caller of the C function vouches for memory that is not null; the size is first.
    unsafe { options.cast::<usize>().read() }
}

/// Options in an argument.
pub(super) fn region<T: Options>(options: *const T, argument: u32) -> Region {
    let bytes = size_of_program(options).clamp(size_of::<usize>(), MOST);
    Region::bytes(options.cast(), bytes, align_of::<T>(), argument)
}

/// The options of a program that knows the first bytes of them, or more than this library does.
///
/// # Safety
/// Checked as a [`region`]; the caller of the C function vouches for the memory.
pub(super) unsafe fn read<T: Options>(options: *const T, argument: u32) -> Result<T, Refusal> {
    let mut whole = T::defaults();
    // SAFETY: the caller's promise; any bytes are a `T`.
    unsafe {
        fill(options.cast(), (&raw mut whole).cast(), T::FIRST, size_of::<T>(), argument)?;
    }
    Ok(whole)
}

/// Copies what both know.
///
/// # Safety
/// `from` was checked as a region of options; `most` bytes at `to` can be written.
unsafe fn fill(
    from: *const u8,
    to: *mut u8,
    least: usize,
    most: usize,
    argument: u32,
) -> Result<(), Refusal> {
    let found = size_of_program(from.cast::<usize>());
    let refused = Refusal::OptionsSize { argument, found, least, most };
    if !(least..=MOST).contains(&found) {
        return Err(refused);
    }
    // SAFETY: the caller's promise: `found` bytes, none of which is written during the call.
    let (known, unknown) =
        unsafe { core::slice::from_raw_parts(from, found) }.split_at(found.min(most));
    if unknown.iter().any(|&byte| byte != 0) {
        return Err(refused);
    }
    // SAFETY: at most `most` bytes.
    unsafe { to.copy_from_nonoverlapping(known.as_ptr(), known.len()) };
    Ok(())
}

/// Writes `defaults` to the struct of a program that has `size` bytes for it; what the library does
/// not know becomes 0. Nothing happens where there is no struct.
///
/// # Safety
/// The caller of the C function vouches for `size` bytes.
pub(super) unsafe fn init<T: Options>(options: *mut T, size: usize, defaults: T) {
    if options.is_null() || !options.is_aligned() || !(T::FIRST..=MOST).contains(&size) {
        return;
    }
    let known = size.min(size_of::<T>());
    // SAFETY: `size` bytes by the caller's promise, of which the first are its size.
    unsafe {
        options.cast::<u8>().write_bytes(0, size);
        let from = (&raw const defaults).cast::<u8>();
        options.cast::<u8>().copy_from_nonoverlapping(from, known);
        options.cast::<usize>().write(size);
    }
}

/// Where a function writes options: `size` bytes of the program.
pub(super) fn target<T: Options>(options: *mut T, size: usize, argument: u32) -> Region {
    Region::memory(options.cast(), size, align_of::<T>(), argument)
}

/// [`init`], but refuses a size that no version of the struct has.
///
/// # Safety
/// As [`init`].
pub(super) unsafe fn write<T: Options>(
    options: *mut T,
    size: usize,
    value: T,
    argument: u32,
) -> Result<(), Refusal> {
    let (least, most) = (T::FIRST, size_of::<T>());
    if !(least..=MOST).contains(&size) {
        return Err(Refusal::OptionsSize { argument, found: size, least, most });
    }
    // SAFETY: the caller's promise.
    unsafe { init(options, size, value) };
    Ok(())
}
