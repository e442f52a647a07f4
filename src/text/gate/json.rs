//! JSON in which no key stands twice, and whose strings stay where they are in the file: a
//! tokenizer is nearly all strings, and is read at every start.
//!
//! The tokenizer library looks at every value under a repeated key, a map keeps the last one: what
//! was checked would not be what is used.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::map::Entry;
use serde_json::{Map, Number, Value};

/// A value of a file that lives for `'a`. A map may still have a key twice: whoever takes it apart
/// looks.
#[derive(Debug)]
pub(super) enum Json<'a> {
    Null,
    Bool(bool),
    Number(Number),
    Text(Cow<'a, str>),
    List(Vec<Json<'a>>),
    Map(Fields<'a>),
}

pub(super) type Fields<'a> = Vec<(Cow<'a, str>, Json<'a>)>;

impl<'a> Json<'a> {
    /// The value of `text`, nested at most as deep as serde_json allows (128).
    pub(super) fn read(text: &'a [u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(text)
    }

    /// The value with its own strings; an error if a key stands twice.
    pub(super) fn into_value(self) -> Result<Value, String> {
        Ok(match self {
            Self::Null => Value::Null,
            Self::Bool(value) => value.into(),
            Self::Number(value) => value.into(),
            Self::Text(value) => value.into(),
            Self::List(items) => {
                items.into_iter().map(Self::into_value).collect::<Result<Vec<_>, _>>()?.into()
            }
            Self::Map(fields) => into_map(fields)?.into(),
        })
    }
}

/// The fields with their own strings; an error if a key stands twice.
pub(super) fn into_map(fields: Fields<'_>) -> Result<Map<String, Value>, String> {
    let mut map = Map::with_capacity(fields.len());
    for (key, value) in fields {
        match map.entry(key) {
            Entry::Occupied(entry) => return Err(twice(entry.key())),
            Entry::Vacant(entry) => drop(entry.insert(value.into_value()?)),
        }
    }
    Ok(map)
}

/// Takes the value of a key out of the fields.
pub(super) fn take<'a>(fields: &mut Fields<'a>, key: &str) -> Result<Option<Json<'a>>, String> {
    let Some(at) = fields.iter().position(|(name, _)| name == key) else { return Ok(None) };
    let (_, value) = fields.remove(at);
    if fields.iter().any(|(name, _)| name == key) { Err(twice(key)) } else { Ok(Some(value)) }
}

pub(super) fn twice(key: &str) -> String {
    format!("the key {key:?} stands twice")
}

impl<'de: 'a, 'a> Deserialize<'de> for Json<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Any)
    }
}

struct Any;

impl<'de> Visitor<'de> for Any {
    type Value = Json<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json<'de>, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json<'de>, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json<'de>, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json<'de>, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json<'de>, E> {
        Ok(Number::from_f64(value).map_or(Json::Null, Json::Number))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json<'de>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Json::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json<'de>, A::Error> {
        let mut fields = Vec::new();
        while let Some(key) = map.next_key()? {
            let Json::Text(key) = key else { return Err(A::Error::custom("a key is no string")) };
            fields.push((key, map.next_value()?));
        }
        Ok(Json::Map(fields))
    }
}
