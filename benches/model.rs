//! Tokens per second of a decoder with SmolLM2-135M's shape and random weights: prefill and decode,
//! with and without an adapter, per instruction set (`LOWRANK_ISA`), on one and two threads; and of
//! eight sequences at once, all under one adapter or each under its own. `LOWRANK_BASE` names a
//! real archive instead. And of the embedded model of `assets/`, which fits a microcontroller.

#[path = "../tests/common/mod.rs"]
mod common;

use common::{adapter, all_linear, base};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use lowrank::adapter::{Adapter, AdapterSet, Choice, Slot};
use lowrank::archive::{ArchiveFile, Buffer};
use lowrank::include_archive;
use lowrank::kernel::{Precision, kernels};
use lowrank::model::llama::{Config, Llama, RopeScaling};
use lowrank::quant::Format;
use lowrank::runtime::{Executor, Limits, Memory, Serial, Session, Threads, need};

const SMOLLM2: Config = Config {
    vocab: 49_152,
    dim: 576,
    layers: 30,
    heads: 9,
    kv_heads: 3,
    head_dim: 64,
    hidden: 1536,
    context: 8192,
    rope_theta: 100_000.0,
    rope_scaling: RopeScaling::None,
    norm_epsilon: 1e-5,
};

fn bench(c: &mut Criterion) {
    let archive = match std::env::var("LOWRANK_BASE") {
        Ok(path) => Buffer::from(&ArchiveFile::open(path).expect("an archive")[..]),
        Err(_) => base(&SMOLLM2, Format::Nf4, Format::Int8, 1),
    };
    let model = Llama::open(&archive).expect("a base");
    let adapted = adapter(&model, &all_linear(model.config()), 8, 7);
    let mut slots = [Slot::EMPTY; 1];
    let mut set = AdapterSet::new(&mut slots, &model);
    set.attach(0, Adapter::open(&adapted).expect("an adapter")).expect("it fits");
    let prompt: Vec<u32> = (0..512).map(|i| i * 97 % model.config().vocab as u32).collect();
    let threads = Threads::new(2).expect("threads");
    let mut group = c.benchmark_group(kernels().name());
    for (threads, executor) in [(1, &Serial as &dyn Executor), (2, &threads)] {
        for choices in [&[][..], &[Choice::slot(0)]] {
            let limits = Limits { threads, prefill_chunk: 128, ..Limits::new(1024) };
            let mut memory = Memory::new(need(model.config(), &limits));
            let mut session =
                Session::new(model, &limits, memory.as_mut(), executor).expect("the memory fits");
            session.select(0, &set, choices).expect("the adapter fits");
            let name =
                |what: &str| format!("{what}, {threads} threads, {} adapters", choices.len());
            group.sample_size(10).throughput(Throughput::Elements(128));
            group.bench_function(name("prefill 128"), |b| {
                b.iter(|| {
                    session.reset(0).expect("sequence 0");
                    session.prefill(0, &prompt[..128]).expect("valid tokens");
                });
            });
            group.throughput(Throughput::Elements(16));
            group.bench_function(name("decode 16"), |b| {
                b.iter(|| {
                    session.reset(0).expect("sequence 0");
                    session.prefill(0, &prompt[..1]).expect("valid tokens");
                    for &token in &prompt[..16] {
                        session.step(&[(0, token)]).expect("valid tokens");
                    }
                });
            });
        }
    }
    batch(&mut group, model);
    group.finish();
}

/// Eight sequences a step: with one adapter for all, and with eight different ones.
fn batch(group: &mut BenchmarkGroup<'_, WallTime>, model: Llama<'_>) {
    let archives: Vec<Buffer> =
        (0..8).map(|seed| adapter(&model, &all_linear(model.config()), 8, seed)).collect();
    let mut slots = [Slot::EMPTY; 8];
    let mut set = AdapterSet::new(&mut slots, &model);
    for (slot, archive) in (0..).zip(&archives) {
        set.attach(slot, Adapter::open(archive).expect("an adapter")).expect("it fits");
    }
    for (threads, executor) in
        [(1, &Serial as &dyn Executor), (2, &Threads::new(2).expect("threads"))]
    {
        let limits = Limits {
            threads,
            batch: 8,
            prefill_chunk: 8,
            precision: Precision::Fast,
            ..Limits::new(64)
        };
        let mut memory = Memory::new(need(model.config(), &limits));
        let mut session =
            Session::new(model, &limits, memory.as_mut(), executor).expect("the memory fits");
        for different in [0, 1, 8] {
            for sequence in 0..8 {
                session.reset(sequence).expect("a sequence");
                let choice = Choice::slot(if different == 8 { sequence as u32 } else { 0 });
                let choices = if different == 0 { &[][..] } else { &[choice][..] };
                session.select(sequence, &set, choices).expect("the adapter fits");
            }
            group.throughput(Throughput::Elements(16 * 8));
            group.bench_function(
                format!("decode 16 of 8 sequences, {threads} threads, {different} adapters"),
                |b| {
                    b.iter(|| {
                        (0..8).for_each(|sequence| session.reset(sequence).expect("a sequence"));
                        for token in 0..16 {
                            let tokens: [(usize, u32); 8] = core::array::from_fn(|sequence| {
                                (sequence, token * 97 + sequence as u32)
                            });
                            session.step(&tokens).expect("valid tokens");
                        }
                    });
                },
            );
        }
    }
}

/// Decoding on one thread, without and with an adapter.
fn embedded(c: &mut Criterion) {
    let model = Llama::open(include_archive!("../assets/tiny.lrk")).expect("a base");
    let mut slots = [Slot::EMPTY; 1];
    let mut set = AdapterSet::new(&mut slots, &model);
    set.attach(
        0,
        Adapter::open(include_archive!("../assets/tiny-pirate.lrk")).expect("an adapter"),
    )
    .expect("it fits");
    let limits = Limits::new(128);
    let mut memory = Memory::new(need(model.config(), &limits));
    let mut session =
        Session::new(model, &limits, memory.as_mut(), &Serial).expect("the memory fits");
    let mut group = c.benchmark_group(format!("{}, embedded model", kernels().name()));
    group.throughput(Throughput::Elements(64));
    for choices in [&[][..], &[Choice::slot(0)]] {
        session.reset(0).expect("sequence 0");
        session.select(0, &set, choices).expect("the adapter fits");
        group.bench_function(format!("decode 64, {} adapters", choices.len()), |b| {
            b.iter(|| {
                session.reset(0).expect("sequence 0");
                for token in 0..64 {
                    session.step(&[(0, token)]).expect("valid tokens");
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, bench, embedded);
criterion_main!(benches);
