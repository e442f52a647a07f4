//! What a device does for a session. The session keeps the books (sequences, positions, adapters,
//! sampling) and never sees a key, a value or a state.

use crate::adapter::{Handle, Selection};
use crate::archive::Fingerprint;
use crate::error::Result;
use crate::model::bert::{Bert, Pooling};
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

    /// Refuses to go on where the device has failed.
    #[inline(always)]
    fn alive(&self) -> Result<()> {
        Ok(())
    }
}

/// A BERT-family encoder on a device, with the memory of the last batch of texts, which are
/// `segments` of its rows: text i is sequence i. The caller has checked every number.
pub(crate) trait Encode<'m> {
    /// The base.
    fn model(&self) -> &Bert<'m>;

    /// Encodes a batch; `active` are the adapters of all sequences, `[batch, max_active]`.
    fn encode(
        &mut self,
        tokens: &[u32],
        types: &[u32],
        segments: &[Segment],
        active: &[Handle<'_>],
    ) -> Result<()>;

    /// The last hidden states of a text, `[tokens, dim]`.
    fn hidden(&self, segments: &[Segment], sequence: usize) -> Result<&[f32]>;

    /// One vector of a text, `[dim]`, pooled so, and brought to length 1 if asked for.
    fn vector(
        &mut self,
        segments: &[Segment],
        sequence: usize,
        pooling: (Pooling, bool),
        active: &[Handle<'_>],
    ) -> Result<&[f32]>;

    /// The logits of the text's classifier, as many as it has labels.
    fn classify(
        &mut self,
        segments: &[Segment],
        sequence: usize,
        selection: &Selection<'_, '_>,
        logits: &mut [f32],
    ) -> Result<()>;
}
