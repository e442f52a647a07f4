//! Samplers: how the next token is chosen, with a random sequence of their own.

use core::ffi::c_void;

use super::failure::{Refusal, call, lowrank_code, lowrank_error};
use super::memory::{Region, slice};
use super::object::{self, Kind, hold, region, size};
use super::options::{self, Options};
use crate::runtime::{Candidate, Sampler, SamplerOptions};

/// How tokens are chosen. Start from `lowrank_sampling_default`, which takes the largest logit.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lowrank_sampling {
    /// The bytes of this struct as the program knows it; `lowrank_sampling_default` sets it.
    pub size: usize,
    /// Divides the logits; 0 always takes the largest.
    pub temperature: f32,
    /// Only the most probable tokens that reach this probability together, above 0 to 1; 1 means
    /// all.
    pub top_p: f32,
    /// Logits of tokens already in the sequence are divided (if positive) or multiplied by it,
    /// above 0; 1 means none.
    pub repetition_penalty: f32,
    /// Only the k largest logits; 0 means all.
    pub top_k: u32,
    /// The same seed draws the same tokens.
    pub seed: u64,
    /// Only tokens that are at least this share as probable as the most probable one, from 0 to 1;
    /// 0 means all.
    pub min_p: f32,
    /// 0.
    pub reserved: u32,
}

// SAFETY: begins with its size; numbers without padding.
unsafe impl Options for lowrank_sampling {
    const FIRST: usize = size_of::<Self>();

    fn defaults() -> Self {
        lowrank_sampling_default()
    }
}

/// Takes the largest logit: temperature 0, everything else switched off.
pub fn lowrank_sampling_default() -> lowrank_sampling {
    let SamplerOptions { temperature, top_k, top_p, min_p, repetition_penalty, seed } =
        SamplerOptions::default();
    lowrank_sampling {
        size: size_of::<lowrank_sampling>(),
        temperature,
        top_p,
        repetition_penalty,
        top_k: top_k as u32,
        seed,
        min_p,
        reserved: 0,
    }
}

/// Writes what `lowrank_sampling_default` returns to a struct of `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_sampling_init(sampling: *mut lowrank_sampling, size: usize) {
    // SAFETY: the caller's promises.
    unsafe { options::init(sampling, size, lowrank_sampling_default()) };
}

/// Chooses tokens. One thread at a time; any number of sessions.
#[derive(Debug)]
pub struct lowrank_sampler {
    _opaque: (),
}

/// Memory that is enough for a sampler object on every target.
pub const LOWRANK_SAMPLER_BYTES: usize = 96;
const _: () = assert!(size::<lowrank_sampler>() <= LOWRANK_SAMPLER_BYTES);

impl Kind for lowrank_sampler {
    type Value = Sampler;
    const MAGIC: u32 = 0x6c73_6d70;
}

/// Makes a sampler in `memory` of at least `lowrank_sampler_bytes()` bytes. `sampling` may be null:
/// the largest logit. On success `*sampler` is the object, on failure null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_sampler_open(
    memory: *mut c_void,
    memory_bytes: usize,
    sampling: *const lowrank_sampling,
    sampler: *mut *mut lowrank_sampler,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe {
        let from = options::region(sampling, 3).optional();
        object::open((memory, memory_bytes), from, sampler, 4, error, |_| {
            let found = match sampling.is_null() {
                true => lowrank_sampling_default(),
                false => options::read(sampling, 3)?,
            };
            Ok(Sampler::new(SamplerOptions {
                temperature: found.temperature,
                top_k: found.top_k as usize,
                top_p: found.top_p,
                min_p: found.min_p,
                repetition_penalty: found.repetition_penalty,
                seed: found.seed,
            })?)
        })
    }
}

/// The bytes of `scratch` that `lowrank_sampler_sample` takes for each logit.
pub const LOWRANK_SCRATCH_BYTES: usize = 8;
const _: () = assert!(size_of::<Candidate>() == LOWRANK_SCRATCH_BYTES);

/// Chooses a token from `count` logits that the program has made, as a copy of a session's that it
/// changed, and writes it to `*token`. `history` are the `history_count` tokens that the repetition
/// penalty counts. `scratch` has `LOWRANK_SCRATCH_BYTES` bytes for each logit, at a multiple of 4;
/// what it holds does not matter.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_sampler_sample(
    sampler: *mut lowrank_sampler,
    logits: *const f32,
    count: usize,
    history: *const u32,
    history_count: usize,
    scratch: *mut c_void,
    scratch_bytes: usize,
    token: *mut u32,
    error: *mut lowrank_error,
) -> lowrank_code {
    let regions = [
        region(sampler, true, 1),
        Region::reads(logits, count, 2),
        Region::reads(history, history_count, 4),
        Region::memory(scratch, scratch_bytes, align_of::<Candidate>(), 6),
        Region::writes(token, 1, 8),
    ];
    call(error, 9, &regions, || {
        let need = count.saturating_mul(LOWRANK_SCRATCH_BYTES);
        if scratch_bytes < need {
            return Err(Refusal::BufferTooSmall { have: scratch_bytes, need }.into());
        }
        // SAFETY: checked by `call` and above; the caller vouches for the memory.
        unsafe {
            let mut held = hold(sampler, 1)?;
            let first = scratch.cast::<Candidate>();
            (0..count).for_each(|i| first.add(i).write(Candidate::NONE));
            let scratch = match count {
                0 => &mut [],
                _ => core::slice::from_raw_parts_mut(first, count),
            };
            let history = slice(history, history_count);
            token.write(held.value().sample(slice(logits, count), history, scratch)?);
        }
        Ok(())
    })
}

/// Closes a sampler.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_sampler_close(
    sampler: *mut lowrank_sampler,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe { object::close(sampler, error) }
}

/// The bytes that a sampler object takes, exactly; `LOWRANK_SAMPLER_BYTES` is enough on every
/// target.
#[unsafe(no_mangle)]
pub extern "C" fn lowrank_sampler_bytes() -> usize {
    size::<lowrank_sampler>()
}
