//! Encoders keep their promises whatever the batch: packed texts equal single ones, each under its
//! own adapters, whatever the threads; classifiers; the exact workspace; and one clear error for
//! everything that does not fit.

mod common;

use common::{BERT, all_bert_linear, bert, bert_adapter, bert_adapter_parts, pooler_parts};
use lowrank::adapter::{Adapter, AdapterSet, Choice, Slot};
use lowrank::kernel::Precision;
use lowrank::model::bert::{Architecture, Bert, Config, Pooling, Site};
use lowrank::quant::Format;
use lowrank::runtime::{Encoder, EncoderLimits, Executor, Memory, Serial, Threads, encoder_need};
use lowrank::{Error, Field};

const TEXTS: [&[u32]; 4] =
    [&[1, 5, 9, 33, 2], &[1, 2], &[1, 59, 58, 57, 7, 7, 7, 3, 8, 41, 22, 2], &[4]];

fn limits() -> EncoderLimits {
    EncoderLimits { batch: 4, tokens: 40, ..EncoderLimits::new(24) }
}

/// Calls `use_it` with an encoder in which sequence i uses the adapters `chosen[i]`.
fn with_encoder<T>(
    model: Bert<'_>,
    limits: &EncoderLimits,
    executor: &dyn Executor,
    adapters: &[Adapter<'_>],
    chosen: &[&[u32]],
    use_it: impl FnOnce(&mut Encoder<'_, '_>) -> T,
) -> T {
    let mut slots = [Slot::EMPTY; 4];
    let mut set = AdapterSet::new(&mut slots, &model);
    for (slot, adapter) in (0..).zip(adapters) {
        set.attach(slot, *adapter).unwrap();
    }
    let mut memory = Memory::new(encoder_need(model.config(), limits));
    let mut encoder = Encoder::new(model, limits, memory.as_mut(), executor).unwrap();
    for (sequence, slots) in chosen.iter().enumerate() {
        let choices: Vec<Choice> = slots.iter().map(|&slot| Choice::slot(slot)).collect();
        encoder.select(sequence, &set, &choices).unwrap();
    }
    use_it(&mut encoder)
}

#[test]
fn a_batch_equals_its_texts_one_by_one_each_under_its_own_adapters() {
    for (dim, format, precision) in [
        (36, Format::F32, Precision::Exact),
        (36, Format::Nf4, Precision::Exact),
        (192, Format::Nf4, Precision::Fast),
    ] {
        let config = Config { dim, hidden: if dim == 36 { 50 } else { 128 }, ..BERT };
        let archive = bert(&config, format, Format::Int8, true, 3);
        let model = Bert::verify(&archive).unwrap();
        let mut sites = all_bert_linear(&config);
        sites.push(Site::Embedding);
        let lora = bert_adapter(&model, &sites, false, &[], 7);
        let dora = bert_adapter(
            &model,
            &[Site::Q(0), Site::Down(1), Site::Pooler],
            true,
            &["no", "yes", "unsure"],
            8,
        );
        let adapters = [Adapter::verify(&lora).unwrap(), Adapter::verify(&dora).unwrap()];
        let chosen: [&[u32]; 4] = [&[0], &[], &[1], &[1, 0]];
        let limits = EncoderLimits { precision, ..limits() };
        let vectors = |encoder: &mut Encoder<'_, '_>, sequence: usize, labelled: bool| {
            let mut all = encoder.hidden(sequence).unwrap().to_vec();
            all.extend_from_slice(encoder.embedding(sequence).unwrap());
            for pooling in [Pooling::Mean, Pooling::Cls, Pooling::Pooler] {
                all.extend_from_slice(encoder.pooled(sequence, pooling).unwrap());
            }
            if labelled {
                let mut logits = [0.0; 3];
                encoder.classify(sequence, &mut logits).unwrap();
                all.extend(logits);
            }
            all
        };
        let labelled = |i: usize| chosen[i].contains(&1);
        let threads = Threads::new(3).unwrap();
        let batch = |threads, executor: &dyn Executor| {
            with_encoder(
                model,
                &EncoderLimits { threads, ..limits },
                executor,
                &adapters,
                &chosen,
                |encoder| {
                    encoder.encode(&TEXTS).unwrap();
                    (0..4).map(|i| vectors(encoder, i, labelled(i))).collect::<Vec<_>>()
                },
            )
        };
        let together = batch(1, &Serial);
        assert_eq!(together, batch(3, &threads), "{format:?}: threads change results");
        for (i, text) in TEXTS.iter().enumerate() {
            let alone = with_encoder(
                model,
                &EncoderLimits { batch: 1, ..limits },
                &Serial,
                &adapters,
                &[chosen[i]],
                |encoder| {
                    encoder.encode(&[text]).unwrap();
                    vectors(encoder, 0, labelled(i))
                },
            );
            let largest = alone.iter().fold(0.0f32, |most, v| most.max(v.abs()));
            let worst =
                alone.iter().zip(&together[i]).fold(0.0f32, |most, (a, b)| most.max((a - b).abs()));
            assert_eq!(alone.len(), together[i].len());
            assert!(worst <= 2e-6 * largest, "{format:?} text {i}: off by {worst:e}");
            let length: f32 = alone[text.len() * dim..][..dim].iter().map(|v| v * v).sum();
            assert!((length - 1.0).abs() < 1e-5, "the embedding is normalized");
        }
        // The adapters act.
        let plain = with_encoder(model, &limits, &Serial, &adapters, &[], |encoder| {
            encoder.encode(&TEXTS).unwrap();
            (0..4).map(|i| vectors(encoder, i, false)).collect::<Vec<_>>()
        });
        assert!(
            plain[1] == together[1]
                && plain[0] != together[0]
                && plain[2] != together[2][..plain[2].len()]
        );
    }
}

#[test]
fn token_types_count_and_are_checked() {
    let archive = bert(&BERT, Format::F32, Format::F32, false, 3);
    let model = Bert::open(&archive).unwrap();
    with_encoder(model, &limits(), &Serial, &[], &[], |encoder| {
        encoder.encode_with_types(&[&[1, 5, 2]], &[&[0, 0, 0]]).unwrap();
        let zeros = encoder.hidden(0).unwrap().to_vec();
        encoder.encode(&[&[1, 5, 2]]).unwrap();
        assert_eq!(encoder.hidden(0).unwrap(), zeros);
        encoder.encode_with_types(&[&[1, 5, 2]], &[&[0, 1, 1]]).unwrap();
        assert_ne!(encoder.hidden(0).unwrap(), zeros);
        assert_eq!(
            encoder.encode_with_types(&[&[1, 5]], &[&[0, 2]]).unwrap_err(),
            Error::TokenType { found: 2, types: 2 }
        );
        assert_eq!(
            encoder.encode_with_types(&[&[1, 5]], &[&[0]]).unwrap_err(),
            Error::Length { have: 1, need: 2 }
        );
        assert_eq!(
            encoder.encode_with_types(&[&[1], &[1]], &[&[0]]).unwrap_err(),
            Error::Length { have: 1, need: 2 }
        );
    });
}

#[test]
fn what_does_not_fit_has_one_error_each() {
    let archive = bert(&BERT, Format::F32, Format::F32, false, 3);
    let model = Bert::open(&archive).unwrap();
    let labelled = bert_adapter(&model, &[Site::Q(0)], false, &["a", "b"], 1);
    let plain = bert_adapter(&model, &[Site::Q(0)], false, &[], 2);
    let alone = bert_adapter(&model, &[], false, &["a"], 3);
    let adapters = [&labelled, &plain, &alone].map(|archive| Adapter::open(archive).unwrap());
    assert_eq!(adapters[0].classifier().unwrap().labels().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!((adapters[2].targets().len(), adapters[1].classifier().is_none()), (0, true));
    with_encoder(model, &limits(), &Serial, &adapters, &[&[0], &[1], &[0, 2], &[2]], |encoder| {
        assert_eq!(encoder.hidden(0).unwrap_err(), Error::NotEncoded { sequence: 0 });
        assert_eq!(encoder.encode(&[]).unwrap_err(), Error::Length { have: 0, need: 1 });
        assert_eq!(encoder.encode(&[&[]]).unwrap_err(), Error::Length { have: 0, need: 1 });
        assert_eq!(encoder.encode(&[&[1][..]; 5]).unwrap_err(), Error::Length { have: 5, need: 4 });
        assert_eq!(
            encoder.encode(&[&[1; 25]]).unwrap_err(),
            Error::ContextFull { asked: 25, context: 24 }
        );
        assert_eq!(
            encoder.encode(&[&[1; 21], &[1; 20]]).unwrap_err(),
            Error::Length { have: 41, need: 40 }
        );
        assert_eq!(encoder.encode(&[&[60]]).unwrap_err(), Error::Token { token: 60, vocab: 60 });
        encoder.encode(&[&[1][..]; 4]).unwrap();
        assert_eq!(encoder.pooled(0, Pooling::Pooler).unwrap_err(), Error::NoPooler);
        assert_eq!(encoder.hidden(4).unwrap_err(), Error::NotEncoded { sequence: 4 });
        assert_eq!(
            encoder.classify(0, &mut [0.0]).unwrap_err(),
            Error::Length { have: 1, need: 2 }
        );
        assert_eq!(
            encoder.classify(1, &mut [0.0]).unwrap_err(),
            Error::Classifiers { sequence: 1, found: 0 }
        );
        assert_eq!(
            encoder.classify(2, &mut [0.0]).unwrap_err(),
            Error::Classifiers { sequence: 2, found: 2 }
        );
        encoder.classify(0, &mut [0.0; 2]).unwrap();
        encoder.classify(3, &mut [0.0]).unwrap();
    });
    let mut memory = Memory::new(encoder_need(&BERT, &limits()));
    let long = EncoderLimits { context: 25, ..limits() };
    let error = Encoder::new(model, &long, memory.as_mut(), &Serial).unwrap_err();
    assert_eq!(error, Error::Limit { field: Field::Context, found: 25, most: 24 });
    // A pooler that is absent is no target.
    let with_pooler = bert(&BERT, Format::F32, Format::F32, true, 3);
    let pooled = bert_adapter(&Bert::open(&with_pooler).unwrap(), &[Site::Pooler], false, &[], 1);
    let mut slots = [Slot::EMPTY];
    let refused =
        AdapterSet::new(&mut slots, &model).attach(0, Adapter::open(&pooled).unwrap()).unwrap_err();
    assert!(matches!(refused, Error::OtherBase { .. }));
}

/// An adapter may bring the pooler that its classifier reads: where the base has another one, or
/// none; only its classifier reads it.
#[test]
fn an_adapters_own_pooler_is_read_by_its_classifier() {
    for (architecture, pooler) in [
        (Architecture::Bert, true),
        (Architecture::Bert, false),
        (Architecture::DistilBert, true),
        (Architecture::DistilBert, false),
    ] {
        let config = Config { architecture, ..BERT };
        let archive = bert(&config, Format::F32, Format::F32, pooler, 3);
        let model = Bert::verify(&archive).unwrap();
        assert_eq!(model.config().architecture, architecture);
        let mut parts = bert_adapter_parts(&model, &[Site::Q(1)], false, &["a", "b"], 1);
        parts.pooler = Some(pooler_parts(BERT.dim, 9));
        let bytes = parts.build(&model).unwrap();
        let adapter = Adapter::verify(&bytes).unwrap();
        with_encoder(model, &limits(), &Serial, &[adapter], &[&[0]], |encoder| {
            encoder.encode(&TEXTS[..1]).unwrap();
            let first = encoder.pooled(0, Pooling::Cls).unwrap().to_vec();
            let mut logits = [0.0; 2];
            encoder.classify(0, &mut logits).unwrap();
            let (own, classifier) = (parts.pooler.as_ref().unwrap(), parts.classifier.as_ref());
            let classifier = classifier.unwrap();
            let linear = |weight: &[f32], bias: &[f32], x: &[f32]| -> Vec<f32> {
                let row = |w: &[f32]| w.iter().zip(x).map(|(w, x)| w * x).sum::<f32>();
                weight.chunks_exact(x.len()).map(row).zip(bias).map(|(y, b)| y + b).collect()
            };
            let pooled: Vec<f32> = linear(&own.weight, &own.bias, &first)
                .into_iter()
                .map(|v| if architecture == Architecture::Bert { v.tanh() } else { v.max(0.0) })
                .collect();
            for (ours, found) in
                linear(&classifier.weight, &classifier.bias, &pooled).iter().zip(logits)
            {
                assert!((ours - found).abs() <= 1e-5 * (1.0 + ours.abs()), "{ours}, {found}");
            }
            assert_eq!(encoder.pooled(0, Pooling::Pooler).is_ok(), pooler);
        });
        let mut wrong = parts.clone();
        wrong.classifier = None;
        assert_eq!(wrong.build(&model).unwrap_err(), Error::ReplacedTensors { count: 1 });
        parts.pooler.as_mut().unwrap().weight.pop();
        assert!(matches!(parts.build(&model), Err(Error::PayloadLength { .. })));
    }
}

#[test]
fn the_workspace_is_exact() {
    let archive = bert(&BERT, Format::F32, Format::F32, true, 3);
    let model = Bert::open(&archive).unwrap();
    for limits in [
        limits(),
        EncoderLimits::new(7),
        EncoderLimits { precision: Precision::Fast, threads: 3, max_active: 0, ..limits() },
    ] {
        let need = encoder_need(&BERT, &limits);
        let mut memory = Memory::new(need);
        let bytes = memory.as_mut();
        assert!(Encoder::new(model, &limits, bytes, &Serial).is_ok());
        let have = need.bytes - 1;
        let small = Encoder::new(model, &limits, &mut bytes[..have], &Serial).unwrap_err();
        assert_eq!(small, Error::WorkspaceTooSmall { need: need.bytes, have });
    }
}
