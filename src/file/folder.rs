//! Outputs that are folders: they appear as a whole, or the old one stays.
//!
//! A folder is filled under a temporary name and then takes the place of a missing one, or changes
//! places with an older one of its own kind. Where that cannot be (an empty folder, the one that
//! somebody works in, the root of a file system, one that was forced and holds other things) the
//! files are moved into it one by one: the file that makes the folder complete goes first and
//! comes last, so that no reader takes a mixture for a whole.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::links::{Behind, behind_links};
use super::replace::{PREFIX, folder_of, sync_folder, temporaries, try_folder};
use super::source::special;
use super::{FileError, same, space};

/// What a folder of one kind holds.
#[derive(Debug)]
pub struct FolderKind {
    /// For people, with its article.
    pub name: &'static str,
    /// All names of files that there can be.
    pub files: &'static [&'static str],
    /// The one of them without which readers do not take the folder.
    pub key: &'static str,
    /// Was this folder, which holds no other names, written by this crate?
    pub is_own: fn(&Path) -> bool,
}

/// A place for a folder that has been tried.
#[derive(Debug, Clone)]
pub struct OutputFolder {
    /// As it was named.
    path: PathBuf,
    /// The folder behind all links, there or not yet.
    real: PathBuf,
    kind: &'static FolderKind,
    way: Way,
}

/// How the new folder comes to its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Nothing is there.
    New,
    /// It changes places with an older one.
    Swap,
    /// Its files are moved in; `true`: in place of all older ones.
    Into(bool),
}

const SUFFIX: &str = ".new";

impl OutputFolder {
    /// Tries the place `path` for a folder of this kind. `inputs` are the files and folders that
    /// are read for it. With `force` it is written into a folder that holds something else, which
    /// stays, except for files of the same names and an older one of this kind.
    ///
    /// # Errors
    /// An input is one of the files that would be replaced; something else is there and `force` is
    /// not given; what the system says against writing there.
    pub fn new(
        path: impl AsRef<Path>,
        kind: &'static FolderKind,
        inputs: &[&Path],
        force: bool,
    ) -> Result<Self, FileError> {
        let path = path.as_ref();
        let io = |error| FileError::io(path, error);
        let wrong = |reason: String| FileError::format(path, "", reason);
        if path.as_os_str().is_empty() {
            return Err(wrong("the name of the output is empty".into()));
        }
        if path == Path::new("-") {
            return Err(wrong(format!(
                "{} is a folder: standard output cannot hold it",
                kind.name
            )));
        }
        let Behind::Path(real) = behind_links(path).map_err(io)? else {
            return Err(wrong(format!("this is an open file, {} is a folder", kind.name)));
        };
        match real.metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let there = real
                    .ancestors()
                    .skip(1)
                    .find(|folder| folder.as_os_str().is_empty() || folder.exists());
                let there =
                    there.filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
                try_folder(there).map_err(io)?;
                return Ok(Self { path: path.to_owned(), real, kind, way: Way::New });
            }
            Err(error) => return Err(io(error)),
            Ok(found) if found.is_dir() => {}
            Ok(found) => {
                let found = if found.is_file() { "a file" } else { special(&found) };
                return Err(wrong(format!("this is {found}, a folder was expected")));
            }
        }
        let real = real.canonicalize().map_err(io)?;
        let mut made = Self { path: path.to_owned(), real, kind, way: Way::New };
        made.refuse_inputs(inputs)?;
        made.way = made.way(force)?;
        try_folder(&made.real).map_err(io)?;
        Ok(made)
    }

    /// As it was named.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Refuses the folder if a file that would be replaced in it is one of `inputs`.
    ///
    /// # Errors
    /// Which input it is.
    pub fn refuse_inputs(&self, inputs: &[&Path]) -> Result<(), FileError> {
        let files = self.kind.files.iter().map(|name| self.real.join(name));
        match files.filter_map(|file| same::find(&file, inputs)).next() {
            None => Ok(()),
            Some(input) => Err(FileError::format(
                &self.path,
                "",
                format!(
                    "the input {} is in this folder, and would be lost: name another folder",
                    input.display()
                ),
            )),
        }
    }

    /// Refuses `bytes` where there is no room for them.
    ///
    /// # Errors
    /// Both numbers.
    pub fn check_room(&self, bytes: u64) -> Result<(), FileError> {
        let there = self.real.ancestors().find(|folder| folder.exists());
        space::check_disk(&self.path, there.unwrap_or(Path::new(".")), bytes)
    }

    /// How the new folder comes to its place, which is there; refuses what holds something else.
    fn way(&self, force: bool) -> Result<Way, FileError> {
        let io = |error| FileError::io(&self.path, error);
        let (mut is_empty, mut other) = (true, None);
        let left_behind = temporaries(&self.real, SUFFIX);
        for entry in std::fs::read_dir(&self.real).map_err(io)? {
            let entry = entry.map_err(io)?;
            if left_behind.contains(&entry.path()) {
                continue;
            }
            is_empty = false;
            let is_known = self.kind.files.iter().any(|known| entry.file_name() == *known)
                && entry.file_type().is_ok_and(|kind| kind.is_file());
            if !is_known {
                other = Some(entry.file_name());
                break;
            }
        }
        if is_empty {
            return Ok(Way::Into(true));
        }
        let is_own = other.is_none() && (self.kind.is_own)(&self.real);
        if is_own {
            let is_home =
                std::env::current_dir().is_ok_and(|folder| folder.starts_with(&self.real));
            let can_swap =
                !is_home && self.is_movable() && try_folder(folder_of(&self.real)).is_ok();
            return Ok(if can_swap { Way::Swap } else { Way::Into(true) });
        }
        if force {
            // Beside other things, an older one goes as a whole too: no reader takes a mixture.
            return Ok(Way::Into((self.kind.is_own)(&self.real)));
        }
        let name = self.kind.name;
        let reason = match other {
            Some(other) => format!(
                "the folder holds {}, which is no part of {name}: \
                 name another folder, or use --force, which leaves it there",
                other.display()
            ),
            None => format!(
                "the folder holds files that lowrank did not write and that {name} would replace: \
                 name another folder, or use --force"
            ),
        };
        Err(FileError::format(&self.path, "", reason))
    }

    /// Can the folder be renamed? The root of a file system cannot.
    #[cfg(unix)]
    fn is_movable(&self) -> bool {
        use std::os::unix::fs::MetadataExt;
        let device = |path: &Path| path.metadata().map(|found| found.dev()).ok();
        self.real.parent().is_some_and(|parent| device(parent) == device(&self.real))
    }

    #[cfg(not(unix))]
    fn is_movable(&self) -> bool {
        self.real.parent().is_some()
    }

    /// Writes it through `fill`, which is lent the folder to write into; what it writes there must
    /// be synced. The folder appears as a whole, only if `fill` succeeds.
    ///
    /// # Errors
    /// What `fill` returned, or an I/O error; an existing folder is then as it was, unless its
    /// files had to be moved one by one and the last of them could not be.
    pub fn write<T>(
        &self,
        fill: impl FnOnce(&Path) -> Result<T, FileError>,
    ) -> Result<T, FileError> {
        let io = |error| FileError::io(&self.path, error);
        let parent = folder_of(&self.real);
        let place = if matches!(self.way, Way::Into(_)) { &self.real } else { parent };
        if self.way == Way::New {
            std::fs::create_dir_all(parent).map_err(io)?;
        }
        let temporary = temporary(place).map_err(io)?;
        // Whoever cleans up leaves it alone as long as this is open.
        let lock = File::open(temporary.path());
        if let Ok(lock) = &lock {
            let _ = lock.lock();
        }
        // Nobody knows the temporary name.
        let value = fill(temporary.path()).map_err(|error| {
            match error.path.strip_prefix(temporary.path()) {
                Ok(name) => FileError { path: self.path.join(name), ..error },
                Err(_) => error,
            }
        })?;
        self.keep_modes(temporary.path()).map_err(io)?;
        sync_folder(temporary.path()).map_err(io)?;
        match self.way {
            Way::New => {
                std::fs::rename(temporary.path(), &self.real).map_err(io)?;
                // There is nothing under its name any more.
                let _ = temporary.keep();
            }
            Way::Swap => self.swap(temporary).map_err(io)?,
            Way::Into(instead) => self.move_into(temporary.path(), instead).map_err(io)?,
        }
        sync_folder(place).map_err(io)?;
        drop(lock);
        remove_abandoned(place);
        Ok(value)
    }

    /// Gives new files the modes and owners of those whose place they take.
    fn keep_modes(&self, temporary: &Path) -> io::Result<()> {
        for name in self.kind.files {
            let new = temporary.join(name);
            let Ok(old) = self.real.join(name).symlink_metadata() else { continue };
            if !old.is_file() || !new.exists() {
                continue;
            }
            #[cfg(unix)]
            {
                use std::os::unix::fs::{MetadataExt, chown};
                let _ = chown(&new, Some(old.uid()), Some(old.gid()));
            }
            std::fs::set_permissions(&new, old.permissions())?;
        }
        Ok(())
    }

    /// Changes places with the older folder, which goes with the temporary name.
    fn swap(&self, temporary: TempDir) -> io::Result<()> {
        let old = self.real.metadata()?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::{MetadataExt, chown};
            let _ = chown(temporary.path(), Some(old.uid()), Some(old.gid()));
        }
        std::fs::set_permissions(temporary.path(), old.permissions())?;
        if exchange(temporary.path(), &self.real).is_ok() {
            return temporary.close();
        }
        // Without such a call there is a moment without folder.
        let aside = self::temporary(folder_of(&self.real))?;
        std::fs::rename(&self.real, aside.path())?;
        if let Err(error) = std::fs::rename(temporary.path(), &self.real) {
            std::fs::rename(aside.keep(), &self.real)?;
            return Err(error);
        }
        let _ = temporary.keep();
        aside.close()
    }

    /// Moves the files of `temporary` into the folder, the key last; with `instead`, older files
    /// that have no successor go.
    fn move_into(&self, temporary: &Path, instead: bool) -> io::Result<()> {
        let key = self.kind.key;
        let gone = |name: &str| match std::fs::remove_file(self.real.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        gone(key)?;
        sync_folder(&self.real)?;
        let others = self.kind.files.iter().filter(|name| **name != key);
        for name in others.chain([&key]) {
            match std::fs::rename(temporary.join(name), self.real.join(name)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && instead => gone(name)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                moved => moved?,
            }
        }
        Ok(())
    }
}

/// A new folder with a temporary name in `place`, whose permissions are what the umask leaves.
fn temporary(place: &Path) -> io::Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(PREFIX).suffix(SUFFIX);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o777));
    }
    builder.tempdir_in(place)
}

/// Lets two names change places in one step.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn exchange(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Removes what writers that were killed left in `place`.
fn remove_abandoned(place: &Path) {
    for path in temporaries(place, SUFFIX) {
        if path.symlink_metadata().is_ok_and(|found| found.is_dir())
            && let Ok(folder) = File::open(&path)
            && folder.try_lock().is_ok()
        {
            let _ = std::fs::remove_dir_all(&path);
        }
    }
}

/// What functions that write a folder take: a path, which is then tried without force, or an
/// [`OutputFolder`] that was tried before.
pub trait ToFolder {
    /// The tried place for a folder of this kind.
    ///
    /// # Errors
    /// As [`OutputFolder::new`].
    fn folder(&self, kind: &'static FolderKind) -> Result<OutputFolder, FileError>;
}

impl<P: AsRef<Path> + ?Sized> ToFolder for P {
    fn folder(&self, kind: &'static FolderKind) -> Result<OutputFolder, FileError> {
        OutputFolder::new(self, kind, &[], false)
    }
}

impl ToFolder for &OutputFolder {
    fn folder(&self, _: &'static FolderKind) -> Result<OutputFolder, FileError> {
        Ok((*self).clone())
    }
}
