//! Training that goes on from an adapter begins with its numbers and keeps its kind: ranks, alphas,
//! scales and layers of its own or of PEFT's files, DoRA's magnitudes, a classifier's labels. What
//! it cannot go on with it refuses. From Rust and from C.

mod common;

use std::ffi::CString;
use std::path::Path;
use std::ptr::null_mut;
use std::sync::Arc;

use common::{CONFIG, base};
use lowrank::adapter::{Adapter, AdapterBuilder, FactorValues, SharedAdapter};
use lowrank::archive::{ArchiveFile, Buffer};
use lowrank::ffi::{
    LOWRANK_METHOD_DORA, LOWRANK_TASK_CLASSIFY, lowrank_error, lowrank_error_message,
    lowrank_train, lowrank_train_options, lowrank_train_options_default,
};
use lowrank::model::llama::Llama;
use lowrank::quant::Format;
use lowrank::runtime::Serial;
use lowrank::train::data::{Batch, Inputs, Targets as Next};
use lowrank::train::{
    Method, Options, Part, PatternValue, Start, TargetModules, TrainError, Trainer,
};

fn start(builder: &AdapterBuilder, model: &Llama<'_>) -> Start {
    let archive = builder.build(model).unwrap();
    Arc::new(SharedAdapter::open(Box::new(archive)).unwrap()).into()
}

fn batch(targets: Next) -> Batch {
    let tokens = [3u32, 1, 4, 1, 5, 9, 2, 6];
    Batch { inputs: Inputs::Tokens(tokens.to_vec()), starts: vec![0, 4, 8], targets }
}

fn next() -> Batch {
    batch(Next::Next(vec![1, 4, 1, 5, 9, 2, 6, 3]))
}

/// Some steps on `batch`.
fn train(trainer: &mut Trainer<'_>, batch: &Batch) {
    for _ in 0..6 {
        trainer.step(&Serial, std::slice::from_ref(batch), 1.0).unwrap();
    }
}

fn trainer<'a>(archive: &'a Buffer, options: &Options, labels: &[&str]) -> Trainer<'a> {
    let labels = labels.iter().map(|label| (*label).to_owned()).collect();
    Trainer::new(Llama::open(archive).unwrap(), options.clone(), labels).unwrap()
}

#[test]
fn the_first_values_are_the_adapters_and_the_result_is_of_its_kind() {
    let archive = base(&CONFIG, Format::Nf4, Format::Nf4, 3);
    let model = Llama::open(&archive).unwrap();
    for method in
        [Method::QLora, Method::Ia3, Method::RsLora, Method::Dora, Method::LoraFa, Method::DyLora]
    {
        let options = Options {
            rank: 4,
            alpha: 6.0,
            targets: TargetModules::Names(vec!["q_proj".into(), "down_proj".into()]),
            rank_pattern: vec![PatternValue { pattern: "down_proj".into(), value: 2.0 }],
            alpha_pattern: vec![PatternValue { pattern: "down_proj".into(), value: 5.0 }],
            learning_rate: 1e-2,
            ..Options::new(method)
        }
        .with_method(method);
        let mut first = trainer(&archive, &options, &[]);
        train(&mut first, &next());
        let adapter = first.adapter("first", None);
        let options =
            Options { learning_rate: 1e-2, ..Options::continuing(start(&adapter, &model)) };
        let (rank, alpha) = if method == Method::Ia3 { (8, 16.0) } else { (4, 6.0) };
        assert_eq!((options.method, options.rank, options.alpha), (method, rank, alpha));
        let mut second = trainer(&archive, &options, &[]);
        assert!(second.values() == first.values(), "{method}");
        // f32 numbers, so nothing was rounded: what goes on loses what the first one does.
        let loss = |trainer: &Trainer<'_>| trainer.loss(&Serial, &next(), None).unwrap().loss;
        assert_eq!(loss(&first), loss(&second), "{method}");
        assert_eq!(second.adapter("first", None).targets, adapter.targets, "{method}");
        train(&mut second, &next());
        assert!(loss(&second) < loss(&first), "{method}");
        let shapes = |builder: &AdapterBuilder| {
            let of = |p: &lowrank::adapter::TargetParts| (p.rank, p.alpha, p.rank_stabilized);
            builder.targets.iter().map(|(place, parts)| (*place, of(parts))).collect::<Vec<_>>()
        };
        assert_eq!(shapes(&second.adapter("second", None)), shapes(&adapter), "{method}");
        let frozen = second.parameters().filter(|p| p.frozen && p.part == Part::A).count();
        assert_eq!(frozen > 0, method == Method::LoraFa, "{method}");
    }
}

#[test]
fn half_precision_factors_of_another_maker_are_taken_over() {
    use lowrank::adapter::FactorFormat;
    let archive = base(&CONFIG, Format::F32, Format::F32, 5);
    let model = Llama::open(&archive).unwrap();
    let mut first = trainer(&archive, &Options { rank: 3, ..Options::new(Method::Lora) }, &[]);
    train(&mut first, &next());
    let mut builder = first.adapter("foreign", None);
    (builder.format, builder.method) = (FactorFormat::F16, "what somebody called it".into());
    let start = start(&builder, &model);
    assert_eq!(start.method(), Method::Lora);
    assert!(matches!(start.adapter().targets().next().unwrap().a.values(), FactorValues::F16(_)));
    let second = trainer(&archive, &Options::continuing(start), &[]);
    for (a, b) in first.values().iter().zip(second.values()) {
        assert!((a - b).abs() <= 1e-3 * a.abs() + 1e-7, "{a} {b}");
    }
}

#[test]
fn a_classifier_goes_on_with_its_labels_in_any_order() {
    let archive = base(&CONFIG, Format::Nf4, Format::Nf4, 3);
    let model = Llama::open(&archive).unwrap();
    let options = Options { learning_rate: 1e-2, ..Options::new(Method::QLora) };
    let mut first = trainer(&archive, &options, &["bad", "good"]);
    train(&mut first, &batch(Next::Class(vec![1, 0])));
    let start = start(&first.adapter("first", None), &model);
    assert_eq!(start.labels(), ["bad", "good"]);
    let options = Options::continuing(start);
    let second = trainer(&archive, &options, &["good", "bad"]);
    let loss = |trainer: &Trainer<'_>, classes: [u32; 2]| {
        trainer.loss(&Serial, &batch(Next::Class(classes.to_vec())), None).unwrap().loss
    };
    assert_eq!(loss(&first, [1, 0]), loss(&second, [0, 1]));

    let refused = |labels: &[&str]| {
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        Trainer::new(model, options.clone(), labels).unwrap_err().to_string()
    };
    assert!(refused(&["bad", "new"]).contains("bad, good"), "{}", refused(&["bad", "new"]));
    assert!(refused(&[]).contains("classifier"), "{}", refused(&[]));
}

#[test]
fn a_classifier_alone_gets_layers_and_keeps_its_own_values() {
    let archive = base(&CONFIG, Format::Nf4, Format::Nf4, 3);
    let model = Llama::open(&archive).unwrap();
    let mut first = trainer(&archive, &Options::new(Method::QLora), &["bad", "good"]);
    train(&mut first, &batch(Next::Class(vec![1, 0])));
    let mut head = first.adapter("head", None);
    head.targets.clear();
    let options = Options { rank: 3, ..Options::continuing(start(&head, &model)) };
    let second = trainer(&archive, &options, &["bad", "good"]);
    let of = |trainer: &Trainer<'_>, part: Part| -> Vec<f32> {
        let all = trainer.parameters().filter(|parameter| parameter.part == part);
        all.flat_map(|parameter| trainer.values()[parameter.range].to_vec()).collect()
    };
    assert_eq!(of(&first, Part::ClassifierWeight), of(&second, Part::ClassifierWeight));
    let layers = second.parameters().filter(|parameter| parameter.part == Part::A).count();
    assert_eq!(layers, first.parameters().filter(|parameter| parameter.part == Part::A).count());
    assert!(second.adapter("second", None).targets.values().all(|target| target.rank == 3));
}

#[test]
fn what_it_cannot_go_on_with_is_refused() {
    let archive = base(&CONFIG, Format::Nf4, Format::Nf4, 3);
    let other = base(&CONFIG, Format::Nf4, Format::Nf4, 4);
    let model = Llama::open(&archive).unwrap();
    let first = trainer(&archive, &Options::new(Method::QLora), &[]);
    let options = Options::continuing(start(&first.adapter("first", None), &model));
    for method in [Method::Dora, Method::RsLora, Method::Ia3, Method::Full] {
        let wrong = Options { method, ..options.clone() };
        let refused = Trainer::new(model, wrong, Vec::new()).unwrap_err().to_string();
        assert!(refused.contains(method.name()), "{refused}");
    }
    let scaled = trainer(&archive, &Options::new(Method::Ia3), &[]).adapter("scaled", None);
    let scaled = Options::continuing(start(&scaled, &model));
    for method in [Method::Lora, Method::Dora] {
        let wrong = Options { method, ..scaled.clone() };
        let refused = Trainer::new(model, wrong, Vec::new()).unwrap_err().to_string();
        assert!(refused.contains("ia3") && refused.contains(method.name()), "{refused}");
    }
    let kept = Options { method: Method::LoraPlus, ..options.clone() };
    assert!(Trainer::new(model, kept, Vec::new()).is_ok(), "LoRA+ trains LoRA's adapters");
    let refused = Trainer::new(Llama::open(&other).unwrap(), options, Vec::new()).unwrap_err();
    assert!(matches!(refused, TrainError::Core(lowrank::Error::OtherBase { .. })), "{refused}");
    let mut with_bias = first.adapter("first", None);
    let parts = with_bias.targets.values_mut().next().unwrap();
    parts.bias = vec![0.5; parts.b.len() / parts.rank];
    let options = Options::continuing(start(&with_bias, &model));
    let refused = Trainer::new(model, options, Vec::new()).unwrap_err().to_string();
    assert!(refused.contains("bias") && refused.contains("layers.0"), "{refused}");
}

#[test]
fn errors_name_what_they_are_about_and_change_nothing() {
    let archive = base(&CONFIG, Format::Nf4, Format::Nf4, 3);
    let mut first = trainer(&archive, &Options::new(Method::QLora), &[]);
    let mut values = first.values().to_vec();
    let second = first.parameters().nth(1).unwrap();
    values[second.range.start + 2] = f32::NAN;
    let refused = first.set_values(&values).unwrap_err().to_string();
    let expected = format!("value 2 of {} (B) is not finite", second.layer);
    assert_eq!(refused, expected);
    assert!(first.values().iter().all(|value| value.is_finite()));

    let classifier = trainer(&archive, &Options::new(Method::QLora), &["a", "b", "c"]);
    let batch = batch(Next::Class(vec![7, 0]));
    let refused = classifier.loss(&Serial, &batch, None).unwrap_err().to_string();
    assert_eq!(refused, "a batch has class 7, this run has 3 labels (from 0)");
}

/// Trains from C; the sentence of a failure.
fn train_c(archive: &[u8], options: &lowrank_train_options) -> Result<(), (u32, String)> {
    let mut error = std::mem::MaybeUninit::<lowrank_error>::zeroed();
    let start = archive.as_ptr().cast();
    // SAFETY: plain memory of this function and the caller's strings.
    let code = unsafe {
        let (len, error) = (archive.len(), error.as_mut_ptr());
        lowrank_train(start, len, options, None, null_mut(), null_mut(), error)
    };
    if code == 0 {
        return Ok(());
    }
    let mut sentence = [0u8; 400];
    // SAFETY: as above; the failed call has filled the error.
    let length = unsafe {
        lowrank_error_message(error.as_ptr(), sentence.as_mut_ptr().cast(), sentence.len())
    };
    Err((code, String::from_utf8_lossy(&sentence[..length.min(399)]).into_owned()))
}

#[test]
fn c_gives_a_classifier_alone_the_layers_that_are_asked_for() {
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets");
    let archive = ArchiveFile::open(assets.join("tiny.lrk")).unwrap();
    let model = Llama::open(&archive).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| CString::new(folder.path().join(name).to_str().unwrap()).unwrap();
    let lines = "{\"text\": \"a boat\", \"label\": \"a\"}\n{\"text\": \"b\", \"label\": \"b\"}\n";
    std::fs::write(folder.path().join("data.jsonl"), lines).unwrap();
    let labels = vec!["a".to_owned(), "b".to_owned()];
    let first = Trainer::new(model, Options::new(Method::QLora), labels).unwrap();
    let mut head = first.adapter("head", None);
    head.targets.clear();
    head.write(&model, folder.path().join("head.lrk")).unwrap();
    let [data, head, output] = ["data.jsonl", "head.lrk", "out.lrk"].map(path);
    let options = lowrank_train_options {
        data: data.as_ptr(),
        output: output.as_ptr(),
        adapter: head.as_ptr(),
        task: LOWRANK_TASK_CLASSIFY,
        method: LOWRANK_METHOD_DORA,
        rank: 3,
        target_modules: c"q_proj".as_ptr(),
        steps: 1,
        max_length: 32,
        threads: 1,
        ..lowrank_train_options_default()
    };
    train_c(&archive, &options).unwrap();
    let file = ArchiveFile::open(folder.path().join("out.lrk")).unwrap();
    let adapter = Adapter::open(&file).unwrap();
    assert!(adapter.is_dora() && adapter.targets().all(|target| target.rank == 3));
    assert_eq!(adapter.targets().len(), model.config().layers);
}

#[test]
fn c_goes_on_from_an_adapter_and_never_replaces_an_unfinished_run_unasked() {
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets");
    let archive = ArchiveFile::open(assets.join("tiny.lrk")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| CString::new(folder.path().join(name).to_str().unwrap()).unwrap();
    std::fs::write(folder.path().join("data.txt"), "a boat, a goat, a moat. ".repeat(30)).unwrap();
    let [data, first, second] = ["data.txt", "first.lrk", "second.lrk"].map(path);
    let checkpoint = path("run.checkpoint");
    let options = lowrank_train_options {
        data: data.as_ptr(),
        output: first.as_ptr(),
        rank: 3,
        alpha: 7.0,
        target_modules: c"q_proj".as_ptr(),
        steps: 4,
        max_length: 32,
        threads: 1,
        ..lowrank_train_options_default()
    };
    train_c(&archive, &options).unwrap();
    // Rank, alpha and layers of the defaults are not looked at.
    let on = lowrank_train_options {
        data: data.as_ptr(),
        output: second.as_ptr(),
        adapter: first.as_ptr(),
        checkpoint: checkpoint.as_ptr(),
        steps: 4,
        max_length: 32,
        threads: 1,
        ..lowrank_train_options_default()
    };
    train_c(&archive, &on).unwrap();
    let [before, after] = ["first.lrk", "second.lrk"]
        .map(|name| ArchiveFile::open(folder.path().join(name)).unwrap());
    let shape = |file: &ArchiveFile| {
        let adapter = Adapter::open(file).unwrap();
        let of = |t: lowrank::adapter::LowRank<'_>| (t.site, t.rank, t.alpha);
        adapter.targets().map(of).collect::<Vec<_>>()
    };
    assert_eq!(shape(&before), shape(&after));
    assert_eq!(shape(&after)[0].1, 3);

    // A size that no version has, and something set that this library does not know, are refused;
    // the options of an earlier program, and of a later one that sets nothing new, are taken.
    for size in [0, 8, usize::MAX] {
        let (code, sentence) =
            train_c(&archive, &lowrank_train_options { size, ..on }).unwrap_err();
        assert!(code == 1017 && sentence.contains("size"), "{code} {sentence}");
    }
    #[repr(C)]
    struct Later {
        known: lowrank_train_options,
        unknown: u64,
    }
    let known = lowrank_train_options { size: size_of::<Later>(), ..on };
    let later = |unknown| {
        let later = Later { known, unknown };
        // The whole struct is what the pointer may be read through.
        let options: *const Later = &later;
        // SAFETY: a `Later` begins with the options.
        train_c(&archive, unsafe { &*options.cast() })
    };
    later(0).unwrap();
    assert_eq!(later(1).unwrap_err().0, 1017);
    let earlier = std::mem::offset_of!(lowrank_train_options, examples);
    train_c(
        &archive,
        &lowrank_train_options { size: earlier, examples: std::ptr::dangling(), ..on },
    )
    .unwrap();
    let wrong = lowrank_train_options { task: LOWRANK_TASK_CLASSIFY, ..on };
    assert!(train_c(&archive, &wrong).is_err());

    // What is no checkpoint is refused; so is one of a run that goes on.
    std::fs::write(folder.path().join("run.checkpoint"), "notes").unwrap();
    assert!(train_c(&archive, &on).is_err());
    assert_eq!(std::fs::read(folder.path().join("run.checkpoint")).unwrap(), b"notes");
    std::fs::remove_file(folder.path().join("run.checkpoint")).unwrap();
    let wild = lowrank_train_options {
        learning_rate: 900.0,
        max_norm: 0.0,
        optimizer: lowrank::ffi::LOWRANK_OPTIMIZER_SGD,
        warmup: 10_000.0,
        steps: 400,
        checkpoint_every: 1,
        ..on
    };
    let (code, sentence) = train_c(&archive, &wild).unwrap_err();
    assert!(code == 1016 && sentence.contains("the loss went from "), "{code} {sentence}");
    let (code, sentence) = train_c(&archive, &on).unwrap_err();
    assert!(code == 1015 && sentence.contains("restart"), "{code} {sentence}");
    train_c(&archive, &lowrank_train_options { restart: 1, ..on }).unwrap();
}
