//! What is read is a regular file of bounded length: a pipe, a device or a folder is named in one
//! sentence, and not waited for.

use super::*;

/// Every place of the command line that opens a file, `X` in its place.
fn places(folder: &Folder) -> Vec<Vec<String>> {
    let [base, adapter, encoder] =
        ["base.lrk", "adapter.lrk", "encoder.lrk"].map(|n| folder.file(n));
    let [data, out] = ["data.jsonl", "out"].map(|name| folder.file(name));
    let all = [
        &["inspect", "X"][..],
        &["verify", "X"],
        &["import", "X", "-o", &out],
        &["import", "X.lrk", "-o", &out],
        &["init", "X", "-o", &out],
        &["export", "X", "--format", "bitsandbytes", "-o", &out],
        &["adapter", "import", "X", "--base", &base, "-o", &out],
        &["adapter", "import", "missing", "--base", "X", "-o", &out],
        &["adapter", "export", "X", "--base", &base, "-o", &out],
        &["adapter", "export", &adapter, "--base", "X", "-o", &out],
        &["generate", "--base", "X", "--prompt", "a"],
        &["generate", "--base", "X", "--prompt", "a", "--load"],
        &["generate", "--base", &base, "--adapter", "X", "--prompt", "a"],
        &["generate", "--base", &base, "--swap", "a=X", "--prompt", "a"],
        &["chat", "--base", "X"],
        &["logits", "--base", "X", "--tokens", "1", "-o", &out],
        &["logits", "--base", &base, "--adapter", "X", "--tokens", "1", "-o", &out],
        &["embed", "--base", "X", "--text", "a", "-o", &out],
        &["embed", "--base", &encoder, "--file", "X", "-o", &out],
        &["classify", "--base", "X", "--text", "a"],
        &["tokenize", "--base", "X", "a"],
        &["tokenize", "--base", &base, "--file", "X"],
        &["train", "--base", "X", "--data", &data, "-o", &out],
        &["train", "--base", &base, "--data", "X.jsonl", "--method", "lora", "-o", &out],
        &["train", "--base", &base, "--data", "X.txt", "--method", "lora", "-o", &out],
        &[
            "train",
            "--base",
            &base,
            "--data",
            &data,
            "--validation",
            "X.jsonl",
            "--method",
            "lora",
            "-o",
            &out,
        ],
        &["evaluate", "--base", &base, "--data", "X.jsonl"],
        &["evaluate", "--base", &base, "--adapter", "X", "--data", &data],
        &["memory", "--base", "X"],
        &["memory", "--base", &base, "--adapter", "X"],
        &["memory", "--base", &base, "--method", "lora", "--data", "X.jsonl"],
        &["bench", "--base", "X"],
    ];
    all.iter().map(|words| words.iter().map(|word| (*word).to_owned()).collect()).collect()
}

/// Something at `path`, and what it is called.
fn strange(path: &str, what: &str) -> Option<&'static str> {
    let made = |command: &str, words: &[&str]| {
        Command::new(command).args(words).output().is_ok_and(|output| output.status.success())
    };
    match what {
        "pipe" => made("mkfifo", &[path]).then_some("this is a pipe"),
        "folder" => std::fs::create_dir(path).is_ok().then_some("this is a folder"),
        // The kind of /dev/zero, which never ends.
        _ => made("mknod", &[path, "c", "1", "5"]).then_some("this is a device"),
    }
}

#[test]
fn a_pipe_a_device_and_a_folder_are_named_and_not_waited_for() {
    let folder = Folder::new();
    for what in ["pipe", "device", "folder"] {
        for words in places(&folder) {
            // A folder is what these two want.
            let wants_folder = words[0] == "import" && !words[1].ends_with(".lrk")
                || words[0] == "adapter" && words[2] == "X" && words[1] == "import";
            if what == "folder" && wants_folder {
                continue;
            }
            let at = words.iter().find(|word| word.contains('X')).unwrap();
            let name = at.split_once('=').map_or(&at[..], |(_, file)| file);
            let path = folder.file(&name.replace('X', "strange"));
            let Some(says) = strange(&path, what) else { return };
            let replaced: Vec<String> = words
                .iter()
                .map(|word| if word == at { word.replace(name, &path) } else { word.to_string() })
                .collect();
            let line = refusal(&as_str(&replaced));
            assert!(line.contains(says) && line.contains(&path), "{replaced:?}: {line}");
            assert!(!folder.path("out").exists(), "{replaced:?}");
            let removed = if what == "folder" {
                std::fs::remove_dir(&path)
            } else {
                std::fs::remove_file(&path)
            };
            removed.unwrap();
        }
    }
}

#[test]
fn the_files_of_a_model_folder_are_files() {
    let folder = Folder::new();
    for (source, base, files) in [
        (
            "tiny-llama",
            None,
            &[
                "config.json",
                "model.safetensors",
                "tokenizer.json",
                "chat_template.jinja",
                "generation_config.json",
                "tokenizer_config.json",
            ][..],
        ),
        (
            "tiny-llama/adapters/lora",
            Some("tiny.lrk"),
            &["adapter_config.json", "adapter_model.safetensors"],
        ),
    ] {
        works(&[
            "import",
            golden("gguf/tiny-llama.gguf").to_str().unwrap(),
            "-o",
            &folder.file("tiny.lrk"),
        ]);
        for name in files {
            for what in ["pipe", "device", "folder"] {
                let (model, out) = (folder.path("model"), folder.file("out"));
                copy(&golden(source), &model);
                // tokenizer_config.json and templates are read beside a tokenizer.
                let tokenizer = r#"{"version": "1.0", "added_tokens": [],
                    "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}"#;
                std::fs::write(model.join("tokenizer.json"), tokenizer).unwrap();
                let _ = std::fs::remove_file(model.join(name));
                let path = model.join(name).to_str().unwrap().to_owned();
                if let Some(says) = strange(&path, what) {
                    let model = model.to_str().unwrap();
                    let base = base.map(|base| folder.file(base));
                    let words = match &base {
                        None => vec!["import", model, "-o", &out],
                        Some(base) => vec!["adapter", "import", model, "--base", base, "-o", &out],
                    };
                    let line = refusal(&words);
                    assert!(line.contains(says) && line.contains(name), "{words:?}: {line}");
                }
                std::fs::remove_dir_all(&model).unwrap();
            }
        }
    }
}

/// A file of 2^40 zeros takes no room on a disk, and would fill the memory.
#[test]
fn a_file_without_end_is_read_up_to_a_bound() {
    let folder = Folder::new();
    let [base, encoder, out] = ["base.lrk", "encoder.lrk", "out"].map(|name| folder.file(name));
    for name in ["endless.jsonl", "endless.txt", "endless.json", "endless.lrk"] {
        let sparse = std::fs::File::create(folder.path(name)).unwrap();
        if sparse.set_len(1 << 40).is_err() {
            return;
        }
    }
    let [jsonl, txt, json, lrk] =
        ["jsonl", "txt", "json", "lrk"].map(|ending| folder.file(&format!("endless.{ending}")));
    for (words, says) in [
        (vec!["tokenize", "--base", &base, "--file", &jsonl], "line 1: the line is longer than"),
        (
            vec!["embed", "--base", &encoder, "--file", &jsonl, "-o", &out],
            "the line is longer than",
        ),
        (vec!["evaluate", "--base", &base, "--data", &jsonl], "line 1: the line is longer than"),
        (vec!["evaluate", "--base", &base, "--data", &txt], "line 1: the line is longer than"),
        (vec!["init", &json, "-o", &out], "bytes, too many for what it is"),
        (vec!["verify", &lrk], "not a lowrank archive"),
        (vec!["generate", "--load", "--base", &lrk, "--prompt", "a"], "not a lowrank archive"),
    ] {
        let line = refusal(&words);
        assert!(line.contains(says), "{words:?}: {line}");
    }
}
