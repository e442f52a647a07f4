//! Encoders, training and import through the C interface: the numbers and bytes are those that Rust
//! gives. What C sees, and every hostile argument, is in `examples/c`.

mod common;
mod model_folder;

use std::ffi::{CString, c_char, c_void};
use std::path::Path;
use std::ptr::{null, null_mut};

use lowrank::adapter::{Adapter, AdapterSet, Choice, Slot};
use lowrank::archive::{ArchiveFile, Buffer};
use lowrank::error::Error;
use lowrank::ffi::*;
use lowrank::import::{BaseOptions, HuggingFaceBert, bert_to_buffer, fresh_to_buffer, import_peft};
use lowrank::model::bert::{Bert, Pooling};
use lowrank::model::llama::Llama;
use lowrank::runtime::{
    Encoder, EncoderLimits, Limits, Memory, Serial, Session, encoder_need, need,
};
use lowrank::text::Tokenizer;
use lowrank::train::data::{DataOptions, Dataset, Task};
use lowrank::train::{
    AnyBase, Control, Length, Method, Options, RunOptions, ScheduleShape, Trainer, Warmup, finish,
    run,
};
use model_folder::golden;

/// Memory for an object.
fn room(room: &mut [u64]) -> (*mut c_void, usize) {
    (room.as_mut_ptr().cast(), size_of_val(room))
}

fn c(path: &Path) -> CString {
    CString::new(path.to_str().unwrap()).unwrap()
}

/// A base of `open`'s family, in memory that is never given back.
fn base_of(archive: &[u8], is_encoder: bool) -> *mut lowrank_base {
    let memory = Box::leak(Box::new([0u64; LOWRANK_BASE_BYTES / 8]));
    let (memory, bytes) = room(memory);
    let mut base = null_mut();
    let open = if is_encoder { lowrank_bert_open } else { lowrank_base_open };
    // SAFETY: memory and archive outlive the test's use of the base.
    let code = unsafe {
        open(memory, bytes, archive.as_ptr().cast(), archive.len(), &mut base, null_mut())
    };
    assert_eq!(code, 0);
    base
}

fn set_with(base: *mut lowrank_base, archive: &[u8]) -> *mut lowrank_set {
    let memory = Box::leak(Box::new([0u64; (LOWRANK_SET_HEAD_BYTES + LOWRANK_SLOT_BYTES) / 8]));
    let adapter_memory = Box::leak(Box::new([0u64; LOWRANK_ADAPTER_BYTES / 8]));
    let ((memory, bytes), (place, place_bytes)) = (room(memory), room(adapter_memory));
    let (mut set, mut adapter, mut generation) = (null_mut(), null_mut(), 0);
    // SAFETY: as above.
    unsafe {
        assert_eq!(lowrank_set_open(memory, bytes, base, 1, &mut set, null_mut()), 0);
        assert_eq!(
            lowrank_adapter_open(
                place,
                place_bytes,
                archive.as_ptr().cast(),
                archive.len(),
                &mut adapter,
                null_mut()
            ),
            0
        );
        assert_eq!(lowrank_set_replace(set, 0, 0, adapter, &mut generation, null_mut()), 0);
    }
    assert_eq!(generation, 1);
    set
}

const CHOICE: lowrank_choice = lowrank_choice { slot: 0, weight: 1.0, rank: 0 };

#[test]
fn an_encoder_gives_rusts_vectors_logits_and_labels() {
    let source = HuggingFaceBert::open(golden("tiny-bert")).unwrap();
    let options = BaseOptions { allow_missing_tokenizer: true, ..BaseOptions::default() };
    let archive = bert_to_buffer(&source, &options, &mut |_| {}).unwrap();
    let model = Bert::open(&archive).unwrap();
    let adapter = import_peft(golden("tiny-bert/adapters/classifier"), &model, &Default::default())
        .unwrap()
        .build(&model)
        .unwrap();
    let texts: [&[u32]; 2] = [&[2, 7, 9, 11, 3], &[2, 8, 3]];
    let types = [0u32, 0, 0, 1, 1, 0, 0, 0];
    let limits = EncoderLimits { batch: 2, tokens: 8, ..EncoderLimits::new(8) };

    let mut slots = [Slot::EMPTY];
    let mut set = AdapterSet::new(&mut slots, &model);
    set.attach(0, Adapter::open(&adapter).unwrap()).unwrap();
    let mut memory = Memory::new(encoder_need(model.config(), &limits));
    let mut encoder = Encoder::new(model, &limits, memory.as_mut(), &Serial).unwrap();
    encoder.select(1, &set, &[Choice::slot(0)]).unwrap();
    encoder.encode_with_types(&texts, &[&types[..5], &types[5..]]).unwrap();
    let labels: Vec<String> = encoder.classifier(1).unwrap().labels().map(String::from).collect();
    let mut expected = vec![0.0; labels.len()];
    encoder.classify(1, &mut expected).unwrap();

    let base = base_of(&archive, true);
    let c_set = set_with(base, &adapter);
    let c_limits =
        lowrank_encoder_limits { batch: 2, tokens: 8, ..lowrank_encoder_limits_default(8) };
    let mut workspace = Memory::new(encoder_need(model.config(), &limits));
    workspace.as_mut().fill(0xff);
    let work = workspace.as_mut();
    let mut place = [0u64; LOWRANK_ENCODER_BYTES / 8];
    let (place, bytes) = room(&mut place);
    let (mut needed, mut c_encoder) = (lowrank_need { bytes: 0, kv_bytes: 0 }, null_mut());
    let packed: Vec<u32> = texts.concat();
    let lengths = texts.map(<[u32]>::len);
    // SAFETY: plain memory of this function.
    unsafe {
        assert_eq!(lowrank_encoder_need(base, &c_limits, &mut needed, null_mut()), 0);
        assert_eq!(needed.bytes, encoder_need(model.config(), &limits).bytes);
        let (start, len) = (work.as_mut_ptr().cast(), work.len());
        assert_eq!(
            lowrank_encoder_open(
                place,
                bytes,
                base,
                &c_limits,
                start,
                len,
                null(),
                &mut c_encoder,
                null_mut()
            ),
            0
        );
        assert_eq!(lowrank_encoder_select(c_encoder, 1, c_set, &CHOICE, 1, null_mut()), 0);
        assert_eq!(
            lowrank_encoder_encode(
                c_encoder,
                packed.as_ptr(),
                types.as_ptr(),
                8,
                lengths.as_ptr(),
                2,
                null_mut()
            ),
            0
        );
    }
    let vector = |call: &dyn Fn(*mut *const f32, *mut usize) -> u32| {
        let (mut values, mut count) = (null(), 0);
        assert_eq!(call(&mut values, &mut count), 0);
        // SAFETY: what the call told, in the workspace until the next one.
        unsafe { std::slice::from_raw_parts(values, count) }.to_vec()
    };
    for sequence in 0..2 {
        // SAFETY: plain memory of this function.
        unsafe {
            let e = null_mut();
            assert_eq!(
                vector(&|v, n| lowrank_encoder_embedding(c_encoder, sequence, v, n, e)),
                encoder.embedding(sequence).unwrap()
            );
            assert_eq!(
                vector(&|v, n| lowrank_encoder_hidden(c_encoder, sequence, v, n, e)),
                encoder.hidden(sequence).unwrap()
            );
            for (pooling, number) in
                [(Pooling::Mean, LOWRANK_POOLING_MEAN), (Pooling::Cls, LOWRANK_POOLING_CLS)]
            {
                let ours =
                    vector(&|v, n| lowrank_encoder_pooled(c_encoder, sequence, number, v, n, e));
                assert_eq!(ours, encoder.pooled(sequence, pooling).unwrap());
            }
        }
    }
    let (mut logits, mut count, mut label) = (vec![f32::NAN; 8], 0, 99);
    // SAFETY: plain memory of this function.
    unsafe {
        assert_eq!(
            lowrank_encoder_classify(
                c_encoder,
                1,
                logits.as_mut_ptr(),
                8,
                &mut count,
                &mut label,
                null_mut()
            ),
            0
        );
        assert_eq!(logits[..count], expected);
        assert!(
            logits[..count].iter().all(|&logit| logit <= logits[label as usize])
                && logits[count].is_nan()
        );
        for (i, name) in labels.iter().enumerate() {
            let (mut text, mut bytes) = (null(), 0);
            assert_eq!(
                lowrank_encoder_label(c_encoder, 1, i as u32, &mut text, &mut bytes, null_mut()),
                0
            );
            assert_eq!(std::slice::from_raw_parts(text.cast::<u8>(), bytes), name.as_bytes());
        }
        assert_eq!(lowrank_encoder_close(c_encoder, null_mut()), 0);
    }
}

const BERT: &str = r#"{"model_type": "bert", "tokenizer": "bytes", "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 1,
    "num_attention_heads": 4, "max_position_embeddings": 40}"#;
const LLAMA: &str = r#"{"model_type": "llama", "tokenizer": "bytes", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "tie_word_embeddings": true}"#;

fn fresh(folder: &Path, json: &str) -> Buffer {
    let path = folder.join("small.json");
    std::fs::write(&path, json).unwrap();
    fresh_to_buffer(&path, 3, &BaseOptions::default()).unwrap()
}

#[test]
fn a_text_is_encoded_as_embed_does() {
    let folder = tempfile::tempdir().unwrap();
    let archive = fresh(folder.path(), BERT);
    let base = base_of(&archive, true);
    let tokenizer = Tokenizer::for_encoder(&Bert::open(&archive).unwrap()).unwrap();
    let mut place = [0u64; LOWRANK_TEXT_BYTES / 8];
    let (place, bytes) = room(&mut place);
    let mut text = null_mut();
    // SAFETY: plain memory of this function.
    unsafe {
        assert_eq!(lowrank_text_open(place, bytes, base, &mut text, null_mut()), 0);
        for (string, most) in [("a knife", 0), ("a knife", 5), ("", 0), (&"x".repeat(100), 0)] {
            let (mut tokens, mut count, mut cut) = ([0u32; 64], 0, 99);
            let to = tokens.as_mut_ptr();
            let code = lowrank_tokenize_for_encoder(
                text,
                string.as_ptr().cast(),
                string.len(),
                most,
                to,
                64,
                &mut count,
                &mut cut,
                null_mut(),
            );
            let expected =
                tokenizer.encode_text(string, if most == 0 { 40 } else { most }).unwrap();
            assert_eq!((code, &tokens[..count], cut), (0, &expected.0[..], expected.1));
        }
        assert_eq!(lowrank_text_close(text, null_mut()), 0);
    }
}

/// A watch that counts steps and validations, and stops after `stop` steps.
struct Watched {
    steps: u64,
    validations: u64,
    stop: u64,
}

unsafe extern "C" fn watch(context: *mut c_void, progress: *const lowrank_train_progress) -> u32 {
    // SAFETY: the context and the progress of the call below.
    let (watched, progress) = unsafe { (&mut *context.cast::<Watched>(), &*progress) };
    assert_eq!(progress.total, 6);
    match progress.is_validation {
        0 => watched.steps += 1,
        _ => watched.validations += 1,
    }
    (watched.steps == watched.stop).into()
}

fn train(
    archive: &[u8],
    options: &lowrank_train_options,
    stop: u64,
) -> (u32, Option<lowrank_train_report>, Watched) {
    let mut watched = Watched { steps: 0, validations: 0, stop };
    let mut report = std::mem::MaybeUninit::uninit();
    let context = (&raw mut watched).cast();
    // SAFETY: plain memory of this function and the caller's strings.
    unsafe {
        let code = lowrank_train(
            archive.as_ptr().cast(),
            archive.len(),
            options,
            Some(watch),
            context,
            report.as_mut_ptr(),
            null_mut(),
        );
        (code, (code == 0).then(|| report.assume_init()), watched)
    }
}

#[test]
fn training_gives_rusts_bytes_also_stopped_and_resumed_and_is_published() {
    let folder = tempfile::tempdir().unwrap();
    let archive = fresh(folder.path(), LLAMA);
    let [data, output, checkpoint] =
        ["data.jsonl", "user.lrk", "user.checkpoint"].map(|name| folder.path().join(name));
    let lines = ["knives stay sharp on wood", "soup is quick", "a map"]
        .map(|text| format!("{{\"text\": \"{text}\"}}\n"));
    std::fs::write(&data, lines.concat()).unwrap();

    let model = Llama::open(&archive).unwrap();
    let tokenizer = Tokenizer::new(&model).unwrap();
    let data_options = DataOptions { max_length: 32, ..DataOptions::default() };
    let open = || {
        Dataset::open(&data, Task::LanguageModel, Some(&tokenizer), data_options.clone()).unwrap()
    };
    let options = Options {
        rank: 2,
        alpha: 4.0,
        learning_rate: 1e-2,
        schedule: ScheduleShape::Linear,
        ..Options::new(Method::Lora)
    };
    let mut trainer = Trainer::new(AnyBase::open(&archive).unwrap(), options, Vec::new()).unwrap();
    let run_options = RunOptions {
        length: Length::Epochs(3),
        warmup: Warmup::Share(0.0),
        batch_size: 2,
        ..RunOptions::default()
    };
    let report = run(&mut trainer, &open(), Some(&open()), &run_options, &Serial, &mut |_| {
        Control::Continue
    })
    .unwrap();
    let expected = finish(&trainer, &report, "user").unwrap();

    let [c_data, c_output, c_checkpoint] = [&data, &output, &checkpoint].map(|path| c(path));
    let options = lowrank_train_options {
        data: c_data.as_ptr(),
        validation: c_data.as_ptr(),
        output: c_output.as_ptr(),
        method: LOWRANK_METHOD_LORA,
        rank: 2,
        epochs: 3,
        batch_size: 2,
        max_length: 32,
        learning_rate: 1e-2,
        threads: 2,
        ..lowrank_train_options_default()
    };
    let (code, told, watched) = train(&archive, &options, 0);
    let told = told.unwrap();
    assert_eq!(
        (code, watched.steps, watched.validations, told.steps, told.stopped),
        (0, 6, 3, 6, 0)
    );
    assert_eq!((told.loss, told.rows, told.rank), (report.loss, report.rows, 2));
    assert_eq!(told.validation_loss, report.validation.unwrap().loss);
    assert!(std::fs::read(&output).unwrap() == *expected, "the same bytes");

    std::fs::remove_file(&output).unwrap();
    let options = lowrank_train_options { checkpoint: c_checkpoint.as_ptr(), resume: 1, ..options };
    let (code, told, _) = train(&archive, &options, 2);
    assert_eq!((code, told.unwrap().stopped, told.unwrap().steps), (0, 1, 2));
    assert!(checkpoint.exists() && !output.exists());
    assert_eq!(train(&archive, &options, 0).0, 0);
    assert!(
        !checkpoint.exists() && std::fs::read(&output).unwrap() == *expected,
        "the same bytes after a stop"
    );

    // Published: a session of C that chooses it has the logits of Rust's.
    let file = ArchiveFile::open(&output).unwrap();
    let prompt = tokenizer.encode_prompt("a map").unwrap();
    let mut slots = [Slot::EMPTY];
    let mut set = AdapterSet::new(&mut slots, &model);
    set.attach(0, Adapter::open(&expected).unwrap()).unwrap();
    let mut memory = Memory::new(need(model.config(), &Limits::new(32)));
    let mut session = Session::new(model, &Limits::new(32), memory.as_mut(), &Serial).unwrap();
    session.select(0, &set, &[Choice::slot(0)]).unwrap();
    session.prefill(0, &prompt).unwrap();
    let base = base_of(&archive, false);
    let c_set = set_with(base, &file);
    let (mut place, mut workspace) =
        ([0u64; LOWRANK_SESSION_BYTES / 8], Memory::new(need(model.config(), &Limits::new(32))));
    let ((place, bytes), work) = (room(&mut place), workspace.as_mut());
    let (mut c_session, mut logits, mut count) = (null_mut(), null(), 0);
    // SAFETY: plain memory of this function.
    unsafe {
        let (start, len, limits) =
            (work.as_mut_ptr().cast(), work.len(), lowrank_limits_default(32));
        assert_eq!(
            lowrank_session_open(
                place,
                bytes,
                base,
                &limits,
                start,
                len,
                null(),
                &mut c_session,
                null_mut()
            ),
            0
        );
        assert_eq!(lowrank_session_select(c_session, 0, c_set, &CHOICE, 1, null_mut()), 0);
        assert_eq!(
            lowrank_session_prefill(c_session, 0, prompt.as_ptr(), prompt.len(), null_mut()),
            0
        );
        assert_eq!(lowrank_session_logits(c_session, 0, &mut logits, &mut count, null_mut()), 0);
        assert_eq!(std::slice::from_raw_parts(logits, count), session.logits(0).unwrap());
        assert_eq!(lowrank_session_close(c_session, null_mut()), 0);
    }
}

#[test]
fn a_decoder_classifies_as_rust_does() {
    let folder = tempfile::tempdir().unwrap();
    let archive = fresh(folder.path(), LLAMA);
    let [data, output] = ["data.tsv", "labels.lrk"].map(|name| folder.path().join(name));
    std::fs::write(&data, "ab\tshort\na b\tlong\nb\tshort\n").unwrap();
    let [c_data, c_output] = [&data, &output].map(|path| c(path));
    let options = lowrank_train_options {
        data: c_data.as_ptr(),
        output: c_output.as_ptr(),
        task: LOWRANK_TASK_CLASSIFY,
        epochs: 6,
        threads: 1,
        ..lowrank_train_options_default()
    };
    assert_eq!(train(&archive, &options, 0).0, 0);
    let file = ArchiveFile::open(&output).unwrap();
    let model = Llama::open(&archive).unwrap();
    let mut slots = [Slot::EMPTY];
    let mut set = AdapterSet::new(&mut slots, &model);
    set.attach(0, Adapter::open(&file).unwrap()).unwrap();
    let mut memory = Memory::new(need(model.config(), &Limits::new(32)));
    let mut session = Session::new(model, &Limits::new(32), memory.as_mut(), &Serial).unwrap();
    session.select(0, &set, &[Choice::slot(0)]).unwrap();
    let mut expected = [0.0; 2];
    session.classify(0, &[5, 6, 7], &mut expected).unwrap();
    let names: Vec<String> = session.classifier(0).unwrap().labels().map(String::from).collect();

    let base = base_of(&archive, false);
    let c_set = set_with(base, &file);
    let (mut place, mut workspace) =
        ([0u64; LOWRANK_SESSION_BYTES / 8], Memory::new(need(model.config(), &Limits::new(32))));
    let ((place, bytes), work) = (room(&mut place), workspace.as_mut());
    let mut c_session = null_mut();
    let (mut logits, mut count, mut label) = ([f32::NAN; 4], 0, 99);
    // SAFETY: plain memory of this function.
    unsafe {
        let (start, len, limits, e) =
            (work.as_mut_ptr().cast(), work.len(), lowrank_limits_default(32), null_mut());
        assert_eq!(
            lowrank_session_open(
                place,
                bytes,
                base,
                &limits,
                start,
                len,
                null(),
                &mut c_session,
                e
            ),
            0
        );
        assert_eq!(lowrank_session_select(c_session, 0, c_set, &CHOICE, 1, e), 0);
        let mut classify = |capacity| {
            let to = logits.as_mut_ptr();
            lowrank_session_classify(
                c_session,
                0,
                [5, 6, 7].as_ptr(),
                3,
                to,
                capacity,
                &mut count,
                &mut label,
                e,
            )
        };
        assert_eq!(classify(1), 1007);
        assert_eq!(classify(4), 0);
        assert_eq!((count, &logits[..2]), (2, &expected[..]));
        assert!(logits[label as usize] >= logits[1 - label as usize] && logits[2].is_nan());
        let (mut text, mut bytes) = (null(), 0);
        assert_eq!(lowrank_session_label(c_session, 0, label, &mut text, &mut bytes, e), 0);
        assert_eq!(
            std::slice::from_raw_parts(text.cast::<u8>(), bytes),
            names[label as usize].as_bytes()
        );
        assert_eq!(lowrank_session_close(c_session, e), 0);
    }
}

#[test]
fn a_run_that_diverges_leaves_its_last_good_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let archive = fresh(folder.path(), &LLAMA.replace("true", "false"));
    let [data, output] = ["data.txt", "user.lrk"].map(|name| folder.path().join(name));
    std::fs::write(&data, "all work and no play makes jack a dull boy. ".repeat(20)).unwrap();
    let [c_data, c_output] = [&data, &output].map(|path| c(path));
    let options = lowrank_train_options {
        data: c_data.as_ptr(),
        output: c_output.as_ptr(),
        method: LOWRANK_METHOD_LORA,
        target_modules: c"lm_head".as_ptr(),
        steps: 300,
        warmup: 200.0,
        max_length: 16,
        learning_rate: 900.0,
        max_norm: 0.0,
        schedule: LOWRANK_SCHEDULE_CONSTANT,
        threads: 1,
        ..lowrank_train_options_default()
    };
    let mut error = std::mem::MaybeUninit::<lowrank_error>::uninit();
    let (start, len) = (archive.as_ptr().cast(), archive.len());
    // SAFETY: plain memory of this function; a failed call fills the error.
    let (code, error) = unsafe {
        let code =
            lowrank_train(start, len, &options, None, null_mut(), null_mut(), error.as_mut_ptr());
        assert_eq!(code, 1016);
        (code, error.assume_init())
    };
    assert_eq!((error.code, error.count), (code, 1));
    assert!(error.numbers[0] > 0 && error.numbers[0] <= 300);
    let file = ArchiveFile::open(&output).unwrap();
    assert!(Adapter::verify(&file).is_ok());
}

#[test]
fn a_peft_directory_becomes_the_archive_that_rust_writes() {
    let folder = tempfile::tempdir().unwrap();
    let source = HuggingFaceBert::open(golden("tiny-bert")).unwrap();
    let options = BaseOptions { allow_missing_tokenizer: true, ..BaseOptions::default() };
    let archive = bert_to_buffer(&source, &options, &mut |_| {}).unwrap();
    let model = Bert::open(&archive).unwrap();
    let directory = golden("tiny-bert/adapters/dora");
    let expected =
        import_peft(&directory, &model, &Default::default()).unwrap().build(&model).unwrap();
    let output = folder.path().join("a.lrk");
    let (c_source, c_output) = (c(&directory), c(&output));
    let import = |archive: &[u8], name: *const c_char, factors| {
        // SAFETY: plain memory of this function.
        unsafe {
            let (start, len) = (archive.as_ptr().cast(), archive.len());
            let options = lowrank_adapter_import_options {
                name,
                factors,
                ..lowrank_adapter_import_options_default()
            };
            let (source, output) = (c_source.as_ptr(), c_output.as_ptr());
            lowrank_adapter_import(source, start, len, output, &options, null_mut())
        }
    };
    assert_eq!(import(&archive, null(), LOWRANK_FACTORS_AS_IS), 0);
    assert!(std::fs::read(&output).unwrap() == *expected);
    assert_eq!(import(&archive, c"other".as_ptr(), LOWRANK_FACTORS_INT8), 0);
    let file = ArchiveFile::open(&output).unwrap();
    assert_eq!(Adapter::open(&file).unwrap().name(), "other");
    // Made for an encoder: a decoder has no such layers.
    let decoder = fresh(folder.path(), LLAMA);
    assert_eq!(import(&decoder, null(), LOWRANK_FACTORS_AS_IS), 1011);
    assert_eq!(
        import(&decoder[..100], null(), LOWRANK_FACTORS_AS_IS),
        Error::Truncated { have: 0, need: 0 }.code()
    );
}
