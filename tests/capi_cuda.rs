//! The C interface with `cuda`: a session on a card writes what one on the CPU writes; programs from
//! before there was a choice run on the CPU; what cannot be is one clear error.

mod common;
mod cuda_driver;

use std::ffi::{CStr, c_void};
use std::mem::offset_of;
use std::path::Path;
use std::ptr::{null, null_mut};
use std::sync::Once;

use common::{BERT, bert};
use lowrank::archive::ArchiveFile;
use lowrank::ffi::*;
use lowrank::quant::Format;
use lowrank::runtime::{Memory, Need};

const DEVICE: u32 = 74;

fn driver() {
    static CHOSEN: Once = Once::new();
    CHOSEN.call_once(|| {
        if std::env::var_os(lowrank_cuda_driver::OVERRIDE).is_none() {
            assert!(lowrank_cuda_driver::use_library(cuda_driver::software_driver()));
        }
    });
}

fn asset(name: &str) -> ArchiveFile {
    ArchiveFile::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("assets").join(name)).unwrap()
}

fn room<const WORDS: usize>(room: &mut [u64; WORDS]) -> (*mut c_void, usize) {
    (room.as_mut_ptr().cast(), size_of_val(room))
}

fn empty_error() -> lowrank_error {
    lowrank_error {
        code: 0,
        count: 0,
        numbers: [0; LOWRANK_NUMBERS],
        detail: [0; LOWRANK_DETAIL_BYTES],
    }
}

fn sentence(error: &lowrank_error) -> String {
    let mut buffer = [0u8; 400];
    // SAFETY: plain memory of this function.
    unsafe { lowrank_error_message(error, buffer.as_mut_ptr().cast(), buffer.len()) };
    CStr::from_bytes_until_nul(&buffer).unwrap().to_str().unwrap().to_owned()
}

/// Opens the tiny base and a session over it, and lets `use_it` have the session; what went wrong
/// where none could be opened.
fn with_session<T>(
    limits: &lowrank_limits,
    use_it: impl FnOnce(*mut lowrank_session) -> T,
) -> Result<T, Box<lowrank_error>> {
    driver();
    let archive = asset("tiny.lrk");
    let (mut base_room, mut session_room) =
        ([0; LOWRANK_BASE_BYTES / 8], [0; LOWRANK_SESSION_BYTES / 8]);
    let (mut base, mut session, mut error) = (null_mut(), null_mut(), empty_error());
    let mut need = lowrank_need { bytes: 0, kv_bytes: 0 };
    // SAFETY: plain memory of this function, which outlives the objects in it.
    unsafe {
        let (memory, bytes) = room(&mut base_room);
        let data = archive.as_ptr().cast();
        assert_eq!(lowrank_base_open(memory, bytes, data, archive.len(), &mut base, null_mut()), 0);
        if lowrank_session_need(base, limits, &mut need, &mut error) != 0 {
            return Err(Box::new(error));
        }
        let mut work = Memory::new(Need { bytes: need.bytes, kv_bytes: 0 });
        let work = work.as_mut();
        let (memory, bytes) = room(&mut session_room);
        let mut open = |size, error: &mut lowrank_error| {
            let work = work.as_mut_ptr().cast();
            lowrank_session_open(
                memory,
                bytes,
                base,
                limits,
                work,
                size,
                null(),
                &mut session,
                error,
            )
        };
        // One byte less is an error, wherever the session is to run.
        assert_ne!(open(need.bytes - 1, &mut error), 0);
        if open(need.bytes, &mut error) != 0 {
            assert!(session.is_null());
            return Err(Box::new(error));
        }
        let result = use_it(session);
        assert_eq!(lowrank_session_close(session, null_mut()), 0);
        assert_eq!(lowrank_base_close(base, null_mut()), 0);
        Ok(result)
    }
}

fn limits() -> lowrank_limits {
    lowrank_limits { batch: 2, ..lowrank_limits_default(48) }
}

fn on_card() -> lowrank_limits {
    lowrank_limits { device: LOWRANK_DEVICE_CUDA, ..limits() }
}

const PROMPT: [u32; 5] = [256, 68, 117, 99, 107];

/// The most likely of a sequence's logits.
fn best(session: *mut lowrank_session, sequence: usize) -> u32 {
    let (mut logits, mut count) = (null(), 0);
    // SAFETY: an open session; its logits are read before the next call.
    unsafe {
        let code = lowrank_session_logits(session, sequence, &mut logits, &mut count, null_mut());
        assert_eq!(code, 0);
        let logits = std::slice::from_raw_parts(logits, count);
        (0..count).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap() as u32
    }
}

/// A prompt, a fork of it, and some tokens of both.
fn tokens(session: *mut lowrank_session) -> Vec<u32> {
    let mut all = Vec::new();
    // SAFETY: an open session and plain memory of this function.
    unsafe {
        let prompt = PROMPT.as_ptr();
        assert_eq!(lowrank_session_prefill(session, 0, prompt, PROMPT.len(), null_mut()), 0);
        let mut token = best(session, 0);
        assert_eq!(lowrank_session_fork(session, 0, 1, PROMPT.len(), null_mut()), 0);
        for _ in 0..6 {
            all.push(token);
            let next = [0, 1].map(|sequence| lowrank_next { sequence, token });
            assert_eq!(lowrank_session_step(session, next.as_ptr(), 2, null_mut()), 0);
            token = best(session, 0);
            assert_eq!(token, best(session, 1));
        }
    }
    all
}

#[test]
fn a_session_on_a_card_writes_what_one_on_the_cpu_writes() {
    assert_ne!(lowrank_features() & LOWRANK_FEATURE_CUDA, 0);
    let cpu = with_session(&limits(), tokens).unwrap();
    let cuda = with_session(&on_card(), tokens).unwrap();
    assert_eq!(cuda, cpu);
    // Twice at a time: the second finds the base on the card.
    let both = with_session(&on_card(), |_| with_session(&on_card(), tokens).unwrap()).unwrap();
    assert_eq!(both, cpu);
    // A program that knows no devices: what lies behind its struct is not read.
    let old = lowrank_limits { size: offset_of!(lowrank_limits, device), ..on_card() };
    assert_eq!(with_session(&old, tokens).unwrap(), cpu);
}

/// The embedding of the second of two texts.
fn embedding(limits: &lowrank_encoder_limits) -> Result<Vec<f32>, Box<lowrank_error>> {
    driver();
    let archive = bert(&BERT, Format::F16, Format::F16, true, 3);
    let (mut base_room, mut encoder_room) =
        ([0; LOWRANK_BASE_BYTES / 8], [0; LOWRANK_ENCODER_BYTES / 8]);
    let (mut base, mut encoder, mut error) = (null_mut(), null_mut(), empty_error());
    let mut need = lowrank_need { bytes: 0, kv_bytes: 0 };
    // SAFETY: plain memory of this function, which outlives the objects in it.
    unsafe {
        let (memory, bytes) = room(&mut base_room);
        let data = archive.as_ptr().cast();
        assert_eq!(lowrank_bert_open(memory, bytes, data, archive.len(), &mut base, null_mut()), 0);
        if lowrank_encoder_need(base, limits, &mut need, &mut error) != 0 {
            return Err(Box::new(error));
        }
        let mut work = Memory::new(Need { bytes: need.bytes, kv_bytes: 0 });
        let work = work.as_mut();
        let (memory, bytes) = room(&mut encoder_room);
        let opened = lowrank_encoder_open(
            memory,
            bytes,
            base,
            limits,
            work.as_mut_ptr().cast(),
            work.len(),
            null(),
            &mut encoder,
            &mut error,
        );
        if opened != 0 {
            return Err(Box::new(error));
        }
        let (tokens, lengths) = ([1u32, 5, 9, 2, 1, 33, 2], [4usize, 3]);
        let (tokens, lengths) = (tokens.as_ptr(), lengths.as_ptr());
        let encoded = lowrank_encoder_encode(encoder, tokens, null(), 7, lengths, 2, null_mut());
        assert_eq!(encoded, 0);
        let (mut vector, mut count) = (null(), 0);
        let code = lowrank_encoder_embedding(encoder, 1, &mut vector, &mut count, null_mut());
        assert_eq!(code, 0);
        let vector = std::slice::from_raw_parts(vector, count).to_vec();
        assert_eq!(lowrank_encoder_close(encoder, null_mut()), 0);
        assert_eq!(lowrank_base_close(base, null_mut()), 0);
        Ok(vector)
    }
}

#[test]
fn an_encoder_on_a_card_gives_the_vectors_of_one_on_the_cpu() {
    let limits =
        lowrank_encoder_limits { batch: 2, tokens: 12, ..lowrank_encoder_limits_default(12) };
    let on_card = lowrank_encoder_limits { device: LOWRANK_DEVICE_CUDA, ..limits };
    let (cpu, cuda) = (embedding(&limits).unwrap(), embedding(&on_card).unwrap());
    assert_eq!(cpu.len(), BERT.dim);
    assert!(cpu.iter().zip(&cuda).all(|(a, b)| (a - b).abs() <= 1e-5) && cpu != [0.0; 36]);
    // As programs from before had it: without a card, and a zero where the device is now.
    let size = offset_of!(lowrank_encoder_limits, card);
    assert_eq!(embedding(&lowrank_encoder_limits { size, ..limits }).unwrap(), cpu);
    let refused = embedding(&lowrank_encoder_limits { card: 3, ..on_card }).unwrap_err();
    assert!(refused.code == DEVICE && sentence(&refused).contains("no card 3"));
    let refused = embedding(&lowrank_encoder_limits { device: 9, ..limits }).unwrap_err();
    assert_eq!(refused.code, 1008);
}

#[test]
fn what_a_card_cannot_do_is_said_when_the_session_is_opened() {
    for (limits, code, part) in [
        (lowrank_limits { card: 7, ..on_card() }, DEVICE, "there is no card 7: 1 found"),
        (lowrank_limits { kv_format: LOWRANK_KV_INT8, ..on_card() }, DEVICE, "f16 or f32"),
        (lowrank_limits { precision: LOWRANK_PRECISION_FAST, ..on_card() }, DEVICE, "exact"),
        (lowrank_limits { device: 2, ..limits() }, 1008, "unknown constant 2"),
        (lowrank_limits { size: 8, ..on_card() }, 1017, "size"),
    ] {
        let error = with_session(&limits, |_| ()).unwrap_err();
        let text = sentence(&error);
        assert_eq!(error.code, code, "{text}");
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn a_device_that_is_lost_is_told_in_the_drivers_words() {
    let name = "a_device_that_is_lost_is_told_in_the_drivers_words";
    if !cuda_driver::is_planted(name, ("SOFTPTX_LOSE_AFTER", "70")) {
        return;
    }
    let failed = |session: *mut lowrank_session| {
        let mut error = empty_error();
        let prompt = |sequence, error: &mut lowrank_error| {
            // SAFETY: an open session and plain memory of this function.
            unsafe { lowrank_session_prefill(session, sequence, PROMPT.as_ptr(), 5, error) }
        };
        assert_eq!(prompt(0, &mut error), 0);
        let failed = (0..8).any(|_| prompt(0, &mut error) != 0);
        assert!(failed && error.code == DEVICE);
        let first = sentence(&error);
        assert!(first.contains("the device was lost"), "{first}");
        error = empty_error();
        assert_eq!(prompt(1, &mut error), DEVICE);
        assert_eq!(sentence(&error), first);
    };
    with_session(&on_card(), failed).unwrap();
    with_session(&limits(), tokens).unwrap();
}
