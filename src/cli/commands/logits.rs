//! `lowrank logits`: the logits after each of given tokens, for comparing with other
//! implementations.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use lowrank::file::{FileError, Kind, Output};
use lowrank::runtime::{KvFormat, Limits};

use crate::Failure;
use crate::attach::{AdapterOptions, NOT_FINITE, note_classifiers, open_adapters};
use crate::model::{ModelOptions, with_session};
use crate::output::{Force, written};

const EXAMPLES: &str = r"Example:
  lowrank logits --base base.lrk --adapter style.lrk \
    --tokens 1,306,4658 -o logits.npy";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
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
    #[command(flatten)]
    force: Force,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let inputs = arguments.adapters.inputs(&arguments.model);
    let inputs: Vec<&Path> = inputs.iter().map(PathBuf::as_path).collect();
    let output = arguments.force.output(&arguments.output, Kind::Npy, &inputs)?;
    let base = arguments.model.file()?;
    let model = base.base()?;
    let adapters = open_adapters(&arguments.adapters.adapters)?;
    note_classifiers(&adapters)?;
    let executor = arguments.model.executor()?;
    let limits = Limits {
        kv_format: KvFormat::F32,
        precision: arguments.model.exact_precision(),
        ..Limits::for_model(&model, arguments.tokens.len(), executor.as_ref())
    };
    let (rows, vocab) = (arguments.tokens.len(), model.config().vocab);
    let bytes = npy_header(&[rows, vocab]).len() as u64 + 4 * rows as u64 * vocab as u64;
    output.check_room(bytes)?;
    let score = |score: &mut Score<'_>| write(&output, &[rows, vocab], score);
    match arguments.model.card()? {
        #[cfg(feature = "cuda")]
        Some(card) => crate::card::with_session(&card, model, &adapters, limits, |session| {
            score(&mut |see| session.score(0, &arguments.tokens, see))
        }),
        #[cfg(not(feature = "cuda"))]
        Some(never) => match never {},
        None => with_session(model, &adapters, limits, executor.as_ref(), |session, _| {
            score(&mut |see| session.score(0, &arguments.tokens, see))
        }),
    }?;
    Ok(written(&output, format_args!("{}: [{rows}, {vocab}] f32", output.path().display()))?)
}

/// Takes the logits of a token, whose number it is told.
type See<'s> = dyn FnMut(usize, &[f32]) + 's;
/// Reads the tokens and hands on the logits of each.
type Score<'s> = dyn FnMut(&mut See<'_>) -> lowrank::Result<()> + 's;

/// Writes what `score` says of each token.
fn write(output: &Output, shape: &[usize], score: &mut Score<'_>) -> Result<(), Failure> {
    let mut refused = None;
    let written = output.write(|file| {
        let mut out = BufWriter::new(file);
        let mut written = out.write_all(&npy_header(shape));
        let mut wrong = None;
        let mut see = |row: usize, logits: &[f32]| {
            if wrong.is_none() && logits.iter().any(|logit| !logit.is_finite()) {
                wrong = Some(row);
            }
            if written.is_ok() {
                written = logits.iter().try_for_each(|logit| out.write_all(&logit.to_le_bytes()));
            }
        };
        if let Err(error) = score(&mut see) {
            refused = Some(error);
            return Err(FileError::core(output.path(), "", error));
        }
        if let Some(row) = wrong {
            let token = format!("token {}", row + 1);
            return Err(FileError::format(output.path(), token, NOT_FINITE));
        }
        written.and_then(|()| out.flush()).map_err(|error| FileError::io(output.path(), error))
    });
    // What the model refuses is not the output file's fault.
    Ok(refused.map_or(Ok(()), Err).map(|()| written)??)
}

/// The header of a version 1.0 .npy file of little-endian f32: magic, version, length, a Python
/// dictionary padded to 64 bytes.
pub(crate) fn npy_header(shape: &[usize]) -> Vec<u8> {
    let shape: String = shape.iter().map(|n| format!("{n}, ")).collect();
    let dictionary = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({shape}), }}");
    let length = (10 + dictionary.len() + 1).next_multiple_of(64) - 10;
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend((length as u16).to_le_bytes());
    header.extend(format!("{dictionary:<width$}\n", width = length - 1).into_bytes());
    header
}
