//! Building adapter archives: factors in PEFT's orientation are checked against a base, brought into the archive's form and
//! bound to the base's fingerprint. `std` only; opened adapters are in `lora`.

use std::collections::BTreeMap;
use std::path::Path;

use half::f16;

use super::{MAX_RANK, dora};
use crate::archive::{Buffer, Header, check_finite, schema, to_buffer, write_file};
use crate::error::{Error, Field, Result, RootKind};
use crate::file::FileError;
use crate::model::llama::{Llama, Site};
use crate::quant::Format;

/// A factor's numbers in the form they are stored in.
#[derive(Debug, Clone, PartialEq)]
pub enum Numbers {
    /// 32-bit floats.
    F32(Vec<f32>),
    /// 16-bit floats, as bits.
    F16(Vec<u16>),
}

impl Numbers {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::F16(values) => values.len(),
        }
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number at `index`.
    pub fn get(&self, index: usize) -> f32 {
        match self {
            Self::F32(values) => values[index],
            Self::F16(values) => f16::from_bits(values[index]).to_f32(),
        }
    }

    /// All of them as f32.
    fn to_f32(&self) -> Vec<f32> {
        (0..self.len()).map(|index| self.get(index)).collect()
    }

    /// Bytes of one.
    fn size(&self) -> usize {
        match self {
            Self::F32(_) => size_of::<f32>(),
            Self::F16(_) => size_of::<u16>(),
        }
    }

    fn first_not_finite(&self) -> Option<usize> {
        (0..self.len()).find(|&index| !self.get(index).is_finite())
    }

    /// `[rows, cols]` becomes `[cols, rows]`.
    fn transposed(&self, rows: usize, cols: usize) -> Self {
        fn transpose<T: Copy>(values: &[T], rows: usize, cols: usize) -> Vec<T> {
            (0..cols).flat_map(|col| (0..rows).map(move |row| values[row * cols + col])).collect()
        }
        match self {
            Self::F32(values) => Self::F32(transpose(values, rows, cols)),
            Self::F16(values) => Self::F16(transpose(values, rows, cols)),
        }
    }
}

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

/// How factors are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum FactorFormat {
    /// As they came: f32 or f16.
    #[default]
    AsIs,
    /// f32.
    F32,
    /// f16.
    F16,
    /// int8 with one scale per row of A and of B transposed.
    Int8,
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

/// A factor in the form of the archive.
struct Stored {
    format: Format,
    bytes: Vec<u8>,
    scales: Vec<f32>,
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
        let a = if is_embedding { self.store(&parts.a.transposed(parts.rank, inputs), parts.rank)? } else { self.store(&parts.a, inputs)? };
        let b = self.store(&parts.b.transposed(outputs, parts.rank), outputs)?;
        let gain = match parts.magnitude.as_slice() {
            [] => Vec::new(),
            m => dora::gain(place.0, &base.weight(site), parts.scale(), &a.values(inputs), &b.values(outputs), m)?,
        };
        Ok(Finished { place, is_embedding, parts, inputs, outputs, a, b, gain })
    }

    /// A factor with rows of `width` in the form of the archive.
    fn store(&self, numbers: &Numbers, width: usize) -> Result<Stored> {
        match (self.format, numbers) {
            (FactorFormat::AsIs | FactorFormat::F16, Numbers::F16(bits)) => Ok(Stored::f16(bits)),
            (FactorFormat::AsIs | FactorFormat::F32, _) => Ok(Stored::f32(&numbers.to_f32())),
            (FactorFormat::F16, _) => {
                let half = |(index, value)| {
                    let half = f16::from_f32(value);
                    if half.is_finite() { Ok(half.to_bits()) } else { Err(Error::Range { index: index as u64, value }) }
                };
                let bits: Vec<u16> = numbers.to_f32().into_iter().enumerate().map(half).collect::<Result<_>>()?;
                Ok(Stored::f16(&bits))
            }
            (FactorFormat::Int8, _) => Ok(Stored::int8(&numbers.to_f32(), width)),
        }
    }
}

impl Stored {
    fn f32(values: &[f32]) -> Self {
        Self { format: Format::F32, bytes: bytemuck::cast_slice(values).to_vec(), scales: Vec::new() }
    }

    fn f16(bits: &[u16]) -> Self {
        Self { format: Format::F16, bytes: bytemuck::cast_slice(bits).to_vec(), scales: Vec::new() }
    }

    /// `q = round(v / scale)` with `scale = absmax / 127` of each row.
    fn int8(values: &[f32], width: usize) -> Self {
        let absmax = |row: &[f32]| row.iter().fold(0.0f32, |most, v| most.max(v.abs()));
        let scales: Vec<f32> = values.chunks(width).map(|row| absmax(row) / 127.0).collect();
        let encode = |v: f32, scale: f32| if scale > 0.0 { (v / scale).round_ties_even().clamp(-127.0, 127.0) as i8 } else { 0 };
        let rows = values.chunks(width).zip(&scales);
        let bytes = rows.flat_map(|(row, &scale)| row.iter().map(move |&v| encode(v, scale).cast_unsigned())).collect();
        Self { format: Format::Int8, bytes, scales }
    }

    /// The numbers as inference will read them; rows have `width` numbers.
    fn values(&self, width: usize) -> Vec<f32> {
        match self.format {
            Format::F16 => bytemuck::pod_collect_to_vec::<u8, u16>(&self.bytes).into_iter().map(|b| f16::from_bits(b).to_f32()).collect(),
            Format::Int8 => {
                let rows = self.bytes.chunks(width).zip(&self.scales);
                rows.flat_map(|(row, &scale)| row.iter().map(move |&q| scale * f32::from(q.cast_signed()))).collect()
            }
            _ => bytemuck::pod_collect_to_vec(&self.bytes),
        }
    }
}

impl Finished<'_> {
    fn schema(&self) -> schema::Target<'_> {
        fn factor(stored: &Stored) -> schema::Factor<'_> {
            schema::Factor { format: stored.format as u8, values: &stored.bytes, scales: &stored.scales }
        }
        schema::Target {
            site: self.place.0,
            kind: u8::from(self.is_embedding),
            scaling: u8::from(self.parts.rank_stabilized),
            rank: self.parts.rank as u32,
            inputs: self.inputs as u32,
            outputs: self.outputs as u32,
            alpha: self.parts.alpha,
            a: factor(&self.a),
            b: factor(&self.b),
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
