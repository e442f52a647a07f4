//! The one gate before the `tokenizers` and `minijinja` crates: both panic, never end or take
//! memory without bound on hostile files, and tokenizers and templates come with files.
//!
//! Nothing else in the crate calls them for what a file says. [`GuardedTokenizer`] checks a
//! tokenizer.json before the library sees it (`check`, `model`, `pattern`, `charsmap`, `json`),
//! bounds what a text can become, and turns a panic that is left into an error (`quiet`).
//! `template` does the same for chat templates.

mod charsmap;
mod check;
mod json;
mod model;
mod pattern;
mod quiet;
mod template;
mod tokenizer;
mod values;

use std::fmt;

pub(super) use template::Job;
pub(crate) use tokenizer::GuardedTokenizer;

/// Why a tokenizer is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The part of tokenizer.json, or empty for all of it.
    pub(crate) key: String,
    pub(crate) reason: String,
}

impl Refusal {
    fn new(key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { key: key.into(), reason: reason.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.reason)
    }
}
