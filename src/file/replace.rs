//! Whole files or none: written under a temporary name beside the real one, synced, renamed.
//!
//! The file that is replaced hands on its permissions (and its owner, where that is allowed); a new
//! one gets what the umask leaves. What a writer that was killed left behind goes with the next
//! success: a temporary file is locked as long as its writer lives.

use std::fs::{File, Metadata};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::FileError;

/// Around the six random characters of a temporary name.
pub(super) const PREFIX: &str = ".lowrank-";
const SUFFIX: &str = ".part";

/// Fills a temporary file and gives it the name `real`, which is no link. Errors name `path`, as
/// the user does.
pub(super) fn replace<T>(
    path: &Path,
    real: &Path,
    fill: impl FnOnce(&mut File) -> Result<T, FileError>,
) -> Result<T, FileError> {
    let io = |error| FileError::io(path, error);
    let folder = folder_of(real);
    let replaced = real.metadata().ok();
    let mut temporary = locked(folder, replaced.is_some()).map_err(io)?;
    let value = fill(temporary.as_file_mut())?;
    temporary.as_file_mut().flush().map_err(io)?;
    if let Some(replaced) = &replaced {
        hand_on(replaced, temporary.as_file()).map_err(io)?;
    }
    temporary.as_file().sync_all().map_err(io)?;
    temporary.persist(real).map_err(|error| FileError::io(path, error.error))?;
    sync_folder(folder).map_err(io)?;
    remove_abandoned(folder, SUFFIX);
    Ok(value)
}

/// Is there room for another name in `folder`, and may it be put there?
pub(super) fn try_folder(folder: &Path) -> io::Result<()> {
    tempfile::Builder::new().prefix(PREFIX).suffix(SUFFIX).tempfile_in(folder).map(drop)
}

/// The folder that a file is in.
pub(super) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// A temporary file in `folder`, locked where the file system has locks; private if it replaces a
/// file, which may be private too.
fn locked(folder: &Path, is_private: bool) -> io::Result<NamedTempFile> {
    loop {
        let mut builder = tempfile::Builder::new();
        builder.prefix(PREFIX).suffix(SUFFIX);
        #[cfg(unix)]
        if !is_private {
            use std::os::unix::fs::PermissionsExt;
            // What the umask takes away is not there from the beginning.
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        let temporary = builder.tempfile_in(folder)?;
        match temporary.as_file().lock() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Somebody may have taken it for abandoned before it was locked.
            Ok(()) if !temporary.path().exists() => {}
            _ => return Ok(temporary),
        }
    }
}

/// Gives `file` the owner and the permissions of the file that it will replace. The owner only
/// root may give away: without it the file belongs to whoever writes it.
#[cfg(unix)]
fn hand_on(replaced: &Metadata, file: &File) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, fchown};
    let own = file.metadata()?;
    if (own.uid(), own.gid()) != (replaced.uid(), replaced.gid()) {
        let _ = fchown(file, Some(replaced.uid()), Some(replaced.gid()));
    }
    file.set_permissions(replaced.permissions())
}

#[cfg(not(unix))]
fn hand_on(_: &Metadata, _: &File) -> io::Result<()> {
    Ok(())
}

/// Makes names in `folder` outlive a loss of power. A system that has no such thing, or a folder
/// that cannot be read, is no failure: the file is there.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    #[cfg(unix)]
    {
        use io::ErrorKind::{InvalidInput, PermissionDenied, Unsupported};
        match File::open(folder).and_then(|folder| folder.sync_all()) {
            Err(error)
                if !matches!(error.kind(), InvalidInput | PermissionDenied | Unsupported) =>
            {
                return Err(error);
            }
            _ => {}
        }
    }
    let _ = folder;
    Ok(())
}

/// Removes the temporary files in `folder` that nobody has locked. What cannot be removed stays:
/// the work is done.
pub(super) fn remove_abandoned(folder: &Path, suffix: &str) {
    for path in temporaries(folder, suffix) {
        if path.symlink_metadata().is_ok_and(|found| found.is_file())
            && let Ok(file) = File::options().write(true).open(&path)
            && file.try_lock().is_ok()
        {
            let _ = std::fs::remove_file(&path);
        }
    }
}

/// What has a temporary name of ours in `folder`.
pub(super) fn temporaries(folder: &Path, suffix: &str) -> Vec<PathBuf> {
    let is_ours = |name: &str| {
        name.len() == PREFIX.len() + 6 + suffix.len()
            && name.starts_with(PREFIX)
            && name.ends_with(suffix)
    };
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_str().is_some_and(is_ours))
        .map(|entry| entry.path())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::write_whole;
    use super::*;

    #[test]
    fn what_a_killed_writer_left_goes_and_nothing_else_does() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        for name in [
            ".lowrank-aB3xYz.part",
            ".lowrank-aB3xYz",
            ".lowrank-notes.part",
            "lowrank-aB3xYz.part",
        ] {
            std::fs::write(file(name), "left").unwrap();
        }
        std::fs::create_dir(file(".lowrank-aaaaaa.part")).unwrap();
        let target = file("whole");
        let names = || {
            let names = std::fs::read_dir(folder.path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap());
            std::collections::BTreeSet::from_iter(names)
        };
        // One that fails changes nothing, and one inside another keeps what the other is writing.
        let before = names();
        let failed: Result<(), _> =
            write_whole(&target, |_| Err(FileError::format(&target, "", "no")));
        assert!(failed.is_err() && names() == before);
        write_whole(&target, |outer| {
            write_whole(&file("inner"), |inner| {
                inner.write_all(b"inner").map_err(|error| FileError::io("inner", error))
            })?;
            assert!(!file(".lowrank-aB3xYz.part").exists());
            outer.write_all(b"outer").map_err(|error| FileError::io("outer", error))
        })
        .unwrap();
        assert_eq!(
            (std::fs::read(&target).unwrap(), std::fs::read(file("inner")).unwrap()),
            (b"outer".to_vec(), b"inner".to_vec())
        );
        let left = [
            ".lowrank-aB3xYz",
            ".lowrank-aaaaaa.part",
            ".lowrank-notes.part",
            "inner",
            "lowrank-aB3xYz.part",
            "whole",
        ];
        assert_eq!(names(), left.map(String::from).into());
    }
}
