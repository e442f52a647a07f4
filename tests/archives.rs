//! Archives of every kind, as earlier versions wrote them (`tests/archives/README.md`), open,
//! verify and compute what they always did.
#![cfg(feature = "std")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lowrank::RootKind;
use lowrank::adapter::{Adapter, AdapterSet, Choice, Slot};
use lowrank::archive::{self, ArchiveFile};
use lowrank::kernel::Precision;
use lowrank::model::bert::Bert;
use lowrank::model::llama::Llama;
use lowrank::model::lstm::Lstm;
use lowrank::model::mlp::Mlp;
use lowrank::runtime::{
    Encoder, EncoderLimits, Limits, Memory, Predictor, PredictorLimits, Recurrent, RecurrentLimits,
    Serial, Session, encoder_need, need, predictor_need, recurrent_need,
};
use serde_json::{Value, json};

/// What every language model reads.
const TOKENS: [u32; 6] = [1, 5, 9, 30, 2, 17];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/archives")
}

/// The archives by name; an adapter's name says its base: `on-BASE-…`.
fn archives() -> BTreeMap<String, PathBuf> {
    let mut found: BTreeMap<String, PathBuf> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "lrk"))
        .map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), path))
        .collect();
    found.insert("tiny".into(), folder().join("../../assets/tiny.lrk"));
    found
}

/// The base that the name of an adapter begins with.
fn base_of<'n>(name: &str, names: impl Iterator<Item = &'n String>) -> Option<&'n String> {
    let rest = name.strip_prefix("on-")?;
    names.filter(|base| rest.starts_with(base.as_str())).max_by_key(|base| base.len())
}

/// What a base computes, with an adapter if there is one: the logits, states and outputs.
fn outputs(base: &ArchiveFile, adapter: Option<&ArchiveFile>) -> Vec<f32> {
    let adapter = adapter.map(|file| Adapter::verify(file).unwrap());
    let rank = adapter.map_or(0, |adapter| adapter.max_rank());
    let active = usize::from(adapter.is_some());
    let mut slots = [Slot::EMPTY; 1];
    let chosen = &[Choice::slot(0)][..active];
    let precision = Precision::Exact;
    match archive::Header::parse(base).unwrap().root {
        RootKind::LLAMA => {
            let model = Llama::verify(base).unwrap();
            let mut set = AdapterSet::new(&mut slots, &model);
            adapter.into_iter().for_each(|adapter| set.attach(0, adapter).map(drop).unwrap());
            let limits = Limits {
                precision,
                max_active: active,
                max_total_rank: rank,
                ..Limits::new(TOKENS.len())
            };
            let mut memory = Memory::new(need(model.config(), &limits));
            let mut session = Session::new(model, &limits, memory.as_mut(), &Serial).unwrap();
            session.select(0, &set, chosen).unwrap();
            session.prefill(0, &TOKENS).unwrap();
            let mut all = session.logits(0).unwrap().to_vec();
            if let Ok(classifier) = session.classifier(0) {
                let mut labels = vec![0.0; classifier.labels().count()];
                session.reset(0).unwrap();
                session.classify(0, &TOKENS, &mut labels).unwrap();
                all.splice(..0, labels);
            }
            all
        }
        kind if kind.is_encoder() => {
            let model = Bert::verify(base).unwrap();
            let mut set = AdapterSet::new(&mut slots, &model);
            adapter.into_iter().for_each(|adapter| set.attach(0, adapter).map(drop).unwrap());
            let limits = EncoderLimits {
                precision,
                max_active: active,
                max_total_rank: rank,
                ..EncoderLimits::new(TOKENS.len())
            };
            let mut memory = Memory::new(encoder_need(model.config(), &limits));
            let mut encoder = Encoder::new(model, &limits, memory.as_mut(), &Serial).unwrap();
            encoder.select(0, &set, chosen).unwrap();
            encoder.encode(&[&TOKENS]).unwrap();
            let mut all = encoder.hidden(0).unwrap().to_vec();
            if let Ok(classifier) = encoder.classifier(0) {
                let mut labels = vec![0.0; classifier.labels().count()];
                encoder.classify(0, &mut labels).unwrap();
                all.splice(..0, labels);
            }
            all
        }
        RootKind::LSTM => {
            let model = Lstm::verify(base).unwrap();
            let limits = RecurrentLimits { precision, ..RecurrentLimits::new() };
            let mut memory = Memory::new(recurrent_need(model.config(), &limits));
            let mut session = Recurrent::new(model, &limits, memory.as_mut(), &Serial).unwrap();
            session.prefill(0, &TOKENS).unwrap();
            session.logits(0).unwrap().to_vec()
        }
        RootKind::MLP => {
            let model = Mlp::verify(base).unwrap();
            let limits = PredictorLimits { precision, ..PredictorLimits::new(1) };
            let mut memory = Memory::new(predictor_need(model.config(), &limits));
            let mut predictor = Predictor::new(model, &limits, memory.as_mut(), &Serial).unwrap();
            let features: Vec<f32> =
                (0..model.config().inputs).map(|i| i as f32 / 4.0 - 1.0).collect();
            predictor.infer(&features).unwrap();
            predictor.outputs(0).unwrap().to_vec()
        }
        other => panic!("{other} is no base"),
    }
}

/// What is committed of an archive: its fingerprint and twelve of its outputs, spread evenly.
fn facts(name: &str, all: &BTreeMap<String, PathBuf>) -> Value {
    let open = |name: &str| ArchiveFile::open(&all[name]).unwrap();
    let file = open(name);
    let header = archive::verify(&file).unwrap();
    let values = match base_of(name, all.keys()) {
        _ if header.root == RootKind::CHECKPOINT => Vec::new(),
        Some(base) => outputs(&open(base), Some(&file)),
        None => outputs(&file, None),
    };
    let few = values.len().min(12);
    let spread: Vec<f32> = (0..few).map(|i| values[i * values.len() / few]).collect();
    json!({
        "root": header.root.0,
        "fingerprint": header.fingerprint.to_string(),
        "outputs": values.len(),
        "values": spread,
    })
}

/// What is committed. With `LOWRANK_REFRESH` set, archives that were added are added to it first;
/// what is known stays.
fn expected(all: &BTreeMap<String, PathBuf>) -> BTreeMap<String, Value> {
    let path = folder().join("expected.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut known: BTreeMap<String, Value> = serde_json::from_str(&text).unwrap();
    if std::env::var_os("LOWRANK_REFRESH").is_some() {
        known.retain(|name, _| all.contains_key(name));
        for name in all.keys() {
            known.entry(name.clone()).or_insert_with(|| facts(name, all));
        }
        let text = serde_json::to_string_pretty(&known).unwrap();
        std::fs::write(path, text + "\n").unwrap();
    }
    known
}

#[test]
fn archives_of_earlier_versions_compute_what_they_did() {
    let all = archives();
    let expected = expected(&all);
    assert!(all.keys().eq(expected.keys()), "expected.json names every archive and no other");
    for (name, known) in &expected {
        let found = facts(name, &all);
        for key in ["root", "fingerprint", "outputs"] {
            assert_eq!(found[key], known[key], "{name}: {key}");
        }
        let floats = |facts: &Value| -> Vec<f64> {
            facts["values"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
        };
        let (ours, theirs) = (floats(&found), floats(known));
        assert_eq!(ours.len(), theirs.len(), "{name}");
        let largest = theirs.iter().fold(0.0f64, |max, v| max.max(v.abs()));
        for (a, b) in ours.iter().zip(&theirs) {
            assert!((a - b).abs() <= 1e-4 * largest, "{name}: {a} instead of {b}");
        }
    }
}

#[test]
fn every_root_and_method_is_there() {
    let all = archives();
    let roots: Vec<RootKind> = all
        .values()
        .map(|path| archive::Header::parse(&ArchiveFile::open(path).unwrap()).unwrap().root)
        .collect();
    for root in [
        RootKind::LLAMA,
        RootKind::BERT,
        RootKind::ROBERTA,
        RootKind::DISTILBERT,
        RootKind::LSTM,
        RootKind::MLP,
        RootKind::ADAPTER,
        RootKind::CHECKPOINT,
    ] {
        assert!(roots.contains(&root), "{root}");
    }
    for method in ["lora", "qlora", "rslora", "lora+", "dylora", "lora-fa", "dora"] {
        assert!(all.contains_key(&format!("on-tiny-{method}")), "{method}");
    }
}

#[test]
fn a_checkpoint_says_how_far_its_run_was() {
    let path = folder().join("on-tiny-lora-checkpoint.lrk");
    assert_eq!(lowrank::train::unfinished(&path).unwrap(), Some(148));
}
