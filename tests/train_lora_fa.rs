//! `lora_fa_preconditioned` with its defaults is PEFT's LoRA-FA optimizer under transformers'
//! Trainer: gradients clipped before they are preconditioned, ε 1e-6, weight decay after the step
//! and on everything, biases too. Ten steps, every loss and every parameter.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lowrank::archive::Buffer;
use lowrank::import::{BaseOptions, HuggingFace, HuggingFaceBert, base_to_buffer, bert_to_buffer};
use lowrank::quant::Format;
use lowrank::runtime::Serial;
use lowrank::train::data::{Batch, IGNORE, Inputs, Targets as Wanted};
use lowrank::train::schedule::{Schedule, ScheduleShape};
use lowrank::train::{AnyBase, Method, Options, Part, TargetModules, Trainer};
use safetensors::SafeTensors;
use serde_json::Value;

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(path)
}

/// The tensors of a file, flattened, B transposed to `[r, out]` as the arena has it; the losses.
fn tensors(file: &str) -> (BTreeMap<String, Vec<f32>>, Vec<f64>) {
    let bytes = std::fs::read(golden(file)).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut out = BTreeMap::new();
    for (name, view) in file.tensors().into_iter().filter(|(name, _)| name != "losses") {
        let numbers = view.data().chunks_exact(4);
        let mut values: Vec<f32> =
            numbers.map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        if name.ends_with("|B") {
            let (rows, cols) = (view.shape()[0], view.shape()[1]);
            let at = |i: usize| values[i % rows * cols + i / rows];
            values = (0..rows * cols).map(at).collect();
        }
        out.insert(name, values);
    }
    let losses = file.tensor("losses").unwrap();
    let losses = losses.data().chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap()));
    (out, losses.collect())
}

fn key(when: &str, layer: &str, part: Part) -> String {
    let part = match part {
        Part::A => "A",
        Part::B => "B",
        Part::ClassifierWeight => "weight",
        Part::ClassifierBias => "bias",
        other => panic!("{other:?}"),
    };
    format!("{when}.{layer}|{part}")
}

fn floats() -> BaseOptions {
    let (weights, embedding) = (Format::F32, Format::F32);
    BaseOptions { weights, embedding, allow_missing_tokenizer: true, ..BaseOptions::default() }
}

/// Trains as the golden run `name` was trained; `targets` are those of each text.
fn check(
    name: &str,
    base: &Buffer,
    modules: &[&str],
    labels: &[&str],
    weight_decay: f32,
    targets: impl Fn(&[Vec<u32>], usize) -> Wanted,
) {
    let facts: Value =
        serde_json::from_slice(&std::fs::read(golden("lora-fa/facts.json")).unwrap()).unwrap();
    let texts: Vec<Vec<u32>> = serde_json::from_value(facts["texts"].clone()).unwrap();
    let number = |name: &str| facts[name].as_f64().unwrap();
    let (theirs, losses) = tensors(&format!("lora-fa/{name}.safetensors"));
    let options = Options {
        rank: number("rank") as usize,
        alpha: number("alpha") as f32,
        targets: TargetModules::Names(modules.iter().map(|name| (*name).to_owned()).collect()),
        learning_rate: number("rate") as f32,
        lora_fa_preconditioned: true,
        weight_decay,
        schedule: ScheduleShape::Linear,
        ..Options::new(Method::LoraFa)
    };
    let labels: Vec<String> = labels.iter().map(|label| (*label).to_owned()).collect();
    let mut trainer = Trainer::new(AnyBase::open(base).unwrap(), options, labels).unwrap();
    let mut values = trainer.values().to_vec();
    for parameter in trainer.parameters() {
        let first = &theirs[&key("init", &parameter.layer, parameter.part)];
        values[parameter.range.clone()].copy_from_slice(first);
    }
    trainer.set_values(&values).unwrap();

    let schedule = Schedule { shape: ScheduleShape::Linear, warmup: 0, total: losses.len() as u64 };
    let size = number("batch") as usize;
    for (step, (texts, expected)) in texts.chunks(size).zip(&losses).enumerate() {
        let length = texts[0].len();
        let batch = Batch {
            inputs: Inputs::Tokens(texts.concat()),
            starts: (0..=texts.len()).map(|i| i * length).collect(),
            targets: targets(texts, step * size),
        };
        let factor = schedule.factor(step as u64);
        let found = trainer.step(&Serial, &[batch], factor).unwrap();
        assert!(found.norm > 1.0, "clipping acts");
        let error = (found.loss - expected).abs();
        assert!(error <= 1e-4 * losses[0], "{name} step {step}: {} for {expected}", found.loss);
    }
    let mut compared = 0;
    for parameter in trainer.parameters().filter(|parameter| !parameter.frozen) {
        let expected = &theirs[&key("after", &parameter.layer, parameter.part)];
        let found = &trainer.values()[parameter.range.clone()];
        let largest = expected.iter().fold(0.0f32, |most, v| most.max(v.abs()));
        let worst = found.iter().zip(expected).fold(0.0f32, |most, (a, b)| most.max((a - b).abs()));
        assert!(worst <= 1e-4 * largest, "{name} {}: {worst:e} of {largest}", parameter.layer);
        compared += 1;
    }
    assert!(compared >= 4, "{compared}");
}

#[test]
fn a_language_model_ends_where_pefts_optimizer_ends() {
    let source = HuggingFace::open(golden("tiny-llama")).unwrap();
    let base = base_to_buffer(&source, &floats(), &mut |_| {}).unwrap();
    check("lm", &base, &["q_proj", "v_proj"], &[], 0.0, |texts, _| {
        let next = |text: &Vec<u32>| text[1..].iter().copied().chain([IGNORE]).collect::<Vec<_>>();
        Wanted::Next(texts.iter().flat_map(next).collect())
    });
}

#[test]
fn a_classifier_with_weight_decay_ends_where_pefts_optimizer_ends() {
    let source = HuggingFaceBert::open(golden("tiny-bert")).unwrap();
    let base = bert_to_buffer(&source, &floats(), &mut |_| {}).unwrap();
    let facts: Value =
        serde_json::from_slice(&std::fs::read(golden("lora-fa/facts.json")).unwrap()).unwrap();
    let classes: Vec<u32> = serde_json::from_value(facts["classes"].clone()).unwrap();
    let decay = facts["decay"].as_f64().unwrap() as f32;
    check("classify", &base, &["query"], &["a", "b", "c"], decay, |texts, first| {
        Wanted::Class(classes[first..first + texts.len()].to_vec())
    });
}
