//! Archives in files, mapped; and the library's own threads. `std` only.

use core::ffi::{CStr, c_char, c_void};
use std::path::Path;

use super::executor::{lowrank_executor, lowrank_task};
use super::failure::{Failure, Outcome, Refusal, call, lowrank_code, lowrank_error};
use super::memory::Region;
use super::object::{self, Kind, region, share, size};
use crate::archive::{ArchiveFile, Buffer};
use crate::error::{Error, Field};
use crate::file::{FileError, Reason};
use crate::runtime::{Executor, Threads};

/// An archive that the library keeps in memory: a file that is mapped, or what a training run has
/// made (`lowrank_train_in_memory`). Files, pools, texts and streams are only in libraries with
/// `LOWRANK_FEATURE_STD`.
#[derive(Debug)]
pub struct lowrank_file {
    _opaque: (),
}

/// Memory that is enough for a file object on every target.
pub const LOWRANK_FILE_BYTES: usize = 64;
const _: () = assert!(size::<lowrank_file>() <= LOWRANK_FILE_BYTES);

/// The archive of a file object.
pub(super) enum FileValue {
    Mapped(ArchiveFile),
    Made(Buffer),
}

impl FileValue {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Mapped(file) => file,
            Self::Made(buffer) => buffer,
        }
    }
}

impl Kind for lowrank_file {
    type Value = FileValue;
    const MAGIC: u32 = 0x6c66_696c;
}

impl From<FileError> for Failure {
    /// What the archive lacks keeps its code; everything else is `LOWRANK_ERROR_FILE` with a
    /// sentence.
    fn from(error: FileError) -> Self {
        match error.reason {
            Reason::Core(core) => Self::Core(core),
            _ => Self::Said(Refusal::File, error.to_string()),
        }
    }
}

/// The path of a NUL-terminated string.
///
/// # Safety
/// Not null, and a NUL at its end.
pub(super) unsafe fn path_of<'a>(path: *const c_char, argument: u32) -> Outcome<&'a Path> {
    // SAFETY: not null; the caller vouches for a NUL at its end.
    let bytes = unsafe { CStr::from_ptr(path) };
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        let _ = argument;
        Ok(Path::new(std::ffi::OsStr::from_bytes(bytes.to_bytes())))
    }
    #[cfg(not(unix))]
    {
        let text = bytes
            .to_str()
            .map_err(|error| Refusal::NotUtf8 { argument, valid: error.valid_up_to() })?;
        Ok(Path::new(text))
    }
}

/// The path of a NUL-terminated string in argument 3, if there is one.
///
/// # Safety
/// Null, or a NUL at its end.
pub(super) unsafe fn optional_path<'a>(path: *const c_char) -> Outcome<Option<&'a Path>> {
    // SAFETY: the caller's promise.
    if path.is_null() { Ok(None) } else { unsafe { path_of(path, 3) }.map(Some) }
}

/// UTF-8 of a NUL-terminated string, if there is one.
///
/// # Safety
/// Null, or a NUL at its end.
pub(super) unsafe fn string_of<'a>(
    string: *const c_char,
    argument: u32,
) -> Outcome<Option<&'a str>> {
    if string.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(string) }.to_str();
    Ok(Some(text.map_err(|error| Refusal::NotUtf8 { argument, valid: error.valid_up_to() })?))
}

/// Maps the archive at `path` (with a NUL at its end; UTF-8 on Windows) in `memory` of at least
/// `lowrank_file_bytes()` bytes. The file must not be changed in place while it is open: replace it
/// by rename. On success `*file` is the object, on failure null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_file_open(
    memory: *mut c_void,
    memory_bytes: usize,
    path: *const c_char,
    file: *mut *mut lowrank_file,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe {
        object::open((memory, memory_bytes), Region::reads(path, 1, 3), file, 4, error, |_| {
            Ok(FileValue::Mapped(ArchiveFile::open(path_of(path, 3)?)?))
        })
    }
}

/// Points `*archive` at the `*bytes` bytes of an open file, aligned as the open functions ask for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_file_archive(
    file: *const lowrank_file,
    archive: *mut *const c_void,
    bytes: *mut usize,
    error: *mut lowrank_error,
) -> lowrank_code {
    call(
        error,
        4,
        &[region(file, false, 1), Region::writes(archive, 1, 2), Region::writes(bytes, 1, 3)],
        || {
            // SAFETY: checked by `call`; the caller vouches for the memory.
            unsafe {
                let found = share(file, 1)?.bytes();
                archive.write(found.as_ptr().cast());
                bytes.write(found.len());
            }
            Ok(())
        },
    )
}

/// Closes a file: its archive is gone, so everything opened from it must be closed before.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_file_close(
    file: *mut lowrank_file,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe { object::close(file, error) }
}

/// The bytes that a file object takes, exactly; `LOWRANK_FILE_BYTES` is enough on every target.
#[unsafe(no_mangle)]
pub extern "C" fn lowrank_file_bytes() -> usize {
    size::<lowrank_file>()
}

/// A pool of threads of the library, for programs that have none of their own.
#[derive(Debug)]
pub struct lowrank_threads {
    _opaque: (),
}

/// Memory that is enough for a pool object on every target.
pub const LOWRANK_THREADS_BYTES: usize = 96;
const _: () = assert!(size::<lowrank_threads>() <= LOWRANK_THREADS_BYTES);

impl Kind for lowrank_threads {
    type Value = Threads;
    const MAGIC: u32 = 0x6c74_6872;
}

/// Starts a pool of `count` threads, the caller's included; 0 means one per core. `memory` has at
/// least `lowrank_threads_bytes()` bytes. On success `*threads` is the object, on failure null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_threads_open(
    memory: *mut c_void,
    memory_bytes: usize,
    count: usize,
    threads: *mut *mut lowrank_threads,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe {
        let none = Region::reads::<u8>(core::ptr::null(), 0, 3);
        object::open((memory, memory_bytes), none, threads, 4, error, |_| start(count))
    }
}

/// A pool of `threads` threads, 0 for one per core.
pub(super) fn start(threads: usize) -> Outcome<Threads> {
    if threads > MOST_THREADS {
        let (field, found, most) = (Field::Threads, threads, MOST_THREADS);
        return Err(Error::Limit { field, found, most }.into());
    }
    Threads::new(threads).map_err(|error| Failure::Said(Refusal::Threads, error.to_string()))
}

/// The most threads of a pool, and of a session.
pub(super) const MOST_THREADS: usize = 1024;
const _: () = assert!(MOST_THREADS == crate::runtime::MOST_THREADS);

/// Writes the pool's executor to `*executor` and its number of threads to `*count`: what
/// `lowrank_session_open` and `lowrank_limits` take. Sessions that use it must be closed before the
/// pool.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_threads_executor(
    threads: *const lowrank_threads,
    executor: *mut lowrank_executor,
    count: *mut usize,
    error: *mut lowrank_error,
) -> lowrank_code {
    call(
        error,
        4,
        &[region(threads, false, 1), Region::writes(executor, 1, 2), Region::writes(count, 1, 3)],
        || {
            // SAFETY: checked by `call`; the caller vouches for the memory.
            unsafe {
                let value = share(threads, 1)?;
                count.write(value.threads());
                executor.write(lowrank_executor {
                    run: Some(run_on_threads),
                    context: core::ptr::from_ref(value).cast_mut().cast(),
                });
            }
            Ok(())
        },
    )
}

unsafe extern "C" fn run_on_threads(
    context: *mut c_void,
    tasks: usize,
    task: lowrank_task,
    argument: *mut c_void,
) {
    struct Argument(*mut c_void);
    // SAFETY: `task` may be called with it from any thread.
    unsafe impl Sync for Argument {}
    impl Argument {
        fn get(&self) -> *mut c_void {
            self.0
        }
    }
    // SAFETY: the context is the pool it was made with, which is closed after the sessions that use
    // it.
    let (Some(pool), Some(task)) = (unsafe { context.cast::<Threads>().as_ref() }, task) else {
        return;
    };
    let argument = Argument(argument);
    // SAFETY: a task of the session that is calling.
    pool.run(tasks, &|_| unsafe { task(argument.get()) });
}

/// Stops a pool and waits for its threads.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_threads_close(
    threads: *mut lowrank_threads,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe { object::close(threads, error) }
}

/// The bytes that a pool object takes, exactly; `LOWRANK_THREADS_BYTES` is enough on every target.
#[unsafe(no_mangle)]
pub extern "C" fn lowrank_threads_bytes() -> usize {
    size::<lowrank_threads>()
}
