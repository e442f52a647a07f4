//! Slots of attached adapters, with generations, in the caller's memory.
//!
//! A set is what an application swaps; a session copies the handles it resolves, so a swap never
//! touches it. No locks here: the shared set behind `std` is in `shared`.

use core::fmt;

use super::{Adapter, Chosen, Scaled};
use crate::archive::Fingerprint;
use crate::error::{Error, Result, RootKind};
use crate::quant::Matrix;

/// What an adapter must fit: a base's identity, the shapes of its sites, and the weights that
/// building one asks for.
pub trait Base: Sync {
    /// The hash of its content.
    fn fingerprint(&self) -> Fingerprint;
    /// Its root kind.
    fn root(&self) -> RootKind;
    /// The number of its sites.
    fn sites(&self) -> u32;
    /// `[rows, cols]` of the weight at `site`, and whether it is an embedding; `None` past the end.
    fn site(&self, site: u32) -> Option<(usize, usize, bool)>;
    /// The dimension of its hidden states: what a classifier reads.
    fn dim(&self) -> usize;
    /// The weight at `site`; `None` where [`site`](Self::site) is.
    fn weight_at(&self, site: u32) -> Option<Matrix<'_>>;
    /// The bias at `site`, `[rows]`; empty where there is none.
    #[cfg(feature = "std")]
    fn bias_at(&self, _site: u32) -> &[f32] {
        &[]
    }
    /// Can an adapter scale the inputs of `site`: does no other layer read them?
    fn scales_inputs(&self, _site: u32) -> bool {
        false
    }
    /// Writes the module path of `site` as transformers has it; nothing past the end.
    ///
    /// # Errors
    /// What `out` says.
    fn write_path(&self, site: u32, out: &mut dyn fmt::Write) -> fmt::Result;
    /// The embedding's site and the output head's, if the two share one weight.
    fn tied(&self) -> Option<(u32, u32)> {
        None
    }
}

/// Checks that `adapter` fits `base`: fingerprint, sites, shapes. O(targets); reads no values.
///
/// # Errors
/// [`Error::OtherBase`], [`Error::UnknownSite`], [`Error::Shape`], [`Error::InputScaling`].
pub fn check_fit(adapter: &Adapter<'_>, base: &dyn Base) -> Result<()> {
    if adapter.base() != base.fingerprint() || adapter.base_root() != base.root() {
        return Err(Error::OtherBase {
            adapter: adapter.base().short(),
            base: base.fingerprint().short(),
        });
    }
    let sites = base.sites();
    if adapter.sites() != sites {
        return Err(Error::UnknownSite { site: adapter.sites().saturating_sub(1), sites });
    }
    if let Some(classifier) = adapter.classifier() {
        let (rows, cols, dim) = (
            classifier.weight().rows() as u64,
            classifier.weight().cols() as u64,
            base.dim() as u64,
        );
        if cols != dim {
            return Err(Error::Shape {
                site: sites,
                rows,
                cols,
                expected_rows: rows,
                expected_cols: dim,
            });
        }
    }
    for target in adapter.targets() {
        let site = target.site;
        let (rows, cols, is_embedding) =
            base.site(site).ok_or(Error::UnknownSite { site, sites })?;
        let expected = if is_embedding { (cols, rows) } else { (rows, cols) };
        if (target.outputs, target.inputs) != expected || target.is_embedding != is_embedding {
            return Err(Error::Shape {
                site,
                rows: target.outputs as u64,
                cols: target.inputs as u64,
                expected_rows: expected.0 as u64,
                expected_cols: expected.1 as u64,
            });
        }
        if target.scaled == Some(Scaled::Input) && !base.scales_inputs(site) {
            return Err(Error::InputScaling { site });
        }
    }
    Ok(())
}

/// Counts the changes of a slot; never repeats.
pub type Generation = u64;

/// A place for one adapter. Make an array of [`Slot::EMPTY`] and hand it to [`AdapterSet::new`].
#[derive(Debug, Clone, Copy)]
pub struct Slot<'a> {
    adapter: Option<Adapter<'a>>,
    generation: Generation,
}

impl Slot<'_> {
    /// A slot that holds nothing.
    pub const EMPTY: Self = Self { adapter: None, generation: 0 };
}

/// One adapter of a selection: which slot, how strongly, at which rank.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// The slot.
    pub slot: u32,
    /// w: 1 is as trained, 0 switches it off, other values scale its effect.
    pub weight: f32,
    /// A run-time rank below the trained one (DyLoRA, arXiv 2210.07558); `None` for all of it.
    /// Refused for DoRA, and where nothing has factors (IA3).
    pub rank: Option<u32>,
}

impl Choice {
    /// The adapter in `slot` as it was trained.
    pub const fn slot(slot: u32) -> Self {
        Self { slot, weight: 1.0, rank: None }
    }
}

/// A resolved choice: what a session keeps.
#[derive(Debug, Clone, Copy)]
pub struct Active<'a> {
    pub(crate) adapter: Adapter<'a>,
    pub(crate) weight: f32,
    pub(crate) rank: Option<u32>,
}

impl<'a> Active<'a> {
    /// Resolves `choice` to `adapter`, which was checked against the base.
    pub(super) fn new(adapter: Adapter<'a>, choice: &Choice) -> Result<Self> {
        if !choice.weight.is_finite() {
            return Err(Error::AdapterWeight { slot: choice.slot, weight: choice.weight });
        }
        if let Some(asked) = choice.rank {
            let most = adapter.max_rank() as u32;
            if most == 0 || adapter.is_dora() {
                return Err(Error::RankFixed { asked, rank: most });
            }
            if asked == 0 || asked > most {
                return Err(Error::Rank { found: asked, most });
            }
        }
        Ok(Self { adapter, weight: choice.weight, rank: choice.rank })
    }

    /// The most rank any layer sees.
    pub(crate) fn max_rank(&self) -> usize {
        self.adapter.max_rank().min(self.rank.map_or(usize::MAX, |rank| rank as usize))
    }

    /// What is equal where the same opened adapter was chosen in the same way.
    pub(crate) fn key(&self) -> (usize, u32, Option<u32>) {
        (self.adapter.address(), self.weight.to_bits(), self.rank)
    }

    /// Would a key-value cache computed under `other` be the same?
    pub(crate) fn same_as(&self, other: &Active<'_>) -> bool {
        self.adapter.same_content(&other.adapter)
            && self.weight == other.weight
            && self.rank == other.rank
    }
}

/// Where a session finds the adapters of a selection.
pub trait Resolve<'a> {
    /// The adapter that `choice` names.
    ///
    /// # Errors
    /// [`Error::NoSuchSlot`], [`Error::EmptySlot`], [`Error::AdapterWeight`], [`Error::Rank`],
    /// [`Error::RankFixed`].
    fn resolve(&self, choice: &Choice) -> Result<Chosen<'a>>;
}

impl<'a, R: Resolve<'a> + ?Sized> Resolve<'a> for &R {
    fn resolve(&self, choice: &Choice) -> Result<Chosen<'a>> {
        (**self).resolve(choice)
    }
}

/// Which adapter of several was refused, and why.
#[cfg(feature = "alloc")]
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttachError {
    /// Its number, from 0.
    pub index: usize,
    /// Why.
    pub error: Error,
}

#[cfg(feature = "alloc")]
impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "adapter {}: {}", self.index, self.error)
    }
}

#[cfg(feature = "alloc")]
impl core::error::Error for AttachError {}

/// Attached adapters of one base, in the caller's slots.
///
/// ```
/// use lowrank::adapter::{Adapter, AdapterSet, Choice, Slot};
/// # use lowrank::archive::ArchiveFile;
/// # use lowrank::model::llama::Llama;
/// # use lowrank::runtime::{Limits, Memory, Serial, Session, need};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let base = ArchiveFile::open("assets/tiny.lrk")?;
/// # let (pirate, notes) =
/// #     (ArchiveFile::open("assets/tiny-pirate.lrk")?, ArchiveFile::open("assets/tiny-notes.lrk")?);
/// let model = Llama::open(&base)?;
/// let mut slots = [Slot::EMPTY; 4];
/// let mut set = AdapterSet::new(&mut slots, &model);
/// let first = set.attach(0, Adapter::open(&pirate)?)?;
/// set.attach(1, Adapter::open(&notes)?)?;
///
/// # let limits = Limits { batch: 2, ..Limits::new(64) };
/// # let mut memory = Memory::new(need(model.config(), &limits));
/// # let mut session = Session::new(model, &limits, memory.as_mut(), &Serial)?;
/// session.select(0, &set, &[Choice::slot(0)])?;
/// session.select(1, &set, &[Choice { weight: 0.5, ..Choice::slot(1) }])?;
///
/// // Another adapter in place of the first, if nobody was faster. Sequence 0 keeps what it has
/// // until it selects again.
/// set.replace(0, first, Adapter::open(&notes)?)?;
/// assert!(set.replace(0, first, Adapter::open(&pirate)?).is_err());
/// # Ok(())
/// # }
/// ```
pub struct AdapterSet<'s, 'a> {
    slots: &'s mut [Slot<'a>],
    base: &'s dyn Base,
}

impl fmt::Debug for AdapterSet<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdapterSet").field("slots", &self.slots).finish_non_exhaustive()
    }
}

impl<'s, 'a> AdapterSet<'s, 'a> {
    /// A set over the caller's slots for adapters of `base`.
    pub fn new(slots: &'s mut [Slot<'a>], base: &'s dyn Base) -> Self {
        Self { slots, base }
    }

    /// Puts an adapter into an empty slot; returns the slot's generation. Copies no weights.
    ///
    /// # Errors
    /// Those of [`replace`](Self::replace); [`Error::SlotTaken`] if it is not empty.
    pub fn attach(&mut self, slot: u32, adapter: Adapter<'a>) -> Result<Generation> {
        let entry = self.entry(slot)?;
        let (taken, current) = (entry.adapter.is_some(), entry.generation);
        if taken {
            return Err(Error::SlotTaken { slot, generation: current });
        }
        self.replace(slot, current, adapter)
    }

    /// Puts adapters, each with its weight, into the slots from 0 on; returns the choices that make
    /// all of them active together, in their order. Copies no weights.
    ///
    /// # Errors
    /// As [`attach`](Self::attach), with the number of the adapter that was refused; those before
    /// it stay attached.
    #[cfg(feature = "alloc")]
    pub fn attach_all(
        &mut self,
        adapters: impl IntoIterator<Item = (Adapter<'a>, f32)>,
    ) -> Result<alloc::vec::Vec<Choice>, AttachError> {
        let attach = |(slot, (adapter, weight))| {
            self.attach(slot, adapter)
                .map(|_| Choice { weight, ..Choice::slot(slot) })
                .map_err(|error| AttachError { index: slot as usize, error })
        };
        (0..).zip(adapters).map(attach).collect()
    }

    /// Puts an adapter into a slot if its generation is still `expected`; returns the new
    /// generation. On an error the old one stays.
    ///
    /// # Errors
    /// [`Error::NoSuchSlot`], [`Error::StaleGeneration`], and those of [`check_fit`].
    pub fn replace(
        &mut self,
        slot: u32,
        expected: Generation,
        adapter: Adapter<'a>,
    ) -> Result<Generation> {
        check_fit(&adapter, self.base)?;
        self.set(slot, expected, Some(adapter))
    }

    /// Empties a slot if its generation is still `expected`; returns the new generation.
    ///
    /// # Errors
    /// [`Error::NoSuchSlot`], [`Error::StaleGeneration`].
    pub fn detach(&mut self, slot: u32, expected: Generation) -> Result<Generation> {
        self.set(slot, expected, None)
    }

    /// The adapter in `slot` and the slot's generation.
    ///
    /// # Errors
    /// [`Error::NoSuchSlot`].
    pub fn get(&self, slot: u32) -> Result<(Option<Adapter<'a>>, Generation)> {
        let slots = self.slots.len() as u32;
        self.slots
            .get(slot as usize)
            .map(|entry| (entry.adapter, entry.generation))
            .ok_or(Error::NoSuchSlot { slot, slots })
    }

    /// The slot's generation, which [`replace`](Self::replace) and [`detach`](Self::detach) expect.
    ///
    /// # Errors
    /// [`Error::NoSuchSlot`].
    pub fn generation(&self, slot: u32) -> Result<Generation> {
        Ok(self.get(slot)?.1)
    }

    fn set(
        &mut self,
        slot: u32,
        expected: Generation,
        adapter: Option<Adapter<'a>>,
    ) -> Result<Generation> {
        let entry = self.entry(slot)?;
        if entry.generation != expected {
            return Err(Error::StaleGeneration { slot, expected, current: entry.generation });
        }
        *entry = Slot { adapter, generation: expected + 1 };
        Ok(entry.generation)
    }

    fn entry(&mut self, slot: u32) -> Result<&mut Slot<'a>> {
        let slots = self.slots.len() as u32;
        self.slots.get_mut(slot as usize).ok_or(Error::NoSuchSlot { slot, slots })
    }
}

impl<'a> Resolve<'a> for AdapterSet<'_, 'a> {
    fn resolve(&self, choice: &Choice) -> Result<Chosen<'a>> {
        let (adapter, _) = self.get(choice.slot)?;
        Chosen::borrowed(adapter.ok_or(Error::EmptySlot { slot: choice.slot })?, choice)
    }
}
