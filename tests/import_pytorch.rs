//! PyTorch state dicts: names of modules, `Sequential` numbering, biases, and one clear error for
//! what an importer must not guess.

use std::collections::BTreeMap;
use std::path::Path;

use lowrank::archive::Buffer;
use lowrank::import::{BaseOptions, PyTorch, pytorch_to_buffer};
use lowrank::model::lstm::{Head, Lstm};
use lowrank::model::mlp::Mlp;
use safetensors::tensor::TensorView;

type Tensors = BTreeMap<String, Vec<usize>>;

const LSTM: &str = r#"{"model_type": "lstm", "vocab_size": 9, "embedding_size": 4, "hidden_size": 3, "num_layers": 2}"#;

fn lstm() -> Tensors {
    let mut tensors = Tensors::from([
        ("embedding.weight".into(), vec![9, 4]),
        ("head.weight".into(), vec![9, 3]),
    ]);
    for (layer, inputs) in [(0, 4), (1, 3)] {
        tensors.insert(format!("lstm.weight_ih_l{layer}"), vec![12, inputs]);
        tensors.insert(format!("lstm.weight_hh_l{layer}"), vec![12, 3]);
        tensors.insert(format!("lstm.bias_ih_l{layer}"), vec![12]);
        tensors.insert(format!("lstm.bias_hh_l{layer}"), vec![12]);
    }
    tensors
}

const MLP: &str =
    r#"{"model_type": "mlp", "input_size": 5, "hidden_sizes": [4], "labels": ["no", "yes"]}"#;

fn mlp(first: &str, second: &str) -> Tensors {
    let shapes = [("weight", vec![4, 5], vec![2, 4]), ("bias", vec![4], vec![2])];
    shapes
        .into_iter()
        .flat_map(|(part, a, b)| [(format!("{first}.{part}"), a), (format!("{second}.{part}"), b)])
        .collect()
}

/// Value i of a tensor is i.
fn save(folder: &Path, config: &str, tensors: &Tensors) {
    std::fs::write(folder.join("config.json"), config).unwrap();
    let bytes: Vec<Vec<u8>> = tensors
        .values()
        .map(|shape| {
            (0..shape.iter().product()).flat_map(|i: usize| (i as f32).to_le_bytes()).collect()
        })
        .collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape), bytes)| {
        (name.as_str(), TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
}

fn import(config: &str, tensors: &Tensors) -> Result<Buffer, String> {
    let folder = tempfile::tempdir().unwrap();
    save(folder.path(), config, tensors);
    let options = BaseOptions { allow_missing_tokenizer: true, ..BaseOptions::default() };
    let source = PyTorch::open(folder.path()).map_err(|error| error.to_string())?;
    pytorch_to_buffer(&source, &options, &mut |_| {}).map_err(|error| error.to_string())
}

#[test]
fn modules_may_have_other_names() {
    let archive = import(LSTM, &lstm()).unwrap();
    let model = Lstm::verify(&archive).unwrap();
    assert_eq!(
        (model.config().head, model.head().unwrap().bias.len(), model.layer(1).hh.bias[5]),
        (Head::LanguageModel, 0, 5.0)
    );
    let renamed = lstm().into_iter().map(|(name, shape)| {
        (
            name.replace("lstm.", "encoder.rnn.")
                .replace("embedding.", "words.")
                .replace("head.", "decoder."),
            shape,
        )
    });
    let modules =
        r#"{"modules": {"lstm": "encoder.rnn", "embedding": "words", "head": "decoder"}, "#;
    let other = import(&LSTM.replace("{", modules), &renamed.collect()).unwrap();
    assert_eq!(Lstm::verify(&other).unwrap().fingerprint(), model.fingerprint());
}

#[test]
fn layers_are_ordered_by_number() {
    let archive = import(MLP, &mlp("layers.0", "layers.1")).unwrap();
    let model = Mlp::verify(&archive).unwrap();
    assert_eq!(model.labels().collect::<Vec<_>>(), ["no", "yes"]);
    for (first, second) in [("layers.0", "layers.2"), ("2", "10")] {
        let other = import(MLP, &mlp(first, second)).unwrap();
        assert_eq!(Mlp::verify(&other).unwrap().fingerprint(), model.fingerprint());
    }
}

#[test]
fn what_must_not_be_guessed_is_refused() {
    let refused = |config: &str, tensors: &Tensors, expected: &str| {
        let error = import(config, tensors).unwrap_err();
        assert!(error.contains(expected), "{error}");
    };
    let with = |name: &str, shape: &[usize]| {
        let mut tensors = lstm();
        tensors.insert(name.into(), shape.to_vec());
        tensors
    };
    let without = |name: &str| {
        let mut tensors = lstm();
        tensors.remove(name).unwrap();
        tensors
    };
    refused(
        LSTM,
        &with("lstm.weight_ih_l0_reverse", &[12, 4]),
        "lstm.weight_ih_l0_reverse: this parameter of an LSTM is not supported",
    );
    refused(
        LSTM,
        &with("lstm.weight_hr_l0", &[2, 3]),
        "lstm.weight_hr_l0: this parameter of an LSTM is not supported",
    );
    refused(
        LSTM,
        &with("attention.weight", &[2, 3]),
        "attention.weight: this build does not know what the tensor is for",
    );
    refused(
        LSTM,
        &with("lstm.weight_ih_l2", &[12, 3]),
        "lstm.ih_l2.weight: this build does not know what the tensor is for",
    );
    refused(
        LSTM,
        &with("lstm.weight_hh_l1", &[12, 4]),
        "the tensor has shape [12, 4], the configuration asks for [12, 3]",
    );
    refused(LSTM, &without("lstm.bias_hh_l0"), "lstm.hh_l0.bias: the tensor is missing");
    refused(LSTM, &without("embedding.weight"), "embedding.weight: the tensor is missing");
    refused(LSTM, &without("head.weight"), "head.weight: the tensor is missing");
    refused(
        &LSTM.replace("{", r#"{"head": "none", "#),
        &lstm(),
        "head.weight: this build does not know what the tensor is for",
    );
    refused(
        &LSTM.replace("{", r#"{"eos_token_id": 9, "#),
        &lstm(),
        "token 9 is outside the vocabulary of 9",
    );
    refused(
        &LSTM.replace("\"lstm\"", "\"gru\""),
        &lstm(),
        "model_type: \"gru\" is not supported; lstm and mlp are",
    );
    refused(
        MLP,
        &mlp("layers.0", "output"),
        "output.bias: the layers of an MLP are called layers.0.weight",
    );
    refused(MLP, &mlp("layers.0", "layers.00"), "is the same part of the model");
    let unbiased: Tensors = lstm().into_iter().filter(|(name, _)| !name.contains("bias")).collect();
    import(&LSTM.replace("{", r#"{"bias": false, "#), &unbiased).unwrap();
}

#[test]
fn texts_need_a_tokenizer_unless_told_otherwise() {
    let folder = tempfile::tempdir().unwrap();
    save(folder.path(), LSTM, &lstm());
    let error = pytorch_to_buffer(
        &PyTorch::open(folder.path()).unwrap(),
        &BaseOptions::default(),
        &mut |_| {},
    )
    .unwrap_err();
    assert!(error.to_string().contains("the model comes without a tokenizer"));
}

#[test]
fn one_call_imports_either_kind_by_its_model_type() {
    let options = BaseOptions { allow_missing_tokenizer: true, ..BaseOptions::default() };
    for (config, tensors) in [(LSTM, lstm()), (MLP, mlp("0", "2"))] {
        let folder = tempfile::tempdir().unwrap();
        save(folder.path(), config, &tensors);
        let found = lowrank::import::import(folder.path(), &options).unwrap();
        let source = PyTorch::open(folder.path()).unwrap();
        let expected = pytorch_to_buffer(&source, &options, &mut |_| {}).unwrap();
        assert_eq!(found[..], expected[..]);
    }
}
