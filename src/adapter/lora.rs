//! An opened adapter (LoRA, rsLoRA, LoRA+, LoRA-FA, DyLoRA, DoRA, IA3: at inference they differ in
//! numbers only).
//!
//! Per target layer, with x its input and y its output (LoRA: arXiv 2106.09685; DoRA: arXiv
//! 2402.09353, equation 5; IA3: arXiv 2205.05638):
//!
//! ```text
//! x' = x ⊙ (w l + 1 − w)                                       where IA3 scales inputs
//! y  = W x' + b + w · [ (k − 1) ⊙ (W x') + k ⊙ s · (B (A x') + b_B) ]
//! y' = y ⊙ (w l + 1 − w)                                       where IA3 scales outputs
//! ```
//!
//! w is the user's weight; k is 1, or m / ‖W + s·B A‖ per output row for DoRA; s is alpha / r, or
//! alpha / √r for rsLoRA. This file checks and hands out the numbers; `nn` computes with them.

use core::fmt;

#[cfg(feature = "std")]
use crate::archive::Header;
use crate::archive::schema::{
    ArchivedAdapter, ArchivedFactor, ArchivedTarget, check_vector, vector,
};
use crate::archive::{self, Fingerprint, check_finite, floats};
use crate::error::{Error, Field, Result, RootKind};
use crate::quant::{Format, Matrix};
use crate::tensor::math;

use super::classifier::{self, Classifier};
use super::factor::Factor;

/// An opened adapter. Borrows the archive; copying it copies a few words.
#[derive(Clone, Copy)]
#[doc(alias = "LoRA")]
pub struct Adapter<'a> {
    pub(super) root: &'a ArchivedAdapter<'static>,
    fingerprint: Fingerprint,
}

impl fmt::Debug for Adapter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Adapter")
            .field("name", &self.name())
            .field("method", &self.method())
            .finish_non_exhaustive()
    }
}

impl<'a> Adapter<'a> {
    /// Opens an archive in place and reads its values once.
    ///
    /// # Errors
    /// Those of [`Header::parse`](archive::Header::parse); [`Error::WrongRoot`],
    /// [`Error::Invalid`], [`Error::UnknownSite`], [`Error::Rank`], [`Error::Format`],
    /// [`Error::PayloadLength`], [`Error::MixedTargets`], [`Error::Config`], [`Error::NotFinite`],
    /// [`Error::ReplacedTensors`], [`Error::Labels`].
    pub fn open(archive: &'a [u8]) -> Result<Self> {
        let (header, root) =
            archive::open_root::<ArchivedAdapter<'static>>(archive, &[RootKind::ADAPTER])?;
        let adapter = Self { root, fingerprint: header.fingerprint };
        adapter.check()?;
        Ok(adapter)
    }

    /// As [`open`](Self::open), and compares the checksum over the whole archive.
    ///
    /// # Errors
    /// [`Error::Checksum`] and, with `alloc`, [`Error::Content`] besides those of `open`.
    pub fn verify(archive: &'a [u8]) -> Result<Self> {
        archive::verify(archive)?;
        let adapter = Self::open(archive)?;
        #[cfg(feature = "alloc")]
        super::verify::check(&adapter)?;
        Ok(adapter)
    }

    /// An adapter whose archive was opened before and whose header was `header`.
    ///
    /// # Safety
    /// [`open`](Self::open) must have succeeded on the same, unchanged bytes.
    #[cfg(feature = "std")]
    #[allow(unsafe_code)]
    pub(super) unsafe fn reopen(archive: &'a [u8], header: &Header) -> Self {
        // SAFETY: the caller's promise.
        Self { root: unsafe { archive::trusted(archive) }, fingerprint: header.fingerprint }
    }

    fn check(&self) -> Result<()> {
        let root = self.root;
        let sites = root.index.len() as u32;
        if let Some(classifier) = root.classifier.as_ref() {
            classifier::check(sites, classifier)?;
        }
        self.check_replaced(sites)?;
        let targets = root.targets.len() as u64;
        let indexed = root.index.iter().filter(|index| index.to_native() != 0).count() as u64;
        // A classifier alone is an adapter too.
        let least = u64::from(root.classifier.is_none());
        if targets != indexed || targets < least {
            return Err(Error::Config {
                field: Field::Targets,
                found: targets,
                least: indexed.max(least),
                most: indexed.max(least),
            });
        }
        for (i, target) in root.targets.iter().enumerate() {
            let site = target.site.to_native();
            let index =
                root.index.get().get(site as usize).ok_or(Error::UnknownSite { site, sites })?;
            if usize::from(index.to_native()) != i + 1 {
                return Err(Error::UnknownSite { site, sites });
            }
            check_target(target)?;
            if is_scaling(target) != self.is_ia3() {
                return Err(Error::MixedTargets { site });
            }
        }
        Ok(())
    }

    /// Of an encoder's classifier the pooler may be replaced: the last site, `[dim, dim]`.
    fn check_replaced(&self, sites: u32) -> Result<()> {
        let root = self.root;
        let dim = root.classifier.as_ref().map(|classifier| &classifier.linear.weight.cols);
        match (root.replaced.get(), dim) {
            ([], _) => Ok(()),
            ([pooler], Some(dim))
                if self.base_root().is_encoder() && pooler.site.to_native() + 1 == sites =>
            {
                let dim = dim.to_native() as usize;
                classifier::check_linear(sites, &pooler.linear, dim, dim)
            }
            (all, _) => Err(Error::ReplacedTensors { count: all.len() }),
        }
    }

    /// The hash of the adapter's content.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The fingerprint of the base it was made for.
    pub fn base(&self) -> Fingerprint {
        Fingerprint(self.root.base)
    }

    /// The root kind of the base it was made for.
    pub fn base_root(&self) -> RootKind {
        RootKind(self.root.base_root.to_native())
    }

    /// A name for people.
    pub fn name(&self) -> &'a str {
        &self.root.name
    }

    /// The method that made it (`lora`, `rslora`, `dora` …).
    pub fn method(&self) -> &'a str {
        &self.root.method
    }

    /// Training facts as JSON, or empty.
    pub fn facts(&self) -> &'a str {
        &self.root.facts
    }

    /// The number of sites of the base it was made for.
    pub fn sites(&self) -> u32 {
        self.root.index.len() as u32
    }

    /// What it changes, by rising site.
    pub fn targets(&self) -> impl ExactSizeIterator<Item = LowRank<'a>> + use<'a> {
        let root = self.root;
        root.targets.iter().map(LowRank::new)
    }

    /// What it does at `site`, if anything.
    pub fn target(&self, site: u32) -> Option<LowRank<'a>> {
        self.stored(site).map(LowRank::new)
    }

    /// The factors that it has at `site`, if any.
    #[inline]
    pub(crate) fn low_rank(&self, site: u32) -> Option<LowRank<'a>> {
        self.stored(site).filter(|stored| !is_scaling(stored)).map(LowRank::new)
    }

    /// DoRA's k at a site where it has factors; empty without.
    #[inline]
    pub(crate) fn gain(&self, site: u32) -> Option<&'a [f32]> {
        let stored = self.stored(site).filter(|stored| !is_scaling(stored))?;
        Some(floats(&stored.gain))
    }

    /// IA3's l, if it scales this side of `site`; zeros may stand behind it.
    #[inline]
    pub(crate) fn scaling(&self, site: u32, side: Scaled) -> Option<&'a [f32]> {
        let stored = self.stored(site)?;
        (stored.kind == side as u8).then(|| floats(&stored.magnitude))
    }

    #[inline]
    fn stored(&self, site: u32) -> Option<&'a ArchivedTarget<'static>> {
        let index = self.root.index.get().get(site as usize)?.to_native();
        Some(&self.root.targets[usize::from(index.checked_sub(1)?)])
    }

    /// The classifier it brings, if any.
    pub fn classifier(&self) -> Option<Classifier<'a>> {
        let root = self.root;
        root.classifier.as_ref().map(Classifier::new)
    }

    /// The pooler that its classifier reads in place of the base's, if it brings one: weight
    /// `[dim, dim]`, and bias `[dim]` or empty.
    pub fn pooler(&self) -> Option<(Matrix<'a>, &'a [f32])> {
        let linear = &self.root.replaced.get().first()?.linear;
        let weight = linear.weight.view();
        Some((weight, vector(&linear.bias, weight.rows())))
    }

    /// The largest rank of its targets; 0 if none has factors.
    pub fn max_rank(&self) -> usize {
        self.targets().map(|target| target.rank).max().unwrap_or(0)
    }

    /// Does any target rescale rows (DoRA)? Then its rank cannot be chosen at run time.
    pub fn is_dora(&self) -> bool {
        self.targets().any(|target| !target.gain.is_empty())
    }

    /// Does it scale outputs or inputs (IA3)? Then none of its targets has factors.
    #[inline]
    pub fn is_ia3(&self) -> bool {
        self.root.targets.first().is_some_and(is_scaling)
    }

    /// Where its archive lies.
    pub(crate) fn address(&self) -> usize {
        core::ptr::from_ref(self.root).addr()
    }

    /// Do the two borrow the same archive or archives of the same content?
    pub(crate) fn same_content(&self, other: &Adapter<'_>) -> bool {
        self.fingerprint == other.fingerprint
    }
}

/// What an adapter does to one layer.
#[derive(Debug, Clone, Copy)]
pub struct LowRank<'a> {
    /// The number of the layer in its base.
    pub site: u32,
    /// Is the layer an embedding (A is then `[inputs, rank]`)?
    pub is_embedding: bool,
    /// r.
    pub rank: usize,
    /// Columns of W, or the vocabulary of an embedding.
    pub inputs: usize,
    /// Rows of W, or the dimension of an embedding.
    pub outputs: usize,
    /// alpha.
    pub alpha: f32,
    /// Is the scale alpha / √r (rsLoRA) rather than alpha / r?
    pub rank_stabilized: bool,
    /// A, `[rank, inputs]`; of an embedding A transposed, `[inputs, rank]`.
    pub a: Factor<'a>,
    /// B transposed, `[rank, outputs]`.
    pub b: Factor<'a>,
    /// The bias of B, `[outputs]`, or empty.
    pub bias: &'a [f32],
    /// DoRA's m, `[outputs]`, or empty; where IA3 scales the layer, its l.
    pub magnitude: &'a [f32],
    /// DoRA's k, `[outputs]`, or empty.
    pub gain: &'a [f32],
    /// IA3: which side of the layer `magnitude` scales. There are no factors then, r is 0.
    pub scaled: Option<Scaled>,
}

/// The side of a layer that IA3 scales, with the number that archives have for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scaled {
    /// Its outputs: l is `[outputs]`.
    Output = 2,
    /// Its inputs: l is `[inputs]`.
    Input = 3,
}

impl<'a> LowRank<'a> {
    pub(super) fn new(target: &'a ArchivedTarget<'static>) -> Self {
        let (rank, inputs, outputs) = (
            target.rank.to_native() as usize,
            target.inputs.to_native() as usize,
            target.outputs.to_native() as usize,
        );
        let is_embedding = target.kind == 1;
        let scaled = match target.kind {
            2 => Some(Scaled::Output),
            3 => Some(Scaled::Input),
            _ => None,
        };
        let m_len = if scaled == Some(Scaled::Input) { inputs } else { outputs };
        let (a_rows, a_width) = if is_embedding { (inputs, rank) } else { (rank, inputs) };
        Self {
            site: target.site.to_native(),
            is_embedding,
            rank,
            inputs,
            outputs,
            alpha: target.alpha.to_native(),
            rank_stabilized: target.scaling == 1,
            a: Factor::new(&target.a, a_rows, a_width),
            b: Factor::new(&target.b, rank, outputs),
            bias: vector(&target.bias, outputs),
            magnitude: vector(&target.magnitude, m_len),
            gain: vector(&target.gain, outputs),
            scaled,
        }
    }

    /// s at rank `rank` (1 to [`rank`](Self::rank)): alpha / rank, or alpha / √rank.
    #[inline]
    pub fn scale(&self, rank: usize) -> f32 {
        if self.rank_stabilized {
            self.alpha / math::sqrt(rank as f32)
        } else {
            self.alpha / rank as f32
        }
    }
}

/// The most a rank can be; enough for any published adapter, small enough for exact arithmetic on
/// lengths.
pub(crate) const MAX_RANK: u32 = 1 << 15;

/// Does it scale one side of its layer?
fn is_scaling(target: &ArchivedTarget<'static>) -> bool {
    target.kind >= Scaled::Output as u8
}

/// Proves what [`LowRank::new`] relies on, and that every value is finite.
fn check_target(target: &ArchivedTarget<'static>) -> Result<()> {
    let site = target.site.to_native();
    let (rank, inputs, outputs) =
        (target.rank.to_native(), target.inputs.to_native(), target.outputs.to_native());
    let is_scaling = is_scaling(target);
    if rank == 0 && !is_scaling || rank > MAX_RANK {
        return Err(Error::Rank { found: rank, most: MAX_RANK });
    }
    let unknown = |format: u8| Error::Format {
        site,
        format: format.into(),
        layout: u32::from(target.kind),
        block: target.scaling.into(),
    };
    if target.kind > Scaled::Input as u8 || target.scaling > 1 || is_scaling && rank > 0 {
        return Err(unknown(target.a.format));
    }
    let factor = |factor: &ArchivedFactor<'static>, rows: u64, width: u64| {
        let count = rows.saturating_mul(width);
        let (bytes, scales) = match Format::from_stored(factor.format) {
            Some(Format::F32) => (count.saturating_mul(4), 0),
            Some(Format::F16) => (count.saturating_mul(2), 0),
            Some(Format::Int8) => (count, rows),
            _ => return Err(unknown(factor.format)),
        };
        archive::schema::check_lines(site, &factor.values, bytes)?;
        archive::schema::check_lines(site, &factor.scales, scales * 4)
    };
    let (rows, width) = if target.kind == 1 { (inputs, rank) } else { (rank, inputs) };
    factor(&target.a, rows.into(), width.into())?;
    factor(&target.b, rank.into(), outputs.into())?;
    let m_len = if target.kind == Scaled::Input as u8 { inputs } else { outputs };
    let has_bias = check_vector(site, &target.bias, outputs as usize, true)?;
    let has_m = check_vector(site, &target.magnitude, m_len as usize, true)?;
    let has_gain = check_vector(site, &target.gain, outputs as usize, true)?;
    if target.kind == 1 && (has_bias || has_m || has_gain) {
        return Err(Error::EmbeddingExtras { site });
    }
    // IA3 has l alone, DoRA both m and k.
    if (has_m != has_gain) != is_scaling || is_scaling && (has_gain || has_bias) {
        return Err(Error::PayloadLength { site, have: 0, need: u64::from(m_len) * 4 });
    }
    let low_rank = LowRank::new(target);
    if !low_rank.alpha.is_finite() {
        return Err(Error::NotFinite { site, index: 0 });
    }
    low_rank.a.check_finite(site)?;
    low_rank.b.check_finite(site)?;
    [low_rank.bias, low_rank.magnitude, low_rank.gain]
        .iter()
        .try_for_each(|values| check_finite(site, values))
}
