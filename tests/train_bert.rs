//! Training encoders: gradients against finite differences for every method on float and NF4 bases
//! with a classifier, and the training loss against the core's.

mod common;

use std::sync::Arc;

use common::{BERT, Numbers, assert_slopes, bert, bert_adapter_parts, pooler_parts, shake};
use lowrank::adapter::{
    Adapter, AdapterBuilder, AdapterSet, Choice, ClassifierParts, SharedAdapter, Slot,
};
use lowrank::archive::Buffer;
use lowrank::model::bert::{Activation, Architecture, Bert, Config, Pooling, Site};
use lowrank::quant::Format;
use lowrank::runtime::{Encoder, EncoderLimits, Memory, Serial, Threads, encoder_need};
use lowrank::train::data::{Batch, Inputs, Targets as Wanted};
use lowrank::train::{Method, Options, Part, TargetModules, Trainer};

/// Five texts of unequal lengths and their classes.
fn batch() -> Batch {
    let mut numbers = Numbers::new(5);
    let starts = vec![0, 9, 10, 23, 26, 33];
    let tokens =
        (0..33).map(|_| ((numbers.next() + 1.0) / 2.0 * (BERT.vocab - 1) as f32) as u32).collect();
    Batch { inputs: Inputs::Tokens(tokens), starts, targets: Wanted::Class(vec![0, 2, 1, 1, 0]) }
}

fn labels() -> Vec<String> {
    ["no", "yes", "unsure"].map(String::from).to_vec()
}

fn options(method: Method) -> Options {
    let names = ["query", "key", "value", "dense", "word_embeddings"].map(String::from).to_vec();
    let targets = match method {
        Method::Full | Method::LoraFa | Method::Dora | Method::Ia3 => TargetModules::AllLinear,
        _ => TargetModules::Names(names),
    };
    Options { rank: 3, alpha: 5.0, max_norm: 0.0, targets, ..Options::new(method) }
        .with_method(method)
}

fn finite_differences(
    config: &Config,
    pooler: bool,
    method: Method,
    format: Format,
    change: impl Fn(&mut Options),
) {
    let archive = bert(config, format, format, pooler, 3);
    let model = Bert::open(&archive).unwrap();
    let mut options = options(method);
    change(&mut options);
    let trainer = Trainer::new(model, options, labels()).unwrap();
    assert_slopes(&format!("{method} on {format:?}"), trainer, &model, &batch(), 3);
}

#[test]
fn gradients_are_slopes() {
    for format in [Format::F32, Format::Nf4] {
        for method in [
            Method::Lora,
            Method::RsLora,
            Method::LoraPlus,
            Method::DyLora,
            Method::LoraFa,
            Method::Dora,
            Method::Ia3,
        ] {
            finite_differences(&BERT, true, method, format, |_| ());
        }
    }
    finite_differences(&BERT, true, Method::QLora, Format::Nf4, |_| ());
    finite_differences(&BERT, true, Method::Full, Format::F32, |_| ());
    finite_differences(&BERT, true, Method::Lora, Format::Int8, |options| {
        options.checkpointing = true
    });
    finite_differences(&BERT, true, Method::QLora, Format::Nf4, |options| {
        options.label_smoothing = 0.2
    });
}

/// RoBERTa's pooler, and DistilBERT's, which has ReLU: gradients are slopes, the loss is the core's,
/// and what `full` writes is of the same architecture.
#[test]
fn other_architectures_are_trained_alike() {
    // Few values behind ReLU, so that no kink lies in a difference.
    let few = || Batch {
        inputs: Inputs::Tokens(vec![5, 9, 41, 2, 33, 7]),
        starts: vec![0, 4, 6],
        targets: Wanted::Class(vec![0, 2]),
    };
    for architecture in [Architecture::Roberta, Architecture::DistilBert] {
        let config = Config { architecture, dim: 12, hidden: 20, token_types: 1, ..BERT };
        for (method, format) in [
            (Method::Lora, Format::F32),
            (Method::Dora, Format::Nf4),
            (Method::QLora, Format::Nf4),
            (Method::Full, Format::F32),
        ] {
            let archive = bert(&config, format, format, true, 3);
            let model = Bert::open(&archive).unwrap();
            let options = Options { targets: TargetModules::AllLinear, ..options(method) };
            let trainer = Trainer::new(model, options.clone(), labels()).unwrap();
            let what = format!("{method} on {format:?} of {architecture:?}");
            assert_slopes(&what, trainer, &model, &few(), 3);
            let mut trainer = Trainer::new(model, options, labels()).unwrap();
            shake(&mut trainer, 23);
            let batch = batch();
            let ours = trainer.loss(&Serial, &batch, None).unwrap().loss;
            let trained = trainer.archive("test", None).unwrap();
            let core = if method == Method::Full {
                let base = Bert::verify(&trained).unwrap();
                assert_eq!(base.config(), &config);
                core_loss(base, &classifier_alone(&trainer, &base), &batch)
            } else {
                core_loss(model, &trained, &batch)
            };
            assert!(
                (ours - core).abs() <= 1e-5 * core,
                "{architecture:?} {method}: {ours}, {core}"
            );
        }
    }
    // An adapter with a pooler of its own cannot be gone on with.
    let archive = bert(&BERT, Format::F32, Format::F32, true, 3);
    let model = Bert::open(&archive).unwrap();
    let mut parts = bert_adapter_parts(&model, &[Site::Q(0)], false, &["no", "yes", "unsure"], 1);
    parts.pooler = Some(pooler_parts(BERT.dim, 2));
    let start = SharedAdapter::open(parts.build(&model).unwrap()).unwrap();
    let options = Options { start: Some(Arc::new(start).into()), ..options(Method::Lora) };
    let error = Trainer::new(model, options, labels()).map(drop).unwrap_err().to_string();
    assert!(error.contains("a pooler of its own"), "{error}");
}

/// Whole groups of 64, for which weights have their other layout; every pooling and activation.
#[test]
fn gradients_are_slopes_in_other_configurations() {
    let wide = Config { dim: 192, hidden: 128, ..BERT };
    finite_differences(&wide, true, Method::QLora, Format::Nf4, |_| ());
    let mean = Config { activation: Activation::GeluTanh, ..BERT };
    finite_differences(&mean, false, Method::Lora, Format::F32, |_| ());
    finite_differences(&mean, false, Method::Full, Format::F32, |options| {
        options.checkpointing = true
    });
    let first = Config { pooling: Pooling::Cls, ..BERT };
    finite_differences(&first, false, Method::Lora, Format::F32, |_| ());
    finite_differences(&first, false, Method::Full, Format::F32, |_| ());
}

/// Where nothing below is trained the backward pass stops early; what is trained has the gradient
/// it has when it goes on: adapters of zeros below change nothing.
#[test]
fn the_way_back_stops_at_the_lowest_trained_layer() {
    let (archive, batch) = (bert(&BERT, Format::Nf4, Format::Nf4, true, 3), batch());
    let model = Bert::open(&archive).unwrap();
    for (upper, pattern) in
        [("layer.1", r".*layer\.1\..*(dense|query)|pooler\.dense"), ("pooler", r"pooler\.dense")]
    {
        let gradients = |pattern: &str| {
            let options = Options {
                targets: TargetModules::Pattern(pattern.into()),
                ..options(Method::QLora)
            };
            let mut trainer = Trainer::new(model, options, labels()).unwrap();
            let mut values = trainer.values().to_vec();
            for parameter in trainer.parameters() {
                let trained = [upper, "pooler", "classifier"]
                    .iter()
                    .any(|name| parameter.layer.contains(name));
                let seed =
                    parameter.layer.bytes().map(u64::from).sum::<u64>() + parameter.part as u64;
                let numbers =
                    Numbers::new(seed).vec(parameter.range.len(), if trained { 0.1 } else { 0.0 });
                values[parameter.range.clone()].copy_from_slice(&numbers);
            }
            trainer.set_values(&values).unwrap();
            trainer.backward(&Serial, std::slice::from_ref(&batch)).unwrap();
            trainer
                .parameters()
                .map(|p| ((p.layer, p.part), trainer.gradients()[p.range].to_vec()))
                .collect::<Vec<_>>()
        };
        let (all, some) = (gradients(".*(dense|query)"), gradients(pattern));
        assert!(some.len() > 2 && some.len() < all.len());
        for (key, gradient) in some {
            let same = all.iter().find(|(other, _)| *other == key).map(|(_, gradient)| gradient);
            assert!(same == Some(&gradient) && gradient.iter().any(|g| *g != 0.0), "{key:?}");
        }
    }
}

/// What the core says of a batch: the mean loss in `Exact` under an adapter that brings a
/// classifier.
fn core_loss(model: Bert<'_>, adapter: &[u8], batch: &Batch) -> f64 {
    let (Inputs::Tokens(tokens), Wanted::Class(classes)) = (&batch.inputs, &batch.targets) else {
        panic!()
    };
    let texts: Vec<&[u32]> =
        batch.starts.windows(2).map(|pair| &tokens[pair[0]..pair[1]]).collect();
    let limits = EncoderLimits {
        batch: texts.len(),
        tokens: tokens.len(),
        ..EncoderLimits::new(model.config().context)
    };
    let mut slots = [Slot::EMPTY; 1];
    let mut set = AdapterSet::new(&mut slots, &model);
    set.attach(0, Adapter::open(adapter).unwrap()).unwrap();
    let mut memory = Memory::new(encoder_need(model.config(), &limits));
    let mut encoder = Encoder::new(model, &limits, memory.as_mut(), &Serial).unwrap();
    (0..texts.len())
        .for_each(|sequence| encoder.select(sequence, &set, &[Choice::slot(0)]).unwrap());
    encoder.encode(&texts).unwrap();
    let loss = |(sequence, &class): (usize, &u32)| {
        let mut logits = [0.0; 3];
        encoder.classify(sequence, &mut logits).unwrap();
        let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total: f64 = logits.iter().map(|&l| f64::from(l - most).exp()).sum();
        total.ln() - f64::from(logits[class as usize] - most)
    };
    classes.iter().enumerate().map(loss).sum::<f64>() / classes.len() as f64
}

/// The classifier of a full run, bound to the base that the run wrote.
fn classifier_alone(trainer: &Trainer<'_>, base: &Bert<'_>) -> Buffer {
    let part = |part| {
        let of = trainer.parameters().find(|parameter| parameter.part == part).unwrap();
        trainer.values()[of.range].to_vec()
    };
    let mut builder = AdapterBuilder::new("classifier", "full");
    let (weight, bias) = (part(Part::ClassifierWeight), part(Part::ClassifierBias));
    builder.classifier = Some(ClassifierParts { weight, bias, labels: labels() });
    builder.build(base).unwrap()
}

#[test]
fn the_training_loss_is_the_cores() {
    let batch = batch();
    for pooler in [true, false] {
        for format in [Format::F32, Format::F16, Format::Int8, Format::Nf4] {
            for method in Method::ALL {
                if (method == Method::QLora && format != Format::Nf4)
                    || (method == Method::Full && !matches!(format, Format::F32 | Format::F16))
                {
                    continue;
                }
                let archive = bert(&BERT, format, format, pooler, 3);
                let model = Bert::open(&archive).unwrap();
                let mut trainer = Trainer::new(model, options(method), labels()).unwrap();
                shake(&mut trainer, 23);
                let ours = trainer.loss(&Serial, &batch, None).unwrap().loss;
                let trained = trainer.archive("test", None).unwrap();
                let core = if method == Method::Full {
                    let base = Bert::verify(&trained).unwrap();
                    core_loss(base, &classifier_alone(&trainer, &base), &batch)
                } else {
                    core_loss(model, &trained, &batch)
                };
                assert!(
                    (ours - core).abs() <= 1e-5 * core,
                    "{method} on {format:?}: {ours}, the core says {core}"
                );
            }
        }
    }
}

/// Dropout, accumulation and everything random follow from the seed, whatever the number of threads
/// and the checkpointing.
#[test]
fn results_do_not_depend_on_lanes_or_checkpointing() {
    let batch = batch();
    for (config, methods) in [
        (
            Config { dim: 192, hidden: 128, ..BERT },
            &[Method::QLora, Method::Ia3, Method::Dora, Method::DyLora, Method::LoraFa][..],
        ),
        (BERT, &[Method::Full]),
    ] {
        let format = if methods[0] == Method::Full { Format::F32 } else { Format::Nf4 };
        let archive = bert(&config, format, format, false, 3);
        let model = Bert::open(&archive).unwrap();
        for &method in methods {
            let run = |threads: usize, checkpointing: bool| {
                let options = Options {
                    dropout: 0.2,
                    checkpointing,
                    learning_rate: 1e-2,
                    label_smoothing: 0.1,
                    ..options(method)
                }
                .with_method(method);
                let mut trainer = Trainer::new(model, options, labels()).unwrap();
                let executor = Threads::new(threads).unwrap();
                for _ in 0..4 {
                    trainer.step(&executor, &[batch.clone(), batch.clone()], 1.0).unwrap();
                }
                trainer.values().to_vec()
            };
            let one = run(1, false);
            assert!(one == run(2, false), "{method}: two threads");
            assert!(one == run(3, true), "{method}: three threads and checkpointing");
        }
    }
}

/// A few dozen steps learn a handful of texts by heart, and training a language model is refused.
#[test]
fn it_learns() {
    let (archive, batch) = (bert(&BERT, Format::Nf4, Format::Int8, false, 3), batch());
    let model = Bert::open(&archive).unwrap();
    let options = Options {
        learning_rate: 1e-2,
        targets: TargetModules::AllLinear,
        ..options(Method::QLora)
    };
    let mut trainer = Trainer::new(model, options.clone(), labels()).unwrap();
    for _ in 0..40 {
        trainer.step(&Serial, std::slice::from_ref(&batch), 1.0).unwrap();
    }
    let facts = trainer.loss(&Serial, &batch, None).unwrap();
    assert!(facts.right == 5 && facts.loss < 0.05, "{facts:?}");
    let error = Trainer::new(model, options, Vec::new()).unwrap_err().to_string();
    assert!(error.contains("no language-model head"), "{error}");
}
