//! Directories with a PyTorch state dict in safetensors and a small description of it beside: LSTM
//! and MLP bases.
//!
//! `config.json` states the numbers (see the families' `import`),
//! `model.safetensors` has the parameters under the names that PyTorch's modules give them,
//! `tokenizer.json` belongs to models that read text.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::base::{BaseOptions, Progress};
use super::huggingface::{model_name, open_shards};
use super::json::Json;
use super::reader::Tensors;
use super::safetensors::{Shards, dense, pieces};
use super::{Pieces, Tensor};
use crate::archive::{Buffer, Header};
use crate::error::RootKind;
use crate::file::{FileError, Kind, ToOutput};
use crate::model::{lstm, mlp};
use crate::quant::Format;

/// A directory with an LSTM or MLP.
#[derive(Debug)]
pub struct PyTorch {
    pub(crate) directory: PathBuf,
    pub(crate) json: Json,
    kind: RootKind,
    shards: Shards,
    /// Names as this crate knows the parts to those in the files.
    names: BTreeMap<String, String>,
}

impl PyTorch {
    /// Opens a directory: reads the description and maps the weights.
    ///
    /// # Errors
    /// A [`FileError`] that names the file and the key or tensor: missing or damaged files, another
    /// model type, parameters that the family does not have.
    pub fn open(directory: impl AsRef<Path>) -> Result<Self, FileError> {
        let directory = directory.as_ref();
        let json = Json::read(&directory.join("config.json"))?;
        let kind = match json.required("model_type", json.text("model_type")?)? {
            "lstm" => RootKind::LSTM,
            "mlp" => RootKind::MLP,
            other => {
                return Err(json.error(
                    "model_type",
                    format!("\"{other}\" is not supported; lstm and mlp are"),
                ));
            }
        };
        let shards = open_shards(directory)?;
        let names = match kind {
            RootKind::LSTM => lstm::import::names(directory, &json, &shards)?,
            _ => mlp::import::names(directory, &shards)?,
        };
        Ok(Self { directory: directory.to_owned(), json, kind, shards, names })
    }

    /// What it holds: [`RootKind::LSTM`] or [`RootKind::MLP`].
    pub fn kind(&self) -> RootKind {
        self.kind
    }

    pub(crate) fn name(&self) -> String {
        model_name(&self.json, &self.directory)
    }
}

impl Tensors for PyTorch {
    fn path(&self) -> &Path {
        &self.directory
    }

    fn names(&self) -> Vec<String> {
        self.names.keys().cloned().collect()
    }

    fn tensor(&self, name: &str) -> Result<Option<Tensor>, FileError> {
        let Some(stored) = self.names.get(name) else { return Ok(None) };
        Ok(dense(&self.shards, stored)?.map(|(shape, values)| Tensor::Dense { shape, values }))
    }

    fn pieces(&self, name: &str) -> Result<Option<Pieces<'_>>, FileError> {
        self.names.get(name).map_or(Ok(None), |stored| pieces(&self.shards, stored))
    }

    fn kept(&self, _: &str) -> Option<Format> {
        None
    }
}

/// Imports `source` into the file `output`, a path or an [`Output`](crate::file::Output) that was
/// tried: whole or not at all.
///
/// # Errors
/// A [`FileError`] that names the file and the tensor or key; before any tensor is read, what
/// speaks against writing there.
pub fn write_pytorch(
    source: &PyTorch,
    options: &BaseOptions,
    output: impl ToOutput,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Header, FileError> {
    let output = output.output(Kind::Base, &[&source.directory])?;
    match source.kind {
        RootKind::LSTM => lstm::import::read(source, options, progress)?.write(options, &output),
        _ => mlp::import::read(source, options, progress)?.write(options, &output),
    }
}

/// Imports `source` into memory.
///
/// # Errors
/// As [`write_pytorch`].
pub fn pytorch_to_buffer(
    source: &PyTorch,
    options: &BaseOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Buffer, FileError> {
    let path = &source.directory;
    match source.kind {
        RootKind::LSTM => lstm::import::read(source, options, progress)?.to_buffer(options, path),
        _ => mlp::import::read(source, options, progress)?.to_buffer(options, path),
    }
}

/// The label names at `labels`: not empty, without line feeds, no two the same.
pub(crate) fn labels(json: &Json) -> Result<Vec<String>, FileError> {
    let Some(value) = json.get("labels") else { return Ok(Vec::new()) };
    let wrong =
        || json.error("labels", format!("a list of different names was expected, found {value}"));
    let items = value.as_array().ok_or_else(wrong)?;
    let mut labels: Vec<String> = Vec::with_capacity(items.len());
    for item in items {
        let name = item
            .as_str()
            .filter(|name| !name.is_empty() && !name.contains('\n'))
            .ok_or_else(wrong)?;
        if labels.iter().any(|label| label == name) {
            return Err(wrong());
        }
        labels.push(name.to_owned());
    }
    Ok(labels)
}

/// Does the description promise biases? PyTorch's layers have them unless told otherwise.
pub(crate) fn is_biased(json: &Json) -> Result<bool, FileError> {
    Ok(json.get("bias").is_none() || json.flag("bias")?)
}
