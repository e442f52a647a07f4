//! Gradients against finite differences, and the training loss against the core's, for every method
//! on float and NF4 bases.

mod common;

use std::path::Path;

use common::{CONFIG, Numbers, assert_slopes, base, names, shake};
use lowrank::adapter::{Adapter, AdapterSet, Choice, Slot};
use lowrank::import::{BaseOptions, HuggingFace, base_to_buffer};
use lowrank::kernel::Precision;
use lowrank::model::llama::{Config, Llama};
use lowrank::quant::Format;
use lowrank::runtime::{Executor, KvFormat, Limits, Memory, Serial, Session, Threads, need};
use lowrank::train::data::{Batch, IGNORE, Inputs, Targets as Wanted};
use lowrank::train::{Method, Options, Part, TargetModules, Trainer};

/// Three sequences of unequal lengths; some rows have no target.
fn batch(config: &Config) -> Batch {
    let mut numbers = Numbers::new(5);
    let starts = vec![0, 9, 10, 23];
    let tokens: Vec<u32> = (0..23)
        .map(|_| ((numbers.next() + 1.0) / 2.0 * (config.vocab - 1) as f32) as u32)
        .collect();
    let next = (0..23)
        .map(
            |row| {
                if starts.contains(&(row + 1)) || row % 5 == 3 { IGNORE } else { tokens[row + 1] }
            },
        )
        .collect();
    Batch { inputs: Inputs::Tokens(tokens), starts, targets: Wanted::Next(next) }
}

/// The same sequences and a class for each.
fn classes(batch: &Batch) -> Batch {
    Batch { targets: Wanted::Class(vec![2, 0, 1]), ..batch.clone() }
}

fn everywhere() -> TargetModules {
    TargetModules::Pattern(".*".into())
}

fn options(method: Method) -> Options {
    let targets = match method {
        Method::Full => TargetModules::AllLinear,
        Method::LoraFa | Method::Dora | Method::Ia3 => TargetModules::AllLinear,
        _ => everywhere(),
    };
    Options { rank: 3, alpha: 5.0, max_norm: 0.0, targets, ..Options::new(method) }
        .with_method(method)
}

/// The next token, and three classes.
fn finite_differences(what: &str, archive: &[u8], options: &Options) {
    let model = Llama::open(archive).unwrap();
    let what = format!("{what}, {} on {:?}", options.method, model.layer(0).q.weight.format());
    let (next, vocab) = (batch(model.config()), model.config().vocab);
    assert_slopes(
        &what,
        Trainer::new(model, options.clone(), Vec::new()).unwrap(),
        &model,
        &next,
        vocab,
    );
    let trainer = Trainer::new(model, options.clone(), names(3)).unwrap();
    assert!(trainer.parameters().all(|parameter| parameter.layer != "lm_head" && parameter.part != Part::ClassifierBias), "{what}");
    assert_slopes(&format!("{what}, classes"), trainer, &model, &classes(&next), 3);
}

#[test]
fn gradients_are_slopes() {
    let [float, nf4, int8] =
        [Format::F32, Format::Nf4, Format::Int8].map(|format| base(&CONFIG, format, format, 3));
    for archive in [&float, &nf4] {
        for method in [
            Method::Lora,
            Method::RsLora,
            Method::LoraPlus,
            Method::DyLora,
            Method::LoraFa,
            Method::Dora,
            Method::Ia3,
        ] {
            finite_differences("grouped queries", archive, &options(method));
        }
    }
    finite_differences("grouped queries", &nf4, &options(Method::QLora));
    finite_differences("grouped queries", &float, &options(Method::Full));
    finite_differences(
        "checkpointing",
        &int8,
        &Options { checkpointing: true, ..options(Method::Lora) },
    );
    let smoothing = Options { label_smoothing: 0.2, ..options(Method::QLora) };
    let model = Llama::open(&nf4).unwrap();
    let trainer = Trainer::new(model, smoothing, names(3)).unwrap();
    assert_slopes("label smoothing", trainer, &model, &classes(&batch(&CONFIG)), 3);
}

/// Biases on q, k and v, norms of every head, and a head that is the embedding.
#[test]
fn gradients_are_slopes_in_other_configurations() {
    for name in ["qwen2", "qwen3", "tied"] {
        let archive = |weights, embedding| {
            let import = BaseOptions {
                weights,
                embedding,
                allow_missing_tokenizer: true,
                ..BaseOptions::default()
            };
            let folder =
                Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny-variants").join(name);
            base_to_buffer(&HuggingFace::open(folder).unwrap(), &import, &mut |_| {}).unwrap()
        };
        finite_differences(name, &archive(Format::F32, Format::F32), &options(Method::Full));
        finite_differences(
            name,
            &archive(Format::F32, Format::F32),
            &Options { checkpointing: true, ..options(Method::Full) },
        );
        finite_differences(name, &archive(Format::Nf4, Format::Nf4), &options(Method::QLora));
        finite_differences(name, &archive(Format::Nf4, Format::Int8), &options(Method::Dora));
    }
}

/// −log p[target].
fn cross_entropy(logits: &[f32], target: u32) -> f64 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits.iter().map(|&l| f64::from(l - most).exp()).sum();
    total.ln() - f64::from(logits[target as usize] - most)
}

/// What the core says of a batch under an adapter: the mean loss.
fn core_loss(model: Llama<'_>, adapter: Option<&[u8]>, batch: &Batch, precision: Precision) -> f64 {
    let Inputs::Tokens(tokens) = &batch.inputs else { panic!() };
    let limits = Limits {
        kv_format: KvFormat::F32,
        precision,
        prefill_chunk: 16,
        ..Limits::new(model.config().context)
    };
    let mut memory = Memory::new(need(model.config(), &limits));
    let mut slots = [Slot::EMPTY; 1];
    let mut set = AdapterSet::new(&mut slots, &model);
    let mut choices = Vec::new();
    if let Some(adapter) = adapter {
        set.attach(0, Adapter::open(adapter).unwrap()).unwrap();
        choices.push(Choice::slot(0));
    }
    let mut session = Session::new(model, &limits, memory.as_mut(), &Serial).unwrap();
    let (mut loss, mut scored) = (0.0, 0);
    for (sequence, pair) in batch.starts.windows(2).enumerate() {
        let tokens = &tokens[pair[0]..pair[1]];
        session.reset(0).unwrap();
        session.select(0, &set, &choices).unwrap();
        match &batch.targets {
            Wanted::Next(next) => session
                .score(0, tokens, |position, logits| {
                    let target = next[pair[0] + position];
                    if target != IGNORE {
                        (loss, scored) = (loss + cross_entropy(logits, target), scored + 1);
                    }
                })
                .unwrap(),
            Wanted::Class(classes) => {
                let mut logits = [0.0; 3];
                session.classify(0, tokens, &mut logits).unwrap();
                (loss, scored) = (loss + cross_entropy(&logits, classes[sequence]), scored + 1);
            }
        }
    }
    loss / f64::from(scored)
}

#[test]
fn the_training_loss_is_the_cores() {
    let batch = batch(&CONFIG);
    for format in [Format::F32, Format::F16, Format::Int8, Format::Nf4] {
        for method in Method::ALL {
            if (method == Method::QLora && format != Format::Nf4)
                || (method == Method::Full && !matches!(format, Format::F32 | Format::F16))
            {
                continue;
            }
            let archive = base(&CONFIG, format, format, 3);
            let model = Llama::open(&archive).unwrap();
            for labels in [Vec::new(), names(3)] {
                let batch = if labels.is_empty() { batch.clone() } else { classes(&batch) };
                let mut trainer = Trainer::new(model, options(method), labels).unwrap();
                shake(&mut trainer, 23);
                let ours = trainer.loss(&Serial, &batch, None).unwrap().loss;
                let trained = trainer.archive("test", None).unwrap();
                let core = if method == Method::Full {
                    let classifier = trainer.classifier_adapter(&trained).unwrap();
                    core_loss(
                        Llama::verify(&trained).unwrap(),
                        classifier.as_deref(),
                        &batch,
                        Precision::Exact,
                    )
                } else {
                    core_loss(model, Some(&trained), &batch, Precision::Exact)
                };
                let targets = &batch.targets;
                assert!(
                    (ours - core).abs() <= 1e-5 * core,
                    "{method} on {format:?}: {ours}, the core says {core} of {targets:?}"
                );
            }
        }
    }
}

/// `Fast` is the core's `Fast`, and the backward pass stays close to that of `Exact`, whatever the threads
/// and the checkpointing.
#[test]
fn fast_training_is_what_will_be_served() {
    let config = Config { hidden: 128, ..CONFIG };
    let cosine = |a: &[f32], b: &[f32]| {
        let dot =
            |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
        dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
    };
    let floats = base(&config, Format::F32, Format::F32, 3);
    let fast = Options { precision: Precision::Fast, ..options(Method::Lora) };
    let refused = Trainer::new(Llama::open(&floats).unwrap(), fast, Vec::new()).unwrap_err();
    assert!(refused.to_string().contains("precision fast has no effect"), "{refused}");
    for format in [Format::Nf4, Format::Int8] {
        let archive = base(&config, format, format, 3);
        let model = Llama::open(&archive).unwrap();
        for labels in [Vec::new(), names(3)] {
            let batch = if labels.is_empty() { batch(&config) } else { classes(&batch(&config)) };
            let [exact, fast] = [Precision::Exact, Precision::Fast].map(|precision| {
                let run = |executor: &dyn Executor, checkpointing| {
                    let options = Options { precision, checkpointing, ..options(Method::Lora) };
                    let mut trainer = Trainer::new(model, options, labels.clone()).unwrap();
                    shake(&mut trainer, 23);
                    let loss =
                        trainer.backward(executor, std::slice::from_ref(&batch)).unwrap().loss;
                    (loss, trainer.gradients().to_vec(), trainer.archive("test", None).unwrap())
                };
                let (loss, gradients, trained) = run(&Serial, false);
                assert_eq!(
                    run(&Threads::new(3).unwrap(), true).1,
                    gradients,
                    "{precision:?} on {format:?}"
                );
                let core = core_loss(model, Some(&trained), &batch, precision);
                // Where a number is rounded to one of 255, the last bit of an f32 can decide to
                // which.
                let tolerance = if precision == Precision::Fast { 1e-3 } else { 1e-5 };
                assert!(
                    (loss - core).abs() <= tolerance * core,
                    "{precision:?} on {format:?}: {loss}, the core says {core}"
                );
                (loss, gradients)
            });
            assert!(
                exact.0 != fast.0 && (exact.0 - fast.0).abs() <= 0.02 * exact.0,
                "{format:?}: {} and {}",
                exact.0,
                fast.0
            );
            let cosine = cosine(&exact.1, &fast.1);
            assert!(
                (0.99..0.999_999_9).contains(&cosine),
                "{format:?}: the gradients' cosine is {cosine}"
            );
        }
    }
}

#[test]
fn any_rank_of_dylora_can_be_used() {
    let batch = batch(&CONFIG);
    let archive = base(&CONFIG, Format::Nf4, Format::Int8, 3);
    let model = Llama::open(&archive).unwrap();
    let mut trainer = Trainer::new(model, options(Method::DyLora), Vec::new()).unwrap();
    shake(&mut trainer, 29);
    for rank in 1..=3 {
        let ours = trainer.loss(&Serial, &batch, Some(rank)).unwrap().loss;
        let core = core_loss(
            model,
            Some(&trainer.archive("test", Some(rank)).unwrap()),
            &batch,
            Precision::Exact,
        );
        assert!((ours - core).abs() <= 1e-5 * core, "rank {rank}: {ours}, the core says {core}");
    }
}

/// Dropout, accumulation and everything random follow from the seed, whatever the number of threads
/// and the checkpointing.
#[test]
fn results_do_not_depend_on_lanes_or_checkpointing() {
    let (batch, archive) = (batch(&CONFIG), base(&CONFIG, Format::Nf4, Format::Nf4, 3));
    let model = Llama::open(&archive).unwrap();
    let cases = [Method::QLora, Method::Ia3, Method::Dora, Method::DyLora, Method::LoraFa]
        .map(|method| (method, Vec::new(), batch.clone()));
    for (method, labels, batch) in
        cases.into_iter().chain([(Method::QLora, names(3), classes(&batch))])
    {
        let run = |threads: usize, checkpointing: bool| {
            let options = Options {
                dropout: 0.2,
                checkpointing,
                learning_rate: 1e-2,
                label_smoothing: 0.1,
                ..options(method)
            }
            .with_method(method);
            let mut trainer = Trainer::new(model, options, labels.clone()).unwrap();
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

/// As many rows as threads share: two have some each, four share the outputs.
#[test]
fn long_batches_do_not_depend_on_threads() {
    let (mut numbers, length, sequences) = (Numbers::new(7), 60, 10);
    let tokens: Vec<u32> = (0..sequences * length + 1)
        .map(|_| ((numbers.next() + 1.0) / 2.0 * (CONFIG.vocab - 1) as f32) as u32)
        .collect();
    let mut starts: Vec<usize> = (0..=sequences).map(|sequence| sequence * length).collect();
    starts[sequences] += 1;
    let targets = Wanted::Next(tokens.iter().map(|token| token / 2).collect());
    let batch = Batch { inputs: Inputs::Tokens(tokens), starts, targets };
    for (format, method) in
        [(Format::F32, Method::Lora), (Format::Nf4, Method::Dora), (Format::Int8, Method::Lora)]
    {
        let archive = base(&CONFIG, format, format, 3);
        let model = Llama::open(&archive).unwrap();
        let run = |threads| {
            let mut trainer = Trainer::new(model, options(method), Vec::new()).unwrap();
            shake(&mut trainer, 23);
            trainer
                .backward(&Threads::new(threads).unwrap(), std::slice::from_ref(&batch))
                .unwrap();
            trainer.gradients().to_vec()
        };
        let one = run(1);
        assert!(one == run(2), "{method} on {format:?}: two threads");
        assert!(one == run(4), "{method} on {format:?}: four threads");
    }
}

/// With dropout the loss is another function; its gradient must still be its slope. The mask is a
/// function of the step, so it is the same for neighbouring values.
#[test]
fn dropout_has_its_gradient() {
    let (batch, archive) = (batch(&CONFIG), base(&CONFIG, Format::F32, Format::F32, 3));
    let model = Llama::open(&archive).unwrap();
    let options =
        Options { dropout: 0.3, targets: TargetModules::AllLinear, ..options(Method::Lora) };
    let mut trainer = Trainer::new(model, options, Vec::new()).unwrap();
    shake(&mut trainer, 31);
    let facts = trainer.backward(&Serial, std::slice::from_ref(&batch)).unwrap();
    let (values, gradients) = (trainer.values().to_vec(), trainer.gradients().to_vec());
    let length = gradients.iter().map(|g| f64::from(*g) * f64::from(*g)).sum::<f64>().sqrt();
    let mut at = |h: f64| {
        let moved: Vec<f32> = values
            .iter()
            .zip(&gradients)
            .map(|(v, g)| v + (h / length * f64::from(*g)) as f32)
            .collect();
        trainer.set_values(&moved).unwrap();
        trainer.backward(&Serial, std::slice::from_ref(&batch)).unwrap().loss
    };
    let found = (at(1e-2) - at(-1e-2)) / 2e-2;
    assert!(
        (found - length).abs() <= 5e-3 * length,
        "finite difference {found}, gradient {length}"
    );
    assert!(
        facts.loss != trainer.loss(&Serial, &batch, None).unwrap().loss,
        "dropout does nothing"
    );
}
