//! The embedded model of `assets/`: it opens and verifies, is as small as it says, writes the same
//! 64 tokens on every instruction set, on one thread and on two, with the base and with each
//! adapter, and predicts texts it has not seen as well as `assets/README.md` says, which is better
//! than a 5-gram model counted on the same training texts.
//!
//! Firmware and C compare their tokens with the same program's, see `examples/firmware/run.sh` and
//! `examples/c/Makefile`.

#[path = "../examples/stories/ngram.rs"]
mod ngram;
#[path = "../examples/tiny/task.rs"]
#[allow(dead_code, reason = "the prompt's length and the clock's names are the firmware's")]
mod task;

use lowrank::Error;
use lowrank::adapter::{Adapter, AdapterSet, Choice, Slot};
use lowrank::include_archive;
use lowrank::kernel::{available, kernels};
use lowrank::model::llama::Llama;
use lowrank::runtime::{Executor, Limits, Memory, Serial, Session, Threads, need, need_on_32_bits};
use ngram::{Ngram, Smoothing};
use task::{CONFIG, Clock, LIMITS, PROMPT, ROUNDS, What};

static BASE: &[u8] = include_archive!("../assets/tiny.lrk");
static ADAPTERS: [&[u8]; ROUNDS - 1] =
    [include_archive!("../assets/tiny-pirate.lrk"), include_archive!("../assets/tiny-notes.lrk")];

/// What `assets/README.md` says of the texts that `examples/tiny` prints: base, pirate, notes.
const README: &str = include_str!("../assets/README.md");

struct NoClock;

impl Clock for NoClock {
    fn start(&mut self) {}

    fn stop(&mut self, _: What) {}
}

#[test]
fn it_is_whole_and_small() {
    let model = Llama::open(BASE).unwrap();
    Llama::verify(BASE).unwrap();
    let mut slots = [Slot::EMPTY; ROUNDS - 1];
    let mut set = AdapterSet::new(&mut slots, &model);
    for (slot, adapter) in (0..).zip(ADAPTERS) {
        Adapter::verify(adapter).unwrap();
        set.attach(slot, Adapter::open(adapter).unwrap()).unwrap();
    }
    assert_eq!(*model.config(), CONFIG);
    assert!(BASE.len() + ADAPTERS.iter().map(|adapter| adapter.len()).sum::<usize>() < 1_000_000);
    let need = need_on_32_bits(&CONFIG, &LIMITS);
    assert!(need.kv_bytes <= 64 << 10, "{} bytes of keys and values", need.kv_bytes);
    // 128 KiB in all; the firmware's stack takes less than 16.
    assert!(need.bytes <= 112 << 10, "a workspace of {} bytes", need.bytes);
}

/// The rounds' tokens and logits on this executor.
fn rounds(executor: &dyn Executor) -> [task::Round; ROUNDS] {
    let limits = Limits { threads: executor.threads(), ..LIMITS };
    let mut memory = Memory::new(need(&CONFIG, &limits));
    task::run(BASE, ADAPTERS, memory.as_mut(), executor, &mut NoClock).unwrap()
}

/// What a round says, up to the end of the text.
fn text((tokens, _): &task::Round) -> String {
    let bytes =
        PROMPT.iter().copied().chain(tokens.iter().map_while(|&token| u8::try_from(token).ok()));
    String::from_utf8(bytes.collect()).unwrap()
}

/// Prints the tokens; the next test runs it in a process for each instruction set.
#[test]
fn child_prints_tokens() {
    let alone = rounds(&Serial);
    assert_eq!(alone, rounds(&Threads::new(2).unwrap()), "logits depend on the number of threads");
    println!("{}: {:?};", kernels().name(), alone.map(|round| round.0));
}

#[test]
fn every_instruction_set_writes_the_same_texts() {
    let runner = std::env::var("LOWRANK_TEST_RUNNER").unwrap_or_default();
    let mut command: Vec<_> = runner.split_whitespace().map(Into::into).collect();
    command.push(std::env::current_exe().unwrap().into_os_string());
    let expected = rounds(&Serial);
    for table in available() {
        let output = std::process::Command::new(&command[0])
            .args(&command[1..])
            .args(["--exact", "--nocapture", "child_prints_tokens"])
            .env("LOWRANK_ISA", table.name())
            .output()
            .unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let wanted = format!("{}: {:?};", table.name(), expected.map(|round| round.0));
        assert!(
            said.contains(&wanted),
            "{wanted}\nbut {said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    for round in &expected {
        let text = text(round).replace('\n', "\n    ");
        assert!(README.contains(&text), "assets/README.md does not show\n    {text}");
    }
}

#[test]
fn a_rewound_sequence_continues_like_a_fresh_one() {
    let model = Llama::open(BASE).unwrap();
    let (begin, limits) = (model.bos().unwrap(), Limits { batch: 2, ..LIMITS });
    let mut memory = Memory::new(need(&CONFIG, &limits));
    let mut session = Session::new(model, &limits, memory.as_mut(), &Serial).unwrap();
    let tokens = |text: &str| -> Vec<u32> {
        [begin].into_iter().chain(text.bytes().map(u32::from)).collect()
    };
    let (old, new) = (tokens("Duck and boat: A duck"), tokens("Duck and bell: The"));
    let common = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    session.prefill(0, &old).unwrap();
    session.prefill(1, &new).unwrap();
    session.rewind(0, common).unwrap();
    assert_eq!(session.tokens(0).unwrap(), &old[..common]);
    assert_eq!(session.logits(0), Err(Error::NoLogits { sequence: 0 }));
    session.prefill(0, &new[common..]).unwrap();
    assert_eq!(session.logits(0).unwrap(), session.logits(1).unwrap());
    assert_eq!(
        session.rewind(0, new.len() + 1),
        Err(Error::Length { have: new.len(), need: new.len() + 1 })
    );
    assert_eq!(session.rewind(2, 0), Err(Error::NoSuchSequence { sequence: 2, batch: 2 }));
}

/// The texts of a file of `assets/texts`.
fn texts(name: &str) -> Vec<String> {
    let path = format!("{}/assets/texts/{name}.jsonl", env!("CARGO_MANIFEST_DIR"));
    let lines = std::fs::read_to_string(path).unwrap();
    lines
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["text"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect()
}

/// Bits per byte of a file's texts and their ends under the base, or under an adapter.
fn bits_per_byte(name: &str, adapter: Option<usize>) -> f64 {
    let model = Llama::open(BASE).unwrap();
    let (begin, end) = (model.bos().unwrap(), model.stop_tokens().next().unwrap());
    let limits = Limits { batch: 16, ..Limits::new(CONFIG.context) };
    let mut memory = Memory::new(need(&CONFIG, &limits));
    let mut slots = [Slot::EMPTY; 1];
    let mut set = AdapterSet::new(&mut slots, &model);
    let mut session = Session::new(model, &limits, memory.as_mut(), &Serial).unwrap();
    if let Some(adapter) = adapter {
        set.attach(0, Adapter::open(ADAPTERS[adapter]).unwrap()).unwrap();
        session.select(0, &set, &[Choice::slot(0)]).unwrap();
    }
    let (mut nats, mut bytes) = (0.0, 0);
    for text in texts(name) {
        let tokens: Vec<u32> =
            [begin].into_iter().chain(text.bytes().map(u32::from)).chain([end]).collect();
        bytes += text.len();
        session.reset(0).unwrap();
        let scored = tokens.len() - 1;
        let see = |i: usize, logits: &[f32]| {
            let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let total: f64 = logits.iter().map(|&logit| f64::from(logit - most).exp()).sum();
            nats += total.ln() - f64::from(logits[tokens[i + 1] as usize] - most);
        };
        session.score(0, &tokens[..scored], see).unwrap();
    }
    nats / std::f64::consts::LN_2 / bytes as f64
}

/// The figure that a line of the README's table states, in its column.
fn stated(row: &str, column: usize) -> f64 {
    let line = README
        .lines()
        .find(|line| line.starts_with(&format!("| {row} |")))
        .unwrap_or_else(|| panic!("no row {row}"));
    line.split('|').nth(column + 2).unwrap().trim().parse().unwrap()
}

#[test]
fn it_predicts_unseen_texts_as_stated_and_better_than_5_grams() {
    for (column, kind) in ["story", "pirate", "notes"].into_iter().enumerate() {
        let held_out = format!("{kind}.held-out");
        let base = bits_per_byte(&held_out, None);
        let close = |row: &str, found: f64| {
            let stated = stated(row, column);
            assert!(
                (found - stated).abs() <= 0.01 * stated,
                "{kind}, {row}: {found:.4} bits per byte, the README says {stated}"
            );
        };
        close("base", base);
        if column > 0 {
            let adapted = bits_per_byte(&held_out, Some(column - 1));
            close("its adapter", adapted);
            assert!(
                adapted < 0.7 * base,
                "{kind}: {adapted} bits per byte with its adapter, {base} without"
            );
            continue;
        }
        let (train, unseen) = (texts("story.train"), texts(&held_out));
        for (row, smoothing) in [
            ("5-gram, Witten-Bell", Smoothing::WittenBell),
            ("5-gram, Kneser-Ney", Smoothing::KneserNey),
        ] {
            let ngram = Ngram::new(smoothing, train.iter().map(String::as_str));
            let bits: f64 = unseen.iter().map(|text| ngram.bits(text)).sum();
            let found = bits / unseen.iter().map(String::len).sum::<usize>() as f64;
            close(row, found);
            assert!(base < found, "{base} bits per byte, a 5-gram has {found}");
        }
    }
}
