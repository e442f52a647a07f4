//! Samplers: how the next token is chosen, with a random sequence of their own.

use core::ffi::c_void;

use super::failure::{Outcome, call, lowrank_code, lowrank_error};
use super::memory::Region;
use super::object::{self, Kind, hold, place, region, size};
use crate::runtime::{Sampler, SamplerOptions};

/// How tokens are chosen. All zero but `top_p` and `repetition_penalty`, which are 1, takes the
/// largest logit.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lowrank_sampling {
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
    let options = Region::reads(sampling, 1, 3).optional();
    call(
        error,
        5,
        &[object::room(memory, memory_bytes, 1), options, Region::writes(sampler, 1, 4)],
        || {
            // SAFETY: checked by `call`; the caller vouches for the memory.
            unsafe {
                sampler.write(core::ptr::null_mut());
                let options = sampling.as_ref().map_or_else(SamplerOptions::default, |sampling| {
                    SamplerOptions {
                        temperature: sampling.temperature,
                        top_k: sampling.top_k as usize,
                        top_p: sampling.top_p,
                        min_p: sampling.min_p,
                        repetition_penalty: sampling.repetition_penalty,
                        seed: sampling.seed,
                    }
                });
                let made = Sampler::new(options)?;
                let object: Outcome<_> = place(memory, memory_bytes, 1, |place: *mut Sampler| {
                    place.write(made);
                    Ok(())
                });
                sampler.write(object?);
            }
            Ok(())
        },
    )
}

/// Closes a sampler.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_sampler_close(
    sampler: *mut lowrank_sampler,
    error: *mut lowrank_error,
) -> lowrank_code {
    call(error, 2, &[region(sampler, true, 1)], || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        unsafe { hold(sampler, 1) }?.close();
        Ok(())
    })
}
