//! `--adapter [NAME=]FILE[:WEIGHT]` is the same in every command: several add up, weights count,
//! and a path with `=` or `:` in it works if the file exists.

mod program;

use program::{Folder, TEMPLATE, failure, stdout};
use serde_json::Value;

#[test]
fn every_command_takes_names_and_weights() {
    let folder = Folder::new();
    let base = folder.base(64, TEMPLATE, None);
    let adapter = folder.adapter(&base, "x.lrk");
    let (npy, text) = (folder.file("out.npy"), folder.file("text.txt"));
    std::fs::write(&text, "abcabcabdabcab".repeat(8)).unwrap();
    let result = |arguments: &[&str], adapters: &[&str]| {
        let adapters = adapters.iter().flat_map(|adapter| ["--adapter", adapter]);
        let out = stdout(&arguments.iter().copied().chain(adapters).collect::<Vec<_>>());
        if arguments[0] == "logits" { format!("{:?}", std::fs::read(&npy).unwrap()) } else { out }
    };
    let commands: [&[&str]; 3] = [
        &["generate", "--base", &base, "--prompt", "ab", "--tokens", "20"],
        &["logits", "--base", &base, "--tokens", "1,2,3", "-o", &npy],
        &["evaluate", "--base", &base, "--data", &text, "--max-length", "16", "--json"],
    ];
    let weight = |weight: &str| format!("{adapter}:{weight}");
    for command in commands {
        let plain = result(command, &[]);
        let once = result(command, &[&adapter]);
        let twice = result(command, &[&weight("3")]);
        assert!(once != plain && twice != once && twice != plain, "{command:?}");
        assert_eq!(result(command, &[&weight("0")]), plain, "{command:?}");
        assert_eq!(result(command, &[&weight("1")]), once, "{command:?}");
        assert_eq!(result(command, &[&format!("name={}", weight("3"))]), twice, "{command:?}");
        // They add up.
        assert_ne!(result(command, &[&adapter, &weight("0.5")]), once, "{command:?}");
        let away = result(command, &[&adapter, &format!("n={}", weight("0"))]);
        assert_eq!(away, once, "{command:?}");
    }
    let memory = |adapters: &[&str]| {
        let facts = result(&["memory", "--base", &base, "--context", "32", "--json"], adapters);
        serde_json::from_str::<Value>(&facts).unwrap()["adapter_bytes"].as_u64().unwrap()
    };
    assert_eq!(memory(&[&format!("n={}", weight("2")), &adapter]), 2 * memory(&[&adapter]));
    let bench = ["bench", "--base", &base, "--prompt-tokens", "4", "--tokens", "4", "--json"];
    let bench = result(&[&bench[..], &["--rounds", "1"]].concat(), &[&weight("2")]);
    assert!(bench.contains("adapter_overhead"), "{bench}");
}

#[test]
fn a_classifier_and_an_encoder_honour_weights() {
    let folder = Folder::new();
    let file = |name: &str| folder.file(name);
    let config = r#"{"model_type": "bert", "tokenizer": "bytes", "hidden_size": 32,
        "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2,
        "max_position_embeddings": 32, "type_vocab_size": 2}"#;
    std::fs::write(file("bert.json"), config).unwrap();
    let (base, adapter, npy) = (file("bert.lrk"), file("labels.lrk"), file("out.npy"));
    stdout(&["init", &file("bert.json"), "-o", &base]);
    let rows = "good day\tyes\nbad day\tno\n".repeat(8);
    std::fs::write(file("data.tsv"), &rows).unwrap();
    let data = file("data.tsv");
    stdout(&[
        "train",
        "--base",
        &base,
        "--data",
        &data,
        "--task",
        "classify",
        "--method",
        "lora",
        "--steps",
        "12",
        "--max-length",
        "16",
        "--learning-rate",
        "1e-2",
        "-o",
        &adapter,
    ]);
    let classify = ["classify", "--base", &base, "--text", "good day", "--json", "--adapter"];
    let evaluate = [
        "evaluate",
        "--base",
        &base,
        "--data",
        &data,
        "--task",
        "classify",
        "--max-length",
        "16",
        "--json",
        "--adapter",
    ];
    for command in [&classify[..], &evaluate] {
        let run = |adapter: &str| stdout(&[command, &[adapter]].concat());
        let whole = run(&adapter);
        assert_eq!(run(&format!("mood={adapter}:1")), whole);
        assert_ne!(run(&format!("{adapter}:0")), whole, "the classifier alone says something else");
    }
    let embed = |adapters: &[&str]| {
        let text = ["embed", "--base", &base, "--text", "good day", "-o", &npy];
        stdout(&[&text[..], adapters].concat());
        std::fs::read(&npy).unwrap()
    };
    let (plain, whole) = (embed(&[]), embed(&["--adapter", &adapter]));
    assert_ne!(plain, whole);
    assert_eq!(embed(&["--adapter", &format!("n={adapter}:0")]), plain);
}

#[test]
fn a_path_may_look_like_a_name_or_a_weight() {
    let folder = Folder::new();
    let base = folder.base(64, TEMPLATE, None);
    let adapter = folder.adapter(&base, "x.lrk");
    let run = |adapter: &str| {
        let start = ["generate", "--base", &base, "--prompt", "ab", "--tokens", "12"];
        stdout(&[&start[..], &["--json", "--adapter", adapter]].concat())
    };
    let facts = |adapter: &str| {
        let facts: Value = serde_json::from_str(&run(adapter)).unwrap();
        (facts["adapters"][0].as_str().unwrap().to_owned(), facts["text"].clone())
    };
    let (once, twice) = (facts(&adapter).1, facts(&format!("{adapter}:2")).1);
    for odd in ["a=b.lrk", "a:2", "a=b:0.5", "run=1/a.lrk"] {
        let path = folder.file(odd);
        std::fs::create_dir_all(std::path::Path::new(&path).parent().unwrap()).unwrap();
        std::fs::copy(&adapter, &path).unwrap();
        assert_eq!(facts(&path).1, once, "{odd}");
        assert_eq!(facts(&format!("{path}:2")).1, twice, "{odd}");
        assert_eq!(facts(&format!("n={path}")), ("n".into(), once.clone()), "{odd}");
        assert_eq!(facts(&format!("n={path}:2")), ("n".into(), twice.clone()), "{odd}");
    }
    assert_eq!(facts(&adapter).0, "x", "the file's name");

    let refused = |adapter: &str| {
        failure(&["generate", "--base", &base, "--prompt", "ab", "--adapter", adapter])
    };
    assert!(refused(&folder.file("none.lrk:2")).contains("none.lrk: No such file"));
    assert!(refused("n=none.lrk").contains("lowrank: none.lrk: No such file"));
    for weight in ["nan", "inf", "1e99", "half"] {
        let said = refused(&format!("{adapter}:{weight}"));
        assert!(said.contains(&format!("the weight \"{weight}\" is not a finite")), "{said}");
    }
}

#[test]
fn what_peft_has_no_form_for_is_refused_by_its_own_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let config = serde_json::json!({
        "model_type": "llama", "tokenizer": "bytes", "hidden_size": 8, "intermediate_size": 8,
        "num_hidden_layers": 1, "num_attention_heads": 1, "max_position_embeddings": 32,
    });
    std::fs::write(file("llama.json"), config.to_string()).unwrap();
    std::fs::write(file("a.tsv"), "good\tyes\nbad\tno\n").unwrap();
    let (base, tuned) = (file("llama.lrk"), file("tuned.lrk"));
    stdout(&["init", &file("llama.json"), "-o", &base]);
    let data = file("a.tsv");
    let train = ["train", "--base", &base, "--data", &data, "--task", "classify"];
    stdout(&[&train[..], &["--method", "full", "--steps", "1", "-o", &tuned]].concat());
    let (head, out) = (file("tuned.lrk.classifier.lrk"), file("peft"));
    let line = failure(&["adapter", "export", &head, "--base", &tuned, "-o", &out]);
    assert!(line.contains("changes no layer"), "{line}");
    assert!(!folder.path().join("peft").exists());
    let line =
        failure(&["adapter", "import", &file("none"), "--base", &base, "-o", &file("b.lrk")]);
    assert!(line.contains("none: ") && !line.contains("llama.lrk"), "{line}");
}
