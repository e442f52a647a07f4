//! What a running model takes: resident memory after each step, from the operating system (Linux).
//!
//! `cargo run --release --example resident -- CONTEXT base.lrk [adapter.lrk]...` opens the base,
//! makes a session, generates 32 tokens, then attaches and uses one adapter after the other. No
//! tokenizer is loaded.

use std::error::Error;

use lowrank::adapter::{Adapter, AdapterSet, Choice, Slot};
use lowrank::archive::ArchiveFile;
use lowrank::model::llama::Llama;
use lowrank::runtime::{Limits, Memory, Sampler, Serial, Session, need};

/// A field of /proc/self/status, in bytes.
fn status(field: &str) -> Result<u64, Box<dyn Error>> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find(|line| line.starts_with(field)).ok_or("no such field")?;
    Ok(line.split_whitespace().nth(1).ok_or("no value")?.parse::<u64>()? * 1024)
}

fn report(step: &str) -> Result<(), Box<dyn Error>> {
    let [resident, anonymous, file] = [status("VmRSS:")?, status("RssAnon:")?, status("RssFile:")?];
    println!("{step}\t{resident}\t{anonymous}\t{file}");
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [context, base, adapters @ ..] = &arguments[..] else {
        return Err("usage: resident CONTEXT BASE.lrk [ADAPTER.lrk]...".into());
    };
    println!("step\tresident\tanonymous\tfile");
    report("start")?;
    let base = ArchiveFile::open(base)?;
    let adapters = adapters.iter().map(ArchiveFile::open).collect::<Result<Vec<_>, _>>()?;
    let model = Llama::open(&base)?;
    let limits = Limits::new(context.parse()?);
    let mut memory = Memory::new(need(model.config(), &limits));
    let mut slots = [Slot::EMPTY; 8];
    let mut set = AdapterSet::new(&mut slots, &model);
    let mut session = Session::new(model, &limits, memory.as_mut(), &Serial)?;
    report("open")?;
    for round in 0..=adapters.len() {
        session.reset(0)?;
        if let Some(adapter) = round.checked_sub(1).map(|i| &adapters[i]) {
            let slot = round as u32 - 1;
            set.attach(slot, Adapter::open(adapter)?)?;
            session.select(0, &set, &[Choice::slot(slot)])?;
        }
        // The whole context, so that every page of the cache is counted.
        let tokens: Vec<u32> =
            (0..limits.context as u32 - 32).map(|i| i * 37 % model.config().vocab as u32).collect();
        session.prefill(0, &tokens)?;
        for _ in 0..32 {
            let token = session.sample(0, &mut Sampler::greedy())?;
            session.step(&[(0, token)])?;
        }
        report(&if round == 0 { "base".into() } else { format!("adapter {round}") })?;
    }
    Ok(())
}
