//! Models and adapters of other programs become archives. `std` only.

use core::ffi::{c_char, c_void};
use std::path::Path;

use super::failure::{Outcome, Refusal, call, lowrank_code, lowrank_error};
use super::file::{path_of, string_of};
use super::memory::{Region, slice};
use super::options::{self, Options};
use crate::adapter::{AdapterBuilder, Base, FactorFormat};
use crate::archive::Header;
use crate::error::RootKind;
use crate::file::{Kind, Output};
use crate::import::{
    AdapterOptions, BaseOptions, Gguf, HuggingFace, HuggingFaceBert, PyTorch, directory_kind,
    import_gguf_adapter, import_peft, write_base, write_bert, write_pytorch,
};
use crate::model::bert::Bert;
use crate::model::llama::Llama;
use crate::quant::{BLOCK, BlockScale, Format};

/// `factors`: A and B keep the source's type, f32 or f16.
pub const LOWRANK_FACTORS_AS_IS: u32 = 0;
/// `factors`: A and B become f32.
pub const LOWRANK_FACTORS_F32: u32 = 1;
/// `factors`: A and B become f16.
pub const LOWRANK_FACTORS_F16: u32 = 2;
/// `factors`: A and B become 8 bits with one scale per row.
pub const LOWRANK_FACTORS_INT8: u32 = 3;

/// How an adapter is imported. Start from `lowrank_adapter_import_options_default`. Strings have a
/// NUL at their ends.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lowrank_adapter_import_options {
    /// The bytes of this struct as the program knows it;
    /// `lowrank_adapter_import_options_default` sets it.
    pub size: usize,
    /// The adapter's name, or null: the folder's or the file's.
    pub name: *const c_char,
    /// Names for the labels of a PEFT directory's classifier: one a line, in the order of its rows.
    /// Null: the names that the directory has, else `LABEL_0`, `LABEL_1`, … .
    pub labels: *const c_char,
    /// One of `LOWRANK_FACTORS_AS_IS`, `_F32`, `_F16`, `_INT8`.
    pub factors: u32,
    /// 0.
    pub reserved: u32,
}

// SAFETY: begins with its size; numbers and pointers without padding.
unsafe impl Options for lowrank_adapter_import_options {
    const FIRST: usize = size_of::<Self>();

    fn defaults() -> Self {
        lowrank_adapter_import_options_default()
    }
}

/// The source's own names and types.
pub fn lowrank_adapter_import_options_default() -> lowrank_adapter_import_options {
    lowrank_adapter_import_options {
        size: size_of::<lowrank_adapter_import_options>(),
        name: core::ptr::null(),
        labels: core::ptr::null(),
        factors: LOWRANK_FACTORS_AS_IS,
        reserved: 0,
    }
}

/// Writes what `lowrank_adapter_import_options_default` returns to a struct of `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_adapter_import_options_init(
    options: *mut lowrank_adapter_import_options,
    size: usize,
) {
    // SAFETY: the caller's promises.
    unsafe { options::init(options, size, lowrank_adapter_import_options_default()) };
}

/// Reads the adapter at `source`, a PEFT directory or a GGUF LoRA file, for the base whose archive
/// is given (Llama or BERT family; GGUF for Llama only), and writes it to the archive `output`,
/// bound to that base. `options` may be null: the defaults. `output` appears whole or not at all;
/// an existing file that is `source`, or that holds something else than an adapter, is refused
/// before anything is read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_adapter_import(
    source: *const c_char,
    archive: *const c_void,
    archive_bytes: usize,
    output: *const c_char,
    options: *const lowrank_adapter_import_options,
    error: *mut lowrank_error,
) -> lowrank_code {
    let regions = [
        Region::reads(source, 1, 1),
        Region::reads(archive.cast::<u8>(), archive_bytes, 2),
        Region::reads(output, 1, 4),
        options::region(options, 5).optional(),
    ];
    call(error, 6, &regions, || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        unsafe {
            let options = match options.is_null() {
                true => lowrank_adapter_import_options_default(),
                false => options::read(options, 5)?,
            };
            let formats =
                [FactorFormat::AsIs, FactorFormat::F32, FactorFormat::F16, FactorFormat::Int8];
            let found = options.factors;
            let unknown = Refusal::UnknownConstant { argument: 5, found };
            let format = *formats.get(found as usize).ok_or(unknown)?;
            let name = string_of(options.name, 5)?.map(str::to_owned);
            write(
                path_of(source, 1)?,
                slice(archive.cast(), archive_bytes),
                path_of(output, 4)?,
                &AdapterOptions { name, format },
                string_of(options.labels, 5)?,
            )
        }
    })
}

fn write(
    source: &Path,
    archive: &[u8],
    output: &Path,
    options: &AdapterOptions,
    labels: Option<&str>,
) -> Outcome {
    // Before anything is read.
    let output = &Output::new(output, Kind::Adapter, &[source], false)?;
    let named = |builder: &mut AdapterBuilder| match labels {
        Some(labels) => builder.name_labels(labels.lines().map(str::to_owned).collect()),
        None => Ok(()),
    };
    if Header::parse(archive)?.root.is_encoder() {
        let base = Bert::open(archive)?;
        let mut builder = import_peft(source, &base as &dyn Base, options)?;
        named(&mut builder)?;
        builder.write(&base, output)?;
        return Ok(());
    }
    let base = Llama::open(archive)?;
    let mut builder = match source.is_dir() {
        true => import_peft(source, &base, options)?,
        false => import_gguf_adapter(source, &base, options)?,
    };
    named(&mut builder)?;
    builder.write(&base, output)?;
    Ok(())
}

/// `weights`, `embedding`: nf4 and 8 bits, but what a bitsandbytes checkpoint left in float stays
/// so.
pub const LOWRANK_FORMAT_DEFAULT: u32 = 0;
/// `weights`, `embedding`: 4-bit NormalFloat with double quantization.
pub const LOWRANK_FORMAT_NF4: u32 = 1;
/// `weights`, `embedding`: 8 bits.
pub const LOWRANK_FORMAT_INT8: u32 = 2;
/// `weights`, `embedding`: 16 bits.
pub const LOWRANK_FORMAT_F16: u32 = 3;
/// `weights`, `embedding`: 32 bits.
pub const LOWRANK_FORMAT_F32: u32 = 4;

/// How a base is imported. Start from `lowrank_import_options_default`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lowrank_import_options {
    /// The bytes of this struct as the program knows it; `lowrank_import_options_default` sets it.
    pub size: usize,
    /// Weights per block of nf4 and int8: a power of two from 32 to 4096.
    pub block: usize,
    /// What is written into the header: counted upwards by whoever publishes the archive.
    pub content_version: u64,
    /// The format of the linear layers, one of the `LOWRANK_FORMAT_` constants.
    pub weights: u32,
    /// The format of the embedding of tokens and the output head, one of them.
    pub embedding: u32,
    /// Not 0: read no tokenizer.
    pub without_tokenizer: u32,
    /// Not 0: the scales of nf4 blocks are chosen by the error they leave, not by the largest
    /// weight (`lowrank import --fit`).
    pub fit: u32,
}

// SAFETY: begins with its size; numbers without padding.
unsafe impl Options for lowrank_import_options {
    const FIRST: usize = size_of::<Self>();

    fn defaults() -> Self {
        lowrank_import_options_default()
    }
}

/// The options of `lowrank import`: nf4, the embedding in 8 bits, with the tokenizer.
pub fn lowrank_import_options_default() -> lowrank_import_options {
    lowrank_import_options {
        size: size_of::<lowrank_import_options>(),
        block: BLOCK,
        content_version: 1,
        weights: LOWRANK_FORMAT_DEFAULT,
        embedding: LOWRANK_FORMAT_DEFAULT,
        without_tokenizer: 0,
        fit: 0,
    }
}

/// Writes what `lowrank_import_options_default` returns to a struct of `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_import_options_init(
    options: *mut lowrank_import_options,
    size: usize,
) {
    // SAFETY: the caller's promises.
    unsafe { options::init(options, size, lowrank_import_options_default()) };
}

/// Reads the model at `source`, a GGUF file or a folder of Hugging Face or PyTorch (decoders,
/// encoders, LSTM and multilayer perceptrons), and writes it to the archive `output`, as `lowrank
/// import` does. `options` may be null: the defaults. Strings have a NUL at their ends. Can take
/// minutes; `output` appears whole or not at all, and an existing file that is `source`, or that
/// holds something else than a base, is refused before anything is read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_base_import(
    source: *const c_char,
    output: *const c_char,
    options: *const lowrank_import_options,
    error: *mut lowrank_error,
) -> lowrank_code {
    let from = options::region(options, 3).optional();
    call(error, 4, &[Region::reads(source, 1, 1), Region::reads(output, 1, 2), from], || {
        // SAFETY: checked by `call`; the caller vouches for the memory.
        let (source, output, c) = unsafe {
            let options = match options.is_null() {
                true => lowrank_import_options_default(),
                false => options::read(options, 3)?,
            };
            (path_of(source, 1)?, path_of(output, 2)?, options)
        };
        let usual = BaseOptions::default();
        let options = BaseOptions {
            weights: format_of(c.weights, usual.weights)?,
            embedding: format_of(c.embedding, usual.embedding)?,
            block: c.block,
            scale: if c.fit != 0 { BlockScale::Fitted } else { BlockScale::Absmax },
            keep_skipped_weights: c.weights == LOWRANK_FORMAT_DEFAULT,
            keep_skipped_embedding: c.embedding == LOWRANK_FORMAT_DEFAULT,
            allow_missing_tokenizer: c.without_tokenizer != 0,
            without_tokenizer: c.without_tokenizer != 0,
            content_version: c.content_version,
        };
        import(source, &Output::new(output, Kind::Base, &[source], false)?, &options)
    })
}

/// The format behind a constant.
fn format_of(found: u32, usual: Format) -> Outcome<Format> {
    let formats = [usual, Format::Nf4, Format::Int8, Format::F16, Format::F32];
    let format = formats.get(found as usize).copied();
    format.ok_or_else(|| Refusal::UnknownConstant { argument: 3, found }.into())
}

/// Imports whatever `source` is.
fn import(source: &Path, output: &Output, options: &BaseOptions) -> Outcome {
    let show = &mut |_: crate::import::Progress<'_>| ();
    if !source.is_dir() {
        write_base(&Gguf::open(source)?, options, output, show)?;
        return Ok(());
    }
    match directory_kind(source)? {
        kind if kind.is_encoder() => {
            write_bert(&HuggingFaceBert::open(source)?, options, output, show)?
        }
        RootKind::LSTM | RootKind::MLP => {
            write_pytorch(&PyTorch::open(source)?, options, output, show)?
        }
        _ => write_base(&HuggingFace::open(source)?, options, output, show)?,
    };
    Ok(())
}
