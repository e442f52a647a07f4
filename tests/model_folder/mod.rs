//! Hugging Face model folders for tests: a golden one, changed, written to a temporary place and
//! imported. Judges nothing itself.
#![allow(dead_code, reason = "every test binary uses its own part")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use lowrank::archive::Buffer;
use lowrank::import::{BaseOptions, HuggingFace, base_to_buffer, write_base};
use lowrank::quant::Format;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// A tensor of a safetensors file.
#[derive(Clone)]
pub struct Stored {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl Stored {
    pub fn f32(shape: &[usize], values: &[f32]) -> Self {
        Self {
            dtype: Dtype::F32,
            shape: shape.to_vec(),
            bytes: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        }
    }

    pub fn floats(&self) -> Vec<f32> {
        assert_eq!(self.dtype, Dtype::F32);
        self.bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    }

    /// The f32 at `index`, replaced.
    pub fn put(&mut self, index: usize, value: f32) {
        self.bytes[4 * index..4 * index + 4].copy_from_slice(&value.to_le_bytes());
    }
}

/// A model folder under construction.
#[derive(Clone)]
pub struct Folder {
    pub config: Value,
    pub tensors: BTreeMap<String, Stored>,
    /// Further files, by name.
    pub files: BTreeMap<String, Vec<u8>>,
}

impl Folder {
    /// A folder of `tests/golden/`.
    pub fn golden(name: &str) -> Self {
        let bytes = fs::read(golden(name).join("model.safetensors")).unwrap();
        let stored = |t: TensorView<'_>| Stored {
            dtype: t.dtype(),
            shape: t.shape().to_vec(),
            bytes: t.data().to_vec(),
        };
        let tensors = SafeTensors::deserialize(&bytes)
            .unwrap()
            .tensors()
            .into_iter()
            .map(|(name, tensor)| (name, stored(tensor)));
        let config =
            serde_json::from_slice(&fs::read(golden(name).join("config.json")).unwrap()).unwrap();
        Self { config, tensors: tensors.collect(), files: BTreeMap::new() }
    }

    pub fn tensor(&mut self, name: &str) -> &mut Stored {
        self.tensors.get_mut(name).unwrap_or_else(|| panic!("{name}"))
    }

    /// Everything but the weights.
    pub fn write_settings(&self, to: &Path) {
        fs::write(to.join("config.json"), self.config.to_string()).unwrap();
        self.files.iter().for_each(|(name, bytes)| fs::write(to.join(name), bytes).unwrap());
    }

    pub fn write(&self, to: &Path) {
        self.write_settings(to);
        write_tensors(&self.tensors, &to.join("model.safetensors"));
    }

    /// Imports it into memory.
    pub fn import(&self, options: &BaseOptions) -> Result<Buffer, String> {
        let folder = tempfile::tempdir().unwrap();
        self.write(folder.path());
        import(folder.path(), options)
    }

    /// Imports it into a file that exists already; see [`refused`].
    pub fn refused(&self, options: &BaseOptions, parts: &[&str]) {
        let folder = tempfile::tempdir().unwrap();
        self.write(folder.path());
        refused(folder.path(), options, parts);
    }
}

pub fn write_tensors(tensors: &BTreeMap<String, Stored>, to: &Path) {
    let views = tensors
        .iter()
        .map(|(name, t)| (name, TensorView::new(t.dtype, t.shape.clone(), &t.bytes).unwrap()));
    fs::write(to, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// f32 throughout, no tokenizer needed.
pub fn exact() -> BaseOptions {
    in_format(Format::F32)
}

/// Linear layers in `format`, the rest in f32, no tokenizer needed.
pub fn in_format(format: Format) -> BaseOptions {
    BaseOptions {
        weights: format,
        embedding: Format::F32,
        allow_missing_tokenizer: true,
        ..BaseOptions::default()
    }
}

pub fn import(folder: &Path, options: &BaseOptions) -> Result<Buffer, String> {
    let source = HuggingFace::open(folder).map_err(|error| error.to_string())?;
    base_to_buffer(&source, options, &mut |_| {}).map_err(|error| error.to_string())
}

/// A base that was imported before: only its like is replaced.
static OLDER: LazyLock<Buffer> = LazyLock::new(|| import(&golden("tiny-llama"), &exact()).unwrap());

/// The import of `folder` fails with one sentence that has all of `parts` and names the folder, and
/// an existing output stays as it was, with nothing beside it.
pub fn refused(folder: &Path, options: &BaseOptions, parts: &[&str]) {
    let place = tempfile::tempdir().unwrap();
    let output = place.path().join("base.lrk");
    fs::write(&output, &**OLDER).unwrap();
    let result = HuggingFace::open(folder)
        .and_then(|source| write_base(&source, options, &output, &mut |_| {}));
    let error = result.expect_err(&format!("accepted: {parts:?}")).to_string();
    for part in parts.iter().chain([&folder.to_str().unwrap()]) {
        assert!(error.contains(part), "\"{part}\" is not in: {error}");
    }
    assert!(!error.contains('\n') && error.len() < 500, "{error}");
    assert!(fs::read(&output).unwrap() == **OLDER, "the older base was changed: {error}");
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
}
