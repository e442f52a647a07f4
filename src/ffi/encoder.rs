//! Encoders: texts of tokens in, hidden states, vectors and labels out. What sessions are for
//! decoders.

use core::ffi::{c_char, c_void};
use core::mem::offset_of;

use super::base::lowrank_base;
use super::choice::lowrank_choice;
use super::executor::{Callback, lowrank_executor};
use super::failure::{Refusal, call, lowrank_code, lowrank_error};
use super::limits::{LOWRANK_DEVICE_CPU, Parts, lowrank_need, number_of, precision_of};
use super::memory::{Region, slice};
use super::object::{self, Kind, region, share, size};
use super::options::{self, Options};
use super::place::{Encoder, Placed};
use super::running::{self, Classified, Opening, Running, Work, runs};
use super::set::lowrank_set;
use crate::adapter::{AdapterSet, Choice, Classifier};
use crate::model::bert::{Bert, Pooling};
use crate::runtime::{EncoderLimits, Need};

/// `lowrank_encoder_pooled`: the mean of all tokens.
pub const LOWRANK_POOLING_MEAN: u32 = 0;
/// `lowrank_encoder_pooled`: the first token.
pub const LOWRANK_POOLING_CLS: u32 = 1;
/// `lowrank_encoder_pooled`: BERT's pooler over the first token.
pub const LOWRANK_POOLING_POOLER: u32 = 2;

/// What an encoder must have room for. Start from `lowrank_encoder_limits_default`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lowrank_encoder_limits {
    /// The bytes of this struct as the program knows it; `lowrank_encoder_limits_default` sets it.
    pub size: usize,
    /// The longest text, in tokens.
    pub context: usize,
    /// Texts encoded at once.
    pub batch: usize,
    /// Tokens of all those texts together: texts are packed, so memory depends on this.
    pub tokens: usize,
    /// Parts that the work is split into: as many as the executor has threads. Results do not
    /// depend on it.
    pub threads: usize,
    /// Adapters that one text can have at a time, at most `LOWRANK_MAX_CHOICES`.
    pub max_active: usize,
    /// The sum of their ranks.
    pub max_total_rank: usize,
    /// One of `LOWRANK_PRECISION_EXACT`, `LOWRANK_PRECISION_FAST`.
    pub precision: u32,
    /// One of `LOWRANK_DEVICE_CPU`, `LOWRANK_DEVICE_CUDA`, as in `lowrank_limits`.
    pub device: u32,
    /// Which card, 0 being the first.
    pub card: u32,
    /// 0.
    pub reserved: u32,
}

/// Runs an encoder's base over texts, each under its own adapters, in a workspace of the caller.
/// Text i of a batch is sequence i. One thread at a time; a second one gets `LOWRANK_ERROR_BUSY`.
#[derive(Debug)]
pub struct lowrank_encoder {
    _opaque: (),
}

/// Memory that is enough for an encoder object, without its workspace, on every target.
pub const LOWRANK_ENCODER_BYTES: usize = 1024;
const _: () = assert!(size::<lowrank_encoder>() <= LOWRANK_ENCODER_BYTES);

type PlacedLimits = Placed<EncoderLimits>;

runs! {
    lowrank_encoder, 0x6c65_6e63, Encoder, Bert, lowrank_encoder_limits -> PlacedLimits,
    |c, argument| {
        let limits = EncoderLimits {
            context: c.context,
            batch: c.batch,
            tokens: c.tokens,
            precision: precision_of(c.precision, argument)?,
            threads: c.threads,
            max_active: c.max_active,
            max_total_rank: c.max_total_rank,
        };
        Placed::new(limits, c.device, c.card, argument)?
    },
    |config, placed| placed.need(config)?,
    |model, placed, memory, executor| placed.open(model, memory, executor),
    |encoder| encoder.device_error().map(ToString::to_string)
}

// SAFETY: begins with its size; numbers without padding.
unsafe impl Options for lowrank_encoder_limits {
    /// Without `card`; where `device` is, there was a 0.
    const FIRST: usize = offset_of!(Self, card);

    fn defaults() -> Self {
        lowrank_encoder_limits_default(1)
    }
}

/// Limits for one text of `context` tokens: one thread, exact products, up to two adapters of rank 64
/// together.
pub fn lowrank_encoder_limits_default(context: usize) -> lowrank_encoder_limits {
    of(&EncoderLimits::new(context))
}

/// Limits as C has them.
pub(super) fn of(limits: &EncoderLimits) -> lowrank_encoder_limits {
    let &EncoderLimits { context, batch, tokens, precision, threads, max_active, max_total_rank } =
        limits;
    lowrank_encoder_limits {
        size: size_of::<lowrank_encoder_limits>(),
        context,
        batch,
        tokens,
        threads,
        max_active,
        max_total_rank,
        precision: number_of(precision),
        device: LOWRANK_DEVICE_CPU,
        card: 0,
        reserved: 0,
    }
}

/// Writes what `lowrank_encoder_limits_default` returns to a struct of `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_encoder_limits_init(
    limits: *mut lowrank_encoder_limits,
    size: usize,
    context: usize,
) {
    // SAFETY: the caller's promises.
    unsafe { options::init(limits, size, lowrank_encoder_limits_default(context)) };
}

/// Writes to `*limits`, a struct of `size` bytes, what suits an encoder, as the command line
/// embeds: texts as long as the base reads them, 32 of them at once, the work in `threads` parts as
/// in `lowrank_limits_for_model`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_encoder_limits_for_model(
    base: *const lowrank_base,
    threads: usize,
    limits: *mut lowrank_encoder_limits,
    size: usize,
    error: *mut lowrank_error,
) -> lowrank_code {
    let target = options::target(limits, size, 3);
    call(error, 5, &[region(base, false, 1), target], || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        let value = unsafe { share(base, 1) }?;
        target.clear_of(value.archive, false, 1)?;
        let found = EncoderLimits::for_model(value.model.get()?, &Parts(threads));
        // SAFETY: as above.
        Ok(unsafe { options::write(limits, size, of(&found), 3) }?)
    })
}

/// Writes the size of the workspace that an encoder over `base` takes under `limits` to `*need`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_encoder_need(
    base: *const lowrank_base,
    limits: *const lowrank_encoder_limits,
    need: *mut lowrank_need,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe { running::need::<Encoder<'static, 'static>>(base, limits, need, error) }
}

/// Makes an encoder over `base` (of `lowrank_bert_open`) in `memory` of at least
/// `lowrank_encoder_bytes()` bytes, with `workspace` of at least `lowrank_encoder_need` bytes at a
/// multiple of `LOWRANK_MEMORY_ALIGN`; what the two hold does not matter. Both stay, and are not
/// touched, until the encoder is closed. `executor` is copied; it may be null: the calling thread
/// does everything. On success `*encoder` is the object, on failure null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_encoder_open(
    memory: *mut c_void,
    memory_bytes: usize,
    base: *const lowrank_base,
    limits: *const lowrank_encoder_limits,
    workspace: *mut c_void,
    workspace_bytes: usize,
    executor: *const lowrank_executor,
    encoder: *mut *mut lowrank_encoder,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe {
        running::open(Opening {
            memory,
            memory_bytes,
            base,
            limits,
            workspace,
            workspace_bytes,
            executor,
            object: encoder,
            error,
        })
    }
}

/// Chooses the adapters of a sequence for the texts to come: `count` of them, 0 for the base alone.
/// What was encoded is forgotten. The encoder keeps the adapters: later swaps in `set` don't touch
/// it, and the set may be closed. On an error the previous choice stays.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_encoder_select(
    encoder: *mut lowrank_encoder,
    sequence: usize,
    set: *mut lowrank_set,
    choices: *const lowrank_choice,
    count: usize,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe { running::select(encoder, sequence, set, choices, count, error) }
}

/// Encodes a batch of `texts` texts. Their tokens lie one behind the other in `tokens`, special
/// tokens included (`lowrank_tokenize_for_encoder` puts them around): text i is the next
/// `lengths[i]` of the `count`. `types` has the token type of each (pairs of sentences), or is
/// null: type 0. On an error nothing is encoded.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_encoder_encode(
    encoder: *mut lowrank_encoder,
    tokens: *const u32,
    types: *const u32,
    count: usize,
    lengths: *const usize,
    texts: usize,
    error: *mut lowrank_error,
) -> lowrank_code {
    let regions = [
        region(encoder, true, 1),
        Region::reads(tokens, count, 2),
        Region::reads(types, count, 3).optional(),
        Region::reads(lengths, texts, 5),
    ];
    // SAFETY: the caller's promises.
    unsafe {
        running::call(encoder, error, 7, &regions, |encoder, _| {
            let types = if types.is_null() { &[] } else { slice(types, count) };
            Ok(encoder.encode_packed(slice(tokens, count), types, slice(lengths, texts))?)
        })
    }
}

/// Points `*vector` at the embedding of a text, `*count` floats in the workspace: pooled and
/// normalized as the base says. They stay until the next call with this encoder.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_encoder_embedding(
    encoder: *mut lowrank_encoder,
    sequence: usize,
    vector: *mut *const f32,
    count: *mut usize,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe {
        running::tell(encoder, 3, vector, count, error, |encoder| Ok(encoder.embedding(sequence)?))
    }
}

/// Points `*vector` at one vector of a text, not normalized, as `lowrank_encoder_embedding` does;
/// `pooling` is one of `LOWRANK_POOLING_MEAN`, `LOWRANK_POOLING_CLS`, `LOWRANK_POOLING_POOLER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_encoder_pooled(
    encoder: *mut lowrank_encoder,
    sequence: usize,
    pooling: u32,
    vector: *mut *const f32,
    count: *mut usize,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe {
        running::tell(encoder, 4, vector, count, error, |encoder| {
            let pooling = match pooling {
                LOWRANK_POOLING_MEAN => Pooling::Mean,
                LOWRANK_POOLING_CLS => Pooling::Cls,
                LOWRANK_POOLING_POOLER => Pooling::Pooler,
                found => return Err(Refusal::UnknownConstant { argument: 3, found }.into()),
            };
            Ok(encoder.pooled(sequence, pooling)?)
        })
    }
}

/// Points `*states` at the last hidden states of a text, `*count` floats: one row of the base's
/// `dim` for each of its tokens. They stay until the next call with this encoder.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_encoder_hidden(
    encoder: *mut lowrank_encoder,
    sequence: usize,
    states: *mut *const f32,
    count: *mut usize,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe {
        running::tell(encoder, 3, states, count, error, |encoder| Ok(encoder.hidden(sequence)?))
    }
}

/// Classifies a text with the classifier that one of its adapters brings: writes the logit of each
/// label to `logits`, their number to `*count`, and the label with the largest one to `*label`,
/// which may be null. If there are more than `capacity`, nothing is written but the number
/// (`LOWRANK_ERROR_BUFFER_TOO_SMALL`). No adapter with a classifier, or two, is
/// `LOWRANK_ERROR_CLASSIFIERS`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_encoder_classify(
    encoder: *mut lowrank_encoder,
    sequence: usize,
    logits: *mut f32,
    capacity: usize,
    count: *mut usize,
    label: *mut u32,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe {
        let to = Classified { logits, capacity, count, label };
        running::classify(encoder, sequence, to, error, |encoder, logits| {
            encoder.classify(sequence, logits)
        })
    }
}

/// Points `*name` at the name of a label of a sequence's classifier, as `lowrank_adapter_label`
/// does.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_encoder_label(
    encoder: *mut lowrank_encoder,
    sequence: usize,
    label: u32,
    name: *mut *const c_char,
    name_bytes: *mut usize,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe { running::label(encoder, sequence, label, name, name_bytes, error) }
}

/// Closes an encoder: its memory and its workspace are free again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_encoder_close(
    encoder: *mut lowrank_encoder,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe { object::close(encoder, error) }
}

/// The bytes that an encoder object takes, exactly, without its workspace; `LOWRANK_ENCODER_BYTES`
/// is enough on every target.
#[unsafe(no_mangle)]
pub extern "C" fn lowrank_encoder_bytes() -> usize {
    size::<lowrank_encoder>()
}
