//! Training against PEFT and torch: every gradient, and every parameter after ten optimizer steps,
//! within 1e-4 of the largest of its tensor. The golden files start from A and B that are not zero.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lowrank::import::{BaseOptions, HuggingFace, HuggingFaceBert, base_to_buffer, bert_to_buffer};
use lowrank::quant::Format;
use lowrank::runtime::Threads;
use lowrank::train::TargetModules as Layers;
use lowrank::train::data::{Batch, IGNORE, Inputs, Targets};
use lowrank::train::{AnyBase, Method, OptimizerKind, Options, Part, Trainer};
use safetensors::SafeTensors;

const TOLERANCE: f32 = 1e-4;

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(path)
}

/// The tensors of a file, flattened; B transposed to `[r, out]` as the arena has it.
fn tensors(file: &str) -> (BTreeMap<String, Vec<f32>>, Vec<f64>) {
    let bytes = std::fs::read(golden(file)).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut out = BTreeMap::new();
    let mut losses = Vec::new();
    for (name, view) in file.tensors() {
        if name == "losses" {
            losses = view
                .data()
                .chunks_exact(8)
                .map(|b| f64::from_le_bytes(b.try_into().unwrap()))
                .collect();
            continue;
        }
        let mut values: Vec<f32> = view
            .data()
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect();
        if name.ends_with("|B") {
            let (rows, cols) = (view.shape()[0], view.shape()[1]);
            values = (0..cols)
                .flat_map(|c| (0..rows).map(move |r| (r, c)))
                .map(|(r, c)| values[r * cols + c])
                .collect();
        }
        out.insert(name, values);
    }
    (out, losses)
}

fn key(prefix: &str, layer: &str, part: Part) -> String {
    let part = match part {
        Part::A => "A",
        Part::B => "B",
        Part::Magnitude => "m",
        Part::Scale => "l",
        Part::ClassifierWeight => "weight",
        Part::ClassifierBias => "bias",
        other => panic!("{other:?}"),
    };
    format!("{prefix}.{layer}|{part}")
}

/// Every trained tensor of `ours` against `prefix` in `theirs`.
fn compare(
    method: &str,
    prefix: &str,
    trainer: &Trainer<'_>,
    ours: &[f32],
    theirs: &BTreeMap<String, Vec<f32>>,
) {
    let mut compared = 0;
    for parameter in trainer.parameters().filter(|parameter| !parameter.frozen) {
        let expected = &theirs[&key(prefix, &parameter.layer, parameter.part)];
        let found = &ours[parameter.range.clone()];
        assert_eq!(found.len(), expected.len());
        let largest = expected.iter().fold(0.0f32, |most, v| most.max(v.abs()));
        let worst = found.iter().zip(expected).fold(0.0f32, |most, (a, b)| most.max((a - b).abs()));
        let name = key(prefix, &parameter.layer, parameter.part);
        assert!(
            worst <= TOLERANCE * largest,
            "{method}: {name} off by {worst:e}, its largest value is {largest}"
        );
        compared += 1;
    }
    assert!(compared >= 10, "{method}: {compared} tensors");
}

/// The facts of all files.
fn facts() -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(golden("train/facts.json")).unwrap()).unwrap()
}

fn check(file: &str, method: Method, change: impl Fn(&mut Options)) {
    let sequences: Vec<Vec<u32>> = serde_json::from_value(facts()["tokens"].clone()).unwrap();
    let length = sequences[0].len();
    let next =
        |sequence: &Vec<u32>| sequence[1..].iter().copied().chain([IGNORE]).collect::<Vec<_>>();
    let batch = Batch {
        inputs: Inputs::Tokens(sequences.concat()),
        starts: (0..=sequences.len()).map(|i| i * length).collect(),
        targets: Targets::Next(sequences.iter().flat_map(next).collect()),
    };
    check_on("tiny-llama", &batch, Vec::new(), file, method, change);
}

/// With a classifier on tiny-bert or tiny-llama.
fn check_classes(base: &str, file: &str, method: Method) {
    let texts: Vec<Vec<u32>> = serde_json::from_value(facts()["texts"].clone()).unwrap();
    let classes = serde_json::from_value(facts()["classes"].clone()).unwrap();
    let mut starts = vec![0];
    texts.iter().for_each(|text| starts.push(starts[starts.len() - 1] + text.len()));
    let batch =
        Batch { inputs: Inputs::Tokens(texts.concat()), starts, targets: Targets::Class(classes) };
    check_on(base, &batch, ["a", "b", "c"].map(String::from).to_vec(), file, method, |_| ());
}

fn check_on(
    base: &str,
    batch: &Batch,
    labels: Vec<String>,
    file: &str,
    method: Method,
    change: impl Fn(&mut Options),
) {
    let facts = facts();
    let number = |name: &str| facts[name].as_f64().unwrap();
    let (theirs, losses) = tensors(&format!("train/{file}.safetensors"));

    let import = BaseOptions {
        weights: Format::F32,
        embedding: Format::F32,
        allow_missing_tokenizer: true,
        ..BaseOptions::default()
    };
    let archive = if base == "tiny-llama" {
        base_to_buffer(&HuggingFace::open(golden(base)).unwrap(), &import, &mut |_| {}).unwrap()
    } else {
        bert_to_buffer(&HuggingFaceBert::open(golden(base)).unwrap(), &import, &mut |_| {}).unwrap()
    };

    for (threads, checkpointing) in [(1, false), (2, true)] {
        let mut options = Options {
            rank: number("rank") as usize,
            alpha: number("alpha") as f32,
            learning_rate: number("rate") as f32,
            lora_plus_ratio: number("ratio") as f32,
            weight_decay: 0.01,
            max_norm: 0.0,
            checkpointing,
            ..Options::new(method)
        }
        .with_method(method);
        change(&mut options);
        let mut trainer =
            Trainer::new(AnyBase::open(&archive).unwrap(), options, labels.clone()).unwrap();
        let mut values = trainer.values().to_vec();
        for parameter in trainer.parameters() {
            values[parameter.range.clone()]
                .copy_from_slice(&theirs[&key("init", &parameter.layer, parameter.part)]);
        }
        trainer.set_values(&values).unwrap();

        let executor = Threads::new(threads).unwrap();
        for (step, expected) in losses.iter().enumerate() {
            let facts = trainer.backward(&executor, std::slice::from_ref(batch)).unwrap();
            // Of the first loss: what steps at this rate make of a rounding grows, while the loss
            // falls.
            assert!(
                (facts.loss - expected).abs() <= 1e-4 * losses[0].abs(),
                "{file} step {step}: loss {} for {expected}",
                facts.loss
            );
            if step == 0 {
                compare(file, "grad", &trainer, trainer.gradients(), &theirs);
            }
            trainer.apply(facts, 1.0).unwrap();
        }
        compare(file, "after", &trainer, trainer.values(), &theirs);
    }
}

#[test]
fn lora() {
    check("lora", Method::Lora, |_| ());
}

#[test]
fn rslora() {
    check("rslora", Method::RsLora, |options| options.alpha = 2.0);
}

#[test]
fn dora() {
    check("dora", Method::Dora, |_| ());
}

#[test]
fn lora_plus() {
    check("lora+", Method::LoraPlus, |options| options.weight_decay = 0.0);
}

#[test]
fn lora_fa() {
    check("lora-fa", Method::LoraFa, |_| ());
}

#[test]
fn lora_fa_preconditioned() {
    check("lora-fa-preconditioned", Method::LoraFa, |options| {
        options.lora_fa_preconditioned = true;
        options.weight_decay = 0.0;
        options.optimizer = OptimizerKind::AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-6 };
    });
}

#[test]
fn bert_lora() {
    check_classes("tiny-bert", "bert-lora", Method::Lora);
}

#[test]
fn bert_dora() {
    check_classes("tiny-bert", "bert-dora", Method::Dora);
}

#[test]
fn ia3() {
    check("ia3", Method::Ia3, |options| options.targets = Layers::AllLinear);
}

/// PEFT's default layers are ours: two of them scale inputs.
#[test]
fn bert_ia3() {
    check_classes("tiny-bert", "bert-ia3", Method::Ia3);
}

#[test]
fn llama_score() {
    check_classes("tiny-llama", "llama-score", Method::Lora);
}
