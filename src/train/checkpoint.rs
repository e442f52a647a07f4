//! Checkpoints: a run between two steps in one archive, written whole or not at all.
//!
//! What is random in a run is a function of the seed and the step, so numbers, optimizer and step
//! are all there is to keep.

use std::path::Path;

use super::TrainError;
use super::optimizer::State;
use crate::archive::schema::check_lines;
use crate::archive::schema::checkpoint::{ArchivedCheckpoint, Checkpoint};
use crate::archive::{self, ArchiveFile, Fingerprint, bytes_of, floats, write_file};
use crate::error::{Error, Result, RootKind};
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
    pub(crate) optimizer: State,
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
        optimizer: &saved.optimizer.bytes,
    };
    write_file(&root, saved.steps, path).map(|_| ())
}

/// Reads `path`; the numbers must fit a run with `values` numbers and `optimizer` bytes of
/// optimizer state.
pub(crate) fn read(
    path: &Path,
    base: Fingerprint,
    settings: &str,
    values: usize,
    optimizer: usize,
) -> Result<Saved, TrainError> {
    let file = ArchiveFile::open(path)?;
    let wrap = |error| FileError::core(path, "", error);
    archive::verify(&file).map_err(wrap)?;
    let (_, root) = archive::open_root::<ArchivedCheckpoint<'static>>(&file, RootKind::CHECKPOINT)
        .map_err(wrap)?;
    if root.base != base.0 {
        let (adapter, base) = (Fingerprint(root.base).short(), base.short());
        return Err(FileError::core(path, "", Error::OtherBase { adapter, base }).into());
    }
    if let Some((theirs, ours)) = first_difference(&root.settings, settings) {
        let reason = format!(
            "the run that wrote it was told \"{theirs}\", this one \"{ours}\": it can only go on as it began"
        );
        return Err(FileError::format(path, "", reason).into());
    }
    check_lines(0, &root.values, values as u64 * 4).map_err(wrap)?;
    check_lines(0, &root.optimizer, optimizer as u64).map_err(wrap)?;
    if !root.best.is_empty() {
        check_lines(0, &root.best, values as u64 * 4).map_err(wrap)?;
    }
    let steps = root.steps.to_native();
    Ok(Saved {
        progress: root.progress.to_string(),
        steps,
        values: floats(&root.values)[..values].to_vec(),
        best: if root.best.is_empty() { Vec::new() } else { floats(&root.best)[..values].to_vec() },
        optimizer: State { steps, bytes: bytes_of(&root.optimizer)[..optimizer].to_vec() },
    })
}

/// The first line in which two settings differ.
fn first_difference<'s>(theirs: &'s str, ours: &'s str) -> Option<(&'s str, &'s str)> {
    let mut pairs = theirs.lines().zip(ours.lines());
    pairs.find(|(theirs, ours)| theirs != ours).or_else(|| {
        let (more, less) = (theirs.lines().count(), ours.lines().count());
        (more != less).then(|| {
            (
                theirs.lines().nth(less).unwrap_or("nothing"),
                ours.lines().nth(more).unwrap_or("nothing"),
            )
        })
    })
}
