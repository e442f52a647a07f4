//! Building adapter archives: binding factors to a base and computing what DoRA needs once.
//!
//! `std` only. DoRA's per-row gain is `k = m / ‖W + s·B A‖` (arXiv 2402.09353, equation 5) with W as the base stores it,
//! dequantized; rows are built one at a time, so memory stays at one row of the widest layer.

use std::collections::BTreeMap;
use std::path::Path;

use half::f16;

use super::MAX_RANK;
use crate::archive::{Buffer, Header, schema, to_buffer, write_file};
use crate::error::{Error, Result, RootKind};
use crate::file::FileError;
use crate::model::llama::{Llama, Site};
use crate::quant::{Format, Matrix};

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
struct Finished {
    place: Place,
    is_embedding: bool,
    parts: TargetParts,
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
    /// [`Error::UnknownSite`], [`Error::Rank`], [`Error::Length`], [`Error::NotFinite`], [`Error::Range`] (a value that f16 cannot
    /// hold), [`Error::Config`] if there are no targets.
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
            return Err(Error::Config { field: crate::Field::Targets, found: 0, least: 1, most: base.config().sites() as u64 });
        }
        let finished: Vec<Finished> = self.targets.iter().map(|(&place, parts)| self.finish(base, place, parts)).collect::<Result<_>>()?;
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

    fn finish(&self, base: &Llama<'_>, place: Place, parts: &TargetParts) -> Result<Finished> {
        let config = base.config();
        let site = Site::from_number(place.0, config.layers);
        let site = site.ok_or(Error::UnknownSite { site: place.0, sites: config.sites() as u32 })?;
        let (rows, cols) = site.shape(config);
        let is_embedding = site == Site::Embedding;
        let (outputs, inputs) = if is_embedding { (cols, rows) } else { (rows, cols) };
        check(place.0, parts, outputs, inputs)?;
        let a = if is_embedding { parts.a.transposed(parts.rank, inputs) } else { parts.a.clone() };
        let gain = if parts.magnitude.is_empty() { Vec::new() } else { gain(&base.weight(site), parts) };
        Ok(Finished {
            place,
            is_embedding,
            inputs,
            outputs,
            a: self.store(&a, if is_embedding { parts.rank } else { inputs })?,
            b: self.store(&parts.b.transposed(outputs, parts.rank), outputs)?,
            gain,
            parts: parts.clone(),
        })
    }

    /// A factor with rows of `width` in the form of the archive.
    fn store(&self, numbers: &Numbers, width: usize) -> Result<Stored> {
        let values = || (0..numbers.len()).map(|i| numbers.get(i));
        Ok(match (self.format, numbers) {
            (FactorFormat::AsIs, Numbers::F16(bits)) => {
                Stored { format: Format::F16, bytes: bytemuck::cast_slice(bits).to_vec(), scales: Vec::new() }
            }
            (FactorFormat::AsIs | FactorFormat::F32, _) => {
                let values: Vec<f32> = values().collect();
                Stored { format: Format::F32, bytes: bytemuck::cast_slice(&values).to_vec(), scales: Vec::new() }
            }
            (FactorFormat::F16, _) => {
                let half = |(index, value)| {
                    let half = f16::from_f32(value);
                    if half.is_finite() { Ok(half.to_bits()) } else { Err(Error::Range { index: index as u64, value }) }
                };
                let bits: Vec<u16> = values().enumerate().map(half).collect::<Result<_>>()?;
                Stored { format: Format::F16, bytes: bytemuck::cast_slice(&bits).to_vec(), scales: Vec::new() }
            }
            (FactorFormat::Int8, _) => {
                let values: Vec<f32> = values().collect();
                let scales: Vec<f32> =
                    values.chunks(width).map(|row| row.iter().fold(0.0f32, |most, v| most.max(v.abs())) / 127.0).collect();
                let encode = |(row, scale): (&[f32], &f32)| -> Vec<u8> {
                    let reciprocal = if *scale > 0.0 { 1.0 / scale } else { 0.0 };
                    row.iter().map(|v| ((v * reciprocal).round_ties_even().clamp(-127.0, 127.0) as i8).cast_unsigned()).collect()
                };
                Stored { format: Format::Int8, bytes: values.chunks(width).zip(&scales).flat_map(encode).collect(), scales }
            }
        })
    }
}

impl Finished {
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
        return Err(Error::Rank { found: parts.rank as u32, most: MAX_RANK });
    }
    let exact = |have: usize, need: usize| if have == need { Ok(()) } else { Err(Error::Length { have, need }) };
    exact(parts.a.len(), parts.rank * inputs)?;
    exact(parts.b.len(), parts.rank * outputs)?;
    for vector in [&parts.bias, &parts.magnitude] {
        if !vector.is_empty() {
            exact(vector.len(), outputs)?;
        }
    }
    let finite = |len: usize, get: &dyn Fn(usize) -> f32| match (0..len).find(|&i| !get(i).is_finite()) {
        Some(index) => Err(Error::NotFinite { site, index: index as u64 }),
        None => Ok(()),
    };
    finite(1, &|_| parts.alpha)?;
    finite(parts.a.len(), &|i| parts.a.get(i))?;
    finite(parts.b.len(), &|i| parts.b.get(i))?;
    finite(parts.bias.len(), &|i| parts.bias[i])?;
    finite(parts.magnitude.len(), &|i| parts.magnitude[i])
}

/// k = m / ‖W + s·B A‖ per row, in f64; 1 where the norm is zero (the row's output is then zero whatever k is).
fn gain(weight: &Matrix<'_>, parts: &TargetParts) -> Vec<f32> {
    let (rank, cols, scale) = (parts.rank, weight.cols(), f64::from(parts.scale()));
    let (mut w, mut v) = (vec![0.0; cols], vec![0.0; cols]);
    let a: Vec<f64> = (0..parts.a.len()).map(|i| f64::from(parts.a.get(i))).collect();
    let row_gain = |(row, &magnitude): (usize, &f32)| {
        weight.read(row, 0, &mut w);
        v.iter_mut().zip(&w).for_each(|(v, &w)| *v = f64::from(w));
        for (j, a) in a.chunks_exact(cols).enumerate() {
            let b = scale * f64::from(parts.b.get(row * rank + j));
            v.iter_mut().zip(a).for_each(|(v, a)| *v += b * a);
        }
        let norm = v.iter().map(|v| v * v).sum::<f64>().sqrt();
        let gain = (f64::from(magnitude) / norm) as f32;
        if gain.is_finite() { gain } else { 1.0 }
    };
    parts.magnitude.iter().enumerate().map(row_gain).collect()
}
