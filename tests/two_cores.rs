//! The executor of `examples/two_cores.rs`: the tokens of one core, every part once, and no hang
//! when a part panics.

mod common;
#[path = "../examples/two_cores.rs"]
mod two_cores;

use std::sync::atomic::{AtomicUsize, Ordering};

use common::{CONFIG, base};
use lowrank::model::llama::Llama;
use lowrank::quant::Format;
use lowrank::runtime::{Executor, Limits, Memory, Serial, need};
use two_cores::{CORES, TwoCores, generate};

/// A mailbox with a core 1 of its own.
fn cores() -> &'static TwoCores {
    let cores = Box::leak(Box::new(TwoCores::new(std::thread::yield_now, || ())));
    std::thread::spawn(|| cores.serve());
    cores
}

#[test]
fn two_cores_give_the_tokens_of_one() {
    let archive = base(&CONFIG, Format::Nf4, Format::Int8, 1);
    let model = Llama::open(&archive).unwrap();
    std::thread::spawn(|| CORES.serve());
    for threads in [1, 2, 3, 5] {
        let limits = Limits { threads, ..Limits::new(48) };
        let mut memory = Memory::new(need(&CONFIG, &limits));
        let mut tokens = [[0; 32]; 2];
        for (executor, tokens) in [&Serial as &dyn Executor, &CORES].into_iter().zip(&mut tokens) {
            generate(model, executor, memory.as_mut(), &limits, &[1, 2, 3, 4], tokens).unwrap();
        }
        assert_eq!(tokens[0], tokens[1], "{threads} threads");
    }
}

#[test]
fn every_part_is_computed_once_whoever_calls() {
    let cores = cores();
    for tasks in 0..20 {
        let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
        cores.run(tasks, &|i| {
            counts[i].fetch_add(1, Ordering::Relaxed);
            // From inside a part, and so from both cores: somebody has core 1 already.
            cores.run(2, &|_| ());
        });
        assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1), "{tasks}");
    }
    let total = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                (0..200).for_each(|_| {
                    cores.run(4, &|i| {
                        total.fetch_add(i, Ordering::Relaxed);
                    });
                });
            });
        }
    });
    assert_eq!(total.into_inner(), 3 * 200 * 6);
}

#[test]
fn a_part_that_panics_on_either_core_is_told_and_nobody_hangs() {
    for core in 0..2 {
        let cores = cores();
        let run = || {
            cores.run(2, &|i| {
                assert!(i != core, "as if a kernel had a bug (this line belongs to a test)")
            })
        };
        assert!(std::panic::catch_unwind(run).is_err(), "core {core}");
        // Goes on, on core 0 alone if core 1 is gone.
        let parts = AtomicUsize::new(0);
        cores.run(4, &|_| {
            parts.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(parts.into_inner(), 4);
    }
}
