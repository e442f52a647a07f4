//! Text to calibrate with: cut from a file's, or written by the model itself.

use crate::adapter::Base;
use crate::kernel::Precision;
use crate::model::llama::Llama;
use crate::model::{AnyBase, converted, rewritten};
use crate::quant::{Format, Quantization};
use crate::random;
use crate::runtime::{Executor, Limits, Memory, Sampler, SamplerOptions, Session, need};
use crate::text::Tokenizer;
use crate::train::TrainError;

/// Tokens of a sequence, at most.
const LENGTH: usize = 512;

/// Sequences that are written side by side.
const BATCH: usize = 16;

/// The temperatures of the sequences that a model writes, in turn.
const TEMPERATURES: [f32; 3] = [0.7, 0.85, 1.0];

/// Every so many sequences one begins with a token by chance.
const BY_CHANCE: usize = 4;

/// Sequences of `text` for `base`, of about `tokens` tokens together: pieces of a decoder's text,
/// lines of an encoder's. Of a longer text a part is chosen, the same for the same `seed`.
///
/// # Errors
/// What the tokenizer says.
pub fn calibration_text(
    base: &AnyBase<'_>,
    tokenizer: &Tokenizer,
    text: &str,
    tokens: usize,
    seed: u64,
) -> Result<Vec<Vec<u32>>, TrainError> {
    let length = LENGTH.min(base.input().context);
    let mut sequences = Vec::new();
    if matches!(base, AnyBase::Bert(_)) {
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            sequences.push(tokenizer.encode_text(line, length)?.0);
        }
    } else {
        let first = tokenizer.leading_bos();
        let ids = tokenizer.encode(text, false)?;
        for piece in ids.chunks(length - usize::from(first.is_some())) {
            sequences.push(first.into_iter().chain(piece.iter().copied()).collect::<Vec<u32>>());
        }
    }
    random::shuffle(seed, 0, 0, &mut sequences);
    let mut room = tokens;
    sequences.retain(|sequence| {
        let fits = room > 0;
        room = room.saturating_sub(sequence.len());
        fits
    });
    Ok(sequences)
}

/// Sequences of `tokens` tokens together, or some more, that the decoder `model` writes itself:
/// behind one of `openings`, or behind a token by chance, at several temperatures; where it ends a
/// text, behind another opening. The same for the same `seed`. The weights are rounded to 8 bits for
/// it.
///
/// # Errors
/// What the runtime says.
pub fn own_text(
    model: &Llama<'_>,
    openings: &[Vec<u32>],
    tokens: usize,
    seed: u64,
    executor: &dyn Executor,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<Vec<u32>>, TrainError> {
    let how = Quantization::new(Format::Int8);
    let weights = (0..model.sites()).filter_map(|site| Some((site, model.own_weight(site)?.0)));
    let weights = weights
        .map(|(site, weight)| Ok((site, converted(weight, &how)?)))
        .collect::<Result<_, TrainError>>()?;
    let archive = rewritten(model, weights, 1)?;
    let model = Llama::open(&archive)?;
    let length = LENGTH.min(model.config().context);
    let count = tokens.div_ceil(length).max(1);
    let limits = Limits {
        batch: BATCH.min(count),
        precision: Precision::Fast,
        threads: executor.threads(),
        ..Limits::new(length)
    };
    let mut memory = Memory::try_new(need(model.config(), &limits))?;
    let mut session = Session::new(model, &limits, memory.as_mut(), executor)?;
    let mut sequences = Vec::with_capacity(count);
    while sequences.len() < count {
        let first = sequences.len();
        let some = first..count.min(first + limits.batch);
        let writers = some.map(|number| Writer::new(&model, openings, number, seed));
        let mut writers = writers.collect::<Result<Vec<_>, TrainError>>()?;
        (0..writers.len()).try_for_each(|i| session.reset(i))?;
        while write(&mut session, &mut writers, length)? {
            let written: usize = writers.iter().map(|writer| writer.tokens.len()).sum();
            progress(first * length + written, count * length);
        }
        sequences.extend(writers.into_iter().map(|writer| writer.tokens));
    }
    Ok(sequences)
}

/// A sequence that is being written.
struct Writer<'o> {
    openings: &'o [Vec<u32>],
    opening: usize,
    tokens: Vec<u32>,
    /// How many of them the session has read.
    read: usize,
    sampler: Sampler,
}

impl<'o> Writer<'o> {
    fn new(
        model: &Llama<'_>,
        openings: &'o [Vec<u32>],
        number: usize,
        seed: u64,
    ) -> Result<Self, TrainError> {
        let chance = |purpose: u64| random::bits(seed, number as u64, purpose);
        let temperature = TEMPERATURES[number % TEMPERATURES.len()];
        let options = SamplerOptions { temperature, seed: chance(0), ..SamplerOptions::default() };
        let by_chance = number % BY_CHANCE == BY_CHANCE - 1 || openings.is_empty();
        let mut writer = Self {
            openings,
            opening: (chance(1) % openings.len().max(1) as u64) as usize,
            tokens: Vec::new(),
            read: 0,
            sampler: Sampler::new(options)?,
        };
        if by_chance {
            writer.tokens.extend(model.leading_bos());
            writer.tokens.push((chance(2) % model.config().vocab as u64) as u32);
        } else {
            writer.open();
        }
        Ok(writer)
    }

    /// Appends the next opening.
    fn open(&mut self) {
        if let Some(opening) = self.openings.get(self.opening) {
            self.tokens.extend(opening);
            self.opening = (self.opening + 1) % self.openings.len();
        }
    }
}

/// Appends a token to every sequence that is shorter than `length`; false if none was.
fn write(
    session: &mut Session<'_, '_>,
    writers: &mut [Writer<'_>],
    length: usize,
) -> Result<bool, TrainError> {
    writers.iter_mut().for_each(|writer| writer.tokens.truncate(length));
    let entries: Vec<(usize, &[u32])> = writers
        .iter()
        .enumerate()
        .filter(|(_, writer)| writer.tokens.len() < length)
        .map(|(i, writer)| (i, &writer.tokens[writer.read..]))
        .collect();
    let going: Vec<usize> = entries.iter().map(|entry| entry.0).collect();
    if going.is_empty() {
        return Ok(false);
    }
    session.advance(&entries)?;
    for i in going {
        let writer = &mut writers[i];
        writer.read = writer.tokens.len();
        let token = session.sample(i, &mut writer.sampler)?;
        writer.tokens.push(token);
        if session.model().is_stop(token) {
            writer.open();
        }
    }
    Ok(true)
}
