//! Safetensors files: one or many shards, mapped, their tensors found by name.
//!
//! The `safetensors` crate parses and validates headers; lying lengths end there. Values come out
//! as f32, bf16 and f16 exactly.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors, tensor::TensorInfo};

use crate::archive::map;
use crate::file::FileError;

/// One mapped file.
#[derive(Debug)]
struct Shard {
    path: PathBuf,
    map: memmap2::Mmap,
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
            all.add(path)?;
        }
        Ok(all)
    }

    fn add(&mut self, path: &Path) -> Result<(), FileError> {
        let map = map(path)?;
        let damaged = |error| {
            FileError::format(path, "header", format!("not a valid safetensors file: {error}"))
        };
        SafeTensors::deserialize(&map).map_err(damaged)?;
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(damaged)?;
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
        self.shards.push(Shard { path: path.to_owned(), map, data: header + 8 });
        Ok(())
    }

    /// All names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The tensor called `name` and the file it is in.
    pub fn get(&self, name: &str) -> Option<(Stored<'_>, &Path)> {
        let Entry { shard, info } = self.tensors.get(name)?;
        let shard = self.shards.get(*shard)?;
        let bytes =
            shard.map.get(shard.data + info.data_offsets.0..shard.data + info.data_offsets.1)?;
        Some((Stored { dtype: info.dtype, shape: &info.shape, bytes }, &shard.path))
    }
}

impl Stored<'_> {
    /// The values as f32; `None` for a type that is not a float of at most 32 bits.
    pub fn to_f32(self) -> Option<Vec<f32>> {
        let pairs = || self.bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
        Some(match self.dtype {
            Dtype::F32 => self
                .bytes
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect(),
            Dtype::F16 => pairs().map(|bits| f16::from_bits(bits).to_f32()).collect(),
            Dtype::BF16 => pairs().map(|bits| bf16::from_bits(bits).to_f32()).collect(),
            _ => return None,
        })
    }
}

/// A shape and values.
type Dense = (Vec<usize>, Vec<f32>);

/// The values of `name` as f32 with their shape, or an error that names file and tensor.
pub(super) fn dense(shards: &Shards, name: &str) -> Result<Option<Dense>, FileError> {
    let Some((stored, path)) = shards.get(name) else { return Ok(None) };
    let unsupported = || {
        FileError::format(
            path,
            name,
            format!("tensors of type {:?} are not supported; F32, F16 and BF16 are", stored.dtype),
        )
    };
    Ok(Some((stored.shape.to_vec(), stored.to_f32().ok_or_else(unsupported)?)))
}
