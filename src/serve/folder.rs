//! The folder of adapters: what lies in it is served, what lies elsewhere is not, by whatever name
//! or link.

use std::io;
use std::path::{Component, Path, PathBuf};

use crate::adapter::{Bytes, SharedAdapter};
use crate::engine::{Registry, RegistryOptions, read_adapter};
use crate::error::Error;
use crate::file::FileError;
use crate::import::{AdapterOptions, import_peft};
use crate::model::AnyBase;

/// A folder, links followed.
#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
}

impl Folder {
    /// # Errors
    /// If there is none at `path`.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let root = path.canonicalize()?;
        if root.is_dir() { Ok(Self { root }) } else { Err(io::ErrorKind::NotADirectory.into()) }
    }

    /// Where the adapter called `name` lies: a directory of PEFT, or an archive.
    pub(super) fn find(&self, name: &str) -> Option<PathBuf> {
        if name.starts_with('.') || name.contains(['/', '\\', '\0']) {
            return None;
        }
        let directory = self.inside(name).filter(|path| is_peft(path));
        let archive = || self.inside(&format!("{name}.lrk")).filter(|path| path.is_file());
        directory.or_else(archive)
    }

    /// What lies at a path below the folder, if the path and the links on it stay there.
    pub(super) fn inside(&self, path: &str) -> Option<PathBuf> {
        let stays = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
        let path = Path::new(path);
        if !path.is_absolute() && !path.components().all(stays) {
            return None;
        }
        let found = self.root.join(path).canonicalize().ok()?;
        (found.starts_with(&self.root) && found != self.root).then_some(found)
    }
}

/// An archive or a directory of PEFT; whether it is one of this base is seen when it is asked for.
fn is_adapter(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "lrk") && path.is_file() || is_peft(path)
}

fn is_peft(path: &Path) -> bool {
    path.join("adapter_config.json").is_file()
}

/// A registry for adapters of these bases, one at least, that reads archives and directories of PEFT.
///
/// # Errors
/// As [`Registry::new`]; [`Error::Length`] without a base.
pub fn open_registry(bases: &[Bytes], options: RegistryOptions) -> Result<Registry, Error> {
    let (first, others) = bases.split_first().ok_or(Error::Length { have: 0, need: 1 })?;
    let mut registry = Registry::new(first.clone(), options)?;
    for base in others {
        registry = registry.with_base(base.clone())?;
    }
    let bases = bases.to_vec();
    let reader = move |path: &Path| {
        if !path.is_dir() {
            return read_adapter(path);
        }
        // A directory of PEFT names its base in words: it is of the first one that takes it.
        let mut read = bases.iter().map(|base| read_peft(path, base));
        let first = read.next().unwrap_or_else(|| read_adapter(path));
        first.or_else(|error| read.find_map(Result::ok).ok_or(error))
    };
    Ok(registry.with_reader(Box::new(reader)))
}

/// The adapter in a directory of PEFT.
fn read_peft(path: &Path, base: &Bytes) -> Result<SharedAdapter, FileError> {
    let core = |error| FileError::core(path, "", error);
    let base = AnyBase::open(base.get()).map_err(core)?;
    let builder = import_peft(path, base.as_base(), &AdapterOptions::default())?;
    SharedAdapter::open(builder.build(base.as_base()).map_err(core)?).map_err(core)
}

/// Makes the adapters of a folder known by the names of their files, without reading them. Returns
/// those that are not served: their name is taken, or is one of `bases`.
///
/// # Errors
/// If the folder cannot be read.
pub fn register_folder(
    registry: &Registry,
    folder: &Path,
    bases: &[&str],
) -> io::Result<Vec<PathBuf>> {
    let within = Folder::open(folder)?;
    let mut entries = std::fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<_>>>()?;
    entries.sort();
    let mut left = Vec::new();
    for entry in entries.into_iter().filter(|path| is_adapter(path)) {
        let name = if is_peft(&entry) { entry.file_name() } else { entry.file_stem() };
        let name = name.and_then(|name| name.to_str()).filter(|name| !bases.contains(name));
        let found = name.and_then(|name| Some((name, within.find(name)?)));
        if found.is_none_or(|(name, path)| registry.register(name, path).is_err()) {
            left.push(entry);
        }
    }
    Ok(left)
}
