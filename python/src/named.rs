//! Choices by their names, and keyword arguments that are read one by one.

use pyo3::conversion::FromPyObjectOwned;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::error::{Fault, Outcome};

/// The value called `name` among those that `argument` can be.
pub(crate) fn named<T: Copy>(argument: &str, name: &str, known: &[(&str, T)]) -> Outcome<T> {
    let found = known.iter().find(|(known, _)| *known == name);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<String> = known.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        Fault::input(format!("{argument} is \"{name}\", one of {} was expected", names.join(", ")))
    })
}

/// Keyword arguments that a function takes as `**options`.
pub(crate) struct Keywords<'py> {
    given: Option<Bound<'py, PyDict>>,
    known: Vec<String>,
}

impl<'py> Keywords<'py> {
    pub(crate) fn new(given: Option<&Bound<'py, PyDict>>) -> Self {
        Self { given: given.cloned(), known: Vec::new() }
    }

    /// The argument called `name`; `None` counts as not given.
    pub(crate) fn get<T>(&mut self, name: &str) -> Outcome<Option<T>>
    where
        T: FromPyObjectOwned<'py>,
    {
        self.known.push(name.to_owned());
        let Some(given) = &self.given else { return Ok(None) };
        let Some(value) = given.get_item(name)?.filter(|value| !value.is_none()) else {
            return Ok(None);
        };
        value.extract::<T>().map(Some).map_err(|error| {
            let error: PyErr = error.into();
            let error = match error.is_instance_of::<PyTypeError>(given.py()) {
                true => PyTypeError::new_err(format!("{name}: {}", error.value(given.py()))),
                false => error,
            };
            error.into()
        })
    }

    /// The dictionary called `name`.
    pub(crate) fn get_dict(&mut self, name: &str) -> Outcome<Option<Bound<'py, PyDict>>> {
        let given: Option<Bound<'py, PyAny>> = self.get(name)?;
        let wrong = |_| PyTypeError::new_err(format!("{name}: a dictionary was expected"));
        Ok(given.map(|given| given.cast_into::<PyDict>().map_err(wrong)).transpose()?)
    }

    /// The argument called `name`, `default` where it is not given.
    pub(crate) fn or<T>(&mut self, name: &str, default: T) -> Outcome<T>
    where
        T: FromPyObjectOwned<'py>,
    {
        Ok(self.get(name)?.unwrap_or(default))
    }

    /// Refuses arguments that nobody asked for.
    pub(crate) fn finish(self) -> Outcome<()> {
        let Some(given) = &self.given else { return Ok(()) };
        for key in given.keys() {
            let key = key.extract::<String>()?;
            if !self.known.contains(&key) {
                let known = self.known.join(", ");
                let text = format!("unexpected keyword argument '{key}': there are {known}");
                return Err(PyTypeError::new_err(text).into());
            }
        }
        Ok(())
    }
}

/// Token ids of any iterable, arrays of numpy among them.
pub(crate) fn ids(argument: &str, given: &Bound<'_, PyAny>) -> Outcome<Vec<u32>> {
    let id = |item: PyResult<Bound<'_, PyAny>>| item?.extract::<u32>();
    let all = given.try_iter().and_then(|items| items.map(id).collect());
    all.map_err(|error: PyErr| {
        Fault::input(format!("{argument}: token ids, whole numbers from 0, were expected: {error}"))
    })
}
