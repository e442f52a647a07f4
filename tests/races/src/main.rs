//! What threads share, under load: two sessions with executors of their own decode while two other
//! threads replace the adapters that they pin. ThreadSanitizer watches (`.ci/races.sh`); alone it
//! checks that every session computes what one thread computes.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::Path;
use std::sync::Arc;

use lowrank::adapter::{Choice, SharedAdapter, SharedSet};
use lowrank::archive::ArchiveFile;
use lowrank::model::llama::Llama;
use lowrank::runtime::{Executor, Limits, Memory, Serial, Session, Threads, need};

const ROUNDS: usize = 12;
const PROMPT: [u32; 9] = [256, 72, 101, 108, 108, 111, 32, 97, 32];

fn file(name: &str) -> ArchiveFile {
    ArchiveFile::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets").join(name))
        .unwrap()
}

/// The bits of the logits after the prompt and four steps, under whatever stands in slot 0.
fn run(model: Llama<'_>, set: &SharedSet<Llama<'_>>, executor: &dyn Executor) -> Vec<u32> {
    let limits = Limits { threads: executor.threads(), max_total_rank: 16, ..Limits::new(32) };
    let mut memory = Memory::new(need(model.config(), &limits));
    let mut session = Session::new(model, &limits, memory.as_mut(), executor).unwrap();
    let pinned = set.pin(&[0]).unwrap();
    session.select(0, &&pinned, &[Choice::slot(0)]).unwrap();
    session.prefill(0, &PROMPT).unwrap();
    for token in [98, 99, 100, 101] {
        session.step(&[(0, token)]).unwrap();
    }
    session.logits(0).unwrap().iter().map(|logit| logit.to_bits()).collect()
}

fn main() {
    let base = file("tiny.lrk");
    let model = Llama::open(&base).unwrap();
    let adapters: Vec<Arc<SharedAdapter>> = ["tiny-pirate.lrk", "tiny-notes.lrk"]
        .iter()
        .map(|name| Arc::new(SharedAdapter::open(Box::new(file(name))).unwrap()))
        .collect();
    let set = SharedSet::new(model);
    let expected: Vec<Vec<u32>> = adapters
        .iter()
        .map(|adapter| {
            set.replace(0, set.generation(0), Arc::clone(adapter)).unwrap();
            run(model, &set, &Serial)
        })
        .collect();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let threads = Threads::new(3).unwrap();
                for _ in 0..ROUNDS {
                    assert!(expected.contains(&run(model, &set, &threads)));
                }
            });
            scope.spawn(|| {
                for round in 0..50 * ROUNDS {
                    // Another thread may have been first: then nothing happens.
                    let generation = set.generation(0);
                    let _ = set.replace(0, generation, Arc::clone(&adapters[round % 2]));
                    std::thread::yield_now();
                }
            });
        }
    });
    println!("{} sessions of 3 threads computed what one thread computes", 2 * ROUNDS);
}
