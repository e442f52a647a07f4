//! Makes the model that `examples/firmware` carries, and the tokens it must generate.
//!
//! The weights are seeded random numbers: the model says nothing sensible. It is there to show that a microcontroller computes
//! what the host computes, in how much memory. Run it with a folder: `cargo run --release --example tiny -- FOLDER` writes
//! `tiny.lrk`, `tiny-a.lrk`, `tiny-b.lrk` and `tokens.rs`. The same files come out on every machine with the same instruction
//! set; with another one the logits differ in their last bits (`LOWRANK_ISA=scalar` gives the microcontroller's).

mod task;

use std::error::Error;
use std::fmt::Write;
use std::path::Path;

use lowrank::adapter::{AdapterBuilder, FactorFormat, Numbers, Place, TargetParts};
use lowrank::archive::{Buffer, schema, to_buffer};
use lowrank::kernel::kernels;
use lowrank::model::llama::{Llama, Site};
use lowrank::quant::{Format, OwnedMatrix};
use lowrank::runtime::Memory;
use task::{CONFIG, COUNT, Clock, LIMITS, Round, What};

/// The linear layers of a block.
const SITES: [fn(usize) -> Site; 7] = [Site::Q, Site::K, Site::V, Site::O, Site::Gate, Site::Up, Site::Down];

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).ok_or("usage: tiny FOLDER")?;
    let folder = Path::new(&folder);
    std::fs::create_dir_all(folder)?;

    let base = base(&mut Random(1))?;
    let model = Llama::open(&base)?;
    let everywhere = adapter(&model, "everywhere", &SITES, 4, FactorFormat::F16, &mut Random(2))?;
    let attention = adapter(&model, "attention", &[Site::Q, Site::V], 8, FactorFormat::Int8, &mut Random(3))?;

    let mut memory = Memory::new(lowrank::runtime::need(&CONFIG, &LIMITS));
    let rounds = task::run(&base, [&everywhere, &attention], memory.as_mut(), &mut NoClock)?;
    if rounds[0].0 == rounds[1].0 || rounds[1].0 == rounds[2].0 || rounds[0].0 == rounds[2].0 {
        return Err("two rounds chose the same tokens: the adapters are too weak to show a swap".into());
    }
    for (name, bytes) in [("tiny.lrk", &base), ("tiny-a.lrk", &everywhere), ("tiny-b.lrk", &attention)] {
        std::fs::write(folder.join(name), &**bytes)?;
        println!("{name}: {} bytes", bytes.len());
    }
    std::fs::write(folder.join("tokens.rs"), table(&rounds)?)?;
    for (tokens, bits) in &rounds {
        println!("{:?} logits {bits:08x}", tokens);
    }
    Ok(())
}

/// The rounds as Rust source.
fn table(rounds: &[Round]) -> Result<String, std::fmt::Error> {
    let mut source = String::new();
    writeln!(source, "// Made by `cargo run --example tiny` with the {} kernels.", kernels().name())?;
    writeln!(source, "pub static EXPECTED: [([u32; {COUNT}], u32); {}] = {rounds:?};", rounds.len())?;
    Ok(source)
}

/// Nothing is timed here: `lowrank bench` does that on a host.
struct NoClock;

impl Clock for NoClock {
    fn start(&mut self) {}

    fn stop(&mut self, _: What) {}
}

/// Repeatable numbers from −1 to 1: a linear congruential generator (Knuth's MMIX constants).
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    }

    fn numbers(&mut self, count: usize, scale: f32) -> Vec<f32> {
        (0..count).map(|_| self.next() * scale).collect()
    }
}

/// NF4 with double quantization in the blocks, int8 in embedding and head. Weights of variance 4 / (3 · inputs) keep activations
/// near their size and make distributions uneven enough for greedy choices that rounding cannot turn.
fn base(random: &mut Random) -> lowrank::Result<Buffer> {
    let mut matrix = |format, (rows, cols): (usize, usize)| {
        OwnedMatrix::quantize(format, 64, rows, cols, &random.numbers(rows * cols, 2.0 / (cols as f32).sqrt()))
    };
    let embedding = matrix(Format::Int8, Site::Embedding.shape(&CONFIG))?;
    let head = matrix(Format::Int8, Site::Head.shape(&CONFIG))?;
    let mut blocks = Vec::new();
    for layer in 0..CONFIG.layers {
        for site in SITES {
            blocks.push(matrix(Format::Nf4, site(layer).shape(&CONFIG))?);
        }
    }

    let norm = [1.0; CONFIG.dim];
    fn linear(weight: &OwnedMatrix) -> schema::Linear<'_> {
        schema::Linear { weight: weight.view().into(), bias: &[] }
    }
    let layers: Vec<schema::LlamaLayer<'_>> = blocks
        .as_chunks()
        .0
        .iter()
        .map(|[q, k, v, o, gate, up, down]: &[OwnedMatrix; 7]| schema::LlamaLayer {
            attention_norm: &norm,
            q: linear(q),
            k: linear(k),
            v: linear(v),
            o: linear(o),
            q_norm: &[],
            k_norm: &[],
            feed_forward_norm: &norm,
            gate: linear(gate),
            up: linear(up),
            down: linear(down),
        })
        .collect();
    let root = schema::Llama {
        name: "tiny (random weights)",
        config: CONFIG.to_schema(),
        text: schema::Text { bos: Some(0), stop: &[1], ..Default::default() },
        embedding: embedding.view().into(),
        layers: &layers,
        norm: &norm,
        head: Some(head.view().into()),
    };
    to_buffer(&root, 1)
}

/// LoRA factors large enough to change what greedy decoding chooses.
fn adapter(
    base: &Llama<'_>,
    name: &str,
    sites: &[fn(usize) -> Site],
    rank: usize,
    format: FactorFormat,
    random: &mut Random,
) -> lowrank::Result<Buffer> {
    let mut builder = AdapterBuilder::new(name, "lora");
    builder.format = format;
    for layer in 0..CONFIG.layers {
        for site in sites.iter().map(|site| site(layer)) {
            let (rows, cols) = site.shape(&CONFIG);
            let parts = TargetParts {
                rank,
                alpha: 2.0 * rank as f32,
                rank_stabilized: false,
                a: Numbers::F32(random.numbers(rank * cols, 0.3)),
                b: Numbers::F32(random.numbers(rows * rank, 0.3)),
                bias: Vec::new(),
                magnitude: Vec::new(),
            };
            builder.targets.insert(Place(site.number(CONFIG.layers)), parts);
        }
    }
    builder.build(base)
}
