//! Checkpoints: a run between two steps in one archive, written whole or not at all.
//!
//! What is random in a run is a function of the seed and the step, so numbers, step and what
//! optimizer and method remember are all there is to keep.

use std::path::Path;

use super::TrainError;
use super::optimizer::State;
use super::settings::Settings;
use crate::archive::schema::check_lines;
use crate::archive::schema::checkpoint::{ArchivedCheckpoint, Checkpoint};
use crate::archive::{self, ArchiveFile, Fingerprint, bytes_of, floats, write_file};
use crate::error::RootKind;
use crate::file::FileError;

/// What a checkpoint holds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Saved {
    /// JSON; see `run`.
    pub(crate) progress: String,
    pub(crate) steps: u64,
    pub(crate) values: Vec<f32>,
    /// Empty if there is no best.
    pub(crate) best: Vec<f32>,
    /// What optimizer and method remember.
    pub(crate) state: State,
}

/// Writes `saved` to `path`.
pub(crate) fn write(
    path: &Path,
    base: Fingerprint,
    settings: &str,
    saved: &Saved,
) -> Result<(), FileError> {
    let root = Checkpoint {
        base: base.0,
        settings,
        progress: &saved.progress,
        steps: saved.steps,
        values: &saved.values,
        best: &saved.best,
        optimizer: &saved.state.bytes,
    };
    write_file(&root, saved.steps, path).map(|_| ())
}

/// Reads `path`; its settings must be those of this run, and the numbers must fit one with `values`
/// numbers and `state` bytes of what optimizer and method remember.
pub(super) fn read(
    path: &Path,
    base: Fingerprint,
    settings: &Settings,
    values: usize,
    state: usize,
) -> Result<Saved, TrainError> {
    let file = ArchiveFile::open(path)?;
    let root = open(path, &file)?;
    let refused = |reason: String| FileError::format(path, "", reason);
    if root.base != base.0 {
        let (theirs, ours) = (Fingerprint(root.base), base);
        return Err(refused(format!(
            "the run that wrote it trains another base ({theirs}, this one is {ours})"
        ))
        .into());
    }
    settings.check(&root.settings).map_err(refused)?;
    let bytes = values as u64 * 4;
    let is_whole = check_lines(0, &root.values, bytes).is_ok()
        && (root.best.is_empty() || check_lines(0, &root.best, bytes).is_ok())
        && check_lines(0, &root.optimizer, state as u64).is_ok();
    if !is_whole {
        let reason = format!("it does not hold the {values} numbers that this run trains");
        return Err(refused(reason).into());
    }
    let steps = root.steps.to_native();
    Ok(Saved {
        progress: root.progress.to_string(),
        steps,
        values: floats(&root.values)[..values].to_vec(),
        best: if root.best.is_empty() { Vec::new() } else { floats(&root.best)[..values].to_vec() },
        state: State { steps, bytes: bytes_of(&root.optimizer)[..state].to_vec() },
    })
}

/// The steps of the unfinished run whose checkpoint is at `path`; `None` if nothing is there. Who
/// begins a run asks, before it replaces that one.
///
/// # Errors
/// If what is there is no checkpoint, or a damaged one.
pub fn unfinished(path: &Path) -> Result<Option<u64>, FileError> {
    if !path.try_exists().map_err(|error| FileError::io(path, error))? {
        return Ok(None);
    }
    let file = ArchiveFile::open(path)?;
    Ok(Some(open(path, &file)?.steps.to_native()))
}

/// The whole checkpoint of `file`, checked.
fn open<'f>(
    path: &Path,
    file: &'f ArchiveFile,
) -> Result<&'f ArchivedCheckpoint<'static>, FileError> {
    let wrap = |error| FileError::core(path, "", error);
    archive::verify(file).map_err(wrap)?;
    let root = archive::open_root::<ArchivedCheckpoint<'static>>(file, &[RootKind::CHECKPOINT]);
    Ok(root.map_err(wrap)?.1)
}
