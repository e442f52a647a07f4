//! Encoders on the device against those on the CPU.

use lowrank::adapter::{Adapter, AdapterSet, Choice, Slot};
use lowrank::archive::Buffer;
use lowrank::cuda::EncoderModel;
use lowrank::import::{HuggingFaceBert, bert_to_buffer, import_peft};
use lowrank::model::bert::{Activation, Architecture, Bert, Config, Pooling, Site};
use lowrank::quant::Format;
use lowrank::runtime::{CudaEncoder, Encoder, EncoderLimits, Memory, Serial, encoder_need};
use lowrank::{Error, Field};

use crate::common::{BERT, all_bert_linear, bert, bert_adapter, bert_adapter_parts, pooler_parts};
use crate::device;
use crate::model_folder::{exact, golden};

const TEXTS: [&[u32]; 4] =
    [&[1, 5, 9, 33, 2], &[1, 2], &[1, 59, 58, 57, 7, 7, 7, 3, 8, 41, 22, 2], &[4]];
const TYPES: [&[u32]; 4] = [&[0, 0, 1, 1, 1], &[0, 0], &[0; 12], &[1]];

fn limits() -> EncoderLimits {
    EncoderLimits { batch: 4, tokens: 40, max_active: 3, ..EncoderLimits::new(24) }
}

/// What `$use` makes of an encoder of `$limits` on the CPU, and of one on the device.
macro_rules! both {
    ($model:expr, $limits:expr, $encoder:ident => $use:expr) => {{
        let (model, limits) = ($model, $limits);
        let mut memory = Memory::new(encoder_need(model.config(), limits));
        let mut $encoder = Encoder::new(model, limits, memory.as_mut(), &Serial).unwrap();
        let expected = $use;
        let on_device = EncoderModel::upload(&device(), model).unwrap();
        let mut memory = Memory::new(CudaEncoder::need(limits));
        let mut $encoder = CudaEncoder::new(&on_device, limits, memory.as_mut()).unwrap();
        let found = $use;
        (expected, found)
    }};
}

/// States, every vector and, where there is a classifier, the logits of each text.
macro_rules! outputs {
    ($encoder:expr, $texts:expr, $types:expr) => {{
        $encoder.encode_with_types($texts, $types).unwrap();
        let mut all: Vec<Vec<f32>> = Vec::new();
        for sequence in 0..$texts.len() {
            all.push($encoder.hidden(sequence).unwrap().to_vec());
            all.push($encoder.embedding(sequence).unwrap().to_vec());
            for pooling in [Pooling::Mean, Pooling::Cls, Pooling::Pooler] {
                match $encoder.pooled(sequence, pooling) {
                    Ok(vector) => all.push(vector.to_vec()),
                    Err(error) => assert_eq!(error, Error::NoPooler),
                }
            }
            if let Ok(labels) = $encoder.classifier(sequence).map(|classifier| classifier.len()) {
                let mut logits = vec![0.0; labels];
                $encoder.classify(sequence, &mut logits).unwrap();
                all.push(logits);
            }
        }
        all
    }};
}

/// Alike to 1e-5 of the largest number of each vector, of logits, which are small differences of
/// numbers near 1, to 1e-5.
fn assert_alike(name: &str, (cpu, cuda): (Vec<Vec<f32>>, Vec<Vec<f32>>)) {
    assert!(cpu.len() == cuda.len() && !cpu.is_empty(), "{name}");
    for (i, (cpu, cuda)) in cpu.iter().zip(&cuda).enumerate() {
        assert_eq!(cpu.len(), cuda.len(), "{name} {i}");
        let least = if cpu.len() <= 3 { 1.0f32 } else { 0.0 };
        let largest = cpu.iter().fold(least, |most, x| most.max(x.abs()));
        let worst = cpu.iter().zip(cuda).fold(0.0f32, |most, (a, b)| most.max((a - b).abs()));
        assert!(worst <= 1e-5 * largest, "{name} {i}: off by {worst:e}, largest {largest}");
    }
}

/// A base in NF4 that the kernels read as such, with a pooler.
fn nf4(architecture: Architecture) -> Buffer {
    let config = Config { architecture, dim: 64, heads: 4, hidden: 128, ..BERT };
    bert(&config, Format::Nf4, Format::Int8, true, 3)
}

#[test]
fn texts_under_different_adapters_share_a_batch() {
    let archive = nf4(Architecture::Bert);
    let model = Bert::open(&archive).unwrap();
    let mut sites = all_bert_linear(model.config());
    sites.push(Site::Embedding);
    let lora = bert_adapter(&model, &sites, false, &[], 7);
    let some = [Site::Q(0), Site::Down(1), Site::Pooler];
    let dora = bert_adapter(&model, &some, true, &["no", "yes", "unsure"], 8);
    // One that brings its own pooler, which other adapters change too.
    let mut parts = bert_adapter_parts(&model, &[Site::V(1)], false, &["a", "b"], 9);
    parts.pooler = Some(pooler_parts(model.config().dim, 10));
    let own = parts.build(&model).unwrap();
    let mut slots = [Slot::EMPTY; 3];
    let mut set = AdapterSet::new(&mut slots, &model);
    for (slot, archive) in (0..).zip([&lora, &dora, &own]) {
        set.attach(slot, Adapter::open(archive).unwrap()).unwrap();
    }
    let weighted = |slot, weight| Choice { weight, ..Choice::slot(slot) };
    let plain: &[Choice] = &[];
    let mixed: [&[Choice]; 4] = [
        &[Choice::slot(0)],
        &[Choice::slot(2)],
        &[weighted(1, 0.5), weighted(0, -0.75)],
        &[Choice::slot(2), weighted(0, 0.5)],
    ];
    // Then the texts swap adapters, and one has none.
    let swapped: [&[Choice]; 4] = [mixed[2], plain, mixed[0], &[Choice::slot(1)]];
    let results = both!(model, &limits(), encoder => {
        let mut all = Vec::new();
        for choices in [mixed, swapped] {
            for (sequence, choices) in choices.iter().enumerate() {
                encoder.select(sequence, &set, choices).unwrap();
                assert_eq!(encoder.hidden(0), Err(Error::NotEncoded { sequence: 0 }));
            }
            all.extend(outputs!(encoder, &TEXTS, &TYPES));
        }
        // The neighbours do not matter.
        all.extend(outputs!(encoder, &TEXTS[..1], &[]));
        all
    });
    assert_ne!(results.1[0], results.1[results.1.len() / 2]);
    assert_alike("mixed", results);
}

#[test]
fn every_architecture_format_and_activation_gives_the_states_of_the_cpu() {
    let bert_with = |activation, format, embedding, pooling, pooler| {
        let config = Config { activation, pooling, normalize: pooler, ..BERT };
        bert(&config, format, embedding, pooler, 5)
    };
    for (name, archive) in [
        ("RoBERTa", nf4(Architecture::Roberta)),
        ("DistilBERT", nf4(Architecture::DistilBert)),
        // Widths that are padded on the device.
        ("f16", bert_with(Activation::GeluTanh, Format::F16, Format::F32, Pooling::Cls, false)),
        ("int8", bert_with(Activation::Relu, Format::Int8, Format::F16, Pooling::Pooler, true)),
        ("f32", bert_with(Activation::Gelu, Format::F32, Format::Nf4, Pooling::Mean, false)),
    ] {
        let model = Bert::open(&archive).unwrap();
        let results = both!(model, &limits(), encoder => outputs!(encoder, &TEXTS[..3], &[]));
        assert_alike(name, results);
    }
}

#[test]
fn imported_classifiers_give_the_logits_of_the_cpu() {
    for name in ["tiny-roberta", "tiny-distilbert"] {
        let source = HuggingFaceBert::open(golden(name)).unwrap();
        let archive = bert_to_buffer(&source, &exact(), &mut |_| {}).unwrap();
        let model = Bert::open(&archive).unwrap();
        let adapter = |folder: &str| {
            let builder = import_peft(golden(name).join(folder), &model, &Default::default());
            builder.unwrap().build(&model).unwrap()
        };
        let archives = ["", "adapters/lora", "adapters/dora"].map(adapter);
        let mut slots = [Slot::EMPTY; 3];
        let mut set = AdapterSet::new(&mut slots, &model);
        for (slot, archive) in (0..).zip(&archives) {
            set.attach(slot, Adapter::open(archive).unwrap()).unwrap();
        }
        let results = both!(model, &limits(), encoder => {
            for sequence in 0..3 {
                encoder.select(sequence, &set, &[Choice::slot(sequence as u32)]).unwrap();
            }
            outputs!(encoder, &[&[1, 9, 12, 3, 30], &[1, 9, 12, 3, 30], &[4, 5, 6, 7, 2]], &[])
        });
        assert_alike(name, results);
    }
}

#[test]
fn an_encoder_on_a_device_refuses_what_one_on_the_cpu_refuses() {
    let archive = bert(&BERT, Format::Nf4, Format::Int8, false, 3);
    let model = Bert::open(&archive).unwrap();
    let (cpu, cuda) = both!(model, &limits(), encoder => {
        let mut refused = vec![encoder.embedding(0).map(<[f32]>::to_vec)];
        for texts in [&[][..], &[&[] as &[u32]], &[&[60]], &[&[1; 25]], &[&[1; 21], &[1; 20]]] {
            refused.push(encoder.encode(texts).map(|()| Vec::new()));
        }
        refused.push(encoder.encode_with_types(&[&[1, 2]], &[&[0, 2]]).map(|()| Vec::new()));
        refused.push(encoder.encode_packed(&[1, 2, 3], &[], &[1, 1]).map(|()| Vec::new()));
        encoder.encode_packed(&[1, 2, 3], &[], &[1, 2]).unwrap();
        refused.push(encoder.pooled(0, Pooling::Pooler).map(<[f32]>::to_vec));
        refused.push(encoder.hidden(2).map(<[f32]>::to_vec));
        refused.push(encoder.classify(0, &mut []).map(|()| Vec::new()));
        refused
    });
    assert_eq!(cuda, cpu);
    assert!(cuda.iter().all(Result::is_err), "{cuda:?}");
    let on_device = EncoderModel::upload(&device(), model).unwrap();
    let too_many = EncoderLimits::new(25);
    let mut memory = Memory::new(CudaEncoder::need(&too_many));
    let error = CudaEncoder::new(&on_device, &too_many, memory.as_mut()).unwrap_err();
    let limit = Error::Limit { field: Field::Context, found: 25, most: 24 };
    assert_eq!(error.to_string(), limit.to_string());
}
