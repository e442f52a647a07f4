//! Are two paths the same file? By device and inode, links followed: names may differ.

use std::fs::Metadata;
use std::path::{Path, PathBuf};

/// How deep a folder of inputs is looked through: shards and what sentence-transformers puts beside
/// them lie one folder down.
const DEPTH: usize = 2;

/// The first of `inputs` that is the file `output` or, if it is a folder, holds it. What does not
/// exist is nobody's file.
pub(super) fn find<'i>(output: &Path, inputs: &[&'i Path]) -> Option<&'i Path> {
    let wanted = Identity::of(output)?;
    inputs.iter().find(|input| holds(input, &wanted, DEPTH)).copied()
}

fn holds(path: &Path, wanted: &Identity, depth: usize) -> bool {
    let Ok(metadata) = path.metadata() else { return false };
    if !metadata.is_dir() {
        return Identity::from(path, &metadata).as_ref() == Some(wanted);
    }
    depth > 0
        && std::fs::read_dir(path)
            .into_iter()
            .flatten()
            .flatten()
            .any(|entry| holds(&entry.path(), wanted, depth - 1))
}

/// What makes two names one file.
#[derive(PartialEq)]
enum Identity {
    #[cfg(unix)]
    Inode(u64, u64),
    #[cfg_attr(unix, allow(dead_code, reason = "where there are no inodes"))]
    Path(PathBuf),
}

impl Identity {
    fn of(path: &Path) -> Option<Self> {
        Self::from(path, &path.metadata().ok()?)
    }

    #[cfg(unix)]
    fn from(_: &Path, metadata: &Metadata) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;
        Some(Self::Inode(metadata.dev(), metadata.ino()))
    }

    #[cfg(not(unix))]
    fn from(path: &Path, _: &Metadata) -> Option<Self> {
        path.canonicalize().ok().map(Self::Path)
    }
}
