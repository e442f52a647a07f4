//! The C interface with archives that have a right checksum: opened, told, run, text and all.
#![no_main]

use std::ffi::c_void;
use std::ptr::{null, null_mut};

use lowrank::archive::Buffer;
use lowrank::ffi::*;

type Room<const WORDS: usize> = [u64; WORDS];

fn room<const WORDS: usize>(room: &mut Room<WORDS>) -> (*mut c_void, usize) {
    (room.as_mut_ptr().cast(), size_of_val(room))
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some(archive) = lowrank_fuzz::archive(data) else { return };
    let (start, bytes) = (archive.as_ptr().cast(), archive.len());
    let mut memory = [0; LOWRANK_BASE_BYTES / 8];
    let (place, place_bytes) = room(&mut memory);
    let mut base = null_mut();
    // SAFETY: all memory is this function's and outlives the objects in it.
    unsafe {
        lowrank_verify(start, bytes, null_mut());
        lowrank_bert_verify(start, bytes, null_mut());
        if lowrank_base_open(place, place_bytes, start, bytes, &mut base, null_mut()) == 0 {
            run(base);
            text(base);
        }
    }
});

/// A few tokens.
unsafe fn run(base: *const lowrank_base) {
    let limits = lowrank_limits { context: 8, ..lowrank_limits_default(1) };
    let mut need = lowrank_need { bytes: 0, kv_bytes: 0 };
    let mut memory = [0; LOWRANK_SESSION_BYTES / 8];
    let (place, place_bytes) = room(&mut memory);
    let mut session = null_mut();
    // SAFETY: as above.
    unsafe {
        let code = lowrank_session_need(base, &limits, &mut need, null_mut());
        if code != 0 || need.bytes > 1 << 24 {
            return;
        }
        let mut work = Buffer::from(&vec![0; need.bytes][..]).to_vec();
        work.resize(need.bytes + 64, 0);
        let ahead = work.as_ptr().align_offset(64);
        let code = lowrank_session_open(
            place,
            place_bytes,
            base,
            &limits,
            work.as_mut_ptr().add(ahead).cast(),
            need.bytes,
            null(),
            &mut session,
            null_mut(),
        );
        if code == 0 {
            lowrank_session_prefill(session, 0, [0, 1, 2].as_ptr(), 3, null_mut());
            lowrank_session_close(session, null_mut());
        }
    }
}

/// A text there and back.
unsafe fn text(base: *const lowrank_base) {
    let mut memory = vec![0u64; lowrank_text_bytes().div_ceil(8)];
    let mut text = null_mut();
    let (mut ids, mut count) = ([0u32; 64], 0);
    let string = "Hello 漢字 ab";
    // SAFETY: as above.
    unsafe {
        let bytes = memory.len() * 8;
        if lowrank_text_open(memory.as_mut_ptr().cast(), bytes, base, &mut text, null_mut()) == 0 {
            let start = string.as_ptr().cast();
            let all = ids.as_mut_ptr();
            lowrank_tokenize(text, start, string.len(), 0, all, 64, &mut count, null_mut());
            lowrank_text_close(text, null_mut());
        }
    }
}
