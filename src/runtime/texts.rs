//! The books of an encoder: texts in, hidden states, vectors and labels out, each text under its own
//! adapters. What is computed, and where, is an [`Encode`]'s matter.
//!
//! All memory is the caller's and taken at the start; nothing here allocates. The texts of a batch
//! are packed one behind the other, so a short one costs nothing for the long one beside it, and
//! none changes another's result.

use super::EncoderLimits;
use super::runner::Encode;
use crate::adapter::{Choice, Classifier, Handle, Resolve, Rules, Selection};
use crate::error::{Error, Result};
use crate::model::bert::{Bert, Pooling};
use crate::nn::{Segment, Size};
use crate::tensor::workspace::{Workspace, times, workspace};

workspace! {
    /// What an encoder keeps of a batch of texts.
    pub(super) struct Books<'w, 'm>(size: &Size, max_active: usize) {
        /// `[batch, max_active]`.
        active: [Handle<'m>; times(size.batch, max_active)] = None,
        tokens: [u32; size.rows],
        types: [u32; size.rows],
        segments: [Segment; size.batch] = Segment::default(),
    }
}

/// Encodes texts with a BERT-family base, in memory that the caller lends for `'w`; model and
/// adapters live for `'m`. See [`Encoder`](super::Encoder).
pub struct Texts<'w, 'm, R> {
    pub(super) runner: R,
    limits: EncoderLimits,
    selection: Selection<'w, 'm>,
    tokens: &'w mut [u32],
    types: &'w mut [u32],
    /// `[batch]`; the first `encoded` are valid.
    segments: &'w mut [Segment],
    encoded: usize,
}

#[allow(private_bounds, reason = "runners are the crate's own")]
impl<'m, R: Encode<'m>> core::fmt::Debug for Texts<'_, 'm, R> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Encoder")
            .field("model", self.runner.model())
            .field("encoded", &self.encoded)
            .finish_non_exhaustive()
    }
}

#[allow(private_bounds, reason = "runners are the crate's own")]
impl<'w, 'm, R: Encode<'m>> Texts<'w, 'm, R> {
    /// The books of `runner` in `w`, under limits that were checked.
    pub(super) fn with(runner: R, w: &mut Workspace<'w>, limits: &EncoderLimits) -> Self {
        let Books { active, tokens, types, segments } =
            Books::carve(w, &limits.size(), limits.max_active);
        Self {
            limits: *limits,
            selection: Selection::new(
                active,
                Rules {
                    base: runner.model().fingerprint(),
                    batch: limits.batch,
                    max_active: limits.max_active,
                    max_total_rank: limits.max_total_rank,
                },
            ),
            tokens,
            types,
            segments,
            encoded: 0,
            runner,
        }
    }

    /// Chooses the adapters of sequence `sequence` for the texts to come; what was encoded is
    /// forgotten. The encoder keeps the handles: later swaps in `set` do not touch it.
    ///
    /// # Errors
    /// [`Error::NoSuchSequence`], [`Error::OtherBase`], [`Error::TooManyActive`],
    /// [`Error::TotalRank`], and those of [`Resolve::resolve`]. The previous selection then
    /// stays.
    pub fn select(
        &mut self,
        sequence: usize,
        set: &impl Resolve<'m>,
        choices: &[Choice],
    ) -> Result<()> {
        self.selection.check(sequence, set, choices)?;
        self.encoded = 0;
        self.selection.choose(sequence, set, choices)
    }

    /// Encodes a batch: text i is the tokens of sequence i, special tokens included, all of token
    /// type 0.
    ///
    /// # Errors
    /// [`Error::Length`] for no texts, more than the batch, an empty one, or more tokens together
    /// than [`EncoderLimits::tokens`]; [`Error::ContextFull`] for a text that is too long;
    /// [`Error::Token`]; [`Error::Device`] where one fails. Nothing is encoded then.
    pub fn encode(&mut self, texts: &[&[u32]]) -> Result<()> {
        self.encode_with_types(texts, &[])
    }

    /// As [`encode`](Self::encode), with a token type for every token (pairs of sentences); no
    /// types at all mean type 0.
    ///
    /// # Errors
    /// Those of [`encode`](Self::encode); [`Error::Length`] if types and tokens differ in number,
    /// [`Error::TokenType`].
    pub fn encode_with_types(&mut self, texts: &[&[u32]], types: &[&[u32]]) -> Result<()> {
        self.encoded = 0;
        self.check_texts(texts.len(), texts.iter().copied())?;
        self.check_types(texts, types)?;
        self.pass(texts.iter().copied(), types.iter().copied())
    }

    /// As [`encode_with_types`](Self::encode_with_types), with the texts one behind the other in
    /// `tokens`: text i is the next `lengths[i]` of them. `types` has one for every token, or
    /// none at all.
    ///
    /// # Errors
    /// Those of [`encode_with_types`](Self::encode_with_types); [`Error::Length`] if the lengths do
    /// not add up to the tokens.
    pub fn encode_packed(
        &mut self,
        tokens: &[u32],
        types: &[u32],
        lengths: &[usize],
    ) -> Result<()> {
        self.encoded = 0;
        let need = lengths.iter().fold(0usize, |sum, &length| sum.saturating_add(length));
        if need != tokens.len() {
            return Err(Error::Length { have: tokens.len(), need });
        }
        if !types.is_empty() {
            self.check_types(&[tokens], &[types])?;
        }
        self.check_texts(lengths.len(), split(tokens, lengths))?;
        self.pass(
            split(tokens, lengths),
            split(types, if types.is_empty() { &[] } else { lengths }),
        )
    }

    /// Packs texts that were checked and runs the model over them.
    fn pass<'t>(
        &mut self,
        texts: impl Iterator<Item = &'t [u32]>,
        mut types: impl Iterator<Item = &'t [u32]>,
    ) -> Result<()> {
        let (mut first, mut count) = (0, 0);
        for (sequence, text) in texts.enumerate() {
            let rows = first..first + text.len();
            self.tokens[rows.clone()].copy_from_slice(text);
            match types.next() {
                Some(types) => self.types[rows.clone()].copy_from_slice(types),
                None => self.types[rows.clone()].fill(0),
            }
            self.segments[sequence] = Segment { first, rows: text.len(), sequence };
            (first, count) = (rows.end, sequence + 1);
        }
        let (tokens, types) = (&self.tokens[..first], &self.types[..first]);
        self.runner.encode(tokens, types, &self.segments[..count], self.selection.handles())?;
        self.encoded = count;
        Ok(())
    }

    /// The last hidden states of a text, `[tokens, dim]`.
    ///
    /// # Errors
    /// [`Error::NotEncoded`], [`Error::Device`].
    pub fn hidden(&self, sequence: usize) -> Result<&[f32]> {
        let segments = self.segments(sequence)?;
        self.runner.hidden(segments, sequence)
    }

    /// One vector of a text, `[dim]`, not normalized.
    ///
    /// # Errors
    /// [`Error::NotEncoded`], [`Error::NoPooler`], [`Error::Device`].
    pub fn pooled(&mut self, sequence: usize, pooling: Pooling) -> Result<&[f32]> {
        self.vector(sequence, pooling, false)
    }

    /// The text's embedding, `[dim]`: pooled and normalized as the base says.
    ///
    /// # Errors
    /// [`Error::NotEncoded`], [`Error::Device`].
    pub fn embedding(&mut self, sequence: usize) -> Result<&[f32]> {
        let config = self.runner.model().config();
        self.vector(sequence, config.pooling, config.normalize)
    }

    fn vector(&mut self, sequence: usize, pooling: Pooling, normalize: bool) -> Result<&[f32]> {
        self.segments(sequence)?;
        let segments = &self.segments[..self.encoded];
        self.runner.vector(segments, sequence, (pooling, normalize), self.selection.handles())
    }

    /// The classifier of a sequence: that of the one adapter among its active ones which brings
    /// one.
    ///
    /// # Errors
    /// [`Error::NoSuchSequence`], [`Error::Classifiers`].
    pub fn classifier(&self, sequence: usize) -> Result<Classifier<'_>> {
        self.selection.classifier(sequence)
    }

    /// The logit of each label into `logits`, `[labels]`: the classifier over
    /// [`Bert::classifier_pooling`], or over the pooler that its adapter brings. The adapter's
    /// weight does not scale them.
    ///
    /// # Errors
    /// [`Error::NotEncoded`], [`Error::Classifiers`], [`Error::Device`]; [`Error::Length`] if
    /// `logits` has not one place per label.
    pub fn classify(&mut self, sequence: usize, logits: &mut [f32]) -> Result<()> {
        self.segments(sequence)?;
        let need = self.classifier(sequence)?.len();
        if logits.len() != need {
            return Err(Error::Length { have: logits.len(), need });
        }
        let segments = &self.segments[..self.encoded];
        self.runner.classify(segments, sequence, &self.selection, logits)
    }

    /// The model.
    pub fn model(&self) -> &Bert<'m> {
        self.runner.model()
    }

    /// The limits it was made for.
    pub fn limits(&self) -> &EncoderLimits {
        &self.limits
    }

    /// The texts of the last pass, if this one is among them.
    fn segments(&self, sequence: usize) -> Result<&[Segment]> {
        if sequence < self.encoded {
            Ok(&self.segments[..self.encoded])
        } else {
            Err(Error::NotEncoded { sequence })
        }
    }

    fn check_texts<'t>(&self, count: usize, texts: impl Iterator<Item = &'t [u32]>) -> Result<()> {
        let EncoderLimits { context, batch, tokens, .. } = self.limits;
        let within = |have: usize, most: usize| match have {
            0 => Err(Error::Length { have, need: 1 }),
            _ if have > most => Err(Error::Length { have, need: most }),
            _ => Ok(()),
        };
        within(count, batch)?;
        let vocab = self.runner.model().config().vocab;
        let mut together = 0usize;
        for text in texts {
            if text.len() > context {
                return Err(Error::ContextFull { asked: text.len(), context });
            }
            within(text.len(), context)?;
            if let Some(&token) = text.iter().find(|&&token| token as usize >= vocab) {
                return Err(Error::Token { token, vocab: vocab as u32 });
            }
            together = together.saturating_add(text.len());
        }
        within(together, tokens)
    }

    fn check_types(&self, texts: &[&[u32]], types: &[&[u32]]) -> Result<()> {
        if types.is_empty() {
            return Ok(());
        }
        if types.len() != texts.len() {
            return Err(Error::Length { have: types.len(), need: texts.len() });
        }
        let known = self.runner.model().config().token_types as u32;
        for (text, types) in texts.iter().zip(types) {
            if text.len() != types.len() {
                return Err(Error::Length { have: types.len(), need: text.len() });
            }
            if let Some(&found) = types.iter().find(|&&found| found >= known) {
                return Err(Error::TokenType { found, types: known });
            }
        }
        Ok(())
    }
}

/// Consecutive parts of `all`, which is as long as they are together.
fn split<'t>(all: &'t [u32], lengths: &'t [usize]) -> impl Iterator<Item = &'t [u32]> {
    lengths.iter().scan(all, |rest, &length| {
        let (now, later) = rest.split_at_checked(length)?;
        *rest = later;
        Some(now)
    })
}
