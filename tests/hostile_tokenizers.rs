//! Tokenizers come with files: whatever they say, the answer is one sentence or a result, never a
//! panic, or memory and time without bound. What would fail later is refused when it is imported.

mod common;
mod model_folder;
mod text_base;

use lowrank::model::llama::Llama;
use lowrank::text::Tokenizer;
use model_folder::{Folder, exact};
use serde_json::{Value, json};
use text_base::{base, tokenizer};

fn set(place: &str, value: Value) -> Vec<u8> {
    tokenizer(|whole| *whole.pointer_mut(place).unwrap() = value)
}

/// The tokenizer is refused with `parts`, in an archive and on import.
#[track_caller]
fn refused(tokenizer: &[u8], parts: &[&str]) {
    let archive = base(tokenizer, "");
    let error = Tokenizer::new(&Llama::open(&archive).unwrap()).expect_err("opened").to_string();
    for part in parts {
        assert!(error.contains(part), "\"{part}\" is not in: {error}");
    }
    assert!(!error.contains('\n') && error.len() < 500, "{error}");
    import(tokenizer).refused(&exact(), parts);
}

fn import(tokenizer: &[u8]) -> Folder {
    let mut folder = Folder::golden("tiny-llama");
    folder.files.insert("tokenizer.json".to_owned(), tokenizer.to_vec());
    folder
}

fn opened(tokenizer: &[u8]) -> Tokenizer {
    import(tokenizer).import(&exact()).unwrap();
    Tokenizer::new(&Llama::open(&base(tokenizer, "")).unwrap()).unwrap()
}

#[test]
fn merges_that_do_not_fit_the_vocabulary_are_refused_by_name() {
    for (merge, part) in [
        (json!("b c"), "\"bc\""),
        (json!(["a", "x"]), "\"x\""),
        (json!("a"), "two tokens"),
        (json!("a b c"), "two tokens"),
        (json!([1, 2]), "two tokens"),
    ] {
        refused(&set("/model/merges", json!([merge])), &["model.merges", "merge 0", part]);
    }
    for (prefix, merge) in [("##", "a b"), ("much longer than b", "a b"), ("\u{e9}", "a b")] {
        let bytes = tokenizer(|whole| {
            whole["model"]["continuing_subword_prefix"] = prefix.into();
            whole["model"]["merges"] = json!([merge]);
        });
        refused(&bytes, &["model.merges", "continuing_subword_prefix"]);
    }
    let good = tokenizer(|whole| {
        whole["model"]["continuing_subword_prefix"] = "##".into();
        whole["model"]["merges"] = json!([["a", "##b"]]);
    });
    assert_eq!(opened(&good).encode("ab abc", true).unwrap()[0], 3);
    assert_eq!(opened(&tokenizer(|_| ())).encode("abc", true).unwrap(), [3, 2]);
}

#[test]
fn vocabularies_out_of_range_are_refused() {
    for (vocab, part) in [
        (json!({ "a": 4_294_967_295u32 }), "4294967295"),
        (json!({ "a": -1 }), "-1"),
        (json!({ "a": 0, "b": 0 }), "another token"),
        (json!(["a"]), "object"),
    ] {
        let bytes = tokenizer(|whole| {
            whole["model"]["vocab"] = vocab;
            whole["model"]["merges"] = json!([]);
        });
        refused(&bytes, &["model.vocab", part]);
    }
    let model = |model| set("/model", model);
    let pieces = json!([["<unk>", 0.0], ["a", -1.0]]);
    refused(
        &model(json!({ "type": "Unigram", "unk_id": 2, "vocab": pieces })),
        &["model.unk_id", "2"],
    );
    refused(&model(json!({ "type": "Unigram", "vocab": pieces })), &["model.unk_id"]);
    let long = json!([["<unk>", 0.0], ["a".repeat(1_000_000), -1.0]]);
    refused(&model(json!({ "type": "Unigram", "unk_id": 0, "vocab": long })), &["model.vocab"]);
    for kind in ["WordPiece", "WordLevel"] {
        let word = json!({
            "type": kind, "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": { "a": 0 },
        });
        refused(&model(word), &["model.unk_token"]);
    }
    let wide = json!({
        "type": "WordPiece", "unk_token": "a", "continuing_subword_prefix": "##",
        "max_input_chars_per_word": u64::MAX, "vocab": { "a": 0 },
    });
    refused(&model(wide), &["max_input_chars_per_word"]);
    refused(&model(json!({ "type": "Magic" })), &["model.type", "Magic"]);
    refused(&set("/model/unk_token", json!("?")).to_vec(), &[]);
}

/// A table of a `Precompiled` normalizer: its trie, its replacements.
fn table(length: u32, units: &[u32], texts: &[u8]) -> Value {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = length.to_le_bytes().to_vec();
    units.iter().for_each(|unit| bytes.extend(unit.to_le_bytes()));
    bytes.extend(texts);
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let all = group.iter().fold(0u32, |all, &byte| all << 8 | u32::from(byte));
        let all = all << (8 * (3 - group.len()));
        for i in 0..4 {
            let letter = LETTERS[(all >> (18 - 6 * i) & 63) as usize];
            text.push(if i > group.len() { '=' } else { letter.into() });
        }
    }
    json!({ "type": "Precompiled", "precompiled_charsmap": text })
}

#[test]
fn precompiled_tables_are_walked_before_they_are_used() {
    let broken = [
        json!({ "type": "Precompiled", "precompiled_charsmap": "AAAAAAAAAAAAAAAA" }),
        json!({ "type": "Precompiled", "precompiled_charsmap": "" }),
        json!({ "type": "Precompiled", "precompiled_charsmap": "!!!!" }),
        json!({ "type": "Precompiled" }),
        // Eight gigabytes of trie.
        table(u32::MAX, &[0; 4], b""),
        // The root's node lies outside.
        table(16, &[u32::MAX, 0, 0, 0], b""),
        table(4 * 256, &[0; 256], &[0xff]),
    ];
    for normalizer in broken {
        refused(&set("/normalizer", normalizer), &["normalizer.Precompiled"]);
    }
    // `a` becomes the replacement at `at`: unit 'a' has a leaf, its child is its node ^ 256.
    let leaf = |at: u32, texts: &[u8]| {
        let mut units = [0u32; 768];
        units[0] = 256 << 10;
        units[256 ^ 97] = 97 | 1 << 8 | 1 << 10;
        units[256 ^ 97 ^ 1] = at;
        table(4 * 768, &units, texts)
    };
    for (at, texts) in [(9, &b"b\0"[..]), (1, "é\0".as_bytes()), (0, &[b'x'; 1000])] {
        refused(&set("/normalizer", leaf(at, texts)), &["normalizer.Precompiled"]);
    }
    let good = opened(&set("/normalizer", leaf(0, b"b\0")));
    assert_eq!(good.encode("ac", true).unwrap(), [1, 2]);
}

#[test]
fn components_on_which_the_library_fails_are_refused_by_key() {
    let replace = |pattern: Value, content: &str| json!({ "type": "Replace", "pattern": pattern, "content": content });
    let template = |single: Value| {
        json!({
            "type": "TemplateProcessing", "single": single, "pair": [],
            "special_tokens": { "a": { "id": "a", "ids": [0], "tokens": ["a"] } },
        })
    };
    let text = json!({ "Sequence": { "id": "A", "type_id": 0 } });
    let second = json!({ "Sequence": { "id": "B", "type_id": 0 } });
    let special = |id: &str| json!({ "SpecialToken": { "id": id, "type_id": 0 } });
    let around = template(json!([special("a"), text]));
    let split = |pattern: Value| json!({ "type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": false });
    let nested = (0..40).fold(
        json!({ "type": "NFC" }),
        |inner, _| json!({ "type": "Sequence", "normalizers": [inner] }),
    );
    let many = vec![json!({ "type": "ByteLevel" }); 40];
    for (place, value, parts) in [
        ("/normalizer", replace(json!({ "String": "" }), "aaaa"), &["Replace", "empty"][..]),
        ("/normalizer", replace(json!({ "Regex": "" }), "aaaa"), &["Replace", "empty"]),
        ("/normalizer", replace(json!({ "Regex": "(a+)+(?!b)" }), ""), &["Replace", "end"]),
        ("/normalizer", nested, &["normalizer", "deep"]),
        ("/normalizer", json!({ "type": "Sequence", "normalizers": many }), &["normalizer"]),
        ("/normalizer", json!({ "type": "Prepend", "prepend": "a".repeat(1 << 20) }), &["Prepend"]),
        ("/normalizer", json!({ "type": "Other" }), &["normalizer.Other", "known"]),
        ("/normalizer", json!(3), &["normalizer"]),
        ("/pre_tokenizer", json!({ "type": "FixedLength", "length": 0 }), &["FixedLength"]),
        ("/pre_tokenizer", split(json!({ "String": "" })), &["Split", "empty"]),
        ("/pre_tokenizer", split(json!({ "Regex": "\\w{100000}" })), &["Split", "repeats"]),
        ("/pre_tokenizer", split(json!({ "Regex": "a".repeat(1 << 20) })), &["pre_tokenizer"]),
        ("/decoder", json!({ "type": "Strip", "content": " ", "start": 0, "stop": 1 }), &["Strip"]),
        ("/post_processor", template(json!([text, second])), &["sequence B"]),
        ("/post_processor", template(json!([special("b"), text])), &["special_tokens"]),
        ("/post_processor", template(json!([text, text, text])), &["3 times"]),
        (
            "/post_processor",
            json!({ "type": "Sequence", "processors": [around, around] }),
            &["two"],
        ),
    ] {
        refused(&set(place, value), parts);
    }
    let twice = br#"{"version":"1.0","model":{"type":"BPE","vocab":{"a":0},"merges":["b c"]},"model":{"type":"BPE","vocab":{"a":0},"merges":[]}}"#;
    refused(twice, &["twice"]);
    for (from, to, part) in [
        (r#""vocab":{"#, r#""vocab":{"a":0,"#, "\"a\" stands twice"),
        (r#""vocab":{"#, r#""vocab":null,"vocab":{"#, "\"vocab\" stands twice"),
        (r#""version":"#, r#""colour":1,"version":"#, "\"colour\" is not known"),
    ] {
        let text = String::from_utf8(tokenizer(|_| ())).unwrap();
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text);
        refused(changed.as_bytes(), &[part]);
    }
    let token = json!([{ "content": "<x>", "single_word": false, "lstrip": false,
        "rstrip": false, "normalized": false, "special": true }]);
    refused(&set("/added_tokens", token), &["added_tokens", "<x>", "no id"]);
    for key in ["fuse_unk", "byte_fallback", "ignore_merges", "dropout", "end_of_word_suffix"] {
        let bytes = tokenizer(|whole| whole["model"][key] = json!([]));
        refused(&bytes, &["model", key, "was expected"]);
    }
    refused(b"[[[[", &[]);
    refused("[".repeat(1 << 20).as_bytes(), &[]);
}

#[test]
fn replacement_bombs_are_refused_before_they_go_off() {
    let step = |content: usize| json!({ "type": "Replace", "pattern": { "Regex": "." }, "content": "a".repeat(content) });
    let bomb = |steps: usize, content: usize| json!({ "type": "Sequence", "normalizers": vec![step(content); steps] });
    refused(&set("/normalizer", bomb(11, 10)), &["normalizer", "one byte could become"]);
    refused(&set("/normalizer", bomb(2, 1 << 15)), &["normalizer"]);
    // A description that is within bounds: short texts work, a long one is refused.
    let tokenizer = opened(&set("/normalizer", bomb(4, 10)));
    assert_eq!(tokenizer.encode("b", true).unwrap().len(), 10_000);
    let error = tokenizer.encode(&"b".repeat(1 << 20), true).unwrap_err().to_string();
    assert!(error.contains("normalizers would make"), "{error}");
    let decoder =
        |content: usize| json!({ "type": "Sequence", "decoders": vec![step(content); 8] });
    refused(&set("/decoder", decoder(10)), &["decoder", "one byte could become"]);
}

#[test]
fn settings_of_a_training_run_are_dropped_whatever_they_say() {
    let bytes = tokenizer(|whole| {
        whole["truncation"] =
            json!({ "direction": "Right", "max_length": 0, "strategy": "OnlySecond", "stride": 9 });
        whole["padding"] = json!({
            "strategy": { "Fixed": 1_000_000_000_000_000u64 }, "direction": "Right",
            "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "a",
        });
    });
    assert_eq!(opened(&bytes).encode("abc", true).unwrap(), [3, 2]);
}
