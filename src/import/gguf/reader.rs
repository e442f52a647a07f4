//! The GGUF container: typed metadata and the places of tensors, over a memory map.
//!
//! Nothing here knows models. Every count, length, offset and dimension is a claim of the file: it
//! is compared with the bytes that are there before anything is allocated or indexed.
//!
//! Layout (little-endian): magic `GGUF`, version u32, tensor count u64, pair count u64; the pairs
//! (key, type u32, value); the tensors (name, dimension count u32, dimensions u64 innermost first,
//! type u32, offset u64); padding to `general.alignment`; the data. A string is its length u64 and
//! its bytes; an array is its element type u32, its length u64 and its elements.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::cursor::Cursor;
use super::dequantize::TensorType;
use crate::file::FileError;

/// Bytes of the smallest possible pair: a key of length zero, a type, one byte.
const LEAST_PAIR: usize = 8 + 4 + 1;
/// Bytes of the smallest possible tensor entry: no name, one dimension, type, offset.
const LEAST_TENSOR: usize = 8 + 4 + 8 + 4 + 8;
/// The longest key or tensor name.
const MAX_NAME: usize = 65_535;
/// ggml's limit.
const MAX_DIMENSIONS: u32 = 4;
const DEFAULT_ALIGNMENT: u64 = 32;

/// A metadata value. Strings and arrays stay in the map.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    String(Range<usize>),
    /// Element type, length, bytes.
    Array(u32, usize, Range<usize>),
}

/// The number of the string type.
pub(super) const STRING: u32 = 8;
/// The number of the array type.
const ARRAY: u32 = 9;

/// Bytes of a value of fixed size.
const fn fixed_size(kind: u32) -> Option<usize> {
    Some(match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        10..=12 => 8,
        _ => return None,
    })
}

/// Where a tensor lies.
#[derive(Debug, Clone)]
pub(super) struct TensorInfo {
    /// The shape, outermost first.
    pub(super) shape: Vec<usize>,
    pub(super) kind: TensorType,
    data: Range<usize>,
}

impl TensorInfo {
    /// The number of values.
    pub(super) fn count(&self) -> usize {
        self.shape.iter().product()
    }
}

/// An open GGUF file whose structure has been checked.
#[derive(Debug)]
pub(super) struct Reader {
    path: PathBuf,
    pub(super) map: memmap2::Mmap,
    pub(super) metadata: BTreeMap<String, Value>,
    tensors: BTreeMap<String, TensorInfo>,
}

impl Reader {
    /// Maps the file and checks its structure.
    pub(super) fn open(path: &Path) -> Result<Self, FileError> {
        let map = crate::archive::map(path)?;
        let mut cursor = Cursor::new(path, &map);
        let (tensor_count, pair_count) = header(&mut cursor)?;
        let mut metadata = BTreeMap::new();
        for _ in 0..pair_count {
            let (key, value) = pair(&mut cursor)?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(FileError::format(path, key, "the key appears twice"));
            }
        }
        let entries =
            (0..tensor_count).map(|_| tensor_entry(&mut cursor)).collect::<Result<Vec<_>, _>>()?;
        let alignment = alignment(path, &metadata)?;
        let start = (cursor.position() as u64)
            .checked_next_multiple_of(alignment)
            .filter(|&start| start <= map.len() as u64 || entries.is_empty());
        cursor.at("tensor data");
        let start = start.ok_or_else(|| {
            cursor
                .error(format!("the file ends at byte {} before its tensor data begins", map.len()))
        })?;
        let tensors = place(path, entries, start, alignment, map.len() as u64)?;
        Ok(Self { path: path.into(), map, metadata, tensors })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// An error about `place` (a key or a tensor) of this file.
    pub(super) fn error(&self, place: impl Into<String>, reason: impl Into<String>) -> FileError {
        FileError::format(&self.path, place, reason)
    }

    /// The tensors by name.
    pub(super) fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    /// The values of a tensor from `first` on, a whole number of blocks, as f32 into `out`.
    pub(super) fn read(&self, tensor: &TensorInfo, first: usize, out: &mut [f32]) {
        let (values, bytes) = tensor.kind.block();
        let data = &self.map[tensor.data.clone()][first / values * bytes..];
        tensor.kind.dequantize(&data[..out.len() / values * bytes], out);
    }

    /// All values of a tensor as f32, row-major.
    pub(super) fn values(&self, tensor: &TensorInfo) -> Vec<f32> {
        let mut values = vec![0.0; tensor.count()];
        tensor.kind.dequantize(&self.map[tensor.data.clone()], &mut values);
        values
    }
}

/// Magic, version and counts.
fn header(cursor: &mut Cursor<'_>) -> Result<(u64, u64), FileError> {
    cursor.at("header");
    if cursor.array()? != *b"GGUF" {
        let reason = if cursor.is_safetensors() {
            "this is a safetensors file: give the folder that holds it, with its JSON files"
        } else {
            "this is not a GGUF file (the magic number is missing)"
        };
        return Err(cursor.error(reason));
    }
    match cursor.u32()? {
        2 | 3 => {}
        version if version & 0xffff == 0 && version != 0 => {
            return Err(cursor.error("the file is big-endian, only little-endian files are read"));
        }
        version => {
            return Err(
                cursor.error(format!("GGUF version {version} is not supported (2 and 3 are)"))
            );
        }
    }
    let (tensors, pairs) = (cursor.u64()?, cursor.u64()?);
    for (what, count, least) in
        [("tensors", tensors, LEAST_TENSOR), ("metadata pairs", pairs, LEAST_PAIR)]
    {
        let most = cursor.remaining() / least;
        if count > most as u64 {
            return Err(cursor.error(format!(
                "{count} {what} announced, the file's bytes can hold {most} at most"
            )));
        }
    }
    Ok((tensors, pairs))
}

/// A key and its value.
fn pair(cursor: &mut Cursor<'_>) -> Result<(String, Value), FileError> {
    let key = cursor.name("metadata key", MAX_NAME)?;
    cursor.at(&key);
    let kind = cursor.u32()?;
    let value = match kind {
        0 => Value::Unsigned(cursor.array::<1>()?[0].into()),
        1 => Value::Signed(i8::from_le_bytes(cursor.array()?).into()),
        2 => Value::Unsigned(u16::from_le_bytes(cursor.array()?).into()),
        3 => Value::Signed(i16::from_le_bytes(cursor.array()?).into()),
        4 => Value::Unsigned(cursor.u32()?.into()),
        5 => Value::Signed(i32::from_le_bytes(cursor.array()?).into()),
        6 => Value::Float(f32::from_le_bytes(cursor.array()?).into()),
        7 => match cursor.array()? {
            [byte @ 0..=1] => Value::Bool(byte == 1),
            [byte] => return Err(cursor.error(format!("a truth value is 0 or 1, not {byte}"))),
        },
        STRING => {
            let bytes = cursor.string(usize::MAX)?.len();
            Value::String(cursor.position() - bytes..cursor.position())
        }
        ARRAY => array(cursor)?,
        10 => Value::Unsigned(cursor.u64()?),
        11 => Value::Signed(i64::from_le_bytes(cursor.array()?)),
        12 => Value::Float(f64::from_le_bytes(cursor.array()?)),
        _ => return Err(cursor.error(format!("metadata type {kind} is unknown"))),
    };
    Ok((key, value))
}

/// An array, its bytes walked over once. Arrays of arrays are refused: no key of a model has one.
fn array(cursor: &mut Cursor<'_>) -> Result<Value, FileError> {
    let (kind, count) = (cursor.u32()?, cursor.u64()?);
    let least = match kind {
        STRING => 8,
        ARRAY => return Err(cursor.error("arrays of arrays are not supported")),
        _ => fixed_size(kind)
            .ok_or_else(|| cursor.error(format!("element type {kind} is unknown")))?,
    };
    let most = cursor.remaining() / least;
    let Some(count) = usize::try_from(count).ok().filter(|&count| count <= most) else {
        return Err(cursor.error(format!(
            "{count} elements announced, the remaining bytes can hold {most} at most"
        )));
    };
    let start = cursor.position();
    if kind == STRING {
        for _ in 0..count {
            cursor.string(usize::MAX)?;
        }
    } else {
        cursor.take(count * least)?;
    }
    Ok(Value::Array(kind, count, start..cursor.position()))
}

/// What the file says about one tensor; its data's place is not checked yet.
struct Entry {
    name: String,
    shape: Vec<usize>,
    kind: TensorType,
    offset: u64,
    bytes: u64,
}

fn tensor_entry(cursor: &mut Cursor<'_>) -> Result<Entry, FileError> {
    let name = cursor.name("tensor name", MAX_NAME)?;
    cursor.at(&name);
    let dimensions = cursor.u32()?;
    if !(1..=MAX_DIMENSIONS).contains(&dimensions) {
        return Err(
            cursor.error(format!("{dimensions} dimensions, expected 1 to {MAX_DIMENSIONS}"))
        );
    }
    let mut shape = Vec::new();
    for _ in 0..dimensions {
        let size = cursor.u64()?;
        match usize::try_from(size) {
            Ok(size @ 1..) => shape.push(size),
            _ => return Err(cursor.error(format!("a dimension is {size}"))),
        }
    }
    let kind = TensorType::from_number(cursor.u32()?).map_err(|reason| cursor.error(reason))?;
    let (block, size) = kind.block();
    if !shape[0].is_multiple_of(block) {
        return Err(
            cursor.error(format!("rows of {} values are not whole blocks of {block}", shape[0]))
        );
    }
    let blocks = shape
        .iter()
        .try_fold(1usize, |product, &n| product.checked_mul(n))
        .map(|count| count / block);
    // Four bytes per value must be addressable too: the tensor becomes f32.
    let bytes = blocks.filter(|blocks| {
        blocks.checked_mul(4 * block.max(size)).is_some_and(|n| isize::try_from(n).is_ok())
    });
    let bytes = bytes
        .map(|blocks| (blocks * size) as u64)
        .ok_or_else(|| cursor.error(format!("the dimensions {shape:?} overflow")))?;
    shape.reverse();
    Ok(Entry { name, shape, kind, offset: cursor.u64()?, bytes })
}

fn alignment(path: &Path, metadata: &BTreeMap<String, Value>) -> Result<u64, FileError> {
    match metadata.get("general.alignment") {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(&Value::Unsigned(n)) if n.is_power_of_two() => Ok(n),
        Some(other) => {
            let found = match other {
                Value::Unsigned(n) => n.to_string(),
                Value::Signed(n) => n.to_string(),
                Value::Float(x) => x.to_string(),
                Value::Bool(is) => is.to_string(),
                Value::String(_) => "a string".into(),
                Value::Array(..) => "an array".into(),
            };
            let reason = format!("expected a power of two, found {found}");
            Err(FileError::format(path, "general.alignment", reason))
        }
    }
}

/// Checks that every tensor's data is aligned, inside the file and its own.
fn place(
    path: &Path,
    entries: Vec<Entry>,
    start: u64,
    alignment: u64,
    length: u64,
) -> Result<BTreeMap<String, TensorInfo>, FileError> {
    let mut tensors = BTreeMap::new();
    let mut ranges = Vec::new();
    for Entry { name, shape, kind, offset, bytes } in entries {
        if offset % alignment != 0 {
            return Err(FileError::format(
                path,
                name,
                format!("offset {offset} is not a multiple of the alignment {alignment}"),
            ));
        }
        let begin = start.checked_add(offset);
        let end = begin.and_then(|begin| begin.checked_add(bytes)).filter(|&end| end <= length);
        let (Some(begin), Some(end)) = (begin, end) else {
            let reason = format!(
                "{bytes} bytes at offset {offset} of the data (which begins at {start}) end after the file's {length}"
            );
            return Err(FileError::format(path, name, reason));
        };
        ranges.push((begin, end, name.clone()));
        // Both lie within the map, so they fit.
        let info = TensorInfo { shape, kind, data: begin as usize..end as usize };
        if tensors.insert(name.clone(), info).is_some() {
            return Err(FileError::format(path, name, "the tensor appears twice"));
        }
    }
    ranges.sort_unstable();
    for pair in ranges.windows(2) {
        let [(_, end, first), (begin, _, second)] = pair else { continue };
        if begin < end {
            return Err(FileError::format(
                path,
                second,
                format!("its data at byte {begin} overlaps that of {first}, which ends at {end}"),
            ));
        }
    }
    Ok(tensors)
}
