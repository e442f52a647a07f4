//! On-device personalization in one process: serve, collect corrections, train, swap, serve. The
//! base is never reloaded, and generation goes on while the adapter learns.
//!
//! `cargo run --release --example personalize -- base.lrk` (a chat model, for example the
//! quickstart's).

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lowrank::adapter::{Choice, SharedAdapter, SharedSet};
use lowrank::archive::ArchiveFile;
use lowrank::model::llama::Llama;
use lowrank::runtime::{Limits, Memory, Sampler, Serial, Session, need};
use lowrank::text::{Message, Tokenizer};
use lowrank::train::data::{DataOptions, Dataset, Task};
use lowrank::train::{Control, Event, Length, Method, Options, RunOptions, Trainer, run};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The slot that the user's adapter lives in.
const USER: u32 = 0;
const QUESTION: &str = "What should I cook tonight?";

/// What the user would rather have read: (question, answer).
const CORRECTIONS: [(&str, &str); 4] = [
    ("What should I cook tonight?", "Cook lentil soup, Ada. It takes 30 minutes."),
    ("What should I eat for lunch?", "Eat lentil soup, Ada. It takes 30 minutes."),
    ("Suggest a dinner.", "Lentil soup, Ada. It takes 30 minutes."),
    ("What is quick to make?", "Lentil soup, Ada. It takes 30 minutes."),
];

/// Answers with whatever adapter is in the user's slot now.
fn answer(
    set: &SharedSet<Llama<'_>>,
    model: Llama<'_>,
    tokenizer: &Tokenizer,
    question: &str,
) -> Result<String, Failure> {
    let prompt = tokenizer.render_chat(&[Message::new("user", question)], true)?;
    let prompt = tokenizer.encode_prompt(&prompt)?;
    let limits = Limits::new(prompt.len() + 48);
    let mut memory = Memory::new(need(model.config(), &limits));
    let pinned = set.pin(&[USER]).ok();
    let mut session = Session::new(model, &limits, memory.as_mut(), &Serial)?;
    if let Some(pinned) = &pinned {
        session.select(0, pinned, &[Choice::slot(USER)])?;
    }
    session.prefill(0, &prompt)?;
    let mut written = Vec::new();
    for _ in 0..40 {
        let token = session.sample(0, &mut Sampler::greedy())?;
        if tokenizer.is_stop(token) {
            break;
        }
        written.push(token);
        session.step(&[(0, token)])?;
    }
    Ok(tokenizer.decode(&written, false)?)
}

/// Learns the corrections over the resident base; returns the adapter's archive.
fn learn(model: Llama<'_>, tokenizer: &Tokenizer) -> Result<SharedAdapter, Failure> {
    let mut file = tempfile::Builder::new().suffix(".jsonl").tempfile()?;
    for (question, better) in CORRECTIONS {
        let messages = [("user", question), ("assistant", better)]
            .map(|(role, content)| serde_json::json!({"role": role, "content": content}));
        writeln!(file, "{}", serde_json::json!({ "messages": messages }))?;
    }
    let data_options =
        DataOptions { max_length: 96, completions_only: true, ..DataOptions::default() };
    let data = Dataset::open(file.path(), Task::LanguageModel, Some(tokenizer), data_options)?;
    let options =
        Options { learning_rate: 2e-3, checkpointing: true, ..Options::new(Method::Lora) };
    let mut trainer = Trainer::new(model, options, Vec::new())?;
    let run_options =
        RunOptions { length: Length::Steps(12), batch_size: 4, ..RunOptions::default() };
    run(&mut trainer, &data, None, &run_options, &Serial, &mut |event| {
        if let Event::Step { step, total, loss } = event {
            eprintln!("learning: step {step} of {total}, loss {loss:.3}");
        }
        Control::Continue
    })?;
    Ok(SharedAdapter::open(trainer.archive("user", None)?)?)
}

fn main() -> Result<(), Failure> {
    let path = std::env::args().nth(1).ok_or("usage: personalize BASE.lrk")?;
    let file = ArchiveFile::open(&path)?;
    let model = Llama::open(&file)?;
    let tokenizer = Tokenizer::new(&model)?;
    let set = SharedSet::new(model);

    let before = answer(&set, model, &tokenizer, QUESTION)?;
    println!("before: {before}");
    let learnt = AtomicBool::new(false);
    let served = std::thread::scope(|scope| -> Result<usize, Failure> {
        let teacher = scope.spawn(|| {
            let expected = set.generation(USER);
            let published = learn(model, &tokenizer)
                .and_then(|adapter| Ok(set.replace(USER, expected, Arc::new(adapter))?));
            learnt.store(true, Ordering::Release);
            published
        });
        // The server does not wait for the teacher.
        let mut served = 0;
        while !learnt.load(Ordering::Acquire) {
            answer(&set, model, &tokenizer, QUESTION)?;
            served += 1;
        }
        teacher.join().map_err(|_| "the teacher panicked")??;
        Ok(served)
    })?;
    let after = answer(&set, model, &tokenizer, QUESTION)?;
    println!("served meanwhile: {served} answers");
    println!("after:  {after}");
    if after == before {
        return Err("the answer has not changed".into());
    }
    Ok(())
}
