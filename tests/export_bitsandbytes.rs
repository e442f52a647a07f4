//! A bitsandbytes checkpoint that was imported goes back code for code, and imports again as the
//! same base.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lowrank::archive::Buffer;
use lowrank::export::export_bitsandbytes;
use lowrank::file::FileError;
use lowrank::import::{BaseOptions, Gguf, HuggingFace, Source, Tensor, TextParts, base_to_buffer};
use lowrank::model::llama::{Config, Llama};
use lowrank::quant::Format;
use lowrank::text::Tokenizer;
use safetensors::SafeTensors;

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(path)
}

fn import(source: &dyn Source, weights: Format, embedding: Format) -> Buffer {
    let options =
        BaseOptions { weights, embedding, allow_missing_tokenizer: true, ..BaseOptions::default() };
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
        let [ours, theirs] =
            [directory.path().join("model.safetensors"), golden(folder).join("model.safetensors")];
        assert_eq!(tensors(&ours), tensors(&theirs), "{folder}");
        let numbers = |mut states: BTreeMap<String, serde_json::Value>| {
            states.values_mut().for_each(|state| {
                let offset =
                    state["nested_offset"].as_f64().map(|offset| (offset as f32).to_bits());
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
        let archive = import(
            &Gguf::open(golden(&format!("gguf/{name}.gguf"))).unwrap(),
            Format::Nf4,
            Format::Int8,
        );
        let model = Llama::open(&archive).unwrap();
        let directory = tempfile::tempdir().unwrap();
        export_bitsandbytes(&model, directory.path()).unwrap();
        let source = HuggingFace::open(directory.path()).unwrap();
        let again = import(&source, Format::Nf4, Format::Int8);
        let again = Llama::open(&again).unwrap();
        assert_eq!(again.config(), model.config(), "{name}");
        let codes = |model: &Llama<'_>| {
            model.layer(0).down.weight.values()
                == Llama::open(&archive).unwrap().layer(0).down.weight.values()
        };
        assert!(codes(&again), "{name}");
        if name == "qwen2" {
            // transformers builds the tokenizer of this type anew, whatever class a folder names.
            let [ours, theirs] = [&model, &again].map(|model| Tokenizer::new(model).unwrap());
            for text in ["Read 42 lines\n  of text", "to be<|eos|> or not"] {
                let ids = ours.encode_prompt(text).unwrap();
                assert_eq!(theirs.encode_prompt(text).unwrap(), ids, "{name}: {text:?}");
                assert!(!ids.is_empty() && ours.decode(&ids, true).unwrap() == text, "{text:?}");
            }
        } else {
            assert_eq!(again.tokenizer_json(), model.tokenizer_json(), "{name}");
        }
        assert_eq!(
            (again.bos(), again.leading_bos()),
            (model.bos(), model.leading_bos()),
            "{name}"
        );
        assert_eq!(
            again.stop_tokens().collect::<Vec<_>>(),
            model.stop_tokens().collect::<Vec<_>>(),
            "{name}"
        );
    }
}

#[test]
fn a_base_that_is_not_nf4_is_refused_by_name_and_leaves_nothing() {
    let archive =
        import(&HuggingFace::open(golden("tiny-llama")).unwrap(), Format::F16, Format::F32);
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("new");
    let error =
        export_bitsandbytes(&Llama::open(&archive).unwrap(), &directory).unwrap_err().to_string();
    assert!(
        error.contains("model.layers.0.self_attn.q_proj") && error.contains("--weights nf4"),
        "{error}"
    );
    assert!(!directory.exists());
}

/// A source without one of its tensors, with another tokenizer.
struct Changed<S>(S, &'static str, TextParts);

impl<S: Source> Source for Changed<S> {
    fn path(&self) -> &Path {
        self.0.path()
    }

    fn name(&self) -> String {
        self.0.name()
    }

    fn config(&self) -> Result<Config, FileError> {
        self.0.config()
    }

    fn text(&self) -> Result<TextParts, FileError> {
        Ok(self.2.clone())
    }

    fn tensor(&self, name: &str) -> Result<Option<Tensor>, FileError> {
        self.0.tensor(name)
    }

    fn names(&self) -> Vec<String> {
        self.0.names().into_iter().filter(|name| name != self.1).collect()
    }
}

#[test]
fn the_end_of_turn_is_the_one_that_the_template_writes() {
    for (chat_template, eos) in [("{{ message }}<|eos|>", "<|eos|>"), ("", "<|bos|>")] {
        let source = Gguf::open(golden("gguf/qwen2.gguf")).unwrap();
        let text = TextParts {
            chat_template: chat_template.into(),
            stop: vec![1, 2],
            ..source.text().unwrap()
        };
        let archive = import(&Changed(source, "", text), Format::Nf4, Format::F32);
        let directory = tempfile::tempdir().unwrap();
        export_bitsandbytes(&Llama::open(&archive).unwrap(), directory.path()).unwrap();
        let read = |name: &str| -> serde_json::Value {
            serde_json::from_slice(&std::fs::read(directory.path().join(name)).unwrap()).unwrap()
        };
        assert_eq!(read("tokenizer_config.json")["eos_token"], eos);
        assert_eq!(read("generation_config.json")["eos_token_id"], serde_json::json!([1, 2]));
    }
}

#[test]
fn a_tokenizer_that_cannot_be_read_is_refused() {
    let text = TextParts { tokenizer: b"{}".to_vec(), ..TextParts::default() };
    let archive = import(
        &Changed(HuggingFace::open(golden("tiny-llama-bnb")).unwrap(), "", text),
        Format::Nf4,
        Format::F32,
    );
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("new");
    let error =
        export_bitsandbytes(&Llama::open(&archive).unwrap(), &directory).unwrap_err().to_string();
    assert!(error.contains("tokenizer.json"), "{error}");
    assert!(!directory.exists());
}

#[test]
fn biases_and_norms_that_no_architecture_has_are_refused() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("new");
    for (folder, tensor, left) in [
        ("qwen2", "model.layers.0.self_attn.k_proj.bias", "q, v"),
        ("qwen3", "model.layers.0.self_attn.k_norm.weight", "q_norm"),
    ] {
        let source = HuggingFace::open(golden(&format!("tiny-variants/{folder}"))).unwrap();
        let source = Changed(source, tensor, TextParts::default());
        let archive = import(&source, Format::Nf4, Format::F32);
        let error = export_bitsandbytes(&Llama::open(&archive).unwrap(), &directory)
            .unwrap_err()
            .to_string();
        assert!(error.ends_with(&format!(": {left}")), "{error}");
        assert!(!directory.exists());
    }
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let archive =
        import(&HuggingFace::open(golden("tiny-llama-bnb")).unwrap(), Format::Nf4, Format::F32);
    let model = Llama::open(&archive).unwrap();
    let parent = tempfile::tempdir().unwrap();
    let file = parent.path().join("file");
    std::fs::write(&file, "mine").unwrap();
    for directory in [file.clone(), file.join("below")] {
        let error = export_bitsandbytes(&model, &directory).unwrap_err();
        assert_eq!(error.path, directory);
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
}

#[test]
fn every_tensor_is_aligned_and_numbers_are_short() {
    for folder in ["tied", "llama3-rope"] {
        let source = HuggingFace::open(golden(&format!("tiny-variants/{folder}"))).unwrap();
        let archive = import(&source, Format::Nf4Plain, Format::F32);
        let model = Llama::open(&archive).unwrap();
        let directory = tempfile::tempdir().unwrap();
        export_bitsandbytes(&model, directory.path()).unwrap();
        let text = std::fs::read(directory.path().join("config.json")).unwrap();
        let config: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(
            (config["rms_norm_eps"].as_f64(), config["eos_token_id"].as_u64()),
            (Some(1e-5), Some(2))
        );
        let bytes = std::fs::read(directory.path().join("model.safetensors")).unwrap();
        let (header, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(header % 8, 0);
        assert_eq!(metadata.info("lm_head.weight").is_none(), model.is_tied());
        for (name, info) in metadata.tensors() {
            assert_eq!(info.data_offsets.0 * 8 % info.dtype.bitsize(), 0, "{name}");
        }
        let again =
            import(&HuggingFace::open(directory.path()).unwrap(), Format::Nf4Plain, Format::F32);
        assert_eq!(Llama::open(&again).unwrap().fingerprint(), model.fingerprint(), "{folder}");
        assert_eq!(Llama::open(&again).unwrap().name(), model.name());
    }
}

#[test]
fn the_tokenizer_says_what_is_put_in_front() {
    let source = Gguf::open(golden("gguf/qwen2.gguf")).unwrap();
    let text = TextParts { add_bos: true, ..source.text().unwrap() };
    assert!(text.bos.is_some());
    let archive = import(&Changed(source, "", text), Format::Nf4, Format::F32);
    let model = Llama::open(&archive).unwrap();
    let directory = tempfile::tempdir().unwrap();
    export_bitsandbytes(&model, directory.path()).unwrap();
    let again = HuggingFace::open(directory.path()).unwrap().text().unwrap();
    assert_eq!((again.bos, again.add_bos), (model.bos(), true));
    // What says it already goes out as it came.
    assert_ne!(again.tokenizer, model.tokenizer_json());
    let archive = import(&HuggingFace::open(directory.path()).unwrap(), Format::Nf4, Format::F32);
    let second = tempfile::tempdir().unwrap();
    export_bitsandbytes(&Llama::open(&archive).unwrap(), second.path()).unwrap();
    assert_eq!(std::fs::read(second.path().join("tokenizer.json")).unwrap(), again.tokenizer);
}
