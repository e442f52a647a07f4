//! The device path against the CPU path: the kernels in `ptx/` and all of the host's code run
//! through the software driver, so no card is needed. With `LOWRANK_CUDA_DRIVER` set they run on
//! that driver's card.

mod common;
mod cuda_driver;
#[path = "cuda/encoder.rs"]
mod encoder;
#[path = "cuda/faults.rs"]
mod faults;
mod model_folder;
#[path = "cuda/train.rs"]
mod train;

use std::path::Path;
use std::sync::{Arc, OnceLock};

use common::{CONFIG, all_linear, any_adapter};
use lowrank::Error;
use lowrank::adapter::{Adapter, AdapterSet, Choice, Slot};
use lowrank::archive::{ArchiveFile, Buffer};
use lowrank::cuda::{Device, Model};
use lowrank::import::{BaseOptions, HuggingFace, base_to_buffer, import_peft};
use lowrank::model::llama::{Config, Llama, Site};
use lowrank::quant::Format;
use lowrank::runtime::{
    CudaSession, KvFormat, Limits, Memory, Sampler, SamplerOptions, Serial, Session, need,
};

fn device() -> Arc<Device> {
    static DEVICE: OnceLock<Arc<Device>> = OnceLock::new();
    let open = || {
        if std::env::var_os(lowrank_cuda_driver::OVERRIDE).is_none() {
            assert!(lowrank_cuda_driver::use_library(cuda_driver::software_driver()));
        }
        Device::open(0).unwrap()
    };
    Arc::clone(DEVICE.get_or_init(open))
}

fn asset(name: &str) -> ArchiveFile {
    ArchiveFile::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("assets").join(name)).unwrap()
}

/// A random DoRA adapter on every linear layer.
fn dora(model: &Llama<'_>) -> Buffer {
    let sites: Vec<u32> = all_linear(model.config())
        .into_iter()
        .map(|site| site.number(model.config().layers))
        .collect();
    any_adapter(model, &sites, true, &[], 3)
}

/// What `$use` makes of a session of `$limits` on the CPU, and of one on the device.
macro_rules! both {
    ($model:expr, $limits:expr, $session:ident => $use:expr) => {{
        let (model, limits) = ($model, $limits);
        let mut memory = Memory::new(need(model.config(), limits));
        let mut $session = Session::new(model, limits, memory.as_mut(), &Serial).unwrap();
        let expected = $use;
        let on_device = Model::upload(&device(), model).unwrap();
        let mut memory = Memory::new(CudaSession::need(model.config(), limits));
        let mut $session = CudaSession::new(&on_device, limits, memory.as_mut()).unwrap();
        let found = $use;
        (expected, found)
    }};
}

const TOKENS: usize = 64;
const PROMPTS: [&[u32]; 3] =
    [&[256, 68, 117, 99, 107], &[256, 84, 104, 101, 32, 115, 101, 97], &[256, 65]];

/// 64 greedy tokens of each sequence, all in one batch: prompts together, and of different length;
/// half way the sequences of `$swap` start over under other adapters.
macro_rules! continue_all {
    ($session:expr, $set:expr, $choices:expr, $swap:expr) => {{
        let (session, choices) = (&mut $session, $choices);
        for (sequence, choices) in choices.iter().enumerate() {
            session.select(sequence, $set, choices).unwrap();
        }
        let prompts: Vec<(usize, &[u32])> =
            (0..choices.len()).map(|sequence| (sequence, PROMPTS[sequence])).collect();
        session.advance(&prompts).unwrap();
        let mut tokens = vec![Vec::new(); choices.len()];
        for step in 0..TOKENS {
            let mut next = Vec::new();
            for (sequence, tokens) in tokens.iter_mut().enumerate() {
                let token = session.sample(sequence, &mut Sampler::greedy()).unwrap();
                tokens.push(token);
                next.push((sequence, vec![token]));
            }
            for &(sequence, choices) in $swap {
                if step == TOKENS / 2 {
                    session.reset(sequence).unwrap();
                    session.select(sequence, $set, choices).unwrap();
                    next[sequence].1 = PROMPTS[sequence].to_vec();
                }
            }
            let next: Vec<(usize, &[u32])> =
                next.iter().map(|(sequence, tokens)| (*sequence, &tokens[..])).collect();
            session.advance(&next).unwrap();
        }
        tokens
    }};
}

#[test]
fn sixty_four_greedy_tokens_are_those_of_the_cpu() {
    let (base, notes) = (asset("tiny.lrk"), asset("tiny-notes.lrk"));
    let model = Llama::open(&base).unwrap();
    let dora = dora(&model);
    let mut slots = [Slot::EMPTY; 2];
    let mut set = AdapterSet::new(&mut slots, &model);
    set.attach(0, Adapter::open(&notes).unwrap()).unwrap();
    set.attach(1, Adapter::open(&dora).unwrap()).unwrap();
    let (notes, dora) = ([Choice::slot(0)], [Choice { weight: 0.2, ..Choice::slot(1) }]);
    let both = [Choice { weight: 0.5, ..notes[0] }, Choice { weight: 0.1, ..dora[0] }];
    let limits = Limits { batch: 3, prefill_chunk: 8, ..Limits::new(128) };
    let none: &[(usize, &[Choice])] = &[];
    let mut seen = Vec::new();
    for (choices, swap) in [
        (vec![&[][..]], none),
        (vec![&notes], none),
        (vec![&dora], none),
        // Different adapters side by side; then one starts over with others: a prompt beside decode
        // steps.
        (vec![&both, &[], &notes], &[(1, &dora[..])][..]),
    ] {
        let (cpu, cuda) =
            both!(model, &limits, session => continue_all!(session, &set, &choices, swap));
        assert_eq!(cpu, cuda, "{choices:?}");
        seen.push(cpu);
    }
    assert!(seen.iter().enumerate().all(|(i, tokens)| !seen[..i].contains(tokens)));
}

#[test]
fn greedy_steps_on_the_device_are_those_of_its_logits() {
    let base = asset("tiny.lrk");
    let model = Llama::open(&base).unwrap();
    let on_device = Model::upload(&device(), model).unwrap();
    let limits = Limits { batch: 2, ..Limits::new(64) };
    let mut memory = Memory::new(CudaSession::need(model.config(), &limits));
    let mut session = CudaSession::new(&on_device, &limits, memory.as_mut()).unwrap();
    session.prefill(0, PROMPTS[0]).unwrap();
    session.fork(0, 1, 5).unwrap();
    let mut next = [session.sample(0, &mut Sampler::greedy()).unwrap()];
    for _ in 0..8 {
        session.step(&[(1, next[0])]).unwrap();
        let expected = session.sample(1, &mut Sampler::greedy()).unwrap();
        session.step_greedy(&[(0, next[0])], &mut next).unwrap();
        assert_eq!(next, [expected]);
    }
    assert_eq!(session.logits(0), Err(Error::NoLogits { sequence: 0 }));
    assert_eq!(session.tokens(0), session.tokens(1));
    session.rewind(0, 5).unwrap();
    assert_eq!(session.step_greedy(&[(0, 1)], &mut []), Err(Error::Length { have: 0, need: 1 }));
}

/// The vocabulary is looked through in parts, of which the last is a small one.
#[test]
fn sampled_steps_on_the_device_are_those_of_its_logits() {
    let config = Config { vocab: 4099, layers: 1, ..CONFIG };
    let archive = common::base(&config, Format::Nf4, Format::Nf4, 3);
    let model = Model::upload(&device(), Llama::open(&archive).unwrap()).unwrap();
    let limits = Limits { batch: 4, ..Limits::new(40) };
    let mut memory = Memory::new(CudaSession::need(&config, &limits));
    let mut session = CudaSession::new(&model, &limits, memory.as_mut()).unwrap();
    let hot = SamplerOptions { temperature: 1.5, top_k: 6, seed: 7, ..Default::default() };
    let nucleus = SamplerOptions { top_k: 9, top_p: 0.8, ..hot };
    let penalty = SamplerOptions { repetition_penalty: 1.2, ..hot };
    session.prefill(0, PROMPTS[0]).unwrap();
    for other in 1..4 {
        session.fork(0, other, 5).unwrap();
    }
    // With a penalty, or all of the vocabulary, the logits come back.
    for (pair, has_logits) in [
        ([hot, nucleus], false),
        ([SamplerOptions { min_p: 0.1, ..hot }, SamplerOptions::default()], false),
        ([SamplerOptions { top_k: 65, ..hot }, penalty], true),
        ([nucleus, SamplerOptions { top_k: 0, ..hot }], true),
    ] {
        let mut samplers = pair.map(|options| Sampler::new(options).unwrap());
        let mut others = samplers.clone();
        let (mut next, mut seen) = ([1, 2], Vec::new());
        for _ in 0..3 {
            session.step(&[(2, next[0]), (3, next[1])]).unwrap();
            let expected = [0, 1].map(|i| session.sample(2 + i, &mut others[i]).unwrap());
            let tokens = [(0, next[0]), (1, next[1])];
            session.step_sampled(&tokens, &mut samplers, &mut next).unwrap();
            assert_eq!(next, expected);
            assert_eq!(session.logits(0).is_ok(), has_logits);
            seen.push(next);
        }
        assert!(seen.iter().any(|tokens| tokens[0] != seen[0][0]), "nothing was drawn");
        for sequence in 0..4 {
            session.rewind(sequence, 5).unwrap();
        }
    }
    let mut one = [Sampler::greedy()];
    let refused = Err(Error::Length { have: 0, need: 1 });
    assert_eq!(session.step_sampled(&[(0, 1)], &mut [], &mut [0]), refused);
    assert_eq!(session.step_sampled(&[(0, 1)], &mut one, &mut []), refused);
}

fn golden(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(path)
}

fn import(path: &str, format: Format, embedding: Format) -> Buffer {
    let options = BaseOptions {
        weights: format,
        embedding,
        allow_missing_tokenizer: true,
        ..BaseOptions::default()
    };
    base_to_buffer(&HuggingFace::open(golden(path)).unwrap(), &options, &mut |_| {}).unwrap()
}

/// The logits after each token of a prompt, on the CPU and on the device, are alike to 1e-5 of the
/// largest.
fn assert_alike(name: &str, model: Llama<'_>, adapters: &[(&Buffer, f32)]) {
    let mut slots = [Slot::EMPTY; 2];
    let mut set = AdapterSet::new(&mut slots, &model);
    let mut choices = Vec::new();
    for (slot, &(archive, weight)) in (0..).zip(adapters) {
        set.attach(slot, Adapter::open(archive).unwrap()).unwrap();
        choices.push(Choice { weight, ..Choice::slot(slot) });
    }
    let limits = Limits { kv_format: KvFormat::F32, prefill_chunk: 9, ..Limits::new(40) };
    let tokens: Vec<u32> = (0..20).map(|i| (i * 7 + 3) % model.config().vocab as u32).collect();
    let (cpu, cuda) = both!(model, &limits, session => logits!(session, &set, &choices, &tokens));
    let largest = cpu.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    let worst = cpu.iter().zip(&cuda).fold(0.0f32, |most, (a, b)| most.max((a - b).abs()));
    assert!(cpu.len() == cuda.len() && largest > 0.0, "{name}");
    assert!(worst <= 1e-5 * largest, "{name}: off by {worst:e}, largest {largest}");
}

macro_rules! logits {
    ($session:expr, $set:expr, $choices:expr, $tokens:expr) => {{
        let mut logits = Vec::new();
        $session.select(0, $set, $choices).unwrap();
        $session.score(0, $tokens, |_, row| logits.extend_from_slice(row)).unwrap();
        logits
    }};
}
use logits;

#[test]
fn every_format_and_every_kind_of_adapter_gives_the_logits_of_the_cpu() {
    for (format, embedding) in [
        (Format::F32, Format::F32),
        (Format::F16, Format::F16),
        (Format::Int8, Format::Int8),
        (Format::Nf4, Format::Nf4),
        (Format::Nf4Plain, Format::Nf4Plain),
    ] {
        let archive = import("tiny-llama", format, embedding);
        let model = Llama::open(&archive).unwrap();
        let adapter = |name: &str| {
            let folder = golden(&format!("tiny-llama/adapters/{name}"));
            import_peft(folder, &model, &Default::default()).unwrap().build(&model).unwrap()
        };
        let [lora, dora, edges, bias] = ["lora", "dora", "embed_head", "lora_bias"].map(adapter);
        let cases: [(&str, &[(&Buffer, f32)]); 6] = [
            ("two", &[(&dora, 1.0), (&lora, 0.5)]),
            ("lora", &[(&lora, 1.0)]),
            ("dora", &[(&dora, 0.75)]),
            ("embed_head", &[(&edges, 1.0)]),
            ("lora_bias", &[(&bias, -1.5)]),
            ("base", &[]),
        ];
        // The kinds of adapters do not know the formats.
        let count = if format == Format::Nf4 { cases.len() } else { 1 };
        for (name, adapters) in &cases[..count] {
            assert_alike(&format!("{name} over {}", format.name()), model, adapters);
        }
    }
}

/// One with so many rows that another kernel makes them.
#[test]
fn a_large_vocabulary_gives_the_logits_of_the_cpu() {
    let config = Config { vocab: 8204, layers: 1, ..CONFIG };
    let archive = common::base(&config, Format::Nf4, Format::Nf4, 3);
    assert_alike("8204 tokens", Llama::open(&archive).unwrap(), &[]);
}

#[test]
fn every_member_of_the_family_gives_the_logits_of_the_cpu() {
    for name in ["linear-rope", "llama3-rope", "qwen2", "qwen3", "tied"] {
        let archive = import(&format!("tiny-variants/{name}"), Format::Nf4, Format::Int8);
        assert_alike(name, Llama::open(&archive).unwrap(), &[]);
    }
}

#[test]
fn a_number_too_large_for_an_f16_cache_is_named() {
    let base = asset("tiny.lrk");
    let model = Llama::open(&base).unwrap();
    // Values a million times as large as the base's.
    let huge = common::adapter(&model, &[Site::V(0)], 2, 5);
    let mut slots = [Slot::EMPTY; 1];
    let mut set = AdapterSet::new(&mut slots, &model);
    set.attach(0, Adapter::open(&huge).unwrap()).unwrap();
    let choices = [Choice { weight: 1e7, ..Choice::slot(0) }];
    let limits = Limits::new(32);
    let (cpu, cuda) = both!(model, &limits, session => refused!(session, &set, &choices));
    assert_eq!(cuda, cpu);
    assert_eq!(cuda, Err(Error::CacheOverflow { sequence: 0 }));
}

macro_rules! refused {
    ($session:expr, $set:expr, $choices:expr) => {{
        $session.select(0, $set, $choices).unwrap();
        $session.prefill(0, PROMPTS[0]).unwrap();
        $session.sample(0, &mut Sampler::greedy())
    }};
}
use refused;
