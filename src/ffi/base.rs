//! Bases of every family: opened where their archives lie.

use core::ffi::{c_char, c_void};

use super::adapter::tell_label;
use super::failure::{call, lowrank_code, lowrank_error};
pub(super) use super::family::{Family, Model};
use super::memory::{Region, Span, slice};
use super::object::{self, Kind, region, share, size};
use crate::adapter::Adapter;
use crate::archive::Header;
use crate::error::RootKind;
use crate::model::bert::Bert;
use crate::model::llama::Llama;
use crate::model::lstm::Lstm;
use crate::model::mlp::Mlp;

/// An opened base model: a decoder (`lowrank_base_open`), an encoder (`lowrank_bert_open`), LSTM
/// layers (`lowrank_lstm_open`) or a multilayer perceptron (`lowrank_mlp_open`).
///
/// It is only read: any number of threads may use it at once. Sets and sessions made from it keep
/// what they need of it, so it may be closed before them; the archive must stay until the last of
/// them is closed.
#[derive(Debug)]
pub struct lowrank_base {
    _opaque: (),
}

/// Memory that is enough for a base object on every target.
pub const LOWRANK_BASE_BYTES: usize = 448;
const _: () = assert!(size::<lowrank_base>() <= LOWRANK_BASE_BYTES);

pub(super) struct BaseValue {
    pub(super) model: Model,
    /// Where the archive lies.
    pub(super) archive: Span,
}

impl Kind for lowrank_base {
    type Value = BaseValue;
    const MAGIC: u32 = 0x6c62_6173;
}

/// No token, where one could be.
pub const LOWRANK_NO_TOKEN: u32 = u32::MAX;

/// `kind`: a decoder of the Llama family (Llama, Qwen2, Qwen3).
pub const LOWRANK_KIND_LLAMA: u32 = 0x0001_0001;
/// `kind`: an encoder of the BERT family.
pub const LOWRANK_KIND_BERT: u32 = 0x0001_0002;
/// `kind`: LSTM layers.
pub const LOWRANK_KIND_LSTM: u32 = 0x0001_0003;
/// `kind`: a multilayer perceptron.
pub const LOWRANK_KIND_MLP: u32 = 0x0001_0004;
/// `kind`: an encoder of the BERT family with RoBERTa's parts.
pub const LOWRANK_KIND_ROBERTA: u32 = 0x0001_0005;
/// `kind`: an encoder of the BERT family with DistilBERT's parts.
pub const LOWRANK_KIND_DISTILBERT: u32 = 0x0001_0006;
/// `kind`: an adapter of any base.
pub const LOWRANK_KIND_ADAPTER: u32 = 0x0002_0000;
/// `kind`: the checkpoint of a training run.
pub const LOWRANK_KIND_CHECKPOINT: u32 = 0x0003_0000;
const _: () = assert!(
    LOWRANK_KIND_LLAMA == RootKind::LLAMA.0
        && LOWRANK_KIND_BERT == RootKind::BERT.0
        && LOWRANK_KIND_LSTM == RootKind::LSTM.0
        && LOWRANK_KIND_MLP == RootKind::MLP.0
        && LOWRANK_KIND_ROBERTA == RootKind::ROBERTA.0
        && LOWRANK_KIND_DISTILBERT == RootKind::DISTILBERT.0
        && LOWRANK_KIND_ADAPTER == RootKind::ADAPTER.0
        && LOWRANK_KIND_CHECKPOINT == RootKind::CHECKPOINT.0
);

/// What is known of a base. Numbers that its family does not have are 0.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lowrank_base_info {
    /// The family: `LOWRANK_KIND_LLAMA`, `_BERT`, `_ROBERTA`, `_DISTILBERT`, `_LSTM` or `_MLP`.
    pub kind: u32,
    /// Tokens in the vocabulary.
    pub vocab: u32,
    /// Width of the hidden states: what classifiers of adapters read.
    pub dim: u32,
    /// Blocks, or layers.
    pub layers: u32,
    /// The longest sequence that the model allows, in tokens; 0 for any length.
    pub context: u32,
    /// The longest text that the model's source reads, in tokens with the special ones, at most
    /// the context. Of a decoder the context.
    pub max_length: u32,
    /// Features of a row that a multilayer perceptron reads.
    pub inputs: u32,
    /// Numbers that come out for a token or a row: a decoder's vocabulary, the outputs of an LSTM's
    /// head or of a multilayer perceptron.
    pub outputs: u32,
    /// Label names that the base has for its outputs (`lowrank_base_label`).
    pub labels: u32,
    /// The begin-of-sequence token, or `LOWRANK_NO_TOKEN`.
    pub bos: u32,
    /// The token to put before every prompt, or `LOWRANK_NO_TOKEN`.
    pub leading_bos: u32,
    /// Places that adapters can change.
    pub sites: u32,
    /// Counted upwards by whoever publishes the archive.
    pub content_version: u64,
    /// The hash of the content: what adapters are bound to.
    pub fingerprint: [u8; 16],
    /// The name, UTF-8 in the archive, without a NUL.
    pub name: *const c_char,
    /// Its length.
    pub name_bytes: usize,
}

/// Writes to `*kind` what an archive of `archive_bytes` bytes holds, as its header says: one of the
/// `LOWRANK_KIND_` constants, or a number that this library does not know. It says which function
/// opens it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_archive_kind(
    archive: *const c_void,
    archive_bytes: usize,
    kind: *mut u32,
    error: *mut lowrank_error,
) -> lowrank_code {
    let regions =
        [Region::reads(archive.cast::<u8>(), archive_bytes, 1), Region::writes(kind, 1, 3)];
    call(error, 4, &regions, || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        unsafe { kind.write(Header::parse(slice(archive.cast(), archive_bytes))?.root.0) };
        Ok(())
    })
}

/// Reads a whole archive, of a base that `lowrank_base_open` takes or of an adapter (other
/// families: `lowrank_bert_verify`, `lowrank_lstm_verify`, `lowrank_mlp_verify`): its checksum, and
/// every value that must be finite. Opening does not: it takes microseconds, and a damaged archive
/// that was opened gives wrong numbers or an error, never an access outside its bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_verify(
    archive: *const c_void,
    archive_bytes: usize,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe {
        verify(archive, archive_bytes, error, |bytes| match Header::parse(bytes)?.root {
            RootKind::ADAPTER => Adapter::verify(bytes).map(drop),
            _ => Llama::verify(bytes).map(drop),
        })
    }
}

/// Reads the whole archive of an encoder, as `lowrank_verify` reads that of a decoder.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_bert_verify(
    archive: *const c_void,
    archive_bytes: usize,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe { verify(archive, archive_bytes, error, |bytes| Bert::verify(bytes).map(drop)) }
}

/// Reads the whole archive of LSTM layers, as `lowrank_verify` reads that of a decoder.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_lstm_verify(
    archive: *const c_void,
    archive_bytes: usize,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe { verify(archive, archive_bytes, error, |bytes| Lstm::verify(bytes).map(drop)) }
}

/// Reads the whole archive of a multilayer perceptron, as `lowrank_verify` reads that of a decoder.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_mlp_verify(
    archive: *const c_void,
    archive_bytes: usize,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe { verify(archive, archive_bytes, error, |bytes| Mlp::verify(bytes).map(drop)) }
}

unsafe fn verify(
    archive: *const c_void,
    archive_bytes: usize,
    error: *mut lowrank_error,
    verify: fn(&[u8]) -> crate::Result<()>,
) -> lowrank_code {
    call(error, 3, &[Region::reads(archive.cast::<u8>(), archive_bytes, 1)], || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        Ok(verify(unsafe { slice(archive.cast(), archive_bytes) })?)
    })
}

/// Opens a decoder over an archive of `archive_bytes` bytes, in place, in `memory` of at least
/// `lowrank_base_bytes()` bytes.
///
/// The archive starts at a multiple of `LOWRANK_MEMORY_ALIGN` and stays, unchanged, until the base
/// and all sets and sessions made from it are closed. Its weights are not read. On success `*base`
/// is the object, on failure null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_base_open(
    memory: *mut c_void,
    memory_bytes: usize,
    archive: *const c_void,
    archive_bytes: usize,
    base: *mut *mut lowrank_base,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe { open::<Llama<'static>>((memory, memory_bytes), (archive, archive_bytes), base, error) }
}

/// Opens an encoder of the BERT family, as `lowrank_base_open` opens a decoder. Sets take it like
/// any base; `lowrank_encoder` runs it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_bert_open(
    memory: *mut c_void,
    memory_bytes: usize,
    archive: *const c_void,
    archive_bytes: usize,
    base: *mut *mut lowrank_base,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe { open::<Bert<'static>>((memory, memory_bytes), (archive, archive_bytes), base, error) }
}

/// Opens LSTM layers, as `lowrank_base_open` opens a decoder. `lowrank_recurrent` runs them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_lstm_open(
    memory: *mut c_void,
    memory_bytes: usize,
    archive: *const c_void,
    archive_bytes: usize,
    base: *mut *mut lowrank_base,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe { open::<Lstm<'static>>((memory, memory_bytes), (archive, archive_bytes), base, error) }
}

/// Opens a multilayer perceptron, as `lowrank_base_open` opens a decoder. `lowrank_predictor` runs
/// it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_mlp_open(
    memory: *mut c_void,
    memory_bytes: usize,
    archive: *const c_void,
    archive_bytes: usize,
    base: *mut *mut lowrank_base,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe { open::<Mlp<'static>>((memory, memory_bytes), (archive, archive_bytes), base, error) }
}

/// What opening is, whatever the family.
unsafe fn open<F: Family>(
    memory: (*mut c_void, usize),
    (archive, archive_bytes): (*const c_void, usize),
    base: *mut *mut lowrank_base,
    error: *mut lowrank_error,
) -> lowrank_code {
    let from = Region::reads(archive.cast::<u8>(), archive_bytes, 3);
    // SAFETY: the caller's promises, also for the archive as long as it is used.
    unsafe {
        object::open(memory, from, base, 5, error, |_| {
            let archive = slice::<u8>(archive.cast(), archive_bytes);
            Ok(BaseValue { model: Model::open::<F>(archive)?, archive: Span::of(archive) })
        })
    }
}

/// Writes what is known of a base to `*info`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_base_get_info(
    base: *const lowrank_base,
    info: *mut lowrank_base_info,
    error: *mut lowrank_error,
) -> lowrank_code {
    call(error, 3, &[region(base, false, 1), Region::writes(info, 1, 2)], || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        let value = unsafe { share(base, 1) }?;
        Region::writes(info, 1, 2).clear_of(value.archive, false, 1)?;
        let (header, facts) = (value.model.header(), value.model.facts());
        let info_of = lowrank_base_info {
            kind: header.root.0,
            vocab: facts.vocab as u32,
            dim: value.model.base().dim() as u32,
            layers: facts.layers as u32,
            context: facts.context as u32,
            max_length: facts.max_length as u32,
            inputs: facts.inputs as u32,
            outputs: facts.outputs as u32,
            labels: value.model.labels().count() as u32,
            bos: facts.bos.unwrap_or(LOWRANK_NO_TOKEN),
            leading_bos: facts.leading_bos.unwrap_or(LOWRANK_NO_TOKEN),
            sites: value.model.base().sites(),
            content_version: header.content_version,
            fingerprint: header.fingerprint.0,
            name: facts.name.as_ptr().cast(),
            name_bytes: facts.name.len(),
        };
        // SAFETY: checked by `call` and the line above.
        unsafe { info.write(info_of) };
        Ok(())
    })
}

/// Points `*name` at the name that a base has for one of its outputs (from 0), `*name_bytes` bytes
/// of UTF-8 without a NUL, in its archive. A base with fewer names is `LOWRANK_ERROR_LENGTH`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_base_label(
    base: *const lowrank_base,
    label: u32,
    name: *mut *const c_char,
    name_bytes: *mut usize,
    error: *mut lowrank_error,
) -> lowrank_code {
    let told = [Region::writes(name, 1, 3), Region::writes(name_bytes, 1, 4)];
    call(error, 5, &[region(base, false, 1), told[0], told[1]], || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        let value = unsafe { share(base, 1) }?;
        told.iter().try_for_each(|region| region.clear_of(value.archive, false, 1))?;
        // SAFETY: as above.
        unsafe { tell_label(value.model.labels(), label, name, name_bytes) }
    })
}

/// Does `token` end a turn? 1 or 0 in `*stops`; of a base that generates nothing always 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_base_is_stop(
    base: *const lowrank_base,
    token: u32,
    stops: *mut u32,
    error: *mut lowrank_error,
) -> lowrank_code {
    call(error, 4, &[region(base, false, 1), Region::writes(stops, 1, 3)], || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        let value = unsafe { share(base, 1) }?;
        Region::writes(stops, 1, 3).clear_of(value.archive, false, 1)?;
        // SAFETY: as above.
        unsafe { stops.write(value.model.is_stop(token).into()) };
        Ok(())
    })
}

/// Closes a base. Sets and sessions made from it go on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_base_close(
    base: *mut lowrank_base,
    error: *mut lowrank_error,
) -> lowrank_code {
    // SAFETY: the caller's promises.
    unsafe { object::close(base, error) }
}

/// The bytes that a base object takes, exactly; `LOWRANK_BASE_BYTES` is enough on every target.
#[unsafe(no_mangle)]
pub extern "C" fn lowrank_base_bytes() -> usize {
    size::<lowrank_base>()
}
