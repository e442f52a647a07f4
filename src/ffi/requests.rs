//! What servers and batches ask of a session: passes over any mix of prompts and steps, sequences
//! that begin like others, places that become free; and how probable a text is.

use super::failure::{Outcome, clear_of, lowrank_code, lowrank_error};
use super::memory::{Region, check, slice};
use super::object::region;
use super::running;
use super::session::lowrank_session;
use crate::tensor::math;

/// The tokens by which one sequence goes on.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lowrank_chunk {
    /// The sequence that they continue.
    pub sequence: usize,
    /// Its next tokens.
    pub tokens: *const u32,
    /// How many; at least one.
    pub count: usize,
}

/// Appends tokens to `count` different sequences and computes the logits after the last one of
/// each: any mix of prompts, parts of prompts and single steps, in as few passes as their tokens
/// fit into. A sequence gets what it gets alone; sequences with the same adapters are cheapest side
/// by side. On an error nothing has changed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_session_advance(
    session: *mut lowrank_session,
    chunks: *const lowrank_chunk,
    count: usize,
    error: *mut lowrank_error,
) -> lowrank_code {
    let regions = [region(session, true, 1), Region::reads(chunks, count, 2)];
    // SAFETY: the caller's promises.
    unsafe {
        running::call(session, error, 4, &regions, |session, workspace| {
            let chunks = slice(chunks, count);
            chunks.iter().try_for_each(|chunk| -> Outcome {
                let tokens = [Region::reads(chunk.tokens, chunk.count, 2)];
                check(&tokens)?;
                clear_of(error, &tokens, workspace, 1)
            })?;
            // Every chunk's pointer and count were checked in the lines above.
            let entry = |i: usize| {
                let chunk: &lowrank_chunk = &chunks[i];
                (chunk.sequence, slice(chunk.tokens, chunk.count))
            };
            Ok(session.advance_by(count, &entry)?)
        })
    }
}

/// Makes sequence `to` begin with the first `length` tokens of `from`, under the same adapters:
/// their keys and values are copied, so that a prompt that several requests share is computed once.
/// What `to` held is forgotten. There are no logits until more tokens come. On an error nothing has
/// changed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_session_fork(
    session: *mut lowrank_session,
    from: usize,
    to: usize,
    length: usize,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe { running::change(session, error, 5, |session| session.fork(from, to, length)) }
}

/// Forgets all but the first `length` tokens of a sequence, whose keys and values stay. There are
/// no logits until more tokens come.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_session_rewind(
    session: *mut lowrank_session,
    sequence: usize,
    length: usize,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe { running::change(session, error, 4, |session| session.rewind(sequence, length)) }
}

/// Ends a sequence: forgets its tokens and lets go of its adapters. Its place is free for another.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_session_cancel(
    session: *mut lowrank_session,
    sequence: usize,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe { running::change(session, error, 3, |session| session.cancel(sequence)) }
}

/// Appends `count` tokens to a sequence, as `lowrank_session_prefill` does, and writes to
/// `log_probabilities`, which has room for `count`, the natural logarithm of the probability of
/// each of them behind those before it. That of the first is a NaN where the sequence had no logits
/// before. The logits of other sequences are lost. On an error of the arguments nothing has
/// changed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_session_score(
    session: *mut lowrank_session,
    sequence: usize,
    tokens: *const u32,
    count: usize,
    log_probabilities: *mut f32,
    error: *mut lowrank_error,
) -> lowrank_code {
    let regions = [
        region(session, true, 1),
        Region::reads(tokens, count, 3),
        Region::writes(log_probabilities, count, 5),
    ];
    // SAFETY: the caller's promises.
    unsafe {
        running::call(session, error, 6, &regions, |session, _| {
            let tokens = slice(tokens, count);
            let tell = |index: usize, logits: &[f32]| {
                if let Some(&token) = tokens.get(index) {
                    // SAFETY: room for as many as there are tokens.
                    log_probabilities.add(index).write(log_probability(logits, token));
                }
            };
            // A token that is none is refused by `score`, which says more.
            let first = session.logits(sequence).map_or(f32::NAN, |logits| {
                tokens.first().map_or(f32::NAN, |&token| log_probability(logits, token))
            });
            session.score(sequence, tokens, |index, logits| tell(index + 1, logits))?;
            log_probabilities.write(first);
            Ok(())
        })
    }
}

/// log softmax(logits)[token]
fn log_probability(logits: &[f32], token: u32) -> f32 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from(math::exp(logit - largest))).sum();
    logits.get(token as usize).map_or(f32::NAN, |logit| logit - largest - math::ln(sum as f32))
}
