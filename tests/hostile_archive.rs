//! Damaged archives: every truncation and every flipped byte of a small base and a small adapter is
//! refused by `open` or `verify`, and what `open` lets through never panics.

mod common;

use common::{BERT, CONFIG, adapter, base, bert, bert_adapter_parts, pooler_parts};
use lowrank::adapter::{Adapter, AdapterSet, Choice, Slot};
use lowrank::archive::{Buffer, HEADER_LEN};
use lowrank::model::bert::{self, Bert, Pooling};
use lowrank::model::llama::{Config, Llama, Site};
use lowrank::quant::Format;
use lowrank::runtime::{
    Encoder, EncoderLimits, Limits, Memory, Sampler, Serial, Session, encoder_need, need,
};
use lowrank::{Error, RootKind};

/// Small enough that every byte can be flipped.
const SMALL: Config = Config {
    vocab: 24,
    dim: 64,
    layers: 1,
    heads: 2,
    kv_heads: 1,
    head_dim: 32,
    hidden: 36,
    context: 16,
    ..CONFIG
};

fn small_base() -> Buffer {
    base(&SMALL, Format::Nf4, Format::Int8, 1)
}

/// Uses everything a model has; errors are fine, panics are not.
fn exercise(model: Llama<'_>, adapter: Option<&Adapter<'_>>) {
    let limits = Limits { prefill_chunk: 2, ..Limits::new(8) };
    if need(model.config(), &limits).bytes > 1 << 22 {
        return;
    }
    let mut memory = Memory::new(need(model.config(), &limits));
    let mut slots = [Slot::EMPTY];
    let mut set = AdapterSet::new(&mut slots, &model);
    let choices = adapter.map(|&adapter| set.attach(0, adapter).map(|_| Choice::slot(0)));
    let Ok(mut session) = Session::new(model, &limits, memory.as_mut(), &Serial) else { return };
    if let Some(Ok(choice)) = choices {
        let _ = session.select(0, &set, &[choice]);
    }
    if session.prefill(0, &[0, 1, 2]).is_ok()
        && let Ok(token) = session.sample(0, &mut Sampler::greedy())
    {
        let _ = session.step(&[(0, token)]);
    }
    let _ = (
        model.name(),
        model.chat_template(),
        model.tokenizer_json(),
        model.bos(),
        model.stop_tokens().count(),
    );
}

#[test]
fn every_truncation_of_a_base_is_refused() {
    let archive = small_base();
    for len in 0..archive.len() {
        let cut = Buffer::from(&archive[..len]);
        let error = Llama::open(&cut).unwrap_err();
        let known = matches!(error, Error::Truncated { .. } | Error::NotAnArchive);
        assert!(known, "{len} bytes: {error}");
    }
    let longer = Buffer::from(&[&archive[..], &[0]].concat()[..]);
    assert!(matches!(Llama::open(&longer).unwrap_err(), Error::Truncated { .. }));
}

#[test]
fn every_flipped_byte_of_a_base_is_refused_by_verify_and_never_panics() {
    let archive = small_base();
    Llama::verify(&archive).unwrap();
    for at in 0..archive.len() {
        for mask in [0x01, 0x80, 0xff] {
            let mut bytes = archive.to_vec();
            bytes[at] ^= mask;
            let flipped = Buffer::from(&bytes[..]);
            assert!(Llama::verify(&flipped).is_err(), "byte {at} ^ {mask:#x} was accepted");
            if let Ok(model) = Llama::open(&flipped) {
                exercise(model, None);
            }
        }
    }
}

#[test]
fn every_flipped_byte_and_truncation_of_an_adapter_is_refused_and_never_panics() {
    let archive = small_base();
    let model = Llama::open(&archive).unwrap();
    let bytes = adapter(&model, &[Site::Q(0), Site::Down(0), Site::Embedding], 2, 7);
    Adapter::verify(&bytes).unwrap();
    for at in 0..bytes.len() {
        assert!(Adapter::open(&Buffer::from(&bytes[..at])).is_err(), "{at} bytes were accepted");
        for mask in [0x01, 0x80, 0xff] {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= mask;
            let damaged = Buffer::from(&damaged[..]);
            assert!(Adapter::verify(&damaged).is_err(), "byte {at} ^ {mask:#x} was accepted");
            if let Ok(adapter) = Adapter::open(&damaged) {
                exercise(model, Some(&adapter));
            }
        }
    }
}

#[test]
fn header_fields_have_their_own_errors() {
    let archive = small_base();
    let changed = |at: usize, value: u8| {
        let mut bytes = archive.to_vec();
        bytes[at] = value;
        Llama::open(&Buffer::from(&bytes[..])).unwrap_err()
    };
    assert_eq!(changed(0, b'X'), Error::NotAnArchive);
    assert_eq!(changed(8, 9), Error::FormatVersion { found: 9, supported: 1 });
    assert_eq!(changed(100, 1), Error::Reserved { offset: 100 });
    let adapter_root = RootKind(RootKind::LLAMA.0 & 0xffff | 0x0002_0000);
    assert_eq!(changed(14, 2), Error::WrongRoot { found: adapter_root, expected: RootKind::LLAMA });
    assert!(matches!(Adapter::open(&archive).unwrap_err(), Error::WrongRoot { .. }));
    let two = [&[0; 8], &archive[..]].concat();
    let buffer = Buffer::from(&two[..]);
    assert_eq!(Llama::open(&buffer[8..]).unwrap_err(), Error::Misaligned { remainder: 8 });
    assert!(archive.len() > HEADER_LEN);
}

#[test]
fn damaged_scales_are_not_a_number_in_the_logits_and_an_error_in_the_sampler() {
    // Without verify a base with NaN scales opens; the sampler then refuses instead of choosing
    // nonsense.
    let archive = small_base();
    let mut bytes = archive.to_vec();
    // The head's f16 scales: find them by value, as the schema does not promise their place.
    let model = Llama::open(&archive).unwrap();
    let lowrank::quant::Values::Int8(int8) = model.head().values() else { panic!("an int8 head") };
    let wanted: Vec<u8> = int8.scales.iter().flat_map(|bits| bits.to_le_bytes()).collect();
    let at = bytes.windows(wanted.len()).position(|window| window == wanted).unwrap();
    bytes[at..at + 2].copy_from_slice(&0x7e00u16.to_le_bytes());
    let damaged = Buffer::from(&bytes[..]);
    assert!(matches!(Llama::verify(&damaged).unwrap_err(), Error::Checksum { .. }));
    let model = Llama::open(&damaged).unwrap();
    let limits = Limits::new(8);
    let mut memory = Memory::new(need(model.config(), &limits));
    let mut session = Session::new(model, &limits, memory.as_mut(), &Serial).unwrap();
    session.prefill(0, &[1, 2]).unwrap();
    assert_eq!(
        session.sample(0, &mut Sampler::greedy()).unwrap_err(),
        Error::BadLogits { index: 0 }
    );
}

const SMALL_BERT: bert::Config = bert::Config {
    vocab: 10,
    dim: 24,
    layers: 1,
    heads: 2,
    hidden: 20,
    context: 6,
    pooling: Pooling::Pooler,
    ..BERT
};

/// Uses everything an encoder has; errors are fine, panics are not.
fn exercise_bert(model: Bert<'_>, adapter: Option<&Adapter<'_>>) {
    let limits = EncoderLimits { batch: 2, tokens: 5, ..EncoderLimits::new(4) };
    if encoder_need(model.config(), &limits).bytes > 1 << 22 {
        return;
    }
    let mut memory = Memory::new(encoder_need(model.config(), &limits));
    let mut slots = [Slot::EMPTY];
    let mut set = AdapterSet::new(&mut slots, &model);
    let choices = adapter.map(|&adapter| set.attach(0, adapter).map(|_| Choice::slot(0)));
    let Ok(mut encoder) = Encoder::new(model, &limits, memory.as_mut(), &Serial) else { return };
    if let Some(Ok(choice)) = choices {
        let _ = encoder.select(0, &set, &[choice]);
    }
    if encoder.encode_with_types(&[&[0, 1, 2], &[3]], &[&[0, 0, 0], &[0]]).is_ok() {
        for sequence in 0..2 {
            for pooling in [Pooling::Mean, Pooling::Cls, Pooling::Pooler] {
                let _ = encoder.pooled(sequence, pooling).map(<[f32]>::len);
            }
            let _ = (
                encoder.embedding(sequence).map(<[f32]>::len),
                encoder.hidden(sequence).map(<[f32]>::len),
            );
            let labels = encoder.classifier(sequence).map(|classifier| classifier.labels().count());
            if let Ok(labels @ 0..100) = labels {
                let _ = encoder.classify(sequence, &mut vec![0.0; labels]);
            }
        }
    }
    let _ = (model.name(), model.tokenizer_json(), model.max_length());
}

#[test]
fn every_truncation_and_flipped_byte_of_an_encoder_is_refused_and_never_panics() {
    let archive = bert(&SMALL_BERT, Format::Nf4, Format::Int8, true, 1);
    Bert::verify(&archive).unwrap();
    assert!(matches!(
        Llama::open(&archive).unwrap_err(),
        Error::WrongRoot { found: RootKind::BERT, expected: RootKind::LLAMA }
    ));
    for at in 0..archive.len() {
        let error = Bert::open(&Buffer::from(&archive[..at])).unwrap_err();
        assert!(
            matches!(error, Error::Truncated { .. } | Error::NotAnArchive),
            "{at} bytes: {error}"
        );
        for mask in [0x01, 0x80, 0xff] {
            let mut bytes = archive.to_vec();
            bytes[at] ^= mask;
            let flipped = Buffer::from(&bytes[..]);
            assert!(Bert::verify(&flipped).is_err(), "byte {at} ^ {mask:#x} was accepted");
            if let Ok(model) = Bert::open(&flipped) {
                exercise_bert(model, None);
            }
        }
    }
}

#[test]
fn every_flipped_byte_of_an_adapter_with_a_classifier_is_refused_and_never_panics() {
    let archive = bert(&SMALL_BERT, Format::Nf4, Format::Int8, true, 1);
    let model = Bert::open(&archive).unwrap();
    let sites = [bert::Site::Q(0), bert::Site::Pooler, bert::Site::Embedding];
    let mut parts = bert_adapter_parts(&model, &sites, true, &["no", "yes"], 7);
    parts.pooler = Some(pooler_parts(SMALL_BERT.dim, 8));
    let bytes = parts.build(&model).unwrap();
    exercise_bert(model, Some(&Adapter::verify(&bytes).unwrap()));
    for at in 0..bytes.len() {
        assert!(Adapter::open(&Buffer::from(&bytes[..at])).is_err(), "{at} bytes were accepted");
        for mask in [0x01, 0x80, 0xff] {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= mask;
            let damaged = Buffer::from(&damaged[..]);
            assert!(Adapter::verify(&damaged).is_err(), "byte {at} ^ {mask:#x} was accepted");
            if let Ok(adapter) = Adapter::open(&damaged) {
                exercise_bert(model, Some(&adapter));
            }
        }
    }
}
