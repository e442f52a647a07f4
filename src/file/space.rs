//! What the machine has left: bytes of a file system, bytes of memory. `None` where nobody tells;
//! then the work itself will say.

use std::path::Path;

use super::FileError;

/// Refuses `need` bytes in `folder` if fewer are free there. `path` is what they are for.
pub(crate) fn check_disk(path: &Path, folder: &Path, need: u64) -> Result<(), FileError> {
    match disk(folder) {
        Some(free) if free < need => {
            let reason = format!(
                "{need} bytes are needed in {}, and {free} are free there",
                folder.display()
            );
            Err(FileError::format(path, "", reason))
        }
        _ => Ok(()),
    }
}

/// Refuses `need` bytes of memory if the system has fewer. `what` is what they are for.
pub(crate) fn check_memory(path: &Path, what: &str, need: u64) -> Result<(), FileError> {
    match memory() {
        Some(free) if free < need => {
            let reason = format!("{what} takes {need} bytes of memory, and {free} are free");
            Err(FileError::format(path, "", reason))
        }
        _ => Ok(()),
    }
}

/// Bytes that this user may still write in `folder`.
#[cfg(unix)]
fn disk(folder: &Path) -> Option<u64> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let found = rustix::fs::statvfs(folder).ok()?;
    // File systems without a fixed size say that they have no blocks at all.
    (found.f_blocks > 0).then(|| found.f_bavail.saturating_mul(found.f_frsize))
}

#[cfg(not(unix))]
fn disk(_: &Path) -> Option<u64> {
    None
}

/// Bytes that this process may still take: what the system has, and within the limits that the
/// process and its control group have.
pub(crate) fn memory() -> Option<u64> {
    let kib = |file: &str, key: &str| {
        let text = std::fs::read_to_string(file).ok()?;
        let line = text.lines().find(|line| line.starts_with(key))?;
        Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()?.saturating_mul(1024))
    };
    let available = || kib("/proc/meminfo", "MemAvailable:");
    let system =
        available().map(|free| free.saturating_add(kib("/proc/meminfo", "SwapFree:").unwrap_or(0)));
    let group = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let group = group.and_then(|text| text.trim().parse().ok());
    let taken = kib("/proc/self/status", "VmSize:").unwrap_or(0);
    let process = address_space().map(|most| most.saturating_sub(taken));
    [system, group, process].into_iter().flatten().min()
}

/// The limit of the address space, if there is one.
#[cfg(unix)]
fn address_space() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::As).current
}

#[cfg(not(unix))]
fn address_space() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_machine_has_is_refused_with_both_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        assert!(check_disk(&path, folder.path(), 1).is_ok());
        assert!(check_memory(&path, "it", 1).is_ok());
        for refused in
            [check_disk(&path, folder.path(), u64::MAX), check_memory(&path, "it", u64::MAX)]
        {
            // Only systems that tell can refuse.
            if cfg!(target_os = "linux") {
                let text = refused.unwrap_err().to_string();
                assert!(text.contains("18446744073709551615 bytes"), "{text}");
            }
        }
    }
}
