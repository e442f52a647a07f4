//! What functions take for adapters and make of it: arguments, archives, choices by name.

use std::path::Path;

use lowrank::adapter::{AdapterBuilder, FactorFormat};
use lowrank::file::{FileError, Output};
use lowrank::model::AnyBase;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};

use crate::adapter::{Held, PyAdapter};
use crate::base::Opened;
use crate::error::{Fault, Outcome};
use crate::named::named;

/// The adapters that an argument says, with their weights: none, one, a pair of one and its weight,
/// or a sequence of those.
pub(crate) fn adapters(given: Option<&Bound<'_, PyAny>>) -> Outcome<Vec<(Held, f32)>> {
    let Some(given) = given.filter(|given| !given.is_none()) else { return Ok(Vec::new()) };
    if let Some(one) = weighted(given)? {
        return Ok(vec![one]);
    }
    let wrong = |found: &Bound<'_, PyAny>| -> Outcome<(Held, f32)> {
        let kind = found.get_type().name()?.to_string();
        Err(PyTypeError::new_err(format!(
            "an Adapter, a pair (Adapter, weight) or a list of them was expected, found {kind}"
        ))
        .into())
    };
    if !(given.is_instance_of::<PyList>() || given.is_instance_of::<PyTuple>()) {
        return Ok(vec![wrong(given)?]);
    }
    let each = |item: PyResult<Bound<'_, PyAny>>| {
        let item = item?;
        weighted(&item)?.map_or_else(|| wrong(&item), Ok)
    };
    given.try_iter()?.map(each).collect()
}

/// An adapter, or a pair of one and a number.
fn weighted(given: &Bound<'_, PyAny>) -> Outcome<Option<(Held, f32)>> {
    if let Ok(adapter) = given.cast::<PyAdapter>() {
        return Ok(Some((adapter.get().0.clone(), 1.0)));
    }
    let Some(pair) = given.cast::<PyTuple>().ok().filter(|pair| pair.len() == 2) else {
        return Ok(None);
    };
    let (first, weight) = (pair.get_item(0)?, pair.get_item(1)?);
    match (first.cast::<PyAdapter>(), weight.extract::<f32>()) {
        (Ok(adapter), Ok(weight)) => Ok(Some((adapter.get().0.clone(), weight))),
        _ => Ok(None),
    }
}

/// Archives and weights, as the library's measures take them.
pub(crate) fn archives(adapters: &[(Held, f32)]) -> Vec<(&[u8], f32)> {
    adapters.iter().map(|(held, weight)| (&held.bytes[..], *weight)).collect()
}

/// Writes an archive: whole or not at all.
pub(crate) fn write(output: &Output, bytes: &[u8]) -> Result<(), FileError> {
    use std::io::Write;
    output.check_room(bytes.len() as u64)?;
    output.write(|file| file.write_all(bytes).map_err(|error| FileError::io(output.path(), error)))
}

pub(crate) fn factor_format(name: &str) -> Outcome<FactorFormat> {
    let known = [
        ("as-is", FactorFormat::AsIs),
        ("f32", FactorFormat::F32),
        ("f16", FactorFormat::F16),
        ("int8", FactorFormat::Int8),
    ];
    named("factors", name, &known)
}

/// The model, of a family that PEFT knows.
pub(crate) fn peft_base(base: &Opened) -> Outcome<AnyBase<'_>> {
    match base.any()? {
        model @ (AnyBase::Bert(_) | AnyBase::Llama(_)) => Ok(model),
        model => {
            let (path, found) = (base.path.display(), model.as_base().root());
            let text = format!("{path}: {found}: PEFT's adapters are for decoders and encoders");
            Err(Fault::format(text))
        }
    }
}

/// Gives a classifier's labels their names.
pub(crate) fn name_labels(builder: &mut AdapterBuilder, labels: Vec<String>) -> Outcome<()> {
    let Some(classifier) = &builder.classifier else {
        return Err(Fault::input("labels has no effect: the adapter brings no classifier"));
    };
    let (rows, given) = (classifier.labels.len(), labels.join(", "));
    builder.name_labels(labels).map_err(|_| {
        Fault::input(format!(
            "labels are {given}: {rows} different names were expected, one for each row of the \
             classifier"
        ))
    })
}

/// The name that the file at `path` gives what is in it.
pub(crate) fn stem(path: &Path) -> Option<String> {
    path.file_stem().map(|stem| stem.to_string_lossy().into_owned())
}
