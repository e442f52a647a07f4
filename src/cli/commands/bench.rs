//! `lowrank bench`: how fast a base runs here, what bounds it, and what adapters cost.
//!
//! Decoding is bound by bytes: each token reads every weight of the blocks and of the head once. So
//! the bytes per token, the rate at which decoding reads them and the rate at which this machine
//! reads memory at all stand beside the tokens per second. All figures are medians over rounds;
//! with adapters the rounds of base and adapters alternate. Several sequences decoded together share
//! what is read, so their tokens are counted together. Sampling and text are not in the times.
//! On a card (`cuda`) the next token is chosen there, as a continuation would have it.

mod bytes;
#[cfg(feature = "cuda")]
mod cuda;
mod table;

use std::hint::black_box;
use std::time::{Duration, Instant};

use clap::Args;
use lowrank::adapter::{AdapterSet, Choice, Slot};
use lowrank::model::llama::Llama;
use lowrank::runtime::{Executor, Limits, Memory, Session, need};
use serde_json::{Value, json};

use crate::Failure;
use crate::attach::{AdapterOptions, OpenAdapter, attach, open_adapters};
use crate::model::{Kv, ModelOptions};
use crate::output::line;
use bytes::{row_bytes, target_bytes, weight_bytes};

const EXAMPLES: &str = "Example:
  lowrank bench --base base.lrk --adapter style.lrk --batch 8 --json";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    adapters: AdapterOptions,
    /// Tokens of the timed prompt
    #[arg(long, default_value_t = 128, value_name = "N", value_parser = at_least_one)]
    prompt_tokens: usize,
    /// Tokens of the timed continuation
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = at_least_one)]
    tokens: usize,
    /// Sequences decoded together, timed beside one
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    batch: Option<usize>,
    /// Tokens that each sequence holds before decoding starts
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = at_least_one)]
    context: usize,
    /// Prompt tokens computed at once
    #[arg(long, default_value_t = 128, value_name = "N", value_parser = at_least_one)]
    prefill_chunk: usize,
    /// How keys and values are kept
    #[arg(long, value_enum, default_value_t = Kv::F16)]
    kv: Kv,
    /// Rounds, of which the medians are taken
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = at_least_one)]
    rounds: usize,
    /// Print JSON with stable names
    #[arg(long)]
    json: bool,
}

/// What the read bandwidth is measured on: more than the caches of the machines this runs on.
const BUFFER_BYTES: usize = 256 << 20;

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|&number| number > 0)
        .ok_or_else(|| "a whole number of at least 1 was expected".into())
}

/// The times of one kind of round.
#[derive(Debug, Default)]
struct Times {
    prefill: Vec<f64>,
    decode: Vec<f64>,
    /// Of all sequences together, if there are several.
    batch: Vec<f64>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let base = arguments.model.file()?;
    let model = base.base()?;
    let files = open_adapters(&arguments.adapters.adapters)?;
    let executor = arguments.model.executor()?;
    let ((plain, adapted), place) = match arguments.model.card()? {
        #[cfg(feature = "cuda")]
        Some(card) => cuda::measure(arguments, model, &files, &card)?,
        #[cfg(not(feature = "cuda"))]
        Some(never) => match never {},
        None => measure(arguments, model, &files, executor.as_ref())?,
    };
    let adapter_bytes = files.iter().map(|adapter| {
        Ok(adapter.file.adapter()?.targets().map(|t| target_bytes(&t, model)).sum::<u64>())
    });
    let adapter_bytes = adapter_bytes.sum::<Result<u64, Failure>>()?;
    let adapted = adapted.as_ref().map(|times| (times, adapter_bytes));
    let facts = facts(arguments, model, &plain, adapted, place);
    if arguments.json {
        line(&facts)?;
    } else {
        table::print(&facts)?;
    }
    Ok(())
}

/// Something that reads tokens, whose time is taken.
trait Reads<'m> {
    /// Forgets the tokens of a sequence; from now on it is under `choices`.
    fn start_over(
        &mut self,
        sequence: usize,
        set: &AdapterSet<'_, 'm>,
        choices: &[Choice],
    ) -> lowrank::Result<()>;
    /// Reads a prompt.
    fn prefill(&mut self, sequence: usize, tokens: &[u32]) -> lowrank::Result<()>;
    /// Reads a token of each sequence and computes the next ones' logits, or the next ones.
    fn step(&mut self, tokens: &[(usize, u32)]) -> lowrank::Result<()>;
}

impl<'m> Reads<'m> for Session<'_, 'm> {
    fn start_over(
        &mut self,
        sequence: usize,
        set: &AdapterSet<'_, 'm>,
        choices: &[Choice],
    ) -> lowrank::Result<()> {
        self.reset(sequence)?;
        self.select(sequence, set, choices)
    }

    fn prefill(&mut self, sequence: usize, tokens: &[u32]) -> lowrank::Result<()> {
        Session::prefill(self, sequence, tokens)
    }

    fn step(&mut self, tokens: &[(usize, u32)]) -> lowrank::Result<()> {
        Session::step(self, tokens)?;
        // The logits are what the time is spent for.
        black_box(self.logits(0)?);
        Ok(())
    }
}

/// What was measured of the base and, where there are adapters, of the base under all of them; and
/// what is known of the place: more facts.
type Measured = ((Times, Option<Times>), Value);

/// The limits of a session that is measured.
fn limits(
    arguments: &Arguments,
    model: &Llama<'_>,
    adapters: (usize, usize),
    executor: &dyn Executor,
) -> Limits {
    let context = arguments.prompt_tokens.max(arguments.tokens.saturating_add(arguments.context));
    Limits {
        kv_format: arguments.kv.into(),
        batch: arguments.batch.unwrap_or(1),
        prefill_chunk: arguments.prefill_chunk.min(arguments.prompt_tokens),
        max_active: adapters.0,
        max_total_rank: adapters.1,
        ..arguments.model.limits(model, context, executor)
    }
}

/// Measures on the CPU.
fn measure(
    arguments: &Arguments,
    model: Llama<'_>,
    files: &[OpenAdapter],
    executor: &dyn Executor,
) -> Result<Measured, Failure> {
    let mut slots = vec![Slot::EMPTY; files.len()];
    let mut set = AdapterSet::new(&mut slots, &model);
    let attached = attach(&mut set, files)?;
    let limits = limits(arguments, &model, (files.len(), attached.rank), executor);
    limits.check(model.config())?;
    let mut memory = Memory::try_new(need(model.config(), &limits))?;
    let mut session = Session::new(model, &limits, memory.as_mut(), executor)?;
    let vocab = model.config().vocab;
    let times = rounds(arguments, &mut session, vocab, &set, &attached.choices)?;
    let place = json!({
        "measured_read_gb_per_s": read_bandwidth(executor) / 1e9,
        "precision": limits.precision.name(),
        "isa": lowrank::kernel::kernels().name(),
        "threads": executor.threads(),
    });
    Ok((times, place))
}

/// Times the base and, where there are adapters, the base under all of them, in turn.
fn rounds<'m>(
    arguments: &Arguments,
    session: &mut impl Reads<'m>,
    vocab: usize,
    set: &AdapterSet<'_, 'm>,
    choices: &[Choice],
) -> Result<(Times, Option<Times>), Failure> {
    let mut kinds = vec![(&[][..], Times::default())];
    if !choices.is_empty() {
        kinds.push((choices, Times::default()));
    }
    // The first round brings weights, code and clock up and is not counted.
    for round in 0..=arguments.rounds {
        for (choices, times) in &mut kinds {
            let prefill = prefill(arguments, session, vocab, (set, choices))?;
            let decode =
                |count, session: &mut _| decode(arguments, count, session, vocab, (set, choices));
            let one = decode(1, session)?;
            let batch = arguments.batch.map(|batch| decode(batch, session)).transpose()?;
            if round > 0 {
                times.prefill.push(prefill.as_secs_f64());
                times.decode.push(one.as_secs_f64());
                times.batch.extend(batch.map(|time| time.as_secs_f64()));
            }
        }
    }
    let mut times = kinds.into_iter().map(|(_, times)| times);
    Ok((times.next().unwrap_or_default(), times.next()))
}

/// Tokens for a prompt or a continuation. Which they are makes no difference to the time, but
/// neighbours should not share rows of the embedding.
fn tokens(vocab: usize, count: usize) -> Vec<u32> {
    (0..count).map(|i| (i * 97 % vocab) as u32).collect()
}

/// Adapters, and those that are active.
type Active<'s, 'e, 'm> = (&'s AdapterSet<'e, 'm>, &'s [Choice]);

/// The time of a prompt.
fn prefill<'m>(
    arguments: &Arguments,
    session: &mut impl Reads<'m>,
    vocab: usize,
    (set, choices): Active<'_, '_, 'm>,
) -> Result<Duration, Failure> {
    let ids = tokens(vocab, arguments.prompt_tokens);
    session.start_over(0, set, choices)?;
    let start = Instant::now();
    session.prefill(0, &ids)?;
    Ok(start.elapsed())
}

/// The time of a continuation of `count` sequences together, each behind its context.
fn decode<'m>(
    arguments: &Arguments,
    count: usize,
    session: &mut impl Reads<'m>,
    vocab: usize,
    (set, choices): Active<'_, '_, 'm>,
) -> Result<Duration, Failure> {
    let ids = tokens(vocab, arguments.context.max(arguments.tokens));
    for sequence in 0..count {
        session.start_over(sequence, set, choices)?;
        session.prefill(sequence, &ids[..arguments.context])?;
    }
    let start = Instant::now();
    for &token in &ids[..arguments.tokens] {
        let step: Vec<_> = (0..count).map(|sequence| (sequence, token)).collect();
        session.step(&step)?;
    }
    Ok(start.elapsed())
}

fn facts(
    arguments: &Arguments,
    model: Llama<'_>,
    plain: &Times,
    adapted: Option<(&Times, u64)>,
    place: Value,
) -> Value {
    let rate = |tokens: usize, times: &[f64]| tokens as f64 / median(times).max(1e-9);
    let decode = rate(arguments.tokens, &plain.decode);
    let bytes = weight_bytes(model);
    let mut facts = json!({
        "prefill_tokens_per_s": rate(arguments.prompt_tokens, &plain.prefill),
        "decode_tokens_per_s": decode,
        "weight_bytes_per_token": bytes,
        "embedding_bytes_per_token": row_bytes(model.embedding().bytes(), model.config().vocab),
        "read_gb_per_s": bytes as f64 * decode / 1e9,
    });
    if let (Some(facts), Value::Object(place)) = (facts.as_object_mut(), place) {
        facts.extend(place);
    }
    if let Some(batch) = arguments.batch {
        facts["batch"] = batch.into();
        facts["batch_decode_tokens_per_s"] = rate(batch * arguments.tokens, &plain.batch).into();
    }
    if let Some((times, adapter_bytes)) = adapted {
        if let Some(batch) = arguments.batch {
            facts["adapter_batch_decode_tokens_per_s"] =
                rate(batch * arguments.tokens, &times.batch).into();
        }
        facts["adapter_prefill_tokens_per_s"] =
            rate(arguments.prompt_tokens, &times.prefill).into();
        facts["adapter_decode_tokens_per_s"] = rate(arguments.tokens, &times.decode).into();
        facts["adapter_bytes_per_token"] = adapter_bytes.into();
        // Of neighbouring rounds: what slows both of them cancels out.
        let overheads: Vec<_> = times
            .decode
            .iter()
            .zip(&plain.decode)
            .map(|(with, without)| with / without.max(1e-9) - 1.0)
            .collect();
        facts["adapter_overhead"] = median(&overheads).into();
    }
    facts["prompt_tokens"] = arguments.prompt_tokens.into();
    facts["tokens"] = arguments.tokens.into();
    facts["context"] = arguments.context.into();
    facts["rounds"] = arguments.rounds.into();
    facts
}

/// Bytes per second that all threads together read from memory: the best of three sums over a large
/// buffer.
fn read_bandwidth(executor: &dyn Executor) -> f64 {
    let buffer: Vec<u64> = (0..BUFFER_BYTES as u64 / 8).collect();
    let part = buffer.len().div_ceil(executor.threads());
    let sum = |thread: usize| {
        let words = buffer.chunks(part).nth(thread).unwrap_or(&[]);
        let mut sums = [0u64; 16];
        for words in words.chunks_exact(16) {
            for (sum, word) in sums.iter_mut().zip(words) {
                *sum = sum.wrapping_add(*word);
            }
        }
        black_box(sums);
    };
    let times = (0..3).map(|_| {
        let start = Instant::now();
        executor.run(executor.threads(), &sum);
        start.elapsed().as_secs_f64()
    });
    BUFFER_BYTES as f64 / times.fold(f64::INFINITY, f64::min).max(1e-9)
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_ignores_the_order_and_one_outlier() {
        assert_eq!(median(&[3.0, 1.0, 100.0]), 3.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
