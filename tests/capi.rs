//! The C interface from Rust: sentences and numbers of errors, the chat template, one session under
//! two threads. What C sees, and every hostile argument, is in `examples/c`.

mod common;
mod model_folder;

use std::ffi::{CStr, c_char, c_void};
use std::mem::MaybeUninit;
use std::ptr::{null, null_mut};

use common::{CONFIG, base};
use lowrank::ffi::*;
use lowrank::import::BaseOptions;
use lowrank::model::llama::Llama;
use lowrank::quant::Format;
use lowrank::runtime::{KvFormat, Limits, Memory, need};
use lowrank::text::{Message, TemplateVariables, Tokenizer};
use lowrank::{Error, Field};
use model_folder::Folder;

/// Memory for an object; C's `uint64_t memory[BYTES / 8]`.
type Room<const WORDS: usize> = [u64; WORDS];

fn room<const WORDS: usize>(room: &mut Room<WORDS>) -> (*mut c_void, usize) {
    (room.as_mut_ptr().cast(), size_of_val(room))
}

fn open_base(memory: &mut Room<{ LOWRANK_BASE_BYTES / 8 }>, archive: &[u8]) -> *mut lowrank_base {
    let (memory, bytes) = room(memory);
    let mut base = null_mut();
    // SAFETY: memory and archive outlive the test's use of the base.
    let code = unsafe {
        lowrank_base_open(
            memory,
            bytes,
            archive.as_ptr().cast(),
            archive.len(),
            &mut base,
            null_mut(),
        )
    };
    assert_eq!(code, 0);
    base
}

fn sentence(error: &lowrank_error) -> String {
    let mut buffer = [0u8; 300];
    // SAFETY: plain memory of this function.
    let length = unsafe { lowrank_error_message(error, buffer.as_mut_ptr().cast(), buffer.len()) };
    let text = CStr::from_bytes_until_nul(&buffer).unwrap().to_str().unwrap();
    assert_eq!(text.len(), length);
    text.to_owned()
}

#[test]
fn an_error_crosses_with_its_code_its_numbers_and_its_sentence() {
    let archive = base(&CONFIG, Format::Nf4, Format::Int8, 1);
    let mut memory = [0; _];
    let model = open_base(&mut memory, &archive);
    let limits = lowrank_limits { context: 999, ..lowrank_limits_default(1) };
    let (mut needed, mut error) =
        (lowrank_need { bytes: 0, kv_bytes: 0 }, MaybeUninit::<lowrank_error>::uninit());
    // SAFETY: plain memory of this function; a failed call fills the error.
    let (code, mut error) = unsafe {
        let code = lowrank_session_need(model, &limits, &mut needed, error.as_mut_ptr());
        (code, error.assume_init())
    };
    let expected = Error::Limit { field: Field::Context, found: 999, most: CONFIG.context };
    assert_eq!((code, error.code, error.count), (expected.code(), expected.code(), 3));
    assert_eq!(error.numbers[1..3], [999, CONFIG.context as u64]);
    assert_eq!(sentence(&error), expected.to_string());

    // Numbers that this code cannot have: its static sentence, not a wild value.
    let forged = lowrank_error { numbers: [u64::MAX; LOWRANK_NUMBERS], ..error };
    assert!(sentence(&forged).contains("unknown"));
    // SAFETY: the end is cut, at a whole character, and the whole length told.
    unsafe {
        let mut short = [1u8; 8];
        let length = lowrank_error_message(&error, short.as_mut_ptr().cast(), short.len());
        assert_eq!((length, &short), (expected.to_string().len(), b"the con\0"));
    }

    // A device that this library does not have.
    if lowrank_features() & LOWRANK_FEATURE_CUDA == 0 {
        let limits = lowrank_limits { device: LOWRANK_DEVICE_CUDA, ..lowrank_limits_default(1) };
        // SAFETY: plain memory of this function.
        let code = unsafe { lowrank_session_need(model, &limits, &mut needed, &mut error) };
        assert_eq!((code, error.code), (1019, 1019));
        assert!(sentence(&error).contains("built without cuda"), "{}", sentence(&error));
    }

    // A need of C is the need of Rust.
    for (kv_format, rust) in [
        (LOWRANK_KV_F32, KvFormat::F32),
        (LOWRANK_KV_F16, KvFormat::F16),
        (LOWRANK_KV_INT8, KvFormat::Int8),
    ] {
        let limits = lowrank_limits { kv_format, ..lowrank_limits_default(32) };
        // SAFETY: plain memory of this function.
        assert_eq!(unsafe { lowrank_session_need(model, &limits, &mut needed, null_mut()) }, 0);
        let rust = need(&CONFIG, &Limits { kv_format: rust, ..Limits::new(32) });
        assert_eq!((needed.bytes, needed.kv_bytes), (rust.bytes, rust.kv_bytes));
    }
}

#[test]
fn every_code_has_a_text_of_its_own() {
    let mut seen = std::collections::HashSet::new();
    for (code, name, text) in codes() {
        // SAFETY: a static string.
        let found = unsafe { CStr::from_ptr(lowrank_code_text(code)) }.to_str().unwrap();
        assert_eq!(found, text, "{name}");
        assert!(seen.insert(found));
    }
}

/// A tiny base with a tokenizer of three words and this chat template.
fn base_with_template(template: &str) -> lowrank::archive::Buffer {
    let mut folder = Folder::golden("tiny-llama");
    let vocab: serde_json::Value = ["a", "b", "c"]
        .iter()
        .enumerate()
        .map(|(i, word)| (word.to_string(), serde_json::Value::from(i)))
        .collect();
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "added_tokens": [],
        "pre_tokenizer": { "type": "Whitespace" }, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "a" },
    });
    folder.files.insert("tokenizer.json".into(), serde_json::to_vec(&tokenizer).unwrap());
    folder.files.insert("chat_template.jinja".into(), template.into());
    folder.import(&BaseOptions::default()).unwrap()
}

#[test]
fn a_chat_template_that_never_ends_is_an_error_and_no_abort() {
    for template in [
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% macro f() %}{{ g() }}{% endmacro %}{% macro g() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% macro f(g) %}{{ g(g) }}{% endmacro %}{{ f(f) }}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(80) }}",
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
    ] {
        let archive = base_with_template(template);
        let mut memory = [0; _];
        let model = open_base(&mut memory, &archive);
        let mut text_memory: Room<{ LOWRANK_TEXT_BYTES / 8 }> = [0; _];
        let (place, bytes) = room(&mut text_memory);
        let (mut text, mut length, mut buffer) = (null_mut(), 0, [0u8; 100]);
        let message = lowrank_message {
            role: "user".as_ptr().cast(),
            role_bytes: 4,
            content: "a".as_ptr().cast(),
            content_bytes: 1,
        };
        let mut error = MaybeUninit::uninit();
        // SAFETY: plain memory of this function; an error is filled in where a code is not 0.
        let error = unsafe {
            assert_eq!(lowrank_text_open(place, bytes, model, &mut text, null_mut()), 0);
            let to = buffer.as_mut_ptr().cast();
            let code = lowrank_render_chat(
                text,
                &message,
                1,
                null(),
                0,
                1,
                to,
                100,
                &mut length,
                error.as_mut_ptr(),
            );
            assert_ne!(code, 0, "{template}");
            assert_eq!(lowrank_text_close(text, null_mut()), 0);
            error.assume_init()
        };
        let said = sentence(&error);
        assert!(said.contains("chat template") && !said.contains('\n'), "{template}: {said}");
    }
}

#[test]
fn the_chat_template_is_applied() {
    let archive = base_with_template(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}>{% endif %}{% if thinks is false %}!{% endif %}",
    );
    let mut memory = [0; _];
    let model = open_base(&mut memory, &archive);
    let mut text_memory: Room<{ LOWRANK_TEXT_BYTES / 8 }> = [0; _];
    let (place, bytes) = room(&mut text_memory);
    let mut text = null_mut();
    let message = |role: &'static str, content: &'static str| lowrank_message {
        role: role.as_ptr().cast(),
        role_bytes: role.len(),
        content: content.as_ptr().cast(),
        content_bytes: content.len(),
    };
    let messages = [message("user", "a b"), message("assistant", "c é")];
    let mut buffer = [0u8; 100];
    let mut length = 0;
    // SAFETY: plain memory of this function.
    unsafe {
        assert_eq!(lowrank_text_open(place, bytes, model, &mut text, null_mut()), 0);
        let mut chat = |capacity| {
            let to: *mut c_char = buffer.as_mut_ptr().cast();
            lowrank_render_chat(
                text,
                messages.as_ptr(),
                messages.len(),
                null(),
                0,
                1,
                to,
                capacity,
                &mut length,
                null_mut(),
            )
        };
        assert_eq!(chat(5), 1007);
        assert_eq!(chat(100), 0);
    }
    assert_eq!(&buffer[..length], "user: a b\nassistant: c é\n>".as_bytes());
    let variable = |name: &'static str, value: &'static str| lowrank_template_variable {
        name: name.as_ptr().cast(),
        name_bytes: name.len(),
        value: value.as_ptr().cast(),
        value_bytes: value.len(),
    };
    let mut chat_with = |name, value| {
        let variables = [variable(name, value)];
        // SAFETY: plain memory of this function.
        unsafe {
            lowrank_render_chat(
                text,
                messages.as_ptr(),
                messages.len(),
                variables.as_ptr(),
                1,
                1,
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                &mut length,
                null_mut(),
            )
        }
    };
    assert_ne!(chat_with("messages", "1"), 0, "the conversation sets it");
    assert_eq!(chat_with("thinks", "false"), 0);
    // SAFETY: opened above.
    unsafe {
        assert_eq!(lowrank_text_close(text, null_mut()), 0);
    }
    let tokenizer = Tokenizer::new(&Llama::open(&archive).unwrap()).unwrap();
    let mut variables = TemplateVariables::new();
    variables.set("thinks", "false").unwrap();
    let messages = [Message::new("user", "a b"), Message::new("assistant", "c é")];
    let expected = tokenizer.render_chat_with(&messages, true, &variables).unwrap();
    assert_eq!(&buffer[..length], expected.as_bytes());
    assert_eq!(expected, "user: a b\nassistant: c é\n>!");
}

/// A pointer that goes to another thread.
/// A session over `base` for `batch` sequences, one thread.
fn open_session(
    base: *mut lowrank_base,
    batch: usize,
    place: &mut Room<{ LOWRANK_SESSION_BYTES / 8 }>,
    workspace: &mut Memory,
) -> *mut lowrank_session {
    let limits = lowrank_limits { batch, prefill_chunk: 4, ..lowrank_limits_default(32) };
    *workspace = Memory::new(need(&CONFIG, &Limits { batch, prefill_chunk: 4, ..Limits::new(32) }));
    let (work, (place, bytes), mut session) = (workspace.as_mut(), room(place), null_mut());
    // SAFETY: the caller's memory outlives the session.
    let code = unsafe {
        let (start, len) = (work.as_mut_ptr().cast(), work.len());
        lowrank_session_open(
            place,
            bytes,
            base,
            &limits,
            start,
            len,
            null(),
            &mut session,
            null_mut(),
        )
    };
    assert_eq!(code, 0);
    session
}

/// The logits after the last token of a sequence.
fn logits(session: *mut lowrank_session, sequence: usize) -> Vec<f32> {
    let (mut first, mut count) = (null(), 0);
    // SAFETY: an open session, whose workspace holds the logits.
    unsafe {
        assert_eq!(
            lowrank_session_logits(session, sequence, &mut first, &mut count, null_mut()),
            0
        );
        std::slice::from_raw_parts(first, count).to_vec()
    }
}

#[test]
fn prompts_and_steps_share_passes_and_beginnings_are_copied() {
    let archive = base(&CONFIG, Format::Nf4, Format::Int8, 1);
    let (mut memory, mut places, mut workspaces) =
        ([0; _], [[0; _], [0; _]], [Memory::default(), Memory::default()]);
    let model = open_base(&mut memory, &archive);
    let [place, other_place] = &mut places;
    let [workspace, other_workspace] = &mut workspaces;
    let mixed = open_session(model, 3, place, workspace);
    let single = open_session(model, 1, other_place, other_workspace);
    let close = |found: &[f32], expected: &[f32]| {
        found.iter().zip(expected).all(|(a, b)| (a - b).abs() <= 1e-4 * (1.0 + b.abs()))
    };
    let prompt = [5u32, 6, 7, 8, 9, 10, 11];
    let chunk = |sequence, tokens: &[u32]| lowrank_chunk {
        sequence,
        tokens: tokens.as_ptr(),
        count: tokens.len(),
    };
    let error = null_mut();
    // SAFETY: plain memory of this function.
    unsafe {
        let chunks = [chunk(2, &prompt), chunk(0, &prompt[..1])];
        assert_eq!(lowrank_session_advance(mixed, chunks.as_ptr(), 2, error), 0);
        assert_eq!(lowrank_session_prefill(single, 0, prompt.as_ptr(), prompt.len(), error), 0);
        assert!(close(&logits(mixed, 2), &logits(single, 0)));
        assert_eq!(lowrank_session_fork(mixed, 2, 1, 3, error), 0);
        let chunks = [chunk(0, &prompt[1..4]), chunk(1, &prompt[3..])];
        assert_eq!(lowrank_session_advance(mixed, chunks.as_ptr(), 2, error), 0);
        assert!(close(&logits(mixed, 1), &logits(single, 0)));
        assert_eq!(lowrank_session_rewind(single, 0, 4, error), 0);
        assert_eq!(lowrank_session_rewind(single, 0, 3, error), 0);
        assert_eq!(
            lowrank_session_step(single, &lowrank_next { sequence: 0, token: 8 }, 1, error),
            0
        );
        assert!(close(&logits(mixed, 0), &logits(single, 0)));
        assert_eq!(lowrank_session_cancel(mixed, 1, error), 0);
        let (mut left, empty) = (0, chunk(1, &[]));
        assert_eq!(lowrank_session_room(mixed, 1, &mut left, error), 0);
        assert_eq!(left, 32);
        let length = Error::Length { have: 0, need: 1 }.code();
        assert_eq!(lowrank_session_advance(mixed, &empty, 1, error), length);
        for session in [mixed, single] {
            assert_eq!(lowrank_session_close(session, error), 0);
        }
    }
}

#[derive(Clone, Copy)]
struct Shared(*mut lowrank_session);
// SAFETY: the promise under test: a session refuses a second call while one is running.
unsafe impl Send for Shared {}

#[test]
fn a_session_that_two_threads_use_refuses_one_of_them_and_stays_whole() {
    let archive = base(&CONFIG, Format::Nf4, Format::Int8, 1);
    let (mut memory, mut session_memory) = ([0; _], [0u64; LOWRANK_SESSION_BYTES / 8]);
    let model = open_base(&mut memory, &archive);
    let limits = lowrank_limits_default(32);
    let mut workspace = Memory::new(need(&CONFIG, &Limits::new(32)));
    let work = workspace.as_mut();
    let (place, bytes) = room(&mut session_memory);
    let mut session = null_mut();
    // SAFETY: plain memory of this function, which waits for its threads.
    unsafe {
        let (start, len) = (work.as_mut_ptr().cast(), work.len());
        assert_eq!(
            lowrank_session_open(
                place,
                bytes,
                model,
                &limits,
                start,
                len,
                null(),
                &mut session,
                null_mut()
            ),
            0
        );
    }
    let shared = Shared(session);
    let feed = move || {
        let shared = shared;
        let mut taken = 0;
        for _ in 0..32 {
            let next = lowrank_next { sequence: 0, token: 5 };
            // SAFETY: as above.
            match unsafe { lowrank_session_step(shared.0, &next, 1, null_mut()) } {
                0 => taken += 1,
                code => assert!(
                    code == 1006 || code == Error::ContextFull { asked: 0, context: 0 }.code(),
                    "code {code}"
                ),
            }
        }
        taken
    };
    let taken: usize = std::thread::scope(|scope| {
        [scope.spawn(feed), scope.spawn(feed)].map(|thread| thread.join().unwrap()).iter().sum()
    });
    let mut left = 0;
    // SAFETY: as above.
    unsafe {
        assert_eq!(lowrank_session_room(session, 0, &mut left, null_mut()), 0);
        assert_eq!(lowrank_session_close(session, null_mut()), 0);
    }
    assert_eq!(taken + left, 32, "every token that was taken is there, and no other");
}
