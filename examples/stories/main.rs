//! The texts of the embedded model: what a chat model is asked, what is kept of its answers, and
//! how well models predict the rest.
//!
//! - `stories prompts FOLDER` writes `KIND.prompts.jsonl` for `examples/write.rs`.
//! - `stories texts FOLDER TEXTS` reads what that wrote, `FOLDER/KIND.written.jsonl`, and writes
//!   `TEXTS/KIND.train.jsonl` and `TEXTS/KIND.held-out.jsonl`; held-out texts are about pairs that
//!   no training text is about.
//! - `stories bits FOLDER KIND BASE.lrk [ADAPTER.lrk]` prints bits per byte on
//!   `KIND.held-out.jsonl`: of 5-grams counted on `KIND.train.jsonl` if that is there, of the base,
//!   and of the base under the adapter. The end of a text counts as bits, not as a byte.
//!
//! `assets/make.sh` says in which order.

mod clean;
mod ngram;
mod prompts;

use std::fs;
use std::path::Path;

use lowrank::adapter::{Adapter, AdapterSet, Choice, Slot};
use lowrank::archive::ArchiveFile;
use lowrank::model::llama::Llama;
use lowrank::runtime::{Limits, Memory, Serial, Session, need};
use ngram::{Ngram, Smoothing};
use prompts::KINDS;
use serde_json::{Value, json};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["prompts", folder] => write_prompts(Path::new(folder)),
        ["texts", folder, texts] => write_texts(Path::new(folder), Path::new(texts)),
        ["bits", folder, kind, base] => print_bits(Path::new(folder), kind, base, None),
        ["bits", folder, kind, base, adapter] => print_bits(Path::new(folder), kind, base, Some(adapter)),
        _ => Err("usage: stories prompts FOLDER | texts FOLDER TEXTS | bits FOLDER KIND BASE.lrk [ADAPTER.lrk]".into()),
    }
}

fn write_prompts(folder: &Path) -> Result<()> {
    for kind in KINDS {
        let prompts = kind.prompts();
        let lines: String = prompts.iter().map(|prompt| format!("{prompt}\n")).collect();
        fs::write(folder.join(format!("{}.prompts.jsonl", kind.name)), lines)?;
        println!("{}: {} prompts", kind.name, prompts.len());
    }
    Ok(())
}

fn write_texts(folder: &Path, to: &Path) -> Result<()> {
    for kind in KINDS {
        let written = lines(&folder.join(format!("{}.written.jsonl", kind.name)))?;
        let (mut train, mut held_out) = (Vec::new(), Vec::new());
        for (prompt, text) in kind.prompts().iter().zip(&written) {
            let title = prompt["title"].as_str().unwrap_or_default();
            if let Some(text) =
                clean::clean(kind.name, title, text["text"].as_str().unwrap_or_default())
            {
                if prompt["held_out"] == true { &mut held_out } else { &mut train }.push(text);
            }
        }
        // The same text twice would be learnt by heart.
        for (part, texts) in [("train", &mut train), ("held-out", &mut held_out)] {
            texts.sort_unstable();
            texts.dedup();
            let bytes: usize = texts.iter().map(String::len).sum();
            let lines: String =
                texts.iter().map(|text| json!({ "text": text }).to_string() + "\n").collect();
            fs::write(to.join(format!("{}.{part}.jsonl", kind.name)), lines)?;
            println!("{}: {part} {} texts, {bytes} bytes", kind.name, texts.len());
        }
    }
    Ok(())
}

fn lines(path: &Path) -> Result<Vec<Value>> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(text.lines().map(serde_json::from_str).collect::<std::result::Result<_, _>>()?)
}

fn texts(path: &Path) -> Result<Vec<String>> {
    Ok(lines(path)?.iter().filter_map(|line| line["text"].as_str().map(str::to_owned)).collect())
}

fn print_bits(folder: &Path, kind: &str, base: &str, adapter: Option<&str>) -> Result<()> {
    let held_out = texts(&folder.join(format!("{kind}.held-out.jsonl")))?;
    let bytes: usize = held_out.iter().map(String::len).sum();
    let say =
        |name: &str, bits: f64| println!("{kind}: {name} {:.4} bits per byte", bits / bytes as f64);
    let train = folder.join(format!("{kind}.train.jsonl"));
    if train.exists() {
        let train = texts(&train)?;
        for smoothing in [Smoothing::WittenBell, Smoothing::KneserNey] {
            let ngram = Ngram::new(smoothing, train.iter().map(String::as_str));
            say(
                &format!("5-gram, {smoothing:?}"),
                held_out.iter().map(|text| ngram.bits(text)).sum(),
            );
        }
    }
    say(base, bits(base, None, &held_out)?);
    if let Some(adapter) = adapter {
        say(adapter, bits(base, Some(adapter), &held_out)?);
    }
    Ok(())
}

/// The bits of texts and their ends under a base with the tokenizer "bytes", each behind the begin
/// token.
fn bits(base: &str, adapter: Option<&str>, texts: &[String]) -> Result<f64> {
    let file = ArchiveFile::open(base)?;
    let model = Llama::open(&file)?;
    let begin = model.bos().ok_or("the base has no begin token")?;
    let end = model.stop_tokens().next().ok_or("the base has no end token")?;
    let limits = Limits { batch: 32, ..Limits::new(model.config().context) };
    let mut memory = Memory::new(need(model.config(), &limits));
    let adapter = adapter.map(ArchiveFile::open).transpose()?;
    let mut slots = [Slot::EMPTY; 1];
    let mut set = AdapterSet::new(&mut slots, &model);
    let mut session = Session::new(model, &limits, memory.as_mut(), &Serial)?;
    if let Some(adapter) = &adapter {
        set.attach(0, Adapter::open(adapter)?)?;
        session.select(0, &set, &[Choice::slot(0)])?;
    }
    let mut bits = 0.0;
    for text in texts {
        let next: Vec<u32> = text.bytes().map(u32::from).chain([end]).collect();
        let tokens: Vec<u32> =
            [begin].into_iter().chain(next.iter().copied().take(next.len() - 1)).collect();
        session.reset(0)?;
        session
            .score(0, &tokens, |i, logits| bits -= log2_probability(logits, next[i] as usize))?;
    }
    Ok(bits)
}

fn log2_probability(logits: &[f32], token: usize) -> f64 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits.iter().map(|&logit| f64::from(logit - most).exp()).sum();
    (f64::from(logits[token] - most) - total.ln()) / std::f64::consts::LN_2
}
