//! The whole way of a RoBERTa classifier through the program: import, embed, its own classifier,
//! training, and PEFT's format and back.

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
