//! `lowrank … --device cuda`: what the CPU writes, through the software driver, and one clear line
//! for everything that can be wrong with a device.

#[allow(dead_code, reason = "faults are planted elsewhere")]
mod cuda_driver;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

fn asset(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("assets").join(name).display().to_string()
}

fn driver() -> &'static Path {
    static DRIVER: OnceLock<PathBuf> = OnceLock::new();
    DRIVER.get_or_init(cuda_driver::software_driver)
}

/// `lowrank COMMAND --base tiny.lrk …` with the driver at a path.
fn run(command: &str, arguments: &[&str], driver: &Path, variables: &[(&str, &str)]) -> Output {
    let base = asset("tiny.lrk");
    let base = ["--base", &base];
    Command::new(env!("CARGO_BIN_EXE_lowrank"))
        .arg(command)
        .args(if arguments.contains(&"--base") { &[][..] } else { &base })
        .args(arguments)
        .env("LOWRANK_CUDA_DRIVER", driver)
        .envs(variables.iter().copied())
        .output()
        .unwrap()
}

fn written(arguments: &[&str], driver: &Path) -> String {
    success("generate", arguments, driver)
}

/// What a command prints that succeeds.
fn success(command: &str, arguments: &[&str], driver: &Path) -> String {
    let output = run(command, arguments, driver, &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What a failure says in one line.
fn refused(command: &str, arguments: &[&str], driver: &Path, variables: &[(&str, &str)]) -> String {
    let output = run(command, arguments, driver, variables);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    let mut lines = text.lines().filter(|line| !line.starts_with("softptx: "));
    let line = lines.next().unwrap().to_owned();
    assert_eq!(lines.next(), None, "{text}");
    assert!(line.starts_with("lowrank: "), "{line}");
    line
}

const PROMPT: [&str; 4] = ["--prompt", "The duck", "--tokens", "12"];

#[test]
fn a_card_writes_what_the_cpu_writes() {
    let (notes, pirate) = (asset("tiny-notes.lrk"), asset("tiny-pirate.lrk"));
    let weighted = format!("{pirate}:0.5");
    for adapters in [&[][..], &["--adapter", &notes, "--adapter", &weighted], &["--kv", "f32"]] {
        let arguments = [&PROMPT[..], adapters].concat();
        let cpu = written(&[&arguments[..], &["--precision", "exact"]].concat(), driver());
        let cuda = written(&[&arguments[..], &["--device", "cuda"]].concat(), driver());
        assert_eq!(cpu, cuda);
    }
    // The time that a swap took is in its line.
    let swaps = [&PROMPT[..], &["--swap", &notes, "--swap", &pirate]].concat();
    let texts = |extra: &[&str]| -> Vec<String> {
        let text = written(&[&swaps[..], extra].concat(), driver());
        text.lines().filter(|line| !line.contains("swapped in")).map(str::to_owned).collect()
    };
    assert_eq!(texts(&["--precision", "exact"]), texts(&["--device", "cuda"]));
}

#[test]
fn without_a_driver_the_cpu_works_and_a_card_is_refused() {
    let nowhere = Path::new("/nowhere/libcuda.so.1");
    let cuda = [&PROMPT[..], &["--device", "cuda"]].concat();
    let line = refused("generate", &cuda, nowhere, &[]);
    assert!(line.contains("no CUDA driver: ") && line.contains("/nowhere"), "{line}");
    assert!(!written(&PROMPT, nowhere).is_empty());
}

#[test]
fn what_goes_wrong_on_a_card_is_said_in_one_line() {
    let cuda = [&PROMPT[..], &["--device", "cuda"]].concat();
    let small = refused("generate", &cuda, driver(), &[("SOFTPTX_MEMORY", "300000")]);
    assert!(small.contains("out of memory") && small.contains("smaller context"), "{small}");
    let output = run("generate", &cuda, driver(), &[("SOFTPTX_LOSE_AFTER", "100")]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    let line = text.lines().find(|line| line.starts_with("lowrank: ")).unwrap();
    assert!(line.contains("CUDA: a kernel: the device was lost"), "{line}");
    let fast = [&cuda[..], &["--precision", "fast"]].concat();
    assert!(refused("generate", &fast, driver(), &[]).contains("exact activations"));
    let int8 = [&cuda[..], &["--kv", "int8"]].concat();
    assert!(refused("generate", &int8, driver(), &[]).contains("f16 or f32"));
}

#[test]
fn commands_that_no_card_runs_say_which_ones_it_does() {
    let base = asset("tiny.lrk");
    let chat = refused("chat", &["--device", "cuda"], driver(), &[]);
    assert!(chat.contains("CPU only: --device cuda is for generate, logits, embed"), "{chat}");
    let embed = ["--text", "a", "-o", "-", "--device", "cuda", "--base", &base];
    assert!(
        refused("embed", &embed, driver(), &[]).contains("tiny.lrk"),
        "a decoder embeds nothing"
    );
    let folder = tempfile::tempdir().unwrap();
    let [small, data] = ["mlp.lrk", "rows.csv"].map(|name| folder.path().join(name));
    let [small, data] = [&small, &data].map(|path| path.to_str().unwrap());
    std::fs::write(data, "1,2,3,4,5,6,a\n6,5,4,3,2,1,b\n").unwrap();
    import("tiny-mlp", small);
    let mlp = ["--base", small, "--data", data, "--task", "classify", "--device", "cuda"];
    let line = refused("evaluate", &mlp, driver(), &[]);
    assert!(line.contains("run on the CPU only"), "{line}");
}

/// Imports a golden model.
fn import(name: &str, to: &str) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    lowrank(&["import", source.to_str().unwrap(), "-o", to]);
}

fn lowrank(arguments: &[&str]) {
    let output = Command::new(env!("CARGO_BIN_EXE_lowrank")).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The numbers of a .npy file with one header line.
fn numbers(path: &Path) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap();
    let start = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    bytes[start..].chunks_exact(4).map(|x| f32::from_le_bytes(x.try_into().unwrap())).collect()
}

/// What a command writes to a file, on the CPU and on the card, is alike to 1e-5 of the largest
/// number.
fn assert_alike(command: &str, arguments: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let [cpu, cuda] = ["cpu", "cuda"].map(|device| {
        let path = folder.path().join(device);
        let more = ["--device", device, "-o", path.to_str().unwrap()];
        success(command, &[arguments, &more].concat(), driver());
        numbers(&path)
    });
    let largest = cpu.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    let worst = cpu.iter().zip(&cuda).fold(0.0f32, |most, (a, b)| most.max((a - b).abs()));
    assert!(cpu.len() == cuda.len() && largest > 0.0, "{command}");
    assert!(worst <= 1e-5 * largest, "{command}: off by {worst:e}, largest {largest}");
}

#[test]
fn logits_and_vectors_are_those_of_the_cpu() {
    let notes = asset("tiny-notes.lrk");
    assert_alike("logits", &["--tokens", "256,68,117,99,107", "--adapter", &notes]);
    let folder = tempfile::tempdir().unwrap();
    let [base, head] = ["base.lrk", "head.lrk"].map(|name| folder.path().join(name));
    let [base, head] = [&base, &head].map(|path| path.to_str().unwrap());
    import("tiny-roberta", base);
    let texts = ["--base", base, "--text", "the film is a quiet joy", "--text", "dull"];
    assert_alike("embed", &texts);
    assert_alike("embed", &[&texts[..], &["--pooling", "pooler"]].concat());
    // Labels of texts, and how many of them are right.
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny-roberta");
    lowrank(&["adapter", "import", source.to_str().unwrap(), "--base", base, "-o", head]);
    let on = |command: &str, arguments: &[&str]| -> [Vec<f64>; 2] {
        ["cpu", "cuda"].map(|device| {
            let more = ["--adapter", head, "--device", device, "--json"];
            let text = success(command, &[arguments, &more].concat(), driver());
            let mut all = Vec::new();
            text.lines().for_each(|line| floats(&serde_json::from_str(line).unwrap(), &mut all));
            all
        })
    };
    let data = folder.path().join("data.jsonl");
    let lines =
        "{\"text\":\"a quiet joy\",\"label\":\"fine\"}\n{\"text\":\"dull\",\"label\":\"dull\"}\n";
    std::fs::write(&data, lines).unwrap();
    let evaluate = ["--base", base, "--data", data.to_str().unwrap(), "--task", "classify"];
    for [cpu, cuda] in [on("classify", &texts), on("evaluate", &evaluate)] {
        assert!(cpu.len() == cuda.len() && cpu.len() > 5, "{cpu:?} {cuda:?}");
        assert!(cpu.iter().zip(&cuda).all(|(a, b)| (a - b).abs() < 1e-5), "{cpu:?} {cuda:?}");
    }
}

/// All numbers of a JSON value.
fn floats(value: &serde_json::Value, all: &mut Vec<f64>) {
    match value {
        serde_json::Value::Object(object) => object.values().for_each(|value| floats(value, all)),
        other => all.extend(other.as_f64()),
    }
}

#[test]
fn the_perplexity_is_the_cpus() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text.txt");
    std::fs::write(&text, "The duck and the sea. A fox ran off.\n").unwrap();
    let arguments = ["--data", text.to_str().unwrap(), "--json", "--max-length", "24"];
    let [cpu, cuda] = ["cpu", "cuda"].map(|device| {
        let printed =
            success("evaluate", &[&arguments[..], &["--device", device]].concat(), driver());
        let mut all = Vec::new();
        floats(&serde_json::from_str(&printed).unwrap(), &mut all);
        all
    });
    assert!(cpu.len() == cuda.len() && cpu.len() > 2);
    assert!(
        cpu.iter().zip(&cuda).all(|(a, b)| (a - b).abs() <= 1e-5 * a.abs()),
        "{cpu:?} {cuda:?}"
    );
}

#[test]
fn a_bench_on_a_card_has_the_names_of_one_on_the_cpu() {
    let notes = asset("tiny-notes.lrk");
    let small = ["--prompt-tokens", "6", "--tokens", "2", "--rounds", "1", "--adapter", &notes];
    let bench = |more: &[&str]| success("bench", &[&small[..], more].concat(), driver());
    let cpu: serde_json::Value = serde_json::from_str(&bench(&["--json"])).unwrap();
    let printed = bench(&["--json", "--device", "cuda"]);
    let cuda: serde_json::Value = serde_json::from_str(&printed).unwrap();
    let of_the_cpu = ["measured_read_gb_per_s", "isa", "threads"];
    for name in cpu.as_object().unwrap().keys().filter(|name| !of_the_cpu.contains(&name.as_str()))
    {
        assert!(cuda.get(name).is_some(), "{name}: {printed}");
    }
    assert_eq!(cuda["weight_bytes_per_token"], cpu["weight_bytes_per_token"]);
    assert_eq!(
        (cuda["device"].as_str(), cuda["precision"].as_str()),
        (Some("softptx"), Some("exact"))
    );
    assert!(cuda["measured_copy_gb_per_s"].as_f64().unwrap() > 0.0);
    assert!(cuda["decode_tokens_per_s"].as_f64().unwrap() > 0.0);
    let table = bench(&["--device", "cuda"]);
    assert!(table.contains("on softptx") && table.contains("the card copies"), "{table}");
}

/// Training data, and the command line of three steps on it.
fn training(folder: &Path) -> Vec<String> {
    let data = folder.join("data.jsonl");
    let line = |i: usize| format!("{{\"text\":\"The duck sails boat {i} over the sea.\"}}\n");
    std::fs::write(&data, (0..6).map(line).collect::<String>()).unwrap();
    let given = ["--data", data.to_str().unwrap(), "--batch-size", "2", "--json", "-o"];
    given.map(String::from).to_vec()
}

#[test]
fn a_run_with_a_card_learns_what_one_on_the_cpu_does() {
    let folder = tempfile::tempdir().unwrap();
    let given = training(folder.path());
    let given: Vec<&str> = given.iter().map(String::as_str).collect();
    let [cpu, cuda] = ["cpu", "cuda"].map(|device| {
        let adapter = folder.path().join(format!("{device}.lrk"));
        let adapter = adapter.to_str().unwrap().to_owned();
        let more = [&adapter[..], "--device", device, "--learning-rate", "1e-2"];
        let text = success("train", &[&given[..], &more].concat(), driver());
        let facts: serde_json::Value = serde_json::from_str(&text).unwrap();
        let losses: Vec<f64> =
            facts["losses"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
        (losses, written(&[&PROMPT[..], &["--adapter", &adapter]].concat(), driver()))
    });
    assert_eq!(cpu.0.len(), 3);
    assert!(cpu.0.iter().zip(&cuda.0).all(|(a, b)| (a - b).abs() <= 1e-4 * a), "{cpu:?} {cuda:?}");
    assert_eq!(cpu.1, cuda.1);
}

#[test]
fn what_a_run_with_a_card_cannot_have_is_said_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let given = training(folder.path());
    let adapter = folder.path().join("adapter.lrk");
    let given: Vec<&str> = given.iter().map(String::as_str).collect();
    let given = [&given[..], &[adapter.to_str().unwrap(), "--device", "cuda"]].concat();
    let nowhere = Path::new("/nowhere/libcuda.so.1");
    assert!(refused("train", &given, nowhere, &[]).contains("no CUDA driver: "));
    let fast = [&given[..], &["--precision", "fast"]].concat();
    assert!(refused("train", &fast, driver(), &[]).contains("exact activations"));
    let limit = [&given[..], &["--memory-limit", "1G"]].concat();
    assert!(refused("train", &limit, driver(), &[]).contains("is not predicted"));
    let small = refused("train", &given, driver(), &[("SOFTPTX_MEMORY", "100000")]);
    assert!(small.contains("out of memory"), "{small}");
    assert!(!adapter.exists(), "nothing was written");
}
