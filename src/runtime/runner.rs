//! What a device does for a session. The session keeps the books (sequences, positions, adapters,
//! sampling) and never sees a key, a value or a state.

use crate::adapter::Handle;
use crate::archive::Fingerprint;
use crate::error::Result;
use crate::nn::Segment;

/// A model on a device, with the memory that its sequences fill. The caller has checked every
/// number.
pub(crate) trait Runner {
    /// The opened base.
    type Model;

    /// The base.
    fn model(&self) -> &Self::Model;
    /// What adapters are bound to.
    fn fingerprint(&self) -> Fingerprint;
    /// Tokens in the vocabulary.
    fn vocab(&self) -> usize;
    /// Outputs of the head; 0 if there is none.
    fn outputs(&self) -> usize;

    /// Runs rows through the model: a row is a token at a position of its sequence, `segments` are
    /// consecutive rows of one sequence, and `active` are the adapters of all sequences, `[batch,
    /// max_active]`. The rows' results stay until the next call.
    fn run(
        &mut self,
        tokens: &[u32],
        positions: &[usize],
        segments: &[Segment],
        active: &[Handle<'_>],
    );

    /// The head's outputs for rows of the last [`run`](Self::run), one segment behind the other,
    /// `[rows, outputs]`. Uses `segments` up.
    fn logits(&mut self, segments: &mut [Segment], active: &[Handle<'_>], out: &mut [f32]);

    /// Refuses `logits` of a sequence of `seen` tokens that are what they are because its memory
    /// could not hold a number.
    fn check(&self, sequence: usize, seen: usize, logits: &[f32]) -> Result<()>;

    /// Forgets all that a sequence has left behind.
    fn forget(&mut self, sequence: usize);
}
