//! What servers and batches ask of a session: passes over any mix of prompts and steps, sequences
//! that begin like others, and places that become free.

use super::failure::{Outcome, call, clear_of, lowrank_code, lowrank_error};
use super::memory::{Region, check, slice};
use super::object::region;
use super::session::{lowrank_session, with_session};

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
/// each: any mix of prompts, parts of prompts and single steps, in as few passes as their tokens fit
/// into. A sequence gets what it gets alone; sequences with the same adapters are cheapest side by
/// side. On an error nothing has changed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_session_advance(
    session: *mut lowrank_session,
    chunks: *const lowrank_chunk,
    count: usize,
    error: *mut lowrank_error,
) -> lowrank_code {
    let regions = [region(session, true, 1), Region::reads(chunks, count, 2)];
    call(error, 4, &regions, || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        unsafe {
            with_session(session, error, &regions[1..], |session, workspace| {
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
    })
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
    let regions = [region(session, true, 1)];
    call(error, 5, &regions, || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        unsafe {
            with_session(session, error, &regions[1..], |session, _| {
                Ok(session.fork(from, to, length)?)
            })
        }
    })
}

/// Forgets all but the first `length` tokens of a sequence, whose keys and values stay. There are no
/// logits until more tokens come.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_session_rewind(
    session: *mut lowrank_session,
    sequence: usize,
    length: usize,
    error: *mut lowrank_error,
) -> lowrank_code {
    let regions = [region(session, true, 1)];
    call(error, 4, &regions, || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        unsafe {
            with_session(session, error, &regions[1..], |session, _| {
                Ok(session.rewind(sequence, length)?)
            })
        }
    })
}

/// Ends a sequence: forgets its tokens and lets go of its adapters. Its place is free for another.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_session_cancel(
    session: *mut lowrank_session,
    sequence: usize,
    error: *mut lowrank_error,
) -> lowrank_code {
    let regions = [region(session, true, 1)];
    call(error, 3, &regions, || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        unsafe {
            with_session(session, error, &regions[1..], |session, _| Ok(session.cancel(sequence)?))
        }
    })
}
