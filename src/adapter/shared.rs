//! A set of adapters that threads share: adapters own their bytes and live as long as the last
//! session that uses them.
//!
//! `std` only. Sessions pin what they use ([`SharedSet::pin`]); a swap changes what the next pin
//! sees.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::set::{Base, Choice, Generation, Resolve, check_fit};
use super::{Adapter, Chosen};
use crate::archive::{ArchiveFile, Buffer, Header};
use crate::error::{Error, Result};

/// The bytes of an archive, owned. The kinds are those of this crate and plain memory, because an
/// opened archive is trusted to show the same bytes every time: a type of the caller's could hand
/// out others.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use lowrank::{adapter::SharedAdapter, archive::ArchiveFile};
/// let adapter = SharedAdapter::open(ArchiveFile::open("style.lrk")?)?;
/// # Ok(())
/// # }
/// ```
///
/// ```compile_fail,E0277
/// struct Changing;
/// impl AsRef<[u8]> for Changing {
///     fn as_ref(&self) -> &[u8] { &[] }
/// }
/// lowrank::adapter::SharedAdapter::open(Changing);
/// ```
///
/// ```compile_fail,E0277
/// # struct Changing;
/// # impl AsRef<[u8]> for Changing {
/// #     fn as_ref(&self) -> &[u8] { &[] }
/// # }
/// lowrank::adapter::SharedAdapter::open(Box::new(Changing));
/// ```
#[derive(Debug, Clone)]
pub struct Bytes(Owner);

#[derive(Debug, Clone)]
enum Owner {
    File(Arc<ArchiveFile>),
    Buffer(Arc<Buffer>),
    Static(&'static [u8]),
}

impl Bytes {
    pub(crate) fn get(&self) -> &[u8] {
        match &self.0 {
            Owner::File(file) => file,
            Owner::Buffer(buffer) => buffer,
            Owner::Static(bytes) => bytes,
        }
    }
}

macro_rules! owners {
    ($($ty:ty => $kind:ident $make:expr,)+) => {$(
        impl From<$ty> for Bytes {
            fn from(owner: $ty) -> Self {
                Self(Owner::$kind($make(owner)))
            }
        }
    )+};
}
owners! {
    ArchiveFile => File Arc::new,
    Box<ArchiveFile> => File Arc::from,
    Arc<ArchiveFile> => File std::convert::identity,
    Buffer => Buffer Arc::new,
    Box<Buffer> => Buffer Arc::from,
    Arc<Buffer> => Buffer std::convert::identity,
    &'static [u8] => Static std::convert::identity,
}

/// An adapter with the archive it lives in.
pub struct SharedAdapter {
    bytes: Bytes,
    header: Header,
}

impl std::fmt::Debug for SharedAdapter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SharedAdapter").field(&self.adapter()).finish()
    }
}

impl SharedAdapter {
    /// Opens an archive and takes it over.
    ///
    /// # Errors
    /// As [`Adapter::open`].
    pub fn open(bytes: impl Into<Bytes>) -> Result<Self> {
        let bytes = bytes.into();
        let archive = bytes.get();
        let header = Header::parse(archive)?;
        Adapter::open(archive)?;
        Ok(Self { bytes, header })
    }

    /// The adapter.
    #[allow(unsafe_code)]
    pub fn adapter(&self) -> Adapter<'_> {
        // SAFETY: `open` accepted these bytes. They are owned here, handed out for reading only, and
        // every kind of `Owner` is this crate's own: it shows the same, unchanged bytes again.
        unsafe { Adapter::reopen(self.bytes.get(), &self.header) }
    }
}

#[derive(Debug, Default)]
struct Slot {
    adapter: Option<Arc<SharedAdapter>>,
    generation: Generation,
}

/// Adapters of one base, swapped by any thread. Slots are numbered from 0 and made when first used.
#[derive(Debug)]
pub struct SharedSet<B> {
    base: B,
    slots: Mutex<Vec<Slot>>,
}

/// The most slots a shared set has.
const MAX_SLOTS: u32 = 1 << 16;

impl<B: Base> SharedSet<B> {
    /// An empty set for adapters of `base`.
    pub fn new(base: B) -> Self {
        Self { base, slots: Mutex::default() }
    }

    /// The slot's generation: 0 until something was put there.
    pub fn generation(&self, slot: u32) -> Generation {
        self.lock().get(slot as usize).map_or(0, |slot| slot.generation)
    }

    /// Puts an adapter into a slot if its generation is still `expected`; returns the new
    /// generation. On an error the old one stays.
    ///
    /// # Errors
    /// [`Error::StaleGeneration`], [`Error::NoSuchSlot`] past 65,536 slots, [`Error::OtherBase`],
    /// [`Error::UnknownSite`], [`Error::Shape`].
    pub fn replace(
        &self,
        slot: u32,
        expected: Generation,
        adapter: Arc<SharedAdapter>,
    ) -> Result<Generation> {
        check_fit(&adapter.adapter(), &self.base)?;
        self.set(slot, expected, Some(adapter))
    }

    /// Empties a slot if its generation is still `expected`; returns the new generation.
    ///
    /// # Errors
    /// [`Error::StaleGeneration`], [`Error::NoSuchSlot`].
    pub fn detach(&self, slot: u32, expected: Generation) -> Result<Generation> {
        self.set(slot, expected, None)
    }

    /// Holds the adapters of `slots` as they are now: what a session borrows from. Later swaps
    /// don't change it.
    ///
    /// # Errors
    /// [`Error::EmptySlot`].
    pub fn pin(&self, slots: &[u32]) -> Result<Pinned> {
        let held = self.lock();
        let pin = |&slot: &u32| match held.get(slot as usize).and_then(|slot| slot.adapter.clone())
        {
            Some(adapter) => Ok((slot, adapter)),
            None => Err(Error::EmptySlot { slot }),
        };
        Ok(Pinned { adapters: slots.iter().map(pin).collect::<Result<_>>()? })
    }

    fn set(
        &self,
        slot: u32,
        expected: Generation,
        adapter: Option<Arc<SharedAdapter>>,
    ) -> Result<Generation> {
        if slot >= MAX_SLOTS {
            return Err(Error::NoSuchSlot { slot, slots: MAX_SLOTS });
        }
        let mut slots = self.lock();
        let current = slots.get(slot as usize).map_or(0, |slot| slot.generation);
        if current != expected {
            return Err(Error::StaleGeneration { slot, expected, current });
        }
        if slots.len() <= slot as usize {
            slots.resize_with(slot as usize + 1, Slot::default);
        }
        let generation = expected + 1;
        slots[slot as usize] = Slot { adapter, generation };
        Ok(generation)
    }

    /// A panic while the lock was held cannot leave a slot half written.
    fn lock(&self) -> MutexGuard<'_, Vec<Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adapters of a [`SharedSet`] as they were at one time: what sessions choose from. A session that
/// chose one holds it itself, so this may be dropped.
#[derive(Debug, Clone)]
pub struct Pinned {
    adapters: Vec<(u32, Arc<SharedAdapter>)>,
}

impl<'a> Resolve<'a> for Pinned {
    fn resolve(&self, choice: &Choice) -> Result<Chosen<'a>> {
        let slot = choice.slot;
        let (_, adapter) = self
            .adapters
            .iter()
            .find(|(pinned, _)| *pinned == slot)
            .ok_or(Error::EmptySlot { slot })?;
        Chosen::owned(adapter, choice)
    }
}
