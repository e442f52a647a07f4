//! Text: tokens from strings and back, decoding while tokens come. `std` only.

use core::ffi::{c_char, c_void};
use std::sync::Arc;

use super::base::lowrank_base;
use super::failure::{Outcome, Refusal, call, lowrank_code, lowrank_error};
use super::family::Opened;
use super::memory::{Region, slice};
use super::object::{self, Kind, hold, region, share, size};
use crate::text::{StreamDecoder, TextError, Tokenizer};

/// The tokenizer and chat template of a base, read once. Any number of threads may use it; the base
/// may be closed before it.
#[derive(Debug)]
pub struct lowrank_text {
    _opaque: (),
}

/// Memory that is enough for a text object on every target (the tokenizer itself is on the heap).
pub const LOWRANK_TEXT_BYTES: usize = 64;
const _: () = assert!(size::<lowrank_text>() <= LOWRANK_TEXT_BYTES);

pub(super) struct TextValue {
    pub(super) tokenizer: Arc<Tokenizer>,
    /// What texts are cut at if the caller names nothing else.
    max_length: usize,
}

impl Kind for lowrank_text {
    type Value = TextValue;
    const MAGIC: u32 = 0x6c74_7874;
}

/// Decodes tokens that come one by one, without ever giving half a character. One thread at a time.
#[derive(Debug)]
pub struct lowrank_stream {
    _opaque: (),
}

/// Memory that is enough for a stream object on every target.
pub const LOWRANK_STREAM_BYTES: usize = 256;
const _: () = assert!(size::<lowrank_stream>() <= LOWRANK_STREAM_BYTES);

/// `decoder` borrows what `text` keeps alive, so it comes first and is dropped first.
pub(super) struct StreamValue {
    decoder: StreamDecoder<'static>,
    /// What has been decoded and did not fit the caller's buffer yet.
    waiting: String,
    _text: Arc<Tokenizer>,
}

impl Kind for lowrank_stream {
    type Value = StreamValue;
    const MAGIC: u32 = 0x6c73_7472;
}

/// `lowrank_tokenize`, `lowrank_detokenize`: special tokens are parsed in text, and written out.
pub const LOWRANK_SPECIAL: u32 = 1;
/// `lowrank_tokenize`: a prompt; the begin-of-sequence token comes first where the model's rule
/// asks for one. Implies `LOWRANK_SPECIAL`.
pub const LOWRANK_PROMPT: u32 = 2;

/// UTF-8 of the caller.
pub(super) unsafe fn text_of<'a>(
    text: *const c_char,
    bytes: usize,
    argument: u32,
) -> Result<&'a str, Refusal> {
    // SAFETY: checked by the caller's `call`.
    let bytes = unsafe { slice(text.cast::<u8>(), bytes) };
    core::str::from_utf8(bytes)
        .map_err(|error| Refusal::NotUtf8 { argument, valid: error.valid_up_to() })
}

/// All of `found`, or none of it; how many there are in any case.
pub(super) unsafe fn give<T: Copy>(
    found: &[T],
    to: *mut T,
    capacity: usize,
    count: *mut usize,
) -> Outcome {
    // SAFETY: checked by the caller's `call`: room for `capacity`, apart from everything else.
    unsafe {
        count.write(found.len());
        if found.len() > capacity {
            return Err(Refusal::BufferTooSmall { have: capacity, need: found.len() }.into());
        }
        if !found.is_empty() {
            to.copy_from_nonoverlapping(found.as_ptr(), found.len());
        }
    }
    Ok(())
}

/// Reads the tokenizer and chat template of a base, in `memory` of at least `lowrank_text_bytes()`
/// bytes. On success `*text` is the object, on failure null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_text_open(
    memory: *mut c_void,
    memory_bytes: usize,
    base: *const lowrank_base,
    text: *mut *mut lowrank_text,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe {
        object::open((memory, memory_bytes), region(base, false, 3), text, 4, error, |room| {
            let value = share(base, 3)?;
            room.clear_of(value.archive, false, 3)?;
            let tokenizer = match value.model.opened() {
                Opened::Llama(model) => Tokenizer::new(model)?,
                Opened::Bert(model) => Tokenizer::for_encoder(model)?,
                Opened::Lstm(model) => Tokenizer::for_lstm(model)?,
                Opened::Mlp(_) => return Err(TextError(NO_TEXT.into()).into()),
            };
            let max_length = match value.model.facts().max_length {
                0 => usize::MAX,
                most => most,
            };
            Ok(TextValue { tokenizer: Arc::new(tokenizer), max_length })
        })
    }
}

const NO_TEXT: &str = "a multilayer perceptron reads rows of numbers: it has no tokenizer";

/// Writes the ids of `string` (`string_bytes` bytes of UTF-8) to `tokens` and their number to
/// `*count`. If there are more than `capacity`, nothing is written but the number
/// (`LOWRANK_ERROR_BUFFER_TOO_SMALL`). `flags` is a sum of `LOWRANK_SPECIAL`, `LOWRANK_PROMPT`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_tokenize(
    text: *const lowrank_text,
    string: *const c_char,
    string_bytes: usize,
    flags: u32,
    tokens: *mut u32,
    capacity: usize,
    count: *mut usize,
    error: *mut lowrank_error,
) -> lowrank_code {
    let regions = [
        region(text, false, 1),
        Region::reads(string, string_bytes, 2),
        Region::writes(tokens, capacity, 5),
        Region::writes(count, 1, 7),
    ];
    call(error, 8, &regions, || {
        if flags & !(LOWRANK_SPECIAL | LOWRANK_PROMPT) != 0 {
            return Err(Refusal::UnknownConstant { argument: 4, found: flags }.into());
        }
        // SAFETY: checked by `call`; the caller vouches for the memory.
        unsafe {
            let (tokenizer, string) =
                (&share(text, 1)?.tokenizer, text_of(string, string_bytes, 2)?);
            let ids = match flags & LOWRANK_PROMPT {
                0 => tokenizer.encode(string, flags & LOWRANK_SPECIAL != 0)?,
                _ => tokenizer.encode_prompt(string)?,
            };
            give(&ids, tokens, capacity, count)
        }
    })
}

/// Writes the ids of a text as an encoder reads it (`lowrank embed` does the same) to `tokens` and
/// their number to `*count`: with the special tokens that belong around it, cut to `max_length`
/// tokens together; 0 is the base's own most. `*cut`, which may be null, gets the number of tokens
/// that were cut off for that. If there are more than `capacity`, nothing is written but the
/// numbers (`LOWRANK_ERROR_BUFFER_TOO_SMALL`).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_tokenize_for_encoder(
    text: *const lowrank_text,
    string: *const c_char,
    string_bytes: usize,
    max_length: usize,
    tokens: *mut u32,
    capacity: usize,
    count: *mut usize,
    cut: *mut usize,
    error: *mut lowrank_error,
) -> lowrank_code {
    let regions = [
        region(text, false, 1),
        Region::reads(string, string_bytes, 2),
        Region::writes(tokens, capacity, 5),
        Region::writes(count, 1, 7),
        Region::writes(cut, 1, 8).optional(),
    ];
    call(error, 9, &regions, || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        unsafe {
            let (value, string) = (share(text, 1)?, text_of(string, string_bytes, 2)?);
            let max_length = if max_length == 0 { value.max_length } else { max_length };
            let (ids, lost) = value.tokenizer.encode_text(string, max_length)?;
            if !cut.is_null() {
                cut.write(lost);
            }
            give(&ids, tokens, capacity, count)
        }
    })
}

/// Writes the text of `count` tokens to `buffer` (UTF-8, no NUL) and its length to `*bytes`. If it
/// is longer than `capacity`, nothing is written but the length (`LOWRANK_ERROR_BUFFER_TOO_SMALL`).
/// Special tokens are left out unless `flags` is `LOWRANK_SPECIAL`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_detokenize(
    text: *const lowrank_text,
    tokens: *const u32,
    count: usize,
    flags: u32,
    buffer: *mut c_char,
    capacity: usize,
    bytes: *mut usize,
    error: *mut lowrank_error,
) -> lowrank_code {
    let regions = [
        region(text, false, 1),
        Region::reads(tokens, count, 2),
        Region::writes(buffer, capacity, 5),
        Region::writes(bytes, 1, 7),
    ];
    call(error, 8, &regions, || {
        if flags & !LOWRANK_SPECIAL != 0 {
            return Err(Refusal::UnknownConstant { argument: 4, found: flags }.into());
        }
        // SAFETY: checked by `call`; the caller vouches for the memory.
        unsafe {
            let decoded = share(text, 1)?
                .tokenizer
                .decode(slice(tokens, count), flags & LOWRANK_SPECIAL != 0)?;
            give(decoded.as_bytes(), buffer.cast(), capacity, bytes)
        }
    })
}

/// Closes a text object. Streams made from it go on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_text_close(
    text: *mut lowrank_text,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe { object::close(text, error) }
}

/// The bytes that a text object takes, exactly; `LOWRANK_TEXT_BYTES` is enough on every target.
#[unsafe(no_mangle)]
pub extern "C" fn lowrank_text_bytes() -> usize {
    size::<lowrank_text>()
}

/// Makes a decoder for tokens that come one by one, in `memory` of at least
/// `lowrank_stream_bytes()` bytes. On success `*stream` is the object, on failure null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_stream_open(
    memory: *mut c_void,
    memory_bytes: usize,
    text: *const lowrank_text,
    stream: *mut *mut lowrank_stream,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe {
        object::open((memory, memory_bytes), region(text, false, 3), stream, 4, error, |_| {
            let text = Arc::clone(&share(text, 3)?.tokenizer);
            // SAFETY: the Arc beside the decoder keeps what it borrows where it is.
            let tokenizer: &'static Tokenizer = &*Arc::as_ptr(&text);
            Ok(StreamValue { decoder: tokenizer.stream(), waiting: String::new(), _text: text })
        })
    }
}

/// Adds a token and writes the text that is now finished, which may be empty, to `buffer` (UTF-8,
/// no NUL) and its length to `*bytes`. `LOWRANK_NO_TOKEN` adds nothing: with it, text for which the
/// buffer was too small (`LOWRANK_ERROR_BUFFER_TOO_SMALL`: the token was taken, the length is told)
/// is asked for again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_stream_push(
    stream: *mut lowrank_stream,
    token: u32,
    buffer: *mut c_char,
    capacity: usize,
    bytes: *mut usize,
    error: *mut lowrank_error,
) -> lowrank_code {
    let regions =
        [region(stream, true, 1), Region::writes(buffer, capacity, 3), Region::writes(bytes, 1, 5)];
    call(error, 6, &regions, || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        unsafe {
            let mut held = hold(stream, 1)?;
            let value = held.value();
            if token != super::base::LOWRANK_NO_TOKEN {
                let text = value.decoder.push(token)?;
                value.waiting.push_str(&text);
            }
            give(value.waiting.as_bytes(), buffer.cast(), capacity, bytes)?;
            value.waiting.clear();
        }
        Ok(())
    })
}

/// Ends the text: as `lowrank_stream_push`, with a replacement character if half a character was
/// left. The decoder is then as new.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_stream_finish(
    stream: *mut lowrank_stream,
    buffer: *mut c_char,
    capacity: usize,
    bytes: *mut usize,
    error: *mut lowrank_error,
) -> lowrank_code {
    let regions =
        [region(stream, true, 1), Region::writes(buffer, capacity, 2), Region::writes(bytes, 1, 4)];
    call(error, 5, &regions, || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        unsafe {
            let mut held = hold(stream, 1)?;
            let value = held.value();
            let text = value.decoder.finish();
            value.waiting.push_str(&text);
            give(value.waiting.as_bytes(), buffer.cast(), capacity, bytes)?;
            value.waiting.clear();
        }
        Ok(())
    })
}

/// Closes a stream.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_stream_close(
    stream: *mut lowrank_stream,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe { object::close(stream, error) }
}

/// The bytes that a stream object takes, exactly; `LOWRANK_STREAM_BYTES` is enough on every target.
#[unsafe(no_mangle)]
pub extern "C" fn lowrank_stream_bytes() -> usize {
    size::<lowrank_stream>()
}
