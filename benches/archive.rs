//! What opening and swapping cost: `open` of a base and of an adapter, attach, replace.
//!
//! Goals: `open` of a base under 1 ms at any size, attach of an opened adapter under 10 µs. With
//! `LOWRANK_BASE` (and `LOWRANK_ADAPTER`) naming archives it measures those, else the embedded
//! model of `assets/` and its pirate.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use lowrank::adapter::{Adapter, AdapterSet, Slot};
use lowrank::archive::{ArchiveFile, Buffer};
use lowrank::include_archive;
use lowrank::model::llama::Llama;

fn archives() -> (Buffer, Buffer) {
    let read = |variable: &str, embedded: &'static [u8]| match std::env::var(variable) {
        Ok(path) => Buffer::from(&ArchiveFile::open(path).expect("an archive")[..]),
        Err(_) => Buffer::from(embedded),
    };
    let base = read("LOWRANK_BASE", include_archive!("../assets/tiny.lrk"));
    let adapter = read("LOWRANK_ADAPTER", include_archive!("../assets/tiny-pirate.lrk"));
    (base, adapter)
}

fn bench(c: &mut Criterion) {
    let (base, adapter) = archives();
    let model = Llama::open(&base).expect("a base");
    let opened = Adapter::open(&adapter).expect("an adapter of this base");
    let mut slots = [Slot::EMPTY; 1];
    let mut set = AdapterSet::new(&mut slots, &model);
    let mut generation = set.attach(0, opened).expect("an adapter of this base");

    c.bench_function(&format!("open base of {} bytes", base.len()), |b| {
        b.iter(|| Llama::open(black_box(&base)).is_ok())
    });
    c.bench_function(&format!("open adapter of {} bytes", adapter.len()), |b| {
        b.iter(|| Adapter::open(black_box(&adapter)).is_ok())
    });
    c.bench_function("replace in a slot (attach of an opened adapter)", |b| {
        b.iter(|| {
            generation =
                set.replace(0, generation, black_box(opened)).expect("the generation is current");
        });
    });
}

criterion_group!(benches, bench);
criterion_main!(benches);
