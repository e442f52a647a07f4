//! A run that is stopped and goes on ends with the same bits as one that never stopped; what cannot
//! go on is refused; a run that diverges keeps the last good numbers.

mod common;

use std::path::Path;

use common::{CONFIG, base};
use lowrank::adapter::SharedAdapter;
use lowrank::model::llama::Llama;
use lowrank::quant::Format;
use lowrank::runtime::{Serial, Threads};
use lowrank::text::{Message, TextError};
use lowrank::train::data::{DataOptions, Dataset, Task, Tokenize};
use lowrank::train::optimizer::OptimizerKind;
use lowrank::train::{
    Control, Event, Length, Method, Options, PatternValue, Report, RunOptions, ScheduleShape,
    TargetModules, TrainError, Trainer, Warmup, finish, run,
};

/// A byte is a token, folded into the small vocabulary.
struct Bytes;

impl Tokenize for Bytes {
    fn encode(&self, text: &str) -> Result<Vec<u32>, TextError> {
        Ok(text.bytes().map(|byte| u32::from(byte) % CONFIG.vocab as u32).collect())
    }

    fn begin(&self) -> Option<u32> {
        Some(1)
    }

    fn render_chat(&self, _: &[Message], _: bool) -> Result<String, TextError> {
        Ok(String::new())
    }
}

fn data(folder: &Path, name: &str, lines: usize) -> Dataset<'static> {
    let path = folder.join(name);
    let line = |i: usize| {
        format!(
            "{{\"text\": \"line {i} of {name} says {} and {}\"}}\n",
            i * 7 % 13,
            "la".repeat(i % 9 + 1)
        )
    };
    std::fs::write(&path, (0..lines).map(line).collect::<String>()).unwrap();
    opened(&path)
}

fn opened(path: &Path) -> Dataset<'static> {
    let options = DataOptions { max_length: 48, ..DataOptions::default() };
    Dataset::open(path, Task::LanguageModel, Some(&Bytes), options).unwrap()
}

struct Case {
    folder: tempfile::TempDir,
    archive: lowrank::archive::Buffer,
}

impl Case {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            archive: base(&CONFIG, Format::Nf4, Format::Nf4, 3),
        }
    }

    fn trainer(&self, options: &Options) -> Trainer<'_> {
        Trainer::new(Llama::open(&self.archive).unwrap(), options.clone(), Vec::new()).unwrap()
    }

    /// Runs until the end, or until after step `stop`; with `resume` from the checkpoint.
    fn go(
        &self,
        options: &Options,
        change: impl Fn(&mut RunOptions),
        resume: bool,
        stop: Option<u64>,
    ) -> (Result<Report, TrainError>, Vec<f32>) {
        let (training, validation) = (
            data(self.folder.path(), "train.jsonl", 23),
            data(self.folder.path(), "held-out.jsonl", 5),
        );
        let mut run_options = RunOptions {
            length: Length::Epochs(3),
            warmup: Warmup::Share(0.2),
            batch_size: 4,
            accumulation: 2,
            checkpoint: Some((self.folder.path().join("checkpoint"), 1000)),
            resume,
            ..RunOptions::default()
        };
        change(&mut run_options);
        let mut trainer = self.trainer(options);
        let mut watch = |event| match event {
            Event::Step { step, .. } if Some(step) == stop => Control::Stop,
            _ => Control::Continue,
        };
        let executor = Threads::new(2).unwrap();
        let report =
            run(&mut trainer, &training, Some(&validation), &run_options, &executor, &mut watch);
        (report, trainer.values().to_vec())
    }
}

fn options(method: Method) -> Options {
    Options { rank: 4, learning_rate: 5e-3, dropout: 0.1, ..Options::new(method) }
        .with_method(method)
}

#[test]
fn a_resumed_run_ends_with_the_same_bits() {
    let eight_bit =
        Options { optimizer: OptimizerKind::adamw_8bit(), rank: 16, ..options(Method::QLora) };
    for options in [
        options(Method::Dora),
        options(Method::Ia3),
        options(Method::DyLora),
        options(Method::LoraFa),
        eight_bit,
    ] {
        let case = Case::new();
        let patient = |options: &mut RunOptions| {
            (options.validate_every, options.patience) = (Some(2), Some(3))
        };
        let (whole, values) = case.go(&options, patient, false, None);
        let whole = whole.unwrap();
        assert!(whole.steps >= 6 && !whole.stopped && whole.validation.is_some(), "{whole:?}");
        for stop in [1, 3, 4] {
            let (first, _) = case.go(&options, patient, false, Some(stop));
            assert!(first.unwrap().stopped);
            // Stopped a second time, right behind.
            let (second, _) = case.go(&options, patient, true, Some(stop + 1));
            assert!(second.unwrap().stopped);
            let (rest, resumed) = case.go(&options, patient, true, None);
            let rest = rest.unwrap();
            assert!(
                resumed == values,
                "{}: other numbers after stopping at {stop}",
                options.method
            );
            assert_eq!(
                (rest.losses, rest.validations, rest.rank),
                (whole.losses.clone(), whole.validations.clone(), whole.rank)
            );
            assert_eq!(rest.validation, whole.validation);
        }
    }
}

#[test]
fn what_cannot_go_on_is_refused() {
    let case = Case::new();
    let lora = options(Method::QLora);
    assert!(case.go(&lora, |_| (), false, Some(2)).0.unwrap().stopped);
    let path = case.folder.path().join("checkpoint");
    let whole = std::fs::read(&path).unwrap();

    let other = Options { rank: 5, ..lora.clone() };
    let refused = case.go(&other, |_| (), true, None).0.unwrap_err().to_string();
    assert!(
        refused.contains("checkpoint")
            && refused.contains("rank: 4")
            && refused.contains("rank: 5"),
        "{refused}"
    );
    let refused =
        case.go(&lora, |options| options.batch_size = 3, true, None).0.unwrap_err().to_string();
    assert!(refused.contains("batch size: 4") && refused.contains("batch size: 3"), "{refused}");

    // Every cut and every flipped byte of a stretch is noticed.
    for at in (0..whole.len()).step_by(whole.len() / 97) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        std::fs::write(&path, &damaged).unwrap();
        assert!(case.go(&lora, |_| (), true, None).0.is_err(), "byte {at} flipped");
        std::fs::write(&path, &whole[..at]).unwrap();
        assert!(case.go(&lora, |_| (), true, None).0.is_err(), "cut at {at}");
    }
    std::fs::write(&path, &whole).unwrap();
    assert!(!case.go(&lora, |_| (), true, None).0.unwrap().stopped);
}

#[test]
fn other_data_of_the_same_size_is_refused_by_name() {
    let case = Case::new();
    let lora = options(Method::QLora);
    // Writes its files anew each time; `turned` turns the lines of one of them around.
    let go = |turned: Option<&str>, resume, stop| {
        let folder = case.folder.path();
        for (name, lines) in [("train.jsonl", 23), ("held-out.jsonl", 5)] {
            drop(data(folder, name, lines));
            if turned == Some(name) {
                let text = std::fs::read_to_string(folder.join(name)).unwrap();
                let lines: Vec<&str> = text.lines().rev().collect();
                std::fs::write(folder.join(name), lines.join("\n") + "\n").unwrap();
            }
        }
        let [training, validation] =
            ["train.jsonl", "held-out.jsonl"].map(|name| opened(&folder.join(name)));
        let run_options = RunOptions {
            length: Length::Steps(4),
            batch_size: 4,
            checkpoint: Some((folder.join("checkpoint"), 1000)),
            resume,
            ..RunOptions::default()
        };
        let mut trainer = case.trainer(&lora);
        let mut watch = |event| match event {
            Event::Step { step, .. } if Some(step) == stop => Control::Stop,
            _ => Control::Continue,
        };
        run(&mut trainer, &training, Some(&validation), &run_options, &Serial, &mut watch)
    };
    assert!(go(None, false, Some(2)).unwrap().stopped);
    let refused = go(Some("train.jsonl"), true, None).unwrap_err().to_string();
    assert!(
        refused.contains("training data: 23 examples") && refused.contains("hash"),
        "{refused}"
    );
    let refused = go(Some("held-out.jsonl"), true, None).unwrap_err().to_string();
    assert!(refused.contains("validation data: 5 examples"), "{refused}");
    assert!(!go(None, true, None).unwrap().stopped);
}

#[test]
fn settings_in_a_checkpoint_are_names_and_values_of_a_version() {
    let case = Case::new();
    let lora = Options {
        rank_pattern: vec![PatternValue { pattern: "q_proj".into(), value: 2.0 }],
        ..options(Method::LoraPlus)
    };
    assert!(case.go(&lora, |_| (), false, Some(2)).0.unwrap().stopped);
    let bytes = std::fs::read(case.folder.path().join("checkpoint")).unwrap();
    let text = String::from_utf8_lossy(&bytes);
    let start = text.find("version: 1\n").expect("settings begin with their version");
    let end = text[start..].find('\0').unwrap_or(text.len() - start);
    let settings = &text[start..start + end];
    for line in ["method: lora+", "rank: 4", "rank pattern: [[\"q_proj\",\"2\"]]", "seed: 0"] {
        assert!(settings.contains(line), "{line} in {settings}");
    }
    // What Rust prints of a type for its authors is not a format.
    for word in ["Options", "Some(", "None", "AdamW {", "Epochs(", "Constant", "AllLinear"] {
        assert!(!settings.contains(word), "{word} in {settings}");
    }
}

#[test]
fn every_option_that_differs_is_named() {
    let case = Case::new();
    let lora = options(Method::QLora);
    assert!(case.go(&lora, |_| (), false, Some(2)).0.unwrap().stopped);
    type Change = fn(&mut Options);
    let changes: [(Change, &str); 9] = [
        (|o| o.alpha = 3.0, "alpha: 3"),
        (|o| o.dropout = 0.2, "dropout: 0.2"),
        (|o| o.targets = TargetModules::Names(vec!["q_proj".into()]), "target modules: "),
        (|o| o.learning_rate = 1e-3, "learning rate: 0.001"),
        (|o| o.optimizer = OptimizerKind::sgd(), "optimizer: sgd momentum 0"),
        (|o| o.schedule = ScheduleShape::Cosine, "schedule: cosine"),
        (|o| o.max_norm = 2.0, "max norm: 2"),
        (|o| o.seed = 7, "seed: 7"),
        (|o| o.method = Method::Lora, "method: lora"),
    ];
    for (change, expected) in changes {
        let mut other = lora.clone();
        change(&mut other);
        let refused = case.go(&other, |_| (), true, None).0.unwrap_err().to_string();
        assert!(refused.contains(expected), "{expected}: {refused}");
    }
    // Less memory for more time is no other run.
    let other = Options { checkpointing: true, ..lora };
    assert!(!case.go(&other, |_| (), true, None).0.unwrap().stopped);
}

#[test]
fn a_run_that_diverges_keeps_the_last_good_numbers() {
    let case = Case::new();
    let targets = TargetModules::Names(vec!["lm_head".into()]);
    let wild = Options {
        learning_rate: 900.0,
        max_norm: 0.0,
        dropout: 0.0,
        targets,
        ..options(Method::QLora)
    };
    let start = case.trainer(&wild).values().to_vec();
    let (outcome, values) =
        case.go(&wild, |options| options.length = Length::Epochs(40), false, None);
    let Err(TrainError::Diverged { step, .. }) = outcome else { panic!("{outcome:?}") };
    assert!(step > 1);
    assert!(values.iter().all(|value| value.is_finite()));
    // No validation came before the explosion could be seen, or the numbers of one that did.
    assert!(values == start || step > 3, "step {step}");
}

#[test]
fn bad_run_options_are_refused() {
    let case = Case::new();
    let lora = options(Method::QLora);
    let changes: [fn(&mut RunOptions); 6] = [
        |options| options.batch_size = 0,
        |options| options.accumulation = 0,
        |options| options.length = Length::Epochs(0),
        |options| options.warmup = Warmup::Share(1.5),
        |options| options.validate_every = Some(0),
        |options| options.rank_tolerance = f64::NAN,
    ];
    for (i, change) in changes.into_iter().enumerate() {
        assert!(
            matches!(case.go(&lora, change, false, None).0, Err(TrainError::Options(_))),
            "change {i}"
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let training = data(folder.path(), "train.jsonl", 9);
    let mut trainer = case.trainer(&options(Method::DyLora));
    let outcome = run(&mut trainer, &training, None, &RunOptions::default(), &Serial, &mut |_| {
        Control::Continue
    });
    assert!(matches!(outcome, Err(TrainError::Options(_))), "dylora without validation data");
}

#[test]
fn a_run_that_is_told_to_keep_what_it_has_ends_like_a_run_of_that_length() {
    let case = Case::new();
    let training = data(case.folder.path(), "train.jsonl", 23);
    let held_out = data(case.folder.path(), "held-out.jsonl", 5);
    let options = Options { schedule: ScheduleShape::Constant, ..options(Method::Lora) };
    let go = |steps: u64, keep_after: Option<u64>, at_validation: bool| {
        let run_options = RunOptions {
            length: Length::Steps(steps),
            batch_size: 4,
            validate_every: Some(3),
            ..RunOptions::default()
        };
        let mut trainer = case.trainer(&options);
        let mut watch = |event| match event {
            Event::Step { step, .. } if !at_validation && Some(step) == keep_after => Control::Keep,
            Event::Validation { step, .. } if at_validation && Some(step) == keep_after => {
                Control::Keep
            }
            _ => Control::Continue,
        };
        let report =
            run(&mut trainer, &training, Some(&held_out), &run_options, &Serial, &mut watch)
                .unwrap();
        assert!(!report.stopped);
        let archive = finish(&trainer, &report, "kept").unwrap();
        SharedAdapter::open(archive).unwrap();
        (report.steps, report.losses, report.validation, trainer.values().to_vec())
    };
    let short = go(3, None, false);
    assert_eq!(short.0, 3);
    assert_eq!(go(9, Some(3), false), short);
    assert_eq!(go(9, Some(3), true), short);
    assert_ne!(go(9, Some(4), false).3, short.3);
}
