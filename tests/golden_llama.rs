//! Us against PEFT and transformers: logits of tiny decoders with every kind of adapter, within
//! 1e-4 of the largest logit (`Precision::Exact`, f32 keys and values).

use std::path::{Path, PathBuf};

use lowrank::Error;
use lowrank::adapter::{Adapter, AdapterSet, Choice, Slot};
use lowrank::archive::Buffer;
use lowrank::import::{
    BaseOptions, Gguf, HuggingFace, Source, base_to_buffer, import_gguf_adapter, import_peft,
};
use lowrank::model::llama::Llama;
use lowrank::quant::Format;
use lowrank::runtime::{Executor, KvFormat, Limits, Memory, Serial, Session, Threads, need};
use safetensors::SafeTensors;

const TOLERANCE: f32 = 1e-4;

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(path)
}

/// The base of a golden folder or file, in `format` throughout.
fn import(path: &str, format: Format) -> Buffer {
    let path = golden(path);
    let source: Box<dyn Source> = match path.extension() {
        Some(_) => Box::new(Gguf::open(&path).unwrap()),
        None => Box::new(HuggingFace::open(&path).unwrap()),
    };
    let options = BaseOptions {
        weights: format,
        embedding: Format::F32,
        allow_missing_tokenizer: true,
        ..BaseOptions::default()
    };
    base_to_buffer(source.as_ref(), &options, &mut |_| {}).unwrap()
}

fn peft(path: &str, base: &Llama<'_>) -> Buffer {
    import_peft(golden(path), base, &Default::default()).unwrap().build(base).unwrap()
}

/// `[rows, vocab]` of the tensor `key`, flattened.
fn expected(file: &str, key: &str) -> Vec<f32> {
    let bytes = std::fs::read(golden(file)).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    tensors
        .tensor(key)
        .unwrap()
        .data()
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect()
}

fn sequences(file: &str) -> Vec<Vec<u32>> {
    let json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(golden(file)).unwrap()).unwrap();
    serde_json::from_value(json["sequences"].clone()).unwrap()
}

/// The logits of `tokens` under adapters with weights.
fn run(
    model: Llama<'_>,
    adapters: &[(&Buffer, f32)],
    tokens: &[u32],
    limits: &Limits,
    executor: &dyn Executor,
) -> Vec<f32> {
    let mut slots = [Slot::EMPTY; 2];
    let mut set = AdapterSet::new(&mut slots, &model);
    let mut choices = Vec::new();
    for (slot, &(archive, weight)) in (0..).zip(adapters) {
        set.attach(slot, Adapter::open(archive).unwrap()).unwrap();
        choices.push(Choice { weight, ..Choice::slot(slot) });
    }
    let mut memory = Memory::new(need(model.config(), limits));
    let mut session = Session::new(model, limits, memory.as_mut(), executor).unwrap();
    session.select(0, &set, &choices).unwrap();
    let mut logits = Vec::new();
    session.score(0, tokens, |_, row| logits.extend_from_slice(row)).unwrap();
    logits
}

fn assert_close(name: &str, ours: &[f32], theirs: &[f32]) {
    assert_eq!(ours.len(), theirs.len(), "{name}");
    let largest = theirs.iter().fold(0.0f32, |most, v| most.max(v.abs()));
    let worst = ours.iter().zip(theirs).fold(0.0f32, |most, (a, b)| most.max((a - b).abs()));
    assert!(worst <= TOLERANCE * largest, "{name}: off by {worst:e}, largest logit {largest}");
}

/// Every way of running must give the same answer: whole prompts, small chunks, several rows of
/// logits, threads.
fn check(
    name: &str,
    model: Llama<'_>,
    adapters: &[(&Buffer, f32)],
    tokens: &[u32],
    theirs: &[f32],
) {
    let exact = Limits {
        kv_format: KvFormat::F32,
        prefill_chunk: 32,
        ..Limits::new(model.config().context)
    };
    let threads = Threads::new(2).unwrap();
    let chunks = Limits { prefill_chunk: 3, batch: 2, threads: 2, ..exact };
    for (limits, executor) in [
        (exact, &Serial as &dyn Executor),
        (Limits { prefill_chunk: 1, ..exact }, &Serial),
        (chunks, &threads),
    ] {
        assert_close(name, &run(model, adapters, tokens, &limits, executor), theirs);
    }
}

#[test]
fn peft_adapters_over_a_float_base() {
    let archive = import("tiny-llama", Format::F32);
    let model = Llama::open(&archive).unwrap();
    let adapter = |name: &str| peft(&format!("tiny-llama/adapters/{name}"), &model);
    let [lora, rslora, dora, embed_head, lora_bias] =
        ["lora", "rslora", "dora", "embed_head", "lora_bias"].map(adapter);
    let variants: [(&str, &[(&Buffer, f32)]); 10] = [
        ("base", &[]),
        ("lora", &[(&lora, 1.0)]),
        ("rslora", &[(&rslora, 1.0)]),
        ("dora", &[(&dora, 1.0)]),
        // A weight beside 1 takes the way of several adapters.
        ("dora", &[(&dora, 1.0 + f32::EPSILON)]),
        ("embed_head", &[(&embed_head, 1.0)]),
        ("lora_bias", &[(&lora_bias, 1.0)]),
        ("two", &[(&lora, 1.0), (&rslora, 1.0)]),
        ("two_weighted", &[(&lora, 0.5), (&rslora, -1.25)]),
        ("dora_lora", &[(&dora, 1.0), (&lora, 1.0)]),
    ];
    for (name, adapters) in variants {
        for (i, tokens) in sequences("tiny-llama/tokens.json").iter().enumerate() {
            if name == "dora_lora" && i > 0 {
                continue;
            }
            check(
                name,
                model,
                adapters,
                tokens,
                &expected("tiny-llama/logits.safetensors", &format!("{name}.{i}")),
            );
        }
    }
}

#[test]
fn dora_with_zero_rows() {
    let archive = import("tiny-zero-row", Format::F32);
    let model = Llama::open(&archive).unwrap();
    let tokens = &sequences("tiny-zero-row/tokens.json")[0];
    let theirs = expected("tiny-zero-row/logits.safetensors", "dora.0");
    for name in ["dora", "dora_zero_norm"] {
        let adapter = peft(&format!("tiny-zero-row/adapters/{name}"), &model);
        // A weight beside 1 takes the way of several adapters.
        for weight in [1.0, 1.0 + f32::EPSILON] {
            check(name, model, &[(&adapter, weight)], tokens, &theirs);
        }
    }
}

#[test]
fn adapters_over_a_bitsandbytes_base() {
    let tokens = &sequences("tiny-llama/tokens.json")[0];
    for folder in ["tiny-llama-bnb", "tiny-llama-bnb-plain"] {
        let archive = import(folder, Format::Nf4);
        let model = Llama::open(&archive).unwrap();
        let lora = peft("tiny-llama/adapters/lora", &model);
        let dora = peft("tiny-llama-bnb/adapters/dora", &model);
        for (name, adapters) in
            [("base", &[][..]), ("lora", &[(&lora, 1.0)]), ("dora", &[(&dora, 1.0)])]
        {
            let theirs = expected(&format!("{folder}/logits.safetensors"), &format!("{name}.0"));
            check(&format!("{folder} {name}"), model, adapters, tokens, &theirs);
        }
    }
}

#[test]
fn other_configurations_and_the_same_from_gguf() {
    for name in ["qwen2", "qwen3", "llama3-rope", "linear-rope", "tied"] {
        let folder = format!("tiny-variants/{name}");
        let tokens = &sequences(&format!("{folder}/tokens.json"))[0];
        let theirs = expected(&format!("{folder}/logits.safetensors"), "base.0");
        let mut sources = vec![folder];
        if name != "tied" {
            sources.push(format!("gguf/{name}.gguf"));
        }
        for source in sources {
            let archive = import(&source, Format::F32);
            check(&source, Llama::open(&archive).unwrap(), &[], tokens, &theirs);
        }
    }
}

#[test]
fn gguf_base_and_gguf_adapter() {
    let tokens = sequences("tiny-llama/tokens.json");
    let archive = import("gguf/tiny-llama.gguf", Format::F32);
    let model = Llama::open(&archive).unwrap();
    let lora = import_gguf_adapter(golden("gguf/lora.gguf"), &model, &Default::default())
        .unwrap()
        .build(&model)
        .unwrap();
    check("base", model, &[], &tokens[0], &expected("gguf/logits.safetensors", "base.0"));
    check(
        "lora",
        model,
        &[(&lora, 1.0)],
        &tokens[0],
        &expected("gguf/logits.safetensors", "lora.0"),
    );

    let archive = import("tiny-llama", Format::F32);
    let model = Llama::open(&archive).unwrap();
    let lora = import_gguf_adapter(golden("gguf/lora.gguf"), &model, &Default::default())
        .unwrap()
        .build(&model)
        .unwrap();
    for (i, tokens) in tokens.iter().enumerate() {
        check(
            "lora over f32",
            model,
            &[(&lora, 1.0)],
            tokens,
            &expected("tiny-llama/logits.safetensors", &format!("lora.{i}")),
        );
    }
}

/// transformers' `…ForSequenceClassification` under PEFT's SEQ_CLS: LoRA on a Llama, DoRA on a
/// Qwen3. Whole texts, small chunks, behind what was there before, threads.
#[test]
fn peft_classifiers_on_decoders() {
    for folder in ["tiny-llama", "tiny-variants/qwen3"] {
        let archive = import(folder, Format::F32);
        let model = Llama::open(&archive).unwrap();
        let score = peft(&format!("{folder}/adapters/score"), &model);
        let labels: Vec<_> =
            Adapter::verify(&score).unwrap().classifier().unwrap().labels().collect();
        assert_eq!(labels, ["LABEL_0", "LABEL_1", "LABEL_2"]);
        let exact = Limits { kv_format: KvFormat::F32, ..Limits::new(model.config().context) };
        let threads = Threads::new(2).unwrap();
        let chunks = Limits { prefill_chunk: 3, batch: 2, threads: 2, ..exact };
        for (limits, executor) in [(exact, &Serial as &dyn Executor), (chunks, &threads)] {
            let mut slots = [Slot::EMPTY];
            let mut set = AdapterSet::new(&mut slots, &model);
            set.attach(0, Adapter::open(&score).unwrap()).unwrap();
            let mut memory = Memory::new(need(model.config(), &limits));
            let mut session = Session::new(model, &limits, memory.as_mut(), executor).unwrap();
            let last = limits.batch - 1;
            session.select(last, &set, &[Choice::slot(0)]).unwrap();
            for (i, tokens) in sequences(&format!("{folder}/tokens.json")).iter().enumerate() {
                let theirs =
                    expected(&format!("{folder}/score.safetensors"), &format!("score.{i}"));
                let mut logits = [0.0; 3];
                session.reset(last).unwrap();
                session.classify(last, tokens, &mut logits).unwrap();
                assert_close(folder, &logits, &theirs);
                session.reset(last).unwrap();
                session.prefill(last, &tokens[..4]).unwrap();
                session.classify(last, &tokens[4..], &mut logits).unwrap();
                assert_close(folder, &logits, &theirs);
                assert_eq!(
                    (session.tokens(last).unwrap(), session.logits(last)),
                    (&tokens[..], Err(Error::NoLogits { sequence: last }))
                );
            }
        }
    }
}

#[test]
fn what_a_session_cannot_classify_changes_nothing() {
    let archive = import("tiny-llama", Format::F32);
    let model = Llama::open(&archive).unwrap();
    let [lora, score] =
        ["lora", "score"].map(|name| peft(&format!("tiny-llama/adapters/{name}"), &model));
    let mut slots = [Slot::EMPTY; 3];
    let mut set = AdapterSet::new(&mut slots, &model);
    for (slot, archive) in [(0, &lora), (1, &score), (2, &score)] {
        set.attach(slot, Adapter::open(archive).unwrap()).unwrap();
    }
    let limits = Limits { batch: 3, ..Limits::new(8) };
    let mut memory = Memory::new(need(model.config(), &limits));
    let mut session = Session::new(model, &limits, memory.as_mut(), &Serial).unwrap();
    session.select(0, &set, &[Choice::slot(0)]).unwrap();
    session.select(1, &set, &[Choice::slot(0), Choice::slot(1)]).unwrap();
    session.select(2, &set, &[Choice::slot(1), Choice::slot(2)]).unwrap();
    let mut logits = [0.0; 3];
    let mut refused = |sequence, tokens: &[u32], labels: usize| {
        let error = session.classify(sequence, tokens, &mut logits[..labels]).unwrap_err();
        assert!(session.tokens(sequence).is_ok_and(|tokens| tokens.is_empty()) || sequence == 3);
        error
    };
    assert_eq!(refused(0, &[4, 5], 3), Error::Classifiers { sequence: 0, found: 0 });
    assert_eq!(refused(2, &[4, 5], 3), Error::Classifiers { sequence: 2, found: 2 });
    assert_eq!(refused(1, &[4, 5], 2), Error::Length { have: 2, need: 3 });
    assert_eq!(refused(1, &[], 3), Error::Length { have: 0, need: 1 });
    assert_eq!(refused(1, &[4, 96], 3), Error::Token { token: 96, vocab: 96 });
    assert_eq!(refused(1, &[4; 9], 3), Error::ContextFull { asked: 9, context: 8 });
    assert_eq!(refused(3, &[4], 3), Error::NoSuchSequence { sequence: 3, batch: 3 });
    session.classify(1, &[4; 8], &mut logits).unwrap();
}
