//! Byte 5-grams, smoothed in two ways: what a language model has to beat.
//!
//! With c counts, T(h) the number of different symbols seen behind a context h, N(h) = Σ c(h, ·),
//! and h′ the context without its oldest symbol:
//!
//! - Witten-Bell: p(s | h) = (c(h, s) + T(h) · p(s | h′)) / (N(h) + T(h)).
//! - Kneser-Ney, interpolated: p(s | h) = (max(c(h, s) − D, 0) + D · T(h) · p(s | h′)) / N(h),
//!   where all but the longest contexts count in how many different longer ones they occur, and D =
//!   n₁ / (n₁ + 2 n₂) from the counts of one and two of each length.
//!
//! Below the empty context every symbol is equally probable. Symbols are the 256 bytes and the end
//! of a text; contexts at the beginning of a text are filled up with a begin symbol, so that the
//! n-gram knows where texts begin, as the model does.

use std::collections::HashMap;

/// Symbols of a context: n − 1 of an n-gram.
const CONTEXT: usize = 4;

const BEGIN: u16 = 256;
const END: u16 = 257;

/// The 256 bytes and the end.
const SYMBOLS: f64 = 257.0;

/// How lower and higher orders are mixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Smoothing {
    WittenBell,
    KneserNey,
}

/// What was seen behind one context.
#[derive(Debug, Default)]
struct Successors {
    total: f64,
    counts: HashMap<u16, f64>,
}

/// Contexts of one length.
type Level = HashMap<Vec<u16>, Successors>;

/// A trained 5-gram model.
pub struct Ngram {
    smoothing: Smoothing,
    /// By length of the context, 0 to [`CONTEXT`].
    levels: Vec<Level>,
    discounts: Vec<f64>,
}

impl Ngram {
    /// Counts texts.
    pub fn new<'t>(smoothing: Smoothing, texts: impl Iterator<Item = &'t str>) -> Self {
        let mut levels: Vec<Level> = (0..=CONTEXT).map(|_| Level::new()).collect();
        for text in texts {
            let symbols = symbols(text);
            for at in CONTEXT..symbols.len() {
                // Kneser-Ney's shorter contexts follow from the longest ones below.
                let shortest = if smoothing == Smoothing::KneserNey { CONTEXT } else { 0 };
                for (length, level) in levels.iter_mut().enumerate().skip(shortest) {
                    count(level, &symbols[at - length..at], symbols[at], 1.0);
                }
            }
        }
        if smoothing == Smoothing::KneserNey {
            for length in (0..CONTEXT).rev() {
                let (shorter, longer) = levels.split_at_mut(length + 1);
                for (context, successors) in &longer[0] {
                    successors.counts.keys().for_each(|&symbol| {
                        count(&mut shorter[length], &context[1..], symbol, 1.0)
                    });
                }
            }
        }
        let discounts = levels.iter().map(discount).collect();
        Self { smoothing, levels, discounts }
    }

    /// The bits of a text and its end.
    pub fn bits(&self, text: &str) -> f64 {
        let symbols = symbols(text);
        (CONTEXT..symbols.len())
            .map(|at| -self.probability(&symbols[at - CONTEXT..at], symbols[at]).log2())
            .sum()
    }

    fn probability(&self, context: &[u16], symbol: u16) -> f64 {
        let lower = if context.is_empty() {
            1.0 / SYMBOLS
        } else {
            self.probability(&context[1..], symbol)
        };
        let Some(seen) = self.levels[context.len()].get(context) else { return lower };
        let (found, kinds) =
            (seen.counts.get(&symbol).copied().unwrap_or(0.0), seen.counts.len() as f64);
        match self.smoothing {
            Smoothing::WittenBell => (found + kinds * lower) / (seen.total + kinds),
            Smoothing::KneserNey => {
                let discount = self.discounts[context.len()];
                ((found - discount).max(0.0) + discount * kinds * lower) / seen.total
            }
        }
    }
}

fn symbols(text: &str) -> Vec<u16> {
    [BEGIN; CONTEXT].into_iter().chain(text.bytes().map(u16::from)).chain([END]).collect()
}

fn count(level: &mut Level, context: &[u16], symbol: u16, times: f64) {
    let successors = level.entry(context.to_vec()).or_default();
    successors.total += times;
    *successors.counts.entry(symbol).or_insert(0.0) += times;
}

fn discount(level: &Level) -> f64 {
    let of = |times: f64| {
        level
            .values()
            .flat_map(|seen| seen.counts.values())
            .filter(|&&count| count == times)
            .count() as f64
    };
    let (one, two) = (of(1.0), of(2.0));
    if one > 0.0 { one / (one + 2.0 * two) } else { 0.5 }
}
