//! `lowrank tokenize` shows what the model reads, and `lowrank import --without-tokenizer` reads no
//! tokenizer.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(path)
}

fn lowrank(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lowrank")).args(arguments).output().unwrap()
}

fn success(arguments: &[&str]) -> String {
    let output = lowrank(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn failure(arguments: &[&str]) -> String {
    let output = lowrank(arguments);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {text}");
    let last = text.trim_end().lines().next_back().unwrap().to_owned();
    assert!(last.starts_with("lowrank: "), "{text}");
    last
}

/// The names `<s>` (0), `</s>` (1) and the letters a to z, `[CLS]` and `[SEP]` being the first two
/// where `frame` says so.
fn tokenizer(frame: &[&str]) -> Value {
    let letters = ('a'..='z').map(String::from);
    let texts = ["<s>".to_owned(), "</s>".to_owned()].into_iter().chain(letters);
    let vocab: serde_json::Map<String, Value> =
        (0..).zip(texts).map(|(id, text): (u32, _)| (text, id.into())).collect();
    let piece = |name: &&str| match *name {
        "A" => json!({ "Sequence": { "id": "A", "type_id": 0 } }),
        token => json!({ "SpecialToken": { "id": token, "type_id": 0 } }),
    };
    let token = |text: &str, id: u32| json!({ "id": text, "ids": [id], "tokens": [text] });
    let single: Vec<Value> = frame.iter().map(piece).collect();
    json!({
        "version": "1.0", "added_tokens": [],
        "post_processor": {
            "type": "TemplateProcessing", "single": single, "pair": single,
            "special_tokens": { "<s>": token("<s>", 0), "</s>": token("</s>", 1) },
        },
        "model": { "type": "BPE", "vocab": vocab, "merges": [] },
    })
}

/// A folder with the model `name` of the golden ones and this tokenizer.
fn folder(name: &str, tokenizer: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(golden(name).join(file), folder.path().join(file)).unwrap();
    }
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer).unwrap();
    let settings = json!({ "tokenizer_class": "PreTrainedTokenizerFast" }).to_string();
    std::fs::write(folder.path().join("tokenizer_config.json"), settings).unwrap();
    folder
}

#[test]
fn tokenize_shows_what_the_model_reads_and_leaves_it_out_when_told_to() {
    for (model, frame, whole, bare) in [
        ("tiny-llama", &["<s>", "A"][..], [0, 2, 3].as_slice(), [2, 3].as_slice()),
        ("tiny-llama", &["A"], &[2, 3], &[2, 3]),
        ("tiny-bert", &["<s>", "A", "</s>"], &[0, 2, 3, 1], &[2, 3]),
    ] {
        let source = folder(model, &tokenizer(frame).to_string());
        let file = |name: &str| source.path().join(name).to_str().unwrap().to_owned();
        let (base, texts) = (file("base.lrk"), file("texts.jsonl"));
        success(&["import", source.path().to_str().unwrap(), "-o", &base]);
        std::fs::write(&texts, "{\"text\": \"ab\"}\n").unwrap();
        for (option, expected) in [(None, whole), (Some("--no-special-tokens"), bare)] {
            let tokenize = |arguments: &[&str]| {
                let mut command = vec!["tokenize", "--base", &base];
                command.extend(option.iter().chain(arguments).copied());
                success(&command)
            };
            let words: Vec<String> = expected.iter().map(i32::to_string).collect();
            assert_eq!(tokenize(&["ab"]), words.join(" ") + "\n", "{model} {frame:?}");
            let line = json!({ "ids": expected }).to_string() + "\n";
            assert_eq!(tokenize(&["--json", "ab"]), line, "{model} {frame:?}");
            assert_eq!(tokenize(&["--file", &texts]), line, "{model} {frame:?}");
        }
    }
}

#[test]
fn a_tokenizer_that_cannot_be_read_is_named_with_the_way_around_it() {
    for model in ["tiny-llama", "tiny-bert"] {
        let source = folder(model, "{}");
        let (path, base) = (source.path().to_str().unwrap(), source.path().join("base.lrk"));
        let base = base.to_str().unwrap();
        let error = failure(&["import", path, "-o", base]);
        assert!(
            error.contains("tokenizer.json") && error.contains("--without-tokenizer"),
            "{error}"
        );
        success(&["import", path, "-o", base, "--without-tokenizer"]);
        assert!(failure(&["tokenize", "--base", base, "ab"]).contains("no tokenizer"));
    }
}
