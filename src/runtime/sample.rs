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
        self.weigh(kept, best.weight);
        let kept = self.keep_top_p(kept);
        let kept = self.keep_min_p(kept);
        Ok(self.draw(kept))
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
mod tests {
    extern crate std;

    use std::vec::Vec;

    use super::*;

    /// Logits from −8 to 8 with ties and, at every seventh place, one that cannot be chosen.
    fn logits(n: usize) -> Vec<f32> {
        (0..n)
            .map(
                |i| {
                    if i % 7 == 3 {
                        f32::NEG_INFINITY
                    } else {
                        (i * 7919 % 257) as f32 / 16.0 - 8.0
                    }
                },
            )
            .collect()
    }

    fn options(temperature: f32, top_k: usize, top_p: f32) -> SamplerOptions {
        SamplerOptions { temperature, top_k, top_p, seed: 7, ..SamplerOptions::default() }
    }

    #[test]
    fn what_is_kept_is_what_a_sort_would_keep() {
        for n in [1, 2, 3, 10, 257, 1000] {
            // Weights from 1 down to e^-16: below and above what top-p looks at first.
            let weigh = |logit: f32| (logit - 8.0).exp();
            let all: Vec<Candidate> = logits(n)
                .into_iter()
                .zip(0..)
                .map(|(logit, token)| Candidate { weight: weigh(logit), token })
                .collect();
            let mut sorted = all.clone();
            sorted.sort_by(|a, b| b.weight.total_cmp(&a.weight).then(a.token.cmp(&b.token)));
            for k in [1, 2, 7, n / 2 + 1, n, n + 1] {
                let mut some = all.clone();
                let mut kept =
                    Sampler::new(options(1.0, k, 1.0)).unwrap().keep_top_k(&mut some).to_vec();
                kept.sort_by(|a, b| b.weight.total_cmp(&a.weight).then(a.token.cmp(&b.token)));
                assert_eq!(kept, sorted[..k.min(n)], "{k} of {n}");
            }
            for p in [1e-3, 0.5, 0.9, 0.999, 0.999_999] {
                let mut some = all.clone();
                let limit = p * all.iter().map(|c| c.weight).sum::<f32>();
                let mut reached = 0.0;
                let reaches = |c: &Candidate| {
                    reached += c.weight;
                    reached >= limit
                };
                let count = sorted.iter().position(reaches).map_or(n, |last| last + 1);
                let kept = Sampler::new(options(1.0, 0, p)).unwrap().keep_top_p(&mut some).to_vec();
                assert_eq!(kept, sorted[..count], "{p} of {n}");
            }
        }
    }

    #[test]
    fn draws_follow_the_probabilities_of_what_is_kept() {
        let logits = logits(300);
        for (temperature, top_k, top_p, min_p) in [
            (1.0, 0, 1.0, 0.0),
            (0.7, 0, 0.8, 0.0),
            (9.0, 0, 0.999_999, 0.0),
            (1.5, 20, 1.0, 0.0),
            (1.5, 299, 1.0, 0.0),
            (1.5, 1, 0.5, 0.0),
            (1.5, 40, 0.6, 0.0),
            (3.0, 0, 1.0, 0.3),
            (3.0, 0, 0.8, 0.6),
            (3.0, 25, 0.9, 0.05),
            (3.0, 0, 1.0, 1.0),
        ] {
            // In f64, sorted: the first k, of those as many as reach p, of those the ones with
            // min-p of the first.
            let mut expected: Vec<(usize, f64)> = logits
                .iter()
                .map(|&l| (f64::from(l) / f64::from(temperature)).exp())
                .enumerate()
                .collect();
            expected.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            expected.truncate(if top_k == 0 { 300 } else { top_k });
            let total: f64 = expected.iter().map(|(_, w)| w).sum();
            let mut reached = 0.0;
            expected.retain(|(_, w)| {
                let keep = reached < f64::from(top_p) * total;
                reached += w;
                keep
            });
            let most = expected[0].1;
            expected.retain(|(_, w)| *w >= f64::from(min_p) * most * (1.0 - 1e-9));
            let total: f64 = expected.iter().map(|(_, w)| w).sum();
            let (mut counts, draws) = (std::vec![0u32; 300], 20_000);
            let options = SamplerOptions { min_p, ..options(temperature, top_k, top_p) };
            let (mut sampler, mut scratch) =
                (Sampler::new(options).unwrap(), [Candidate::NONE; 300]);
            for _ in 0..draws {
                counts[sampler.sample(&logits, &[], &mut scratch).unwrap() as usize] += 1;
            }
            for (token, weight) in &expected {
                let mean = f64::from(draws) * weight / total;
                let count = f64::from(std::mem::take(&mut counts[*token]));
                assert!(
                    (count - mean).abs() <= 5.0 * mean.sqrt() + 1.0,
                    "token {token}: {count} draws instead of {mean:.1}"
                );
            }
            assert_eq!(counts.iter().sum::<u32>(), 0, "a token was drawn that is not kept");
        }
    }

    #[test]
    fn min_p_outside_zero_to_one_is_refused() {
        for min_p in [-0.1, 1.1, f32::NAN, f32::INFINITY] {
            let made = Sampler::new(SamplerOptions { min_p, ..SamplerOptions::default() });
            assert!(matches!(made, Err(Error::Sampling { field: Field::MinP, .. })), "{min_p}");
        }
    }

    #[test]
    fn extreme_temperatures_choose_among_the_best() {
        let (logits, mut scratch) = (logits(300), [Candidate::NONE; 300]);
        let most = logits.iter().copied().fold(f32::MIN, f32::max);
        for temperature in [f32::MIN_POSITIVE / 4.0, 1e-30, 1e-3] {
            let token = Sampler::new(options(temperature, 0, 1.0))
                .unwrap()
                .sample(&logits, &[], &mut scratch)
                .unwrap();
            assert_eq!(logits[token as usize], most);
        }
        let token = Sampler::new(options(f32::MAX, 0, 1.0))
            .unwrap()
            .sample(&logits, &[], &mut scratch)
            .unwrap();
        assert!(logits[token as usize].is_finite());
    }
}
