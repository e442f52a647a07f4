//! Text in, text out: a prompt and its reply, piece by piece. `std` only.

use core::ffi::{c_char, c_void};

use super::failure::{Outcome, lowrank_code, lowrank_error};
use super::memory::Region;
use super::object::{hold, region, share};
use super::place::Session;
use super::running;
use super::sampler::lowrank_sampler;
use super::session::lowrank_session;
use super::text::{lowrank_text, text_of};
use crate::error::Error;
use crate::runtime::{Lookup, Sampler};
use crate::text::Tokenizer;

/// `ended`: with a token that ends a turn.
pub const LOWRANK_ENDED_STOP: u32 = 0;
/// `ended`: with the most tokens that were asked for.
pub const LOWRANK_ENDED_LENGTH: u32 = 1;
/// `ended`: the sequence has no room for more.
pub const LOWRANK_ENDED_CONTEXT: u32 = 2;
/// `ended`: the program said so.
pub const LOWRANK_ENDED_PROGRAM: u32 = 3;

/// Is given the next piece of a reply, `bytes` bytes of UTF-8 that never end inside a character,
/// without a NUL; returns 0 to go on, anything else to end the reply. `context` is what
/// `lowrank_generate` was given. The session, sampler and text are in use meanwhile.
pub type lowrank_piece =
    Option<unsafe extern "C" fn(context: *mut c_void, piece: *const c_char, bytes: usize) -> u32>;

/// What a reply was.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lowrank_reply {
    /// Tokens of the prompt, the one that begins the sequence included.
    pub prompt_tokens: usize,
    /// Tokens of the reply: they are in the sequence now.
    pub tokens: usize,
    /// One of the `LOWRANK_ENDED_` constants.
    pub ended: u32,
}

/// Appends a prompt (`prompt_bytes` bytes of UTF-8; special tokens in it are parsed, and at the
/// beginning of a sequence the begin-of-sequence token comes first where the model's rule asks for
/// one) to a sequence and generates a reply of at most `most_tokens` tokens, under the adapters
/// that are chosen for it. `piece` is told the text as it comes, with `context`; it may be null.
/// `reply` may be null. For chat models make the prompt with `lowrank_render_chat`. On an error the
/// sequence holds what was appended so far.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_generate(
    session: *mut lowrank_session,
    sequence: usize,
    text: *const lowrank_text,
    sampler: *mut lowrank_sampler,
    prompt: *const c_char,
    prompt_bytes: usize,
    most_tokens: usize,
    piece: lowrank_piece,
    context: *mut c_void,
    reply: *mut lowrank_reply,
    error: *mut lowrank_error,
) -> lowrank_code {
    let regions = [
        region(session, true, 1),
        region(text, false, 3),
        region(sampler, true, 4),
        Region::reads(prompt, prompt_bytes, 5),
        Region::writes(reply, 1, 10).optional(),
    ];
    // SAFETY: the caller's promises.
    unsafe {
        running::call(session, error, 11, &regions, |session, _| {
            let mut sampler = hold(sampler, 4)?;
            let (sampler, tokenizer) = (sampler.value(), &share(text, 3)?.tokenizer);
            let prompt = text_of(prompt, prompt_bytes, 5)?;
            let tell = &mut |text: &str| match piece {
                // SAFETY: the caller's own function, with its own context.
                Some(piece) => piece(context, text.as_ptr().cast(), text.len()) == 0,
                None => true,
            };
            let made = Generation { session, sequence, sampler, tokenizer, most_tokens };
            let found = made.run(prompt, tell)?;
            if !reply.is_null() {
                reply.write(found);
            }
            Ok(())
        })
    }
}

struct Generation<'a> {
    session: &'a mut Session<'static, 'static>,
    sequence: usize,
    sampler: &'a mut Sampler,
    tokenizer: &'a Tokenizer,
    most_tokens: usize,
}

impl Generation<'_> {
    fn run(self, prompt: &str, tell: &mut dyn FnMut(&str) -> bool) -> Outcome<lowrank_reply> {
        let Self { session, sequence, sampler, tokenizer, most_tokens } = self;
        let ids = match session.position(sequence)? {
            0 => tokenizer.encode_prompt(prompt)?,
            _ => tokenizer.encode(prompt, true)?,
        };
        session.prefill(sequence, &ids)?;
        let mut lookup = Lookup::new(session.limits());
        let mut stream = tokenizer.stream();
        let mut reply =
            lowrank_reply { prompt_tokens: ids.len(), tokens: 0, ended: LOWRANK_ENDED_LENGTH };
        while reply.tokens < most_tokens {
            let token = session.sample(sequence, sampler)?;
            if session.model().is_stop(token) {
                reply.ended = LOWRANK_ENDED_STOP;
                break;
            }
            match session.step_by_lookup(sequence, token, &mut lookup) {
                Err(Error::ContextFull { .. }) => {
                    reply.ended = LOWRANK_ENDED_CONTEXT;
                    break;
                }
                done => done?,
            }
            reply.tokens += 1;
            let text = stream.push(token)?;
            if !text.is_empty() && !tell(&text) {
                reply.ended = LOWRANK_ENDED_PROGRAM;
                return Ok(reply);
            }
        }
        let rest = stream.finish();
        if !rest.is_empty() {
            tell(&rest);
        }
        Ok(reply)
    }
}
