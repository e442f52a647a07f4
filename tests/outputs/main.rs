//! Nothing that exists is destroyed, and nothing strange is waited for: where commands and library
//! write to, what they read from, and how large what they are asked for may be.

#[cfg(unix)]
mod devices;
mod files;
mod folders;
mod library;
mod sizes;
#[cfg(unix)]
mod sources;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(path)
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lowrank"));
    command.args(arguments).env_remove("LOWRANK_ISA");
    command
}

fn lowrank(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

fn works(arguments: &[&str]) -> Vec<u8> {
    let output = lowrank(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// The one sentence of a command that fails with status 1.
fn refusal(arguments: &[&str]) -> String {
    let output = lowrank(arguments);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {text}");
    let last = text.trim_end().lines().last().unwrap_or_default();
    assert!(last.starts_with("lowrank: "), "{arguments:?}: {text}");
    last.to_owned()
}

/// The configuration of a small model with `more` keys, which overrule.
fn small(kind: &str, more: &str) -> String {
    format!(
        r#"{{"model_type": "{kind}", "tokenizer": "bytes", "hidden_size": 16,
            "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
            "max_position_embeddings": 32, "tie_word_embeddings": true{more}}}"#
    )
}

/// A small decoder and an encoder with random weights, an adapter of the decoder, data and texts.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        for (name, kind) in [("base.json", "llama"), ("encoder.json", "bert")] {
            std::fs::write(folder.path(name), small(kind, "")).unwrap();
        }
        let line = |i: usize| format!("{{\"text\": \"line {i}\"}}\n");
        for (name, lines) in [("data.jsonl", 0..8), ("dev.jsonl", 8..12), ("texts.jsonl", 0..2)] {
            std::fs::write(folder.path(name), lines.map(line).collect::<String>()).unwrap();
        }
        for name in ["base", "encoder"] {
            let (config, base) = (format!("{name}.json"), format!("{name}.lrk"));
            works(&["init", &folder.file(&config), "-o", &folder.file(&base)]);
        }
        let train = folder.train("lora");
        works(&[&as_str(&train)[..], &["-o", &folder.file("adapter.lrk")]].concat());
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn file(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// `train` with everything but its output.
    fn train(&self, method: &str) -> Vec<String> {
        let [base, data, dev] = ["base.lrk", "data.jsonl", "dev.jsonl"].map(|name| self.file(name));
        let words = ["train", "--base", &base, "--data", &data, "--validation", &dev];
        let more = ["--method", method, "--steps", "1", "--max-length", "16", "--threads", "1"];
        words.iter().chain(&more).map(|word| (*word).to_owned()).collect()
    }

    fn logits(&self) -> Vec<String> {
        let (base, adapter) = (self.file("base.lrk"), self.file("adapter.lrk"));
        let words = ["logits", "--base", &base, "--adapter", &adapter, "--tokens", "1,2,3"];
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    fn embed(&self) -> Vec<String> {
        let (base, texts) = (self.file("encoder.lrk"), self.file("texts.jsonl"));
        let words = ["embed", "--base", &base, "--file", &texts];
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    /// Every file below the folder with its content.
    fn content(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        content(self.0.path())
    }
}

fn content(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.path().metadata().map(|found| found.file_type());
        match kind {
            Ok(kind) if kind.is_dir() => all.extend(content(&entry.path())),
            Ok(kind) if kind.is_file() => {
                all.insert(entry.path(), std::fs::read(entry.path()).unwrap());
            }
            _ => {}
        }
    }
    all
}

fn as_str(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

/// The files of a folder, without its folders.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}
