//! Calibrated NF4: closer to the floats on text that it has not seen than other scales in the same bytes,
//! the same archive on any number of threads, plain NF4 for everybody who reads it, and what it refuses.

mod common;

use common::{BERT, CONFIG, base, bert, scaled_base};
use lowrank::adapter::Base;
use lowrank::archive::Buffer;
use lowrank::import::with_nf4;
use lowrank::model::AnyBase;
use lowrank::model::bert::{Bert, Config as EncoderConfig};
use lowrank::model::llama::{Config, Llama};
use lowrank::model::mlp::Activation;
use lowrank::quant::{BlockScale, Format, Values};
use lowrank::runtime::{
    Encoder, EncoderLimits, Executor, Limits, Memory, Serial, Session, Threads, encoder_need, need,
};
use lowrank::train::{CalibrateOptions, Calibrated, calibrate, own_text};

/// Decoder and encoder of which every row is whole blocks.
const WHOLE: Config = Config { hidden: 128, ..CONFIG };
const ENCODER: EncoderConfig =
    EncoderConfig { dim: 64, heads: 4, hidden: 128, context: 64, ..BERT };

/// Sequences of tokens of which some are much more frequent than others.
fn sequences(seed: u64, count: usize, vocab: usize) -> Vec<Vec<u32>> {
    let mut numbers = common::Numbers::new(seed);
    let mut token = || ((numbers.next() * numbers.next()).abs() * vocab as f32) as u32;
    (0..count).map(|i| (0..30 + i % 7).map(|_| token()).collect()).collect()
}

fn calibrated(archive: &Buffer, sequences: &[Vec<u32>], executor: &dyn Executor) -> Calibrated {
    let base = AnyBase::open(archive).unwrap();
    calibrate(&base, sequences, &CalibrateOptions::default(), executor, &mut |_| ()).unwrap()
}

/// The logits after every token of `sequences`.
fn logits(archive: &[u8], sequences: &[Vec<u32>]) -> Vec<f32> {
    let model = Llama::open(archive).unwrap();
    let limits = Limits::new(WHOLE.context);
    let mut memory = Memory::new(need(model.config(), &limits));
    let mut session = Session::new(model, &limits, memory.as_mut(), &Serial).unwrap();
    let mut all = Vec::new();
    for sequence in sequences {
        session.reset(0).unwrap();
        session.score(0, sequence, |_, logits| all.extend_from_slice(logits)).unwrap();
    }
    all
}

/// The vectors of `sequences`.
fn vectors(archive: &[u8], sequences: &[Vec<u32>]) -> Vec<f32> {
    let model = Bert::open(archive).unwrap();
    let limits = EncoderLimits::new(64);
    let mut memory = Memory::new(encoder_need(model.config(), &limits));
    let mut encoder = Encoder::new(model, &limits, memory.as_mut(), &Serial).unwrap();
    let mut all = Vec::new();
    for sequence in sequences {
        encoder.encode(&[sequence]).unwrap();
        all.extend_from_slice(encoder.hidden(0).unwrap());
    }
    all
}

fn squared_error(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum()
}

/// Errors of the largest weight's, of fitted and of calibrated scales, on text that none has seen.
fn errors(
    float: &Buffer,
    calibrated: &Buffer,
    unseen: &[Vec<u32>],
    say: impl Fn(&[u8], &[Vec<u32>]) -> Vec<f32>,
) -> [f64; 3] {
    let base = AnyBase::open(float).unwrap();
    let [plain, fitted] = [BlockScale::Absmax, BlockScale::Fitted]
        .map(|scale| with_nf4(&base, scale).unwrap().unwrap());
    assert_eq!(calibrated.len(), plain.len());
    let expected = say(float, unseen);
    [&plain, &fitted, calibrated].map(|archive| squared_error(&say(archive, unseen), &expected))
}

#[test]
fn a_decoder_is_closer_to_its_floats_on_text_that_it_has_not_seen() {
    let float = base(&WHOLE, Format::F32, Format::F32, 5);
    let seen = sequences(1, 64, WHOLE.vocab);
    let Calibrated { archive, fitted } = calibrated(&float, &seen, &Serial);
    assert!(fitted.is_empty());
    let model = Llama::verify(&archive).unwrap();
    for site in 0..14 {
        let weight = model.weight_at(site).unwrap();
        assert_eq!(weight.format(), Format::Nf4);
        assert!(matches!(weight.values(), Values::Nf4(nf4) if nf4.is_calibrated()));
    }
    assert_eq!(model.embedding().format(), Format::Int8);
    let unseen = sequences(2, 20, WHOLE.vocab);
    let [plain, fitted, calibrated] = errors(&float, &archive, &unseen, logits);
    assert!(calibrated < 0.7 * fitted && fitted < plain, "{plain} {fitted} {calibrated}");
}

#[test]
fn an_encoder_is_closer_to_its_floats_on_text_that_it_has_not_seen() {
    let float = bert(&ENCODER, Format::F32, Format::F32, false, 3);
    let seen = sequences(1, 64, ENCODER.vocab);
    let Calibrated { archive, .. } = calibrated(&float, &seen, &Serial);
    Bert::verify(&archive).unwrap();
    let unseen = sequences(2, 20, ENCODER.vocab);
    let [plain, fitted, calibrated] = errors(&float, &archive, &unseen, vectors);
    assert!(calibrated < 0.8 * fitted && calibrated < plain, "{plain} {fitted} {calibrated}");
}

#[test]
fn the_archive_is_the_same_on_any_number_of_threads() {
    let float = base(&WHOLE, Format::F32, Format::F32, 5);
    let threads = Threads::new(3).unwrap();
    let model = Llama::open(&float).unwrap();
    let openings = [vec![1, 5, 9], vec![7]];
    let write = |seed, executor: &dyn Executor| {
        own_text(&model, &openings, 600, seed, executor, &mut |_, _| ()).unwrap()
    };
    let text = write(4, &Serial);
    assert!(text.iter().all(|sequence| sequence.len() == WHOLE.context) && text.len() == 10);
    assert_eq!(text, write(4, &threads));
    assert_ne!(text, write(5, &Serial));
    let [one, three] = [&Serial as &dyn Executor, &threads].map(|e| calibrated(&float, &text, e));
    assert!(one.archive[..] == three.archive[..]);
}

#[test]
fn rows_that_are_no_whole_blocks_are_fitted_and_told() {
    let float = base(&CONFIG, Format::F16, Format::F32, 5);
    let Calibrated { archive, fitted } = calibrated(&float, &sequences(1, 20, 96), &Serial);
    assert_eq!(fitted, ["model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"]);
    Llama::verify(&archive).unwrap();
}

#[test]
fn what_cannot_be_calibrated_is_refused() {
    let refused = |archive: &[u8], sequences: &[Vec<u32>]| {
        let base = AnyBase::open(archive).unwrap();
        let options = CalibrateOptions::default();
        let result = calibrate(&base, sequences, &options, &Serial, &mut |_| ());
        result.map(|_| ()).unwrap_err().to_string()
    };
    let good = sequences(1, 20, 96);
    let float = base(&WHOLE, Format::F32, Format::F32, 5);
    for (bad, message) in [
        (vec![], "has 0 tokens, at least 512"),
        (vec![vec![1; 60]], "has 60 tokens, at least 512"),
        ([&good[..], &[vec![]]].concat(), "0 tokens, 1 to 64"),
        ([&good[..], &[vec![1; 65]]].concat(), "65 tokens, 1 to 64"),
        ([&good[..], &[vec![96]]].concat(), "token 96 is not in the vocabulary of 96"),
    ] {
        let found = refused(&float, &bad);
        assert!(found.contains(message), "{found}");
    }
    let mlp = common::mlp(4, &[8, 2], Activation::Relu, Format::F32, true, 1);
    let quantized = base(&WHOLE, Format::Nf4, Format::Int8, 5);
    assert!(refused(&quantized, &good).contains("quantized already"));
    assert!(refused(&mlp, &good).contains("only decoders and encoders"));
    // Weights whose products are infinite.
    let huge = scaled_base(&WHOLE, Format::F32, Format::F32, 5, 1e25);
    let found = refused(&huge, &good);
    assert!(found.starts_with("model.layers.0.self_attn.q_proj: value"), "{found}");
}
