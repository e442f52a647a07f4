//! What a run leaves behind, as an archive in memory or in files.

use std::io::Write;

use crate::archive::Buffer;
use crate::file::{FileError, Kind, Output, ToOutput};
use crate::train::TrainError;
use crate::train::method::Method;
use crate::train::trainer::Trainer;

use super::Report;

/// What was trained, as [`run`](super::run()) left it, in memory: an adapter (at the rank that
/// DyLoRA kept), or a base. [`SharedAdapter::open`](crate::adapter::SharedAdapter::open) takes it as
/// it is.
///
/// # Errors
/// What the writers say.
pub fn finish(trainer: &Trainer<'_>, report: &Report, name: &str) -> Result<Buffer, TrainError> {
    trainer.archive(name, report.rank)
}

/// What a method writes.
pub fn kind(method: Method) -> Kind {
    method.technique().result()
}

const NO_SECOND_FILE: &str =
    "the classifier is written to a second file beside the base, and nothing lies beside this";

/// Writes what was trained (see [`finish`]) to `output`, a path or an
/// [`Output`](crate::file::Output) that was tried; with full fine-tuning of a classifier also its
/// classifier, an adapter of the trained base, to `FILE.classifier.lrk` beside it. Files appear
/// whole or not at all.
///
/// # Errors
/// A path where something else is than what the method writes, or the base that was trained; what
/// the writers say.
pub fn save(
    trainer: &Trainer<'_>,
    rank: Option<usize>,
    name: &str,
    output: impl ToOutput,
) -> Result<(), TrainError> {
    let output = output.output(kind(trainer.options().method), &[])?;
    output.refuse_base(trainer.fingerprint())?;
    let put = |output: &Output, bytes: &[u8]| {
        output.write(|file| {
            file.write_all(bytes).map_err(|error| FileError::io(output.path(), error))
        })
    };
    let archive = trainer.archive(name, rank)?;
    if kind(trainer.options().method) == Kind::Base
        && let Some(classifier) = trainer.classifier_adapter(&archive)?
    {
        let second = output
            .beside("classifier.lrk")
            .ok_or_else(|| FileError::format(output.path(), "", NO_SECOND_FILE))?;
        let second = Output::new(second, Kind::Adapter, &[], output.is_forced())?;
        put(&output, &archive)?;
        put(&second, &classifier)?;
        return Ok(());
    }
    Ok(put(&output, &archive)?)
}
