//! `lowrank logits`: the logits after each of given tokens, for comparing with other implementations.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use lowrank::file::{FileError, write_whole};
use lowrank::runtime::{KvFormat, Limits};

use crate::Failure;
use crate::model::{AdapterOptions, ModelOptions, open_adapters, with_session};

/// Keys and values are kept in f32.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    adapters: AdapterOptions,
    /// Token ids, separated by commas
    #[arg(long, value_delimiter = ',', required = true, value_name = "1,2,3")]
    tokens: Vec<u32>,
    /// The .npy file to write: [tokens, vocab] f32
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let base = arguments.model.open()?;
    let model = base.base()?;
    let adapters = open_adapters(&arguments.adapters.adapters)?;
    let limits = Limits { kv_format: KvFormat::F32, precision: arguments.model.exact_precision(), ..Limits::new(arguments.tokens.len()) };
    let executor = arguments.model.executor()?;
    let mut bytes = Vec::new();
    with_session(model, &adapters, limits, executor.as_ref(), |session| {
        let append = |_, logits: &[f32]| bytes.extend(logits.iter().flat_map(|logit| logit.to_le_bytes()));
        Ok(session.score(0, &arguments.tokens, append)?)
    })?;
    let header = npy_header(&[arguments.tokens.len(), model.config().vocab]);
    write_whole(&arguments.output, |file| {
        file.write_all(&header).and_then(|()| file.write_all(&bytes)).map_err(|error| FileError::io(&arguments.output, error))
    })?;
    println!("{}: [{}, {}] f32", arguments.output.display(), arguments.tokens.len(), model.config().vocab);
    Ok(())
}

/// The header of a version 1.0 .npy file of little-endian f32: magic, version, length, a Python dictionary padded to 64 bytes.
fn npy_header(shape: &[usize]) -> Vec<u8> {
    let shape: String = shape.iter().map(|n| format!("{n}, ")).collect();
    let dictionary = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({shape}), }}");
    let length = (10 + dictionary.len() + 1).next_multiple_of(64) - 10;
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend((length as u16).to_le_bytes());
    header.extend(format!("{dictionary:<width$}\n", width = length - 1).into_bytes());
    header
}
