//! Speculative decoding: a step that reads, in the same pass, a guess of the tokens that follow its
//! own.
//!
//! A pass of a few tokens takes little longer than one of a single token, since both read every
//! weight. What the guess got right need not be computed again; the rest of it is forgotten with the
//! first token that is another one. Tokens are chosen as ever, from the logits after the tokens
//! that were really chosen. A guess changes how long they take, and at most the last bits of sums,
//! since products of several vectors may be added up in another order than those of one.

use core::slice::from_ref;

use super::{Sequence, Sequences};
use crate::error::{Error, Result};
use crate::nn::Segment;
use crate::runtime::session::Decoder;
use crate::runtime::{Lookup, MOST_DRAFT};

#[allow(private_bounds, reason = "runners are the crate's own")]
impl<R: Decoder> Sequences<'_, '_, R> {
    /// Appends a token to a sequence like [`step`](Self::step), and reads `draft` along with it: a
    /// guess of the tokens that follow, which are not appended yet. Those that turn out to be
    /// chosen are appended by [`confirm`](Self::confirm) at no cost; whatever else is appended
    /// ends the draft. Others' drafts end too. The logits are those of `step`, but for the order in
    /// which products of several vectors are added up.
    ///
    /// # Errors
    /// As [`step`](Self::step); [`Error::Length`] if the draft is longer than
    /// [`Limits::draft`](crate::runtime::Limits::draft); then nothing changed.
    pub fn step_with_draft(&mut self, sequence: usize, token: u32, draft: &[u32]) -> Result<()> {
        if draft.is_empty() {
            return self.step(&[(sequence, token)]);
        }
        self.runner.alive()?;
        let most = self.runner.limits().draft;
        if draft.len() > most {
            return Err(Error::Length { have: draft.len(), need: most });
        }
        self.check_tokens(sequence, from_ref(&token))?;
        self.check_tokens(sequence, draft)?;
        let (position, rows) = (self.sequences[sequence].position, 1 + draft.len());
        if rows > self.context - position {
            return Err(Error::ContextFull { asked: position + rows, context: self.context });
        }
        self.end_drafts();
        self.append(0, sequence, from_ref(&token));
        self.append(1, sequence, draft);
        self.segments[0] = Segment { first: 0, rows, sequence };
        self.run(rows, 1);
        let outputs = self.runner.outputs();
        let logits = &mut self.logits[self.batch * outputs..][..rows * outputs];
        let mut one = [Segment { first: 0, rows, sequence }];
        self.runner.logits(&mut one, self.selection.handles(), logits);
        self.sequences[sequence] = Sequence {
            position: position + 1,
            ahead: draft.len(),
            row: self.batch,
            has_logits: true,
            is_named: false,
        };
        self.runner.alive()
    }

    /// Appends `token` to a sequence if it is the next of its draft: nothing is computed, the logits
    /// after it are there. False if it is not; then nothing changed.
    ///
    /// # Errors
    /// [`Error::NoSuchSequence`].
    pub fn confirm(&mut self, sequence: usize, token: u32) -> Result<bool> {
        let Sequence { position, ahead, .. } = *self.sequence(sequence)?;
        let is_next = ahead > 0 && self.history[self.kept(sequence).start + position] == token;
        if is_next {
            let sequence = &mut self.sequences[sequence];
            (sequence.position, sequence.ahead) = (position + 1, ahead - 1);
            sequence.row += 1;
        }
        Ok(is_next)
    }

    /// Appends one token to a sequence like [`step`](Self::step), by prompt lookup: if it was
    /// guessed before, nothing is computed; if not, what followed the like of it earlier in the
    /// sequence is read along with it.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn step_by_lookup(
        &mut self,
        sequence: usize,
        token: u32,
        lookup: &mut Lookup,
    ) -> Result<()> {
        if self.confirm(sequence, token)? {
            lookup.learn(true);
            return Ok(());
        }
        if self.sequence(sequence)?.ahead > 0 {
            lookup.learn(false);
        }
        let mut draft = [0; MOST_DRAFT];
        let most = self.runner.limits().draft.min(self.room(sequence)?.saturating_sub(1));
        let draft = &mut draft[..most.min(MOST_DRAFT)];
        let count = lookup.guess(&self.history[self.kept(sequence)], token, draft);
        self.step_with_draft(sequence, token, &draft[..count])
    }

    /// Gives logits of drafts to their sequences and ends the drafts: the next one needs the place.
    fn end_drafts(&mut self) {
        let outputs = self.runner.outputs();
        for (i, sequence) in self.sequences.iter_mut().enumerate() {
            if sequence.has_logits && sequence.row >= self.batch {
                let row = sequence.row * outputs;
                self.logits.copy_within(row..row + outputs, i * outputs);
                sequence.row = i;
            }
            sequence.ahead = 0;
        }
    }
}
