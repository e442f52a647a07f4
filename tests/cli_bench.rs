//! `lowrank bench` as a program reads it: the fixed names of its JSON, with sane signs. How fast
//! anything is, is not tested.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

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

fn stdout(arguments: &[&str]) -> String {
    let output = lowrank(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A directory with the tiny model and an adapter of it.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        stdout(&[
            "import",
            golden("gguf/tiny-llama.gguf").to_str().unwrap(),
            "-o",
            &folder.file("base.lrk"),
        ]);
        let adapter = golden("tiny-llama/adapters/lora");
        stdout(&[
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
}

const SMALL: [&str; 8] =
    ["--prompt-tokens", "20", "--tokens", "8", "--rounds", "2", "--threads", "2"];

#[test]
fn json_has_the_fixed_names() {
    let folder = Folder::new();
    let (base, adapter) = (folder.file("base.lrk"), folder.file("a.lrk"));
    for precision in ["exact", "fast"] {
        let bench = |more: &[&str]| -> Value {
            let arguments =
                [&["bench", "--base", &base, "--precision", precision, "--json"][..], &SMALL, more]
                    .concat();
            serde_json::from_str(&stdout(&arguments)).unwrap()
        };
        let (plain, adapted) =
            (bench(&[]), bench(&["--adapter", &adapter, "--adapter", &format!("{adapter}:-0.5")]));
        for facts in [&plain, &adapted] {
            let number = |name: &str| {
                facts[name]
                    .as_f64()
                    .filter(|number| number.is_finite() && *number > 0.0)
                    .expect(name)
            };
            number("prefill_tokens_per_s");
            number("measured_read_gb_per_s");
            let read = facts["weight_bytes_per_token"].as_u64().unwrap() as f64
                * number("decode_tokens_per_s")
                / 1e9;
            assert!((number("read_gb_per_s") / read - 1.0).abs() < 1e-9);
            assert_eq!(
                (facts["precision"].as_str(), facts["threads"].as_u64()),
                (Some(precision), Some(2))
            );
        }
        assert!(plain.get("adapter_overhead").is_none());
        assert!(plain.get("batch_decode_tokens_per_s").is_none());
        // A time is positive, so what is added to it is more than −1 of it.
        assert!(adapted["adapter_overhead"].as_f64().unwrap() > -1.0);
        assert!(adapted["adapter_bytes_per_token"].as_u64().unwrap() > 0);
        // The tied head is read whole, and the archive holds every weight that is read.
        let bytes = plain["weight_bytes_per_token"].as_u64().unwrap();
        assert!(bytes < std::fs::metadata(&base).unwrap().len());
        assert_eq!(plain["weight_bytes_per_token"], adapted["weight_bytes_per_token"]);
    }
}

#[test]
fn sequences_together_are_timed_beside_one() {
    let folder = Folder::new();
    let (base, adapter) = (folder.file("base.lrk"), folder.file("a.lrk"));
    let all = ["bench", "--base", &base, "--adapter", &adapter, "--batch", "3", "--context", "30"];
    let facts: Value =
        serde_json::from_str(&stdout(&[&all[..], &SMALL, &["--json"]].concat())).unwrap();
    for name in ["batch_decode_tokens_per_s", "adapter_batch_decode_tokens_per_s"] {
        assert!(facts[name].as_f64().is_some_and(|rate| rate.is_finite() && rate > 0.0), "{name}");
    }
    assert_eq!((facts["batch"].as_u64(), facts["context"].as_u64()), (Some(3), Some(30)));
    let table = stdout(&[&all[..], &SMALL].concat());
    assert_eq!(table.matches("decode of 3 sequences").count(), 2, "{table}");
    // Each holds its context and what is decoded: 64 places are one too few.
    let output = lowrank(&["bench", "--base", &base, "--context", "57", "--tokens", "8"]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && text.contains("64"), "{text}");
}

#[test]
fn the_bytes_are_those_that_inspect_counts() {
    let folder = Folder::new();
    let base = folder.file("base.lrk");
    let facts: Value = serde_json::from_str(&stdout(&["inspect", &base, "--json"])).unwrap();
    let stored: u64 = facts["weights"]
        .as_object()
        .unwrap()
        .values()
        .map(|format| format["bytes"].as_u64().unwrap())
        .sum();
    let bench: Value = serde_json::from_str(&stdout(
        &[&["bench", "--base", &base, "--json"][..], &SMALL].concat(),
    ))
    .unwrap();
    let read = bench["weight_bytes_per_token"].as_u64().unwrap();
    // Tied: the head is the embedding, all that is stored is read. Apart: all but the embedding.
    let embedding =
        bench["embedding_bytes_per_token"].as_u64().unwrap() * facts["vocab"].as_u64().unwrap();
    let expected = if facts["tied_head"].as_bool().unwrap() { stored } else { stored - embedding };
    assert_eq!(read, expected);
}

#[test]
fn without_json_it_is_a_table() {
    let folder = Folder::new();
    let base = folder.file("base.lrk");
    let table = stdout(&[&["bench", "--base", &base][..], &SMALL].concat());
    assert!(
        table.contains("prefill of 20 tokens")
            && table.contains("GB/s")
            && !table.contains("adapters"),
        "{table}"
    );
}

#[test]
fn what_does_not_fit_is_refused_with_the_numbers() {
    let folder = Folder::new();
    let base = folder.file("base.lrk");
    let output = lowrank(&["bench", "--base", &base, "--prompt-tokens", "65"]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.starts_with("lowrank: ") && text.lines().count() == 1 && text.contains("64"),
        "{text}"
    );
    assert_eq!(lowrank(&["bench", "--base", &base, "--rounds", "0"]).status.code(), Some(2));
}
