//! `Base`: a model in an archive, mapped once and shared by all that use it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use lowrank::RootKind;
use lowrank::archive::ArchiveFile;
use lowrank::file::{FileError, Kind, Output};
use lowrank::import::{AnySource, BaseOptions, Progress};
use lowrank::model::AnyBase;
use lowrank::model::llama::Llama;
use lowrank::quant::{BlockScale, Format};
use lowrank::text::Tokenizer;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple, PyType};
use serde_json::{Map, Value, json};

use crate::error::{Fault, Outcome};
use crate::json::dictionary;
use crate::named::named;
use crate::tokenizer::PyTokenizer;
use crate::watch::Watch;

/// An archive with its tokenizer, which is made when it is first needed.
pub(crate) struct Opened {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<ArchiveFile>,
    tokenizer: OnceLock<Arc<Tokenizer>>,
}

impl Opened {
    pub(crate) fn open(path: &Path) -> Outcome<Self> {
        let file = Arc::new(ArchiveFile::open(path)?);
        AnyBase::open(&file).map_err(|error| FileError::core(path, "", error))?;
        Ok(Self { path: path.to_owned(), file, tokenizer: OnceLock::new() })
    }

    /// The model, of whatever family.
    pub(crate) fn any(&self) -> Outcome<AnyBase<'_>> {
        Ok(AnyBase::open(&self.file).map_err(|error| FileError::core(&self.path, "", error))?)
    }

    /// The model, a decoder.
    pub(crate) fn decoder(&self) -> Outcome<Llama<'_>> {
        Ok(Llama::open(&self.file).map_err(|error| FileError::core(&self.path, "", error))?)
    }

    /// A new tokenizer.
    pub(crate) fn make_tokenizer(&self) -> Outcome<Tokenizer> {
        let made = match self.any()? {
            AnyBase::Bert(model) => Tokenizer::for_encoder(&model),
            AnyBase::Lstm(model) => Tokenizer::for_lstm(&model),
            _ => Tokenizer::new(&self.decoder()?),
        };
        Ok(made.map_err(|error| FileError::format(&self.path, "", error.to_string()))?)
    }

    /// The tokenizer that all share.
    pub(crate) fn tokenizer(&self) -> Outcome<Arc<Tokenizer>> {
        if let Some(made) = self.tokenizer.get() {
            return Ok(Arc::clone(made));
        }
        let made = Arc::new(self.make_tokenizer()?);
        Ok(Arc::clone(self.tokenizer.get_or_init(|| made)))
    }
}

/// A base model in an archive (``.lrk``), mapped into memory. Any number of sessions and threads
/// share it.
///
/// >>> base = lowrank.Base.open("tiny.lrk")
/// >>> base.family, base.config["layers"]
/// ('llama', 3)
/// >>> base
/// Base('tiny.lrk', family='llama')
#[pyclass(frozen, name = "Base", module = "lowrank")]
pub(crate) struct PyBase(pub(crate) Arc<Opened>);

#[pymethods]
impl PyBase {
    /// Opens an archive in some microseconds: weights are read when they are needed.
    #[classmethod]
    fn open(_: &Bound<'_, PyType>, py: Python<'_>, path: PathBuf) -> Outcome<Self> {
        py.detach(|| Ok(Self(Arc::new(Opened::open(&path)?))))
    }

    /// Imports a GGUF file or a Hugging Face directory into the archive ``output``, and opens it.
    ///
    /// ``weights`` and ``embedding`` are ``"nf4"``, ``"int8"``, ``"f16"`` or ``"f32"``; the defaults,
    /// and the bytes that are written, are those of ``lowrank import``. ``on_progress(done, total,
    /// name)`` is told each tensor.
    #[classmethod]
    #[pyo3(signature = (source, output, *, weights=None, embedding=None, block=64, fit=false,
        without_tokenizer=false, content_version=1, force=false, on_progress=None))]
    #[allow(clippy::too_many_arguments, reason = "what an import can be told")]
    fn import_(
        _: &Bound<'_, PyType>,
        py: Python<'_>,
        source: PathBuf,
        output: PathBuf,
        weights: Option<&str>,
        embedding: Option<&str>,
        block: usize,
        fit: bool,
        without_tokenizer: bool,
        content_version: u64,
        force: bool,
        on_progress: Option<Py<PyAny>>,
    ) -> Outcome<Self> {
        let default = BaseOptions::default();
        let options = BaseOptions {
            weights: format("weights", weights)?.unwrap_or(default.weights),
            embedding: format("embedding", embedding)?.unwrap_or(default.embedding),
            block,
            scale: if fit { BlockScale::Fitted } else { BlockScale::Absmax },
            keep_skipped_weights: weights.is_none(),
            keep_skipped_embedding: embedding.is_none(),
            allow_missing_tokenizer: without_tokenizer,
            without_tokenizer,
            content_version,
        };
        if fit && ![options.weights, options.embedding].contains(&Format::Nf4) {
            return Err(Fault::input(
                "fit has no effect: neither weights nor embedding is \"nf4\"",
            ));
        }
        let mut watch = Watch::new();
        py.detach(|| {
            let place = Output::new(&output, Kind::Base, &[&source], force)?;
            let mut tell = |progress: Progress<'_>| {
                let told = on_progress.as_ref().map(|callback| {
                    Python::attach(|py| {
                        callback.call1(py, (progress.done, progress.total, progress.name))
                    })
                });
                if let Some(Err(error)) = told {
                    watch.raise(error);
                }
            };
            AnySource::open(&source)?.write(&options, &place, &mut tell)?;
            watch.result()?;
            Ok(Self(Arc::new(Opened::open(&output)?)))
        })
    }

    /// Where it was opened.
    #[getter]
    fn path(&self) -> PathBuf {
        self.0.path.clone()
    }

    /// The model's name as its source had it.
    #[getter]
    fn name(&self) -> Outcome<String> {
        Ok(match self.0.any()? {
            AnyBase::Llama(model) => model.name(),
            AnyBase::Bert(model) => model.name(),
            AnyBase::Lstm(model) => model.name(),
            AnyBase::Mlp(model) => model.name(),
            _ => "",
        }
        .to_owned())
    }

    /// ``"llama"`` (Llama, Qwen2, Qwen3), ``"bert"``, ``"roberta"``, ``"distilbert"``, ``"lstm"`` or
    /// ``"mlp"``.
    #[getter]
    fn family(&self) -> Outcome<&'static str> {
        Ok(match self.0.any()?.as_base().root() {
            RootKind::BERT => "bert",
            RootKind::ROBERTA => "roberta",
            RootKind::DISTILBERT => "distilbert",
            RootKind::LSTM => "lstm",
            RootKind::MLP => "mlp",
            _ => "llama",
        })
    }

    /// The hash of the model's content, which adapters are bound to: 32 hexadecimal digits.
    #[getter]
    fn fingerprint(&self) -> Outcome<String> {
        Ok(self.0.any()?.as_base().fingerprint().to_string())
    }

    /// Bytes of the archive.
    #[getter]
    fn nbytes(&self) -> usize {
        self.0.file.len()
    }

    /// The numbers that define the model: ``dim``, ``layers``, ``context``, ``vocab`` …
    #[getter]
    fn config<'py>(&self, py: Python<'py>) -> Outcome<Bound<'py, PyDict>> {
        dictionary(py, &config(&self.0.any()?))
    }

    /// The labels of its own classifier; empty without one.
    #[getter]
    fn labels(&self) -> Outcome<Vec<String>> {
        Ok(self.0.any()?.labels())
    }

    /// The module paths of the layers that adapters can change.
    #[getter]
    fn modules(&self) -> Outcome<Vec<String>> {
        let model = self.0.any()?;
        let base = model.as_base();
        let path = |site: u32| {
            let mut path = String::new();
            base.site(site)?;
            base.write_path(site, &mut path).ok()?;
            Some(path)
        };
        Ok((0..base.sites()).filter_map(path).collect())
    }

    /// Its tokenizer. Raises ``FormatError`` if the archive has none.
    #[getter]
    fn tokenizer(&self, py: Python<'_>) -> Outcome<PyTokenizer> {
        py.detach(|| Ok(PyTokenizer(self.0.tokenizer()?)))
    }

    /// Reads the whole archive: its checksum, every scale, its fingerprint. Raises ``FormatError`` if
    /// something of it is damaged.
    fn verify(&self, py: Python<'_>) -> Outcome<()> {
        py.detach(|| {
            AnyBase::verify(&self.0.file)
                .map_err(|error| FileError::core(&self.0.path, "", error))?;
            Ok(())
        })
    }

    fn __repr__(&self) -> Outcome<String> {
        Ok(format!("Base('{}', family='{}')", self.0.path.display(), self.family()?))
    }

    /// Another process opens the same file.
    fn __reduce__<'py>(
        slf: &Bound<'py, Self>,
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
        let open = slf.get_type().getattr("open")?;
        let path = std::path::absolute(&slf.get().0.path)?;
        Ok((open, PyTuple::new(slf.py(), [path])?))
    }
}

/// A weight format by its name.
fn format(argument: &str, name: Option<&str>) -> Outcome<Option<Format>> {
    let known =
        [("nf4", Format::Nf4), ("int8", Format::Int8), ("f16", Format::F16), ("f32", Format::F32)];
    name.map(|name| named(argument, name, &known)).transpose()
}

/// What `Base.config` says.
fn config(model: &AnyBase<'_>) -> Map<String, Value> {
    let facts = match model {
        AnyBase::Llama(model) => {
            let c = model.config();
            json!({
                "vocab": c.vocab, "dim": c.dim, "layers": c.layers, "heads": c.heads,
                "kv_heads": c.kv_heads, "head_dim": c.head_dim, "hidden": c.hidden,
                "context": c.context, "rope_theta": c.rope_theta, "norm_epsilon": c.norm_epsilon,
            })
        }
        AnyBase::Bert(model) => {
            let c = model.config();
            json!({
                "vocab": c.vocab, "dim": c.dim, "layers": c.layers, "heads": c.heads,
                "hidden": c.hidden, "context": c.context, "token_types": c.token_types,
                "pooling": c.pooling.name(), "normalize": c.normalize,
                "max_length": model.max_length(), "norm_epsilon": c.norm_epsilon,
            })
        }
        AnyBase::Lstm(model) => {
            let c = model.config();
            json!({
                "vocab": c.vocab, "dim": c.dim, "hidden": c.hidden, "layers": c.layers,
                "outputs": c.outputs,
            })
        }
        AnyBase::Mlp(model) => {
            let c = model.config();
            json!({ "inputs": c.inputs, "outputs": c.outputs, "layers": c.layers })
        }
        _ => json!({}),
    };
    if let Value::Object(fields) = facts { fields } else { Map::new() }
}
