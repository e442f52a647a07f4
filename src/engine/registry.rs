//! Adapters by name, of one base or several: many are known, some are in memory, each name has a
//! generation that says when it last changed.
//!
//! A request asks for a name once and holds what it gets: replacing or unloading a name does not
//! touch who holds its adapter already. An adapter that came from a file is read when it is first
//! asked for and let go of when others were used later; it is read again when somebody asks. Files
//! are read as a whole, not mapped: whoever copies another one over them disturbs nobody.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::adapter::{Bytes, SharedAdapter, check_fit};
use crate::archive::{Buffer, Fingerprint};
use crate::error::Error;
use crate::file::FileError;
use crate::model::AnyBase;

/// What a [`Registry`] keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegistryOptions {
    /// Adapters from files that are in memory at a time, beside those that requests hold. Default:
    /// 256.
    pub resident: usize,
    /// The largest rank of an adapter. Default: 64.
    pub max_rank: usize,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self { resident: 256, max_rank: 64 }
    }
}

/// What must be true of a name for a change to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Nothing.
    Any,
    /// No adapter has it.
    Absent,
    /// It has this generation.
    Generation(u64),
}

/// Why a name was not found or changed; everything is as it was.
#[derive(Debug)]
#[non_exhaustive]
pub enum RegistryError {
    /// No adapter has this name.
    Unknown(String),
    /// An adapter has it already.
    Exists(String),
    /// It was changed meanwhile.
    Stale {
        /// The name.
        name: String,
        /// The generation that was expected.
        expected: u64,
        /// The one it has.
        current: u64,
    },
    /// The file cannot be read, or is no adapter of a base that is served.
    File(FileError),
    /// The adapter does not fit.
    Adapter(Error),
}

impl fmt::Display for RegistryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(name) => write!(f, "no adapter is called \"{name}\""),
            Self::Exists(name) => write!(f, "an adapter is called \"{name}\" already"),
            Self::Stale { name, expected, current } => write!(
                f,
                "the adapter \"{name}\" has generation {current}, {expected} was expected: it was \
                 changed meanwhile"
            ),
            Self::File(error) => error.fmt(f),
            Self::Adapter(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for RegistryError {}

/// An adapter as it was when somebody asked for it.
#[derive(Debug, Clone)]
pub struct Held {
    /// The adapter.
    pub adapter: Arc<SharedAdapter>,
    /// Its name's generation then.
    pub generation: u64,
}

/// A name that the registry knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// The name.
    pub name: String,
    /// When it last changed: of all changes of all names, the number of this one.
    pub generation: u64,
    /// Is the adapter in memory?
    pub is_resident: bool,
    /// Whose adapter it is, if it was read.
    pub base: Option<Fingerprint>,
}

/// Reads what an adapter's path holds.
pub type Reader = Box<dyn Fn(&Path) -> Result<SharedAdapter, FileError> + Send + Sync>;

/// Adapters by name; see the module. Shared between threads.
pub struct Registry {
    bases: Vec<Bytes>,
    options: RegistryOptions,
    reader: Reader,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<String, Entry>,
    generation: u64,
    /// Counts what was asked for.
    clock: u64,
}

#[derive(Debug)]
struct Entry {
    generation: u64,
    file: Option<PathBuf>,
    /// Of the file that `adapter` was made from.
    stamp: Option<Stamp>,
    adapter: Option<Arc<SharedAdapter>>,
    /// Whose adapter it was when it was read last.
    base: Option<Fingerprint>,
    used: u64,
}

/// What tells a file from one that took its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    bytes: u64,
    modified: Option<SystemTime>,
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let facts = std::fs::metadata(path).ok()?;
        Some(Self { bytes: facts.len(), modified: facts.modified().ok() })
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Registry {
    /// No names yet, for adapters of this base, which are read from archives.
    ///
    /// # Errors
    /// As [`AnyBase::open`].
    pub fn new(base: impl Into<Bytes>, options: RegistryOptions) -> Result<Self, Error> {
        let (bases, reader) = (Vec::new(), Box::new(read_adapter));
        Self { bases, options, reader, state: Mutex::default() }.with_base(base)
    }

    /// For adapters of this base too.
    ///
    /// # Errors
    /// As [`AnyBase::open`].
    pub fn with_base(mut self, base: impl Into<Bytes>) -> Result<Self, Error> {
        let base = base.into();
        AnyBase::open(base.get())?;
        self.bases.push(base);
        Ok(self)
    }

    /// With another way to read an adapter's path.
    #[must_use]
    pub fn with_reader(self, reader: Reader) -> Self {
        Self { reader, ..self }
    }

    /// Knows a name for a file without reading it; what is wrong with it is told who asks for it.
    ///
    /// # Errors
    /// [`RegistryError::Exists`].
    pub fn register(
        &self,
        name: impl Into<String>,
        path: impl Into<PathBuf>,
    ) -> Result<u64, RegistryError> {
        self.put(name.into(), Expected::Absent, Some(path.into()), None, None)
    }

    /// Reads an adapter and gives it a name.
    ///
    /// # Errors
    /// [`RegistryError::File`], [`RegistryError::Adapter`]; [`RegistryError::Exists`],
    /// [`RegistryError::Unknown`], [`RegistryError::Stale`] if the name is not as `expected`.
    pub fn load(
        &self,
        name: impl Into<String>,
        path: impl Into<PathBuf>,
        expected: Expected,
    ) -> Result<u64, RegistryError> {
        let (name, path) = (name.into(), path.into());
        check(&self.lock(), &name, expected)?;
        let (adapter, stamp) = self.read(&path)?;
        self.put(name, expected, Some(path), Some(adapter), stamp)
    }

    /// Gives an adapter a name. It stays in memory until the name is unloaded or replaced.
    ///
    /// # Errors
    /// [`RegistryError::Adapter`]; [`RegistryError::Exists`], [`RegistryError::Unknown`],
    /// [`RegistryError::Stale`] if the name is not as `expected`.
    pub fn insert(
        &self,
        name: impl Into<String>,
        adapter: SharedAdapter,
        expected: Expected,
    ) -> Result<u64, RegistryError> {
        self.fits(&adapter).map_err(RegistryError::Adapter)?;
        self.put(name.into(), expected, None, Some(Arc::new(adapter)), None)
    }

    /// Forgets a name; who holds its adapter keeps it.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`], [`RegistryError::Stale`].
    pub fn unload(&self, name: &str, expected: Expected) -> Result<(), RegistryError> {
        let mut state = self.lock();
        check(&state, name, expected)?;
        match state.entries.remove(name) {
            Some(_) => Ok(()),
            None => Err(RegistryError::Unknown(name.to_owned())),
        }
    }

    /// The adapter of a name, read now if it is not in memory. A file that was replaced since it
    /// was read is another generation; that is seen when it is read again, by [`load`](Self::load)
    /// at once.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`], [`RegistryError::File`].
    pub fn get(&self, name: &str) -> Result<Held, RegistryError> {
        let (path, before) = {
            let mut state = self.lock();
            state.clock += 1;
            let clock = state.clock;
            let unknown = || RegistryError::Unknown(name.to_owned());
            let entry = state.entries.get_mut(name).ok_or_else(unknown)?;
            entry.used = clock;
            let generation = entry.generation;
            match (&entry.adapter, &entry.file) {
                (Some(adapter), _) => {
                    return Ok(Held { adapter: Arc::clone(adapter), generation });
                }
                (None, Some(path)) => (path.clone(), generation),
                (None, None) => return Err(unknown()),
            }
        };
        let (adapter, stamp) = self.read(&path)?;
        let mut state = self.lock();
        let mut generation = before;
        // Who changed the name meanwhile has the later word; this request keeps what it found.
        if state.entries.get(name).is_some_and(|entry| entry.generation == before) {
            let next = state.generation + 1;
            if let Some(entry) = state.entries.get_mut(name) {
                if entry.stamp.is_some() && entry.stamp != stamp {
                    (entry.generation, generation) = (next, next);
                }
                (entry.adapter, entry.stamp) = (Some(Arc::clone(&adapter)), stamp);
                entry.base = Some(adapter.adapter().base());
            }
            state.generation = state.generation.max(generation);
            self.let_go(&mut state);
        }
        Ok(Held { adapter, generation })
    }

    /// All names, in their order.
    pub fn known(&self) -> Vec<Known> {
        let known = |(name, entry): (&String, &Entry)| Known {
            name: name.clone(),
            generation: entry.generation,
            is_resident: entry.adapter.is_some(),
            base: entry.base,
        };
        self.lock().entries.iter().map(known).collect()
    }

    fn read(&self, path: &Path) -> Result<(Arc<SharedAdapter>, Option<Stamp>), RegistryError> {
        let stamp = Stamp::of(path);
        let adapter = (self.reader)(path).map_err(RegistryError::File)?;
        let of_file = |error| RegistryError::File(FileError::core(path, "", error));
        self.fits(&adapter).map_err(of_file)?;
        Ok((Arc::new(adapter), stamp))
    }

    fn fits(&self, adapter: &SharedAdapter) -> Result<(), Error> {
        let (asked, most) = (adapter.adapter().max_rank(), self.options.max_rank);
        if asked > most {
            return Err(Error::TotalRank { asked, most });
        }
        let mut fits = Ok(());
        for base in &self.bases {
            fits = check_fit(&adapter.adapter(), AnyBase::open(base.get())?.as_base());
            // Of several bases, the one that it was made for says what is wrong with it.
            if !matches!(fits, Err(Error::OtherBase { .. })) {
                break;
            }
        }
        fits
    }

    fn put(
        &self,
        name: String,
        expected: Expected,
        file: Option<PathBuf>,
        adapter: Option<Arc<SharedAdapter>>,
        stamp: Option<Stamp>,
    ) -> Result<u64, RegistryError> {
        let mut state = self.lock();
        check(&state, &name, expected)?;
        state.generation += 1;
        state.clock += 1;
        let (generation, used) = (state.generation, state.clock);
        let is_read = adapter.is_some();
        let base = adapter.as_ref().map(|adapter| adapter.adapter().base());
        state.entries.insert(name, Entry { generation, file, stamp, adapter, base, used });
        if is_read {
            self.let_go(&mut state);
        }
        Ok(generation)
    }

    /// Lets go of the adapters from files that were used longest ago, but for as many as may stay.
    fn let_go(&self, state: &mut State) {
        let from_file = |entry: &&mut Entry| entry.adapter.is_some() && entry.file.is_some();
        let mut resident: Vec<_> = state.entries.values_mut().filter(from_file).collect();
        if resident.len() > self.options.resident {
            resident.sort_unstable_by_key(|entry| entry.used);
            let over = resident.len() - self.options.resident;
            resident.into_iter().take(over).for_each(|entry| entry.adapter = None);
        }
    }

    /// A panic while the lock was held cannot leave an entry half written.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The adapter in an archive, read as a whole and verified by its checksum.
///
/// # Errors
/// A [`FileError`] that names the file.
pub fn read_adapter(path: &Path) -> Result<SharedAdapter, FileError> {
    SharedAdapter::open(Buffer::read(path)?).map_err(|error| FileError::core(path, "", error))
}

/// Is a name as it is expected to be?
fn check(state: &State, name: &str, expected: Expected) -> Result<(), RegistryError> {
    let current = state.entries.get(name).map(|entry| entry.generation);
    match (expected, current) {
        (Expected::Any, _) | (Expected::Absent, None) => Ok(()),
        (Expected::Absent, Some(_)) => Err(RegistryError::Exists(name.to_owned())),
        (Expected::Generation(_), None) => Err(RegistryError::Unknown(name.to_owned())),
        (Expected::Generation(expected), Some(current)) if expected == current => Ok(()),
        (Expected::Generation(expected), Some(current)) => {
            Err(RegistryError::Stale { name: name.to_owned(), expected, current })
        }
    }
}
