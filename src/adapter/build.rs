//! Building adapter archives: factors in PEFT's orientation are checked against a base, brought into the archive's form and
//! bound to the base's fingerprint. `std` only; opened adapters are in `lora`.

use std::collections::BTreeMap;
use std::path::Path;

use super::numbers::{FactorFormat, Numbers, Stored};
use super::{MAX_RANK, dora};
use crate::archive::{Buffer, Header, check_finite, schema, to_buffer, write_file};
use crate::error::{Error, Field, Result, RootKind};
use crate::file::FileError;
use crate::model::llama::{Llama, Site};

/// What an adapter does to one layer, in PEFT's orientation.
#[derive(Debug, Clone, PartialEq)]
pub struct TargetParts {
    /// r.
    pub rank: usize,
    /// alpha.
    pub alpha: f32,
    /// Is the scale alpha / √r (rsLoRA) rather than alpha / r?
    pub rank_stabilized: bool,
    /// A, `[r, in]` (an embedding's: `[r, vocab]`).
    pub a: Numbers,
    /// B, `[out, r]` (an embedding's: `[dim, r]`).
    pub b: Numbers,
    /// The bias of B, `[out]`, or empty.
    pub bias: Vec<f32>,
    /// DoRA's m, `[out]`, or empty.
    pub magnitude: Vec<f32>,
}

/// An adapter that is about to be bound to a base.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterBuilder {
    /// A name for people.
    pub name: String,
    /// The method that made it, as PEFT spells it.
    pub method: String,
    /// Training facts, JSON, or empty.
    pub facts: String,
    /// What it changes.
    pub targets: BTreeMap<Place, TargetParts>,
    /// How factors are stored.
    pub format: FactorFormat,
    /// The content version in the header.
    pub content_version: u64,
}

/// A site by its number, so that targets are kept in the archive's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place(pub u32);

/// One target in the form of the archive.
struct Finished<'p> {
    place: Place,
    is_embedding: bool,
    parts: &'p TargetParts,
    inputs: usize,
    outputs: usize,
    a: Stored,
    b: Stored,
    gain: Vec<f32>,
}

impl AdapterBuilder {
    /// An adapter that changes nothing yet.
    pub fn new(name: impl Into<String>, method: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            method: method.into(),
            facts: String::new(),
            targets: BTreeMap::new(),
            format: FactorFormat::AsIs,
            content_version: 1,
        }
    }

    /// The archive, bound to `base`.
    ///
    /// # Errors
    /// [`Error::UnknownSite`], [`Error::Rank`], [`Error::PayloadLength`], [`Error::NotFinite`], [`Error::Range`] (a value that f16
    /// cannot hold), [`Error::EmbeddingExtras`], [`Error::Config`] if there are no targets or alpha is not finite.
    pub fn build(&self, base: &Llama<'_>) -> Result<Buffer> {
        self.with_root(base, |root| to_buffer(root, self.content_version))?
    }

    /// Writes the archive, bound to `base`, to `path`: whole or not at all.
    ///
    /// # Errors
    /// As [`build`](Self::build), or an I/O error.
    pub fn write(&self, base: &Llama<'_>, path: impl AsRef<Path>) -> Result<Header, FileError> {
        let path = path.as_ref();
        let written = self.with_root(base, |root| write_file(root, self.content_version, path));
        written.map_err(|error| FileError::core(path, "", error))?
    }

    fn with_root<T>(&self, base: &Llama<'_>, use_it: impl FnOnce(&schema::Adapter<'_>) -> T) -> Result<T> {
        if self.targets.is_empty() {
            return Err(Error::Config { field: Field::Targets, found: 0, least: 1, most: base.config().sites() as u64 });
        }
        let finished: Vec<Finished<'_>> =
            self.targets.iter().map(|(&place, parts)| self.finish(base, place, parts)).collect::<Result<_>>()?;
        let mut index = vec![0; base.config().sites()];
        let mut targets = Vec::with_capacity(finished.len());
        for (i, target) in finished.iter().enumerate() {
            let number = u16::try_from(i + 1).map_err(|_| Error::UnknownSite { site: target.place.0, sites: u16::MAX.into() })?;
            index[target.place.0 as usize] = number;
            targets.push(target.schema());
        }
        Ok(use_it(&schema::Adapter {
            base: base.fingerprint().0,
            base_root: RootKind::LLAMA.0,
            name: &self.name,
            method: &self.method,
            facts: &self.facts,
            index: &index,
            targets: &targets,
            replaced: &[],
            classifier: None,
        }))
    }

    fn finish<'p>(&self, base: &Llama<'_>, place: Place, parts: &'p TargetParts) -> Result<Finished<'p>> {
        let config = base.config();
        let site = Site::from_number(place.0, config.layers);
        let site = site.ok_or(Error::UnknownSite { site: place.0, sites: config.sites() as u32 })?;
        let (rows, cols) = site.shape(config);
        let is_embedding = site == Site::Embedding;
        let (outputs, inputs) = if is_embedding { (cols, rows) } else { (rows, cols) };
        if is_embedding && !(parts.bias.is_empty() && parts.magnitude.is_empty()) {
            return Err(Error::EmbeddingExtras { site: place.0 });
        }
        check(place.0, parts, outputs, inputs)?;
        let a = if is_embedding {
            Stored::new(&parts.a.transposed(parts.rank, inputs), parts.rank, self.format)?
        } else {
            Stored::new(&parts.a, inputs, self.format)?
        };
        let b = Stored::new(&parts.b.transposed(outputs, parts.rank), outputs, self.format)?;
        let gain = match parts.magnitude.as_slice() {
            [] => Vec::new(),
            m => dora::gain(place.0, &base.weight(site), parts.scale(), &a.values(inputs), &b.values(outputs), m)?,
        };
        Ok(Finished { place, is_embedding, parts, inputs, outputs, a, b, gain })
    }
}

impl Finished<'_> {
    fn schema(&self) -> schema::Target<'_> {
        schema::Target {
            site: self.place.0,
            kind: u8::from(self.is_embedding),
            scaling: u8::from(self.parts.rank_stabilized),
            rank: self.parts.rank as u32,
            inputs: self.inputs as u32,
            outputs: self.outputs as u32,
            alpha: self.parts.alpha,
            a: self.a.schema(),
            b: self.b.schema(),
            bias: &self.parts.bias,
            magnitude: &self.parts.magnitude,
            gain: &self.gain,
        }
    }
}

impl TargetParts {
    /// s at full rank.
    pub fn scale(&self) -> f32 {
        if self.rank_stabilized { self.alpha / (self.rank as f32).sqrt() } else { self.alpha / self.rank as f32 }
    }
}

/// Ranks, lengths and finite values.
fn check(site: u32, parts: &TargetParts, outputs: usize, inputs: usize) -> Result<()> {
    if parts.rank == 0 || parts.rank > MAX_RANK as usize {
        return Err(Error::Rank { found: u32::try_from(parts.rank).unwrap_or(u32::MAX), most: MAX_RANK });
    }
    if !parts.alpha.is_finite() {
        let (found, most) = (parts.alpha.to_bits().into(), f32::MAX.to_bits().into());
        return Err(Error::Config { field: Field::Scale, found, least: 0, most });
    }
    let exact = |have: usize, need: usize, size: usize| match have == need {
        true => Ok(()),
        false => Err(Error::PayloadLength { site, have: have as u64 * size as u64, need: need as u64 * size as u64 }),
    };
    exact(parts.a.len(), parts.rank * inputs, parts.a.size())?;
    exact(parts.b.len(), parts.rank * outputs, parts.b.size())?;
    for vector in [&parts.bias, &parts.magnitude] {
        if !vector.is_empty() {
            exact(vector.len(), outputs, size_of::<f32>())?;
        }
    }
    let not_finite = [parts.a.first_not_finite(), parts.b.first_not_finite()].into_iter().flatten().next();
    if let Some(index) = not_finite {
        return Err(Error::NotFinite { site, index: index as u64 });
    }
    check_finite(site, &parts.bias)?;
    check_finite(site, &parts.magnitude)
}
