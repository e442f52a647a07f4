//! Training on the command line: what `train` measures last is what `evaluate` measures, `compare`
//! writes a whole report, `memory` knows both in advance, and what cannot be trained is refused in
//! one line before anything is.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

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

fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&stdout(&[arguments, &["--json"]].concat())).unwrap()
}

/// The last line on stderr of a command that fails with `status`.
fn failure(status: i32, arguments: &[&str]) -> String {
    let output = lowrank(arguments);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {text}");
    if status == 1 { text.trim_end().lines().last().unwrap().to_owned() } else { text }
}

/// A byte-level tokenizer with a token for every printable ASCII character; 0 begins a text.
fn characters() -> Value {
    let characters = (b' '..=b'~')
        .map(|byte| if byte == b' ' { "Ġ".to_owned() } else { char::from(byte).to_string() });
    let vocab: serde_json::Map<String, Value> = characters
        .zip(1..)
        .map(|(token, id)| (token, id.into()))
        .chain([("<s>".to_owned(), 0.into())])
        .collect();
    let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    let special = json!({ "id": 0, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true });
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "added_tokens": [special],
        "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": { "type": "BPE", "vocab": vocab, "merges": [] },
    })
}

/// A WordPiece tokenizer over the letters a to r.
fn letters() -> Value {
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"].map(str::to_owned);
    let words = ('a'..='r').flat_map(|letter| [letter.to_string(), format!("##{letter}")]);
    let vocab: serde_json::Map<String, Value> = special
        .iter()
        .cloned()
        .chain(words)
        .enumerate()
        .map(|(id, word)| (word, json!(id)))
        .collect();
    let around = |name: &str| json!({ "SpecialToken": { "id": name, "type_id": 0 } });
    let token = |name: &str, id: u32| json!({ "id": name, "ids": [id], "tokens": [name] });
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [around("[CLS]"), { "Sequence": { "id": "A", "type_id": 0 } }, around("[SEP]")],
            "pair": [around("[CLS]"), { "Sequence": { "id": "A", "type_id": 0 } }, around("[SEP]"), { "Sequence": { "id": "B", "type_id": 1 } }],
            "special_tokens": { "[CLS]": token("[CLS]", 2), "[SEP]": token("[SEP]", 3) },
        },
        "decoder": null,
        "model": { "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": vocab },
    })
}

/// A folder with base.lrk (f32) and nf4.lrk of a tiny model, and data for it.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new(model: &str, tokenizer: &Value) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        let source = folder.0.path().join("source");
        std::fs::create_dir(&source).unwrap();
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(golden(model).join(file), source.join(file)).unwrap();
        }
        std::fs::write(source.join("tokenizer.json"), tokenizer.to_string()).unwrap();
        let source = source.to_str().unwrap();
        stdout(&[
            "import",
            source,
            "-o",
            &folder.file("base.lrk"),
            "--weights",
            "f32",
            "--embedding",
            "f32",
        ]);
        stdout(&["import", source, "-o", &folder.file("nf4.lrk")]);
        folder
    }

    fn decoder() -> Self {
        let folder = Self::new("tiny-llama", &characters());
        let line = |i: usize| {
            format!(
                "{}\n",
                json!({ "text": format!("the {} cat sat on {} mats", ["red", "old", "big"][i % 3], i) })
            )
        };
        std::fs::write(folder.file("train.jsonl"), (0..24).map(line).collect::<String>()).unwrap();
        std::fs::write(folder.file("dev.jsonl"), (24..32).map(line).collect::<String>()).unwrap();
        folder.with_opinions();
        folder
    }

    /// A fresh model after `config`.
    fn fresh(config: &Value) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        std::fs::write(folder.file("config.json"), config.to_string()).unwrap();
        for (base, format) in [("base.lrk", "f32"), ("nf4.lrk", "nf4")] {
            stdout(&[
                "init",
                &folder.file("config.json"),
                "-o",
                &folder.file(base),
                "--weights",
                format,
                "--embedding",
                format,
            ]);
        }
        folder
    }

    fn recurrent() -> Self {
        let config = json!({ "model_type": "lstm", "tokenizer": "bytes", "embedding_size": 12, "hidden_size": 20, "num_layers": 1 });
        let folder = Self::fresh(&config);
        let line = |i: usize| format!("{}\n", json!({ "text": format!("{i} of {}", i * 7 % 13) }));
        std::fs::write(folder.file("train.jsonl"), (0..24).map(line).collect::<String>()).unwrap();
        std::fs::write(folder.file("dev.jsonl"), (24..32).map(line).collect::<String>()).unwrap();
        folder.with_opinions();
        folder
    }

    fn perceptron() -> Self {
        let folder = Self::fresh(
            &json!({ "model_type": "mlp", "input_size": 2, "hidden_sizes": [20], "labels": ["bad", "good"] }),
        );
        let line = |i: usize| format!("{},{},{}\n", i % 5, i * 3 % 7, ["bad", "good"][i % 2]);
        std::fs::write(folder.file("train.csv"), (0..24).map(line).collect::<String>()).unwrap();
        std::fs::write(folder.file("dev.csv"), (20..31).map(line).collect::<String>()).unwrap();
        folder
    }

    fn with_opinions(&self) {
        let line = |i: usize| {
            format!(
                "{}\t{}\n",
                ["a bad one", "good old", "no", "lod of am"][i % 4],
                ["bad", "good"][i % 2]
            )
        };
        std::fs::write(self.file("train.tsv"), (0..24).map(line).collect::<String>()).unwrap();
        std::fs::write(self.file("dev.tsv"), (0..9).map(line).collect::<String>()).unwrap();
    }

    fn encoder() -> Self {
        let folder = Self::new("tiny-bert", &letters());
        folder.with_opinions();
        folder
    }

    fn file(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    /// `--base …  --data … --validation …  --task …` of this folder.
    fn on(&self, base: &str, task: &str) -> Vec<String> {
        let of_numbers = Path::new(&self.file("train.csv")).exists();
        let ending = if of_numbers {
            "csv"
        } else if task == "lm" {
            "jsonl"
        } else {
            "tsv"
        };
        let files = [
            ("--base", base),
            ("--data", &format!("train.{ending}")),
            ("--validation", &format!("dev.{ending}")),
        ];
        let mut arguments: Vec<String> =
            files.iter().flat_map(|(flag, file)| [(*flag).to_owned(), self.file(file)]).collect();
        arguments.extend(["--task", task].map(String::from));
        if ending != "csv" {
            arguments.extend(["--max-length", "40"].map(String::from));
        }
        arguments
    }
}

/// `command`, the folder's files, and more.
fn with<'a>(command: &'a str, on: &'a [String], more: &[&'a str]) -> Vec<&'a str> {
    std::iter::once(command)
        .chain(on.iter().map(String::as_str))
        .chain(more.iter().copied())
        .collect()
}

#[test]
fn the_last_validation_of_train_is_what_evaluate_says_of_the_saved_file() {
    let [decoder, encoder, recurrent, perceptron] =
        [Folder::decoder(), Folder::encoder(), Folder::recurrent(), Folder::perceptron()];
    let cases = [
        (&decoder, "lm", "dev.jsonl"),
        (&decoder, "classify", "dev.tsv"),
        (&encoder, "classify", "dev.tsv"),
        (&recurrent, "lm", "dev.jsonl"),
        (&recurrent, "classify", "dev.tsv"),
        (&perceptron, "classify", "dev.csv"),
    ];
    for (folder, task, dev) in cases {
        let a = folder.file("a.lrk");
        for (base, method) in [
            ("nf4.lrk", "qlora"),
            ("base.lrk", "dora"),
            ("nf4.lrk", "dylora"),
            ("base.lrk", "full"),
        ] {
            let on = folder.on(base, task);
            let mut more = vec![
                "--method",
                method,
                "--epochs",
                "2",
                "--learning-rate",
                "1e-2",
                "-o",
                &a,
                "--force",
            ];
            // Full fine-tuning has no rank.
            let (rank, alpha) = if method == "full" { (8, 16.0) } else { (4, 8.0) };
            if method != "full" {
                more.extend(["--rank", "4"]);
            }
            let trained = json(&with("train", &on, &more));
            let base = folder.file(base);
            let classifier = format!("{a}.classifier.lrk");
            let mut evaluate = vec!["evaluate", "--data", "", "--task", task, "--threads", "1"];
            if !dev.ends_with(".csv") {
                evaluate.extend(["--max-length", "40"]);
            }
            evaluate.push("--base");
            let data = folder.file(dev);
            evaluate[2] = &data;
            match (method, task) {
                ("full", "lm") => evaluate.push(&a),
                ("full", _) => evaluate.extend([a.as_str(), "--adapter", &classifier]),
                _ => evaluate.extend([base.as_str(), "--adapter", &a]),
            }
            let measured = json(&evaluate);
            for name in ["loss", "perplexity", "accuracy", "f1", "examples"] {
                assert_eq!(trained["validation"][name], measured[name], "{method} {task} {name}");
            }
            // Six steps prove nothing on a few dozen labels or a random base; a text is learnt at
            // once.
            if task == "lm" && std::ptr::eq(folder, &decoder) {
                assert!(
                    trained["loss"].as_f64().unwrap() < trained["losses"][0].as_f64().unwrap(),
                    "{method} learns: {trained}"
                );
            }
            let adapter = match (method, task) {
                ("full", "lm") => continue,
                ("full", _) => &classifier,
                _ => &a,
            };
            let facts = &json(&["inspect", adapter])["facts"]["training"];
            assert_eq!(facts["method"], method);
            assert_eq!(
                facts["rank"],
                trained.get("rank").cloned().unwrap_or_else(|| json!(rank)),
                "{facts}"
            );
            for (name, expected) in [
                ("alpha", json!(alpha)),
                ("seed", json!(0)),
                ("learning_rate", json!(0.01)),
                ("epochs", json!(2)),
            ] {
                assert_eq!(facts[name], expected, "{facts}");
            }
            assert_eq!(
                (&facts["steps"], &facts["loss"], &facts["examples"]),
                (&trained["steps"], &trained["loss"], &json!(24)),
                "{facts}"
            );
            assert_eq!(
                (&facts["validation_data"], &facts["validation_loss"]),
                (&json!(dev), &measured["loss"]),
                "{facts}"
            );
            assert_eq!(facts.get("validation_accuracy"), measured.get("accuracy"), "{facts}");
            let shown = stdout(&["inspect", adapter]);
            assert!(
                shown.contains("\ntraining\n")
                    && shown.contains(&format!("\n  method               {method}\n")),
                "{shown}"
            );
        }
    }
}

/// `--precision fast` trains with the products that serve, and the adapter says so; float weights
/// have no such products, and it is refused.
#[test]
fn fast_training_is_another_run_on_four_bits_and_refused_on_floats() {
    let folder = Folder::decoder();
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/tiny.lrk");
    let (a, data, float) =
        (folder.file("a.lrk"), folder.file("train.jsonl"), folder.file("base.lrk"));
    let on = ["--data", &data, "--steps", "3", "--max-length", "40", "-o", &a];
    let [exact, fast] = ["exact", "fast"].map(|precision| {
        let base = ["train", "--base", tiny.to_str().unwrap(), "--precision", precision];
        let trained = json(&[&base[..], &on].concat());
        assert_eq!(trained["precision"], precision);
        let facts = &json(&["inspect", &a])["facts"]["training"];
        let expected = json!("fast");
        assert_eq!(facts.get("precision"), (precision == "fast").then_some(&expected), "{facts}");
        let losses = trained["losses"].as_array().unwrap().iter();
        losses.map(|loss| loss.as_f64().unwrap()).collect::<Vec<_>>()
    });
    assert_ne!(exact, fast);
    assert!(
        exact.iter().zip(&fast).all(|(exact, fast)| (exact - fast).abs() < 0.02 * exact),
        "{exact:?} {fast:?}"
    );
    let base = ["train", "--base", &float, "--method", "lora", "--precision", "fast"];
    let sentence = failure(1, &[&base[..], &on].concat());
    assert!(sentence.contains("precision fast has no effect"), "{sentence}");
}

/// What `evaluate` counts is what `classify` says, text by text.
#[test]
fn classify_says_what_evaluate_counts() {
    for folder in [Folder::decoder(), Folder::encoder(), Folder::recurrent()] {
        let (base, a) = (folder.file("nf4.lrk"), folder.file("a.lrk"));
        stdout(&with(
            "train",
            &folder.on("nf4.lrk", "classify"),
            &["--method", "qlora", "--epochs", "3", "--learning-rate", "1e-2", "-o", &a],
        ));
        let dev = std::fs::read_to_string(folder.file("dev.tsv")).unwrap();
        let (texts, labels): (Vec<&str>, Vec<&str>) =
            dev.lines().map(|line| line.split_once('\t').unwrap()).unzip();
        let file = folder.file("texts.jsonl");
        std::fs::write(
            &file,
            texts.iter().map(|text| format!("{}\n", json!({ "text": text }))).collect::<String>(),
        )
        .unwrap();
        let on = ["classify", "--base", &base, "--adapter", &a];
        let said = stdout(&[&on[..], &["--file", &file, "--json"]].concat());
        let said: Vec<Value> =
            said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(said.len(), labels.len());
        let mut right = 0;
        for (said, label) in said.iter().zip(&labels) {
            let all = said["probabilities"].as_object().unwrap();
            assert_eq!(all.len(), 2);
            assert!(
                (all.values().map(|p| p.as_f64().unwrap()).sum::<f64>() - 1.0).abs() < 1e-5,
                "{said}"
            );
            assert!(all.values().all(|p| p.as_f64() <= said["probability"].as_f64()), "{said}");
            assert_eq!(all[said["label"].as_str().unwrap()], said["probability"]);
            right += usize::from(said["label"] == *label);
        }
        let measured = json(&[
            "evaluate",
            "--base",
            &base,
            "--adapter",
            &a,
            "--data",
            &folder.file("dev.tsv"),
            "--task",
            "classify",
        ]);
        assert_eq!(measured["accuracy"].as_f64().unwrap(), right as f64 / labels.len() as f64);

        let line = stdout(&[&on[..], &["--text", texts[0], "--text", "two\nlines"]].concat());
        let label = said[0]["label"].as_str().unwrap();
        assert!(
            line.starts_with(&format!("{label}\t"))
                && line.ends_with("\ttwo lines\n")
                && line.lines().count() == 2,
            "{line}"
        );
    }
    let folder = Folder::encoder();
    let refused = |more: &[&str]| {
        failure(
            1,
            &[&["classify", "--text", "no", "--base", &folder.file("nf4.lrk")], more].concat(),
        )
    };
    assert!(refused(&[]).contains("neither the base nor an adapter brings a classifier"));
    let numbers = Folder::perceptron();
    let line = failure(1, &["classify", "--text", "no", "--base", &numbers.file("base.lrk")]);
    assert!(line.contains("reads numbers, not text"), "{line}");

    // A base with labels of its own answers without an adapter, and not when two adapters bring a
    // classifier.
    let config = json!({ "model_type": "lstm", "tokenizer": "bytes", "embedding_size": 12, "hidden_size": 20, "num_layers": 1, "labels": ["good", "bad", "so"] });
    let folder = Folder::fresh(&config);
    folder.with_opinions();
    let (base, a) = (folder.file("base.lrk"), folder.file("a.lrk"));
    let said = json(&["classify", "--base", &base, "--text", "no"]);
    assert_eq!(said["probabilities"].as_object().unwrap().len(), 3, "{said}");
    stdout(&with(
        "train",
        &folder.on("base.lrk", "classify"),
        &["--method", "lora", "--steps", "1", "-o", &a],
    ));
    let said = json(&["classify", "--base", &base, "--adapter", &a, "--text", "no"]);
    assert_eq!(said["probabilities"].as_object().unwrap().len(), 2, "{said}");
    let twice = ["--base", &base, "--adapter", &a, "--adapter", &a];
    failure(1, &[&["classify", "--text", "no"], &twice[..]].concat());
    let (b, data) = (numbers.file("b.lrk"), numbers.file("dev.csv"));
    stdout(&with(
        "train",
        &numbers.on("base.lrk", "classify"),
        &["--method", "lora", "--steps", "1", "-o", &b],
    ));
    failure(
        1,
        &[
            "evaluate",
            "--base",
            &numbers.file("base.lrk"),
            "--adapter",
            &b,
            "--adapter",
            &b,
            "--data",
            &data,
            "--task",
            "classify",
        ],
    );
}

/// PEFT's SEQ_CLS adapter of a decoder: imported, measured, exported.
#[test]
fn classifiers_on_decoders_come_from_peft_and_go_back() {
    let folder = Folder::decoder();
    let (base, a, tsv, out) = (
        folder.file("base.lrk"),
        folder.file("a.lrk"),
        folder.file("labels.tsv"),
        folder.file("peft"),
    );
    let source = golden("tiny-llama/adapters/score");
    stdout(&["adapter", "import", source.to_str().unwrap(), "--base", &base, "-o", &a]);
    assert_eq!(json(&["inspect", &a])["labels"], json!(["LABEL_0", "LABEL_1", "LABEL_2"]));
    std::fs::write(&tsv, "good old\tLABEL_0\nno\tLABEL_2\nlod of am\tLABEL_1\n").unwrap();
    let measured =
        json(&["evaluate", "--base", &base, "--adapter", &a, "--data", &tsv, "--task", "classify"]);
    assert!(measured["loss"].as_f64().unwrap() > 0.0 && measured["examples"] == 3, "{measured}");
    let line = failure(1, &["evaluate", "--base", &base, "--data", &tsv, "--task", "classify"]);
    assert!(line.contains("neither the base nor an adapter brings a classifier"), "{line}");
    stdout(&["adapter", "export", &a, "--base", &base, "-o", &out]);
    let tensors =
        |folder: &Path| std::fs::read(folder.join("adapter_model.safetensors")).unwrap().len();
    assert_eq!(tensors(Path::new(&out)), tensors(&source));
}

#[test]
fn compare_writes_a_whole_report_whose_tables_can_be_read() {
    for (folder, task) in [
        (Folder::decoder(), "lm"),
        (Folder::decoder(), "classify"),
        (Folder::encoder(), "classify"),
    ] {
        let (on, report) = (folder.on("base.lrk", task), folder.file("report"));
        let more = [
            "--methods",
            "lora,qlora,full",
            "--seeds",
            "2",
            "--steps",
            "6",
            "--learning-rate",
            "1e-2",
            "-o",
            &report,
        ];
        let table = json(&with("compare", &on, &more));
        let files: BTreeSet<String> = std::fs::read_dir(&report)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let names = ["accuracy-memory.svg", "loss.svg", "losses.csv", "report.md", "results.csv"];
        assert_eq!(files, names.map(String::from).into());
        let read = |name: &str| std::fs::read_to_string(Path::new(&report).join(name)).unwrap();
        let records = |name: &str| -> Vec<Vec<String>> {
            let text = read(name);
            text.lines().map(|line| line.split(',').map(String::from).collect()).collect()
        };

        let results = records("results.csv");
        assert_eq!(results.len(), 1 + 3 * 2);
        let column = |name: &str| results[0].iter().position(|title| title == name).unwrap();
        let number = |line: &[String], name: &str| line[column(name)].parse::<f64>().unwrap();
        for line in &results[1..] {
            assert_eq!(line.len(), results[0].len());
            assert_eq!(number(line, "steps"), 6.0);
            assert!(
                number(line, "loss") > 0.0
                    && number(line, "peak_bytes") > number(line, "adapter_bytes")
            );
            assert_eq!(line[column("accuracy")].is_empty(), task == "lm");
        }
        let losses = records("losses.csv");
        assert_eq!((losses.len(), losses[0].len()), (7, 7));
        assert!(losses[1..].iter().flatten().all(|cell| cell.parse::<f64>().is_ok()));

        let methods = table["methods"].as_array().unwrap();
        assert_eq!(methods.len(), 3);
        for (row, method) in methods.iter().zip(["lora", "qlora", "full"]) {
            assert_eq!((row["method"].as_str(), row["runs"].as_u64()), (Some(method), Some(2)));
            let runs: Vec<f64> = results[1..]
                .iter()
                .filter(|line| line[0] == method)
                .map(|line| number(line, "loss"))
                .collect();
            assert!((row["loss"].as_f64().unwrap() - (runs[0] + runs[1]) / 2.0).abs() < 1e-12);
            assert!(
                read("report.md").contains(&format!("| {method}"))
                    && read("loss.svg").contains(method)
            );
        }
        assert!(
            methods[0]["steps_to_loss"].as_f64().unwrap() <= 6.0,
            "lora reaches what it ends at"
        );
        assert_eq!(methods[0]["trainable_parameters"], methods[1]["trainable_parameters"]);
        assert!(
            methods[2]["trainable_parameters"].as_u64()
                > methods[0]["trainable_parameters"].as_u64()
        );

        // Once more over the old one; but not over something else.
        stdout(&with("compare", &on, &["--methods", "lora", "--steps", "1", "-o", &report]));
        assert_eq!(records("losses.csv")[0], ["step", "lora"]);
        let line = failure(
            1,
            &with(
                "compare",
                &on,
                &["--methods", "lora", "--steps", "1", "-o", folder.0.path().to_str().unwrap()],
            ),
        );
        assert!(line.contains("no part of a report"), "{line}");
    }
}

#[test]
fn runs_of_compare_are_runs_of_train() {
    let folder = Folder::decoder();
    let (report, a) = (folder.file("report"), folder.file("a.lrk"));
    let same = ["--steps", "5", "--learning-rate", "1e-2", "--seed", "3"];
    let on = folder.on("base.lrk", "lm");
    let table = json(&with(
        "compare",
        &on,
        &[&same[..], &["--methods", "lora,qlora", "-o", &report]].concat(),
    ));
    for (at, base, method) in [(0, "base.lrk", "lora"), (1, "nf4.lrk", "qlora")] {
        let on = folder.on(base, "lm");
        let trained =
            json(&with("train", &on, &[&same[..], &["--method", method, "-o", &a]].concat()));
        assert_eq!(
            table["methods"][at]["loss"], trained["validation"]["loss"],
            "{method}: compare quantizes as import does"
        );
    }
}

#[test]
fn memory_predicts_what_train_reports() {
    for (folder, task) in [
        (Folder::decoder(), "lm"),
        (Folder::decoder(), "classify"),
        (Folder::encoder(), "classify"),
    ] {
        let a = folder.file("a.lrk");
        for (base, method, batch) in
            [("nf4.lrk", "qlora", "8"), ("base.lrk", "dora", "2"), ("base.lrk", "full", "4")]
        {
            let on = folder.on(base, task);
            let more = ["--method", method, "--batch-size", batch, "--threads", "1"];
            let predicted = json(&with("memory", &on, &more));
            let trained = json(&with("train", &on, &[&more[..], &["-o", &a, "--force"]].concat()));
            assert_eq!(predicted["trainable_parameters"], trained["trainable_parameters"]);
            assert_eq!(predicted["steps"], trained["steps"]);
            let ratio =
                predicted["peak_bytes"].as_f64().unwrap() / trained["peak_bytes"].as_f64().unwrap();
            assert!((0.9..=1.1).contains(&ratio), "{task} {method} {batch}: {ratio}");
        }
    }
}

#[test]
fn what_cannot_be_trained_is_refused_in_advance() {
    let folder = Folder::decoder();
    let (a, report) = (folder.file("a.lrk"), folder.file("report"));
    let on = folder.on("base.lrk", "lm");
    let nf4 = folder.on("nf4.lrk", "lm");
    let train = |on: &[String], more: &[&str]| {
        failure(1, &with("train", on, &[more, &["-o", &a]].concat()))
    };

    let usage = failure(2, &with("train", &on, &["--method", "lor", "-o", &a]));
    assert!(
        usage.contains(
            "'lor' is not one of lora, qlora, rslora, lora+, dylora, lora-fa, dora, ia3, full"
        ),
        "{usage}"
    );
    let usage = failure(2, &with("compare", &on, &["--methods", "lora,quora", "-o", &report]));
    assert!(usage.contains("'quora' is not one of lora, qlora"), "{usage}");
    let line = train(&on, &["--method", "qlora"]);
    assert!(line.contains("qlora trains on an nf4 base") && line.contains("is f32;"), "{line}");
    let line = train(&nf4, &["--method", "full"]);
    assert!(
        line.contains("full fine-tuning trains a float base") && line.contains("--weights f32"),
        "{line}"
    );
    let line = failure(1, &with("compare", &nf4, &["--methods", "qlora,full", "-o", &report]));
    assert!(line.starts_with("lowrank: full: full fine-tuning trains a float base"), "{line}");
    let (base, data) = (folder.file("base.lrk"), folder.file("train.jsonl"));
    let line = failure(
        1,
        &[
            "train",
            "--base",
            &base,
            "--data",
            &data,
            "--method",
            "dylora",
            "--max-length",
            "40",
            "-o",
            &a,
        ],
    );
    assert!(line.contains("dylora chooses its rank by validation data"), "{line}");
    let line = train(&on, &["--method", "lora", "--memory-limit", "100K"]);
    assert!(line.contains("would take") && line.contains("100000 are allowed"), "{line}");
    let line = failure(
        1,
        &with("compare", &on, &["--methods", "lora", "--memory-limit", "100K", "-o", &report]),
    );
    assert!(
        line.contains("lora: the run would take") && line.contains("100000 are allowed"),
        "{line}"
    );
    let usage =
        failure(2, &with("train", &on, &["--method", "lora", "--memory-limit", "12Q", "-o", &a]));
    assert!(usage.contains("'Q' is no unit"), "{usage}");
    assert!(!Path::new(&a).exists() && !Path::new(&report).exists(), "nothing was written");
    stdout(&with(
        "train",
        &on,
        &["--method", "lora", "--steps", "1", "--memory-limit", "2G", "-o", &a],
    ));
}
