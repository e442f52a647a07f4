//! Token ids of the rebuilt SmolLM2 tokenizer equal llama.cpp's on 1,000 lines.
//!
//! The vocabulary is not in the repository: the test needs the path of
//! `SmolLM2-135M-Instruct.Q4_1.gguf` (see `tests/golden/smollm2/README.md`) in the environment
//! variable LOWRANK_SMOLLM2, and says so when it is skipped.

use std::fs;
use std::path::{Path, PathBuf};

use lowrank::import::{Gguf, Source};
use tokenizers::Tokenizer;

fn model() -> Option<PathBuf> {
    let path = std::env::var_os("LOWRANK_SMOLLM2").map(PathBuf::from);
    if path.is_none() {
        eprintln!("skipped: LOWRANK_SMOLLM2 does not name the SmolLM2 GGUF file");
    }
    path
}

fn lines(name: &str) -> Vec<serde_json::Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/smollm2").join(name);
    fs::read_to_string(path)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn ids_equal_those_of_llama_cpp() {
    let Some(path) = model() else { return };
    let text = Gguf::open(path).unwrap().text().unwrap();
    let tokenizer = Tokenizer::from_bytes(&text.tokenizer).unwrap();
    let (lines, expected) = (lines("lines.jsonl"), lines("ids.jsonl"));
    assert_eq!((lines.len(), expected.len()), (1000, 1000));
    for (line, expected) in lines.iter().zip(&expected) {
        let line = line["text"].as_str().unwrap();
        let expected: Vec<u32> = expected["ids"]
            .as_array()
            .unwrap()
            .iter()
            .map(|id| id.as_u64().unwrap() as u32)
            .collect();
        assert_eq!(tokenizer.encode(line, false).unwrap().get_ids(), expected, "{line:?}");
    }
}

#[test]
fn the_text_border_is_the_files() {
    let Some(path) = model() else { return };
    let text = Gguf::open(path).unwrap().text().unwrap();
    let chat = fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/smollm2/chat.json"),
    )
    .unwrap();
    let chat: serde_json::Value = serde_json::from_str(&chat).unwrap();
    assert_eq!(text.chat_template, chat["template"].as_str().unwrap());
    assert_eq!((text.bos, text.add_bos), (Some(1), false));
    // <|im_end|>, which the file calls the end of a sequence; then <|endoftext|>, and <reponame>,
    // which llama.cpp counts as the end of a code file.
    assert_eq!(text.stop, [2, 0, 4]);
}
