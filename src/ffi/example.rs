//! Training examples that a program has in memory. `std` only.

use core::ffi::c_char;

use super::failure::{Failure, Outcome, Refusal};
use super::file::string_of;
use super::memory::{Region, check, slice};
use crate::train::data::Example;

/// One training example; set the rest to null and 0. What is set says what it is: `text` alone is
/// learnt whole, `text` and `completion` are a prompt and what should follow it, `text` and `label`
/// a text to classify; `tokens` stand for a text as they are, alone or with a `label`; `features`
/// and `label` are a row of numbers to classify. Strings are UTF-8 with a NUL at their ends. All of
/// it is read during the call only.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lowrank_example {
    /// A text, or a prompt.
    pub text: *const c_char,
    /// What should follow the prompt, without what ends it.
    pub completion: *const c_char,
    /// The label, one line.
    pub label: *const c_char,
    /// Token ids, special ones included.
    pub tokens: *const u32,
    /// Their number.
    pub token_count: usize,
    /// Numbers; as many in every row.
    pub features: *const f32,
    /// Their number.
    pub feature_count: usize,
}

/// The examples of a program, which must not lie in `told`. They are in argument 3.
///
/// # Safety
/// The caller of the C function vouches for pointers that are not null, and for NULs at the ends.
pub(super) unsafe fn examples_of(
    examples: *const lowrank_example,
    count: usize,
    told: Region,
) -> Outcome<Vec<Example>> {
    check(&[Region::reads(examples, count, 3), told])?;
    // SAFETY: checked in the line above.
    let found = unsafe { slice(examples, count) }.iter().enumerate();
    // SAFETY: the caller's promise.
    found.map(|(index, example)| unsafe { example_of(index, example, told) }).collect()
}

unsafe fn example_of(index: usize, c: &lowrank_example, told: Region) -> Outcome<Example> {
    for string in [c.text, c.completion, c.label] {
        check(&[Region::reads(string, 1, 3).optional(), told])?;
    }
    check(&[Region::reads(c.tokens, c.token_count, 3), told])?;
    check(&[Region::reads(c.features, c.feature_count, 3), told])?;
    // SAFETY: the caller's promise; checked above.
    let (text, completion, label, tokens, values) = unsafe {
        let string = |string| Ok::<_, Failure>(string_of(string, 3)?.map(str::to_owned));
        let (tokens, values) = (slice(c.tokens, c.token_count), slice(c.features, c.feature_count));
        (string(c.text)?, string(c.completion)?, string(c.label)?, tokens.to_vec(), values.to_vec())
    };
    match (text, completion, label, tokens.is_empty(), values.is_empty()) {
        (Some(text), None, None, true, true) => Ok(Example::Text(text)),
        (Some(prompt), Some(completion), None, true, true) => {
            Ok(Example::Completion { prompt, completion })
        }
        (Some(text), None, Some(label), true, true) => Ok(Example::Labelled { text, label }),
        (None, None, None, false, true) => Ok(Example::Tokens(tokens)),
        (None, None, Some(label), false, true) => Ok(Example::LabelledTokens { tokens, label }),
        (None, None, Some(label), true, false) => Ok(Example::Features { values, label }),
        _ => {
            let sentence = format!(
                "example {} of options->examples is of no kind: set text, text and completion, \
                 text and label, tokens, tokens and label, or features and label",
                index + 1
            );
            Err(Failure::Said(Refusal::Train, sentence))
        }
    }
}
