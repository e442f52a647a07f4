//! Python's values as JSON and back: configurations and facts.

use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyFrozenSet, PyInt, PyList, PySet, PyString, PyTuple};
use serde_json::{Map, Value};

use crate::error::{Fault, Outcome};

/// The deepest nesting that is read.
const DEEPEST: usize = 32;

/// A value made of None, numbers, strings, lists, tuples, sets and dictionaries. Sets are sorted.
pub(crate) fn from_python(value: &Bound<'_, PyAny>) -> Outcome<Value> {
    read(value, DEEPEST)
}

fn read(value: &Bound<'_, PyAny>, left: usize) -> Outcome<Value> {
    let Some(left) = left.checked_sub(1) else {
        return Err(Fault::format(format!("a value is nested more than {DEEPEST} deep")));
    };
    let all = |items: Bound<'_, PyAny>| {
        items.try_iter()?.map(|item| read(&item?, left)).collect::<Outcome<Vec<_>>>()
    };
    if value.is_none() {
        return Ok(Value::Null);
    }
    if value.is_instance_of::<PyBool>() {
        return Ok(value.extract::<bool>()?.into());
    }
    if value.is_instance_of::<PyString>() {
        return Ok(value.extract::<String>()?.into());
    }
    if value.is_instance_of::<PyInt>() {
        return Ok(value.extract::<i64>()?.into());
    }
    if value.is_instance_of::<PyFloat>() {
        return Ok(value.extract::<f64>()?.into());
    }
    if let Ok(dictionary) = value.cast::<PyDict>() {
        let entry = |(key, value): (Bound<'_, PyAny>, Bound<'_, PyAny>)| {
            Ok((key.str()?.to_string(), read(&value, left)?))
        };
        return Ok(Value::Object(dictionary.iter().map(entry).collect::<Outcome<Map<_, _>>>()?));
    }
    if value.is_instance_of::<PySet>() || value.is_instance_of::<PyFrozenSet>() {
        let mut items = all(value.clone())?;
        items.sort_by_key(Value::to_string);
        return Ok(items.into());
    }
    if value.is_instance_of::<PyList>() || value.is_instance_of::<PyTuple>() {
        return Ok(all(value.clone())?.into());
    }
    let kind = value.get_type().name()?.to_string();
    Err(Fault::format(format!(
        "a value of type {kind} is no JSON: None, a number, a string, a list or a dictionary was \
         expected"
    )))
}

/// The same value in Python.
pub(crate) fn to_python<'py>(py: Python<'py>, value: &Value) -> Outcome<Bound<'py, PyAny>> {
    Ok(match value {
        Value::Null => py.None().into_bound(py),
        Value::Bool(flag) => flag.into_pyobject(py)?.to_owned().into_any(),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => number.into_pyobject(py)?.into_any(),
            (None, Some(number)) => number.into_pyobject(py)?.into_any(),
            _ => number.as_f64().unwrap_or(f64::NAN).into_pyobject(py)?.into_any(),
        },
        Value::String(text) => text.into_pyobject(py)?.into_any(),
        Value::Array(items) => {
            let items = items.iter().map(|item| to_python(py, item));
            PyList::new(py, items.collect::<Outcome<Vec<_>>>()?)?.into_any()
        }
        Value::Object(fields) => dictionary(py, fields)?.into_any(),
    })
}

/// An object as a dictionary.
pub(crate) fn dictionary<'py>(
    py: Python<'py>,
    fields: &Map<String, Value>,
) -> Outcome<Bound<'py, PyDict>> {
    let dictionary = PyDict::new(py);
    for (key, value) in fields {
        dictionary.set_item(key, to_python(py, value)?)?;
    }
    Ok(dictionary)
}
