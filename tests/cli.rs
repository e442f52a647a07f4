//! The command line as a user meets it: exit status, one line on stderr, stable JSON, whole files
//! or none.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

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

/// The one line on stderr of a command that fails with status 1.
fn failure(arguments: &[&str]) -> String {
    let output = lowrank(arguments);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {text}");
    // Lines of progress may stand before it.
    let (last, before) = text
        .trim_end()
        .lines()
        .collect::<Vec<_>>()
        .split_last()
        .map(|(last, before)| (*last, before.to_vec()))
        .unwrap();
    assert!(
        before.iter().all(|line| line.ends_with(" %")) && last.starts_with("lowrank: "),
        "{text}"
    );
    last.to_owned()
}

/// A directory with the tiny model (from GGUF, so that it has a tokenizer) and an adapter of it.
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

#[test]
fn import_inspect_verify_and_memory() {
    let folder = Folder::new();
    let (base, adapter) = (folder.file("base.lrk"), folder.file("a.lrk"));
    let facts: Value = serde_json::from_str(&stdout(&["inspect", &base, "--json"])).unwrap();
    assert_eq!((facts["kind"].as_str(), facts["layers"].as_u64()), (Some("a Llama base"), Some(2)));
    assert_eq!(facts["bytes"].as_u64(), Some(std::fs::metadata(&base).unwrap().len()));
    assert!(
        facts["weights"]["nf4"]["weights"].is_u64()
            && facts["weights"]["int8"]["bits_per_weight"].is_f64()
    );
    let facts: Value = serde_json::from_str(&stdout(&["inspect", &adapter, "--json"])).unwrap();
    assert_eq!(
        (facts["method"].as_str(), facts["targets"].as_u64(), facts["max_rank"].as_u64()),
        (Some("lora"), Some(14), Some(4))
    );
    assert!(
        stdout(&["verify", &base]).contains("whole")
            && stdout(&["verify", &adapter]).contains("whole")
    );
    let memory: Value = serde_json::from_str(&stdout(&[
        "memory",
        "--base",
        &base,
        "--adapter",
        &adapter,
        "--context",
        "32",
        "--json",
    ]))
    .unwrap();
    let number = |key: &str| memory[key].as_u64().unwrap();
    assert_eq!(
        number("peak_bytes"),
        number("workspace_bytes")
            + number("base_bytes")
            + number("adapter_bytes")
            + number("tokenizer_bytes")
    );
    assert!(number("tokenizer_bytes") > 0);
    assert!(failure(&["memory", "--base", &base, "--context", "65"]).contains("65"));
    let firmware = stdout(&[
        "memory",
        "--base",
        &base,
        "--adapter",
        &adapter,
        "--context",
        "32",
        "--firmware",
    ]);
    let bytes = firmware.split_whitespace().find_map(|word| word.parse::<u64>().ok()).unwrap();
    assert!(
        firmware.contains(&format!(
            "static unsigned char workspace[{bytes}] __attribute__((aligned(64)));"
        )),
        "{firmware}"
    );
    assert!(
        firmware.contains(&format!("static mut WORKSPACE: Workspace = Workspace([0; {bytes}]);")),
        "{firmware}"
    );
    let facts = stdout(&[
        "memory",
        "--base",
        &base,
        "--adapter",
        &adapter,
        "--context",
        "32",
        "--firmware",
        "--json",
    ]);
    assert_eq!(
        serde_json::from_str::<Value>(&facts).unwrap()["workspace_bytes"].as_u64(),
        Some(bytes)
    );
    let workspace = |precision| {
        let facts = stdout(&[
            "memory",
            "--base",
            &base,
            "--context",
            "32",
            "--precision",
            precision,
            "--threads",
            "1",
            "--json",
        ]);
        serde_json::from_str::<Value>(&facts).unwrap()["workspace_bytes"].as_u64().unwrap()
    };
    assert!(workspace("fast") > workspace("exact"), "rounded activations take room");
}

#[test]
fn generate_is_repeatable_and_adapters_act() {
    let folder = Folder::new();
    let (base, adapter) = (folder.file("base.lrk"), folder.file("a.lrk"));
    let run = |more: &[&str]| {
        stdout(&[&["generate", "--base", &base, "--prompt", "ab", "--tokens", "12"], more].concat())
    };
    let plain = run(&["--threads", "1"]);
    assert_eq!(plain, run(&["--threads", "2"]), "results do not depend on threads");
    assert_eq!(plain, run(&["--load"]), "a copy is the same base");
    assert_ne!(plain, run(&["--adapter", &format!("{adapter}:8")]));
    assert_eq!(plain, run(&["--adapter", &format!("{adapter}:0")]));
    let drawn = |seed| run(&["--temperature", "2", "--seed", seed]);
    assert!(drawn("1") == drawn("1") && drawn("1") != drawn("2"));
    let swapped = run(&["--swap", &format!("x={adapter}")]);
    assert!(
        swapped.starts_with(&format!("[base]\n{plain}")) && swapped.contains("[x] swapped in"),
        "{swapped}"
    );
    let arguments = [
        "generate",
        "--base",
        &base,
        "--prompt",
        "ab",
        "--tokens",
        "2",
        "--stats",
        "--adapter",
        &adapter,
    ];
    let notes = String::from_utf8(lowrank(&arguments).stderr).unwrap();
    assert!(
        notes.contains("tokens/s")
            && notes.contains("keys and values")
            && notes.contains("attached in"),
        "{notes}"
    );
}

/// The tiny model from a Hugging Face directory, with a token for every printable ASCII character
/// and a chat template.
fn with_template(folder: &Folder) -> String {
    let source = folder.0.path().join("hf");
    std::fs::create_dir(&source).unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(golden("tiny-llama").join(name), source.join(name)).unwrap();
    }
    let characters = (b' '..=b'~')
        .map(|byte| if byte == b' ' { "Ġ".to_owned() } else { char::from(byte).to_string() });
    let vocab: serde_json::Map<String, Value> = characters
        .zip(1..)
        .map(|(token, id)| (token, id.into()))
        .chain([("<s>".to_owned(), 0.into())])
        .collect();
    let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    let special = json!({ "id": 0, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true });
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "added_tokens": [special],
        "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": { "type": "BPE", "vocab": vocab, "merges": [] },
    });
    std::fs::write(source.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let template = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }};{% endfor %}{% if add_generation_prompt %}a:{% endif %}";
    let settings = json!({ "eos_token": "<s>", "chat_template": template });
    std::fs::write(source.join("tokenizer_config.json"), settings.to_string()).unwrap();
    let base = folder.file("chat.lrk");
    stdout(&["import", source.to_str().unwrap(), "-o", &base]);
    base
}

/// A command that is typed to.
fn typed(arguments: &[&str], input: &[u8], stdout: impl Into<Stdio>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lowrank"));
    let mut child = command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(stdout)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may have ended before it read everything.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

#[test]
fn a_float_archive_is_imported_to_four_bits() {
    let folder = Folder::new();
    let (float, direct, base) =
        (folder.file("float.lrk"), folder.file("base.lrk"), folder.file("again.lrk"));
    stdout(&[
        "import",
        golden("gguf/tiny-llama.gguf").to_str().unwrap(),
        "-o",
        &float,
        "--weights",
        "f32",
        "--embedding",
        "f32",
    ]);
    stdout(&["import", &float, "-o", &base]);
    // The same as from the source.
    let fingerprint = |path: &str| {
        serde_json::from_str::<Value>(&stdout(&["inspect", path, "--json"])).unwrap()["fingerprint"]
            .clone()
    };
    assert_eq!(fingerprint(&base), fingerprint(&direct));
    assert!(
        failure(&["import", &base, "-o", &folder.file("x.lrk")])
            .contains("again.lrk: its linear layers are quantized already")
    );
    assert!(
        failure(&["import", &float, "--weights", "int8", "-o", &folder.file("x.lrk")])
            .contains("default --weights")
    );
    assert!(!Path::new(&folder.file("x.lrk")).exists());
}

#[test]
fn fitted_scales_are_four_bits_like_the_others_and_are_told() {
    let folder = Folder::new();
    let source = golden("gguf/tiny-llama.gguf");
    let source = source.to_str().unwrap();
    let [float, fitted, again, exported, back] =
        ["float.lrk", "fitted.lrk", "again.lrk", "exported", "back.lrk"].map(|n| folder.file(n));
    stdout(&["import", source, "-o", &float, "--weights", "f32", "--embedding", "f32"]);
    stdout(&["import", source, "-o", &fitted, "--fit"]);
    stdout(&["import", &float, "-o", &again, "--fit"]);
    let facts = |path: &str| -> Value {
        serde_json::from_str(&stdout(&["inspect", path, "--json"])).unwrap()
    };
    let (plain, fitted_facts) = (facts(&folder.file("base.lrk")), facts(&fitted));
    assert_eq!(fitted_facts["fingerprint"], facts(&again)["fingerprint"]);
    assert_ne!(fitted_facts["fingerprint"], plain["fingerprint"]);
    assert_eq!(fitted_facts["bytes"], plain["bytes"]);
    let scales = |facts: &Value| facts["weights"]["nf4"]["scales"].clone();
    assert_eq!((scales(&plain), scales(&fitted_facts)), (json!("absmax"), json!("fitted")));

    // Other programs read it: a bitsandbytes checkpoint, and the same numbers back from it.
    stdout(&["export", &fitted, "--format", "bitsandbytes", "-o", &exported]);
    stdout(&["import", &exported, "-o", &back, "--embedding", "int8", "--without-tokenizer"]);
    assert_eq!(facts(&back)["fingerprint"], fitted_facts["fingerprint"]);
    let refused = failure(&["import", &exported, "-o", &folder.file("x.lrk"), "--fit"]);
    assert!(refused.contains("taken over as they are"), "{refused}");
    let idle =
        failure(&["import", source, "-o", &folder.file("x.lrk"), "--fit", "--weights", "f16"]);
    assert!(idle.contains("--fit has no effect"), "{idle}");
    assert!(!Path::new(&folder.file("x.lrk")).exists());
}

#[test]
fn chat_swaps_adapters_and_survives_what_is_typed() {
    let folder = Folder::new();
    let base = with_template(&folder);
    let adapter = folder.file("x.lrk");
    let source = golden("tiny-llama/adapters/lora");
    stdout(&["adapter", "import", source.to_str().unwrap(), "--base", &base, "-o", &adapter]);
    let named = format!("x={adapter}");
    let arguments = [
        "chat",
        "--base",
        &base,
        "--adapter",
        &named,
        "--temperature",
        "0",
        "--tokens",
        "6",
        "--threads",
        "1",
        "--context",
        "48",
    ];
    let output = typed(
        &arguments,
        b"ab\n/adapter x\ncd\n/adapter off\n/reset\nab\n/quit\nab\n",
        Stdio::piped(),
    );
    let (replies, notes) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{notes}");
    let replies: Vec<&str> = replies.lines().collect();
    let [first, swapped, again] = replies[..] else { panic!("{replies:?}") };
    assert!(first == again && first != swapped, "{replies:?}");
    assert_eq!(notes.matches("swapped; the conversation is read again").count(), 2, "{notes}");
    let generated = stdout(&[
        "generate",
        "--base",
        &base,
        "--chat",
        "--prompt",
        "ab",
        "--tokens",
        "6",
        "--threads",
        "1",
    ]);
    assert_eq!(generated, format!("{first}\n"));

    let long = "a".repeat(60);
    let odd =
        [b"/adapter y\n/nonsense\n/help\n\xff\n\n".as_slice(), long.as_bytes(), b"\nab\n"].concat();
    let output = typed(&arguments, &odd, Stdio::piped());
    let notes = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{notes}");
    for said in [
        "no adapter is called \"y\"",
        "unknown command",
        "/reset",
        "not valid UTF-8",
        "--context gives more room",
    ] {
        assert!(notes.contains(said), "{said}: {notes}");
    }
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        format!("{first}\n"),
        "a refused line leaves no trace"
    );
}

#[test]
fn a_reader_that_goes_away_ends_a_command_quietly_and_a_full_disk_does_not() {
    let folder = Folder::new();
    let (base, adapter) = (with_template(&folder), folder.file("a.lrk"));
    let (copy, npy, text) =
        (folder.file("copy.lrk"), folder.file("out.npy"), folder.file("text.txt"));
    std::fs::write(&text, "abcabc").unwrap();
    let source = golden("gguf/tiny-llama.gguf");
    let commands: [&[&str]; 12] = [
        &["import", source.to_str().unwrap(), "-o", &copy],
        &["inspect", &base],
        &["inspect", &adapter, "--json"],
        &["verify", &base],
        &["memory", "--base", &base, "--context", "32"],
        &["memory", "--base", &base, "--context", "32", "--json"],
        &["tokenize", "--base", &base, "ab"],
        &["generate", "--base", &base, "--prompt", "ab", "--tokens", "4"],
        &["logits", "--base", &base, "--tokens", "1,2", "-o", &npy],
        &["evaluate", "--base", &base, "--data", &text, "--max-length", "8"],
        &["chat", "--base", &base, "--context", "32", "--tokens", "4"],
        &["bench", "--base", &base, "--prompt-tokens", "4", "--tokens", "4", "--rounds", "1"],
    ];
    for arguments in commands {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = typed(arguments, b"ab\nab\n", writer);
        let notes = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {notes}");
        assert!(!notes.contains("panicked") && !notes.contains("pipe"), "{arguments:?}: {notes}");
        if cfg!(target_os = "linux") {
            let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
            let output = typed(arguments, b"ab\nab\n", full);
            let notes = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{arguments:?}: {notes}");
            assert!(
                notes.trim_end().lines().last().unwrap().starts_with("lowrank: standard output: "),
                "{arguments:?}: {notes}"
            );
        }
    }
    assert!(
        stdout(&["verify", &copy]).contains("whole"),
        "the work was done before the line about it was lost"
    );

    // Nobody hears the notes: the work goes on.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let silent = Command::new(env!("CARGO_BIN_EXE_lowrank"))
        .args(commands[0])
        .stderr(writer)
        .output()
        .unwrap();
    assert_eq!(silent.status.code(), Some(0));
}

#[test]
fn every_help_has_an_example() {
    let commands = [
        "import", "adapter", "export", "inspect", "verify", "generate", "chat", "logits",
        "tokenize", "evaluate", "memory", "bench",
    ];
    for command in commands {
        assert!(stdout(&[command, "--help"]).contains("Example"), "{command}");
    }
}

#[test]
fn chat_needs_a_template() {
    let folder = Folder::new();
    let base = folder.file("base.lrk");
    assert!(failure(&["chat", "--base", &base]).contains("no chat template"));
    assert!(
        failure(&["generate", "--base", &base, "--chat", "--prompt", "a"])
            .contains("no chat template")
    );
}

#[test]
fn logits_tokenize_and_evaluate() {
    let folder = Folder::new();
    let base = folder.file("base.lrk");
    let npy = folder.file("out.npy");
    stdout(&["logits", "--base", &base, "--tokens", "3,4,5", "-o", &npy]);
    let bytes = std::fs::read(&npy).unwrap();
    let header = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    assert!(bytes.starts_with(b"\x93NUMPY\x01\x00") && (10 + header) % 64 == 0);
    assert!(String::from_utf8_lossy(&bytes[10..10 + header]).contains("'shape': (3, 96, )"));
    assert_eq!(bytes.len(), 10 + header + 3 * 96 * 4);

    let lines = folder.file("texts.jsonl");
    std::fs::write(&lines, "{\"text\": \"ab\"}\n{\"text\": \"\"}\n").unwrap();
    let ids: Vec<Value> = stdout(&["tokenize", "--base", &base, "--file", &lines])
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(ids.len(), 2);
    let words = stdout(&["tokenize", "--base", &base, "ab"]);
    let expected: Vec<String> =
        ids[0]["ids"].as_array().unwrap().iter().map(Value::to_string).collect();
    assert_eq!(words.split_whitespace().collect::<Vec<_>>(), expected);

    let text = folder.file("text.txt");
    std::fs::write(&text, "abcabcabdabcab".repeat(8)).unwrap();
    let facts: Value = serde_json::from_str(&stdout(&[
        "evaluate",
        "--base",
        &base,
        "--data",
        &text,
        "--max-length",
        "32",
        "--json",
    ]))
    .unwrap();
    let (loss, perplexity) =
        (facts["loss"].as_f64().unwrap(), facts["perplexity"].as_f64().unwrap());
    assert!(
        (loss.exp() / perplexity - 1.0).abs() < 1e-9 && facts["examples"].as_u64().unwrap() >= 1
    );
}

#[test]
fn bad_input_is_one_line_that_says_what_and_where() {
    let folder = Folder::new();
    let (base, adapter) = (folder.file("base.lrk"), folder.file("a.lrk"));
    let missing = folder.file("missing.lrk");
    assert!(failure(&["inspect", &missing]).contains("missing.lrk"));
    let text = folder.file("text.lrk");
    std::fs::write(&text, "not an archive, but long enough to have a header".repeat(4)).unwrap();
    assert!(failure(&["verify", &text]).contains("magic number"));
    let damaged = folder.file("damaged.lrk");
    let mut bytes = std::fs::read(&base).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&damaged, &bytes).unwrap();
    assert!(failure(&["verify", &damaged]).contains("checksum"));
    std::fs::write(&damaged, &bytes[..middle]).unwrap();
    assert!(failure(&["generate", "--base", &damaged, "--prompt", "a"]).contains("truncated"));
    assert!(
        failure(&["generate", "--load", "--base", &damaged, "--prompt", "a"]).contains("truncated")
    );
    assert!(
        failure(&["generate", "--base", &adapter, "--prompt", "a"])
            .contains("a Llama base was expected")
    );
    assert!(
        failure(&["generate", "--base", &base, "--prompt", "a", "--adapter", &base])
            .contains("an adapter was expected")
    );
    // With the feature tests/cuda_cli.rs has what is said.
    let cuda = ["generate", "--base", &base, "--prompt", "a", "--device", "cuda"];
    assert!(cfg!(feature = "cuda") || failure(&cuda).contains("built without cuda: build it with"));
    assert!(
        failure(&["generate", "--base", &base, "--prompt", "a", "--temperature", "-1"])
            .contains("temperature")
    );
    assert!(failure(&["generate", "--base", &base, "--prompt", &"ab".repeat(200)]).contains("64"));
    assert!(
        failure(&["logits", "--base", &base, "--tokens", "3,96", "-o", &missing]).contains("96")
    );
    assert!(!Path::new(&missing).exists());
    let lines = folder.file("bad.jsonl");
    std::fs::write(&lines, "{\"text\": \"a\"}\n{\"txt\": 1}\n").unwrap();
    assert!(failure(&["tokenize", "--base", &base, "--file", &lines]).contains("line 2"));

    // An adapter of another base, and a failing import that leaves an existing file alone.
    let other = folder.file("other.lrk");
    stdout(&[
        "import",
        golden("gguf/tiny-llama.gguf").to_str().unwrap(),
        "-o",
        &other,
        "--weights",
        "f32",
    ]);
    assert!(
        failure(&["generate", "--base", &other, "--prompt", "a", "--adapter", &adapter])
            .contains("another base")
    );
    let before = std::fs::read(&base).unwrap();
    assert!(
        failure(&["import", golden("tiny-llama").to_str().unwrap(), "-o", &base])
            .contains("tokenizer")
    );
    assert_eq!(std::fs::read(&base).unwrap(), before);
    assert!(failure(&["import", &text, "-o", &base]).contains("text.lrk"));
    let nowhere = folder.file("no/such/folder/x.lrk");
    failure(&["import", golden("gguf/tiny-llama.gguf").to_str().unwrap(), "-o", &nowhere]);
}

#[test]
fn wrong_usage_is_status_2_and_a_forced_isa_must_exist() {
    assert_eq!(lowrank(&["generate"]).status.code(), Some(2));
    assert_eq!(lowrank(&["nonsense"]).status.code(), Some(2));
    let folder = Folder::new();
    let output = Command::new(env!("CARGO_BIN_EXE_lowrank"))
        .args(["generate", "--base", &folder.file("base.lrk"), "--prompt", "a"])
        .env("LOWRANK_ISA", "abacus")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("abacus"));
    let output = Command::new(env!("CARGO_BIN_EXE_lowrank"))
        .args(["inspect", &folder.file("base.lrk")])
        .env("LOWRANK_ISA", "abacus")
        .output();
    assert_eq!(output.unwrap().status.code(), Some(1), "whatever the command");
}

#[test]
fn a_full_disk_leaves_no_file() {
    // A file size limit makes every write past it fail, as a full disk does.
    let folder = Folder::new();
    let output = folder.file("large.lrk");
    let source = golden("gguf/tiny-llama.gguf");
    let command = format!(
        "trap '' XFSZ; ulimit -f 16; exec '{}' import '{}' -o '{output}' --weights f32 --embedding f32",
        env!("CARGO_BIN_EXE_lowrank"),
        source.display()
    );
    let result = Command::new("bash").args(["-c", &command]).output().unwrap();
    assert_eq!(result.status.code(), Some(1), "{}", String::from_utf8_lossy(&result.stderr));
    assert!(String::from_utf8_lossy(&result.stderr).contains("large.lrk"));
    let left: Vec<_> = std::fs::read_dir(folder.0.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn fresh_models_of_small_families_are_made_trained_and_evaluated() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let config = r#"{"model_type": "mlp", "input_size": 2, "hidden_sizes": [24], "labels": ["even", "odd"]}"#;
    std::fs::write(file("mlp.json"), config).unwrap();
    let made = stdout(&["init", &file("mlp.json"), "--seed", "3", "-o", &file("mlp.lrk")]);
    assert!(made.contains("an MLP base, ") && made.contains("fingerprint "), "{made}");
    let facts: Value =
        serde_json::from_str(&stdout(&["inspect", &file("mlp.lrk"), "--json"])).unwrap();
    assert_eq!(
        (&facts["inputs"], &facts["widths"], &facts["labels"]),
        (&json!(2), &json!([24, 2]), &json!(["even", "odd"]))
    );
    assert!(stdout(&["verify", &file("mlp.lrk")]).contains("an MLP base"));

    // A checkerboard of 2 × 2 squares.
    let rows = |mut state: u64| {
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        let row = |_| {
            let (x, y) = (next(), next());
            format!("{x},{y},{}\n", if (x > 0.0) == (y > 0.0) { "even" } else { "odd" })
        };
        (0..400).map(row).collect::<String>()
    };
    std::fs::write(file("train.csv"), rows(1)).unwrap();
    std::fs::write(file("test.csv"), rows(2)).unwrap();
    let (base, data, trained) = (file("mlp.lrk"), file("train.csv"), file("trained.lrk"));
    let options = [
        "--task",
        "classify",
        "--method",
        "full",
        "--epochs",
        "30",
        "--batch-size",
        "16",
        "--learning-rate",
        "1e-2",
    ];
    stdout(&[&["train", "--base", &base, "--data", &data, "-o", &trained], &options[..]].concat());
    let facts = stdout(&[
        "evaluate",
        "--base",
        &trained,
        "--data",
        &file("test.csv"),
        "--task",
        "classify",
        "--json",
    ]);
    let facts: Value = serde_json::from_str(&facts).unwrap();
    assert!(facts["accuracy"].as_f64().unwrap() > 0.9, "{facts}");

    let config = r#"{"model_type": "lstm", "tokenizer": "bytes", "embedding_size": 8, "hidden_size": 16, "num_layers": 1}"#;
    std::fs::write(file("lstm.json"), config).unwrap();
    stdout(&["init", &file("lstm.json"), "-o", &file("lstm.lrk"), "--weights", "nf4"]);
    let facts: Value =
        serde_json::from_str(&stdout(&["inspect", &file("lstm.lrk"), "--json"])).unwrap();
    assert_eq!(
        (&facts["head"], &facts["vocab"], &facts["leading_bos"]),
        (&json!("languagemodel"), &json!(258), &json!(256))
    );
    std::fs::write(file("text.txt"), "to be, or not to be, that is the question. ".repeat(20))
        .unwrap();
    let (base, data, adapter) = (file("lstm.lrk"), file("text.txt"), file("adapter.lrk"));
    let options = [
        "--task",
        "lm",
        "--method",
        "qlora",
        "--steps",
        "20",
        "--max-length",
        "32",
        "--learning-rate",
        "1e-2",
    ];
    stdout(&[&["train", "--base", &base, "--data", &data, "-o", &adapter], &options[..]].concat());
    let loss = |adapters: &[&str]| {
        let arguments = [
            &[
                "evaluate",
                "--base",
                &base,
                "--data",
                &data,
                "--task",
                "lm",
                "--max-length",
                "32",
                "--json",
            ],
            adapters,
        ]
        .concat();
        serde_json::from_str::<Value>(&stdout(&arguments)).unwrap()["loss"].as_f64().unwrap()
    };
    assert!(loss(&["--adapter", &adapter]) < loss(&[]) - 0.1);
    std::fs::write(file("bad.json"), r#"{"model_type": "mlp"}"#).unwrap();
    assert!(
        failure(&["init", &file("bad.json"), "-o", &file("bad.lrk")])
            .contains("bad.json: output_size: the key is missing")
    );
}

/// A decoder is continued token by token from its cache, an LSTM from its state; what is printed
/// follows the same rules.
#[test]
fn generate_continues_an_lstm_with_and_without_adapters() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let fresh = |name: &str, more: &str| {
        let config = format!(
            r#"{{"model_type": "lstm", "tokenizer": "bytes", "embedding_size": 16, "hidden_size": 48, "num_layers": 1{more}}}"#
        );
        std::fs::write(file("lstm.json"), config).unwrap();
        stdout(&[
            "init",
            &file("lstm.json"),
            "-o",
            &file(name),
            "--weights",
            "f32",
            "--embedding",
            "f32",
        ]);
        file(name)
    };
    let fresh_base = fresh("fresh.lrk", "");
    std::fs::write(file("ab.txt"), "abcdefgh".repeat(60)).unwrap();
    std::fs::write(file("ba.txt"), "hgfedcba".repeat(60)).unwrap();
    let (base, adapter) = (file("base.lrk"), file("back.lrk"));
    let options =
        ["--max-length", "48", "--batch-size", "2", "--epochs", "40", "--learning-rate", "2e-2"];
    stdout(
        &[
            &[
                "train",
                "--base",
                &fresh_base,
                "--data",
                &file("ab.txt"),
                "--method",
                "full",
                "-o",
                &base,
            ],
            &options[..],
        ]
        .concat(),
    );
    let lora = [
        "--method",
        "lora",
        "--rank",
        "16",
        "--target-modules",
        "embedding,ih_l0,hh_l0,head",
        "-o",
        &adapter,
    ];
    stdout(&[&["train", "--base", &base, "--data", &file("ba.txt")], &lora[..], &options].concat());

    let run = |more: &[&str]| {
        stdout(
            &[&["generate", "--base", &base, "--prompt", "abc", "--tokens", "13"], more].concat(),
        )
    };
    assert_eq!(run(&["--threads", "1"]), "defghabcdefgh\n");
    assert_eq!(
        run(&["--threads", "2", "--precision", "fast", "--adapter", &format!("{adapter}:0")]),
        "defghabcdefgh\n"
    );
    let back = |more: &[&str]| {
        stdout(
            &[&["generate", "--base", &base, "--prompt", "hgf", "--tokens", "13"], more].concat(),
        )
    };
    assert_eq!(back(&["--adapter", &adapter]), "edcbahgfedcba\n");
    let swapped = back(&["--swap", &format!("back={adapter}")]);
    assert!(
        swapped.starts_with("[base]\n")
            && swapped.contains("[back] swapped in")
            && swapped.ends_with("\nedcbahgfedcba\n"),
        "{swapped}"
    );
    let drawn = |seed| run(&["--temperature", "3", "--repetition-penalty", "1.2", "--seed", seed]);
    assert!(drawn("1") == drawn("1") && drawn("1") != drawn("2"));
    let notes = lowrank(&[
        "generate",
        "--base",
        &base,
        "--prompt",
        "a",
        "--tokens",
        "2",
        "--stats",
        "--adapter",
        &adapter,
    ])
    .stderr;
    let notes = String::from_utf8(notes).unwrap();
    assert!(
        notes.contains("prompt 2 tokens")
            && notes.contains("workspace")
            && notes.contains("attached in"),
        "{notes}"
    );

    assert!(
        failure(&["generate", "--base", &base, "--prompt", "a", "--chat"])
            .contains("no chat template")
    );
    assert!(
        failure(&["generate", "--base", &fresh_base, "--prompt", "a", "--adapter", &adapter])
            .contains("another base")
    );
    let labels = fresh("labels.lrk", r#", "labels": ["x", "y"]"#);
    assert!(
        failure(&["generate", "--base", &labels, "--prompt", "a"])
            .contains("no language-model head")
    );
}
