//! Choosing the next token: greedy, temperature, top-k, top-p, min-p, repetition penalty. Seeded;
//! nothing is allocated.
//!
//! Order, that of transformers: repetition penalty (CTRL, arXiv 1909.05858, section 4.1),
//! temperature, top-k, top-p (nucleus, arXiv 1904.09751), min-p (arXiv 2407.01082), draw.

use rand_xoshiro::Xoshiro128PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use crate::error::{Error, Field, Result};
use crate::kernel::kernels;
use crate::tensor::workspace::stored;

/// How tokens are chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplerOptions {
    /// Divides the logits; 0 always takes the largest.
    pub temperature: f32,
    /// Only the k largest logits can be chosen; 0 means all.
    pub top_k: usize,
    /// Only the most probable tokens that reach this probability together; 1 means all.
    pub top_p: f32,
    /// Only tokens that are at least this share as probable as the most probable one, from 0 to 1;
    /// 0 means all.
    pub min_p: f32,
    /// Logits of tokens already in the sequence are divided (if positive) or multiplied by it; 1
    /// means none.
    pub repetition_penalty: f32,
    /// The same seed draws the same tokens.
    pub seed: u64,
}

impl Default for SamplerOptions {
    /// Greedy.
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            seed: 0,
        }
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

    /// A token and its logit.
    #[cfg(feature = "cuda")]
    pub(crate) const fn new(weight: f32, token: u32) -> Self {
        Self { weight, token }
    }
}

stored! { Candidate: 8; }

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
    /// [`Error::Sampling`]: temperature below 0, top-p outside (0, 1], min-p outside [0, 1],
    /// repetition penalty not above 0, or not finite.
    pub fn new(options: SamplerOptions) -> Result<Self> {
        let check = |field, found: f32, fits: bool| {
            if fits && found.is_finite() { Ok(()) } else { Err(Error::Sampling { field, found }) }
        };
        check(Field::Temperature, options.temperature, options.temperature >= 0.0)?;
        check(Field::TopP, options.top_p, options.top_p > 0.0 && options.top_p <= 1.0)?;
        check(Field::MinP, options.min_p, (0.0..=1.0).contains(&options.min_p))?;
        check(
            Field::RepetitionPenalty,
            options.repetition_penalty,
            options.repetition_penalty > 0.0,
        )?;
        Ok(Self { options, random: Xoshiro128PlusPlus::seed_from_u64(options.seed) })
    }

    /// A sampler that always takes the largest logit.
    pub fn greedy() -> Self {
        Self { options: SamplerOptions::default(), random: Xoshiro128PlusPlus::seed_from_u64(0) }
    }

    /// Chooses a token. `history` are the tokens that the repetition penalty knows; `scratch` has
    /// room for every logit.
    ///
    /// # Errors
    /// [`Error::BadLogits`] if a logit is NaN or none is above −∞; [`Error::Length`] if `scratch`
    /// is too short.
    pub fn sample(
        &mut self,
        logits: &[f32],
        history: &[u32],
        scratch: &mut [Candidate],
    ) -> Result<u32> {
        if let Some(index) =
            logits.iter().position(|logit| logit.is_nan() || *logit == f32::INFINITY)
        {
            return Err(Error::BadLogits { index });
        }
        let (have, need) = (scratch.len(), logits.len());
        let candidates = scratch.get_mut(..need).ok_or(Error::Length { have, need })?;
        for ((candidate, &weight), token) in candidates.iter_mut().zip(logits).zip(0..) {
            *candidate = Candidate { weight, token };
        }
        self.penalize(candidates, history, logits);
        let best = candidates
            .iter()
            .copied()
            .reduce(|best, next| if next.weight > best.weight { next } else { best });
        let best = best
            .filter(|best| best.weight > f32::NEG_INFINITY)
            .ok_or(Error::BadLogits { index: 0 })?;
        if self.options.temperature == 0.0 {
            return Ok(best.token);
        }
        let kept = self.keep_top_k(candidates);
        Ok(self.pick(kept, best.weight))
    }

    /// How many of the largest logits are all that it looks at; none if it needs more than 64 or
    /// changes some by a penalty.
    #[cfg(feature = "cuda")]
    pub(crate) fn few(&self) -> Option<usize> {
        let SamplerOptions { temperature, top_k, repetition_penalty, .. } = self.options;
        let k = if temperature == 0.0 { 1 } else { top_k };
        (repetition_penalty == 1.0 && (1..=crate::cuda::MOST_CANDIDATES).contains(&k)).then_some(k)
    }

    /// As [`sample`](Self::sample), of the [`few`](Self::few) largest logits, the largest first.
    ///
    /// # Errors
    /// [`Error::BadLogits`] if none is above −∞.
    #[cfg(feature = "cuda")]
    pub(crate) fn sample_few(&mut self, candidates: &mut [Candidate]) -> Result<u32> {
        let best = candidates.first().copied().filter(|best| best.weight > f32::NEG_INFINITY);
        let best = best.ok_or(Error::BadLogits { index: 0 })?;
        if self.options.temperature == 0.0 {
            return Ok(best.token);
        }
        sort(candidates);
        Ok(self.pick(candidates, best.weight))
    }

    /// Draws one of those that are left of the k largest, in the order of tokens.
    fn pick(&mut self, kept: &mut [Candidate], best: f32) -> u32 {
        self.weigh(kept, best);
        let kept = self.keep_top_p(kept);
        let kept = self.keep_min_p(kept);
        self.draw(kept)
    }

    /// Each token of the history counts once, however often it occurred.
    fn penalize(&self, candidates: &mut [Candidate], history: &[u32], logits: &[f32]) {
        let penalty = self.options.repetition_penalty;
        if penalty == 1.0 {
            return;
        }
        for &token in history {
            if let (Some(candidate), Some(&logit)) =
                (candidates.get_mut(token as usize), logits.get(token as usize))
            {
                candidate.weight = if logit > 0.0 { logit / penalty } else { logit * penalty };
            }
        }
    }

    fn keep_top_k<'c>(&self, candidates: &'c mut [Candidate]) -> &'c mut [Candidate] {
        let k = self.options.top_k;
        if k == 0 || k >= candidates.len() {
            return candidates;
        }
        // A heap of the best so far with the worst of them on top, where the next one has to pass.
        let (kept, rest) = candidates.split_at_mut(k);
        make_heap(kept, is_worse);
        for next in rest {
            if is_better(next, &kept[0]) {
                kept[0] = *next;
                sift_down(kept, 0, is_worse);
            }
        }
        sort(kept);
        kept
    }

    /// Logits become probabilities, times a constant: `exp((logit − best) / temperature)`.
    fn weigh(&self, candidates: &mut [Candidate], best: f32) {
        let mut part = [0.0; 64];
        for candidates in candidates.chunks_mut(part.len()) {
            let part = &mut part[..candidates.len()];
            part.iter_mut()
                .zip(&*candidates)
                .for_each(|(to, from)| *to = (from.weight - best) / self.options.temperature);
            kernels().softmax_step(part, 1.0, 0.0);
            // What cannot be chosen has no weight at all.
            let weight = |logit: f32, exp: f32| if logit > f32::NEG_INFINITY { exp } else { 0.0 };
            candidates
                .iter_mut()
                .zip(part)
                .for_each(|(to, exp)| to.weight = weight(to.weight, *exp));
        }
    }

    /// The most probable that reach top-p together.
    fn keep_top_p<'c>(&self, candidates: &'c mut [Candidate]) -> &'c mut [Candidate] {
        if self.options.top_p == 1.0 {
            return candidates;
        }
        let limit = self.options.top_p * candidates.iter().map(|c| c.weight).sum::<f32>();
        // Of a large vocabulary most weighs next to nothing: the rest (the best weighs 1) reaches p
        // nearly always.
        let (mut count, mut sum) = (0, 0.0);
        for i in 0..candidates.len() {
            if candidates[i].weight > 1e-5 {
                sum += candidates[i].weight;
                candidates.swap(i, count);
                count += 1;
            }
        }
        let some = if sum < limit { candidates } else { &mut candidates[..count] };
        // The steps of a heap sort, but no more than that takes.
        make_heap(some, is_better);
        let (mut left, mut reached) = (some.len(), 0.0);
        while left > 0 && reached < limit {
            left -= 1;
            some.swap(0, left);
            reached += some[left].weight;
            sift_down(&mut some[..left], 0, is_better);
        }
        some[left..].reverse();
        &mut some[left..]
    }

    /// Those with at least min-p of the weight of the best, which is 1; their order stays.
    fn keep_min_p<'c>(&self, candidates: &'c mut [Candidate]) -> &'c mut [Candidate] {
        if self.options.min_p == 0.0 {
            return candidates;
        }
        let mut count = 0;
        for i in 0..candidates.len() {
            if candidates[i].weight >= self.options.min_p {
                candidates.swap(i, count);
                count += 1;
            }
        }
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
        candidates
            .iter()
            .reduce(|best, next| if is_better(next, best) { next } else { best })
            .map_or(0, |best| best.token)
    }
}

/// Puts candidates into the order of tokens: what is drawn does not depend on how they were found.
fn sort(candidates: &mut [Candidate]) {
    let is_later = |a: &Candidate, b: &Candidate| a.token > b.token;
    make_heap(candidates, is_later);
    for left in (1..candidates.len()).rev() {
        candidates.swap(0, left);
        sift_down(&mut candidates[..left], 0, is_later);
    }
}

/// Orders `heap` so that no candidate is `above` the one over it.
fn make_heap(heap: &mut [Candidate], above: fn(&Candidate, &Candidate) -> bool) {
    (0..heap.len() / 2).rev().for_each(|root| sift_down(heap, root, above));
}

/// Restores the order below `root`.
fn sift_down(heap: &mut [Candidate], mut root: usize, above: fn(&Candidate, &Candidate) -> bool) {
    loop {
        let mut child = 2 * root + 1;
        if child + 1 < heap.len() && above(&heap[child + 1], &heap[child]) {
            child += 1;
        }
        if child >= heap.len() || above(&heap[root], &heap[child]) {
            return;
        }
        heap.swap(root, child);
        root = child;
    }
}

/// More weight, or as much and the smaller token, so that the order is the same everywhere. No
/// weight is NaN.
fn is_better(a: &Candidate, b: &Candidate) -> bool {
    a.weight > b.weight || a.weight == b.weight && a.token < b.token
}

fn is_worse(a: &Candidate, b: &Candidate) -> bool {
    is_better(b, a)
}

#[cfg(test)]
mod tests;
