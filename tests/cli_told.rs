//! What is asked of the command line and not done is never silent: it is refused by name, or told
//! on stderr, once.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

fn golden(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(path);
    path.to_str().unwrap().to_owned()
}

fn tiny() -> String {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/tiny.lrk");
    path.to_str().unwrap().to_owned()
}

fn lowrank(arguments: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_lowrank");
    Command::new(program).args(arguments).env_remove("LOWRANK_ISA").output().unwrap()
}

/// What a command that succeeds says: on stdout, on stderr.
#[track_caller]
fn said(arguments: &[&str]) -> (String, String) {
    let output = lowrank(arguments);
    let [out, err] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    assert!(output.status.success(), "{arguments:?}: {err}");
    (out, err)
}

/// The last line on stderr of a command that fails with status 1.
#[track_caller]
fn refused(arguments: &[&str]) -> String {
    let output = lowrank(arguments);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {text}");
    text.trim_end().lines().last().unwrap().to_owned()
}

/// How often `text` has this line, behind the name of a file.
#[track_caller]
fn once(text: &str, line: &str) {
    let count = text.lines().filter(|said| said.ends_with(line)).count();
    assert_eq!(count, 1, "{line:?} in: {text}");
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        let config = json!({ "model_type": "mlp", "input_size": 2, "hidden_sizes": [8], "labels": ["no", "yes"] });
        folder.write("mlp.json", config.to_string());
        said(&["init", &folder.file("mlp.json"), "-o", &folder.file("mlp.lrk")]);
        let long = "word ".repeat(30);
        folder.write("short.jsonl", "{\"text\": \"a short one\"}\n{\"text\": \"another\"}\n");
        folder
            .write("long.jsonl", format!("{{\"text\": \"{long}\"}}\n{{\"text\": \"another\"}}\n"));
        folder.write("a.tsv", format!("Text\tLabel\n{long}\tpos\nbad film\tneg\nfine\tpos\n"));
        folder.write("a.csv", "0,1,label\n1,2,yes\n3,4,no\n");
        folder
    }

    fn file(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.file(name), content).unwrap();
    }
}

#[test]
fn training_says_what_it_learns_from_and_what_is_cut_in_every_command() {
    let folder = Folder::new();
    let (base, tsv, out) = (tiny(), folder.file("a.tsv"), folder.file("a.lrk"));
    let on = ["--base", &base, "--data", &tsv, "--task", "classify", "--max-length", "16"];
    let train = [&["train"], &on[..], &["--steps", "2", "--json", "-o", &out]].concat();
    let (stdout, stderr) = said(&train);
    let cut = "1 of 3 examples is longer than 16 tokens and was cut (--max-length)";
    once(&stderr, cut);
    let start = stderr.lines().next().unwrap();
    assert!(
        start.contains("a.tsv: 3 examples, ")
            && start.ends_with("tokens, 2 labels: neg 1, pos 2; line 1 names the columns"),
        "{start}"
    );
    let data = &serde_json::from_str::<Value>(&stdout).unwrap()["data"];
    assert_eq!(
        (&data["examples"], &data["labels"], &data["cut"]),
        (&json!(3), &json!({ "neg": 1, "pos": 2 }), &json!(1))
    );
    let (_, stderr) = said(&[&["evaluate"], &on[..], &["--adapter", &out]].concat());
    once(&stderr, cut);
    let prompt = ["--prompt", "a", "--tokens", "1"];
    let (_, stderr) =
        said(&[&["generate", "--base", &base, "--adapter", &out], &prompt[..]].concat());
    once(&stderr, "its classifier has no effect here; classify uses it");
    let report = folder.file("report");
    let compare = ["--validation", &tsv, "--methods", "lora", "--steps", "1", "-o", &report];
    let (_, stderr) = said(&[&["compare"], &on[..], &compare].concat());
    assert_eq!(stderr.lines().filter(|line| line.ends_with(cut)).count(), 2, "{stderr}");
    let (csv, mlp) = (folder.file("a.csv"), folder.file("mlp.lrk"));
    let (_, stderr) = said(&[
        "train", "--base", &mlp, "--data", &csv, "--task", "classify", "--method", "lora",
        "--steps", "1", "-o", &out,
    ]);
    once(&stderr, "2 examples of 2 features, 2 labels: no 1, yes 1; line 1 names the columns");
}

#[test]
fn train_and_evaluate_cut_at_the_same_length_unless_told_otherwise() {
    let folder = Folder::new();
    let out = folder.file("a.lrk");
    // Longer than any default, and than the base.
    let text = "the cat sat on the mat and the dog sat on the cat. ".repeat(60);
    folder.write("a.txt", &text);
    folder.write("a.jsonl", json!({ "text": text }).to_string() + "\n");
    let config = json!({ "model_type": "lstm", "tokenizer": "bytes", "embedding_size": 4, "hidden_size": 4, "num_layers": 1 });
    folder.write("lstm.json", config.to_string());
    let lstm = folder.file("lstm.lrk");
    said(&["init", &folder.file("lstm.json"), "-o", &lstm]);
    for (base, length) in [(lstm, 512), (tiny(), 128)] {
        let data = folder.file("a.jsonl");
        let on = ["--base", &base, "--data", &data];
        let train = ["--method", "lora", "--steps", "1", "--batch-size", "1", "-o", &out];
        let expected =
            format!("1 of 1 example is longer than {length} tokens and was cut (--max-length)");
        once(&said(&[&["train"], &on[..], &train].concat()).1, &expected);
        once(&said(&[&["evaluate"], &on[..]].concat()).1, &expected);
    }
}

#[test]
fn options_without_effect_are_refused_by_name() {
    let folder = Folder::new();
    let (base, out, mlp) = (tiny(), folder.file("a.lrk"), folder.file("mlp.lrk"));
    let (texts, csv) = (folder.file("short.jsonl"), folder.file("a.csv"));
    let lm = ["train", "--base", &base, "--data", &texts, "--steps", "1", "-o", &out];
    for (more, expected) in [
        (&["--lora-plus-ratio", "4"][..], "lora-plus-ratio has no effect with qlora"),
        (&["--lora-plus-embedding-rate", "1e-3"], "lora-plus-embedding-rate has no effect"),
        (&["--dylora-frozen"], "dylora-frozen has no effect with qlora: it belongs to dylora"),
        (&["--rank-tolerance", "0.2"], "rank-tolerance has no effect with qlora"),
        (&["--lora-fa-preconditioned"], "lora-fa-preconditioned has no effect with qlora"),
        (&["--completions-only"], "completions-only has no effect: no record has a prompt"),
        (&["--validate-every", "1"], "validate-every has no effect without validation data"),
        (&["--patience", "1"], "patience has no effect without validation data"),
        (
            &["--target-modules", "q_proj,v_porj"],
            "v_porj names no layer of this model; the nearest",
        ),
        (&["--rank-pattern", "q_porj=4"], "rank-pattern q_porj=4 matches no layer of this model"),
        (&["--alpha-pattern", "q_porj=4"], "alpha-pattern q_porj=4 matches no layer"),
        (&["--method", "full", "--rank", "4"], "rank has no effect with full"),
        (&["--method", "full", "--dropout", "0.1"], "dropout has no effect with full"),
    ] {
        let line = refused(&[&lm[..], more].concat());
        assert!(line.contains(expected), "{more:?}: {line}");
    }
    folder.write("a.txt", "a text that is cut into windows");
    let windows = ["train", "--base", &base, "--data", &folder.file("a.txt"), "--packing"];
    let line = refused(&[&windows[..], &["--steps", "1", "-o", &out]].concat());
    assert!(line.contains("packing has no effect on .txt"), "{line}");
    // What `memory` is asked about that run is held to the same.
    let memory = ["memory", "--base", &base, "--method", "lora"];
    for (more, expected) in [
        (["--validate-every", "1"], "validate-every has no effect without validation data"),
        (["--patience", "1"], "patience has no effect without validation data"),
        (["--labels", "3"], "--labels has no effect without --task classify"),
    ] {
        let line = refused(&[&memory[..], &more].concat());
        assert!(line.contains(expected), "{more:?}: {line}");
    }
    let table = ["train", "--base", &mlp, "--data", &csv, "--task", "classify", "--method", "lora"];
    for (more, expected) in [
        ("--packing", "packing has no effect on .csv"),
        ("--completions-only", "completions-only has no effect on labels"),
        ("--precision=fast", "precision fast has no effect: no layer of this base is nf4 or int8"),
    ] {
        let line = refused(&[&table[..], &[more, "-o", &out]].concat());
        assert!(line.contains(expected), "{line}");
    }
    let data = folder.file("short.jsonl");
    let line = refused(&["evaluate", "--base", &base, "--data", &data, "--completions-only"]);
    assert!(line.contains("completions-only has no effect"), "{line}");
    assert!(!Path::new(&out).exists(), "nothing was trained");

    // Of several methods one is enough.
    let report = folder.file("report");
    let compare = |methods: &'static str, more: &[&'static str]| {
        let on = ["compare", "--base", &mlp, "--data", &csv, "--validation", &csv];
        let rest = ["--task", "classify", "--steps", "1", "--methods", methods, "-o", &report];
        lowrank(&[&on[..], &rest, more].concat())
    };
    for (methods, more) in [
        ("lora,lora+", ["--lora-plus-ratio", "4"]),
        ("full,lora", ["--rank", "4"]),
        ("dylora,lora", ["--rank-tolerance", "0.2"]),
    ] {
        let output = compare(methods, &more);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    for (methods, more) in [
        ("lora,dora", ["--lora-plus-ratio", "4"]),
        ("full", ["--rank", "4"]),
        ("full,lora", ["--rank-tolerance", "0.2"]),
    ] {
        let output = compare(methods, &more);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(&format!("{} has no effect", &more[0][2..])), "{text}");
    }
}

#[test]
fn data_that_does_not_fit_the_base_is_refused_with_file_and_line() {
    let folder = Folder::new();
    let (mlp, out) = (folder.file("mlp.lrk"), folder.file("a.lrk"));
    folder.write("wide.csv", "1,2,3,yes\n3,4,5,no\n");
    folder.write("lines.csv", "1,2,\"ye\ns\"\n3,4,no\n");
    for (name, expected) in [
        ("wide.csv", "wide.csv: line 1: 4 columns, 2 features and the label were expected"),
        ("lines.csv", "lines.csv: line 1: label \"ye\\ns\" holds a line feed"),
        ("a.tsv", "a.tsv: the model reads rows of 2 numbers, not text"),
    ] {
        let data = folder.file(name);
        let on = ["--base", &mlp, "--data", &data, "--task", "classify"];
        let line = refused(&[&["train", "--method", "lora", "-o", &out], &on[..]].concat());
        assert!(line.contains(expected), "{line}");
    }
    let wide = folder.file("wide.csv");
    let on = ["--base", &mlp, "--data", &wide, "--task", "classify"];
    let line = refused(&[&["evaluate"], &on[..]].concat());
    assert!(line.contains("wide.csv: line 1: 4 columns, 2 features"), "{line}");
}

#[test]
fn labels_can_be_named_where_a_classifier_is_imported() {
    let folder = Folder::new();
    let (source, base, out) = (golden("tiny-llama"), folder.file("base.lrk"), folder.file("a.lrk"));
    said(&["import", &source, "-o", &base, "--without-tokenizer"]);
    let (score, plain) = (golden("tiny-llama/adapters/score"), golden("tiny-llama/adapters/lora"));
    let import = |source: &str, labels: &[&str]| {
        lowrank(&[&["adapter", "import", source, "--base", &base, "-o", &out], labels].concat())
    };
    let named = |file: &str| -> Value {
        let facts = said(&["inspect", file, "--json"]).0;
        serde_json::from_str::<Value>(&facts).unwrap()["labels"].clone()
    };
    assert!(import(&score, &["--labels", "sports,politics, weather"]).status.success());
    assert_eq!(named(&out), json!(["sports", "politics", "weather"]));
    let (peft, again) = (folder.file("peft"), folder.file("again.lrk"));
    said(&["adapter", "export", &out, "--base", &base, "-o", &peft]);
    said(&["adapter", "import", &peft, "--base", &base, "-o", &again]);
    assert_eq!(named(&again), json!(["sports", "politics", "weather"]));
    for (source, labels, expected) in [
        (&score, "a,b", "--labels a,b: 3 different names were expected"),
        (&score, "a,b,a", "3 different names were expected"),
        (&plain, "a,b", "it brings no classifier, so --labels has no effect"),
    ] {
        let output = import(source, &["--labels", labels]);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn modules_that_a_peft_directory_lacks_are_told() {
    let folder = Folder::new();
    let (base, out) = (folder.file("base.lrk"), folder.file("a.lrk"));
    said(&["import", &golden("tiny-llama"), "-o", &base, "--without-tokenizer"]);
    let peft = folder.file("peft");
    std::fs::create_dir(&peft).unwrap();
    let source = golden("tiny-llama/adapters/lora");
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        std::fs::copy(Path::new(&source).join(name), Path::new(&peft).join(name)).unwrap();
    }
    let path = Path::new(&peft).join("adapter_config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let names = config["target_modules"].as_array_mut().unwrap();
    names.extend([json!("embed_tokens"), json!("c_attn")]);
    // With a mark in front, as some editors save.
    std::fs::write(&path, format!("\u{feff}{config}")).unwrap();
    let (_, stderr) = said(&["adapter", "import", &peft, "--base", &base, "-o", &out]);
    once(&stderr, "they stay as the base has them: model.embed_tokens");
    once(&stderr, "target_modules names c_attn, which the base does not have");
}

#[test]
fn keys_of_a_fresh_models_configuration_that_nothing_reads_are_refused() {
    let folder = Folder::new();
    let out = folder.file("fresh.lrk");
    let llama = json!({ "model_type": "llama", "tokenizer": "bytes", "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 1, "num_attention_heads": 4, "max_position_embeddings": 64 });
    let mlp = json!({ "model_type": "mlp", "input_size": 2, "labels": ["a", "b"] });
    let lstm = json!({ "model_type": "lstm", "tokenizer": "bytes", "embedding_size": 4, "hidden_size": 4, "num_layers": 1 });
    for (config, key, value, near) in [
        (&llama, "num_key_value_head", json!(2), "num_key_value_heads"),
        (&llama, "tie_embeddings", json!(true), "tie_word_embeddings"),
        (&mlp, "hidden_size", json!([3]), "hidden_sizes"),
        (&mlp, "tokenizer", json!("bytes"), "model_type"),
        (&lstm, "num_layer", json!(2), "num_layers"),
    ] {
        let mut config = config.clone();
        config[key] = value;
        folder.write("fresh.json", config.to_string());
        let line = refused(&["init", &folder.file("fresh.json"), "-o", &out]);
        assert!(line.contains(&format!("fresh.json: {key}: nothing reads this key")), "{line}");
        assert!(key == "tokenizer" || line.ends_with(&format!("nearest is \"{near}\"")), "{line}");
    }
    let mut config = llama;
    for (key, value) in [
        ("torch_dtype", json!("float32")),
        ("transformers_version", json!("5.0")),
        ("attention_dropout", json!(0.1)),
        ("pretraining_tp", json!(1)),
        ("rope_theta", json!(1e4)),
        ("a_later_invention", json!(false)),
    ] {
        config[key] = value;
    }
    folder.write("fresh.json", format!("\u{feff}{config}"));
    said(&["init", &folder.file("fresh.json"), "-o", &out]);
    config["rope_scaling"] = json!({ "rope_type": "linear", "factor": 2.0, "beta_fast": 32 });
    folder.write("fresh.json", config.to_string());
    let line = refused(&["init", &folder.file("fresh.json"), "-o", &out]);
    assert!(line.contains("rope_scaling.beta_fast: nothing reads this key"), "{line}");
}

#[test]
fn texts_with_a_byte_order_mark_are_read() {
    let folder = Folder::new();
    folder.write("marked.jsonl", "\u{feff}{\"text\": \"a cat\"}\n{\"text\": \"a dog\"}\n");
    folder.write("plain.jsonl", "{\"text\": \"a cat\"}\n{\"text\": \"a dog\"}\n");
    let ids = |name: &str| said(&["tokenize", "--base", &tiny(), "--file", &folder.file(name)]).0;
    assert_eq!(ids("marked.jsonl"), ids("plain.jsonl"));
}

#[test]
fn memory_refuses_options_of_training_without_a_method() {
    let base = tiny();
    let memory = ["memory", "--base", &base];
    for option in [
        &["--epochs", "3"][..],
        &["--rank", "4"],
        &["--data", "a.jsonl"],
        &["--labels", "3"],
        &["--patience", "2"],
        &["--checkpointing"],
        &["--max-length", "64"],
    ] {
        let output = lowrank(&[&memory, option].concat());
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{option:?}: {text}");
        assert!(text.contains("--method <METHOD>"), "{option:?}: {text}");
    }
    said(&memory);
    said(&[&memory[..], &["--method", "lora", "--epochs", "3"]].concat());
}

#[test]
fn a_precision_that_changes_nothing_is_told() {
    let folder = Folder::new();
    let config = json!({ "model_type": "lstm", "tokenizer": "bytes", "embedding_size": 4, "hidden_size": 4, "num_layers": 1 });
    folder.write("lstm.json", config.to_string());
    let lstm = folder.file("lstm.lrk");
    said(&["init", &folder.file("lstm.json"), "-o", &lstm]);
    let prompt = ["--prompt", "a", "--tokens", "1", "--precision", "fast"];
    let (_, stderr) = said(&[&["generate", "--base", &lstm], &prompt[..]].concat());
    assert!(stderr.contains("--precision fast: no effect, no layer of"), "{stderr}");
    let (_, stderr) = said(&[&["generate", "--base", &tiny()], &prompt[..]].concat());
    assert!(!stderr.contains("no effect"), "{stderr}");
}

#[test]
fn numbers_that_mean_nothing_are_refused() {
    let folder = Folder::new();
    let (base, texts, out) = (tiny(), folder.file("short.jsonl"), folder.file("a.lrk"));
    for warmup in ["nan", "inf", "-1", "1.5", "many"] {
        let warmup = format!("--warmup={warmup}");
        let train = ["train", "--base", &base, "--data", &texts, "--steps", "1", "-o", &out];
        let output = lowrank(&[&train[..], &[&warmup]].concat());
        assert_eq!(output.status.code(), Some(2), "{warmup}");
    }
    for (option, range) in
        [("--alpha", "above 0"), ("--learning-rate", "above 0"), ("--dropout", "0")]
    {
        let train = ["train", "--base", &base, "--data", &texts, "--steps", "1", "-o", &out];
        let line = refused(&[&train[..], &[option, "-1"]].concat());
        assert!(line.contains("is -1, ") && line.contains(range), "{line}");
    }
    let long = ["--text", "a", "--max-length", "129"];
    let line = refused(&[&["classify", "--base", &base], &long[..]].concat());
    assert!(line.contains("--max-length 129: the base has positions for 128 tokens"), "{line}");
    let memory = ["memory", "--method", "lora", "--max-length", "129"];
    let line = refused(&[&memory[..], &["--base", &base]].concat());
    assert!(line.contains("--max-length 129: the base has positions for 128 tokens"), "{line}");
    let (mlp, csv) = (folder.file("mlp.lrk"), folder.file("a.csv"));
    let on = ["--base", &mlp, "--data", &csv, "--task", "classify", "--max-length", "9"];
    for command in [&["evaluate"][..], &["train", "--method", "lora", "-o", &out]] {
        let line = refused(&[command, &on].concat());
        assert!(line.contains("max-length has no effect: the base reads numbers"), "{line}");
    }
}

#[test]
#[cfg(unix)]
fn names_of_others_do_not_reach_the_terminal() {
    let folder = Folder::new();
    let (mlp, out) = (folder.file("mlp.lrk"), folder.file("a\u{1b}[2J\nbytes 1.lrk"));
    let csv = folder.file("a.csv");
    let train = ["train", "--base", &mlp, "--data", &csv, "--task", "classify"];
    said(&[&train[..], &["--method", "lora", "--steps", "1", "-o", &out]].concat());
    let (shown, _) = said(&["inspect", &out]);
    assert!(!shown.contains('\u{1b}'), "{shown:?}");
    let row = |line: &&str| line.starts_with("name ") && line.ends_with("a\\u{1b}[2J\\nbytes 1");
    assert_eq!(shown.lines().filter(row).count(), 1, "{shown}");
    assert_eq!(shown.lines().filter(|line| line.starts_with("bytes")).count(), 1, "{shown}");
}
