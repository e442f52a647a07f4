//! The whole way of a RoBERTa classifier through the program: import, embed, its own classifier,
//! training, and PEFT's format and back.

mod model_folder;
mod program;

use program::{Folder, golden, success};
use serde_json::Value;

const TEXTS: [&str; 3] = ["the film is a quiet joy", "dull", "you will not laugh"];

/// The probabilities of `TEXTS` under an adapter.
fn probabilities(base: &str, adapter: &str) -> Vec<Value> {
    let mut words = vec!["classify", "--json", "--base", base, "--adapter", adapter];
    TEXTS.iter().for_each(|text| words.extend(["--text", text]));
    let (out, _) = success(&words);
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// `train` on three texts, with more arguments.
fn train(folder: &Folder, base: &str, output: &str, more: &[&str]) -> (String, String) {
    let lines = TEXTS.iter().zip(["fine", "dull", "fair"]);
    let lines: Vec<String> = lines
        .map(|(text, label)| serde_json::json!({ "text": text, "label": label }).to_string())
        .collect();
    let data = folder.file("data.jsonl");
    std::fs::write(&data, lines.join("\n")).unwrap();
    let words = ["train", "--base", base, "--data", &data, "--task", "classify", "-o", output];
    success(&[&words[..], &["--steps", "2", "--force"], more].concat())
}

#[test]
fn training_goes_on_from_a_classifier_alone_with_the_layers_of_its_method() {
    let folder = Folder::new();
    let source = golden("tiny-distilbert");
    let source = source.to_str().unwrap();
    let [base, head, trained] = ["base.lrk", "head.lrk", "t.lrk"].map(|name| folder.file(name));
    success(&["import", source, "-o", &base, "--weights", "f32", "--embedding", "f32"]);
    success(&["adapter", "import", source, "--base", &base, "-o", &head]);
    // Two blocks of six linear layers, and the pooler; of IA3 keys, values and the last of a block.
    for (method, targets) in [("lora", 13), ("dora", 13), ("ia3", 6)] {
        let (_, told) = train(&folder, &base, &trained, &["--adapter", &head, "--method", method]);
        assert!(told.contains("2 steps at the usual rate teach little"), "{told}");
        let (out, _) = success(&["inspect", &trained, "--json"]);
        let facts: Value = serde_json::from_str(&out).unwrap();
        assert_eq!((&facts["method"], &facts["targets"]), (&method.into(), &targets.into()));
        assert_eq!(facts["labels"], serde_json::json!(["dull", "fair", "fine"]));
    }
    let (_, told) =
        train(&folder, &base, &trained, &["--method", "lora", "--learning-rate", "1e-2"]);
    assert!(!told.contains("teach little") && !told.contains("no pooler"), "{told}");
    let full = folder.file("full.lrk");
    let (out, _) = train(&folder, &base, &full, &["--method", "full", "--learning-rate", "1e-2"]);
    assert!(out.contains("full.lrk.classifier.lrk: its classifier, for --adapter"), "{out}");
    probabilities(&full, &folder.file("full.lrk.classifier.lrk"));
}

#[test]
fn what_transformers_could_not_read_is_told_before_training_and_nan_is_not_written() {
    let folder = Folder::new();
    let [base, trained, out] = ["base.lrk", "t.lrk", "out.npy"].map(|name| folder.file(name));
    let mut bare = model_folder::Folder::golden("tiny-distilbert");
    bare.tensors.retain(|name, _| name.starts_with("distilbert."));
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        let bytes = std::fs::read(golden("tiny-distilbert").join(name)).unwrap();
        bare.files.insert(name.into(), bytes);
    }
    let source = folder.file("source");
    std::fs::create_dir(&source).unwrap();
    bare.write(source.as_ref());
    success(&["import", &source, "-o", &base, "--weights", "f32", "--embedding", "f32"]);
    let (_, told) = train(&folder, &base, &trained, &["--method", "lora"]);
    assert!(told.contains("the base has no pooler"), "{told}");

    let huge = format!("{trained}:1e38");
    let embed = ["embed", "--base", &base, "--text", TEXTS[0], "-o", &out, "--adapter"];
    let (_, told) = success(&[&embed[..], &[&trained]].concat());
    assert!(told.contains("its classifier has no effect here"), "{told}");
    std::fs::remove_file(&out).unwrap();
    let output = program::lowrank(&[&embed[..], &[&huge]].concat());
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("text 1: the result is not finite"), "{told}");
    assert!(!std::path::Path::new(&out).exists());
    let assets = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("assets");
    let asset = |name: &str| assets.join(name).to_str().unwrap().to_owned();
    let refused = program::failure(&[
        "logits",
        "--base",
        &asset("tiny.lrk"),
        "--tokens",
        "65,66",
        "-o",
        &out,
        "--adapter",
        &format!("{}:1e38", asset("tiny-pirate.lrk")),
    ]);
    assert!(refused.contains("token 1: the result is not finite"), "{refused}");
    assert!(!std::path::Path::new(&out).exists());
}

#[test]
fn a_roberta_classifier_is_imported_embedded_trained_and_exported() {
    let folder = Folder::new();
    let source = golden("tiny-roberta");
    let source = source.to_str().unwrap();
    let [base, head, trained, peft, again, vectors, data] =
        ["base.lrk", "head.lrk", "trained.lrk", "peft", "again.lrk", "out.npy", "data.jsonl"]
            .map(|name| folder.file(name));
    let (_, told) =
        success(&["import", source, "-o", &base, "--weights", "f32", "--embedding", "f32"]);
    assert!(told.contains("lowrank adapter import") && told.contains(source), "{told}");
    let (out, _) = success(&["inspect", &base, "--json"]);
    let facts: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&facts["kind"], &facts["pooler"]), (&"a RoBERTa base".into(), &true.into()));
    success(&["embed", "--base", &base, "--text", TEXTS[0], "--text", TEXTS[1], "-o", &vectors]);
    success(&["adapter", "import", source, "--base", &base, "-o", &head]);
    let own = probabilities(&base, &head);
    let all = own[0]["probabilities"].as_object().unwrap();
    assert_eq!(all.keys().collect::<Vec<_>>(), ["dull", "fair", "fine"]);
    let lines: Vec<String> = TEXTS
        .iter()
        .zip(["fine", "dull", "fair"])
        .map(|(text, label)| serde_json::json!({ "text": text, "label": label }).to_string())
        .collect();
    std::fs::write(&data, lines.join("\n")).unwrap();
    // All linear layers, so the pooler's too, which PEFT has whole in the classifier.
    success(&[
        "train",
        "--base",
        &base,
        "--data",
        &data,
        "--task",
        "classify",
        "--method",
        "dora",
        "--steps",
        "4",
        "--learning-rate",
        "0.05",
        "--rank",
        "2",
        "-o",
        &trained,
    ]);
    success(&["adapter", "export", &trained, "--base", &base, "-o", &peft]);
    success(&["adapter", "import", &peft, "--base", &base, "-o", &again]);
    let (ours, theirs) = (probabilities(&base, &trained), probabilities(&base, &again));
    assert_ne!(ours, own);
    for (ours, theirs) in ours.iter().zip(&theirs) {
        for (label, ours) in ours["probabilities"].as_object().unwrap() {
            let difference =
                ours.as_f64().unwrap() - theirs["probabilities"][label].as_f64().unwrap();
            assert!(difference.abs() < 1e-5, "{label}: {ours}, {theirs}");
        }
    }
    let (out, _) = success(&["inspect", &again, "--json"]);
    let facts: Value = serde_json::from_str(&out).unwrap();
    // Six linear layers in each of two blocks; the pooler is whole.
    assert_eq!((&facts["targets"], &facts["pooler"]), (&12.into(), &true.into()));
}
