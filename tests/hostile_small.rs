//! Damaged LSTM and MLP archives: every truncation and every flipped byte is refused by `open` or
//! `verify`, and what `open` lets through never panics.

mod common;

use common::{LSTM, any_adapter, lstm, mlp};
use lowrank::Error;
use lowrank::adapter::{Adapter, AdapterSet, Choice, Slot};
use lowrank::archive::{Buffer, schema, to_buffer};
use lowrank::model::lstm::{Config, Head, Lstm};
use lowrank::model::mlp::schema::{Mlp as Root, MlpConfig};
use lowrank::model::mlp::{Activation, Mlp};
use lowrank::quant::{Format, OwnedMatrix};
use lowrank::runtime::{
    Memory, Predictor, PredictorLimits, Recurrent, RecurrentLimits, Sampler, Serial,
    predictor_need, recurrent_need,
};

const MOST: usize = 1 << 22;

/// Uses everything an LSTM has; errors are fine, panics are not.
fn use_lstm(model: Lstm<'_>, adapter: Option<&Adapter<'_>>) {
    let limits = RecurrentLimits { prefill_chunk: 2, ..RecurrentLimits::new() };
    if recurrent_need(model.config(), &limits).bytes > MOST {
        return;
    }
    let mut memory = Memory::new(recurrent_need(model.config(), &limits));
    let mut slots = [Slot::EMPTY];
    let mut set = AdapterSet::new(&mut slots, &model);
    let choice = adapter.map(|&adapter| set.attach(0, adapter).map(|_| Choice::slot(0)));
    let Ok(mut session) = Recurrent::new(model, &limits, memory.as_mut(), &Serial) else { return };
    if let Some(Ok(choice)) = choice {
        let _ = session.select(0, &set, &[choice]);
    }
    if session.prefill(0, &[0, 1, 2]).is_ok()
        && let Ok(token) = session.sample(0, &mut Sampler::greedy(), &[])
    {
        let _ = session.step(&[(0, token)]);
    }
    let _ = session.classify(0, &mut [0.0; 2]);
    let _ = (
        model.name(),
        model.labels().count(),
        model.tokenizer_json(),
        model.bos(),
        model.stop_tokens().count(),
    );
}

fn use_mlp(model: Mlp<'_>) {
    let limits = PredictorLimits::new(1);
    if predictor_need(model.config(), &limits).bytes > MOST {
        return;
    }
    let mut memory = Memory::new(predictor_need(model.config(), &limits));
    let Ok(mut predictor) = Predictor::new(model, &limits, memory.as_mut(), &Serial) else {
        return;
    };
    let _ = predictor.infer(&vec![0.5; model.config().inputs]);
    let _ = (predictor.outputs(0).is_ok(), model.name(), model.labels().count());
}

fn small(head: Head, outputs: usize) -> Buffer {
    lstm(
        &Config { vocab: 24, dim: 8, hidden: 6, head, outputs, ..LSTM },
        Format::Nf4,
        Format::Int8,
        1,
    )
}

/// Every truncation is refused by `open`, every flipped byte by `verify`; what `open` accepts goes
/// to `use_it`.
fn damage(
    archive: &Buffer,
    open: impl Fn(&[u8]) -> Result<(), Error>,
    verify: impl Fn(&[u8]) -> Result<(), Error>,
    use_it: impl Fn(&[u8]),
) {
    verify(archive).unwrap();
    for len in 0..archive.len() {
        let error = open(&Buffer::from(&archive[..len])).unwrap_err();
        assert!(
            matches!(error, Error::Truncated { .. } | Error::NotAnArchive),
            "{len} bytes: {error}"
        );
    }
    for at in 0..archive.len() {
        for mask in [0x01, 0x80, 0xff] {
            let mut bytes = archive.to_vec();
            bytes[at] ^= mask;
            let flipped = Buffer::from(&bytes[..]);
            assert!(verify(&flipped).is_err(), "byte {at} ^ {mask:#x} was accepted");
            if open(&flipped).is_ok() {
                use_it(&flipped);
            }
        }
    }
}

#[test]
fn damaged_lstms_are_refused_and_never_panic() {
    for archive in [small(Head::LanguageModel, 24), small(Head::Labels, 3), small(Head::None, 0)] {
        let adapter =
            any_adapter(&Lstm::open(&archive).unwrap(), &[0, 3, 4], false, &["a", "b"], 7);
        let adapter = Adapter::open(&adapter).unwrap();
        let use_it = |bytes: &[u8]| use_lstm(Lstm::open(bytes).unwrap(), Some(&adapter));
        damage(
            &archive,
            |bytes| Lstm::open(bytes).map(drop),
            |bytes| Lstm::verify(bytes).map(drop),
            use_it,
        );
    }
}

#[test]
fn damaged_mlps_are_refused_and_never_panic() {
    for labelled in [false, true] {
        let archive = mlp(6, &[20, 9, 3], Activation::Relu, Format::Nf4, labelled, 1);
        let use_it = |bytes: &[u8]| use_mlp(Mlp::open(bytes).unwrap());
        damage(
            &archive,
            |bytes| Mlp::open(bytes).map(drop),
            |bytes| Mlp::verify(bytes).map(drop),
            use_it,
        );
    }
}

#[test]
fn damaged_adapters_of_an_lstm_never_panic() {
    let archive = small(Head::LanguageModel, 24);
    let model = Lstm::open(&archive).unwrap();
    let bytes = any_adapter(&model, &[0, 1, 4, 5], false, &["a", "b"], 7);
    for at in 0..bytes.len() {
        let mut damaged = bytes.to_vec();
        damaged[at] ^= 0x81;
        if let Ok(adapter) = Adapter::open(&Buffer::from(&damaged[..])) {
            use_lstm(model, Some(&adapter));
        }
    }
}

/// Opens an MLP of one layer.
fn open_one_layer(config: MlpConfig, weight: schema::Matrix<'_>) -> Result<(), Error> {
    let layers = [schema::Linear { weight, bias: &[] }];
    let root = Root { name: "", config, layers: &layers, labels: "" };
    Mlp::open(&to_buffer(&root, 1).unwrap()).map(|_| ())
}

/// What reads weights relies on the lengths that `open` proves: of every format, every part with a
/// line more or less than it needs is refused.
#[test]
fn parts_of_another_length_are_refused_in_every_format() {
    const ROWS: usize = 48;
    const COLS: usize = 64;
    let floats: Vec<f32> = (0..ROWS * COLS).map(|i| (i as f32 * 0.37).sin()).collect();
    let config = MlpConfig { inputs: COLS as u32, outputs: ROWS as u32, layers: 1, activation: 0 };
    let open = |weight: schema::Matrix<'_>| open_one_layer(config, weight);
    for format in [Format::F32, Format::F16, Format::Int8, Format::Nf4, Format::Nf4Plain] {
        let owned = OwnedMatrix::quantize(format, 64, ROWS, COLS, &floats).unwrap();
        let whole = schema::Matrix::from(owned.view());
        open(whole).unwrap();
        let mut wrong = 0;
        for part in 0..3 {
            let longer = [whole.codes, whole.scales].map(|part| [part, &[0; 64]].concat());
            let more = match part {
                0 => schema::Matrix { codes: &longer[0], ..whole },
                1 => schema::Matrix { scales: &longer[1], ..whole },
                _ => schema::Matrix { nested: &[0.0; 32], ..whole },
            };
            let less = match part {
                0 => schema::Matrix { codes: &whole.codes[64..], ..whole },
                1 => schema::Matrix { scales: &[], ..whole },
                _ => schema::Matrix { nested: &[], ..whole },
            };
            let has_less = [true, !whole.scales.is_empty(), !whole.nested.is_empty()][part];
            for (weight, differs) in [(more, true), (less, has_less)] {
                if differs {
                    let error = open(weight).unwrap_err();
                    assert!(matches!(error, Error::PayloadLength { .. }), "{format:?}: {error}");
                    wrong += 1;
                }
            }
        }
        assert!(wrong >= 4, "{format:?}");
    }
}
