//! The tensors of an adapter as numpy arrays, and arrays as tensors: checked by name, never
//! reinterpreted.

use std::borrow::Cow;
use std::collections::BTreeMap;

use half::f16;
use numpy::{
    IntoPyArray, PyArrayMethods, PyReadonlyArrayDyn, PyUntypedArray, PyUntypedArrayMethods,
};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use safetensors::{Dtype, SafeTensors, View};
use serde_json::{Map, Value, json};

use crate::error::{Fault, Outcome};

/// An array that Python keeps as it is while it is read.
enum Numbers<'py> {
    F32(PyReadonlyArrayDyn<'py, f32>),
    F16(PyReadonlyArrayDyn<'py, f16>),
}

/// An array with its shape.
pub(crate) struct Array<'py> {
    numbers: Numbers<'py>,
    shape: Vec<usize>,
}

/// Arrays by PEFT's names.
pub(crate) type Arrays<'py> = BTreeMap<String, Array<'py>>;

/// The arrays of a dictionary.
pub(crate) fn read<'py>(state: &Bound<'py, PyDict>) -> Outcome<Arrays<'py>> {
    if state.is_empty() {
        return Err(Fault::format("the state has no arrays: those of an adapter were expected"));
    }
    let entry = |(name, value): (Bound<'py, PyAny>, Bound<'py, PyAny>)| {
        let name = name.extract::<String>()?;
        let array = array(&name, &value)?;
        Ok((name, array))
    };
    state.iter().map(entry).collect()
}

fn array<'py>(name: &str, value: &Bound<'py, PyAny>) -> Outcome<Array<'py>> {
    let wrong = |text: String| Fault::format(format!("{name}: {text}"));
    let Ok(untyped) = value.cast::<PyUntypedArray>() else {
        let kind = value.get_type().name()?.to_string();
        return Err(wrong(format!(
            "this is of type {kind}, a numpy array was expected (of a tensor: .detach().cpu().numpy())"
        )));
    };
    let shape = untyped.shape().to_vec();
    if !untyped.is_c_contiguous() {
        let order =
            if untyped.is_fortran_contiguous() { "in Fortran order" } else { "not contiguous" };
        return Err(wrong(format!(
            "the array, of shape {shape:?}, is {order}, C order was expected: \
             numpy.ascontiguousarray(array)"
        )));
    }
    let numbers = if let Ok(array) = value.extract::<PyReadonlyArrayDyn<'py, f32>>() {
        Numbers::F32(array)
    } else if let Ok(array) = value.extract::<PyReadonlyArrayDyn<'py, f16>>() {
        Numbers::F16(array)
    } else {
        let dtype = untyped.dtype().str()?.to_string();
        return Err(wrong(format!(
            "the numbers are {dtype}, float32 or float16 was expected: \
             array.astype(numpy.float32)"
        )));
    };
    Ok(Array { numbers, shape })
}

/// A tensor that safetensors writes.
struct Tensor<'a> {
    dtype: Dtype,
    shape: &'a [usize],
    bytes: Cow<'a, [u8]>,
}

impl View for Tensor<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// The bytes of a safetensors file with these arrays.
pub(crate) fn to_safetensors(arrays: &Arrays<'_>) -> Outcome<Vec<u8>> {
    let mut tensors = BTreeMap::new();
    for (name, array) in arrays {
        let (dtype, bytes) = match &array.numbers {
            Numbers::F32(numbers) => {
                (Dtype::F32, bytemuck::cast_slice(contiguous(name, numbers.as_slice())?).into())
            }
            Numbers::F16(numbers) => {
                let halves = contiguous(name, numbers.as_slice())?;
                let bytes: Vec<u8> = halves.iter().flat_map(|half| half.to_le_bytes()).collect();
                (Dtype::F16, bytes.into())
            }
        };
        tensors.insert(name.as_str(), Tensor { dtype, shape: &array.shape, bytes });
    }
    safetensors::serialize(tensors, None).map_err(|error| Fault::format(error.to_string()))
}

/// What [`array`] has checked already.
fn contiguous<'a, T, E>(name: &str, slice: Result<&'a [T], E>) -> Outcome<&'a [T]> {
    slice.map_err(|_| Fault::format(format!("{name}: C order was expected")))
}

/// A tensor's name, shape and numbers.
pub(crate) type Named = (String, Vec<usize>, Vec<f32>);

/// The tensors of a safetensors file, as f32.
pub(crate) fn from_safetensors(bytes: &[u8]) -> Outcome<Vec<Named>> {
    let damaged = |error: safetensors::SafeTensorError| Fault::format(error.to_string());
    let file = SafeTensors::deserialize(bytes).map_err(damaged)?;
    let tensor = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        let (words, halves) = (view.data().as_chunks::<4>().0, view.data().as_chunks::<2>().0);
        let numbers = match view.dtype() {
            Dtype::F16 => halves.iter().map(|&half| f16::from_le_bytes(half).to_f32()).collect(),
            _ => words.iter().map(|&word| f32::from_le_bytes(word)).collect(),
        };
        (name, view.shape().to_vec(), numbers)
    };
    Ok(file.tensors().into_iter().map(tensor).collect())
}

/// A dictionary of arrays, sorted by name; the arrays take the numbers over.
pub(crate) fn to_python(py: Python<'_>, mut tensors: Vec<Named>) -> Outcome<Bound<'_, PyDict>> {
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    let state = PyDict::new(py);
    for (name, shape, numbers) in tensors {
        state.set_item(name, numbers.into_pyarray(py).reshape(shape)?)?;
    }
    Ok(state)
}

/// What adapter_config.json says of arrays that come without one.
pub(crate) fn config(
    arrays: &Arrays<'_>,
    alpha: Option<f64>,
    rank_stabilized: bool,
) -> Outcome<Value> {
    let has = |part: &str| arrays.keys().any(|name| name.contains(part));
    let is_ia3 = has(".ia3_l");
    let alpha = match alpha {
        _ if is_ia3 => alpha.unwrap_or_default(),
        Some(alpha) => alpha,
        None => {
            return Err(Fault::input(
                "the arrays do not say the adapter's alpha: give it (alpha=16), or its \
                 configuration (config=adapter.peft_config())",
            ));
        }
    };
    let heads = ["classifier", "score", "pre_classifier"];
    let saved: Vec<&str> = heads.into_iter().filter(|head| has(&format!(".{head}."))).collect();
    let mut config = json!({
        "peft_type": if is_ia3 { "IA3" } else { "LORA" },
        "modules_to_save": saved,
    });
    if !saved.is_empty() {
        config["task_type"] = "SEQ_CLS".into();
    }
    if is_ia3 {
        config["feedforward_modules"] = scaled_inputs(arrays).into();
        return Ok(config);
    }
    let (rank, pattern) = ranks(arrays);
    config["r"] = rank.into();
    config["rank_pattern"] = pattern.into();
    config["lora_alpha"] = alpha.into();
    config["use_rslora"] = rank_stabilized.into();
    config["use_dora"] = has(".lora_magnitude_vector").into();
    config["lora_bias"] = has(".lora_B.bias").into();
    Ok(config)
}

/// The module that a tensor's name begins with, without PEFT's prefix.
fn module<'n>(name: &'n str, marker: &str) -> Option<&'n str> {
    let path = name.strip_prefix("base_model.model.").unwrap_or(name);
    path.split_once(marker).map(|(module, _)| module)
}

/// The layers whose inputs IA3 scales: there l is `[1, in]`.
fn scaled_inputs(arrays: &Arrays<'_>) -> Vec<String> {
    let is_input = |array: &Array<'_>| array.shape.first() == Some(&1);
    let inputs = arrays.iter().filter(|(_, array)| is_input(array));
    inputs.filter_map(|(name, _)| module(name, ".ia3_l")).map(str::to_owned).collect()
}

/// The rank of the first layer, and a pattern for each layer that has another.
fn ranks(arrays: &Arrays<'_>) -> (usize, Map<String, Value>) {
    let rank = |(name, array): (&String, &Array<'_>)| {
        let module = module(name, ".lora_A").or_else(|| module(name, ".lora_embedding_A"))?;
        Some((module.to_owned(), *array.shape.first()?))
    };
    let all: Vec<(String, usize)> = arrays.iter().filter_map(rank).collect();
    let common = all.first().map_or(0, |(_, rank)| *rank);
    let others = all.into_iter().filter(|(_, rank)| *rank != common);
    let pattern = others.map(|(module, rank)| (module.replace('.', "\\."), rank.into()));
    (common, pattern.collect())
}
