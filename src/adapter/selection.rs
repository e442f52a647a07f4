//! The adapters chosen for the sequences of a session: resolved from a set, checked against the
//! session's limits, and kept until something else is chosen.
//!
//! Adapters that are borrowed are copied (a few words). With `std`, adapters that own their bytes
//! are held by their `Arc`, so a running session takes adapters that were made after it, and the
//! last sequence that lets go of one frees it.

use core::ops::Range;
#[cfg(feature = "std")]
use std::sync::Arc;

#[cfg(feature = "std")]
use super::SharedAdapter;
use super::{Active, Adapter, Choice, Classifier, Resolve};
use crate::archive::Fingerprint;
use crate::error::{Error, Result};
use crate::quant::Matrix;

/// A resolved choice: what [`Resolve::resolve`] gives and a session keeps.
#[derive(Debug, Clone)]
pub struct Chosen<'a> {
    /// Of an adapter with an owner: it lives as long as `owner` does, whatever `'a` says. So it is
    /// handed out for as long as `self` is borrowed, or together with its owner.
    active: Active<'a>,
    #[cfg(feature = "std")]
    owner: Option<Arc<SharedAdapter>>,
}

impl<'a> Chosen<'a> {
    /// `choice` of `adapter`, which was checked against the base.
    pub(super) fn borrowed(adapter: Adapter<'a>, choice: &Choice) -> Result<Self> {
        Ok(Self {
            active: Active::new(adapter, choice)?,
            #[cfg(feature = "std")]
            owner: None,
        })
    }

    /// `choice` of an adapter that is held as long as it is chosen.
    #[cfg(feature = "std")]
    #[allow(unsafe_code)]
    pub(crate) fn owned(adapter: &Arc<SharedAdapter>, choice: &Choice) -> Result<Self> {
        let owner = Arc::clone(adapter);
        // SAFETY: the bytes do not move with their owner and stay while one `Arc` of it does; this
        // value keeps one, and gives the adapter away only with it or for as long as it lives.
        let adapter = unsafe { &*Arc::as_ptr(&owner) }.adapter();
        Ok(Self { active: Active::new(adapter, choice)?, owner: Some(owner) })
    }

    /// The adapter, how strongly and at which rank.
    pub fn active(&self) -> &Active<'_> {
        &self.active
    }
}

/// An adapter of a sequence, or none.
pub(crate) type Handle<'a> = Option<Active<'a>>;

/// The adapters of every sequence of a session.
#[derive(Debug)]
pub(crate) struct Selection<'w, 'a> {
    /// `[batch, max_active]`. Those with an owner live as long as it is in `owners`.
    handles: &'w mut [Handle<'a>],
    rules: Rules,
    /// Empty until an adapter with an owner is chosen.
    #[cfg(feature = "std")]
    owners: Vec<Option<Arc<SharedAdapter>>>,
}

/// What may be chosen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// The base that all adapters are for.
    pub(crate) base: Fingerprint,
    /// Sequences.
    pub(crate) batch: usize,
    /// Adapters of one sequence.
    pub(crate) max_active: usize,
    /// The sum of their ranks.
    pub(crate) max_total_rank: usize,
}

impl<'w, 'a> Selection<'w, 'a> {
    /// Nothing chosen: `handles`, `[batch, max_active]`, hold none.
    pub(crate) fn new(handles: &'w mut [Handle<'a>], rules: Rules) -> Self {
        Self {
            handles,
            rules,
            #[cfg(feature = "std")]
            owners: Vec::new(),
        }
    }

    /// The adapters of all sequences, `[batch, max_active]`.
    pub(crate) fn handles(&self) -> &[Handle<'_>] {
        self.handles
    }

    /// Is there such a sequence?
    pub(crate) fn check_sequence(&self, sequence: usize) -> Result<()> {
        let batch = self.rules.batch;
        if sequence < batch { Ok(()) } else { Err(Error::NoSuchSequence { sequence, batch }) }
    }

    /// Is there such a sequence, and does `choices` resolve to adapters that the rules allow?
    pub(crate) fn check(
        &self,
        sequence: usize,
        set: &impl Resolve<'a>,
        choices: &[Choice],
    ) -> Result<()> {
        self.check_sequence(sequence)?;
        let Rules { max_active, max_total_rank, .. } = self.rules;
        if choices.len() > max_active {
            return Err(Error::TooManyActive { asked: choices.len(), most: max_active });
        }
        let mut rank = 0;
        for choice in choices {
            rank += self.resolve(set, choice)?.active.max_rank();
        }
        if rank > max_total_rank {
            return Err(Error::TotalRank { asked: rank, most: max_total_rank });
        }
        Ok(())
    }

    /// The adapter that `choice` names, if it is one of this base: sets check whether what they hold
    /// fits theirs, which may be another.
    fn resolve(&self, set: &impl Resolve<'a>, choice: &Choice) -> Result<Chosen<'a>> {
        let (chosen, base) = (set.resolve(choice)?, self.rules.base);
        let adapter = chosen.active.adapter.base();
        if adapter == base {
            Ok(chosen)
        } else {
            Err(Error::OtherBase { adapter: adapter.short(), base: base.short() })
        }
    }

    /// Would a cache of `sequence` be the same under `choices`?
    pub(crate) fn is(
        &self,
        sequence: usize,
        set: &impl Resolve<'a>,
        choices: &[Choice],
    ) -> Result<bool> {
        let handles = &self.handles[self.places(sequence)];
        let mut same = handles.iter().flatten().count() == choices.len();
        for (handle, choice) in handles.iter().flatten().zip(choices) {
            same &= handle.same_as(&self.resolve(set, choice)?.active);
        }
        Ok(same)
    }

    /// Chooses for a sequence what [`check`](Self::check) allowed.
    pub(crate) fn choose(
        &mut self,
        sequence: usize,
        set: &impl Resolve<'a>,
        choices: &[Choice],
    ) -> Result<()> {
        for (i, place) in self.places(sequence).enumerate() {
            let chosen = choices.get(i).map(|choice| self.resolve(set, choice)).transpose()?;
            self.put(place, chosen);
        }
        Ok(())
    }

    /// Lets go of a sequence's adapters.
    pub(crate) fn clear(&mut self, sequence: usize) {
        self.places(sequence).for_each(|place| self.put(place, None));
    }

    /// Gives sequence `to` the adapters of `from`.
    pub(crate) fn copy(&mut self, from: usize, to: usize) {
        for (from, to) in self.places(from).zip(self.places(to)) {
            let chosen = self.handles[from].map(|active| Chosen {
                active,
                #[cfg(feature = "std")]
                owner: self.owners.get(from).cloned().flatten(),
            });
            self.put(to, chosen);
        }
    }

    /// The classifier of a sequence, if there is such a one: that of the one of its adapters which
    /// brings one.
    pub(crate) fn classifier(&self, sequence: usize) -> Result<Classifier<'_>> {
        self.check_sequence(sequence)?;
        let handles = &self.handles()[self.places(sequence)];
        let mut classifiers =
            handles.iter().flatten().filter_map(|active| active.adapter.classifier());
        match (classifiers.next(), classifiers.count()) {
            (Some(classifier), 0) => Ok(classifier),
            (first, more) => {
                Err(Error::Classifiers { sequence, found: usize::from(first.is_some()) + more })
            }
        }
    }

    /// The adapter of a sequence whose pooler its classifier reads, if one brings a pooler.
    pub(crate) fn pooler(&self, sequence: usize) -> Option<(Matrix<'_>, &[f32])> {
        let handles = &self.handles()[self.places(sequence)];
        handles.iter().flatten().find_map(|active| active.adapter.pooler())
    }

    fn places(&self, sequence: usize) -> Range<usize> {
        sequence * self.rules.max_active..(sequence + 1) * self.rules.max_active
    }

    /// The handle first leaves its place, then its owner.
    fn put(&mut self, place: usize, chosen: Option<Chosen<'a>>) {
        self.handles[place] = None;
        #[cfg(feature = "std")]
        {
            let owner = chosen.as_ref().and_then(|chosen| chosen.owner.clone());
            if owner.is_some() && self.owners.len() < self.handles.len() {
                self.owners.resize_with(self.handles.len(), || None);
            }
            if let Some(held) = self.owners.get_mut(place) {
                *held = owner;
            }
        }
        self.handles[place] = chosen.map(|chosen| chosen.active);
    }
}
