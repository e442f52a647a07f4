//! Choosing the next token: greedy, temperature, top-k, top-p, repetition penalty. Seeded, without a heap.
//!
//! Order: repetition penalty (CTRL, arXiv 1909.05858, section 4.1), temperature, top-k, top-p (nucleus, arXiv 1904.09751), draw.

use rand_xoshiro::Xoshiro128PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use crate::error::{Error, Field, Result};
use crate::tensor::math;

/// How tokens are chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplerOptions {
    /// Divides the logits; 0 always takes the largest.
    pub temperature: f32,
    /// Only the k largest logits can be chosen; 0 means all.
    pub top_k: usize,
    /// Only the most probable tokens that reach this probability together; 1 means all.
    pub top_p: f32,
    /// Logits of tokens already in the sequence are divided (if positive) or multiplied by it; 1 means none.
    pub repetition_penalty: f32,
    /// The same seed draws the same tokens.
    pub seed: u64,
}

impl Default for SamplerOptions {
    /// Greedy.
    fn default() -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, repetition_penalty: 1.0, seed: 0 }
    }
}

/// A token that may be chosen. Sessions keep one per vocabulary entry as scratch.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C)]
pub struct Candidate {
    /// The logit, later the probability times a constant.
    weight: f32,
    token: u32,
}

impl Candidate {
    /// What scratch starts with.
    pub const NONE: Self = Self { weight: 0.0, token: 0 };
}

/// Chooses tokens from logits.
#[derive(Debug, Clone)]
pub struct Sampler {
    options: SamplerOptions,
    random: Xoshiro128PlusPlus,
}

impl Sampler {
    /// A sampler with its own random sequence.
    ///
    /// # Errors
    /// [`Error::Sampling`]: temperature below 0, top-p outside (0, 1], repetition penalty not above 0, or not finite.
    pub fn new(options: SamplerOptions) -> Result<Self> {
        let check = |field, found: f32, fits: bool| if fits && found.is_finite() { Ok(()) } else { Err(Error::Sampling { field, found }) };
        check(Field::Temperature, options.temperature, options.temperature >= 0.0)?;
        check(Field::TopP, options.top_p, options.top_p > 0.0 && options.top_p <= 1.0)?;
        check(Field::RepetitionPenalty, options.repetition_penalty, options.repetition_penalty > 0.0)?;
        Ok(Self { options, random: Xoshiro128PlusPlus::seed_from_u64(options.seed) })
    }

    /// A sampler that always takes the largest logit.
    pub fn greedy() -> Self {
        Self { options: SamplerOptions::default(), random: Xoshiro128PlusPlus::seed_from_u64(0) }
    }

    /// Chooses a token. `history` are the tokens that the repetition penalty knows; `scratch` has room for every logit.
    ///
    /// # Errors
    /// [`Error::BadLogits`] if a logit is NaN or none is above −∞; [`Error::Length`] if `scratch` is too short.
    pub fn sample(&mut self, logits: &[f32], history: &[u32], scratch: &mut [Candidate]) -> Result<u32> {
        if let Some(index) = logits.iter().position(|logit| logit.is_nan() || *logit == f32::INFINITY) {
            return Err(Error::BadLogits { index });
        }
        let (have, need) = (scratch.len(), logits.len());
        let candidates = scratch.get_mut(..need).ok_or(Error::Length { have, need })?;
        for ((candidate, &weight), token) in candidates.iter_mut().zip(logits).zip(0..) {
            *candidate = Candidate { weight, token };
        }
        self.penalize(candidates, history, logits);
        let best = candidates.iter().copied().reduce(|best, next| if next.weight > best.weight { next } else { best });
        let best = best.filter(|best| best.weight > f32::NEG_INFINITY).ok_or(Error::BadLogits { index: 0 })?;
        if self.options.temperature == 0.0 {
            return Ok(best.token);
        }
        let kept = self.keep_top_k(candidates);
        for candidate in kept.iter_mut() {
            candidate.weight = math::exp((candidate.weight - best.weight) / self.options.temperature);
        }
        let kept = self.keep_top_p(kept);
        Ok(self.draw(kept))
    }

    /// Each token of the history counts once, however often it occurred.
    fn penalize(&self, candidates: &mut [Candidate], history: &[u32], logits: &[f32]) {
        let penalty = self.options.repetition_penalty;
        if penalty == 1.0 {
            return;
        }
        for &token in history {
            if let (Some(candidate), Some(&logit)) = (candidates.get_mut(token as usize), logits.get(token as usize)) {
                candidate.weight = if logit > 0.0 { logit / penalty } else { logit * penalty };
            }
        }
    }

    fn keep_top_k<'c>(&self, candidates: &'c mut [Candidate]) -> &'c mut [Candidate] {
        let k = self.options.top_k;
        if k == 0 || k >= candidates.len() {
            return candidates;
        }
        candidates.select_nth_unstable_by(k - 1, falling);
        &mut candidates[..k]
    }

    /// Sorts by falling probability and cuts after the first that reaches top-p together with those before it.
    fn keep_top_p<'c>(&self, candidates: &'c mut [Candidate]) -> &'c mut [Candidate] {
        if self.options.top_p == 1.0 {
            return candidates;
        }
        candidates.sort_unstable_by(falling);
        let limit = self.options.top_p * candidates.iter().map(|c| c.weight).sum::<f32>();
        let mut reached = 0.0;
        let last = candidates.iter().position(|candidate| {
            reached += candidate.weight;
            reached >= limit
        });
        let count = last.map_or(candidates.len(), |last| last + 1);
        &mut candidates[..count]
    }

    fn draw(&mut self, candidates: &[Candidate]) -> u32 {
        let total: f32 = candidates.iter().map(|c| c.weight).sum();
        // 24 random bits: every multiple of 2^-24 below 1.
        let mut left = (self.random.next_u32() >> 8) as f32 / (1u32 << 24) as f32 * total;
        for candidate in candidates {
            left -= candidate.weight;
            if left < 0.0 {
                return candidate.token;
            }
        }
        // Rounding can leave a crumb; the most probable token takes it.
        candidates.iter().min_by(|a, b| falling(a, b)).map_or(0, |candidate| candidate.token)
    }
}

/// By falling weight, equal ones by rising token, so that the order is the same everywhere. No weight is NaN.
fn falling(a: &Candidate, b: &Candidate) -> core::cmp::Ordering {
    b.weight.total_cmp(&a.weight).then(a.token.cmp(&b.token))
}
