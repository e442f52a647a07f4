//! Prompt lookup: what followed the last tokens of a text when they stood in it before, as a guess of
//! what follows now.
//!
//! Summaries, corrections and code repeat much of what they are about. The guess costs no second
//! model: it is the text after the longest earlier run of tokens that ends like the text does, the
//! latest of equally long ones. How much of it is worth reading depends on how often such guesses
//! were right: a pass of 1 + k tokens takes s + c k times as long as one of a single token and gives
//! 1 + a + … + aᵏ of them, a being the share of guessed tokens that were right, known for short and
//! long runs apart. Where no k gains anything there is no guess, but for a token now and then that
//! finds out whether that is still so.

use super::Limits;
use crate::kernel::kernels;

/// Runs of 1, 2, 3, 4 to 7 tokens and more are told apart.
const KINDS: usize = 5;

/// The longest run that is looked for.
const LONGEST: usize = 16;

/// The share of right guesses at the start, by the kind of run.
const AT_FIRST: [f32; KINDS] = [0.1, 0.4, 0.6, 0.75, 0.9];

/// How many guesses that is worth, and how many are remembered.
const WEIGHTS: [f32; 2] = [4.0, 20.0];

/// What a draft must gain at least: a few guesses more than it should be are wrong.
const GAIN: f32 = 1.05;

/// Of so many steps without a gain, one has a draft of one token.
const TRIES: u32 = 128;

/// Guesses the next tokens of a sequence from those it has. Feed it to
/// [`step_by_lookup`](super::Sequences::step_by_lookup), one for each sequence.
///
/// ```
/// use lowrank::runtime::{Limits, Lookup};
///
/// let mut lookup = Lookup::with_cost(0.2);
/// let mut draft = [0; 4];
/// // 5 6 7 came before; 8 9 followed.
/// let count = lookup.guess(&[1, 5, 6, 7, 8, 9, 2, 5, 6], 7, &mut draft);
/// assert_eq!(draft[..2], [8, 9]);
/// assert!(count >= 2);
/// ```
#[derive(Debug, Clone)]
pub struct Lookup {
    /// What a pass of several tokens costs, and each further token, in passes of one.
    cost: (f32, f32),
    /// The share of tokens that were guessed right, by the kind of run, and of how many.
    rates: [(f32, f32); KINDS],
    /// Steps without a draft since the last one of each kind.
    idle: [u32; KINDS],
    /// The kind of the last guess.
    kind: usize,
    told: LookupCounts,
}

/// What guesses came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LookupCounts {
    /// Tokens that were guessed.
    pub guessed: u64,
    /// Those of them that were right.
    pub right: u64,
}

impl Lookup {
    /// For a session under `limits`, by what its products take on this machine.
    pub fn new(limits: &Limits) -> Self {
        Self::of(kernels().several(limits.precision))
    }

    /// Where each further token of a pass takes `cost` times as long as the first. From 1 on there
    /// is never a guess.
    pub const fn with_cost(cost: f32) -> Self {
        Self::of((1.0, cost))
    }

    const fn of(cost: (f32, f32)) -> Self {
        let mut rates = [(0.0, WEIGHTS[0]); KINDS];
        let mut kind = 0;
        while kind < KINDS {
            rates[kind].0 = AT_FIRST[kind];
            kind += 1;
        }
        let told = LookupCounts { guessed: 0, right: 0 };
        Self { cost, rates, idle: [0; KINDS], kind: 0, told }
    }

    /// Writes what may follow `tokens` and `next` to `draft`, as much as is worth reading; returns
    /// how many tokens that is.
    pub fn guess(&mut self, tokens: &[u32], next: u32, draft: &mut [u32]) -> usize {
        if draft.is_empty() || self.cost.1 >= 1.0 {
            return 0;
        }
        let Some((from, length)) = earlier(tokens, next) else { return 0 };
        let kind = kind(length);
        let mut count = self.worth(self.rates[kind].0, draft.len());
        if count == 0 {
            self.idle[kind] += 1;
            if self.idle[kind] >= TRIES {
                count = 1;
            }
        }
        if count > 0 {
            (self.kind, self.idle[kind]) = (kind, 0);
            self.told.guessed += count as u64;
        }
        // A run that reaches up to here goes on with itself.
        let following = tokens[from..].iter().chain(core::iter::once(&next)).cycle();
        draft[..count].iter_mut().zip(following).for_each(|(draft, &token)| *draft = token);
        count
    }

    /// Takes note that the next token of the last guess was right, or that it was wrong.
    pub fn learn(&mut self, right: bool) {
        let (rate, weight) = &mut self.rates[self.kind];
        *weight = (*weight + 1.0).min(WEIGHTS[1]);
        *rate += (f32::from(u8::from(right)) - *rate) / *weight;
        self.told.right += u64::from(right);
    }

    /// What guesses came to so far.
    pub fn counts(&self) -> LookupCounts {
        self.told
    }

    /// The k up to `most` for which (1 + a + … + aᵏ) / (s + c k) is largest; 0 if none gains enough.
    fn worth(&self, rate: f32, most: usize) -> usize {
        let (mut best, mut count) = (GAIN, 0);
        let (mut tokens, mut last) = (1.0, 1.0);
        for k in 1..=most {
            last *= rate;
            tokens += last;
            let gain = tokens / (self.cost.0 + self.cost.1 * k as f32);
            if gain > best {
                (best, count) = (gain, k);
            }
        }
        count
    }
}

/// The kind of a run of so many tokens.
fn kind(length: usize) -> usize {
    match length {
        ..=3 => length.saturating_sub(1),
        4..=7 => 3,
        _ => 4,
    }
}

/// Where what followed the longest earlier run begins that ends like `tokens` and `next` do, and how
/// long the run is.
fn earlier(tokens: &[u32], next: u32) -> Option<(usize, usize)> {
    let mut found: Option<(usize, usize)> = None;
    for from in (1..=tokens.len()).rev() {
        if tokens[from - 1] != next {
            continue;
        }
        let before = tokens[..from - 1].iter().rev().zip(tokens.iter().rev());
        let length = 1 + before.take(LONGEST - 1).take_while(|(a, b)| a == b).count();
        if found.is_none_or(|(_, longest)| length > longest) {
            found = Some((from, length));
        }
        if length == LONGEST {
            break;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use super::*;

    /// The guess behind `tokens`, the last of which is the next.
    fn guess(lookup: &mut Lookup, tokens: &[u32], most: usize) -> Vec<u32> {
        let mut draft = std::vec![0; most];
        let (next, tokens) = tokens.split_last().unwrap();
        let count = lookup.guess(tokens, *next, &mut draft);
        draft.truncate(count);
        draft
    }

    #[test]
    fn the_longest_run_counts_and_of_equal_ones_the_latest() {
        // A pass costs next to nothing: all that is known is guessed.
        let mut lookup = Lookup::with_cost(0.001);
        let mut of = |tokens: &[u32], most| guess(&mut lookup, tokens, most);
        assert_eq!(of(&[1, 2, 3, 4, 9, 2, 3, 5, 1, 2, 3], 2), [4, 9]);
        assert_eq!(of(&[7, 2, 3, 4, 9, 2, 3, 5, 1, 2, 3], 2), [5, 1]);
        assert!(of(&[1, 2, 3], 4).is_empty(), "nothing was there before");
        assert!(of(&[1, 1], 0).is_empty(), "there is no room");
        // A text that goes round goes on with itself.
        assert_eq!(of(&[8, 1, 2, 1, 2], 5), [1, 2, 1, 2, 1]);
        assert_eq!(of(&[5, 5], 2), [5, 5]);
        let mut dear = Lookup::with_cost(1.0);
        assert!(guess(&mut dear, &[5, 5, 5, 5], 3).is_empty(), "nothing is gained");
    }

    #[test]
    fn wrong_guesses_end_and_right_ones_grow() {
        let text = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1, 2, 3];
        let mut lookup = Lookup::with_cost(0.3);
        let first = guess(&mut lookup, &text, 9).len();
        assert!((1..9).contains(&first));
        for _ in 0..30 {
            lookup.learn(true);
        }
        let more = guess(&mut lookup, &text, 9).len();
        assert!(more > first, "{more} after {first}");
        // From then on all are wrong: a few at first, then one of a single token now and then.
        let mut counts = Vec::new();
        for _ in 0..1000 {
            let count = guess(&mut lookup, &text, 9).len();
            counts.push(count);
            if count > 0 {
                lookup.learn(false);
            }
        }
        assert!(counts[..100].iter().sum::<usize>() < 150, "{counts:?}");
        assert!(counts[100..].iter().sum::<usize>() <= 900 / TRIES as usize + 1, "{counts:?}");
        assert!(counts[800..].contains(&1), "it never finds out that they are right again");
        // Other kinds of runs were not touched: one of more than seven tokens.
        let long: Vec<u32> = (0..12).chain(0..9).collect();
        assert!(guess(&mut lookup, &long, 3).len() > 1);
    }
}
