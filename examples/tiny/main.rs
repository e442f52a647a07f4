//! The embedded model on the host: what it writes by itself and under each adapter, and the tokens
//! that firmware and C must find.
//!
//! `cargo run --release --example tiny` prints the texts. With a folder, `cargo run --release
//! --example tiny -- FOLDER`, it also writes `tokens.rs` there, which `../firmware` compares with
//! what the microcontroller generates, and prints the tokens, which `../c` compares. The archives
//! are those of `assets/`. On another instruction set the logits differ in their last bits
//! (`LOWRANK_ISA=scalar` gives the microcontroller's); the tokens must not.

mod task;

use std::error::Error;
use std::fmt::Write;
use std::path::Path;

use lowrank::include_archive;
use lowrank::kernel::kernels;
use lowrank::model::llama::Llama;
use lowrank::runtime::{Memory, Serial, need};
use task::{CONFIG, COUNT, Clock, LIMITS, PROMPT, ROUNDS, Round, What};

static BASE: &[u8] = include_archive!("../../assets/tiny.lrk");
static ADAPTERS: [&[u8]; ROUNDS - 1] = [
    include_archive!("../../assets/tiny-pirate.lrk"),
    include_archive!("../../assets/tiny-notes.lrk"),
];
const NAMES: [&str; ROUNDS] = ["base", "pirate", "notes"];

fn main() -> Result<(), Box<dyn Error>> {
    if *Llama::open(BASE)?.config() != CONFIG {
        return Err("the configuration in task.rs is not that of assets/tiny.lrk".into());
    }
    let mut memory = Memory::new(need(&CONFIG, &LIMITS));
    let rounds = task::run(BASE, ADAPTERS, memory.as_mut(), &Serial, &mut NoClock)?;
    if rounds[0].0 == rounds[1].0 || rounds[1].0 == rounds[2].0 || rounds[0].0 == rounds[2].0 {
        return Err(
            "two rounds chose the same tokens: the adapters are too weak to show a swap".into()
        );
    }
    for (name, (tokens, _)) in NAMES.iter().zip(&rounds) {
        eprintln!("[{name}] {}{}", String::from_utf8_lossy(PROMPT), text(tokens));
    }
    if let Some(folder) = std::env::args().nth(1) {
        std::fs::create_dir_all(&folder)?;
        std::fs::write(Path::new(&folder).join("tokens.rs"), table(&rounds)?)?;
        rounds.iter().for_each(|(tokens, bits)| println!("{tokens:?} logits {bits:08x}"));
    }
    Ok(())
}

/// The bytes among the tokens up to the end of the text.
fn text(tokens: &[u32]) -> String {
    let bytes: Vec<u8> = tokens.iter().map_while(|&token| u8::try_from(token).ok()).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The rounds as Rust source.
fn table(rounds: &[Round]) -> Result<String, std::fmt::Error> {
    let mut source = String::new();
    writeln!(
        source,
        "// Made by `cargo run --example tiny` with the {} kernels.",
        kernels().name()
    )?;
    writeln!(
        source,
        "pub static EXPECTED: [([u32; {COUNT}], u32); {}] = {rounds:?};",
        rounds.len()
    )?;
    Ok(source)
}

/// Nothing is timed here: `lowrank bench` does that on a host.
struct NoClock;

impl Clock for NoClock {
    fn start(&mut self) {}

    fn stop(&mut self, _: What) {}
}
