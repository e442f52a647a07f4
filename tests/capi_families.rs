//! Through the C interface: LSTM layers and multilayer perceptrons run as Rust runs them; a run
//! learns from examples in memory, is told to keep what it has, and its result is used without a
//! file; texts are scored and generated; a base is imported and measured.

use std::ffi::{CString, c_char, c_void};
use std::path::Path;
use std::ptr::{null, null_mut};

use lowrank::archive::{ArchiveFile, Buffer};
use lowrank::ffi::*;
use lowrank::import::{BaseOptions, fresh_to_buffer};
use lowrank::model::{llama::Llama, lstm::Lstm, mlp::Mlp};
use lowrank::quant::Format;
use lowrank::runtime::*;

type Open = unsafe extern "C" fn(
    *mut c_void,
    usize,
    *const c_void,
    usize,
    *mut *mut lowrank_base,
    *mut lowrank_error,
) -> u32;

fn place(bytes: usize) -> (*mut c_void, usize) {
    let memory = Box::leak(vec![0u64; bytes / 8].into_boxed_slice());
    (memory.as_mut_ptr().cast(), bytes)
}

fn open(archive: &[u8], open: Open) -> *mut lowrank_base {
    let ((memory, bytes), mut base) = (place(LOWRANK_BASE_BYTES), null_mut());
    let (start, len) = (archive.as_ptr().cast(), archive.len());
    // SAFETY: memory that is never given back, and an archive that outlives the test's use.
    assert_eq!(unsafe { open(memory, bytes, start, len, &mut base, null_mut()) }, 0);
    base
}

fn fresh(config: &str) -> Buffer {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    std::fs::write(&path, config).unwrap();
    let floats = BaseOptions {
        weights: Format::F32,
        embedding: Format::F32,
        allow_missing_tokenizer: true,
        ..BaseOptions::default()
    };
    fresh_to_buffer(&path, 1, &floats).unwrap()
}

fn told(values: *const f32, count: usize) -> Vec<f32> {
    // SAFETY: what a call told, in a workspace until the next one.
    unsafe { std::slice::from_raw_parts(values, count) }.to_vec()
}

fn kind(archive: &[u8]) -> u32 {
    let mut kind = 0;
    let (start, len) = (archive.as_ptr().cast(), archive.len());
    // SAFETY: plain memory.
    assert_eq!(unsafe { lowrank_archive_kind(start, len, &mut kind, null_mut()) }, 0);
    kind
}

const MLP: &str =
    r#"{"model_type": "mlp", "input_size": 2, "hidden_sizes": [8], "output_size": 2}"#;

#[test]
fn a_predictor_gives_rusts_outputs() {
    let archive = fresh(MLP);
    assert_eq!(kind(&archive), LOWRANK_KIND_MLP);
    let model = Mlp::open(&archive).unwrap();
    let limits = PredictorLimits::new(2);
    let features = [0.5f32, -1.0, 2.0, 0.25];
    let mut memory = Memory::new(predictor_need(model.config(), &limits));
    let mut rust = Predictor::new(model, &limits, memory.as_mut(), &Serial).unwrap();
    rust.infer(&features).unwrap();

    let base = open(&archive, lowrank_mlp_open);
    let c_limits = lowrank_predictor_limits_default(2);
    let mut need = lowrank_need { bytes: 0, kv_bytes: 0 };
    let ((at, bytes), mut predictor) = (place(LOWRANK_PREDICTOR_BYTES), null_mut());
    let mut work = Memory::new(predictor_need(model.config(), &limits));
    let (work, e) = (work.as_mut(), null_mut());
    let (start, len) = (work.as_mut_ptr().cast(), work.len());
    // SAFETY: plain memory of this function.
    unsafe {
        assert_eq!(lowrank_predictor_need(base, &c_limits, &mut need, e), 0);
        assert_eq!(need.bytes, len);
        let code = lowrank_predictor_open(
            at,
            bytes,
            base,
            &c_limits,
            start,
            len,
            null(),
            &mut predictor,
            e,
        );
        assert_eq!(code, 0);
        assert_eq!(lowrank_predictor_infer(predictor, features.as_ptr(), 4, e), 0);
        let (mut values, mut count) = (null(), 0);
        for row in 0..2 {
            assert_eq!(lowrank_predictor_outputs(predictor, row, &mut values, &mut count, e), 0);
            assert_eq!(told(values, count), rust.outputs(row).unwrap());
        }
        // A session is for decoders.
        let mut session = null_mut();
        let limits = lowrank_limits_default(8);
        let code =
            lowrank_session_open(at, bytes, base, &limits, start, len, null(), &mut session, e);
        assert_eq!((code, session), (5, null_mut()));
    }
}

#[test]
fn a_recurrent_session_gives_rusts_outputs() {
    let archive = fresh(
        r#"{"model_type": "lstm", "tokenizer": "bytes", "embedding_size": 4, "hidden_size": 6,
            "num_layers": 2}"#,
    );
    assert_eq!(kind(&archive), LOWRANK_KIND_LSTM);
    let model = Lstm::open(&archive).unwrap();
    let limits = RecurrentLimits::new();
    let mut memory = Memory::new(recurrent_need(model.config(), &limits));
    let mut rust = Recurrent::new(model, &limits, memory.as_mut(), &Serial).unwrap();
    rust.prefill(0, &[1, 2]).unwrap();
    rust.step(&[(0, 3)]).unwrap();

    let base = open(&archive, lowrank_lstm_open);
    let c_limits = lowrank_recurrent_limits_default();
    let ((at, bytes), mut recurrent) = (place(LOWRANK_RECURRENT_BYTES), null_mut());
    let mut work = Memory::new(recurrent_need(model.config(), &limits));
    let (work, e) = (work.as_mut(), null_mut());
    let (start, len) = (work.as_mut_ptr().cast(), work.len());
    // SAFETY: plain memory of this function.
    unsafe {
        let code = lowrank_recurrent_open(
            at,
            bytes,
            base,
            &c_limits,
            start,
            len,
            null(),
            &mut recurrent,
            e,
        );
        assert_eq!(code, 0);
        assert_eq!(lowrank_recurrent_prefill(recurrent, 0, [1, 2].as_ptr(), 2, e), 0);
        let next = lowrank_next { sequence: 0, token: 3 };
        assert_eq!(lowrank_recurrent_step(recurrent, &next, 1, e), 0);
        let (mut values, mut count) = (null(), 0);
        assert_eq!(lowrank_recurrent_hidden(recurrent, 0, &mut values, &mut count, e), 0);
        assert_eq!(told(values, count), rust.hidden(0).unwrap());
    }
}

fn tiny() -> ArchiveFile {
    ArchiveFile::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/tiny.lrk")).unwrap()
}

/// Keeps what was learnt after three steps.
unsafe extern "C" fn keep(context: *mut c_void, progress: *const lowrank_train_progress) -> u32 {
    // SAFETY: the test's own count, and what the library tells.
    unsafe { *context.cast::<u64>() = (*progress).step };
    // SAFETY: as above.
    if unsafe { (*progress).step } < 3 { LOWRANK_TRAIN_CONTINUE } else { LOWRANK_TRAIN_KEEP }
}

#[test]
fn a_run_learns_from_memory_keeps_what_it_has_and_leaves_no_file() {
    let archive = tiny();
    let (start, len) = (archive.as_ptr().cast(), archive.len());
    let none = lowrank_example {
        text: null(),
        completion: null(),
        label: null(),
        tokens: null(),
        token_count: 0,
        features: null(),
        feature_count: 0,
    };
    let tokens = [256u32, 65, 66, 67];
    let examples = [
        lowrank_example { text: c"A boat:".as_ptr(), completion: c" arr".as_ptr(), ..none },
        lowrank_example { tokens: tokens.as_ptr(), token_count: 4, ..none },
    ];
    let options = lowrank_train_options {
        examples: examples.as_ptr(),
        example_count: 2,
        steps: 50,
        threads: 1,
        name: c"kept".as_ptr(),
        ..lowrank_train_options_default()
    };
    let ((at, bytes), mut file, mut seen) = (place(LOWRANK_FILE_BYTES), null_mut(), 0u64);
    let context: *mut c_void = (&raw mut seen).cast();
    let mut estimate =
        lowrank_train_memory { trainable_parameters: 0, heap_bytes: 0, peak_bytes: 0 };
    let e = null_mut();
    let train = |options: &lowrank_train_options, file: *mut *mut lowrank_file| {
        // SAFETY: plain memory of this function.
        unsafe {
            lowrank_train_in_memory(
                at,
                bytes,
                start,
                len,
                options,
                Some(keep),
                context,
                null_mut(),
                file,
                e,
            )
        }
    };
    assert_eq!(train(&options, &mut file), 0);
    // SAFETY: as above.
    unsafe {
        assert_eq!(*context.cast::<u64>(), 3);
        let (mut made, mut made_bytes) = (null(), 0);
        assert_eq!(lowrank_file_archive(file, &mut made, &mut made_bytes, e), 0);
        assert_eq!(kind(std::slice::from_raw_parts(made.cast(), made_bytes)), LOWRANK_KIND_ADAPTER);
        let ((at, bytes), mut adapter) = (place(LOWRANK_ADAPTER_BYTES), null_mut());
        assert_eq!(lowrank_adapter_open(at, bytes, made, made_bytes, &mut adapter, e), 0);
        assert_eq!(lowrank_adapter_close(adapter, e), 0);
        assert_eq!(lowrank_file_close(file, e), 0);
        assert_eq!(lowrank_train_estimate(start, len, &options, &mut estimate, e), 0);
    }
    assert!(estimate.trainable_parameters > 0 && estimate.peak_bytes > estimate.heap_bytes);
    // An output would be a second result; an example of no kind is none.
    let output = lowrank_train_options { output: c"x.lrk".as_ptr(), ..options };
    assert_eq!((train(&output, &mut file), file), (1015, null_mut()));
    let odd = [lowrank_example { completion: c"arr".as_ptr(), ..none }];
    let odd = lowrank_train_options { examples: odd.as_ptr(), example_count: 1, ..options };
    assert_eq!(train(&odd, &mut file), 1015);
}

/// Appends what it is told to a string.
unsafe extern "C" fn hear(context: *mut c_void, piece: *const c_char, bytes: usize) -> u32 {
    // SAFETY: the test's own string, and what the library tells.
    unsafe {
        let piece = std::slice::from_raw_parts(piece.cast(), bytes);
        (*context.cast::<String>()).push_str(std::str::from_utf8(piece).unwrap());
    }
    0
}

#[test]
fn texts_are_generated_scored_and_sampled_from_changed_logits() {
    let archive = tiny();
    let base = open(&archive, lowrank_base_open);
    let mut limits = lowrank_limits_default(1);
    let size = limits.size;
    let e = null_mut();
    let ((at, bytes), mut session) = (place(LOWRANK_SESSION_BYTES), null_mut());
    let ((text_at, text_bytes), mut text) = (place(LOWRANK_TEXT_BYTES), null_mut());
    let ((sampler_at, sampler_bytes), mut sampler) = (place(LOWRANK_SAMPLER_BYTES), null_mut());
    let (mut heard, prompt) = (String::new(), "Duck");
    let mut reply = lowrank_reply { prompt_tokens: 0, tokens: 0, ended: 9 };
    let model = Llama::open(&archive).unwrap();
    // SAFETY: plain memory of this function.
    unsafe {
        assert_eq!(lowrank_limits_for_model(base, 64, 3, &mut limits, size, e), 0);
        assert_eq!((limits.context, limits.threads, limits.size), (64, 3, size));
        assert_eq!(lowrank_limits_for_model(base, 64, 3, &mut limits, 5, e), 1017);
        // By prompt lookup, which writes what is written without it.
        limits = lowrank_limits { draft: 4, ..lowrank_limits_default(64) };
        let drafting = Limits { draft: 4, ..Limits::new(64) };
        let mut work = Memory::new(need(model.config(), &drafting));
        let work = work.as_mut();
        let (start, len) = (work.as_mut_ptr().cast(), work.len());
        let code =
            lowrank_session_open(at, bytes, base, &limits, start, len, null(), &mut session, e);
        assert_eq!(code, 0);
        assert_eq!(lowrank_text_open(text_at, text_bytes, base, &mut text, e), 0);
        let code = lowrank_sampler_open(sampler_at, sampler_bytes, null(), &mut sampler, e);
        assert_eq!(code, 0);
        let code = lowrank_generate(
            session,
            0,
            text,
            sampler,
            prompt.as_ptr().cast(),
            prompt.len(),
            12,
            Some(hear),
            (&raw mut heard).cast(),
            &mut reply,
            e,
        );
        assert_eq!((code, reply.prompt_tokens), (0, 5));
        let (mut tokens, mut count) = (null(), 0);
        assert_eq!(lowrank_session_tokens(session, 0, &mut tokens, &mut count, e), 0);
        let all = std::slice::from_raw_parts(tokens, count).to_vec();
        assert_eq!(all.len(), 5 + reply.tokens);
        let reply_text: Vec<u8> = all[5..].iter().map(|&token| token as u8).collect();
        assert_eq!(heard.as_bytes(), reply_text);
        let mut plain = Memory::new(need(model.config(), &Limits::new(64)));
        let mut plain = Session::new(model, &Limits::new(64), plain.as_mut(), &Serial).unwrap();
        plain.prefill(0, &all[..5]).unwrap();
        for &token in &all[5..] {
            assert_eq!(plain.sample(0, &mut Sampler::greedy()), Ok(token));
            plain.step(&[(0, token)]).unwrap();
        }

        // What greedy sampling chose is more probable than anything else, whatever was before.
        assert_eq!(lowrank_session_reset(session, 0, e), 0);
        let mut scores = vec![0.0f32; all.len()];
        let code =
            lowrank_session_score(session, 0, all.as_ptr(), all.len(), scores.as_mut_ptr(), e);
        assert_eq!(code, 0);
        assert!(scores[0].is_nan() && scores[1..].iter().all(|&score| score < 0.0));
        assert!(scores[5] > -(320f32.ln()), "{scores:?}");

        // Without the token that it would take, it takes another.
        let (mut logits, mut vocab) = (null(), 0);
        assert_eq!(lowrank_session_reset(session, 0, e), 0);
        assert_eq!(lowrank_session_prefill(session, 0, all.as_ptr(), 5, e), 0);
        assert_eq!(lowrank_session_logits(session, 0, &mut logits, &mut vocab, e), 0);
        let mut changed = told(logits, vocab);
        let mut scratch = vec![0u64; vocab];
        let mut choose = |changed: &[f32], bytes: usize| {
            let mut token = 0;
            let scratch = scratch.as_mut_ptr().cast();
            let (first, len) = (changed.as_ptr(), changed.len());
            let code = lowrank_sampler_sample(
                sampler,
                first,
                len,
                null(),
                0,
                scratch,
                bytes,
                &mut token,
                e,
            );
            (code, token)
        };
        assert_eq!(choose(&changed, 8 * vocab), (0, all[5]));
        changed[all[5] as usize] = f32::NEG_INFINITY;
        let (code, other) = choose(&changed, 8 * vocab);
        assert!(code == 0 && other != all[5]);
        assert_eq!(choose(&changed, 8 * vocab - 1).0, 1007);
    }
}

#[test]
fn a_base_is_imported_and_measured() {
    let folder = tempfile::tempdir().unwrap();
    let c = |path: &Path| CString::new(path.to_str().unwrap()).unwrap();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/gguf/tiny-llama.gguf");
    let (source, output) = (c(&golden), c(&folder.path().join("base.lrk")));
    let e = null_mut();
    // SAFETY: strings that live through the calls.
    let import = |options: *const lowrank_import_options| unsafe {
        lowrank_base_import(source.as_ptr(), output.as_ptr(), options, e)
    };
    assert_eq!(import(null()), 0);
    let wrong = lowrank_import_options { weights: 9, ..lowrank_import_options_default() };
    assert_eq!(import(&wrong), 1008);
    let archive = ArchiveFile::open(folder.path().join("base.lrk")).unwrap();
    assert_eq!(kind(&archive), LOWRANK_KIND_LLAMA);

    std::fs::write(folder.path().join("data.jsonl"), "{\"text\": \"hello there\"}\n").unwrap();
    let data = c(&folder.path().join("data.jsonl"));
    let options = lowrank_evaluate_options {
        data: data.as_ptr(),
        threads: 1,
        ..lowrank_evaluate_options_default()
    };
    // SAFETY: plain numbers.
    let mut metrics: lowrank_metrics = unsafe { std::mem::zeroed() };
    let (start, len) = (archive.as_ptr().cast(), archive.len());
    // SAFETY: plain memory of this function.
    let code = unsafe { lowrank_evaluate(start, len, &options, &mut metrics, e) };
    assert_eq!((code, metrics.examples), (0, 1));
    assert!((metrics.perplexity - metrics.loss.exp()).abs() < 1e-9 && metrics.accuracy.is_nan());
}
