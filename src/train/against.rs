//! How far a decoder is from a reference: the same tokens through both, and what each expects next.
//!
//! ```text
//! KL(p ‖ q) = Σ p · (log p − log q),  p what the reference expects, q what the model does
//! ```

use super::TrainError;
use super::data::{Batch, Dataset, IGNORE, Inputs, Targets};
use super::evaluate::{BATCH, Listener, Measures, Tally, with_adapters};
use crate::kernel::Precision;
use crate::model::llama::Llama;
use crate::model::llama::train::measure_limits;
use crate::model::{AnyBase, with_family};
use crate::runtime::{Executor, Limits, Memory, Session, need};

/// How far a model is from a reference, over the tokens of a data set.
#[derive(Debug, Clone, PartialEq)]
pub struct Divergence {
    /// The perplexity of the reference.
    pub perplexity: f64,
    /// The mean of KL(reference ‖ model), in nats per token.
    pub mean: f64,
    /// Its 99th percentile: one token in a hundred has more.
    pub percentile_99: f64,
    /// The share of tokens for which both expect the same one most.
    pub agreement: f64,
}

/// Tokens whose logits are in memory at a time.
const CHUNK: usize = 32;

/// Rows of logits that are computed together.
const ROWS: usize = 4;

/// Measures `base` under the adapter archives in `adapters`, each with its weight, on all of `data`,
/// and how far it is from `reference`, which runs alone.
///
/// # Errors
/// A reference that is no decoder of the same vocabulary and tokenizer; as
/// [`evaluate`](super::evaluate()).
pub fn evaluate_against(
    base: &AnyBase<'_>,
    adapters: &[(&[u8], f32)],
    reference: &AnyBase<'_>,
    data: &Dataset<'_>,
    precision: Precision,
    executor: &dyn Executor,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<(Measures, Divergence), TrainError> {
    let (AnyBase::Llama(model), AnyBase::Llama(reference)) = (base, reference) else {
        let [base, reference] = [base, reference].map(|base| base.as_base().root());
        return Err(TrainError::options(format!(
            "two decoders can be compared: the base is {base}, the reference {reference}"
        )));
    };
    check(model, reference)?;
    data.check_input(base.input())?;
    let plan = data.plan_in_order(BATCH);
    with_adapters(model, adapters, |set, choices, rank| {
        let (longest, threads) = (data.longest(), executor.threads());
        // As many rows meet the head together as there are sequences; one is used.
        let limits = |adapters, rank| Limits {
            batch: ROWS,
            ..measure_limits(longest, precision, threads, adapters, rank)
        };
        let (own, other) = (limits(choices.len(), rank), limits(0, 0));
        let mut memory = Memory::try_new(need(model.config(), &own))?;
        let mut session = Session::new(*model, &own, memory.as_mut(), executor)?;
        session.select(0, set, choices)?;
        let mut memory = Memory::try_new(need(reference.config(), &other))?;
        let beside = Session::new(*reference, &other, memory.as_mut(), executor)?;
        let mut pair = Pair { session, beside, both: Both::default() };
        for (done, examples) in plan.iter().enumerate() {
            progress(done, plan.len());
            pair.read(&data.batch_on(executor, examples)?)?;
        }
        pair.both.model.examples = data.len();
        pair.both.finish()
    })
}

/// Bits per weight of the layers between embedding and output head, and of all weights.
pub fn bits_per_weight(base: &AnyBase<'_>) -> [f64; 2] {
    let (mut bits, mut weights) = ([0.0; 2], [0.0; 2]);
    for site in 0..base.as_base().sites() {
        let own = with_family!(base, model => model.own_weight(site));
        let Some((weight, is_edge)) = own else { continue };
        for kind in usize::from(is_edge)..2 {
            bits[kind] += 8.0 * weight.bytes() as f64;
            weights[kind] += (weight.rows() * weight.cols()) as f64;
        }
    }
    [bits[0] / weights[0], bits[1] / weights[1]]
}

/// Refuses a reference whose tokens mean something else.
fn check(model: &Llama<'_>, reference: &Llama<'_>) -> Result<(), TrainError> {
    let [ours, theirs] = [model, reference].map(|model| model.config().vocab);
    if ours != theirs {
        return Err(TrainError::options(format!(
            "the reference has a vocabulary of {theirs} tokens, the base one of {ours}: they cannot \
             be compared"
        )));
    }
    if model.tokenizer_json() != reference.tokenizer_json() {
        return Err(TrainError::options(
            "the reference has another tokenizer than the base: they cannot be compared",
        ));
    }
    Ok(())
}

/// The model and the reference, reading the same.
struct Pair<'w, 'm, 'r> {
    session: Session<'w, 'm>,
    beside: Session<'w, 'r>,
    both: Both,
}

impl Pair<'_, '_, '_> {
    fn read(&mut self, batch: &Batch) -> Result<(), TrainError> {
        let (Inputs::Tokens(tokens), Targets::Next(next)) = (&batch.inputs, &batch.targets) else {
            return Err(TrainError::options("language models are compared: text was expected"));
        };
        let mut expected = Vec::new();
        for rows in batch.starts.windows(2) {
            self.session.reset(0)?;
            self.beside.reset(0)?;
            for first in (rows[0]..rows[1]).step_by(CHUNK) {
                let tokens = &tokens[first..rows[1].min(first + CHUNK)];
                expected.clear();
                self.beside.score(0, tokens, |_, logits| expected.extend_from_slice(logits))?;
                let both = &mut self.both;
                self.session.score(0, tokens, |row, logits| {
                    let next = next[first + row];
                    if next != IGNORE {
                        both.see(logits, &expected[row * logits.len()..][..logits.len()], next);
                    }
                })?;
            }
        }
        Ok(())
    }
}

/// What was seen of both.
#[derive(Default)]
struct Both {
    model: Tally,
    reference: Tally,
    divergences: Vec<f64>,
    agreed: usize,
}

impl Both {
    fn see(&mut self, logits: &[f32], expected: &[f32], next: u32) {
        self.model.next(logits, next);
        self.reference.next(expected, next);
        self.divergences.push(divergence(expected, logits));
        self.agreed += usize::from(largest(logits) == largest(expected));
    }

    fn finish(mut self) -> Result<(Measures, Divergence), TrainError> {
        let (measures, reference) = (self.model.measures(), self.reference.measures());
        let count = self.divergences.len().max(1);
        let mean = self.divergences.iter().sum::<f64>() / count as f64;
        if ![measures.loss, reference.loss, mean].iter().all(|value| value.is_finite()) {
            return Err(TrainError::NotANumber);
        }
        self.divergences.sort_unstable_by(f64::total_cmp);
        let rank = (count * 99).div_ceil(100) - 1;
        let divergence = Divergence {
            perplexity: reference.perplexity,
            mean,
            percentile_99: self.divergences.get(rank).copied().unwrap_or(0.0),
            agreement: self.agreed as f64 / count as f64,
        };
        Ok((measures, divergence))
    }
}

/// The index of the first of the largest.
fn largest(logits: &[f32]) -> usize {
    let best = |best, (i, logit): (usize, &f32)| if *logit > logits[best] { i } else { best };
    logits.iter().enumerate().fold(0, best)
}

/// KL(p ‖ q) of softmax(a) and softmax(b), in f64.
fn divergence(a: &[f32], b: &[f32]) -> f64 {
    let max = |x: &[f32]| x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let (max_a, max_b) = (max(a), max(b));
    let (mut total_a, mut total_b, mut along) = (0.0, 0.0, 0.0);
    for (&a, &b) in a.iter().zip(b) {
        let (a, b) = (f64::from(a - max_a), f64::from(b - max_b));
        let weight = a.exp();
        total_a += weight;
        total_b += b.exp();
        // What has no weight adds nothing, however far it is.
        along += if weight > 0.0 { weight * (a - b) } else { 0.0 };
    }
    (along / total_a - total_a.ln() + total_b.ln()).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_divergence_is_that_of_the_definition() {
        let p = [0.5f64, 0.25, 0.125, 0.125];
        let q = [0.25f64, 0.25, 0.25, 0.25];
        let logits = |p: [f64; 4], up: f32| p.map(|p| p.ln() as f32 + up);
        let expected: f64 = p.iter().zip(q).map(|(p, q)| p * (p / q).ln()).sum();
        let found = divergence(&logits(p, 3.0), &logits(q, -7.0));
        assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        assert_eq!(divergence(&logits(p, 0.0), &logits(p, 0.0)), 0.0);
        // A token that the reference excludes counts nothing; one that the model does, everything.
        let never = [0.0, f32::NEG_INFINITY];
        assert!((divergence(&never, &[0.0, 0.0]) - 2f64.ln()).abs() < 1e-12);
        assert_eq!(divergence(&[0.0, 0.0], &never), f64::INFINITY);
    }

    #[test]
    fn means_percentiles_and_agreement_are_over_what_was_seen() {
        let mut both = Both::default();
        for i in 0..200 {
            let model = if i < 4 { [0.0, 8.0] } else { [0.0, -8.0] };
            both.see(&model, &[0.0, -8.0], 0);
        }
        let large = divergence(&[0.0, -8.0], &[0.0, 8.0]);
        let (measures, found) = both.finish().unwrap();
        assert!((found.mean - 4.0 / 200.0 * large).abs() < 1e-9, "{found:?}");
        assert_eq!((found.percentile_99, found.agreement), (large, 0.98));
        assert!(measures.perplexity > found.perplexity);
    }
}
