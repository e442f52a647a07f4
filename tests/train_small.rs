//! LSTM and MLP training: gradients against finite differences, the loss against the core's for
//! every method, results that do not depend on threads or checkpointing, and three classic small
//! models trained end to end.

mod common;

use common::{LSTM, Numbers, assert_slopes, lstm, mlp, names, shake};
use lowrank::adapter::{Adapter, AdapterSet, Choice, Slot};
use lowrank::import::{BaseOptions, fresh_to_buffer};
use lowrank::model::lstm::{Config, Head, Lstm};
use lowrank::model::mlp::{Activation, Mlp};
use lowrank::quant::Format;
use lowrank::runtime::{
    Memory, Predictor, PredictorLimits, Recurrent, RecurrentLimits, Sampler, Serial, Threads,
    predictor_need, recurrent_need,
};
use lowrank::text::Tokenizer;
use lowrank::train::data::{Batch, IGNORE, Inputs, Targets as Wanted};
use lowrank::train::{Method, Options, TargetModules, Trainer};

/// Three sequences of unequal lengths; some rows have no target.
fn next_tokens() -> Batch {
    let mut numbers = Numbers::new(5);
    let starts = vec![0, 9, 10, 23];
    let tokens: Vec<u32> = (0..23).map(|_| ((numbers.next() + 1.0) / 2.0 * 39.0) as u32).collect();
    let next = (0..23)
        .map(
            |row| {
                if starts.contains(&(row + 1)) || row % 5 == 3 { IGNORE } else { tokens[row + 1] }
            },
        )
        .collect();
    Batch { inputs: Inputs::Tokens(tokens), starts, targets: Wanted::Next(next) }
}

fn classes() -> Batch {
    Batch { targets: Wanted::Class(vec![2, 0, 1]), ..next_tokens() }
}

fn features(inputs: usize) -> Batch {
    let values = Numbers::new(5).vec(7 * inputs, 1.0);
    Batch {
        inputs: Inputs::Features { values, width: inputs },
        starts: (0..8).collect(),
        targets: Wanted::Class(vec![0, 1, 2, 1, 1, 0, 2]),
    }
}

fn options(method: Method) -> Options {
    let targets = match method {
        Method::Full | Method::LoraFa | Method::Dora | Method::Ia3 => TargetModules::AllLinear,
        _ => TargetModules::Pattern(".*".into()),
    };
    Options { rank: 3, alpha: 5.0, max_norm: 0.0, targets, ..Options::new(method) }
        .with_method(method)
}

/// Every method with the formats of base that it trains on.
fn cases() -> impl Iterator<Item = (Method, Format)> {
    let formats = [Format::F32, Format::F16, Format::Int8, Format::Nf4];
    Method::ALL.into_iter().flat_map(move |method| formats.map(|format| (method, format))).filter(
        |(method, format)| match method {
            Method::QLora => *format == Format::Nf4,
            Method::Full => matches!(format, Format::F32 | Format::F16),
            _ => true,
        },
    )
}

#[test]
fn gradients_of_an_lstm_are_slopes() {
    for (method, format) in
        cases().filter(|(_, format)| matches!(format, Format::F32 | Format::Nf4))
    {
        let archive = lstm(&LSTM, format, format, 3);
        let model = Lstm::open(&archive).unwrap();
        let trainer = Trainer::new(model, options(method), Vec::new()).unwrap();
        assert_slopes(
            &format!("next token, {method} on {format:?}"),
            trainer,
            &model,
            &next_tokens(),
            40,
        );
        let trainer =
            Trainer::new(model, Options { checkpointing: true, ..options(method) }, names(3))
                .unwrap();
        assert_slopes(&format!("classes, {method} on {format:?}"), trainer, &model, &classes(), 3);
    }
    let archive = lstm(&LSTM, Format::Nf4, Format::Int8, 3);
    let model = Lstm::open(&archive).unwrap();
    let smoothing = Options { label_smoothing: 0.2, ..options(Method::Lora) };
    assert_slopes(
        "label smoothing",
        Trainer::new(model, smoothing, Vec::new()).unwrap(),
        &model,
        &next_tokens(),
        40,
    );
}

#[test]
fn gradients_of_an_mlp_are_slopes() {
    for (method, format) in
        cases().filter(|(_, format)| matches!(format, Format::F32 | Format::Nf4))
    {
        for activation in [Activation::Gelu, Activation::GeluTanh] {
            let archive = mlp(12, &[20, 9, 3], activation, format, true, 3);
            let model = Mlp::open(&archive).unwrap();
            let trainer = Trainer::new(model, options(method), names(3)).unwrap();
            assert_slopes(&format!("{method} on {format:?}"), trainer, &model, &features(12), 3);
        }
    }
}

/// −log p[target].
fn cross_entropy(logits: &[f32], target: u32) -> f64 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits.iter().map(|&l| f64::from(l - most).exp()).sum();
    total.ln() - f64::from(logits[target as usize] - most)
}

/// Calls `use_it` with a session of one sequence under `adapter`.
fn with_session<T>(
    model: Lstm<'_>,
    adapter: Option<&[u8]>,
    use_it: impl FnOnce(&mut Recurrent<'_, '_>) -> T,
) -> T {
    let limits = RecurrentLimits { prefill_chunk: 7, ..RecurrentLimits::new() };
    let mut memory = Memory::new(recurrent_need(model.config(), &limits));
    let mut slots = [Slot::EMPTY; 1];
    let mut set = AdapterSet::new(&mut slots, &model);
    let mut choices = Vec::new();
    if let Some(adapter) = adapter {
        set.attach(0, Adapter::open(adapter).unwrap()).unwrap();
        choices.push(Choice::slot(0));
    }
    let mut session = Recurrent::new(model, &limits, memory.as_mut(), &Serial).unwrap();
    session.select(0, &set, &choices).unwrap();
    use_it(&mut session)
}

/// The mean loss of a batch as the core sees it: by the head, or by the adapter's classifier if it
/// brings one.
fn lstm_loss(model: Lstm<'_>, adapter: Option<&[u8]>, batch: &Batch) -> f64 {
    let Inputs::Tokens(tokens) = &batch.inputs else { panic!() };
    with_session(model, adapter, |session| {
        let (mut loss, mut scored) = (0.0, 0);
        for (i, pair) in batch.starts.windows(2).enumerate() {
            let rows = &tokens[pair[0]..pair[1]];
            session.reset(0).unwrap();
            match &batch.targets {
                Wanted::Next(next) => session
                    .score(0, rows, |position, logits| {
                        let target = next[pair[0] + position];
                        if target != IGNORE {
                            (loss, scored) = (loss + cross_entropy(logits, target), scored + 1);
                        }
                    })
                    .unwrap(),
                Wanted::Class(classes) => {
                    session.prefill(0, rows).unwrap();
                    let mut logits = vec![0.0; 3];
                    match adapter {
                        Some(_) => session.classify(0, &mut logits).unwrap(),
                        None => logits.copy_from_slice(session.logits(0).unwrap()),
                    }
                    (loss, scored) = (loss + cross_entropy(&logits, classes[i]), scored + 1);
                }
            }
        }
        loss / f64::from(scored)
    })
}

/// The logits of every row: the base's outputs, or the adapter's classifier.
fn mlp_logits(model: Mlp<'_>, adapter: Option<&[u8]>, values: &[f32]) -> Vec<Vec<f32>> {
    let limits = PredictorLimits::new(1);
    let mut memory = Memory::new(predictor_need(model.config(), &limits));
    let mut slots = [Slot::EMPTY; 1];
    let mut set = AdapterSet::new(&mut slots, &model);
    let mut choices = Vec::new();
    if let Some(adapter) = adapter {
        set.attach(0, Adapter::open(adapter).unwrap()).unwrap();
        choices.push(Choice::slot(0));
    }
    let mut predictor = Predictor::new(model, &limits, memory.as_mut(), &Serial).unwrap();
    predictor.select(0, &set, &choices).unwrap();
    let logits = |row: &[f32]| {
        predictor.infer(row).unwrap();
        if adapter.is_none() {
            return predictor.outputs(0).unwrap().to_vec();
        }
        let mut logits = vec![0.0; predictor.classifier(0).unwrap().len()];
        predictor.classify(0, &mut logits).unwrap();
        logits
    };
    values.chunks_exact(model.config().inputs).map(logits).collect()
}

#[test]
fn the_training_loss_is_the_cores() {
    let close = |what: &str, ours: f64, core: f64| {
        assert!((ours - core).abs() <= 1e-5 * core, "{what}: {ours}, the core says {core}")
    };
    for (method, format) in cases() {
        for labels in [Vec::new(), names(3)] {
            let archive = lstm(&LSTM, format, format, 3);
            let model = Lstm::open(&archive).unwrap();
            let batch = if labels.is_empty() { next_tokens() } else { classes() };
            let mut trainer = Trainer::new(model, options(method), labels).unwrap();
            shake(&mut trainer, 23);
            let ours = trainer.loss(&Serial, &batch, None).unwrap().loss;
            let trained = trainer.archive("test", None).unwrap();
            let core = match method {
                Method::Full => lstm_loss(Lstm::verify(&trained).unwrap(), None, &batch),
                _ => lstm_loss(model, Some(&trained), &batch),
            };
            close(&format!("lstm, {method} on {format:?}"), ours, core);
        }
        for activation in [Activation::Relu, Activation::Gelu, Activation::GeluTanh] {
            let archive = mlp(12, &[20, 9, 3], activation, format, true, 3);
            let (model, batch) = (Mlp::open(&archive).unwrap(), features(12));
            let (Inputs::Features { values, .. }, Wanted::Class(classes)) =
                (&batch.inputs, &batch.targets)
            else {
                panic!()
            };
            let mut trainer = Trainer::new(model, options(method), names(3)).unwrap();
            shake(&mut trainer, 23);
            let ours = trainer.loss(&Serial, &batch, None).unwrap().loss;
            let trained = trainer.archive("test", None).unwrap();
            let logits = match method {
                Method::Full => mlp_logits(Mlp::verify(&trained).unwrap(), None, values),
                _ => mlp_logits(model, Some(&trained), values),
            };
            let core = logits
                .iter()
                .zip(classes)
                .map(|(logits, &class)| cross_entropy(logits, class))
                .sum::<f64>()
                / 7.0;
            close(&format!("mlp, {method} on {format:?}"), ours, core);
        }
    }
}

/// Dropout and everything random follow from the seed, whatever the number of threads and the
/// checkpointing.
#[test]
fn results_do_not_depend_on_lanes_or_checkpointing() {
    let archive = lstm(&LSTM, Format::Nf4, Format::Nf4, 3);
    let model = Lstm::open(&archive).unwrap();
    for method in [Method::QLora, Method::Ia3, Method::Dora, Method::DyLora, Method::LoraFa] {
        let run = |threads: usize, checkpointing: bool| {
            let options =
                Options { dropout: 0.2, checkpointing, learning_rate: 1e-2, ..options(method) }
                    .with_method(method);
            let mut trainer = Trainer::new(model, options, Vec::new()).unwrap();
            let executor = Threads::new(threads).unwrap();
            for _ in 0..4 {
                trainer.step(&executor, &[next_tokens(), next_tokens()], 1.0).unwrap();
            }
            trainer.values().to_vec()
        };
        let one = run(1, false);
        assert!(one == run(2, false), "{method}: two threads");
        assert!(one == run(3, true), "{method}: three threads and checkpointing");
    }
}

/// With dropout the loss is another function; its gradient must still be its slope, also through
/// the recurrent products.
#[test]
fn dropout_has_its_gradient() {
    let archive = lstm(&LSTM, Format::F32, Format::F32, 3);
    let options = Options { dropout: 0.3, ..options(Method::Lora) };
    let mut trainer = Trainer::new(Lstm::open(&archive).unwrap(), options, Vec::new()).unwrap();
    shake(&mut trainer, 31);
    let batch = [next_tokens()];
    trainer.backward(&Serial, &batch).unwrap();
    let (values, gradients) = (trainer.values().to_vec(), trainer.gradients().to_vec());
    let length = gradients.iter().map(|g| f64::from(*g) * f64::from(*g)).sum::<f64>().sqrt();
    let mut at = |h: f64| {
        let moved: Vec<f32> = values
            .iter()
            .zip(&gradients)
            .map(|(v, g)| v + (h / length * f64::from(*g)) as f32)
            .collect();
        trainer.set_values(&moved).unwrap();
        trainer.backward(&Serial, &batch).unwrap().loss
    };
    let found = (at(1e-2) - at(-1e-2)) / 2e-2;
    assert!(
        (found - length).abs() <= 5e-3 * length,
        "finite difference {found}, gradient {length}"
    );
}

/// A base's own classifier is no target, and the one that is trained goes on from it if the labels
/// are the same.
#[test]
fn a_classifier_goes_on_from_the_bases_own() {
    let config = Config { head: Head::Labels, outputs: 3, ..LSTM };
    let archive = lstm(&config, Format::F32, Format::F32, 3);
    let model = Lstm::open(&archive).unwrap();
    let same = Trainer::new(model, options(Method::Lora), names(3)).unwrap();
    let ours = same.loss(&Serial, &classes(), None).unwrap().loss;
    let own = lstm_loss(model, None, &classes());
    assert!((ours - own).abs() <= 1e-5 * own, "{ours} {own}");
    assert!(same.parameters().all(|parameter| parameter.layer != "head"));
    let turned = Batch { targets: Wanted::Class(vec![0, 2, 1]), ..classes() };
    let reversed =
        Trainer::new(model, options(Method::Lora), ["l2", "l1", "l0"].map(String::from).to_vec())
            .unwrap();
    let turned = reversed.loss(&Serial, &turned, None).unwrap().loss;
    assert!(
        (turned - ours).abs() <= 1e-6 * ours,
        "the same labels in another order: {turned} {ours}"
    );
    let other =
        Trainer::new(model, options(Method::Lora), ["x", "y", "z"].map(String::from).to_vec())
            .unwrap();
    assert_ne!(other.loss(&Serial, &classes(), None).unwrap().loss, ours);
    let error = Trainer::new(model, options(Method::Lora), Vec::new()).unwrap_err().to_string();
    assert!(error.contains("no language-model head"), "{error}");
    let head =
        Options { targets: TargetModules::Names(vec!["head".into()]), ..options(Method::Lora) };
    let error = Trainer::new(model, head, names(3)).unwrap_err().to_string();
    assert!(error.ends_with("its layers are embedding, hh_l0, hh_l1, ih_l0, ih_l1"), "{error}");
}

fn fresh(json: &str, seed: u64, format: Format) -> lowrank::archive::Buffer {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.json");
    std::fs::write(&path, json).unwrap();
    let options = BaseOptions { weights: format, embedding: Format::F32, ..BaseOptions::default() };
    fresh_to_buffer(&path, seed, &options).unwrap()
}

/// Points of the square, in class 1 where exactly one coordinate is positive.
fn checkerboard(seed: u64, count: usize) -> (Vec<f32>, Vec<u32>) {
    let values = Numbers::new(seed).vec(2 * count, 1.0);
    let classes = values
        .chunks_exact(2)
        .map(|point| u32::from((point[0] > 0.0) != (point[1] > 0.0)))
        .collect();
    (values, classes)
}

fn most_likely(logits: &[f32]) -> u32 {
    (0..)
        .zip(logits)
        .fold(
            (0, f32::NEG_INFINITY),
            |best, (i, &logit)| if logit > best.1 { (i, logit) } else { best },
        )
        .0
}

/// Linear, ReLU, linear: what no linear classifier can tell apart, by an adapter and by the weights
/// themselves.
#[test]
fn a_perceptron_learns_a_checkerboard() {
    let config = r#"{"model_type": "mlp", "input_size": 2, "hidden_sizes": [32], "labels": ["even", "odd"], "activation": "relu"}"#;
    let archive = fresh(config, 1, Format::F32);
    let model = Mlp::open(&archive).unwrap();
    for method in [Method::Lora, Method::Full] {
        let options = Options { learning_rate: 1e-2, rank: 2, alpha: 4.0, ..Options::new(method) }
            .with_method(method);
        let mut trainer = Trainer::new(model, options, vec!["even".into(), "odd".into()]).unwrap();
        for step in 0..400 {
            let (values, classes) = checkerboard(100 + step, 64);
            let inputs = Inputs::Features { values, width: 2 };
            let batch =
                Batch { inputs, starts: (0..65).collect(), targets: Wanted::Class(classes) };
            trainer.step(&Serial, &[batch], 1.0).unwrap();
        }
        let trained = trainer.archive("checkerboard", None).unwrap();
        let (values, classes) = checkerboard(7, 500);
        let logits = match method {
            Method::Full => mlp_logits(Mlp::open(&trained).unwrap(), None, &values),
            _ => mlp_logits(model, Some(&trained), &values),
        };
        let right = logits
            .iter()
            .zip(&classes)
            .filter(|(logits, class)| most_likely(logits) == **class)
            .count();
        assert!(right >= 475, "{method}: {right} of 500");
    }
}

/// A word of praise (2 to 6) or blame (7 to 11) among others, and perhaps "not" (1) right before
/// it.
fn opinions(seed: u64, count: usize) -> Batch {
    let mut numbers = Numbers::new(seed);
    let mut below = |n: u32| (((numbers.next() + 1.0) / 2.0 * n as f32) as u32).min(n - 1);
    let (mut tokens, mut starts, mut classes) = (Vec::new(), vec![0], Vec::new());
    for _ in 0..count {
        let (before, after, is_negated, word) = (below(4), below(4), below(2), 2 + below(10));
        tokens.extend((0..before).map(|_| 12 + below(18)));
        tokens.extend((is_negated == 1).then_some(1));
        tokens.push(word);
        tokens.extend((0..after).map(|_| 12 + below(18)));
        starts.push(tokens.len());
        classes.push(u32::from(word < 7) ^ is_negated);
    }
    Batch { inputs: Inputs::Tokens(tokens), starts, targets: Wanted::Class(classes) }
}

/// Embedding, LSTM, classifier, on a random NF4 base: the adapter learns that "not" turns an
/// opinion around.
#[test]
fn an_lstm_learns_opinions_from_examples() {
    let config = r#"{"model_type": "lstm", "vocab_size": 30, "embedding_size": 16, "hidden_size": 32, "num_layers": 1, "head": "none"}"#;
    let archive = fresh(config, 1, Format::Nf4);
    let model = Lstm::open(&archive).unwrap();
    let options = Options { learning_rate: 1e-2, ..Options::new(Method::QLora) };
    let mut trainer = Trainer::new(model, options, vec!["bad".into(), "good".into()]).unwrap();
    for step in 0..300 {
        trainer.step(&Serial, &[opinions(100 + step, 32)], 1.0).unwrap();
    }
    let adapter = trainer.archive("opinions", None).unwrap();
    let held_out = opinions(7, 300);
    let (Inputs::Tokens(tokens), Wanted::Class(classes)) = (&held_out.inputs, &held_out.targets)
    else {
        panic!()
    };
    let right = with_session(model, Some(&adapter), |session| {
        let answers = held_out.starts.windows(2).map(|pair| {
            let mut logits = [0.0; 2];
            session.reset(0).unwrap();
            session.prefill(0, &tokens[pair[0]..pair[1]]).unwrap();
            session.classify(0, &mut logits).unwrap();
            most_likely(&logits)
        });
        answers.zip(classes).filter(|(answer, class)| answer == *class).count()
    });
    assert!(right >= 285, "{right} of 300");
}

/// What the model writes after the first `given` bytes of `text`.
fn continued(
    model: Lstm<'_>,
    adapter: Option<&[u8]>,
    text: &Tokenizer,
    expected: &str,
    given: usize,
) -> String {
    let ids = text.encode_prompt(expected).unwrap();
    let mut written = ids[..=given].to_vec();
    with_session(model, adapter, |session| {
        session.prefill(0, &written).unwrap();
        while written.len() < ids.len() {
            let token = session.sample(0, &mut Sampler::greedy(), &written).unwrap();
            session.step(&[(0, token)]).unwrap();
            written.push(token);
        }
    });
    text.decode(&written, false).unwrap()
}

/// Embedding, LSTM, vocabulary head: pre-trained from nothing on one text, then an adapter for
/// another, and each is continued.
#[test]
fn an_lstm_learns_to_continue_a_text() {
    const FIRST: &str =
        "the quick brown fox jumps over the lazy dog, and the dog sleeps on in the sun.";
    const SECOND: &str =
        "pack my box with five dozen liquor jugs; how vexingly quick daft zebras jump!";
    let config = r#"{"model_type": "lstm", "tokenizer": "bytes", "embedding_size": 24, "hidden_size": 64, "num_layers": 1}"#;
    let archive = fresh(config, 1, Format::F32);
    let model = Lstm::open(&archive).unwrap();
    let text = Tokenizer::for_lstm(&model).unwrap();
    let batch = |text: &Tokenizer, content: &str| {
        let tokens = text.encode_prompt(content).unwrap();
        assert_eq!(tokens.len(), 1 + content.len(), "a token per byte, and <s>");
        let next = tokens[1..].iter().copied().chain([IGNORE]).collect();
        Batch {
            starts: vec![0, tokens.len()],
            inputs: Inputs::Tokens(tokens),
            targets: Wanted::Next(next),
        }
    };
    let train = |model: Lstm<'_>, method: Method, content: &str| {
        // The second text has letters that the first never showed: embedding and head learn them
        // too.
        let targets = match method {
            Method::Full => TargetModules::AllLinear,
            _ => TargetModules::Names(
                ["embedding", "ih_l0", "hh_l0", "head"].map(String::from).to_vec(),
            ),
        };
        let options =
            Options { learning_rate: 1e-2, rank: 16, alpha: 32.0, targets, ..Options::new(method) }
                .with_method(method);
        let mut trainer = Trainer::new(model, options, Vec::new()).unwrap();
        let batch = [batch(&text, content)];
        let before = trainer.loss(&Serial, &batch[0], None).unwrap().loss;
        for step in 0..400 {
            // The rate falls: the last steps settle.
            trainer.step(&Serial, &batch, 1.0 - step as f32 / 400.0).unwrap();
        }
        let after = trainer.loss(&Serial, &batch[0], None).unwrap().loss;
        assert!(before > 3.0 && after < 0.1, "{method}: {before} to {after}");
        trainer.archive("text", None).unwrap()
    };
    let trained = train(model, Method::Full, FIRST);
    let model = Lstm::open(&trained).unwrap();
    assert_eq!(continued(model, None, &text, FIRST, 4), FIRST);
    let adapter = train(model, Method::Lora, SECOND);
    assert_eq!(continued(model, Some(&adapter), &text, SECOND, 4), SECOND);
    assert_eq!(continued(model, None, &text, FIRST, 4), FIRST);
}
