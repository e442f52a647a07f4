//! What a name stands for, links followed: a file, or something that this process has open.

use std::io;
use std::path::{Path, PathBuf};

use super::replace::folder_of;

/// What a name stands for in the end.
pub(super) enum Behind {
    /// No link.
    Path(PathBuf),
    /// A file that this process has open.
    Descriptor(u32),
}

/// The most links behind one another, as Linux has it.
const LINKS: usize = 40;

/// Follows links, also to what is not there yet. The names of open files (`/dev/stdout`,
/// `/dev/fd/3`) look like links to files, and are not: what is there is open already.
pub(super) fn behind_links(path: &Path) -> io::Result<Behind> {
    let mut path = path.to_owned();
    for _ in 0..LINKS {
        if let Some(number) = descriptor_number(&path) {
            return Ok(Behind::Descriptor(number));
        }
        match path.symlink_metadata() {
            Ok(metadata) if metadata.is_symlink() => {
                let link = path.read_link()?;
                path = folder_of(&path).join(link);
            }
            _ => return Ok(Behind::Path(path)),
        }
    }
    // A circle: the system has the words for it.
    path.metadata().map(|_| Behind::Path(path))
}

/// N of `/dev/fd/N` and `/proc/self/fd/N`, under whatever name.
fn descriptor_number(path: &Path) -> Option<u32> {
    let number = path.file_name()?.to_str()?.parse().ok()?;
    let folder = folder_of(path).canonicalize().ok()?;
    let own = Path::new("/proc").join(std::process::id().to_string());
    let is_own = folder == Path::new("/dev/fd")
        || folder.strip_prefix(&own).is_ok_and(|rest| {
            rest == Path::new("fd") || (rest.starts_with("task") && rest.ends_with("fd"))
        });
    is_own.then_some(number)
}
