//! Calibrated imports and `evaluate --against` through the program: where the text comes from, what is told
//! of the archive, that other programs read it, how far it is from its floats, and what is refused.

mod program;

use program::{Folder, TEMPLATE, golden, lowrank, stdout, success};
use serde_json::{Value, json};

/// Text that the character tokenizer of [`Folder::base`] knows, of `count` sentences.
fn text(folder: &Folder, name: &str, count: usize) -> String {
    let sentence =
        |i: usize| format!("{i} birds sat on wire {}, then {} flew. ", i * 7 % 10, i % 4);
    let path = folder.file(name);
    std::fs::write(&path, (0..count).map(sentence).collect::<String>()).unwrap();
    path
}

/// The sentence of a command that fails with status 1; lines of progress may stand before it.
fn failure(arguments: &[&str]) -> String {
    let output = lowrank(arguments);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {text}");
    let last = text.lines().last().unwrap();
    assert!(last.starts_with("lowrank: "), "{text}");
    last.to_owned()
}

fn facts(path: &str) -> Value {
    serde_json::from_str(&stdout(&["inspect", path, "--json"])).unwrap()
}

/// A folder with `source`, its NF4 import `base.lrk` and its floats `f32.lrk`.
fn model() -> (Folder, [String; 3]) {
    let folder = Folder::new();
    let base = folder.base(64, TEMPLATE, Some("~"));
    let [source, float] = ["source", "f32.lrk"].map(|name| folder.file(name));
    stdout(&["import", &source, "-o", &float, "--weights", "f32", "--embedding", "f32"]);
    (folder, [source, base, float])
}

#[test]
fn a_calibrated_archive_is_plain_four_bits_for_everybody() {
    let (folder, [source, base, float]) = model();
    let words = text(&folder, "words.txt", 100);
    let [one, again, own, exported, back] =
        ["one.lrk", "again.lrk", "own.lrk", "exported", "back.lrk"].map(|name| folder.file(name));
    let (_, told) = success(&["import", &source, "-o", &one, "--calibrate", &words]);
    assert!(told.contains("mlp.down_proj are not whole blocks of 64"), "{told}");
    success(&["import", &float, "-o", &again, "--calibrate", &words, "--threads", "1"]);
    assert_eq!(std::fs::read(&one).unwrap(), std::fs::read(&again).unwrap());
    let tokens = ["--calibration-tokens", "700", "--seed", "3"];
    success(&[&["import", &source, "-o", &own, "--calibrate", "self"], &tokens[..]].concat());
    for path in [&one, &own] {
        let facts = facts(path);
        assert_eq!(facts["weights"]["nf4"]["scales"], json!("calibrated"));
        assert_eq!(facts["bytes"], self::facts(&base)["bytes"]);
        stdout(&["verify", path]);
    }
    assert_ne!(facts(&own)["fingerprint"], facts(&one)["fingerprint"]);
    stdout(&["export", &one, "--format", "bitsandbytes", "-o", &exported]);
    stdout(&["import", &exported, "-o", &back, "--embedding", "int8", "--without-tokenizer"]);
    assert_eq!(facts(&back)["fingerprint"], facts(&one)["fingerprint"]);
    let lost = failure(&["import", &exported, "-o", &folder.file("x.lrk"), "--calibrate", &words]);
    assert!(lost.contains("taken over as they are"), "{lost}");
}

#[test]
fn a_text_that_says_nothing_is_refused() {
    let (folder, [source, ..]) = model();
    let [empty, bytes, out] = ["empty.txt", "bytes.txt", "x.lrk"].map(|name| folder.file(name));
    std::fs::write(&empty, "").unwrap();
    std::fs::write(&bytes, b"good \xff").unwrap();
    let short = text(&folder, "short.txt", 5);
    for (text, message) in [
        (&empty, "empty.txt: the text is empty"),
        (&short, "tokens are too few to calibrate with: at least 512"),
        (&bytes, "not UTF-8 at byte 6"),
        (&folder.file("none.txt"), "none.txt"),
    ] {
        let told = failure(&["import", &source, "-o", &out, "--calibrate", text]);
        assert!(told.contains(message), "{told}");
    }
    let idle = ["--calibrate", "self", "--weights", "int8"];
    let told = failure(&[&["import", &source, "-o", &out], &idle[..]].concat());
    assert!(told.contains("--calibrate has no effect"), "{told}");
    let encoder = golden("tiny-bert").to_str().unwrap().to_owned();
    let own = ["--without-tokenizer", "--calibrate", "self"];
    let told = failure(&[&["import", &encoder, "-o", &out], &own[..]].concat());
    assert!(told.contains("only a decoder writes its own text"), "{told}");
    assert!(!std::path::Path::new(&out).exists());
}

#[test]
fn a_base_is_measured_against_its_floats() {
    let (folder, [_, base, float]) = model();
    let data = text(&folder, "data.txt", 30);
    let against = |base: &str, more: &[&str]| -> Value {
        let words = ["evaluate", "--base", base, "--against", &float, "--data", &data, "--json"];
        serde_json::from_str(&stdout(&[&words[..], more].concat())).unwrap()
    };
    let same = against(&float, &[]);
    assert_eq!(same["perplexity"], same["against"]["perplexity"]);
    for (key, expected) in [
        ("kl_mean", json!(0.0)),
        ("kl_p99", json!(0.0)),
        ("top1_agreement", json!(1.0)),
        ("bits_per_weight", json!(32.0)),
        ("bits_per_weight_all", json!(32.0)),
    ] {
        assert_eq!(same["against"][key], expected, "{key}");
    }
    let rounded = against(&base, &[]);
    let plain: Value =
        serde_json::from_str(&stdout(&["evaluate", "--base", &base, "--data", &data, "--json"]))
            .unwrap();
    for key in ["perplexity", "loss", "scored", "examples"] {
        // Several rows meet the head together, which adds up in another order.
        let [found, expected] = [&rounded, &plain].map(|facts| facts[key].as_f64().unwrap());
        assert!((found - expected).abs() <= 1e-6 * expected, "{key}: {found} {expected}");
    }
    let number = |key: &str| rounded["against"][key].as_f64().unwrap();
    assert_eq!(rounded["against"]["perplexity"], same["perplexity"]);
    assert!(0.0 < number("kl_mean") && number("kl_mean") < number("kl_p99"));
    assert!((4.1..4.3).contains(&number("bits_per_weight")), "{rounded}");
    assert!(number("bits_per_weight") < number("bits_per_weight_all"));
    let adapter = folder.adapter(&base, "a.lrk");
    let adapted = against(&base, &["--adapter", &adapter]);
    assert_eq!(adapted["against"]["perplexity"], same["perplexity"]);
    assert!(adapted["against"]["kl_mean"].as_f64().unwrap() > number("kl_mean"));
    let told = stdout(&["evaluate", "--base", &base, "--against", &float, "--data", &data]);
    assert!(told.lines().nth(1).unwrap().contains("KL mean"), "{told}");
}

#[test]
fn a_reference_of_another_kind_is_refused() {
    let (folder, [_, base, _]) = model();
    let data = text(&folder, "data.txt", 30);
    let [encoder, gguf] = ["encoder.lrk", "gguf.lrk"].map(|name| folder.file(name));
    let tiny = golden("tiny-bert");
    stdout(&["import", tiny.to_str().unwrap(), "-o", &encoder, "--without-tokenizer"]);
    let source = golden("gguf/tiny-llama.gguf");
    stdout(&["import", source.to_str().unwrap(), "-o", &gguf]);
    let refused = |base: &str, reference: &str, more: &[&str]| {
        let words = ["evaluate", "--base", base, "--against", reference, "--data", &data];
        failure(&[&words[..], more].concat())
    };
    let told = refused(&base, &encoder, &[]);
    assert!(told.contains("two decoders can be compared"), "{told}");
    let told = refused(&base, &gguf, &[]);
    assert!(told.contains("they cannot be compared"), "{told}");
    let told = refused(&base, &folder.file("none.lrk"), &[]);
    assert!(told.contains("none.lrk"), "{told}");
}
