//! The command line over an encoder: import, inspect, embed under an adapter, and one clear line
//! for what encoders cannot do.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

const DIM: usize = 48;

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(path)
}

fn lowrank(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lowrank"))
        .args(arguments)
        .env_remove("LOWRANK_ISA")
        .output()
        .unwrap()
}

/// stdout and stderr of a command that succeeds.
fn success(arguments: &[&str]) -> (String, String) {
    let output = lowrank(arguments);
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(output.status.success(), "{arguments:?}: {err}");
    (out, err)
}

/// The one line on stderr of a command that fails with status 1.
fn failure(arguments: &[&str]) -> String {
    let output = lowrank(arguments);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), text.lines().count()), (Some(1), 1), "{arguments:?}: {text}");
    text
}

/// A WordPiece tokenizer over single letters.
fn tokenizer() -> Value {
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"].map(str::to_owned);
    let words = ('a'..='z').flat_map(|letter| [letter.to_string(), format!("##{letter}")]);
    let vocab: serde_json::Map<String, Value> = special
        .iter()
        .cloned()
        .chain(words)
        .enumerate()
        .map(|(id, word)| (word, json!(id)))
        .collect();
    let around = |name: &str| json!({ "SpecialToken": { "id": name, "type_id": 0 } });
    let token = |name: &str, id: u32| json!({ "id": name, "ids": [id], "tokens": [name] });
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": special.iter().enumerate().map(|(id, name)| json!({
            "id": id, "content": name, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true
        })).collect::<Vec<_>>(),
        "normalizer": { "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [around("[CLS]"), { "Sequence": { "id": "A", "type_id": 0 } }, around("[SEP]")],
            "pair": [around("[CLS]"), { "Sequence": { "id": "A", "type_id": 0 } }, around("[SEP]"), { "Sequence": { "id": "B", "type_id": 1 } }],
            "special_tokens": { "[CLS]": token("[CLS]", 2), "[SEP]": token("[SEP]", 3) },
        },
        "decoder": { "type": "WordPiece", "prefix": "##", "cleanup": true },
        "model": { "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": vocab },
    })
}

/// A folder with the tiny encoder as base.lrk and its adapter as a.lrk.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        let source = folder.0.path().join("source");
        std::fs::create_dir(&source).unwrap();
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(golden("tiny-bert").join(file), source.join(file)).unwrap();
        }
        std::fs::write(source.join("tokenizer.json"), tokenizer().to_string()).unwrap();
        success(&["import", source.to_str().unwrap(), "-o", &folder.file("base.lrk")]);
        let adapter = golden("tiny-bert/adapters/classifier");
        success(&[
            "adapter",
            "import",
            adapter.to_str().unwrap(),
            "--base",
            &folder.file("base.lrk"),
            "-o",
            &folder.file("a.lrk"),
        ]);
        folder
    }

    fn file(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    /// What `embed` writes, row by row, and what it says on stderr.
    fn embed(&self, arguments: &[&str]) -> (Vec<Vec<f32>>, String) {
        let (base, npy) = (self.file("base.lrk"), self.file("out.npy"));
        let (_, notes) = success(&[&["embed", "--base", &base, "-o", &npy], arguments].concat());
        let bytes = std::fs::read(&npy).unwrap();
        let header = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
        let values: Vec<f32> = bytes[header..]
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect();
        let rows: Vec<Vec<f32>> = values.chunks(DIM).map(<[f32]>::to_vec).collect();
        assert!(
            String::from_utf8_lossy(&bytes[..header])
                .contains(&format!("'shape': ({}, {DIM}, )", rows.len()))
        );
        (rows, notes)
    }
}

#[test]
fn import_inspect_verify_and_tokenize() {
    let folder = Folder::new();
    let (base, adapter) = (folder.file("base.lrk"), folder.file("a.lrk"));
    let facts: Value = serde_json::from_str(&success(&["inspect", &base, "--json"]).0).unwrap();
    assert_eq!(
        (&facts["kind"], &facts["layers"], &facts["pooling"]),
        (&json!("a BERT base"), &json!(2), &json!("mean"))
    );
    assert!(
        facts["weights"]["nf4"]["weights"].is_u64()
            && facts["weights"]["f32"]["bytes"] == json!((40 + 2) * DIM * 4)
    );
    let facts: Value = serde_json::from_str(&success(&["inspect", &adapter, "--json"]).0).unwrap();
    assert_eq!(facts["labels"], json!(["LABEL_0", "LABEL_1", "LABEL_2"]));
    assert!(
        success(&["verify", &base]).0.contains("a BERT base")
            && success(&["verify", &adapter]).0.contains("whole")
    );
    assert_eq!(success(&["tokenize", "--base", &base, "Ab c"]).0.trim(), "2 4 7 8 3");
}

#[test]
fn embed_writes_one_row_per_text_in_order_under_its_adapters() {
    let folder = Folder::new();
    let texts = ["knife", "a sharp knife", "", "x"];
    let flags: Vec<&str> = texts.iter().flat_map(|text| ["--text", text]).collect();
    let (rows, notes) = folder.embed(&flags);
    assert_eq!((rows.len(), notes.as_str()), (4, ""));
    let lines = folder.file("texts.jsonl");
    // Many texts: more than one batch.
    let many: String =
        (0..50).flat_map(|_| texts).map(|text| format!("{}\n", json!({ "text": text }))).collect();
    std::fs::write(&lines, many).unwrap();
    let (all, _) = folder.embed(&["--file", &lines]);
    assert_eq!(all.len(), 200);
    for (i, row) in all.iter().enumerate() {
        let worst =
            row.iter().zip(&rows[i % 4]).fold(0.0f32, |most, (a, b)| most.max((a - b).abs()));
        assert!(worst < 1e-5, "row {i}: {worst}");
    }
    let adapter = folder.file("a.lrk");
    let (adapted, _) = folder.embed(&[&flags[..], &["--adapter", &adapter]].concat());
    let (off, _) = folder.embed(&[&flags[..], &["--adapter", &format!("{adapter}:0")]].concat());
    assert!(adapted != rows && off == rows);
    let (cls, _) = folder.embed(&[&flags[..], &["--pooling", "cls"]].concat());
    assert_ne!(cls, rows);
}

#[test]
fn long_texts_are_cut_and_said_so() {
    let folder = Folder::new();
    let long = "abc ".repeat(30);
    let (rows, notes) = folder.embed(&["--text", &long, "--text", "a"]);
    assert!(notes.contains("1 of 2 texts") && notes.contains("40 tokens"), "{notes}");
    let (same, _) = folder.embed(&["--text", &"abc ".repeat(20), "--text", "a"]);
    assert_eq!(rows, same);
    let (short, notes) = folder.embed(&["--text", "abc", "--max-length", "3"]);
    assert!(notes.contains("3 tokens") && short == folder.embed(&["--text", "a"]).0, "{notes}");
}

#[test]
fn what_does_not_fit_is_one_line() {
    let folder = Folder::new();
    let (base, npy) = (folder.file("base.lrk"), folder.file("new.npy"));
    let llama = folder.file("llama.lrk");
    success(&["import", golden("gguf/tiny-llama.gguf").to_str().unwrap(), "-o", &llama]);
    assert!(
        failure(&["embed", "--base", &llama, "--text", "a", "-o", &npy])
            .contains("a BERT base was expected")
    );
    for arguments in [
        &["generate", "--base", &base, "--prompt", "a"][..],
        &["chat", "--base", &base],
        &["export", &base, "--format", "bitsandbytes", "-o", &npy],
    ] {
        assert!(failure(arguments).contains("a Llama base was expected"));
    }
    assert!(
        failure(&["embed", "--base", &base, "--text", "a", "-o", &npy, "--max-length", "41"])
            .contains("40")
    );
    assert!(
        failure(&["embed", "--base", &base, "--text", "a", "-o", &npy, "--max-length", "2"])
            .contains("leave no room")
    );
    let lines = folder.file("texts.jsonl");
    std::fs::write(&lines, "\n").unwrap();
    assert!(
        failure(&["embed", "--base", &base, "--file", &lines, "-o", &npy]).contains("no texts")
    );
    let adapter = golden("tiny-llama/adapters/lora");
    let other =
        failure(&["adapter", "import", adapter.to_str().unwrap(), "--base", &base, "-o", &npy]);
    assert!(other.contains("model.layers.0"), "{other}");
    assert!(!Path::new(&npy).exists());
    assert_eq!(lowrank(&["embed", "--base", &base, "-o", &npy]).status.code(), Some(2));
}
