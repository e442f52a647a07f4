//! The adapters chosen for a sequence: what every kind of session checks before it takes them.

use crate::adapter::{Active, Choice, Classifier, Resolve};
use crate::archive::Fingerprint;
use crate::error::{Error, Result};

/// An adapter of a sequence, or none.
pub(super) type Handle<'a> = Option<Active<'a>>;

/// Does `choices` resolve, for this base, to at most `most` adapters of at most `most_rank` ranks
/// together?
pub(super) fn check<'a>(
    set: &impl Resolve<'a>,
    choices: &[Choice],
    base: Fingerprint,
    most: usize,
    most_rank: usize,
) -> Result<()> {
    if choices.len() > most {
        return Err(Error::TooManyActive { asked: choices.len(), most });
    }
    if set.base() != base && !choices.is_empty() {
        return Err(Error::OtherBase { adapter: set.base().short(), base: base.short() });
    }
    let mut rank = 0;
    for choice in choices {
        rank += set.resolve(choice)?.max_rank();
    }
    if rank > most_rank {
        return Err(Error::TotalRank { asked: rank, most: most_rank });
    }
    Ok(())
}

/// The classifier of a sequence with these adapters: that of the one which brings one.
pub(super) fn classifier<'a>(sequence: usize, handles: &[Handle<'a>]) -> Result<Classifier<'a>> {
    let mut classifiers = handles.iter().flatten().filter_map(|active| active.adapter.classifier());
    match (classifiers.next(), classifiers.count()) {
        (Some(classifier), 0) => Ok(classifier),
        (first, more) => {
            Err(Error::Classifiers { sequence, found: usize::from(first.is_some()) + more })
        }
    }
}
