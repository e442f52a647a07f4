//! Codes, numbers and sentences: how an error crosses to C. And the one gate through which every
//! call comes in: it checks the pointers, runs the body, stops a panic.

use core::ffi::c_char;
use core::fmt::{self, Write};

use super::memory::{Region, Span, check, check_error_pointer};
use crate::error::{Error, NUMBERS, errors};

/// What a function returns: 0 (`LOWRANK_OK`), or one of the codes above. A code never changes its
/// meaning.
pub type lowrank_code = u32;

errors! {
    /// What this interface itself refuses.
    pub(super) enum Refusal;
    /// A pointer that must not be null is null.
    NullPointer { argument: u32 } = 1000, "argument {argument} is a null pointer";
    /// A pointer is not aligned as its type asks for.
    MisalignedPointer { argument: u32, alignment: usize } = 1001,
        "argument {argument} must be a multiple of {alignment}";
    /// A length is larger than any memory.
    TooLong { argument: u32 } = 1002, "the length of argument {argument} is larger than the address space";
    /// Two arguments share memory, or one lies in memory that an object uses.
    Overlap { first: u32, second: u32 } = 1003,
        "argument {first} shares memory with argument {second}, or with what that uses";
    /// The pointer is to no open object of this type: never opened, closed, moved or overwritten.
    NotAnObject { argument: u32 } = 1004,
        "argument {argument} is no open object of its type: it was never opened, or it was closed, moved or overwritten";
    /// The memory for an object is too small.
    ObjectTooSmall { argument: u32, have: usize, need: usize } = 1005,
        "the memory in argument {argument} has {have} bytes, the object needs {need}";
    /// The object is in use: by another thread, or by the call that is running this callback.
    Busy { argument: u32 } = 1006, "argument {argument} is in use by another thread or by the running call";
    /// The buffer is too small for the result; nothing was written to it.
    BufferTooSmall { have: usize, need: usize } = 1007, "the buffer has room for {have}, the result has {need}";
    /// A constant is none of those that the header names.
    UnknownConstant { argument: u32, found: u32 } = 1008, "argument {argument} has the unknown constant {found} in it";
    /// A bug in the library: it panicked. The objects of this call are closed.
    Panicked = 1009, "the library panicked, which is a bug of it; the objects of the call are closed";
    /// Text could not be encoded, decoded or rendered; the sentence says why.
    Text = 1010, "text could not be encoded, decoded or rendered";
    /// A file could not be read; the sentence says why.
    File = 1011, "a file could not be read";
    /// Text is not UTF-8.
    NotUtf8 { argument: u32, valid: usize } = 1012, "argument {argument} is not UTF-8 after {valid} bytes";
    /// More adapters are chosen at once than this interface can pass on.
    TooManyChoices { have: usize, most: usize } = 1013, "{have} adapters chosen, {most} can be";
    /// The operating system did not start a thread; the sentence says why.
    Threads = 1014, "a thread could not be started";
    /// A training run was refused: options, data or base do not fit; the sentence says why.
    Train = 1015, "a training run was refused: options, data or base do not fit";
    /// Training diverged; the last good numbers, if a step left some, are in the output file; the
    /// sentence says which.
    Diverged { step: u64 } = 1016,
        "training diverged at step {step}; try a smaller learning rate or clipping";
    /// A struct of options has a size that no version of it has, or sets what this library does not
    /// know.
    OptionsSize { argument: u32, found: usize, least: usize, most: usize } = 1017,
        "the struct in argument {argument} has the size {found}, this library knows {least} to {most} bytes of it: begin with its lowrank_..._default(), and leave 0 what is newer than the library";
    /// An adapter is chosen with weight 0.
    NoWeight { slot: u32 } = 1018,
        "the adapter in slot {slot} is chosen with weight 0: LOWRANK_CHOICE(slot) gives it weight 1; to switch it off, choose without it";
    /// The library was built without support of cards.
    WithoutCuda { argument: u32 } = 1019,
        "argument {argument} asks for a card, and this library was built without cuda: LOWRANK_DEVICE_CPU, or build it with the feature cuda";
}

/// Room for the sentence in `lowrank_error`, the NUL included.
pub const LOWRANK_DETAIL_BYTES: usize = 192;

/// The most numbers of an error.
pub const LOWRANK_NUMBERS: usize = 5;

/// What went wrong, with its numbers. A function that is given one fills it when it fails and
/// leaves it alone otherwise; what it held does not matter. Plain data: it may be copied, and it
/// needs no closing.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct lowrank_error {
    /// The code that the function returned.
    pub code: lowrank_code,
    /// How many of `numbers` there are.
    pub count: u32,
    /// The numbers in the order in which the sentence of `lowrank_error_message` has them; of a
    /// float its bits.
    pub numbers: [u64; LOWRANK_NUMBERS],
    /// For text, file, thread, training and device errors: the sentence, UTF-8, with a NUL at its end, cut
    /// where room ends. Else empty.
    pub detail: [c_char; LOWRANK_DETAIL_BYTES],
}

const _: () = assert!(
    LOWRANK_NUMBERS == NUMBERS
        && size_of::<lowrank_error>() == 8 + 8 * NUMBERS + LOWRANK_DETAIL_BYTES
);

impl fmt::Debug for lowrank_error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("lowrank_error")
            .field("code", &self.code)
            .field("numbers", &self.numbers)
            .finish_non_exhaustive()
    }
}

/// Any error of a call.
#[derive(Debug)]
pub(super) enum Failure {
    Core(Error),
    Refused(Refusal),
    /// The `lowrank_error` itself lies in the way: only the code can be told.
    Silent(Refusal),
    #[cfg(feature = "std")]
    Said(Refusal, String),
    /// A device failed, in the driver's words.
    #[cfg(feature = "cuda")]
    Device(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Core(error)
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

#[cfg(feature = "text")]
impl From<crate::text::TextError> for Failure {
    fn from(error: crate::text::TextError) -> Self {
        Self::Said(Refusal::Text, error.0)
    }
}

#[cfg(feature = "cuda")]
impl From<crate::cuda::CudaError> for Failure {
    fn from(error: crate::cuda::CudaError) -> Self {
        Self::Device(error.to_string())
    }
}

/// The result of a call's body.
pub(super) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// A device's failure in the driver's words.
    #[cfg(feature = "cuda")]
    pub(super) fn in_words(self, words: impl FnOnce() -> Option<String>) -> Self {
        match self {
            Self::Core(Error::Device) => words().map_or(self, Self::Device),
            other => other,
        }
    }

    fn to_c(&self) -> lowrank_error {
        let (code, (numbers, count)) = match self {
            Self::Core(error) => (error.code(), error.numbers()),
            Self::Refused(refusal) | Self::Silent(refusal) => (refusal.code(), refusal.numbers()),
            #[cfg(feature = "std")]
            Self::Said(refusal, _) => (refusal.code(), refusal.numbers()),
            #[cfg(feature = "cuda")]
            Self::Device(_) => (Error::Device.code(), Error::Device.numbers()),
        };
        #[cfg_attr(not(feature = "std"), allow(unused_mut, reason = "only std has sentences"))]
        let mut error =
            lowrank_error { code, count: count as u32, numbers, detail: [0; LOWRANK_DETAIL_BYTES] };
        #[cfg(feature = "std")]
        let sentence = match self {
            Self::Said(_, sentence) => Some(sentence),
            #[cfg(feature = "cuda")]
            Self::Device(sentence) => Some(sentence),
            _ => None,
        };
        #[cfg(feature = "std")]
        if let Some(sentence) = sentence {
            let bytes = bytemuck::cast_slice_mut::<c_char, u8>(&mut error.detail);
            Cursor::new(bytes).write_str(sentence).ok();
        }
        error
    }
}

/// Refuses arguments, the pointer to an error among them, that lie in memory which the object in
/// argument `owner` writes to.
pub(super) fn clear_of(
    error: *mut lowrank_error,
    regions: &[Region],
    used: Span,
    owner: u32,
) -> Outcome {
    let error = Region::writes(error, 1, ERROR).optional();
    error.clear_of(used, true, owner).map_err(Failure::Silent)?;
    Ok(regions.iter().try_for_each(|region| region.clear_of(used, true, owner))?)
}

/// The number of an argument that is never told.
const ERROR: u32 = 0;

/// Runs the body of a call behind its checks: `regions` are its pointers, `error` is the last
/// argument, number `argument`.
pub(super) fn call(
    error: *mut lowrank_error,
    argument: u32,
    regions: &[Region],
    body: impl FnOnce() -> Outcome,
) -> lowrank_code {
    // An error that lies in the way of something else cannot be written.
    if let Err(refusal) =
        check_error_pointer(&Region::writes(error, 1, argument).optional(), regions)
    {
        return refusal.code();
    }
    let outcome = check(regions).map_err(Failure::from).and_then(|()| without_panic(body));
    let Err(failure) = outcome else { return 0 };
    let filled = failure.to_c();
    if !error.is_null() && !matches!(failure, Failure::Silent(_)) {
        // SAFETY: aligned and apart from every other argument; the caller vouches for a pointer
        // that is not null.
        unsafe { error.write(filled) };
    }
    filled.code
}

#[cfg(feature = "std")]
fn without_panic(body: impl FnOnce() -> Outcome) -> Outcome {
    // Objects that were held while it panicked are closed by their guards: nobody sees them half
    // changed.
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(body))
        .unwrap_or_else(|_| Err(Refusal::Panicked.into()))
}

#[cfg(not(feature = "std"))]
fn without_panic(body: impl FnOnce() -> Outcome) -> Outcome {
    body()
}

/// Text into a buffer of C: cut at a character when room ends, always with a NUL, and counted in
/// full.
pub(super) struct Cursor<'b> {
    buffer: &'b mut [u8],
    written: usize,
    total: usize,
}

impl<'b> Cursor<'b> {
    pub(super) fn new(buffer: &'b mut [u8]) -> Self {
        if let Some(first) = buffer.first_mut() {
            *first = 0;
        }
        Self { buffer, written: 0, total: 0 }
    }

    /// The length of the whole text without the NUL.
    pub(super) fn total(&self) -> usize {
        self.total
    }
}

impl Write for Cursor<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // Nothing more after the first cut.
        if self.written == self.total {
            let room = self.buffer.len().saturating_sub(self.written + 1);
            let taken = text.floor_char_boundary(room);
            let from = text.as_bytes().get(..taken).unwrap_or_default();
            if let Some(to) = self.buffer.get_mut(self.written..self.written + taken) {
                to.copy_from_slice(from);
                self.written += taken;
            }
            if let Some(end) = self.buffer.get_mut(self.written) {
                *end = 0;
            }
        }
        self.total = self.total.saturating_add(text.len());
        Ok(())
    }
}

/// Every code that this build can return with its name and its sentence: what the header lists.
#[doc(hidden)]
pub fn codes() -> impl Iterator<Item = (u32, &'static str, &'static str)> {
    Error::CODES
        .iter()
        .chain(Refusal::CODES)
        .map(|&(code, name, text)| (code, name, text.trim_matches([' ', '\0'])))
}

/// What a code means, in one sentence without numbers: a static string, never null.
#[unsafe(no_mangle)]
pub extern "C" fn lowrank_code_text(code: lowrank_code) -> *const c_char {
    if code == 0 {
        return c"Success.".as_ptr();
    }
    let mut all = Error::CODES.iter().chain(Refusal::CODES);
    // The sentence begins behind a space and ends with a NUL.
    let text = all.find(|(found, ..)| *found == code).and_then(|(.., text)| text.get(1..));
    text.map_or(c"An unknown code.".as_ptr(), |text| text.as_ptr().cast())
}

/// Writes the sentence of `error` with its numbers and a hint into `buffer` (UTF-8, NUL at its end,
/// cut where `capacity` ends) and returns the length of the whole sentence without the NUL, as
/// `snprintf` does. Both pointers null, or one that cannot be used: 0.
///
/// Programs that link statically and never call this don't carry the sentences.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_error_message(
    error: *const lowrank_error,
    buffer: *mut c_char,
    capacity: usize,
) -> usize {
    let mut length = 0;
    let regions = [Region::reads(error, 1, 1), Region::writes(buffer, capacity, 2)];
    call(core::ptr::null_mut(), 4, &regions, || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        let (error, buffer) = unsafe { (&*error, super::memory::bytes_mut(buffer, capacity)) };
        let mut out = Cursor::new(buffer);
        let detail = bytemuck::cast_slice::<c_char, u8>(&error.detail)
            .split(|&byte| byte == 0)
            .next()
            .unwrap_or_default();
        let written = match (
            Error::from_numbers(error.code, &error.numbers),
            Refusal::from_numbers(error.code, &error.numbers),
        ) {
            (Some(core), _) if detail.is_empty() || core != Error::Device => write!(out, "{core}"),
            (_, Some(_)) | (Some(Error::Device), _) if !detail.is_empty() => {
                detail.utf8_chunks().try_for_each(|chunk| out.write_str(chunk.valid()))
            }
            (_, Some(refusal)) => write!(out, "{refusal}"),
            (_, None) => write!(out, "code {} is unknown", error.code),
        };
        written.ok();
        length = out.total();
        Ok(())
    });
    length
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use core::ptr::null_mut;

    use super::super::object::hold;
    use super::super::sampler::{lowrank_sampler_close, lowrank_sampler_open};
    use super::*;

    #[test]
    fn a_panic_becomes_a_code_and_closes_what_was_held() {
        let (mut memory, mut sampler) = ([0u64; 16], null_mut());
        // SAFETY: plain memory of this function.
        let panicked = unsafe {
            assert_eq!(
                lowrank_sampler_open(
                    memory.as_mut_ptr().cast(),
                    128,
                    null_mut(),
                    &mut sampler,
                    null_mut()
                ),
                0
            );
            call(null_mut(), 1, &[], || {
                let _held = hold(sampler, 1)?;
                panic!("as if the library had a bug (this line belongs to a test)")
            })
        };
        assert_eq!(panicked, Refusal::Panicked.code());
        // SAFETY: the memory is still there.
        let closed = unsafe { lowrank_sampler_close(sampler, null_mut()) };
        assert_eq!(closed, Refusal::NotAnObject { argument: 1 }.code());
    }

    #[test]
    fn numbers_make_the_error_again() {
        let errors = [
            Error::Shape { site: 1, rows: 2, cols: 3, expected_rows: 4, expected_cols: 5 },
            Error::WrongRoot { found: crate::RootKind::BERT, expected: crate::RootKind::LLAMA },
            Error::Sampling { field: crate::Field::TopP, found: -0.5 },
            Error::NotAnArchive,
        ];
        for error in errors {
            assert_eq!(Error::from_numbers(error.code(), &error.numbers().0), Some(error));
        }
        assert_eq!(
            Error::from_numbers(
                Error::Sampling { field: crate::Field::TopP, found: 0.0 }.code(),
                &[999; NUMBERS]
            ),
            None
        );
    }
}
