//! Fresh models: every family opens, weights have the distribution that transformers and PyTorch
//! give them, the seed decides everything, the byte tokenizer reads and writes any text, and what
//! is wrong names the caller's own file.

use std::path::Path;

use lowrank::archive::Buffer;
use lowrank::file::FileError;
use lowrank::import::{BaseOptions, fresh_to_buffer, write_fresh};
use lowrank::model::bert::Bert;
use lowrank::model::llama::{self, Llama};
use lowrank::model::lstm::{Head, Lstm};
use lowrank::model::mlp::Mlp;
use lowrank::quant::{Format, Matrix};
use lowrank::text::Tokenizer;

fn floats() -> BaseOptions {
    BaseOptions { weights: Format::F32, embedding: Format::F32, ..BaseOptions::default() }
}

fn make(json: &str, seed: u64, options: &BaseOptions) -> Result<Buffer, FileError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.json");
    std::fs::write(&path, json).unwrap();
    fresh_to_buffer(&path, seed, options)
}

const LLAMA: &str = r#"{"model_type": "llama", "tokenizer": "bytes", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "tie_word_embeddings": true}"#;

/// Mean, deviation and largest size of a matrix's values.
fn moments(matrix: &Matrix<'_>) -> (f32, f32, f32) {
    let mut values = vec![0.0; matrix.rows() * matrix.cols()];
    values
        .chunks_exact_mut(matrix.cols())
        .enumerate()
        .for_each(|(row, out)| matrix.read(row, 0, out));
    let n = values.len() as f32;
    let mean = values.iter().sum::<f32>() / n;
    let deviation = (values.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / n).sqrt();
    (mean, deviation, values.iter().fold(0.0, |most, v| most.max(v.abs())))
}

fn is_normal(matrix: &Matrix<'_>, sigma: f32) {
    let (mean, deviation, most) = moments(matrix);
    assert!(
        mean.abs() < 0.1 * sigma && (deviation / sigma - 1.0).abs() < 0.1 && most > 2.0 * sigma,
        "{mean} {deviation} {most}"
    );
}

fn is_uniform(matrix: &Matrix<'_>, bound: f32) {
    let (mean, deviation, most) = moments(matrix);
    let sigma = bound / 3f32.sqrt();
    assert!(
        mean.abs() < 0.2 * sigma
            && (deviation / sigma - 1.0).abs() < 0.1
            && most <= bound
            && most > 0.9 * bound,
        "{mean} {deviation}"
    );
}

#[test]
fn decoders_start_as_transformers_starts_them() {
    let archive = make(LLAMA, 1, &floats()).unwrap();
    let model = Llama::verify(&archive).unwrap();
    assert_eq!((model.name(), model.config().vocab, model.is_tied()), ("small", 258, true));
    is_normal(&model.embedding(), 0.02);
    is_normal(&model.layer(1).down.weight, 0.02);
    assert!(model.norm().iter().all(|&w| w == 1.0) && model.layer(0).q.bias.is_empty());
    let qwen = LLAMA
        .replace("llama", "qwen2")
        .replace("true", "false")
        .replace("{", r#"{"initializer_range": 0.1, "pad_token_id": 7, "#);
    let archive = make(&qwen, 1, &floats()).unwrap();
    let model = Llama::verify(&archive).unwrap();
    is_normal(&model.layer(0).gate.weight, 0.1);
    is_normal(&model.head(), 0.1);
    assert!(
        !model.is_tied() && model.layer(0).q.bias == [0.0; 64] && model.layer(0).o.bias.is_empty()
    );
    let mut row = [1.0; 64];
    model.embedding().read(7, 0, &mut row);
    assert_eq!(row, [0.0; 64]);
    let qwen = LLAMA.replace("llama", "qwen3").replace("{", r#"{"head_dim": 16, "#);
    let archive = make(&qwen, 1, &floats()).unwrap();
    assert_eq!(Llama::verify(&archive).unwrap().layer(1).k_norm, [1.0; 16]);
    let archive = make(LLAMA, 1, &BaseOptions::default()).unwrap();
    assert_eq!(Llama::verify(&archive).unwrap().weight(llama::Site::Up(1)).format(), Format::Nf4);
}

#[test]
fn encoders_lstms_and_perceptrons_start_as_their_libraries_start_them() {
    let bert = r#"{"model_type": "bert", "tokenizer": "bytes", "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 3, "max_position_embeddings": 40}"#;
    let archive = make(bert, 1, &floats()).unwrap();
    let model = Bert::verify(&archive).unwrap();
    is_normal(&model.layer(1).up.weight, 0.02);
    is_normal(&model.pooler().unwrap().weight, 0.02);
    assert_eq!(
        (model.layer(0).attention_norm.weight, model.layer(0).q.bias),
        ([1.0; 48].as_slice(), [0.0; 48].as_slice())
    );
    let (ids, cut) = Tokenizer::for_encoder(&model).unwrap().encode_text("hi", 40).unwrap();
    assert_eq!((ids, cut), (vec![256, 104, 105, 257], 0));

    let lstm = r#"{"model_type": "lstm", "vocab_size": 50, "embedding_size": 40, "hidden_size": 36, "num_layers": 2, "labels": ["a", "b"]}"#;
    let archive = make(lstm, 1, &floats()).unwrap();
    let model = Lstm::verify(&archive).unwrap();
    is_normal(&model.embedding(), 1.0);
    is_uniform(&model.layer(0).ih.weight, 1.0 / 6.0);
    is_uniform(&model.layer(1).hh.weight, 1.0 / 6.0);
    assert_eq!((model.config().head, model.layer(1).hh.bias.len()), (Head::Labels, 144));

    let mlp = r#"{"model_type": "mlp", "input_size": 25, "hidden_sizes": [100, 60], "output_size": 4, "activation": "gelu"}"#;
    let archive = make(mlp, 1, &floats()).unwrap();
    let model = Mlp::verify(&archive).unwrap();
    is_uniform(&model.layer(0).weight, 0.2);
    is_uniform(&model.layer(1).weight, 0.1);
    assert_eq!((model.config().dim, model.config().outputs, model.config().widest), (60, 4, 100));
}

#[test]
fn the_seed_decides_everything() {
    let bytes = |seed| make(LLAMA, seed, &floats()).unwrap().to_vec();
    assert_eq!(bytes(3), bytes(3));
    assert_ne!(bytes(3), bytes(4));
    // Through a file, too.
    let folder = tempfile::tempdir().unwrap();
    let (config, output) = (folder.path().join("small.json"), folder.path().join("small.lrk"));
    std::fs::write(&config, LLAMA).unwrap();
    write_fresh(&config, 3, &floats(), &output).unwrap();
    assert_eq!(std::fs::read(&output).unwrap(), bytes(3));
}

#[test]
fn the_byte_tokenizer_reads_and_writes_any_text() {
    let archive = make(LLAMA, 1, &floats()).unwrap();
    let model = Llama::open(&archive).unwrap();
    let text = Tokenizer::new(&model).unwrap();
    let content = "Zwölf\r\n\tBoxkämpfer 🥊 \u{0} \u{ad}";
    let ids = text.encode_prompt(content).unwrap();
    assert_eq!(ids[0], 256);
    assert!(ids[1..].iter().copied().eq(content.bytes().map(u32::from)));
    assert_eq!(text.decode(&ids, false).unwrap(), content);
    assert_eq!(
        (model.leading_bos(), model.stop_tokens().collect::<Vec<_>>()),
        (Some(256), vec![257])
    );
}

#[test]
fn a_tokenizer_beside_the_configuration_is_carried() {
    let folder = tempfile::tempdir().unwrap();
    let words = r#"{"version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "decoder": null,
        "post_processor": null, "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "good": 1, "bad": 2}, "unk_token": "[UNK]"}}"#;
    std::fs::write(folder.path().join("words.json"), words).unwrap();
    let config = folder.path().join("model.json");
    let json = r#"{"model_type": "lstm", "tokenizer": "words.json", "embedding_size": 4, "hidden_size": 4, "num_layers": 1}"#;
    std::fs::write(&config, json).unwrap();
    let archive = fresh_to_buffer(&config, 1, &floats()).unwrap();
    let model = Lstm::open(&archive).unwrap();
    assert_eq!(model.config().vocab, 3);
    assert_eq!(
        Tokenizer::for_lstm(&model).unwrap().encode_prompt("bad good ugly").unwrap(),
        [2, 1, 0]
    );
}

#[test]
fn what_is_wrong_names_the_callers_file() {
    let refused = |json: &str, expected: &str| {
        let error = make(json, 1, &floats()).unwrap_err();
        assert_eq!(error.path.file_name().unwrap(), Path::new("small.json"), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    };
    refused("[]", "a JSON object was expected");
    refused("{}", "model_type: the key is missing");
    refused(r#"{"model_type": "gpt"}"#, "\"gpt\" is not supported");
    refused(&LLAMA.replace("hidden_size", "hidden"), "hidden_size: the key is missing");
    refused(
        &LLAMA.replace("{", r#"{"initializer_range": -1, "#),
        "initializer_range: a number above 0 was expected, found -1",
    );
    let lstm = r#"{"model_type": "lstm", "vocab_size": 50, "embedding_size": 40, "hidden_size": 36, "num_layers": 2}"#;
    refused(
        &lstm.replace("{", r#"{"bidirectional": true, "#),
        "bidirectional: true is not supported",
    );
    refused(&lstm.replace("{", r#"{"proj_size": 3, "#), "proj_size: 3 is not supported");
    refused(&lstm.replace("36", "0"), "the hidden size is 0, expected 1 to");
    refused(&lstm.replace("{", r#"{"head": "labels", "#), "the head is \"labels\", there are 0");
    refused(
        &lstm.replace("{", r#"{"labels": ["a", "a"], "#),
        "labels: a list of different names was expected",
    );
    refused(
        r#"{"model_type": "mlp", "input_size": 3}"#,
        "output_size: the key is missing, and there are no labels",
    );
    refused(
        r#"{"model_type": "mlp", "input_size": 3, "output_size": 2, "labels": ["x"]}"#,
        "output_size is 2, there are 1 label names",
    );
    refused(
        r#"{"model_type": "mlp", "input_size": 3, "output_size": 2, "activation": "tanh"}"#,
        "relu, gelu and gelu_tanh are",
    );
    refused(
        r#"{"model_type": "mlp", "input_size": 3, "output_size": 2, "hidden_sizes": [4, -1]}"#,
        "a list of whole numbers was expected",
    );
    let error = make(&LLAMA.replace("\"bytes\"", "\"nowhere.json\""), 1, &floats()).unwrap_err();
    assert_eq!(error.path.file_name().unwrap(), Path::new("nowhere.json"));
    let error = make(&LLAMA.replace("{", r#"{"vocab_size": 100, "#), 1, &floats()).unwrap_err();
    assert!(error.to_string().contains("token 256 is outside the vocabulary of 100"), "{error}");
}
