//! Reading configuration files: JSON with the file and key in every error.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::file::FileError;
use crate::foreign;
use crate::text::without_mark;

/// A JSON object from a file.
#[derive(Debug, Clone)]
pub(crate) struct Json {
    pub(crate) path: PathBuf,
    /// Is there a file, beside which others may lie?
    is_file: bool,
    /// The keys that lead here, for messages.
    place: String,
    pub(crate) fields: Map<String, Value>,
}

impl Json {
    pub(crate) fn read(path: &Path) -> Result<Self, FileError> {
        Ok(Self { is_file: true, ..Self::parse(path, &foreign::read(path)?)? })
    }

    /// An object in memory, which messages call `path`.
    pub(crate) fn parse(path: &Path, bytes: &[u8]) -> Result<Self, FileError> {
        let value: Value = serde_json::from_slice(without_mark(bytes))
            .map_err(|error| FileError::format(path, "", format!("not valid JSON: {error}")))?;
        match value {
            Value::Object(fields) => {
                Ok(Self { path: path.to_owned(), is_file: false, place: String::new(), fields })
            }
            _ => Err(FileError::format(path, "", "a JSON object was expected")),
        }
    }

    /// The file called `name` beside this one, if it is there and can be read: it is another
    /// program's, and what is wrong with it is no reason to refuse this one.
    pub(crate) fn beside(&self, name: &str) -> Option<Self> {
        let path = self.is_file.then(|| self.path.with_file_name(name))?;
        Self::read_if_there(&path).ok().flatten()
    }

    /// The file if it exists.
    pub(crate) fn read_if_there(path: &Path) -> Result<Option<Self>, FileError> {
        if path.exists() { Self::read(path).map(Some) } else { Ok(None) }
    }

    /// The file, or an object without keys where there is none.
    pub(crate) fn read_or_empty(path: &Path) -> Result<Self, FileError> {
        let none = || Self {
            path: path.to_owned(),
            is_file: false,
            place: String::new(),
            fields: Map::new(),
        };
        Ok(Self::read_if_there(path)?.unwrap_or_else(none))
    }

    /// The value at `key`; null counts as absent.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.fields.get(key).filter(|value| !value.is_null())
    }

    pub(crate) fn error(&self, key: &str, reason: impl Into<String>) -> FileError {
        FileError::format(&self.path, format!("{}{key}", self.place), reason)
    }

    fn expect<T>(
        &self,
        key: &str,
        what: &str,
        convert: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>, FileError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        convert(value)
            .map(Some)
            .ok_or_else(|| self.error(key, format!("{what} was expected, found {value}")))
    }

    pub(crate) fn number(&self, key: &str) -> Result<Option<f32>, FileError> {
        match self.expect(key, "a number", Value::as_f64)? {
            Some(value) if !(value as f32).is_finite() => {
                Err(self.error(key, format!("{value:e} is more than 32 bits hold")))
            }
            value => Ok(value.map(|value| value as f32)),
        }
    }

    pub(crate) fn count(&self, key: &str) -> Result<Option<usize>, FileError> {
        self.expect(key, "a whole number", |value| {
            value.as_u64().and_then(|value| usize::try_from(value).ok())
        })
    }

    pub(crate) fn flag(&self, key: &str) -> Result<bool, FileError> {
        Ok(self.expect(key, "true or false", Value::as_bool)?.unwrap_or(false))
    }

    pub(crate) fn text(&self, key: &str) -> Result<Option<&str>, FileError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(value) => Err(self.error(key, format!("a string was expected, found {value}"))),
        }
    }

    pub(crate) fn object(&self, key: &str) -> Result<Option<Self>, FileError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(fields)) => Ok(Some(Self {
                path: self.path.clone(),
                is_file: self.is_file,
                place: format!("{}{key}.", self.place),
                fields: fields.clone(),
            })),
            Some(value) => Err(self.error(key, format!("an object was expected, found {value}"))),
        }
    }

    pub(crate) fn required<T>(&self, key: &str, value: Option<T>) -> Result<T, FileError> {
        value.ok_or_else(|| self.error(key, "the key is missing"))
    }

    /// Refuses `key` unless it is absent or `expected`.
    pub(crate) fn refuse_unless(&self, key: &str, expected: &Value) -> Result<(), FileError> {
        match self.get(key) {
            Some(value) if value != expected => {
                Err(self.error(key, format!("{value} is not supported; {expected} is")))
            }
            _ => Ok(()),
        }
    }

    /// Refuses `key` unless it is absent, false, 0, empty, or satisfies `harmless`.
    pub(crate) fn refuse(
        &self,
        key: &str,
        harmless: impl Fn(&Value) -> bool,
    ) -> Result<(), FileError> {
        match self.get(key) {
            Some(value) if !is_neutral(value) && !harmless(value) => {
                Err(self.error(key, format!("{value} is not supported")))
            }
            _ => Ok(()),
        }
    }
}

/// Null, false, zero and everything empty change nothing.
pub(crate) fn is_neutral(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

/// What of a stated name or path may travel in an archive: its last part, so that no folder of
/// somebody's disk does.
pub(crate) fn last_part(stated: &str) -> &str {
    let part = stated.rsplit(['/', '\\']).find(|part| !part.trim().is_empty());
    part.map(str::trim).filter(|part| !matches!(*part, "." | ".." | "~")).unwrap_or_default()
}

/// The same of where a base was loaded from: a name on a hub, `owner/name`, is no path.
pub(crate) fn public_place(stated: &str) -> &str {
    let is_plain = |part: &str| {
        !part.is_empty()
            && !part.starts_with(['.', '~'])
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    match stated.split_once('/') {
        Some((owner, name)) if is_plain(owner) && is_plain(name) => stated,
        _ => last_part(stated),
    }
}

/// The name of the folder at `path`, also where the path does not end in it (`.`).
pub(crate) fn folder_name(path: &Path) -> Option<String> {
    let whole = path.canonicalize();
    let name = path.file_name().or_else(|| whole.as_ref().ok()?.file_name());
    name.map(|name| name.to_string_lossy().into_owned())
}
