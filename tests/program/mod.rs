//! Running the program in tests: what it printed, what was typed to it, and a folder with a small
//! model that has a tokenizer of single characters and a chat template. No promise of its own.
#![allow(dead_code, reason = "every test binary uses its own part")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Map, Value, json};

/// A file of the golden outputs.
pub fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(path)
}

/// The program with these arguments, on the instruction set of the machine.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lowrank"));
    command.args(arguments).env_remove("LOWRANK_ISA");
    command
}

/// What it did.
pub fn lowrank(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

/// stdout and stderr of a command that succeeds.
pub fn success(arguments: &[&str]) -> (String, String) {
    texts(lowrank(arguments), arguments)
}

/// stdout of a command that succeeds.
pub fn stdout(arguments: &[&str]) -> String {
    success(arguments).0
}

/// stdout and stderr of what was run with status 0.
pub fn texts(output: Output, arguments: &[&str]) -> (String, String) {
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(output.status.success(), "{arguments:?}: {err}");
    (out, err)
}

/// The one line on stderr of a command that fails with status 1.
pub fn failure(arguments: &[&str]) -> String {
    let output = lowrank(arguments);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), text.lines().count()), (Some(1), 1), "{arguments:?}: {text}");
    assert!(text.starts_with("lowrank: "), "{text}");
    text
}

/// A command with pipes on all sides.
pub fn start(arguments: &[&str]) -> Child {
    command(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// stdout and stderr of a command that succeeds on this input.
pub fn typed(arguments: &[&str], input: impl AsRef<[u8]>) -> (String, String) {
    let mut child = start(arguments);
    // It may have ended before it read everything.
    let _ = child.stdin.take().unwrap().write_all(input.as_ref());
    texts(child.wait_with_output().unwrap(), arguments)
}

/// A folder for the files of a test.
pub struct Folder(tempfile::TempDir);

impl Folder {
    /// An empty one.
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// The path of a file in it.
    pub fn file(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    /// A base with room for `context` tokens, every printable ASCII character a token, and the
    /// chat template `template`; an `end` token where there is one.
    pub fn base(&self, context: usize, template: &str, end: Option<&str>) -> String {
        let (source, base) = (self.0.path().join("source"), self.file("base.lrk"));
        std::fs::create_dir(&source).unwrap();
        std::fs::copy(golden("tiny-llama/model.safetensors"), source.join("model.safetensors"))
            .unwrap();
        let config = std::fs::read(golden("tiny-llama/config.json")).unwrap();
        let mut config: Map<String, Value> = serde_json::from_slice(&config).unwrap();
        config["max_position_embeddings"] = context.into();
        config.remove("eos_token_id");
        let settings = match end {
            Some(end) => json!({ "eos_token": end, "chat_template": template }),
            None => json!({ "chat_template": template }),
        };
        for (name, value) in [
            ("config.json", config.into()),
            ("tokenizer.json", characters()),
            ("tokenizer_config.json", settings),
        ] {
            std::fs::write(source.join(name), value.to_string()).unwrap();
        }
        stdout(&["import", source.to_str().unwrap(), "-o", &base]);
        base
    }

    /// An adapter of such a base.
    pub fn adapter(&self, base: &str, name: &str) -> String {
        let (source, adapter) = (golden("tiny-llama/adapters/lora"), self.file(name));
        let source = source.to_str().unwrap();
        stdout(&["adapter", "import", source, "--base", base, "-o", &adapter]);
        adapter
    }
}

/// `s:…;u:…;a:` of a conversation.
pub const TEMPLATE: &str = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }};{% endfor %}\
                            {% if add_generation_prompt %}a:{% endif %}";

/// A byte-level tokenizer without merges; `<s>` is token 0.
fn characters() -> Value {
    let characters = (b' '..=b'~')
        .map(|byte| if byte == b' ' { "Ġ".to_owned() } else { char::from(byte).to_string() });
    let vocab: Map<String, Value> = characters
        .zip(1..)
        .map(|(token, id)| (token, id.into()))
        .chain([("<s>".to_owned(), 0.into())])
        .collect();
    let byte_level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true
    });
    let special = json!({
        "id": 0, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true
    });
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": [special], "pre_tokenizer": byte_level, "post_processor": null,
        "decoder": byte_level, "model": { "type": "BPE", "vocab": vocab, "merges": [] },
    })
}
