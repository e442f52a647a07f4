//! What host and firmware do alike: the embedded model's numbers, and generating with the base and
//! with each adapter.
//!
//! `no_std`, no heap. Included by `main.rs` beside it (host), by `tests/embedded.rs` and by
//! `../firmware/src/main.rs`. Not an example by itself.

use lowrank::Error;
use lowrank::adapter::{Adapter, AdapterSet, Choice, Slot};
use lowrank::model::llama::{Config, Llama, RopeScaling};
use lowrank::runtime::{Executor, Limits, Sampler, Session};

/// The configuration of `assets/tiny.lrk`: 256 bytes, begin and end; grouped-query attention. A
/// constant, so that a static workspace has its size when the program is compiled; the host checks
/// it against the archive.
pub const CONFIG: Config = Config {
    vocab: 258,
    dim: 128,
    layers: 3,
    heads: 8,
    kv_heads: 2,
    head_dim: 16,
    hidden: 192,
    context: 128,
    rope_theta: 10_000.0,
    rope_scaling: RopeScaling::None,
    norm_epsilon: 1e-6,
};

/// One sequence of 128 tokens under one adapter of rank at most 8; eight prompt tokens at once.
pub const LIMITS: Limits =
    Limits { prefill_chunk: 8, max_active: 1, max_total_rank: 8, ..Limits::new(128) };

/// Tokens generated in each round.
pub const COUNT: usize = 64;

/// The base alone, then each adapter.
pub const ROUNDS: usize = 3;

/// What every round starts from, after the token "begin": a title, as all texts have one that the
/// model has learnt.
pub const PROMPT: &[u8] = b"Duck and boat:";

/// Token ids: a byte is its own, then comes "begin". What "end" is does not matter here: generation
/// goes on to [`COUNT`] tokens.
const BEGIN: u32 = 256;

/// The tokens of a round, and the bits of every logit they were chosen from in one number.
pub type Round = ([u32; COUNT], u32);

/// A time on a clock that only counts; the unit is the caller's.
pub trait Clock {
    /// Forgets what was counted.
    fn start(&mut self);
    /// Says what has been counted since the start, for what.
    fn stop(&mut self, what: What);
}

/// What a [`Clock`] measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Reading every byte of base and adapters.
    Verify,
    /// Opening the base.
    Open,
    /// Opening the adapter of this round.
    OpenAdapter,
    /// Attaching it and choosing it: the swap.
    Swap,
    /// The prompt.
    Prefill,
    /// One token, with the choice of the next.
    Token,
}

/// Verifies everything, then generates [`COUNT`] tokens with the base and, after a swap, with each
/// adapter.
pub fn run(
    base: &[u8],
    adapters: [&[u8]; ROUNDS - 1],
    memory: &mut [u8],
    executor: &dyn Executor,
    clock: &mut impl Clock,
) -> Result<[Round; ROUNDS], Error> {
    clock.start();
    Llama::verify(base)?;
    for adapter in adapters {
        Adapter::verify(adapter)?;
    }
    clock.stop(What::Verify);

    clock.start();
    let model = Llama::open(base)?;
    clock.stop(What::Open);

    let mut prompt = [BEGIN; 1 + PROMPT.len()];
    for (token, &byte) in prompt.iter_mut().skip(1).zip(PROMPT) {
        *token = u32::from(byte);
    }

    let mut slots = [Slot::EMPTY; 1];
    let mut set = AdapterSet::new(&mut slots, &model);
    let mut session =
        Session::new(model, &Limits { threads: executor.threads(), ..LIMITS }, memory, executor)?;
    let mut sampler = Sampler::greedy();
    let mut rounds = [([0; COUNT], 0); ROUNDS];

    let (first, others) = rounds.split_at_mut(1);
    generate(&mut session, &mut sampler, &prompt, clock, &mut first[0])?;
    let mut generation = 0;
    for (round, adapter) in others.iter_mut().zip(adapters) {
        clock.start();
        let adapter = Adapter::open(adapter)?;
        clock.stop(What::OpenAdapter);

        session.reset(0)?;
        clock.start();
        generation = set.replace(0, generation, adapter)?;
        session.select(0, &set, &[Choice::slot(0)])?;
        clock.stop(What::Swap);
        generate(&mut session, &mut sampler, &prompt, clock, round)?;
    }
    Ok(rounds)
}

fn generate(
    session: &mut Session<'_, '_>,
    sampler: &mut Sampler,
    prompt: &[u32],
    clock: &mut impl Clock,
    (tokens, bits): &mut Round,
) -> Result<(), Error> {
    clock.start();
    session.prefill(0, prompt)?;
    clock.stop(What::Prefill);
    for token in tokens.iter_mut() {
        *bits = session.logits(0)?.iter().fold(*bits, |hash, logit| fnv(hash, logit.to_bits()));
        clock.start();
        *token = session.sample(0, sampler)?;
        session.step(&[(0, *token)])?;
        clock.stop(What::Token);
    }
    Ok(())
}

/// One step of an FNV-1a hash over words: two runs with the same hash computed the same logits, bit
/// for bit.
fn fnv(hash: u32, word: u32) -> u32 {
    (hash ^ word).wrapping_mul(0x0100_0193)
}
