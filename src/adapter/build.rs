//! Building adapter archives: factors are checked against a base, brought
//! into the archive's form and bound to the base's fingerprint. `std` only; opened adapters are in
//! `lora`.

use std::collections::BTreeMap;

use super::numbers::{FactorFormat, Numbers, Stored};
use super::{Base, MAX_RANK, Scaled, dora};
use crate::archive::{Buffer, Header, check_finite, schema, to_buffer, write_file};
use crate::error::{Error, Field, Result};
use crate::file::{FileError, Kind, ToOutput};
use crate::quant::{Matrix, Values};

/// Which way the factors of a [`TargetParts`] lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Orientation {
    /// As PEFT has them: A `[r, in]` (an embedding's `[r, vocab]`), B `[out, r]` (`[dim, r]`).
    #[default]
    Peft,
    /// As archives have them: A `[r, in]` (an embedding's `[vocab, r]`), B `[r, out]` (`[r, dim]`).
    Archive,
}

/// What an adapter does to one layer.
#[derive(Debug, Clone, PartialEq)]
pub struct TargetParts {
    /// r.
    pub rank: usize,
    /// alpha.
    pub alpha: f32,
    /// Is the scale alpha / √r (rsLoRA) rather than alpha / r?
    pub rank_stabilized: bool,
    /// Which way `a` and `b` lie.
    pub orientation: Orientation,
    /// A.
    pub a: Numbers,
    /// B.
    pub b: Numbers,
    /// The bias of B, `[out]`, or empty.
    pub bias: Vec<f32>,
    /// DoRA's m, `[out]`, or empty; where IA3 scales the layer, its l.
    pub magnitude: Vec<f32>,
    /// IA3: which side of the layer `magnitude` scales. It has r 0 then, and neither A nor B.
    pub scaled: Option<Scaled>,
}

/// A classifier over a base's pooled hidden state: `logits = W h + b`.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassifierParts {
    /// W, `[labels, dim]`.
    pub weight: Vec<f32>,
    /// b, `[labels]`, or empty.
    pub bias: Vec<f32>,
    /// A name per label: not empty, without line feeds, no two the same.
    pub labels: Vec<String>,
}

/// The pooler that an adapter's classifier reads in place of its base's: `P h + b`.
#[derive(Debug, Clone, PartialEq)]
pub struct PoolerParts {
    /// P, `[dim, dim]`.
    pub weight: Vec<f32>,
    /// b, `[dim]`.
    pub bias: Vec<f32>,
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
    /// What reads the base's hidden state, if it classifies.
    pub classifier: Option<ClassifierParts>,
    /// Beside a classifier on an encoder: a pooler in place of the base's, or where it has none.
    pub pooler: Option<PoolerParts>,
    /// What an importer has to say of the source, a sentence each; not stored.
    pub notes: Vec<String>,
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
            classifier: None,
            pooler: None,
            notes: Vec::new(),
            format: FactorFormat::AsIs,
            content_version: 1,
        }
    }

    /// Gives the classifier's labels these names, in the order of its rows.
    ///
    /// # Errors
    /// [`Error::Labels`] unless there is one usable name (not empty, one line, no two the same) for
    /// each of its rows; nothing has changed then.
    pub fn name_labels(&mut self, labels: Vec<String>) -> Result<()> {
        let rows = self.classifier.as_ref().map_or(0, |classifier| classifier.labels.len());
        let usable = |index: &usize| label_fault(&labels, *index).is_none();
        let names = (0..labels.len()).filter(usable).count();
        match &mut self.classifier {
            Some(classifier) if names == rows && labels.len() == rows => {
                classifier.labels = labels;
                Ok(())
            }
            _ => Err(Error::Labels { names: names as u64, rows: rows as u64 }),
        }
    }

    /// The archive, bound to `base`.
    ///
    /// # Errors
    /// [`Error::UnknownSite`], [`Error::Rank`], [`Error::PayloadLength`], [`Error::NotFinite`],
    /// [`Error::Range`] (a value that f16 cannot hold), [`Error::EmbeddingExtras`],
    /// [`Error::InputScaling`], [`Error::MixedTargets`],
    /// [`Error::Labels`], [`Error::ReplacedTensors`] for a pooler without a classifier or on a base
    /// that is no encoder, [`Error::Config`] if it would change nothing or alpha is not finite.
    pub fn build(&self, base: &dyn Base) -> Result<Buffer> {
        self.with_root(base, |root| to_buffer(root, self.content_version))?
    }

    /// Writes the archive, bound to `base`, to `output`, a path or an
    /// [`Output`](crate::file::Output) that was tried: whole or not at all.
    ///
    /// # Errors
    /// As [`build`](Self::build); a path where something else than an adapter is, or an I/O error.
    pub fn write(&self, base: &dyn Base, output: impl ToOutput) -> Result<Header, FileError> {
        let output = output.output(Kind::Adapter, &[])?;
        let written = self.with_root(base, |root| write_file(root, self.content_version, &output));
        written.map_err(|error| FileError::core(output.path(), "", error))?
    }

    fn with_root<T>(
        &self,
        base: &dyn Base,
        use_it: impl FnOnce(&schema::Adapter<'_>) -> T,
    ) -> Result<T> {
        let sites = base.sites();
        if self.targets.is_empty() && self.classifier.is_none() {
            return Err(Error::Config {
                field: Field::Targets,
                found: 0,
                least: 1,
                most: sites.into(),
            });
        }
        let finished: Vec<Finished<'_>> = self
            .targets
            .iter()
            .map(|(&place, parts)| self.finish(base, place, parts))
            .collect::<Result<_>>()?;
        let mut index = vec![0; sites as usize];
        let mut targets = Vec::with_capacity(finished.len());
        for (i, target) in finished.iter().enumerate() {
            let number = u16::try_from(i + 1)
                .map_err(|_| Error::UnknownSite { site: target.place.0, sites: u16::MAX.into() })?;
            index[target.place.0 as usize] = number;
            targets.push(target.schema());
        }
        let labels = self
            .classifier
            .as_ref()
            .map(|classifier| classifier.labels.join("\n"))
            .unwrap_or_default();
        let classifier =
            self.classifier.as_ref().map(|parts| parts.schema(base, &labels)).transpose()?;
        let pooler = self.pooler.as_ref();
        if pooler.is_some() && (classifier.is_none() || !base.root().is_encoder()) {
            return Err(Error::ReplacedTensors { count: 1 });
        }
        let pooler = pooler.map(|parts| parts.schema(base)).transpose()?;
        Ok(use_it(&schema::Adapter {
            base: base.fingerprint().0,
            base_root: base.root().0,
            name: &self.name,
            method: &self.method,
            facts: &self.facts,
            index: &index,
            targets: &targets,
            replaced: pooler.as_slice(),
            classifier,
        }))
    }

    fn finish<'p>(
        &self,
        base: &dyn Base,
        place: Place,
        parts: &'p TargetParts,
    ) -> Result<Finished<'p>> {
        let unknown = Error::UnknownSite { site: place.0, sites: base.sites() };
        let (rows, cols, is_embedding) = base.site(place.0).ok_or(unknown)?;
        let (outputs, inputs) = if is_embedding { (cols, rows) } else { (rows, cols) };
        if is_embedding && !(parts.bias.is_empty() && parts.magnitude.is_empty()) {
            return Err(Error::EmbeddingExtras { site: place.0 });
        }
        let first = self.targets.values().next().and_then(|first| first.scaled);
        if parts.scaled.is_some() != first.is_some() {
            return Err(Error::MixedTargets { site: place.0 });
        }
        if parts.scaled == Some(Scaled::Input) && !base.scales_inputs(place.0) {
            return Err(Error::InputScaling { site: place.0 });
        }
        check(place.0, parts, outputs, inputs)?;
        let (rank, is_peft) = (parts.rank, parts.orientation == Orientation::Peft);
        let store = |numbers: &Numbers, is_turned: bool, rows: usize, cols: usize| {
            if is_turned {
                Stored::new(&numbers.transposed(cols, rows), cols, self.format)
            } else {
                Stored::new(numbers, cols, self.format)
            }
        };
        let (rows, cols) = if is_embedding { (inputs, rank) } else { (rank, inputs) };
        let a = store(&parts.a, is_embedding && is_peft, rows, cols)?;
        let b = store(&parts.b, is_peft, rank, outputs)?;
        let gain = match parts.magnitude.as_slice() {
            m if m.is_empty() || parts.scaled.is_some() => Vec::new(),
            m => {
                let weight = base.weight_at(place.0).ok_or(unknown)?;
                dora::gain(
                    place.0,
                    &weight,
                    parts.scale(),
                    &a.values(inputs),
                    &b.values(outputs),
                    m,
                )?
            }
        };
        Ok(Finished { place, is_embedding, parts, inputs, outputs, a, b, gain })
    }
}

impl PoolerParts {
    /// Checked against `base`, an encoder.
    fn schema(&self, base: &dyn Base) -> Result<schema::Replaced<'_>> {
        let (site, dim) = (base.sites() - 1, base.dim());
        exact(site, self.weight.len(), dim * dim, size_of::<f32>())?;
        exact(site, self.bias.len(), dim, size_of::<f32>())?;
        check_finite(site, &self.weight)?;
        check_finite(site, &self.bias)?;
        let weight = Matrix::new(dim, dim, Values::F32(&self.weight))?.into();
        Ok(schema::Replaced { site, linear: schema::Linear { weight, bias: &self.bias } })
    }
}

impl ClassifierParts {
    /// Checked against `base`; `joined` are its label names.
    fn schema<'p>(&'p self, base: &dyn Base, joined: &'p str) -> Result<schema::Classifier<'p>> {
        let (site, rows, dim) = (base.sites(), self.labels.len(), base.dim());
        let usable = |i: &usize| label_fault(&self.labels, *i).is_none();
        let names = (0..rows).filter(usable).count();
        if names != rows || rows == 0 {
            return Err(Error::Labels { names: names as u64, rows: rows as u64 });
        }
        exact(site, self.weight.len(), rows * dim, size_of::<f32>())?;
        if !self.bias.is_empty() {
            exact(site, self.bias.len(), rows, size_of::<f32>())?;
        }
        check_finite(site, &self.weight)?;
        check_finite(site, &self.bias)?;
        let weight = Matrix::new(rows, dim, Values::F32(&self.weight))?;
        Ok(schema::Classifier {
            linear: schema::Linear { weight: weight.into(), bias: &self.bias },
            labels: joined,
        })
    }
}

/// Why label `index` cannot be the name of a classifier's label, if it cannot.
pub(crate) fn label_fault(labels: &[String], index: usize) -> Option<&'static str> {
    let name = labels.get(index)?;
    if name.is_empty() {
        Some("is empty")
    } else if name.contains(['\n', '\r']) {
        Some("holds a line feed: a label is one line")
    } else if labels[..index].contains(name) {
        Some("is there twice")
    } else {
        None
    }
}

impl Finished<'_> {
    fn schema(&self) -> schema::Target<'_> {
        schema::Target {
            site: self.place.0,
            kind: self.parts.scaled.map_or(self.is_embedding.into(), |side| side as u8),
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
    /// A layer whose outputs or inputs are scaled by l (IA3).
    pub fn scaling(side: Scaled, l: Vec<f32>) -> Self {
        Self {
            rank: 0,
            alpha: 1.0,
            rank_stabilized: false,
            orientation: Orientation::Archive,
            a: Numbers::F32(Vec::new()),
            b: Numbers::F32(Vec::new()),
            bias: Vec::new(),
            magnitude: l,
            scaled: Some(side),
        }
    }

    /// s at full rank.
    pub fn scale(&self) -> f32 {
        if self.rank_stabilized {
            self.alpha / (self.rank as f32).sqrt()
        } else {
            self.alpha / self.rank as f32
        }
    }
}

/// Ranks, lengths and finite values.
fn check(site: u32, parts: &TargetParts, outputs: usize, inputs: usize) -> Result<()> {
    let is_scaling = parts.scaled.is_some();
    let m_len = if parts.scaled == Some(Scaled::Input) { inputs } else { outputs };
    if (parts.rank == 0) != is_scaling || parts.rank > MAX_RANK as usize {
        return Err(Error::Rank {
            found: u32::try_from(parts.rank).unwrap_or(u32::MAX),
            most: MAX_RANK,
        });
    }
    if !parts.alpha.is_finite() {
        let (found, most) = (parts.alpha.to_bits().into(), f32::MAX.to_bits().into());
        return Err(Error::Config { field: Field::Scale, found, least: 0, most });
    }
    exact(site, parts.a.len(), parts.rank * inputs, parts.a.size())?;
    exact(site, parts.b.len(), parts.rank * outputs, parts.b.size())?;
    let lengths = |vector: &[f32], len, is_needed: bool| match vector.len() {
        0 if !is_needed => Ok(()),
        have => exact(site, have, len, size_of::<f32>()),
    };
    lengths(&parts.bias, if is_scaling { 0 } else { outputs }, false)?;
    lengths(&parts.magnitude, m_len, is_scaling)?;
    let not_finite =
        [parts.a.first_not_finite(), parts.b.first_not_finite()].into_iter().flatten().next();
    if let Some(index) = not_finite {
        return Err(Error::NotFinite { site, index: index as u64 });
    }
    check_finite(site, &parts.bias)?;
    check_finite(site, &parts.magnitude)
}

/// `have` numbers of `size` bytes are just what is needed.
fn exact(site: u32, have: usize, need: usize, size: usize) -> Result<()> {
    if have == need {
        return Ok(());
    }
    Err(Error::PayloadLength {
        site,
        have: have as u64 * size as u64,
        need: need as u64 * size as u64,
    })
}
