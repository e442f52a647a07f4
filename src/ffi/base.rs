//! Bases and adapters: opened where their archives lie.

use core::ffi::{c_char, c_void};

use core::fmt;

use super::failure::{Outcome, call, lowrank_code, lowrank_error};
use super::memory::{Region, Span, slice};
use super::object::{self, Kind, hold, place, region, share, size};
use crate::adapter::{Adapter, Base, Classifier};
use crate::archive::{Fingerprint, Header};
use crate::error::{Error, Result, RootKind};
use crate::model::bert::Bert;
use crate::model::llama::Llama;
use crate::quant::Matrix;

/// An opened base model: a decoder (`lowrank_base_open`) or an encoder (`lowrank_bert_open`).
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

/// The family of a base. Programs that never call an encoder's functions link none of its code:
/// only `lowrank_bert_open` makes one.
#[derive(Clone, Copy)]
pub(super) enum Model {
    Llama(Llama<'static>),
    Bert(Bert<'static>),
}

impl Model {
    /// The decoder, for sessions.
    pub(super) fn llama(&self) -> Result<&Llama<'static>> {
        match self {
            Self::Llama(model) => Ok(model),
            Self::Bert(_) => {
                Err(Error::WrongRoot { found: RootKind::BERT, expected: RootKind::LLAMA })
            }
        }
    }

    /// The encoder, for encoders.
    pub(super) fn bert(&self) -> Result<&Bert<'static>> {
        match self {
            Self::Bert(model) => Ok(model),
            Self::Llama(_) => {
                Err(Error::WrongRoot { found: RootKind::LLAMA, expected: RootKind::BERT })
            }
        }
    }

    fn base(&self) -> &dyn Base {
        match self {
            Self::Llama(model) => model,
            Self::Bert(model) => model,
        }
    }

    fn header(&self) -> &Header {
        match self {
            Self::Llama(model) => model.header(),
            Self::Bert(model) => model.header(),
        }
    }
}

impl Base for Model {
    fn fingerprint(&self) -> Fingerprint {
        self.header().fingerprint
    }

    fn root(&self) -> RootKind {
        self.base().root()
    }

    fn sites(&self) -> u32 {
        self.base().sites()
    }

    fn site(&self, site: u32) -> Option<(usize, usize, bool)> {
        self.base().site(site)
    }

    fn dim(&self) -> usize {
        self.base().dim()
    }

    fn weight_at(&self, site: u32) -> Option<Matrix<'_>> {
        self.base().weight_at(site)
    }

    fn write_path(&self, site: u32, out: &mut dyn fmt::Write) -> fmt::Result {
        self.base().write_path(site, out)
    }

    fn tied(&self) -> Option<(u32, u32)> {
        self.base().tied()
    }
}

pub(super) struct BaseValue {
    pub(super) model: Model,
    /// Where the archive lies.
    pub(super) archive: Span,
}

impl Kind for lowrank_base {
    type Value = BaseValue;
    const MAGIC: u32 = 0x6c62_6173;
}

/// An opened low-rank adapter. Only read, like a base; attaching it copies a few words, so it may
/// be closed after that. Its archive must stay until every set that has it, and every session that
/// chose it, is closed or has another.
#[derive(Debug)]
pub struct lowrank_adapter {
    _opaque: (),
}

/// Memory that is enough for an adapter object on every target.
pub const LOWRANK_ADAPTER_BYTES: usize = 96;
const _: () = assert!(size::<lowrank_adapter>() <= LOWRANK_ADAPTER_BYTES);

pub(super) struct AdapterValue {
    pub(super) adapter: Adapter<'static>,
    pub(super) archive: Span,
}

impl Kind for lowrank_adapter {
    type Value = AdapterValue;
    const MAGIC: u32 = 0x6c61_6461;
}

/// No token, where one could be.
pub const LOWRANK_NO_TOKEN: u32 = u32::MAX;

/// `kind`: a decoder of the Llama family (Llama, Qwen2, Qwen3).
pub const LOWRANK_KIND_LLAMA: u32 = 0x0001_0001;
/// `kind`: an encoder of the BERT family.
pub const LOWRANK_KIND_BERT: u32 = 0x0001_0002;
const _: () =
    assert!(LOWRANK_KIND_LLAMA == RootKind::LLAMA.0 && LOWRANK_KIND_BERT == RootKind::BERT.0);

/// What is known of a base.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lowrank_base_info {
    /// The architecture: `LOWRANK_KIND_LLAMA` or `LOWRANK_KIND_BERT`.
    pub kind: u32,
    /// Tokens in the vocabulary.
    pub vocab: u32,
    /// Width of the hidden states.
    pub dim: u32,
    /// Blocks.
    pub layers: u32,
    /// The longest sequence that the model allows, in tokens.
    pub context: u32,
    /// The longest text that the model's source reads, in tokens with the special ones, at most
    /// the context. Of a decoder the context.
    pub max_length: u32,
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

/// What is known of an adapter.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lowrank_adapter_info {
    /// Layers that it changes.
    pub targets: u32,
    /// The largest rank among them.
    pub max_rank: u32,
    /// Labels of the classifier that it brings; 0 if it brings none.
    pub labels: u32,
    /// The hash of its content.
    pub fingerprint: [u8; 16],
    /// The hash of the base that it was made for.
    pub base: [u8; 16],
    /// The name, UTF-8 in the archive, without a NUL.
    pub name: *const c_char,
    /// Its length.
    pub name_bytes: usize,
}

/// Reads a whole archive, of a base that `lowrank_base_open` takes or of an adapter (an encoder's:
/// `lowrank_bert_verify`): its checksum, and every value that must be finite.
/// Opening does not: it takes microseconds, and a damaged archive that was opened gives wrong
/// numbers or an error, never an access outside its bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_verify(
    archive: *const c_void,
    archive_bytes: usize,
    error: *mut lowrank_error,
) -> lowrank_code {
    call(error, 3, &[Region::reads(archive.cast::<u8>(), archive_bytes, 1)], || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        let bytes = unsafe { slice(archive.cast::<u8>(), archive_bytes) };
        match Header::parse(bytes)?.root {
            RootKind::ADAPTER => Adapter::verify(bytes).map(drop)?,
            _ => Llama::verify(bytes).map(drop)?,
        }
        Ok(())
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
    unsafe {
        open(memory, memory_bytes, archive, archive_bytes, base, error, |bytes| {
            Llama::open(bytes).map(Model::Llama)
        })
    }
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
    unsafe {
        open(memory, memory_bytes, archive, archive_bytes, base, error, |bytes| {
            Bert::open(bytes).map(Model::Bert)
        })
    }
}

/// What opening is, whatever the family.
unsafe fn open(
    memory: *mut c_void,
    memory_bytes: usize,
    archive: *const c_void,
    archive_bytes: usize,
    base: *mut *mut lowrank_base,
    error: *mut lowrank_error,
    family: fn(&'static [u8]) -> Result<Model>,
) -> lowrank_code {
    let bytes = Region::reads(archive.cast::<u8>(), archive_bytes, 3);
    call(
        error,
        6,
        &[object::room(memory, memory_bytes, 1), bytes, Region::writes(base, 1, 5)],
        || {
            // SAFETY: checked by `call`; the caller vouches for the memory, and for the archive's
            // as long as it is used.
            unsafe {
                base.write(core::ptr::null_mut());
                let archive = slice::<u8>(archive.cast(), archive_bytes);
                let model = family(archive)?;
                let object: Outcome<_> = place(memory, memory_bytes, 1, |place: *mut BaseValue| {
                    place.write(BaseValue { model, archive: Span::of(archive) });
                    Ok(())
                });
                base.write(object?);
            }
            Ok(())
        },
    )
}

/// Reads the whole archive of an encoder, as `lowrank_verify` reads that of a decoder.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_bert_verify(
    archive: *const c_void,
    archive_bytes: usize,
    error: *mut lowrank_error,
) -> lowrank_code {
    call(error, 3, &[Region::reads(archive.cast::<u8>(), archive_bytes, 1)], || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        Ok(Bert::verify(unsafe { slice(archive.cast::<u8>(), archive_bytes) }).map(drop)?)
    })
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
        let header = value.model.header();
        let (vocab, layers, context, max_length, bos, leading_bos, name) = match &value.model {
            Model::Llama(model) => {
                let c = model.config();
                (
                    c.vocab,
                    c.layers,
                    c.context,
                    c.context,
                    model.bos(),
                    model.leading_bos(),
                    model.name(),
                )
            }
            Model::Bert(model) => {
                let c = model.config();
                (c.vocab, c.layers, c.context, model.max_length(), None, None, model.name())
            }
        };
        let facts = lowrank_base_info {
            kind: header.root.0,
            vocab: vocab as u32,
            dim: value.model.dim() as u32,
            layers: layers as u32,
            context: context as u32,
            max_length: max_length as u32,
            bos: bos.unwrap_or(LOWRANK_NO_TOKEN),
            leading_bos: leading_bos.unwrap_or(LOWRANK_NO_TOKEN),
            sites: value.model.sites(),
            content_version: header.content_version,
            fingerprint: header.fingerprint.0,
            name: name.as_ptr().cast(),
            name_bytes: name.len(),
        };
        // SAFETY: checked by `call` and the line above.
        unsafe { info.write(facts) };
        Ok(())
    })
}

/// Does `token` end a turn? 1 or 0 in `*stops`; of an encoder always 0.
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
        unsafe { stops.write(value.model.llama().is_ok_and(|model| model.is_stop(token)).into()) };
        Ok(())
    })
}

/// Closes a base. Sets and sessions made from it go on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_base_close(
    base: *mut lowrank_base,
    error: *mut lowrank_error,
) -> lowrank_code {
    call(error, 2, &[region(base, true, 1)], || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        unsafe { hold(base, 1) }?.close();
        Ok(())
    })
}

/// Opens an adapter over an archive, in place, in `memory` of at least `lowrank_adapter_bytes()`
/// bytes; reads its values once.
///
/// The archive starts at a multiple of `LOWRANK_MEMORY_ALIGN` and stays, unchanged, as long as the
/// adapter is used by anything. Whether it fits a base is checked when it is attached. On success
/// `*adapter` is the object, on failure null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_adapter_open(
    memory: *mut c_void,
    memory_bytes: usize,
    archive: *const c_void,
    archive_bytes: usize,
    adapter: *mut *mut lowrank_adapter,
    error: *mut lowrank_error,
) -> lowrank_code {
    let bytes = Region::reads(archive.cast::<u8>(), archive_bytes, 3);
    call(
        error,
        6,
        &[object::room(memory, memory_bytes, 1), bytes, Region::writes(adapter, 1, 5)],
        || {
            // SAFETY: checked by `call`; the caller vouches for the memory, and for the archive's
            // as long as it is used.
            unsafe {
                adapter.write(core::ptr::null_mut());
                let archive = slice::<u8>(archive.cast(), archive_bytes);
                let opened = Adapter::open(archive)?;
                let object: Outcome<_> =
                    place(memory, memory_bytes, 1, |place: *mut AdapterValue| {
                        place.write(AdapterValue { adapter: opened, archive: Span::of(archive) });
                        Ok(())
                    });
                adapter.write(object?);
            }
            Ok(())
        },
    )
}

/// Writes what is known of an adapter to `*info`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_adapter_get_info(
    adapter: *const lowrank_adapter,
    info: *mut lowrank_adapter_info,
    error: *mut lowrank_error,
) -> lowrank_code {
    call(error, 3, &[region(adapter, false, 1), Region::writes(info, 1, 2)], || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        let value = unsafe { share(adapter, 1) }?;
        Region::writes(info, 1, 2).clear_of(value.archive, false, 1)?;
        let (opened, name) = (&value.adapter, value.adapter.name());
        let facts = lowrank_adapter_info {
            targets: opened.targets().len() as u32,
            max_rank: opened.max_rank() as u32,
            labels: opened.classifier().map_or(0, |classifier| classifier.len() as u32),
            fingerprint: opened.fingerprint().0,
            base: opened.base().0,
            name: name.as_ptr().cast(),
            name_bytes: name.len(),
        };
        // SAFETY: checked by `call` and above.
        unsafe { info.write(facts) };
        Ok(())
    })
}

/// Points `*name` at the name of a label (from 0) of an adapter's classifier, `*name_bytes` bytes
/// of UTF-8 without a NUL, in its archive. An adapter with fewer labels, or without a classifier,
/// is `LOWRANK_ERROR_LENGTH`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_adapter_label(
    adapter: *const lowrank_adapter,
    label: u32,
    name: *mut *const c_char,
    name_bytes: *mut usize,
    error: *mut lowrank_error,
) -> lowrank_code {
    let told = [Region::writes(name, 1, 3), Region::writes(name_bytes, 1, 4)];
    call(error, 5, &[region(adapter, false, 1), told[0], told[1]], || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        let value = unsafe { share(adapter, 1) }?;
        told.iter().try_for_each(|region| region.clear_of(value.archive, false, 1))?;
        // SAFETY: as above.
        unsafe { tell_label(value.adapter.classifier(), label, name, name_bytes) }
    })
}

/// The name of a label to where the caller wants it.
pub(super) unsafe fn tell_label(
    classifier: Option<Classifier<'_>>,
    label: u32,
    name: *mut *const c_char,
    name_bytes: *mut usize,
) -> Outcome {
    let have = classifier.map_or(0, |classifier| classifier.len());
    let found = classifier.and_then(|classifier| classifier.labels().nth(label as usize));
    let text = found.ok_or(Error::Length { have, need: (label as usize).saturating_add(1) })?;
    // SAFETY: checked by the caller's `call`.
    unsafe {
        name.write(text.as_ptr().cast());
        name_bytes.write(text.len());
    }
    Ok(())
}

/// Closes an adapter. Where it was attached it stays.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_adapter_close(
    adapter: *mut lowrank_adapter,
    error: *mut lowrank_error,
) -> lowrank_code {
    call(error, 2, &[region(adapter, true, 1)], || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        unsafe { hold(adapter, 1) }?.close();
        Ok(())
    })
}
