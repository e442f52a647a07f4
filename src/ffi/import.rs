//! Adapters of other programs become archives. `std` only.

use core::ffi::{c_char, c_void};

use super::failure::{Outcome, Refusal, call, lowrank_code, lowrank_error};
use super::file::path_of;
use super::memory::{Region, slice};
use super::train::string_of;
use crate::adapter::{AdapterBuilder, Base, FactorFormat};
use crate::archive::Header;
use crate::error::RootKind;
use crate::file::{Kind, Output};
use crate::import::{AdapterOptions, import_gguf_adapter, import_peft};
use crate::model::bert::Bert;
use crate::model::llama::Llama;

/// `factors`: A and B keep the source's type, f32 or f16.
pub const LOWRANK_FACTORS_AS_IS: u32 = 0;
/// `factors`: A and B become f32.
pub const LOWRANK_FACTORS_F32: u32 = 1;
/// `factors`: A and B become f16.
pub const LOWRANK_FACTORS_F16: u32 = 2;
/// `factors`: A and B become 8 bits with one scale per row.
pub const LOWRANK_FACTORS_INT8: u32 = 3;

/// Reads the adapter at `source`, a PEFT directory or a GGUF LoRA file, for the base whose archive
/// is given (Llama or BERT family; GGUF for Llama only), and writes it to the archive `output`,
/// bound to that base. `name` may be null: the folder's or the file's. `factors` is
/// one of `LOWRANK_FACTORS_AS_IS`, `_F32`, `_F16`, `_INT8`. Strings have a NUL at their ends.
/// `output` appears whole or not at all; an existing file that is `source`, or that holds
/// something else than an adapter, is refused before anything is read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_adapter_import(
    source: *const c_char,
    archive: *const c_void,
    archive_bytes: usize,
    output: *const c_char,
    name: *const c_char,
    factors: u32,
    error: *mut lowrank_error,
) -> lowrank_code {
    let none = core::ptr::null();
    let from = Source { source, archive, archive_bytes, output, name, labels: none, factors };
    // SAFETY: the caller's promise.
    unsafe { import(from, 7, error) }
}

/// As `lowrank_adapter_import`, for a PEFT directory with a classifier, whose labels get the names
/// in `labels`: one a line, in the order of the classifier's rows. `labels` may be null: then the
/// names are those that the directory has, else `LABEL_0`, `LABEL_1`, … .
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_adapter_import_labelled(
    source: *const c_char,
    archive: *const c_void,
    archive_bytes: usize,
    output: *const c_char,
    name: *const c_char,
    factors: u32,
    labels: *const c_char,
    error: *mut lowrank_error,
) -> lowrank_code {
    let from = Source { source, archive, archive_bytes, output, name, labels, factors };
    // SAFETY: the caller's promise.
    unsafe { import(from, 8, error) }
}

/// What the two functions above are given.
struct Source {
    source: *const c_char,
    archive: *const c_void,
    archive_bytes: usize,
    output: *const c_char,
    name: *const c_char,
    labels: *const c_char,
    factors: u32,
}

/// # Safety
/// As the functions above; `error` is their argument number `error_argument`.
unsafe fn import(from: Source, error_argument: u32, error: *mut lowrank_error) -> lowrank_code {
    let Source { source, archive, archive_bytes, output, name, labels, factors } = from;
    let regions = [
        Region::reads(source, 1, 1),
        Region::reads(archive.cast::<u8>(), archive_bytes, 2),
        Region::reads(output, 1, 4),
        Region::reads(name, 1, 5).optional(),
        Region::reads(labels, 1, 7).optional(),
    ];
    call(error, error_argument, &regions, || {
        let format = match factors {
            LOWRANK_FACTORS_AS_IS => FactorFormat::AsIs,
            LOWRANK_FACTORS_F32 => FactorFormat::F32,
            LOWRANK_FACTORS_F16 => FactorFormat::F16,
            LOWRANK_FACTORS_INT8 => FactorFormat::Int8,
            found => return Err(Refusal::UnknownConstant { argument: 6, found }.into()),
        };
        // SAFETY: checked by `call`; the caller vouches for the memory.
        unsafe {
            let options = AdapterOptions { name: string_of(name, 5)?.map(str::to_owned), format };
            write(
                path_of(source, 1)?,
                slice(archive.cast(), archive_bytes),
                path_of(output, 4)?,
                &options,
                string_of(labels, 7)?,
            )
        }
    })
}

fn write(
    source: &std::path::Path,
    archive: &[u8],
    output: &std::path::Path,
    options: &AdapterOptions,
    labels: Option<&str>,
) -> Outcome {
    // Before anything is read.
    let output = &Output::new(output, Kind::Adapter, &[source], false)?;
    let named = |builder: &mut AdapterBuilder| match labels {
        Some(labels) => builder.name_labels(labels.lines().map(str::to_owned).collect()),
        None => Ok(()),
    };
    if Header::parse(archive)?.root == RootKind::BERT {
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
