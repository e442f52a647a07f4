//! What sessions over decoders must have room for, and the words that all limits share.

use core::mem::offset_of;

use super::base::lowrank_base;
use super::failure::{Refusal, call, lowrank_code, lowrank_error};
use super::object::{region, share};
use super::options::{self, Options};
use crate::exec::Executor;
use crate::kernel::Precision;
use crate::runtime::{KvFormat, Limits, MOST_DRAFT};

/// `kv_format`: keys and values take 4 bytes a number.
pub const LOWRANK_KV_F32: u32 = 0;
/// `kv_format`: keys and values take 2 bytes a number.
pub const LOWRANK_KV_F16: u32 = 1;
/// `kv_format`: keys and values take 1 byte a number, and 4 for the scale of each token and head.
pub const LOWRANK_KV_INT8: u32 = 2;
/// `precision`: f32 activations; the same tokens on every target.
pub const LOWRANK_PRECISION_EXACT: u32 = 0;
/// `precision`: activations rounded to 8 bits where the weights allow it; faster.
pub const LOWRANK_PRECISION_FAST: u32 = 1;

/// `device`: the processor that the library runs on.
pub const LOWRANK_DEVICE_CPU: u32 = 0;
/// `device`: an NVIDIA GPU, in libraries that were built with it (`LOWRANK_FEATURE_CUDA`).
pub const LOWRANK_DEVICE_CUDA: u32 = 1;

/// What a session must have room for, and where it runs. Start from `lowrank_limits_default`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lowrank_limits {
    /// The bytes of this struct as the program knows it; `lowrank_limits_default` sets it.
    pub size: usize,
    /// The longest sequence, in tokens.
    pub context: usize,
    /// Sequences side by side.
    pub batch: usize,
    /// Prompt tokens computed at once.
    pub prefill_chunk: usize,
    /// Parts that the work is split into: as many as the executor has threads. Results do not
    /// depend on it.
    pub threads: usize,
    /// Adapters that one sequence can have at a time, at most `LOWRANK_MAX_CHOICES`.
    pub max_active: usize,
    /// The sum of their ranks.
    pub max_total_rank: usize,
    /// One of `LOWRANK_KV_F16`, `LOWRANK_KV_F32`, `LOWRANK_KV_INT8`.
    pub kv_format: u32,
    /// One of `LOWRANK_PRECISION_EXACT`, `LOWRANK_PRECISION_FAST`.
    pub precision: u32,
    /// One of `LOWRANK_DEVICE_CPU`, `LOWRANK_DEVICE_CUDA`. On a card the workspace has the books only;
    /// keys, values and activations are there. All sessions over an archive share its copy on the
    /// card. Precision is exact, keys and values are f16 or f32, `threads` and executor do not matter.
    pub device: u32,
    /// Which card, 0 being the first.
    pub card: u32,
    /// Tokens at most that `lowrank_generate` guesses ahead by prompt lookup, up to
    /// `LOWRANK_MOST_DRAFT`: replies that repeat parts of their prompt come faster. 0, the default,
    /// means none; on a card it is 0.
    pub draft: usize,
}

/// The most that `draft` may be.
pub const LOWRANK_MOST_DRAFT: usize = 32;
const _: () = assert!(LOWRANK_MOST_DRAFT == MOST_DRAFT);

/// The size of a workspace.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lowrank_need {
    /// Bytes, exactly: one less is an error.
    pub bytes: usize,
    /// The part of them that keeps keys and values.
    pub kv_bytes: usize,
}

// SAFETY: begins with its size; numbers without padding.
unsafe impl Options for lowrank_limits {
    /// Without `device` and `card`.
    const FIRST: usize = offset_of!(Self, device);

    fn defaults() -> Self {
        lowrank_limits_default(1)
    }
}

/// Limits for one sequence of `context` tokens: one thread, 32 prompt tokens at once, f16 keys and
/// values, exact products, up to two adapters of rank 64 together.
pub fn lowrank_limits_default(context: usize) -> lowrank_limits {
    of(&Limits::new(context))
}

/// Writes what `lowrank_limits_default` returns to a struct of `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_limits_init(
    limits: *mut lowrank_limits,
    size: usize,
    context: usize,
) {
    // SAFETY: the caller's promises.
    unsafe { options::init(limits, size, lowrank_limits_default(context)) };
}

/// Limits as C has them.
pub(super) fn of(limits: &Limits) -> lowrank_limits {
    let &Limits { context, batch, prefill_chunk, kv_format, precision, .. } = limits;
    lowrank_limits {
        size: size_of::<lowrank_limits>(),
        context,
        batch,
        prefill_chunk,
        threads: limits.threads,
        max_active: limits.max_active,
        max_total_rank: limits.max_total_rank,
        kv_format: match kv_format {
            KvFormat::F32 => LOWRANK_KV_F32,
            KvFormat::F16 => LOWRANK_KV_F16,
            KvFormat::Int8 => LOWRANK_KV_INT8,
        },
        precision: number_of(precision),
        device: LOWRANK_DEVICE_CPU,
        card: 0,
        draft: limits.draft,
    }
}

/// Limits as the crate has them.
pub(super) fn to_limits(c: &lowrank_limits, argument: u32) -> Result<Limits, Refusal> {
    Ok(Limits {
        context: c.context,
        batch: c.batch,
        prefill_chunk: c.prefill_chunk,
        kv_format: match c.kv_format {
            LOWRANK_KV_F32 => KvFormat::F32,
            LOWRANK_KV_F16 => KvFormat::F16,
            LOWRANK_KV_INT8 => KvFormat::Int8,
            found => return Err(Refusal::UnknownConstant { argument, found }),
        },
        precision: precision_of(c.precision, argument)?,
        threads: c.threads,
        max_active: c.max_active,
        max_total_rank: c.max_total_rank,
        draft: c.draft,
    })
}

pub(super) fn precision_of(precision: u32, argument: u32) -> Result<Precision, Refusal> {
    match precision {
        LOWRANK_PRECISION_EXACT => Ok(Precision::Exact),
        LOWRANK_PRECISION_FAST => Ok(Precision::Fast),
        found => Err(Refusal::UnknownConstant { argument, found }),
    }
}

pub(super) fn number_of(precision: Precision) -> u32 {
    match precision {
        Precision::Exact => LOWRANK_PRECISION_EXACT,
        Precision::Fast => LOWRANK_PRECISION_FAST,
    }
}

/// An executor of which only its number of parts is known.
pub(super) struct Parts(pub(super) usize);

// SAFETY: runs every task once, one after the other.
unsafe impl Executor for Parts {
    fn threads(&self) -> usize {
        self.0
    }

    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        (0..tasks).for_each(task);
    }
}

/// Writes to `*limits`, a struct of `size` bytes, what suits a decoder and this machine, as the
/// command line runs it: one sequence of `context` tokens, the precision that is measured to be
/// good for its weights, the work in `threads` parts: as many as the executor has threads
/// (`lowrank_threads_executor` tells them), 1 without one. The rest is as in
/// `lowrank_limits_default`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_limits_for_model(
    base: *const lowrank_base,
    context: usize,
    threads: usize,
    limits: *mut lowrank_limits,
    size: usize,
    error: *mut lowrank_error,
) -> lowrank_code {
    let target = options::target(limits, size, 4);
    call(error, 6, &[region(base, false, 1), target], || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        let value = unsafe { share(base, 1) }?;
        target.clear_of(value.archive, false, 1)?;
        let found = Limits::for_model(value.model.get()?, context, &Parts(threads));
        // SAFETY: as above.
        Ok(unsafe { options::write(limits, size, of(&found), 4) }?)
    })
}
