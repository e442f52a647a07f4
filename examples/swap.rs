//! Swapping adapters without a heap: the page to read first when embedding the crate.
//!
//! Everything lives in statics or on the stack, and nothing here needs `std` except printing. Run
//! it with archives: `cargo run --release --example swap -- base.lrk first.lrk second.lrk`. (On a
//! device the archives are in flash: `static BASE: &[u8] =
//! lowrank::include_archive!("base.lrk");`.)

use lowrank::Error;
use lowrank::adapter::{Adapter, AdapterSet, Choice, Slot};
use lowrank::archive::ArchiveFile;
use lowrank::model::llama::Llama;
use lowrank::runtime::{Limits, Memory, Sampler, Serial, Session, need};

/// Generates with the base, then with each adapter, in one session.
fn run(
    base: &[u8],
    adapters: [&[u8]; 2],
    prompt: &[u32],
    memory: &mut [u8],
) -> Result<[[u32; 16]; 3], Error> {
    let model = Llama::open(base)?;

    // The application owns the slots; attaching writes one slot and copies no weights.
    let mut slots = [Slot::EMPTY; 1];
    let mut set = AdapterSet::new(&mut slots, &model);
    let mut session = Session::new(model, &Limits::new(128), memory, &Serial)?;
    let mut sampler = Sampler::greedy();
    let mut written = [[0; 16]; 3];

    let mut generation = 0;
    for (round, written) in written.iter_mut().enumerate() {
        session.reset(0)?;
        if round > 0 {
            // Compare-and-swap: fails if somebody else replaced the slot since `generation`.
            generation = set.replace(0, generation, Adapter::open(adapters[round - 1])?)?;
            session.select(0, &set, &[Choice::slot(0)])?;
        }
        session.prefill(0, prompt)?;
        for token in written.iter_mut() {
            *token = session.sample(0, &mut sampler)?;
            session.step(&[(0, *token)])?;
        }
    }
    Ok(written)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [base, first, second] = &arguments[..] else {
        return Err("usage: swap BASE.lrk FIRST.lrk SECOND.lrk".into());
    };
    let [base, first, second] =
        [ArchiveFile::open(base)?, ArchiveFile::open(first)?, ArchiveFile::open(second)?];
    // With a known model the size is a constant: `static mut MEMORY: [u8; need(&CONFIG,
    // &LIMITS).bytes]`.
    let config = *Llama::open(&base)?.config();
    let mut memory = Memory::new(need(&config, &Limits::new(128)));
    let written = run(&base, [&first, &second], &[1, 2, 3, 4], memory.as_mut())?;
    for (name, tokens) in ["base", "first", "second"].iter().zip(written) {
        println!("{name:>6}: {tokens:?}");
    }
    Ok(())
}
