//! Safetensors files: one or many shards, mapped, their tensors found by name.
//!
//! The `safetensors` crate parses and validates headers; lying lengths end there. Values come out
//! as f32, bf16 and f16 exactly.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors, tensor::TensorInfo};

use super::Pieces;
use crate::archive::map;
use crate::file::FileError;
use crate::quant::Format;

/// Where the bytes of a file are.
#[derive(Debug)]
enum Content {
    Mapped(memmap2::Mmap),
    Memory(Vec<u8>),
}

impl std::ops::Deref for Content {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Memory(bytes) => bytes,
        }
    }
}

/// One file.
#[derive(Debug)]
struct Shard {
    path: PathBuf,
    content: Content,
    /// Where tensor data starts.
    data: usize,
}

/// Where a tensor is.
#[derive(Debug)]
struct Entry {
    shard: usize,
    info: TensorInfo,
}

/// The tensors of one or many safetensors files.
#[derive(Debug)]
pub struct Shards {
    shards: Vec<Shard>,
    tensors: BTreeMap<String, Entry>,
}

/// A tensor as it is stored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stored<'s> {
    /// The element type.
    pub dtype: Dtype,
    /// The shape, outermost first.
    pub shape: &'s [usize],
    /// The little-endian bytes.
    pub bytes: &'s [u8],
}

impl Shards {
    /// Maps `files` and reads their headers.
    ///
    /// # Errors
    /// I/O errors, damaged headers, a name that two files have.
    pub fn open(files: &[PathBuf]) -> Result<Self, FileError> {
        let mut all = Self { shards: Vec::new(), tensors: BTreeMap::new() };
        for path in files {
            all.add(path, Content::Mapped(map(path)?))?;
        }
        Ok(all)
    }

    /// Reads the header of a file in memory, which messages call `path`.
    ///
    /// # Errors
    /// A damaged header.
    pub(crate) fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<Self, FileError> {
        let mut all = Self { shards: Vec::new(), tensors: BTreeMap::new() };
        all.add(path, Content::Memory(bytes))?;
        Ok(all)
    }

    fn add(&mut self, path: &Path, content: Content) -> Result<(), FileError> {
        let damaged = |error| {
            FileError::format(path, "header", format!("not a valid safetensors file: {error}"))
        };
        SafeTensors::deserialize(&content).map_err(damaged)?;
        let (header, metadata) = SafeTensors::read_metadata(&content).map_err(damaged)?;
        for (name, info) in metadata.tensors() {
            let entry = Entry { shard: self.shards.len(), info: info.clone() };
            if self.tensors.insert(name.clone(), entry).is_some() {
                return Err(FileError::format(
                    path,
                    name,
                    "another file holds a tensor of the same name",
                ));
            }
        }
        self.shards.push(Shard { path: path.to_owned(), content, data: header + 8 });
        Ok(())
    }

    /// Puts `prefix` before all names but those of the `outside`, if none has it: a model that was
    /// saved without its head calls its parts without it.
    pub(crate) fn add_prefix(&mut self, prefix: &str, outside: &str) {
        if self.tensors.keys().any(|name| name.starts_with(prefix)) {
            return;
        }
        let named = |name: String| {
            if name.starts_with(outside) { name } else { format!("{prefix}{name}") }
        };
        let tensors = std::mem::take(&mut self.tensors);
        self.tensors = tensors.into_iter().map(|(name, entry)| (named(name), entry)).collect();
    }

    /// All names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The tensor called `name` and the file it is in.
    pub fn get(&self, name: &str) -> Option<(Stored<'_>, &Path)> {
        let Entry { shard, info } = self.tensors.get(name)?;
        let shard = self.shards.get(*shard)?;
        let (first, end) = info.data_offsets;
        let bytes = shard.content.get(shard.data + first..shard.data + end)?;
        Some((Stored { dtype: info.dtype, shape: &info.shape, bytes }, &shard.path))
    }
}

impl Stored<'_> {
    /// The values as f32; `None` for a type that is not a float of at most 32 bits.
    pub fn to_f32(self) -> Option<Vec<f32>> {
        let mut values = vec![0.0; self.bytes.len() / self.width()?];
        self.read(0, &mut values);
        Some(values)
    }

    /// Bytes of a value, of the types that are read.
    fn width(self) -> Option<usize> {
        match self.dtype {
            Dtype::F32 => Some(4),
            Dtype::F16 | Dtype::BF16 => Some(2),
            _ => None,
        }
    }

    /// The values from `first` on as f32 into `out`, of the types that are read.
    fn read(self, first: usize, out: &mut [f32]) {
        let halves = || {
            let (halves, _) = self.bytes.as_chunks::<2>();
            halves[first..].iter().map(|&bytes| u16::from_le_bytes(bytes))
        };
        match self.dtype {
            Dtype::F16 => {
                out.iter_mut().zip(halves()).for_each(|(to, x)| *to = f16::from_bits(x).to_f32())
            }
            Dtype::BF16 => {
                out.iter_mut().zip(halves()).for_each(|(to, x)| *to = bf16::from_bits(x).to_f32())
            }
            _ => {
                let (words, _) = self.bytes.as_chunks::<4>();
                out.iter_mut().zip(&words[first..]).for_each(|(to, &x)| *to = f32::from_le_bytes(x))
            }
        }
    }

    /// The 16-bit or 32-bit format that holds every value: bf16 goes into f16 (to within 2⁻²⁵) as
    /// long as nothing is too large for it.
    pub(crate) fn format(self) -> Option<Format> {
        let is_large =
            |bytes: &[u8; 2]| bf16::from_le_bytes(*bytes).to_f32().abs() > f16::MAX.to_f32();
        match self.dtype {
            Dtype::F16 => Some(Format::F16),
            Dtype::BF16 if !self.bytes.as_chunks().0.iter().any(is_large) => Some(Format::F16),
            Dtype::BF16 | Dtype::F32 => Some(Format::F32),
            _ => None,
        }
    }
}

/// A shape and values.
type Dense = (Vec<usize>, Vec<f32>);

/// The values of `name` as f32 with their shape, or an error that names file and tensor.
pub(crate) fn dense(shards: &Shards, name: &str) -> Result<Option<Dense>, FileError> {
    let Some((stored, path)) = shards.get(name) else { return Ok(None) };
    let values = stored.to_f32().ok_or_else(|| unsupported(name, stored, path))?;
    Ok(Some((stored.shape.to_vec(), values)))
}

/// As [`dense`], to be read piece by piece.
pub(crate) fn pieces<'s>(shards: &'s Shards, name: &str) -> Result<Option<Pieces<'s>>, FileError> {
    let Some((stored, path)) = shards.get(name) else { return Ok(None) };
    stored.width().ok_or_else(|| unsupported(name, stored, path))?;
    let read = Box::new(move |first, out: &mut [f32]| stored.read(first, out));
    Ok(Some(Pieces { shape: stored.shape.to_vec(), read }))
}

fn unsupported(name: &str, stored: Stored<'_>, path: &Path) -> FileError {
    let reason =
        format!("tensors of type {} are not supported; F32, F16 and BF16 are", stored.dtype);
    FileError::format(path, name, reason)
}
