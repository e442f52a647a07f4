//! Encoders: texts of tokens in, hidden states, vectors and labels out. What sessions are for
//! decoders.

use core::ffi::{c_char, c_void};

use super::base::{lowrank_base, tell_label};
use super::executor::{Callback, lowrank_executor};
use super::failure::{Outcome, Refusal, call, clear_of, lowrank_code, lowrank_error};
use super::memory::{Region, Span, slice};
use super::object::{self, Held, Kind, hold, place, region, share, size};
use super::session::{
    Chosen, LOWRANK_PRECISION_EXACT, classified, lowrank_choice, lowrank_need, precision_of,
    work_of,
};
use super::set::lowrank_set;
use crate::model::bert::Pooling;
use crate::runtime::{Encoder, EncoderLimits, Need, encoder_need};

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
    /// The longest text, in tokens.
    pub context: usize,
    /// Texts encoded at once.
    pub batch: usize,
    /// Tokens of all those texts together: texts are packed, so memory depends on this.
    pub tokens: usize,
    /// Parts that the work is split into: as many as the executor has threads. Results do not
    /// depend on it.
    pub lanes: usize,
    /// Adapters that one text can have at a time, at most `LOWRANK_MAX_CHOICES`.
    pub max_active: usize,
    /// The sum of their ranks.
    pub max_total_rank: usize,
    /// One of `LOWRANK_PRECISION_EXACT`, `LOWRANK_PRECISION_FAST`.
    pub precision: u32,
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

/// `encoder` borrows `executor`, which lies beside it: so they are only reached one by one.
pub(super) struct EncoderValue {
    encoder: Encoder<'static, 'static>,
    workspace: Span,
    executor: Callback,
}

impl Kind for lowrank_encoder {
    type Value = EncoderValue;
    const MAGIC: u32 = 0x6c65_6e63;
}

/// Limits for one text of `context` tokens: one lane, exact products, up to two adapters of rank 64
/// together.
#[unsafe(no_mangle)]
pub extern "C" fn lowrank_encoder_limits_default(context: usize) -> lowrank_encoder_limits {
    let EncoderLimits { context, batch, tokens, precision: _, lanes, max_active, max_total_rank } =
        EncoderLimits::new(context);
    lowrank_encoder_limits {
        context,
        batch,
        tokens,
        lanes,
        max_active,
        max_total_rank,
        precision: LOWRANK_PRECISION_EXACT,
    }
}

fn limits_of(limits: &lowrank_encoder_limits, argument: u32) -> Result<EncoderLimits, Refusal> {
    let precision = precision_of(limits.precision, argument)?;
    let &lowrank_encoder_limits {
        context, batch, tokens, lanes, max_active, max_total_rank, ..
    } = limits;
    Ok(EncoderLimits { context, batch, tokens, precision, lanes, max_active, max_total_rank })
}

/// Writes the size of the workspace that an encoder over `base` takes under `limits` to `*need`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_encoder_need(
    base: *const lowrank_base,
    limits: *const lowrank_encoder_limits,
    need: *mut lowrank_need,
    error: *mut lowrank_error,
) -> lowrank_code {
    let regions = [region(base, false, 1), Region::reads(limits, 1, 2), Region::writes(need, 1, 3)];
    call(error, 4, &regions, || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        let (value, limits) = unsafe { (share(base, 1)?, limits_of(&*limits, 2)?) };
        regions[2].clear_of(value.archive, false, 1)?;
        let config = value.model.bert()?.config();
        limits.check(config)?;
        let Need { bytes, kv_bytes } = encoder_need(config, &limits);
        // SAFETY: as above.
        unsafe { need.write(lowrank_need { bytes, kv_bytes }) };
        Ok(())
    })
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
    let regions = [
        object::room(memory, memory_bytes, 1),
        region(base, false, 3),
        Region::reads(limits, 1, 4),
        // Its alignment is the crate's to refuse, with the remainder.
        Region::memory(workspace, workspace_bytes, 1, 5),
        Region::reads(executor, 1, 7).optional(),
        Region::writes(encoder, 1, 8),
    ];
    call(error, 9, &regions, || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        unsafe {
            encoder.write(core::ptr::null_mut());
            let (value, limits) = (share(base, 3)?, limits_of(&*limits, 4)?);
            let model = *value.model.bert()?;
            regions[0].clear_of(value.archive, false, 3)?;
            regions[3].clear_of(value.archive, false, 3)?;
            let executor = Callback(executor.as_ref().copied().unwrap_or(lowrank_executor::SERIAL));
            let work = work_of(workspace, workspace_bytes);
            let used = Span {
                start: workspace.addr(),
                bytes: encoder_need(model.config(), &limits).bytes.min(workspace_bytes),
            };
            let object: Outcome<_> = place(memory, memory_bytes, 1, |place: *mut EncoderValue| {
                let own = &raw mut (*place).executor;
                own.write(executor);
                let made = Encoder::new(model, &limits, work, &*own)?;
                (&raw mut (*place).encoder).write(made);
                (&raw mut (*place).workspace).write(used);
                Ok(())
            });
            encoder.write(object?);
        }
        Ok(())
    })
}

/// Runs `body` with the encoder of a call whose arguments do not lie in the encoder's workspace.
unsafe fn with_encoder(
    encoder: *mut lowrank_encoder,
    error: *mut lowrank_error,
    regions: &[Region],
    body: impl FnOnce(&mut Encoder<'static, 'static>, Span) -> Outcome,
) -> Outcome {
    // SAFETY: checked by the caller's `call`.
    let held: Held<'_, lowrank_encoder> = unsafe { hold(encoder, 1) }?;
    let value = held.pointer();
    // SAFETY: an open encoder; `executor` is not touched while `encoder` is borrowed.
    let (encoder, workspace) = unsafe { (&mut (*value).encoder, (*value).workspace) };
    clear_of(error, regions, workspace, 1)?;
    body(encoder, workspace)
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
    let regions =
        [region(encoder, true, 1), region(set, true, 3), Region::reads(choices, count, 4)];
    call(error, 6, &regions, || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        let mut set = unsafe { hold(set, 3) }?;
        let set = set.value();
        clear_of(error, &[regions[2]], set.memory, 3)?;
        // SAFETY: as above.
        unsafe {
            let choices = Chosen::new(choices, count)?;
            with_encoder(encoder, error, &regions[1..], |encoder, workspace| {
                choices.check(set, workspace)?;
                Ok(encoder.select(sequence, &set.set(), choices.as_slice())?)
            })
        }
    })
}

/// Encodes a batch of `texts` texts. Their tokens lie one behind the other in `tokens`, special
/// tokens included (`lowrank_encode_text` puts them around): text i is the next `lengths[i]` of the
/// `count`. `types` has the token type of each (pairs of sentences), or is null: type 0.
/// On an error nothing is encoded.
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
    let types_region = Region::reads(types, count, 3).optional();
    let regions = [
        region(encoder, true, 1),
        Region::reads(tokens, count, 2),
        types_region,
        Region::reads(lengths, texts, 5),
    ];
    call(error, 7, &regions, || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        unsafe {
            with_encoder(encoder, error, &regions[1..], |encoder, _| {
                let types = if types.is_null() { &[] } else { slice(types, count) };
                Ok(encoder.encode_packed(slice(tokens, count), types, slice(lengths, texts))?)
            })
        }
    })
}

/// Points `*values` at `*count` floats in the workspace. They stay until the next call with this
/// encoder.
unsafe fn tell(
    encoder: *mut lowrank_encoder,
    position: u32,
    values: *mut *const f32,
    count: *mut usize,
    error: *mut lowrank_error,
    what: impl FnOnce(&mut Encoder<'static, 'static>) -> Outcome<(*const f32, usize)>,
) -> lowrank_code {
    let regions = [
        region(encoder, true, 1),
        Region::writes(values, 1, position),
        Region::writes(count, 1, position + 1),
    ];
    call(error, position + 2, &regions, || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        unsafe {
            with_encoder(encoder, error, &regions[1..], |encoder, _| {
                let (found, length) = what(encoder)?;
                values.write(found);
                count.write(length);
                Ok(())
            })
        }
    })
}

/// A slice as C sees it.
fn parts(values: &[f32]) -> (*const f32, usize) {
    (values.as_ptr(), values.len())
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
        tell(encoder, 3, vector, count, error, |encoder| Ok(parts(encoder.embedding(sequence)?)))
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
    let pooled = |encoder: &mut Encoder<'static, 'static>| {
        let pooling = match pooling {
            LOWRANK_POOLING_MEAN => Pooling::Mean,
            LOWRANK_POOLING_CLS => Pooling::Cls,
            LOWRANK_POOLING_POOLER => Pooling::Pooler,
            found => return Err(Refusal::UnknownConstant { argument: 3, found }.into()),
        };
        Ok(parts(encoder.pooled(sequence, pooling)?))
    };
    // SAFETY: the caller's promises.
    unsafe { tell(encoder, 4, vector, count, error, pooled) }
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
        tell(encoder, 3, states, count, error, |encoder| Ok(parts(encoder.hidden(sequence)?)))
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
    let chosen = Region::writes(label, 1, 6).optional();
    let regions = [
        region(encoder, true, 1),
        Region::writes(logits, capacity, 3),
        Region::writes(count, 1, 5),
        chosen,
    ];
    call(error, 7, &regions, || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        unsafe {
            with_encoder(encoder, error, &regions[1..], |encoder, _| {
                let need = encoder.classifier(sequence)?.len();
                classified(need, logits, capacity, count, label, |logits| {
                    Ok(encoder.classify(sequence, logits)?)
                })
            })
        }
    })
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
    let regions =
        [region(encoder, true, 1), Region::writes(name, 1, 4), Region::writes(name_bytes, 1, 5)];
    call(error, 6, &regions, || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        unsafe {
            with_encoder(encoder, error, &regions[1..], |encoder, _| {
                tell_label(Some(encoder.classifier(sequence)?), label, name, name_bytes)
            })
        }
    })
}

/// Closes an encoder: its memory and its workspace are free again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_encoder_close(
    encoder: *mut lowrank_encoder,
    error: *mut lowrank_error,
) -> lowrank_code {
    call(error, 2, &[region(encoder, true, 1)], || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        unsafe { hold(encoder, 1) }?.close();
        Ok(())
    })
}

/// The bytes that an encoder object takes, exactly, without its workspace; `LOWRANK_ENCODER_BYTES`
/// is enough on every target.
#[unsafe(no_mangle)]
pub extern "C" fn lowrank_encoder_bytes() -> usize {
    size::<lowrank_encoder>()
}
