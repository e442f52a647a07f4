//! Tokens per second of a decoder with SmolLM2-135M's shape and random weights: prefill and decode, with and without an adapter,
//! per instruction set (`LOWRANK_ISA`), on one and two lanes. `LOWRANK_BASE` names a real archive instead.

#[path = "../tests/common/mod.rs"]
mod common;

use common::{adapter, all_linear, base};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lowrank::adapter::{Adapter, AdapterSet, Choice, Slot};
use lowrank::archive::{ArchiveFile, Buffer};
use lowrank::kernel::kernels;
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
    for (lanes, executor) in [(1, &Serial as &dyn Executor), (2, &threads)] {
        for choices in [&[][..], &[Choice::slot(0)]] {
            let limits = Limits { lanes, prefill_chunk: 128, ..Limits::new(1024) };
            let mut memory = Memory::new(need(model.config(), &limits));
            let mut session = Session::new(model, &limits, memory.as_mut(), executor).expect("the memory fits");
            session.select(0, &set, choices).expect("the adapter fits");
            let name = |what: &str| format!("{what}, {lanes} lanes, {} adapters", choices.len());
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
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
