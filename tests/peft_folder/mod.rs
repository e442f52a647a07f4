//! PEFT directories for tests: the golden ones, changed at will. Not a test itself; every test uses
//! a part of it.
#![allow(dead_code)]

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use lowrank::adapter::AdapterBuilder;
use lowrank::archive::Buffer;
use lowrank::import::{AdapterOptions, BaseOptions, HuggingFace, base_to_buffer, import_peft};
use lowrank::model::llama::Llama;
use lowrank::quant::Format;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

pub fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(path)
}

/// The base of a golden folder with linear layers in one format, embedding and head in another.
pub fn base(folder: &str, weights: Format, embedding: Format) -> Buffer {
    let options =
        BaseOptions { weights, embedding, allow_missing_tokenizer: true, ..BaseOptions::default() };
    base_to_buffer(&HuggingFace::open(golden(folder)).unwrap(), &options, &mut |_| {}).unwrap()
}

/// Type, shape and little-endian bytes.
pub type Tensor = (Dtype, Vec<usize>, Vec<u8>);

/// The tensors of adapter_model.safetensors in `directory`.
pub fn tensors(directory: &Path) -> BTreeMap<String, Tensor> {
    let bytes = std::fs::read(directory.join("adapter_model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    tensors
        .tensors()
        .into_iter()
        .map(|(name, t)| (name, (t.dtype(), t.shape().to_vec(), t.data().to_vec())))
        .collect()
}

pub fn config(directory: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(directory.join("adapter_config.json")).unwrap()).unwrap()
}

pub fn f32_tensor(shape: &[usize], values: impl Iterator<Item = f32>) -> Tensor {
    (Dtype::F32, shape.to_vec(), values.flat_map(f32::to_le_bytes).collect())
}

pub fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// A PEFT directory that has not been written yet.
#[derive(Clone)]
pub struct Folder {
    pub config: Value,
    pub tensors: BTreeMap<String, Tensor>,
}

impl Folder {
    pub fn golden(path: &str) -> Self {
        Self { config: config(&golden(path)), tensors: tensors(&golden(path)) }
    }

    pub fn set(&mut self, key: &str, value: Value) -> &mut Self {
        self.config[key] = value;
        self
    }

    pub fn write(&self, directory: &Path) {
        let views: Vec<(&str, TensorView<'_>)> = self
            .tensors
            .iter()
            .map(|(name, (dtype, shape, bytes))| {
                (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
            })
            .collect();
        let bytes =
            safetensors::serialize(views, Some(HashMap::from([("format".into(), "pt".into())])))
                .unwrap();
        std::fs::write(directory.join("adapter_model.safetensors"), bytes).unwrap();
        std::fs::write(directory.join("adapter_config.json"), self.config.to_string()).unwrap();
    }

    /// Written to a directory of its own and imported; errors as the text that users see.
    pub fn import(&self, model: &Llama<'_>) -> Result<AdapterBuilder, String> {
        let directory = tempfile::tempdir().unwrap();
        self.write(directory.path());
        import_peft(directory.path(), model, &AdapterOptions::default())
            .map_err(|error| error.to_string())
    }
}
