//! Runs of `lowrank train` as a person starts them: one that diverges ends with status 1 and keeps
//! the last good adapter or what was there; noise does not stop one; an unfinished one is neither
//! replaced nor continued with other data unasked; one goes on from an adapter; piped output says
//! how it goes.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: &str) {
        std::fs::write(self.path(name), content).unwrap();
    }

    /// `lowrank` in this folder.
    fn lowrank(&self, arguments: &str) -> Output {
        Command::new(env!("CARGO_BIN_EXE_lowrank"))
            .current_dir(self.0.path())
            .args(arguments.split_whitespace())
            .output()
            .unwrap()
    }

    /// Of a command that succeeds.
    fn json(&self, arguments: &str) -> Value {
        let output = self.lowrank(&format!("{arguments} --json"));
        assert!(output.status.success(), "{arguments}: {}", said(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn succeeds(&self, arguments: &str) -> String {
        let output = self.lowrank(arguments);
        assert!(output.status.success(), "{arguments}: {}", said(&output));
        said(&output)
    }

    /// The sentence of a command that fails with status 1.
    fn fails(&self, arguments: &str) -> String {
        let output = self.lowrank(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments}: {}", said(&output));
        said(&output).lines().last().unwrap().to_owned()
    }

    /// The decoder of `assets/` with texts beside it.
    fn decoder() -> Self {
        let folder = Self::new();
        for (from, to) in [
            ("tiny.lrk", "base.lrk"),
            ("texts/pirate.train.jsonl", "train.jsonl"),
            ("texts/pirate.held-out.jsonl", "dev.jsonl"),
        ] {
            let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets");
            std::fs::copy(assets.join(from), folder.path(to)).unwrap();
        }
        folder
    }

    /// A perceptron and points that a line divides; one in `wrong` has the other label.
    fn perceptron(wrong: usize) -> Self {
        let folder = Self::new();
        folder.write(
            "mlp.json",
            r#"{"model_type": "mlp", "input_size": 2, "hidden_sizes": [16], "labels": ["no", "yes"]}"#,
        );
        folder.succeeds("init mlp.json -o base.lrk --weights f32 --embedding f32 --seed 3");
        let line = |i: usize| {
            let (x, y) = ((i * 37 % 101) as f32 / 25.0 - 2.0, (i * 53 % 97) as f32 / 24.0 - 2.0);
            let is_yes = (x + y > 0.0) != (wrong > 0 && i.is_multiple_of(wrong));
            format!("{x},{y},{}\n", if is_yes { "yes" } else { "no" })
        };
        folder.write("train.csv", &(0..120).map(line).collect::<String>());
        folder.write("dev.csv", &(120..180).map(line).collect::<String>());
        folder
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

const TEXTS: &str = "train --base base.lrk --data train.jsonl --max-length 64 --threads 1";
const POINTS: &str =
    "train --base base.lrk --data train.csv --task classify --method lora --threads 1";

#[test]
fn an_explosion_in_the_first_steps_and_a_collapse_to_guessing_are_divergence() {
    let folder = Folder::decoder();
    // An adapter that is there already: what is of another kind is never written over unasked.
    folder.succeeds(&format!("{TEXTS} --steps 1 -o old.lrk"));
    let old = std::fs::read(folder.path("old.lrk")).unwrap();
    for rate in [
        // 2.2, 7.9, 5.6, then 5.55 = ln 258 for good.
        "--steps 60 --schedule constant --optimizer sgd --learning-rate 1000 --max-norm 0",
        // Up, and back to what the frequencies of letters give, above where it began.
        "--steps 60 --schedule constant --learning-rate 0.3",
        // No step comes after the one that explodes.
        "--steps 1 --schedule constant --optimizer sgd --learning-rate 1000 --max-norm 0",
    ] {
        let sentence = folder.fails(&format!("{TEXTS} {rate} -o old.lrk"));
        assert!(
            sentence.contains("training diverged at step ")
                && sentence.contains("the loss went from 2.")
                && sentence.contains("none was kept: old.lrk was not written"),
            "{rate}: {sentence}"
        );
        assert!(std::fs::read(folder.path("old.lrk")).unwrap() == old, "{rate}");
    }
}

#[test]
fn a_run_that_explodes_late_keeps_its_last_good_adapter_and_checkpoint() {
    let folder = Folder::decoder();
    let rate = "--steps 400 --warmup 400 --optimizer sgd --learning-rate 50 --max-norm 0";
    let more = "--checkpoint-every 3 --validation dev.jsonl --validate-every 4 -o a.lrk";
    let sentence = folder.fails(&format!("{TEXTS} {rate} {more}"));
    assert!(sentence.contains("the last good adapter, of step "), "{sentence}");
    assert!(sentence.ends_with("was kept in a.lrk"), "{sentence}");
    let loss = |more: &str| {
        let on = "evaluate --base base.lrk --data dev.jsonl --max-length 64 --threads 1";
        folder.json(&format!("{on} {more}"))["loss"].as_f64().unwrap()
    };
    let (without, with) = (loss(""), loss("--adapter a.lrk"));
    assert!(with < without + 0.05, "{with} with what was kept, {without} without");
    let training = &folder.json("inspect a.lrk")["facts"]["training"];
    let step = |name: &str| training[name].as_u64().unwrap();
    assert!(step("kept_step") < step("diverged_at_step"), "{training}");
    // The checkpoint is older than the explosion too.
    let sentence = folder.fails(&format!("{TEXTS} {rate} {more}"));
    let kept: u64 =
        sentence.split("(step ").nth(1).unwrap().split(')').next().unwrap().parse().unwrap();
    assert!(kept <= step("kept_step") + 10, "{sentence}, {training}");
}

#[test]
fn a_validation_loss_that_explodes_is_divergence() {
    let folder = Folder::perceptron(0);
    let rate = "--epochs 40 --warmup 600 --max-norm 0";
    let more = "--batch-size 8 --validation dev.csv -o a.lrk";
    for wild in [
        "--learning-rate 3",
        "--learning-rate 10",
        "--optimizer sgd --learning-rate 20",
        // Nearly all are right, and what is wrong costs thousands: most batches look healthy.
        "--optimizer sgd --learning-rate 30",
        "--optimizer sgd --learning-rate 100",
    ] {
        let sentence = folder.fails(&format!("{POINTS} {rate} {wild} {more} --restart"));
        assert!(sentence.contains("was kept in a.lrk"), "{sentence}");
        let on = "evaluate --base base.lrk --data dev.csv --task classify --adapter a.lrk";
        let kept = folder.json(on);
        assert!(kept["loss"].as_f64().unwrap() < 0.69, "{wild}: {kept}");
    }
}

#[test]
fn noise_does_not_stop_a_run() {
    let (points, texts) = (Folder::perceptron(5), Folder::decoder());
    for seed in 0..10 {
        // Every fifth label is wrong, and a step sees one example.
        let more = format!("--epochs 4 --batch-size 1 --learning-rate 2e-2 --seed {seed}");
        points.succeeds(&format!("{POINTS} {more} --validation dev.csv -o a.lrk"));
        let more = format!("--steps 80 --batch-size 1 --learning-rate 1e-2 --seed {seed}");
        texts.succeeds(&format!("{TEXTS} {more} -o a.lrk"));
    }
    // The first steps of a run that goes on at a high rate cost something.
    let more = "--steps 80 --batch-size 1 --warmup 20 --learning-rate 1e-2 --seed 1";
    texts.succeeds(&format!("{TEXTS} {more} --adapter a.lrk -o b.lrk"));
    texts.succeeds(&format!("{TEXTS} {more} --method dylora --validation dev.jsonl -o b.lrk"));
}

#[test]
fn an_unfinished_run_is_not_replaced_unasked() {
    let folder = Folder::decoder();
    let rate = "--steps 400 --warmup 400 --optimizer sgd --learning-rate 50 --max-norm 0";
    let checkpoint = folder.path("a.lrk.checkpoint");
    folder.succeeds(&format!("{TEXTS} --steps 4 --checkpoint-every 3 -o a.lrk"));
    assert!(!checkpoint.exists(), "a finished run leaves no checkpoint");
    // This one diverges after its first checkpoint, and leaves it.
    folder.fails(&format!("{TEXTS} {rate} --checkpoint-every 3 -o a.lrk"));
    let left = std::fs::read(&checkpoint).unwrap();
    let sentence = folder.fails(&format!("{TEXTS} --steps 2 -o a.lrk"));
    assert!(
        sentence.contains("a.lrk.checkpoint is of a run that was not finished (step ")
            && sentence.contains("--resume")
            && sentence.contains("--restart"),
        "{sentence}"
    );
    assert!(std::fs::read(&checkpoint).unwrap() == left);
    let sentence = folder.fails(&format!("{TEXTS} --steps 2 --resume -o a.lrk"));
    assert!(sentence.contains("--restart"), "{sentence}");
    folder.succeeds(&format!("{TEXTS} --steps 2 --restart -o a.lrk"));
    assert!(!checkpoint.exists());

    // A damaged one can be replaced, and is never gone on from.
    std::fs::write(&checkpoint, &left[..left.len() / 2]).unwrap();
    let sentence = folder.fails(&format!("{TEXTS} --steps 2 -o a.lrk"));
    assert!(sentence.contains("--restart begins anew"), "{sentence}");
    folder.fails(&format!("{TEXTS} --steps 2 --resume -o a.lrk"));
    folder.succeeds(&format!("{TEXTS} --steps 2 --restart -o a.lrk"));
    assert!(!checkpoint.exists());

    // What is no checkpoint is not replaced at all.
    folder.write("a.lrk.checkpoint", "notes");
    for more in ["", "--restart", "--restart --force"] {
        let sentence = folder.fails(&format!("{TEXTS} --steps 2 {more} -o a.lrk"));
        assert!(sentence.contains("a.lrk.checkpoint"), "{sentence}");
        assert!(sentence.contains("move it away"), "{sentence}");
        assert_eq!(std::fs::read(&checkpoint).unwrap(), b"notes");
    }

    // A pipe keeps nothing, and would be waited for.
    #[cfg(unix)]
    {
        let _ = std::fs::remove_file(&checkpoint);
        assert!(Command::new("mkfifo").arg(&checkpoint).status().unwrap().success());
        for more in ["", "--restart", "--resume", "--restart --force"] {
            let sentence = folder.fails(&format!("{TEXTS} --steps 2 {more} -o a.lrk"));
            assert!(sentence.contains("a.lrk.checkpoint: this is a pipe"), "{sentence}");
        }
    }
}

#[test]
fn training_goes_on_from_an_adapter() {
    let folder = Folder::decoder();
    let loss = |adapter: &str| {
        let on = "evaluate --base base.lrk --data dev.jsonl --max-length 64 --threads 1";
        folder.json(&format!("{on} --adapter {adapter}"))["loss"].as_f64().unwrap()
    };
    let more = "--rank 3 --alpha 5 --target-modules q_proj,down_proj --learning-rate 1e-2";
    folder.succeeds(&format!("{TEXTS} --steps 25 --method rslora {more} -o first.lrk"));
    let on = format!("{TEXTS} --adapter first.lrk --steps 25 --learning-rate 1e-2 -o second.lrk");
    let trained = folder.json(&on);
    assert_eq!(trained["method"], "rslora");
    assert!(loss("second.lrk") < loss("first.lrk"), "it has learnt more");
    let [first, second] =
        ["first.lrk", "second.lrk"].map(|file| folder.json(&format!("inspect {file}")));
    for name in ["method", "targets", "max_rank", "parameters"] {
        assert_eq!(first[name], second[name], "{name}");
    }
    for name in ["rank", "alpha", "target_modules"] {
        let of = |file: &Value| file["facts"]["training"][name].clone();
        assert_eq!(of(&first), of(&second), "{name}");
    }
    assert_eq!(second["facts"]["training"]["continued_from"], "first");

    // What is the adapter's own cannot be asked for.
    for more in ["--rank 4", "--alpha 2", "--target-modules v_proj", "--init gaussian"] {
        let output = folder.lowrank(&format!("{on} {more}"));
        assert_eq!(output.status.code(), Some(2), "{more}: {}", said(&output));
    }
    let sentence = folder.fails(&format!("{on} --method dora"));
    assert!(sentence.contains("rslora") && sentence.contains("dora"), "{sentence}");
    let sentence = folder.fails(&format!("{TEXTS} --adapter base.lrk --steps 1 -o c.lrk"));
    assert!(sentence.contains("base.lrk") && sentence.contains("adapter"), "{sentence}");
}

#[test]
fn a_run_of_any_number_of_steps_begins_at_once() {
    let folder = Folder::decoder();
    let most = "18446744073709551615";
    // It begins, and its rate makes it end by itself.
    let rate = "--schedule constant --optimizer sgd --learning-rate 1000 --max-norm 0";
    let sentence = folder.fails(&format!("{TEXTS} --steps {most} {rate} -o a.lrk"));
    assert!(sentence.contains("diverged"), "{sentence}");
    let sentence = folder.fails(&format!("{TEXTS} --epochs {most} -o a.lrk"));
    assert!(sentence.contains("epochs") && sentence.contains("1000000"), "{sentence}");
    let prediction = format!("{TEXTS} --steps {most} --memory-limit 1000 -o a.lrk");
    assert!(folder.fails(&prediction).contains("bytes"));
}

#[test]
fn without_a_terminal_lines_say_how_it_goes() {
    let folder = Folder::decoder();
    let lines = folder.succeeds(&format!("{TEXTS} --steps 20 -o a.lrk"));
    let line = lines.lines().find(|line| line.starts_with("training 50 %")).unwrap();
    assert!(line.contains("step 10/20  loss ") && line.contains(" left"), "{line}");
    let last = lines.lines().find(|line| line.starts_with("training 100 %")).unwrap();
    assert!(last.contains("step 20/20  loss ") && !last.contains("left"), "{last}");
}
