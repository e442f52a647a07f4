//! What a run takes is known before it runs: predicted and measured high-water marks of the heap
//! lie within a tenth of each other, whatever the family, the method and the batch.

mod common;

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use common::{LSTM, Numbers, base, bert, lstm, mlp};
use lowrank::archive::Buffer;
use lowrank::kernel::Precision;
use lowrank::model::bert::{Activation, Architecture, Config as BertConfig, Pooling};
use lowrank::model::llama::{Config, RopeScaling};
use lowrank::model::lstm::Config as LstmConfig;
use lowrank::model::mlp::Activation as MlpActivation;
use lowrank::quant::Format;
use lowrank::runtime::Serial;
use lowrank::text::{Message, TextError};
use lowrank::train::data::{DataOptions, Dataset, Task, Tokenize};
use lowrank::train::{
    AnyBase, Control, Estimate, Length, Method, OptimizerKind, Options, RunOptions, TrainError,
    Trainer, Workload, estimate, run,
};
use peak_alloc::PeakAlloc;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

const LLAMA: Config = Config {
    vocab: 300,
    dim: 128,
    layers: 4,
    heads: 4,
    kv_heads: 2,
    head_dim: 32,
    hidden: 320,
    context: 128,
    rope_theta: 10_000.0,
    rope_scaling: RopeScaling::None,
    norm_epsilon: 1e-5,
};

const BERT: BertConfig = BertConfig {
    architecture: Architecture::Bert,
    vocab: 300,
    dim: 96,
    layers: 4,
    heads: 4,
    hidden: 384,
    context: 128,
    token_types: 2,
    activation: Activation::Gelu,
    pooling: Pooling::Mean,
    normalize: true,
    norm_epsilon: 1e-12,
};

/// A token per byte.
struct Bytes;

impl Tokenize for Bytes {
    fn encode(&self, text: &str) -> Result<Vec<u32>, TextError> {
        Ok(text.bytes().map(u32::from).collect())
    }

    fn render_chat(&self, _: &[Message], _: bool) -> Result<String, TextError> {
        Ok(String::new())
    }
}

/// Twelve texts of 20 to 120 bytes.
fn texts() -> Vec<String> {
    let mut numbers = Numbers::new(3);
    let mut text = |i: usize| {
        (0..20 + (i * 53) % 101)
            .map(|_| char::from(b'a' + ((numbers.next() + 1.0) * 12.9) as u8))
            .collect()
    };
    (0..12).map(&mut text).collect()
}

fn write(folder: &Path) {
    let lines: String = texts().iter().map(|text| format!("{{\"text\": \"{text}\"}}\n")).collect();
    std::fs::write(folder.join("lm.jsonl"), lines).unwrap();
    let lines: String = texts()
        .iter()
        .enumerate()
        .map(|(i, text)| format!("{text}\t{}\n", ["no", "yes"][i % 2]))
        .collect();
    std::fs::write(folder.join("classify.tsv"), lines).unwrap();
    let row = |i: usize| format!("{}{}\n", "0.5,".repeat(40), ["no", "yes"][i % 2]);
    std::fs::write(folder.join("numbers.csv"), (0..200).map(row).collect::<String>()).unwrap();
}

struct Case {
    name: &'static str,
    archive: Buffer,
    task: Task,
    file: &'static str,
    method: Method,
    batch_size: usize,
    change: fn(&mut Options),
}

/// Predicted and measured bytes, and both counts of trained parameters.
fn measure(case: &Case, folder: &Path) -> [u64; 4] {
    let file = case.file;
    let data_options = |labels| DataOptions { max_length: 128, labels, ..DataOptions::default() };
    let training =
        Dataset::open(folder.join(file), case.task, Some(&Bytes), data_options(None)).unwrap();
    let labels = if case.task == Task::Classify { training.labels().to_vec() } else { Vec::new() };
    let known = (!labels.is_empty()).then(|| labels.clone());
    let validation =
        Dataset::open(folder.join(file), case.task, Some(&Bytes), data_options(known)).unwrap();
    let base = AnyBase::open(&case.archive).unwrap();
    let mut options = Options { learning_rate: 1e-4, ..Options::new(case.method) };
    (case.change)(&mut options);
    let checkpoint = Some((folder.join("checkpoint"), 2));
    let course = RunOptions {
        length: Length::Steps(3),
        batch_size: case.batch_size,
        checkpoint,
        ..RunOptions::default()
    };
    let workload = Workload::of(&training, Some(&validation), &course, options.seed, 1);
    let estimate = estimate(base, &options, &course, &workload).unwrap();

    let before = HEAP.current_usage();
    HEAP.reset_peak_usage();
    let mut trainer = Trainer::new(base, options, labels).unwrap();
    run(&mut trainer, &training, Some(&validation), &course, &Serial, &mut |_| Control::Continue)
        .unwrap();
    let measured = (HEAP.peak_usage() - before) as u64;
    [
        estimate.heap_bytes,
        measured,
        estimate.trainable_parameters as u64,
        trainer.trainable_parameters() as u64,
    ]
}

/// The allocator counts for the whole process: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn the_prediction_is_within_a_tenth_of_what_is_measured() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    write(folder.path());
    let llama = |format| base(&LLAMA, format, format, 1);
    let (float, nf4) = (Format::F32, Format::Nf4);
    let encoder = |format| bert(&BERT, format, Format::F32, false, 2);
    let case = |name, archive, method, batch_size, change| {
        let (task, file) = (Task::LanguageModel, "lm.jsonl");
        Case { name, archive, task, file, method, batch_size, change }
    };
    let keep: fn(&mut Options) = |_| ();
    let again: fn(&mut Options) = |options| options.checkpointing = true;
    let classify = |case| Case { task: Task::Classify, file: "classify.tsv", ..case };
    let numbers = |case| Case { task: Task::Classify, file: "numbers.csv", ..case };
    let config = LstmConfig { vocab: 300, dim: 64, hidden: 96, outputs: 300, ..LSTM };
    let recurrent = |format| lstm(&config, format, format, 4);
    let layers = |format| mlp(40, &[128, 64, 2], MlpActivation::Relu, format, true, 5);
    let cases = [
        case("llama lora 1", llama(float), Method::Lora, 1, keep),
        case("llama lora 8", llama(float), Method::Lora, 8, keep),
        case("llama qlora 1", llama(nf4), Method::QLora, 1, keep),
        case("llama qlora 8", llama(nf4), Method::QLora, 8, keep),
        case("llama qlora 8 checkpointing", llama(nf4), Method::QLora, 8, again),
        case("llama qlora 8 fast", llama(nf4), Method::QLora, 8, |options| {
            options.precision = Precision::Fast
        }),
        case("llama qlora 4 dropout", llama(nf4), Method::QLora, 4, |options| {
            options.dropout = 0.1
        }),
        case("llama qlora 1 rank 64", llama(nf4), Method::QLora, 1, |options| options.rank = 64),
        case("llama dora 4", llama(nf4), Method::Dora, 4, keep),
        case("llama ia3 4", llama(nf4), Method::Ia3, 4, keep),
        case("llama dora 4 checkpointing dropout", llama(nf4), Method::Dora, 4, |options| {
            options.checkpointing = true;
            options.dropout = 0.1;
        }),
        case("llama lora-fa 4", llama(nf4), Method::LoraFa, 4, keep),
        case("llama lora+ 4", llama(float), Method::LoraPlus, 4, keep),
        case("llama dylora 4", llama(float), Method::DyLora, 4, keep),
        case("llama full 2", llama(float), Method::Full, 2, keep),
        case("llama full 8 adamw8bit", llama(float), Method::Full, 8, |options| {
            options.optimizer = OptimizerKind::adamw_8bit()
        }),
        classify(case("bert lora 4", encoder(float), Method::Lora, 4, keep)),
        classify(case("bert qlora 1", encoder(nf4), Method::QLora, 1, keep)),
        classify(case("bert qlora 8 checkpointing", encoder(nf4), Method::QLora, 8, again)),
        classify(case("bert ia3 8", encoder(nf4), Method::Ia3, 8, keep)),
        classify(case("bert dora 8", encoder(nf4), Method::Dora, 8, keep)),
        classify(case("bert lora-fa 8 dropout", encoder(nf4), Method::LoraFa, 8, |options| {
            options.dropout = 0.1
        })),
        classify(case("bert full 4", encoder(float), Method::Full, 4, keep)),
        classify(case("lstm lora 4", recurrent(float), Method::Lora, 4, keep)),
        case("lstm qlora 8", recurrent(nf4), Method::QLora, 8, keep),
        case("lstm dora 8 checkpointing", recurrent(nf4), Method::Dora, 8, again),
        numbers(case("mlp lora 64", layers(float), Method::Lora, 64, keep)),
        numbers(case("mlp full 16", layers(float), Method::Full, 16, keep)),
    ];
    // Tables and thread locals that live on after the first run.
    measure(&cases[0], folder.path());
    let mut wrong = Vec::new();
    for case in &cases {
        let [predicted, measured, parameters, trained] = measure(case, folder.path());
        let ratio = predicted as f64 / measured as f64;
        println!(
            "{:<36} predicted {predicted:>10}  measured {measured:>10}  ratio {ratio:.3}",
            case.name
        );
        assert_eq!(parameters, trained, "{}", case.name);
        if !(0.9..=1.1).contains(&ratio) {
            wrong.push(case.name);
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// The estimate for `sequences` of `length` rows.
fn estimated(
    archive: &[u8],
    method: Method,
    labels: usize,
    (sequences, length): (usize, usize),
    change: impl Fn(&mut Options),
) -> Result<Estimate, TrainError> {
    let mut options = Options::new(method);
    change(&mut options);
    let batches = vec![vec![length; sequences]];
    let workload = Workload { batches, steps: None, validation: None, labels, threads: 2 };
    estimate(AnyBase::open(archive).unwrap(), &options, &RunOptions::default(), &workload)
}

/// Pages of this process that were touched for the first time.
#[cfg(target_os = "linux")]
fn faults() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields = stat.rsplit(')').next().unwrap();
    fields.split_whitespace().nth(7).unwrap().parse().unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn what_no_machine_holds_is_estimated_without_touching_it() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let llama = |format| base(&LLAMA, format, format, 1);
    let encoder = |format| bert(&BERT, format, Format::F32, false, 2);
    let config = LstmConfig { vocab: 300, dim: 64, hidden: 96, outputs: 300, ..LSTM };
    let recurrent = |format| lstm(&config, format, format, 4);
    let layers = || mlp(40, &[128, 64, 2], MlpActivation::Relu, Format::F32, true, 5);
    let (float, nf4) = (Format::F32, Format::Nf4);
    let (texts, short, rows) = ((1 << 16, 128), (1 << 13, 128), (1 << 20, 1));
    for (archive, method, labels, size) in [
        (llama(nf4), Method::QLora, 0, texts),
        (llama(nf4), Method::Dora, 0, texts),
        (llama(float), Method::Full, 0, texts),
        (llama(float), Method::Full, 3, texts),
        (encoder(nf4), Method::QLora, 2, texts),
        (encoder(nf4), Method::Dora, 2, texts),
        (encoder(float), Method::Full, 2, texts),
        (recurrent(nf4), Method::Dora, 0, short),
        (recurrent(float), Method::Full, 2, short),
        (layers(), Method::Lora, 2, rows),
        (layers(), Method::Full, 2, rows),
    ] {
        for (dropout, checkpointing) in [(0.0, false), (0.1, true)] {
            let dropout = if method == Method::Full { 0.0 } else { dropout };
            let before = faults();
            let found = estimated(&archive, method, labels, size, |options| {
                (options.dropout, options.checkpointing) = (dropout, checkpointing)
            });
            let bytes = found.unwrap().step_bytes;
            let touched = 4096 * (faults() - before);
            assert!(bytes > 1 << 30, "{method} {labels}: {bytes}");
            assert!(touched < 1 << 28, "{method} {labels}: {touched} of {bytes} bytes are touched");
        }
    }
}

#[test]
fn what_has_no_addresses_is_refused_with_its_size_wherever_that_is_found() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let deep = base(&Config { layers: 40, context: 1 << 20, ..LLAMA }, Format::Nf4, Format::Nf4, 1);
    for method in [Method::QLora, Method::Dora, Method::LoraFa] {
        for halvings in 0..8 {
            let size = (2048 >> halvings, 1 << 20);
            let found = estimated(&deep, method, 0, size, |options| options.dropout = 0.1);
            match found.map(|found| found.step_bytes) {
                Err(error) if halvings < 7 => {
                    let said = error.to_string();
                    assert!(said.contains("bytes of address space"), "{method}: {said}");
                }
                found => assert!(halvings > 0 && found.is_ok(), "{method} {halvings}: {found:?}"),
            }
        }
    }
}

#[test]
fn a_workload_that_cannot_be_is_refused() {
    let decoder = base(&LLAMA, Format::F32, Format::F32, 1);
    for size in [(0, 1), (1 << 21, 1), (1 << 20, 1 << 40)] {
        let found = estimated(&decoder, Method::Lora, 0, size, |_| ());
        let is_possible = size.0 == 1 << 20;
        assert_eq!(found.is_ok(), is_possible, "{size:?}: {found:?}");
    }
    let [longest, longer] =
        [128, 129].map(|length| estimated(&decoder, Method::Lora, 0, (8, length), |_| ()).unwrap());
    assert_eq!(longest, longer, "a sequence is no longer than the context");
}
