//! LSTM and MLP bases keep their promises: torch's outputs, each sequence under its own adapters,
//! whatever the batch, the chunks and the threads; classifiers; the exact workspace; and one clear
//! error for everything that does not fit.

mod common;

use std::path::{Path, PathBuf};

use common::{LSTM, any_adapter, lstm, mlp};
use lowrank::adapter::{Adapter, AdapterSet, Choice, Slot};
use lowrank::archive::Buffer;
use lowrank::import::{BaseOptions, PyTorch, pytorch_to_buffer};
use lowrank::kernel::Precision;
use lowrank::model::lstm::{Config, Head, Lstm, Site};
use lowrank::model::mlp::{Activation, Mlp};
use lowrank::quant::Format;
use lowrank::runtime::{
    Executor, Memory, Predictor, PredictorLimits, Recurrent, RecurrentLimits, Sampler, Serial,
    Threads, predictor_need, recurrent_need,
};
use lowrank::{Error, Field, RootKind};
use safetensors::SafeTensors;

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(path)
}

fn import(folder: &str, format: Format) -> Buffer {
    let options = BaseOptions {
        weights: format,
        embedding: format,
        allow_missing_tokenizer: true,
        ..BaseOptions::default()
    };
    pytorch_to_buffer(&PyTorch::open(golden(folder)).unwrap(), &options, &mut |_| {}).unwrap()
}

fn expected(folder: &str, key: &str) -> Vec<f32> {
    let bytes = std::fs::read(golden(folder).join("outputs.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    tensors
        .tensor(key)
        .unwrap()
        .data()
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect()
}

fn sequences(folder: &str) -> Vec<Vec<u32>> {
    let json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(golden(folder).join("tokens.json")).unwrap())
            .unwrap();
    serde_json::from_value(json["sequences"].clone()).unwrap()
}

fn assert_close(name: &str, ours: &[f32], theirs: &[f32], tolerance: f32) {
    assert_eq!(ours.len(), theirs.len(), "{name}");
    let largest = theirs.iter().fold(1.0f32, |most, v| most.max(v.abs()));
    let worst = ours.iter().zip(theirs).fold(0.0f32, |most, (a, b)| most.max((a - b).abs()));
    assert!(worst <= tolerance * largest, "{name}: off by {worst:e}");
}

/// Calls `use_it` with a session in which sequence i uses the adapters `chosen[i]`.
fn with_session<T>(
    model: Lstm<'_>,
    limits: &RecurrentLimits,
    executor: &dyn Executor,
    adapters: &[Adapter<'_>],
    chosen: &[&[u32]],
    use_it: impl FnOnce(&mut Recurrent<'_, '_>) -> T,
) -> T {
    let mut slots = [Slot::EMPTY; 4];
    let mut set = AdapterSet::new(&mut slots, &model);
    for (slot, adapter) in (0..).zip(adapters) {
        set.attach(slot, *adapter).unwrap();
    }
    let mut memory = Memory::new(recurrent_need(model.config(), limits));
    let mut session = Recurrent::new(model, limits, memory.as_mut(), executor).unwrap();
    for (sequence, slots) in chosen.iter().enumerate() {
        let choices: Vec<Choice> = slots.iter().map(|&slot| Choice::slot(slot)).collect();
        session.select(sequence, &set, &choices).unwrap();
    }
    use_it(&mut session)
}

#[test]
fn lstm_outputs_are_torchs() {
    for folder in ["tiny-lstm", "tiny-lstm-labels"] {
        let archive = import(folder, Format::F32);
        let model = Lstm::verify(&archive).unwrap();
        for prefill_chunk in [32, 1, 5] {
            let limits = RecurrentLimits { prefill_chunk, batch: 2, ..RecurrentLimits::new() };
            for (i, tokens) in sequences(folder).iter().enumerate() {
                with_session(model, &limits, &Serial, &[], &[], |session| {
                    let mut logits = Vec::new();
                    session.score(1, tokens, |_, row| logits.extend_from_slice(row)).unwrap();
                    let theirs = expected(folder, &format!("logits.{i}"));
                    assert_close(folder, &logits, &theirs, 1e-5);
                    let h = expected(folder, &format!("h.{i}"));
                    assert_close(folder, session.hidden(1).unwrap(), &h[h.len() / 2..], 1e-5);
                    // All at once, and one by one.
                    let last = &theirs[theirs.len() - model.config().outputs..];
                    session.reset(1).unwrap();
                    session.prefill(1, tokens).unwrap();
                    assert_close(folder, session.logits(1).unwrap(), last, 1e-5);
                    tokens.iter().for_each(|&token| session.step(&[(0, token)]).unwrap());
                    assert_close(folder, session.logits(0).unwrap(), last, 1e-5);
                    assert_eq!(
                        (session.position(0), session.position(1)),
                        (Ok(tokens.len()), Ok(tokens.len()))
                    );
                });
            }
        }
    }
    let archive = import("tiny-lstm-labels", Format::Nf4);
    assert_eq!(
        Lstm::open(&archive).unwrap().labels().collect::<Vec<_>>(),
        ["bad", "good", "neither"]
    );
}

#[test]
fn mlp_outputs_are_torchs() {
    for folder in ["tiny-mlp", "tiny-mlp-gelu"] {
        let archive = import(folder, Format::F32);
        let model = Mlp::verify(&archive).unwrap();
        let c = *model.config();
        let features = expected(folder, "features");
        let limits = PredictorLimits::new(5);
        let mut memory = Memory::new(predictor_need(&c, &limits));
        let mut predictor = Predictor::new(model, &limits, memory.as_mut(), &Serial).unwrap();
        predictor.infer(&features).unwrap();
        let hidden: Vec<f32> =
            (0..5).flat_map(|row| predictor.hidden(row).unwrap().to_vec()).collect();
        assert_close(folder, &hidden, &expected(folder, "hidden"), 1e-5);
        let outputs: Vec<f32> =
            (0..5).flat_map(|row| predictor.outputs(row).unwrap().to_vec()).collect();
        assert_close(folder, &outputs, &expected(folder, "outputs"), 1e-5);
    }
    let archive = import("tiny-mlp", Format::Nf4);
    assert_eq!(Mlp::open(&archive).unwrap().labels().collect::<Vec<_>>(), ["a", "b", "c"]);
}

const TEXTS: [&[u32]; 4] =
    [&[1, 5, 9, 33, 2], &[1], &[1, 39, 38, 37, 7, 7, 7, 3, 8, 31, 22, 2], &[4, 4]];

/// Hidden state, logits and labels after each of the texts, read together one token at a time.
fn together(
    model: Lstm<'_>,
    limits: &RecurrentLimits,
    executor: &dyn Executor,
    adapters: &[Adapter<'_>],
    chosen: &[&[u32]],
) -> Vec<Vec<f32>> {
    with_session(model, limits, executor, adapters, chosen, |session| {
        let mut results = vec![Vec::new(); TEXTS.len()];
        for t in 0..12 {
            let tokens: Vec<(usize, u32)> =
                (0..4).filter_map(|i| Some((i, *TEXTS[i].get(t)?))).collect();
            session.step(&tokens).unwrap();
            for &(i, _) in tokens.iter().filter(|(i, _)| t + 1 == TEXTS[*i].len()) {
                results[i] = result(session, i, chosen[i].contains(&1));
            }
        }
        results
    })
}

fn result(session: &mut Recurrent<'_, '_>, sequence: usize, labelled: bool) -> Vec<f32> {
    let mut all = session.hidden(sequence).unwrap().to_vec();
    all.extend_from_slice(session.logits(sequence).unwrap());
    if labelled {
        let mut logits = [0.0; 3];
        session.classify(sequence, &mut logits).unwrap();
        all.extend(logits);
    }
    all
}

#[test]
fn sequences_of_an_lstm_keep_to_their_own_adapters_whatever_the_batch() {
    for (hidden, dim, format, precision) in [
        (22, 12, Format::F32, Precision::Exact),
        (22, 12, Format::Nf4, Precision::Exact),
        (64, 64, Format::Nf4, Precision::Fast),
    ] {
        let config = Config { hidden, dim, ..LSTM };
        let archive = lstm(&config, format, Format::Int8, 3);
        let model = Lstm::verify(&archive).unwrap();
        let number = |site: Site| site.number(config.layers);
        let everywhere: Vec<u32> = (0..config.sites() as u32).collect();
        let lora = any_adapter(&model, &everywhere, false, &[], 7);
        let dora = any_adapter(
            &model,
            &[number(Site::Ih(1)), number(Site::Hh(0))],
            true,
            &["no", "yes", "unsure"],
            8,
        );
        let adapters = [Adapter::verify(&lora).unwrap(), Adapter::verify(&dora).unwrap()];
        let chosen: [&[u32]; 4] = [&[0], &[], &[1], &[1, 0]];
        let limits = RecurrentLimits { batch: 4, precision, ..RecurrentLimits::new() };
        let batch = together(model, &limits, &Serial, &adapters, &chosen);
        let threads = Threads::new(3).unwrap();
        assert_eq!(
            batch,
            together(
                model,
                &RecurrentLimits { threads: 3, ..limits },
                &threads,
                &adapters,
                &chosen
            ),
            "threads change results"
        );
        let plain = together(model, &limits, &Serial, &adapters, &[&[], &[], &[], &[]]);
        for (i, text) in TEXTS.iter().enumerate() {
            for prefill_chunk in [3, 32] {
                let limits = RecurrentLimits { batch: 1, prefill_chunk, ..limits };
                let alone =
                    with_session(model, &limits, &Serial, &adapters, &[chosen[i]], |session| {
                        session.prefill(0, text).unwrap();
                        result(session, 0, chosen[i].contains(&1))
                    });
                assert_close(&format!("{format:?} text {i}"), &batch[i], &alone, 2e-6);
            }
            assert_eq!(
                batch[i][..plain[i].len()] == plain[i],
                chosen[i].is_empty(),
                "text {i}: the adapters act"
            );
        }
    }
}

#[test]
fn rows_of_an_mlp_keep_to_their_own_adapters_whatever_the_batch() {
    for (format, precision) in [(Format::F32, Precision::Exact), (Format::Nf4, Precision::Fast)] {
        let archive = mlp(64, &[128, 20, 3], Activation::Gelu, format, true, 3);
        let model = Mlp::verify(&archive).unwrap();
        let lora = any_adapter(&model, &[0, 1, 2], false, &[], 7);
        let dora = any_adapter(&model, &[1], true, &["x", "y"], 8);
        let adapters = [Adapter::verify(&lora).unwrap(), Adapter::verify(&dora).unwrap()];
        let features = common::Numbers::new(5).vec(3 * 64, 1.0);
        let chosen: [&[u32]; 3] = [&[0], &[], &[1, 0]];
        let run = |rows: &[usize], threads: usize, executor: &dyn Executor| {
            let limits = PredictorLimits { threads, precision, ..PredictorLimits::new(rows.len()) };
            let mut slots = [Slot::EMPTY; 2];
            let mut set = AdapterSet::new(&mut slots, &model);
            for (slot, adapter) in (0..).zip(&adapters) {
                set.attach(slot, *adapter).unwrap();
            }
            let mut memory = Memory::new(predictor_need(model.config(), &limits));
            let mut predictor = Predictor::new(model, &limits, memory.as_mut(), executor).unwrap();
            for (place, &row) in rows.iter().enumerate() {
                let choices: Vec<Choice> =
                    chosen[row].iter().map(|&slot| Choice::slot(slot)).collect();
                predictor.select(place, &set, &choices).unwrap();
            }
            let inputs: Vec<f32> =
                rows.iter().flat_map(|&row| &features[row * 64..][..64]).copied().collect();
            predictor.infer(&inputs).unwrap();
            let mut all = Vec::new();
            for (place, &row) in rows.iter().enumerate() {
                all.push(
                    [predictor.outputs(place).unwrap(), predictor.hidden(place).unwrap()].concat(),
                );
                if chosen[row].contains(&1) {
                    let mut logits = [0.0; 2];
                    predictor.classify(place, &mut logits).unwrap();
                    all[place].extend(logits);
                }
            }
            all
        };
        let batch = run(&[0, 1, 2], 1, &Serial);
        assert_eq!(batch, run(&[0, 1, 2], 3, &Threads::new(3).unwrap()));
        #[allow(
            clippy::needless_range_loop,
            reason = "a row number for the model and for what it said"
        )]
        for row in 0..3 {
            assert_close("row", &batch[row], &run(&[row], 1, &Serial)[0], 2e-6);
        }
    }
}

#[test]
fn what_does_not_fit_an_lstm_has_one_error_each() {
    let archive =
        lstm(&Config { head: Head::None, outputs: 0, ..LSTM }, Format::F32, Format::F32, 3);
    let bare = Lstm::open(&archive).unwrap();
    with_session(bare, &RecurrentLimits::new(), &Serial, &[], &[], |session| {
        session.prefill(0, &[1, 2]).unwrap();
        assert_eq!(session.logits(0).unwrap_err(), Error::NoHead);
        assert_eq!(session.score(0, &[1], |_, _| ()).unwrap_err(), Error::NoHead);
        assert_eq!(session.sample(0, &mut Sampler::greedy(), &[]).unwrap_err(), Error::NoHead);
        session.hidden(0).unwrap();
        session.step(&[(0, 3)]).unwrap();
    });
    let archive = lstm(&LSTM, Format::F32, Format::F32, 3);
    let model = Lstm::open(&archive).unwrap();
    let labelled = any_adapter(&model, &[0], false, &["a", "b"], 1);
    let adapters = [Adapter::open(&labelled).unwrap()];
    let limits = RecurrentLimits { batch: 2, ..RecurrentLimits::new() };
    with_session(model, &limits, &Serial, &adapters, &[&[0], &[]], |session| {
        assert_eq!(session.hidden(0).unwrap_err(), Error::NoLogits { sequence: 0 });
        assert_eq!(
            session.classify(0, &mut [0.0; 2]).unwrap_err(),
            Error::NoLogits { sequence: 0 }
        );
        assert_eq!(
            session.prefill(2, &[1]).unwrap_err(),
            Error::NoSuchSequence { sequence: 2, batch: 2 }
        );
        assert_eq!(session.prefill(0, &[]).unwrap_err(), Error::Length { have: 0, need: 1 });
        assert_eq!(
            session.prefill(0, &[1, 40]).unwrap_err(),
            Error::Token { token: 40, vocab: 40 }
        );
        assert_eq!(session.step(&[]).unwrap_err(), Error::Length { have: 0, need: 2 });
        assert_eq!(
            session.step(&[(0, 1), (0, 2)]).unwrap_err(),
            Error::DuplicateSequence { sequence: 0 }
        );
        session.step(&[(1, 2), (0, 1)]).unwrap();
        assert_eq!(
            session.classify(0, &mut [0.0; 3]).unwrap_err(),
            Error::Length { have: 3, need: 2 }
        );
        assert_eq!(
            session.classify(1, &mut [0.0]).unwrap_err(),
            Error::Classifiers { sequence: 1, found: 0 }
        );
        session.classify(0, &mut [0.0; 2]).unwrap();
        let mut slots = [Slot::EMPTY; 1];
        let set = AdapterSet::new(&mut slots, &model);
        assert_eq!(
            session.select(0, &set, &[]).unwrap_err(),
            Error::CacheOfOtherAdapters { sequence: 0, position: 1 }
        );
        session.reset(0).unwrap();
        session.select(0, &set, &[]).unwrap();
        // A state that was forgotten is a new one.
        session.prefill(0, &[7, 8]).unwrap();
        let again = session.logits(0).unwrap().to_vec();
        session.prefill(1, &[5]).unwrap();
        session.reset(1).unwrap();
        session.prefill(1, &[7, 8]).unwrap();
        assert_eq!(session.logits(1).unwrap(), again);
    });
    // An adapter is bound to its family.
    let other = mlp(6, &[20, 3], Activation::Relu, Format::F32, true, 3);
    let other = Mlp::open(&other).unwrap();
    let mut slots = [Slot::EMPTY; 1];
    let error = AdapterSet::new(&mut slots, &other).attach(0, adapters[0]).unwrap_err();
    assert!(matches!(error, Error::OtherBase { .. }));
    assert_eq!(
        Lstm::open(&labelled).unwrap_err(),
        Error::WrongRoot { found: RootKind::ADAPTER, expected: RootKind::LSTM }
    );
}

#[test]
fn what_does_not_fit_an_mlp_has_one_error_each() {
    let archive = mlp(6, &[20, 3], Activation::Relu, Format::F32, false, 3);
    let model = Mlp::open(&archive).unwrap();
    let limits = PredictorLimits::new(2);
    let mut memory = Memory::new(predictor_need(model.config(), &limits));
    let mut predictor = Predictor::new(model, &limits, memory.as_mut(), &Serial).unwrap();
    assert_eq!(predictor.outputs(0).unwrap_err(), Error::NotComputed { row: 0, rows: 0 });
    assert_eq!(predictor.infer(&[0.0; 7]).unwrap_err(), Error::Length { have: 7, need: 6 });
    assert_eq!(predictor.infer(&[]).unwrap_err(), Error::Length { have: 0, need: 6 });
    assert_eq!(predictor.infer(&[0.0; 18]).unwrap_err(), Error::Length { have: 18, need: 12 });
    predictor.infer(&[0.5; 6]).unwrap();
    assert_eq!(predictor.outputs(1).unwrap_err(), Error::NotComputed { row: 1, rows: 1 });
    assert_eq!(
        predictor.classify(0, &mut [0.0]).unwrap_err(),
        Error::Classifiers { sequence: 0, found: 0 }
    );
    assert_eq!(model.labels().count(), 0);
    let none = PredictorLimits::new(0);
    let error = Predictor::new(model, &none, memory.as_mut(), &Serial).unwrap_err();
    assert_eq!(error, Error::Limit { field: Field::Batch, found: 0, most: 1 << 16 });
}

#[test]
fn the_workspaces_are_exact() {
    let archive = lstm(&LSTM, Format::F32, Format::F32, 3);
    let model = Lstm::open(&archive).unwrap();
    for limits in [
        RecurrentLimits::new(),
        RecurrentLimits {
            batch: 40,
            precision: Precision::Fast,
            threads: 3,
            max_active: 0,
            prefill_chunk: 7,
            ..RecurrentLimits::new()
        },
    ] {
        let need = recurrent_need(&LSTM, &limits);
        let mut memory = Memory::new(need);
        let bytes = memory.as_mut();
        assert!(Recurrent::new(model, &limits, bytes, &Serial).is_ok());
        let have = need.bytes - 1;
        let small = Recurrent::new(model, &limits, &mut bytes[..have], &Serial).unwrap_err();
        assert_eq!(small, Error::WorkspaceTooSmall { need: need.bytes, have });
    }
    let archive = mlp(6, &[20, 3], Activation::Relu, Format::F32, false, 3);
    let model = Mlp::open(&archive).unwrap();
    for limits in [
        PredictorLimits::new(1),
        PredictorLimits {
            precision: Precision::Fast,
            max_total_rank: 0,
            ..PredictorLimits::new(9)
        },
    ] {
        let need = predictor_need(model.config(), &limits);
        let mut memory = Memory::new(need);
        let bytes = memory.as_mut();
        assert!(Predictor::new(model, &limits, bytes, &Serial).is_ok());
        let have = need.bytes - 1;
        let small = Predictor::new(model, &limits, &mut bytes[..have], &Serial).unwrap_err();
        assert_eq!(small, Error::WorkspaceTooSmall { need: need.bytes, have });
    }
}
