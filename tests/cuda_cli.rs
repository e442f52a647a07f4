//! `lowrank generate --device cuda`: what the CPU writes, through the software driver, and one
//! clear line for everything that can be wrong with a device.

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
    Command::new(env!("CARGO_BIN_EXE_lowrank"))
        .args([command, "--base", &base])
        .args(arguments)
        .env("LOWRANK_CUDA_DRIVER", driver)
        .envs(variables.iter().copied())
        .output()
        .unwrap()
}

fn written(arguments: &[&str], driver: &Path) -> String {
    let output = run("generate", arguments, driver, &[]);
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
    let logits = ["--tokens", "1,2", "-o", "-", "--device", "cuda"];
    assert!(refused("logits", &logits, driver(), &[]).contains("--device cuda is for generate"));
}
