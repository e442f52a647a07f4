//! `Adapter`: an opened adapter, its numbers as arrays, and its ways in and out.

use std::path::PathBuf;
use std::sync::Arc;

use lowrank::adapter::{Adapter, AdapterBuilder, SharedAdapter, check_fit};
use lowrank::archive::Buffer;
use lowrank::export::{PEFT, PeftState, export_peft, peft_state};
use lowrank::file::{FileError, Kind, Output, OutputFolder};
use lowrank::import::{AdapterOptions, import_gguf_adapter, import_peft, import_peft_state};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple, PyType};

use crate::adapters::{factor_format, name_labels, peft_base, write};
use crate::base::{Opened, PyBase};
use crate::error::{Fault, Outcome};
use crate::json::{from_python, to_python};
use crate::state;

/// An adapter with the bytes of its archive, and its base if that is known.
#[derive(Clone)]
pub(crate) struct Held {
    pub(crate) bytes: Arc<Buffer>,
    pub(crate) shared: Arc<SharedAdapter>,
    base: Option<Arc<Opened>>,
}

impl Held {
    /// Opens an archive in memory.
    pub(crate) fn new(bytes: Buffer, base: Option<Arc<Opened>>) -> Outcome<Self> {
        let bytes = Arc::new(bytes);
        let shared = Arc::new(SharedAdapter::open(Arc::clone(&bytes))?);
        if let Some(base) = &base {
            check_fit(&shared.adapter(), base.any()?.as_base())?;
        }
        Ok(Self { bytes, shared, base })
    }

    /// Binds what an importer has read to `base`.
    fn built(builder: &AdapterBuilder, base: &Arc<Opened>) -> Outcome<Self> {
        let bytes = builder.build(base.any()?.as_base())?;
        Self::new(bytes, Some(Arc::clone(base)))
    }

    fn adapter(&self) -> Adapter<'_> {
        self.shared.adapter()
    }

    /// The base that was given now, or else the one that is known.
    fn base(&self, given: Option<&PyBase>, what: &str) -> Outcome<Arc<Opened>> {
        let known = given.map(|base| &base.0).or(self.base.as_ref());
        known.map(Arc::clone).ok_or_else(|| {
            Fault::input(format!(
                "{what} needs the base, which knows the names of the layers: give it here \
                 (base=base), or where the adapter is opened"
            ))
        })
    }

    /// As PEFT has it.
    fn peft(&self, base: &Opened) -> Outcome<PeftState> {
        Ok(peft_state(&self.adapter(), peft_base(base)?.as_base())?)
    }
}

/// An adapter of a base (``.lrk``), read into memory: replacing its file does not touch it. Threads
/// share it.
///
/// >>> base = lowrank.Base.open("tiny.lrk")
/// >>> adapter = lowrank.Adapter.open("tiny-pirate.lrk", base=base)
/// >>> adapter.rank, adapter.alpha, adapter.method
/// (4, 8.0, 'qlora')
/// >>> adapter.state()["base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"].shape
/// (4, 128)
#[pyclass(frozen, name = "Adapter", module = "lowrank")]
pub(crate) struct PyAdapter(pub(crate) Held);

#[pymethods]
impl PyAdapter {
    /// Opens an archive. With its ``base`` it is checked to fit, and knows the names of its layers.
    #[classmethod]
    #[pyo3(signature = (path, *, base=None))]
    fn open(
        _: &Bound<'_, PyType>,
        py: Python<'_>,
        path: PathBuf,
        base: Option<&PyBase>,
    ) -> Outcome<Self> {
        let base = base.map(|base| Arc::clone(&base.0));
        py.detach(|| {
            let bytes = Buffer::read(&path)?;
            // The error of an archive that is no adapter names the file.
            Adapter::open(&bytes).map_err(|error| FileError::core(&path, "", error))?;
            if let Some(base) = &base {
                check_fit(&Adapter::open(&bytes)?, base.any()?.as_base())
                    .map_err(|error| FileError::core(&path, "", error))?;
            }
            Ok(Self(Held::new(bytes, base)?))
        })
    }

    /// Opens an archive in memory, as ``to_bytes`` gives it.
    #[classmethod]
    #[pyo3(signature = (data, *, base=None))]
    fn from_bytes(
        _: &Bound<'_, PyType>,
        py: Python<'_>,
        data: &[u8],
        base: Option<&PyBase>,
    ) -> Outcome<Self> {
        let base = base.map(|base| Arc::clone(&base.0));
        py.detach(|| {
            let bytes = Buffer::from(data);
            Adapter::verify(&bytes)?;
            Ok(Self(Held::new(bytes, base)?))
        })
    }

    /// Reads a PEFT directory or a GGUF LoRA file for ``base``. ``factors`` says how A and B are kept:
    /// ``"as-is"``, ``"f32"``, ``"f16"`` or ``"int8"``; ``labels`` name a classifier's rows.
    #[classmethod]
    #[pyo3(signature = (source, base, *, name=None, factors="as-is", labels=None))]
    fn from_peft(
        _: &Bound<'_, PyType>,
        py: Python<'_>,
        source: PathBuf,
        base: &PyBase,
        name: Option<String>,
        factors: &str,
        labels: Option<Vec<String>>,
    ) -> Outcome<Self> {
        let options = AdapterOptions { name, format: factor_format(factors)? };
        let base = Arc::clone(&base.0);
        py.detach(|| {
            let model = peft_base(&base)?;
            let mut builder = match source.is_dir() {
                true => import_peft(&source, model.as_base(), &options)?,
                false => {
                    lowrank::file::open(&source)?;
                    import_gguf_adapter(&source, &base.decoder()?, &options)?
                }
            };
            if let Some(labels) = labels {
                name_labels(&mut builder, labels)?;
            }
            Ok(Self(Held::built(&builder, &base)?))
        })
    }

    /// Makes an adapter of arrays under PEFT's names (``state()``, ``get_peft_model_state_dict``):
    /// C-contiguous float32 or float16.
    ///
    /// ``config`` is what adapter_config.json says (``peft_config()``, ``PeftConfig.to_dict()``).
    /// Without it ranks, DoRA and IA3 are seen from the arrays, and ``alpha`` (and
    /// ``rank_stabilized``) must be said. ``name``, ``factors`` and ``labels`` as in ``from_peft``.
    ///
    /// >>> base = lowrank.Base.open("tiny.lrk")
    /// >>> adapter = lowrank.Adapter.open("tiny-pirate.lrk", base=base)
    /// >>> halved = {name: array / 2 for name, array in adapter.state().items()}
    /// >>> lowrank.Adapter.from_state(halved, base, config=adapter.peft_config()).rank
    /// 4
    #[classmethod]
    #[pyo3(signature = (state, base, *, config=None, alpha=None, rank_stabilized=false, name=None,
        factors="as-is", labels=None))]
    #[allow(clippy::too_many_arguments, reason = "what the arrays do not say")]
    fn from_state(
        _: &Bound<'_, PyType>,
        py: Python<'_>,
        state: &Bound<'_, PyDict>,
        base: &PyBase,
        config: Option<&Bound<'_, PyDict>>,
        alpha: Option<f64>,
        rank_stabilized: bool,
        name: Option<String>,
        factors: &str,
        labels: Option<Vec<String>>,
    ) -> Outcome<Self> {
        let options = AdapterOptions { name, format: factor_format(factors)? };
        let arrays = state::read(state)?;
        let config = match config {
            Some(_) if alpha.is_some() || rank_stabilized => {
                return Err(Fault::input(
                    "alpha and rank_stabilized are in config: give either them or it",
                ));
            }
            Some(config) => from_python(config)?,
            None => state::config(&arrays, alpha, rank_stabilized)?,
        };
        let base = Arc::clone(&base.0);
        let weights = state::to_safetensors(&arrays)?;
        drop(arrays);
        py.detach(|| {
            let model = peft_base(&base)?;
            let config = config.to_string();
            let mut builder = import_peft_state(&config, weights, model.as_base(), &options)?;
            if let Some(labels) = labels {
                name_labels(&mut builder, labels)?;
            }
            Ok(Self(Held::built(&builder, &base)?))
        })
    }

    /// Its numbers under PEFT's names: float32 arrays of their own.
    #[pyo3(signature = (base=None))]
    fn state<'py>(&self, py: Python<'py>, base: Option<&PyBase>) -> Outcome<Bound<'py, PyDict>> {
        let base = self.0.base(base, "state()")?;
        let arrays = py.detach(|| state::from_safetensors(&self.0.peft(&base)?.weights))?;
        state::to_python(py, arrays)
    }

    /// What adapter_config.json would say of it.
    #[pyo3(signature = (base=None))]
    fn peft_config<'py>(
        &self,
        py: Python<'py>,
        base: Option<&PyBase>,
    ) -> Outcome<Bound<'py, PyAny>> {
        let base = self.0.base(base, "peft_config()")?;
        let config = py.detach(|| self.0.peft(&base))?.config;
        let value =
            serde_json::from_str(&config).map_err(|error| Fault::format(error.to_string()))?;
        to_python(py, &value)
    }

    /// Writes the archive to ``path``: whole or not at all. What is there and is no adapter is
    /// replaced with ``force`` only.
    #[pyo3(signature = (path, *, force=false))]
    fn save(&self, py: Python<'_>, path: PathBuf, force: bool) -> Outcome<()> {
        py.detach(|| {
            let output = Output::new(&path, Kind::Adapter, &[], force)?;
            Ok(write(&output, &self.0.bytes)?)
        })
    }

    /// Writes a PEFT directory: whole or not at all.
    #[pyo3(signature = (directory, *, base=None, force=false))]
    fn export_peft(
        &self,
        py: Python<'_>,
        directory: PathBuf,
        base: Option<&PyBase>,
        force: bool,
    ) -> Outcome<()> {
        let base = self.0.base(base, "export_peft()")?;
        py.detach(|| {
            let folder = OutputFolder::new(&directory, &PEFT, &[&base.path], force)?;
            Ok(export_peft(&self.0.adapter(), peft_base(&base)?.as_base(), &folder)?)
        })
    }

    /// The bytes of the archive.
    fn to_bytes<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.bytes)
    }

    /// Its name, for people.
    #[getter]
    fn name(&self) -> String {
        self.0.adapter().name().to_owned()
    }

    /// The method that made it: ``"qlora"``, ``"dora"``, ``"ia3"`` …
    #[getter]
    fn method(&self) -> String {
        self.0.adapter().method().to_owned()
    }

    /// The largest rank of its layers; 0 if none has factors (IA3, a classifier alone).
    #[getter]
    fn rank(&self) -> usize {
        self.0.adapter().max_rank()
    }

    /// alpha of the layer with the largest rank; ``None`` if none has factors.
    #[getter]
    fn alpha(&self) -> Option<f32> {
        let adapter = self.0.adapter();
        let largest = adapter.targets().find(|target| target.rank == adapter.max_rank());
        largest.filter(|target| target.rank > 0).map(|target| target.alpha)
    }

    /// The module paths of the layers that it changes. Needs the base.
    #[getter]
    fn targets(&self) -> Outcome<Vec<String>> {
        let base = self.0.base(None, "targets")?;
        let model = base.any()?;
        let path = |site: u32| {
            let mut path = String::new();
            // Writing to a string cannot fail.
            let _ = model.as_base().write_path(site, &mut path);
            path
        };
        Ok(self.0.adapter().targets().map(|target| path(target.site)).collect())
    }

    /// The labels of its classifier; empty without one.
    #[getter]
    fn labels(&self) -> Vec<String> {
        let classifier = self.0.adapter().classifier();
        classifier.map_or_else(Vec::new, |c| c.labels().map(str::to_owned).collect())
    }

    /// What its archive says of its training.
    #[getter]
    fn facts<'py>(&self, py: Python<'py>) -> Outcome<Bound<'py, PyAny>> {
        let facts = serde_json::from_str(self.0.adapter().facts());
        to_python(py, &facts.unwrap_or_else(|_| serde_json::json!({})))
    }

    /// The hash of its content: 32 hexadecimal digits.
    #[getter]
    fn fingerprint(&self) -> String {
        self.0.adapter().fingerprint().to_string()
    }

    /// The fingerprint of the base that it was made for.
    #[getter]
    fn base_fingerprint(&self) -> String {
        self.0.adapter().base().to_string()
    }

    /// Bytes of the archive.
    #[getter]
    fn nbytes(&self) -> usize {
        self.0.bytes.len()
    }

    fn __repr__(&self) -> String {
        let adapter = self.0.adapter();
        let (name, method) = (adapter.name(), adapter.method());
        format!("Adapter('{name}', method='{method}', rank={})", adapter.max_rank())
    }

    /// Another process gets the bytes, and no base.
    fn __reduce__<'py>(
        slf: &Bound<'py, Self>,
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
        let open = slf.get_type().getattr("from_bytes")?;
        Ok((open, PyTuple::new(slf.py(), [slf.get().to_bytes(slf.py())])?))
    }
}
