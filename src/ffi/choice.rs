//! Which adapters of a set a sequence uses, and how strongly.

use super::failure::{Outcome, Refusal};
use super::memory::{Span, slice};
use super::set::SetValue;
use crate::adapter::Choice;

/// The most adapters that can be chosen at once.
pub const LOWRANK_MAX_CHOICES: usize = 32;

/// One adapter of a choice. `lowrank_choice choice = LOWRANK_CHOICE(slot);` takes it as it was
/// trained.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lowrank_choice {
    /// The slot of the set.
    pub slot: u32,
    /// 1 is as trained, other values scale its effect. 0 is refused (`LOWRANK_ERROR_NO_WEIGHT`): to
    /// switch an adapter off, choose without it.
    pub weight: f32,
    /// A rank below the trained one (DyLoRA), or 0 for all of it. Refused for DoRA.
    pub rank: u32,
}

/// The choices of a call.
pub(super) struct Chosen {
    choices: [Choice; LOWRANK_MAX_CHOICES],
    count: usize,
}

impl Chosen {
    /// Copies `count` choices.
    ///
    /// # Safety
    /// As [`slice`].
    pub(super) unsafe fn new(choices: *const lowrank_choice, count: usize) -> Outcome<Self> {
        if count > LOWRANK_MAX_CHOICES {
            return Err(Refusal::TooManyChoices { have: count, most: LOWRANK_MAX_CHOICES }.into());
        }
        let mut chosen = Self { choices: [Choice::slot(0); LOWRANK_MAX_CHOICES], count };
        // SAFETY: the caller's promise.
        for (to, from) in chosen.choices.iter_mut().zip(unsafe { slice(choices, count) }) {
            let &lowrank_choice { slot, weight, rank } = from;
            if weight == 0.0 {
                return Err(Refusal::NoWeight { slot }.into());
            }
            *to = Choice { slot, weight, rank: (rank > 0).then_some(rank) };
        }
        Ok(chosen)
    }

    pub(super) fn as_slice(&self) -> &[Choice] {
        self.choices.get(..self.count).unwrap_or_default()
    }

    /// Refuses a set (argument 3) or chosen adapters that lie in the `workspace` of the object in
    /// argument 1.
    pub(super) fn check(&self, set: &SetValue, workspace: Span) -> Outcome {
        let inside = |choice: &Choice| {
            set.archive(choice.slot).is_some_and(|archive| archive.meets(workspace))
        };
        if set.memory.meets(workspace) || self.as_slice().iter().any(inside) {
            return Err(Refusal::Overlap { first: 1, second: 3 }.into());
        }
        Ok(())
    }
}
