//! The metadata of a GGUF file, key by key, with the type that the reader of a key expects.

use super::cursor::Cursor;
use super::reader::{Reader, STRING, Value};
use crate::file::FileError;

impl Reader {
    /// Is there such a key?
    pub(super) fn has(&self, key: &str) -> bool {
        self.metadata.contains_key(key)
    }

    /// Is the value of `key` an array?
    pub(super) fn is_array(&self, key: &str) -> bool {
        matches!(self.metadata.get(key), Some(Value::Array(..)))
    }

    /// The value of `key` through `read`, which says `None` for another type than `expected`.
    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, FileError> {
        let Some(value) = self.metadata.get(key) else { return Ok(None) };
        let found = match value {
            Value::Unsigned(n) => n.to_string(),
            Value::Signed(n) => n.to_string(),
            Value::Float(n) => format!("the float {n}"),
            Value::Bool(b) => b.to_string(),
            Value::String(_) => "a string".into(),
            Value::Array(kind, count, _) => format!("an array of {count} elements of type {kind}"),
        };
        read(value)
            .map(Some)
            .ok_or_else(|| self.error(key, format!("expected {expected}, found {found}")))
    }

    /// A whole number that is not negative.
    pub(super) fn unsigned(&self, key: &str) -> Result<Option<u64>, FileError> {
        self.typed(key, "a whole number that is not negative", |value| match value {
            Value::Unsigned(n) => Some(*n),
            Value::Signed(n) => u64::try_from(*n).ok(),
            _ => None,
        })
    }

    /// A float.
    pub(super) fn float(&self, key: &str) -> Result<Option<f32>, FileError> {
        self.typed(
            key,
            "a float",
            |value| if let Value::Float(n) = value { Some(*n as f32) } else { None },
        )
    }

    /// A truth value.
    pub(super) fn boolean(&self, key: &str) -> Result<Option<bool>, FileError> {
        self.typed(
            key,
            "true or false",
            |value| if let Value::Bool(b) = value { Some(*b) } else { None },
        )
    }

    /// A string.
    pub(super) fn string(&self, key: &str) -> Result<Option<&str>, FileError> {
        self.typed(key, "a UTF-8 string", |value| match value {
            Value::String(range) => std::str::from_utf8(&self.map[range.clone()]).ok(),
            _ => None,
        })
    }

    /// An array of strings.
    pub(super) fn strings(&self, key: &str) -> Result<Option<Vec<&str>>, FileError> {
        self.typed(key, "an array of UTF-8 strings", |value| match value {
            Value::Array(STRING, count, range) => {
                let mut cursor = Cursor::new(self.path(), &self.map[range.clone()]);
                (0..*count)
                    .map(|_| std::str::from_utf8(cursor.string(usize::MAX).ok()?).ok())
                    .collect()
            }
            _ => None,
        })
    }

    /// An array of 32-bit floats or whole numbers, as floats.
    pub(super) fn floats(&self, key: &str) -> Result<Option<Vec<f32>>, FileError> {
        self.typed(key, "an array of 32-bit floats", |value| match value {
            Value::Array(kind @ (5 | 6), _, range) => {
                let words = self.map[range.clone()].as_chunks::<4>().0.iter();
                let float = |word: &[u8; 4]| match kind {
                    5 => i32::from_le_bytes(*word) as f32,
                    _ => f32::from_le_bytes(*word),
                };
                Some(words.map(float).collect())
            }
            _ => None,
        })
    }

    /// An array of 32-bit whole numbers.
    pub(super) fn integers(&self, key: &str) -> Result<Option<Vec<i64>>, FileError> {
        self.typed(key, "an array of 32-bit whole numbers", |value| match value {
            Value::Array(kind @ (4 | 5), _, range) => {
                let words = self.map[range.clone()].as_chunks::<4>().0.iter();
                Some(
                    words
                        .map(|&w| {
                            if *kind == 4 {
                                u32::from_le_bytes(w).into()
                            } else {
                                i32::from_le_bytes(w).into()
                            }
                        })
                        .collect(),
                )
            }
            _ => None,
        })
    }
}
