//! A bitsandbytes checkpoint that was imported goes back code for code, and imports again as the same base.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lowrank::archive::Buffer;
use lowrank::export::export_bitsandbytes;
use lowrank::import::{BaseOptions, Gguf, HuggingFace, Source, base_to_buffer};
use lowrank::model::llama::Llama;
use lowrank::quant::Format;
use safetensors::SafeTensors;

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(path)
}

fn import(source: &dyn Source, weights: Format, embedding: Format) -> Buffer {
    let options = BaseOptions { weights, embedding, allow_missing_tokenizer: true, ..BaseOptions::default() };
    base_to_buffer(source, &options, &mut |_| {}).unwrap()
}

/// All tensors but the JSON states: name → (type, shape, bytes).
fn tensors(path: &Path) -> BTreeMap<String, (String, Vec<usize>, Vec<u8>)> {
    let bytes = std::fs::read(path).unwrap();
    let all = SafeTensors::deserialize(&bytes).unwrap();
    let entry = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        (name, (format!("{:?}", view.dtype()), view.shape().to_vec(), view.data().to_vec()))
    };
    all.tensors().into_iter().filter(|(name, _)| !name.contains("quant_state")).map(entry).collect()
}

/// The JSON states: name → value.
fn states(path: &Path) -> BTreeMap<String, serde_json::Value> {
    let bytes = std::fs::read(path).unwrap();
    let all = SafeTensors::deserialize(&bytes).unwrap();
    let states = all.tensors().into_iter().filter(|(name, _)| name.contains("quant_state"));
    states.map(|(name, view)| (name, serde_json::from_slice(view.data()).unwrap())).collect()
}

#[test]
fn code_for_code_and_back() {
    for folder in ["tiny-llama-bnb", "tiny-llama-bnb-plain"] {
        let archive = import(&HuggingFace::open(golden(folder)).unwrap(), Format::Nf4, Format::F32);
        let model = Llama::open(&archive).unwrap();
        let directory = tempfile::tempdir().unwrap();
        export_bitsandbytes(&model, directory.path()).unwrap();
        let [ours, theirs] = [directory.path().join("model.safetensors"), golden(folder).join("model.safetensors")];
        assert_eq!(tensors(&ours), tensors(&theirs), "{folder}");
        let numbers = |mut states: BTreeMap<String, serde_json::Value>| {
            states.values_mut().for_each(|state| {
                let offset = state["nested_offset"].as_f64().map(|offset| (offset as f32).to_bits());
                state["nested_offset"] = offset.into();
            });
            states
        };
        assert_eq!(numbers(states(&ours)), numbers(states(&theirs)), "{folder}");
        let again = import(&HuggingFace::open(directory.path()).unwrap(), Format::Nf4, Format::F32);
        assert_eq!(Llama::open(&again).unwrap().fingerprint(), model.fingerprint(), "{folder}");
    }
}

#[test]
fn other_families_text_border_and_int8_edges() {
    for name in ["qwen2", "qwen3", "llama3-rope", "linear-rope"] {
        let archive = import(&Gguf::open(golden(&format!("gguf/{name}.gguf"))).unwrap(), Format::Nf4, Format::Int8);
        let model = Llama::open(&archive).unwrap();
        let directory = tempfile::tempdir().unwrap();
        export_bitsandbytes(&model, directory.path()).unwrap();
        let source = HuggingFace::open(directory.path()).unwrap();
        let again = import(&source, Format::Nf4, Format::Int8);
        let again = Llama::open(&again).unwrap();
        assert_eq!(again.config(), model.config(), "{name}");
        let codes = |model: &Llama<'_>| model.layer(0).down.weight.values() == Llama::open(&archive).unwrap().layer(0).down.weight.values();
        assert!(codes(&again), "{name}");
        assert_eq!(again.tokenizer_json(), model.tokenizer_json(), "{name}");
        assert_eq!((again.bos(), again.leading_bos()), (model.bos(), model.leading_bos()), "{name}");
        assert_eq!(again.stop_tokens().collect::<Vec<_>>(), model.stop_tokens().collect::<Vec<_>>(), "{name}");
    }
}

#[test]
fn a_base_that_is_not_nf4_is_refused_by_name_and_leaves_nothing() {
    let archive = import(&HuggingFace::open(golden("tiny-llama")).unwrap(), Format::F16, Format::F32);
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("new");
    let error = export_bitsandbytes(&Llama::open(&archive).unwrap(), &directory).unwrap_err().to_string();
    assert!(error.contains("model.layers.0.self_attn.q_proj") && error.contains("--weights nf4"), "{error}");
    assert!(!directory.exists());
}
