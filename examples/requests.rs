//! A server's loop: one long-lived batch, to which requests come from several threads, with prompts
//! of all lengths, under adapters that are made and swapped meanwhile. Each answer is the one that
//! the request gets alone.
//!
//! `cargo run --release --example requests` (the embedded model; nothing is downloaded).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, LazyLock};

use lowrank::adapter::{Choice, Pinned, SharedAdapter, SharedSet};
use lowrank::engine::OwnedSession;
use lowrank::model::llama::Llama;
use lowrank::runtime::{Limits, Sampler, Serial, Session, Threads};
use lowrank::text::Tokenizer;
use lowrank::train::data::{DataOptions, Dataset, Example, Task};
use lowrank::train::{Control, Length, Method, Options, RunOptions, Trainer, run};

type Failure = Box<dyn std::error::Error + Send + Sync>;

static BASE: &[u8] =
    lowrank::include_archive!(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/tiny.lrk"));
static PIRATE: &[u8] =
    lowrank::include_archive!(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/tiny-pirate.lrk"));
static NOTES: &[u8] =
    lowrank::include_archive!(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/tiny-notes.lrk"));

/// The slots that requests name.
const NAMES: [&str; 3] = ["pirate", "notes", "learnt"];
const LEARNT: u32 = 2;
/// Sequences side by side, and prompt tokens of each that one pass reads at most.
const BATCH: usize = 4;
const CHUNK: usize = 16;
const CONTEXT: usize = 128;

static MODEL: LazyLock<Llama<'static>> = LazyLock::new(|| Llama::open(BASE).expect("our archive"));

/// What a client asks for. It pins the adapter when it asks: a swap that comes later changes what
/// the next request gets.
struct Request {
    prompt: Vec<u32>,
    adapter: Option<(Pinned, Choice)>,
    tokens: usize,
    answer: Sender<Vec<u32>>,
}

/// A request that has a sequence.
struct Running {
    request: Request,
    /// Tokens of the prompt that were read.
    read: usize,
    written: Vec<u32>,
}

/// Serves until all clients have gone; returns the number of passes and of tokens in them.
fn serve(
    session: &mut Session<'_, '_>,
    requests: &Receiver<Request>,
) -> Result<(usize, usize), Failure> {
    let mut waiting = VecDeque::new();
    let mut running: [Option<Running>; BATCH] = Default::default();
    let (mut passes, mut tokens) = (0, 0);
    loop {
        // New requests; when there is nothing to do, the next one is waited for.
        let idle = waiting.is_empty() && running.iter().all(Option::is_none);
        if idle {
            let Ok(request) = requests.recv() else { return Ok((passes, tokens)) };
            waiting.push_back(request);
        }
        while let Ok(request) = requests.try_recv() {
            waiting.push_back(request);
        }
        for (sequence, seat) in running.iter_mut().enumerate() {
            if seat.is_none()
                && let Some(request) = waiting.pop_front()
            {
                session.cancel(sequence)?;
                if let Some((pinned, choice)) = &request.adapter {
                    session.select(sequence, pinned, &[*choice])?;
                }
                *seat = Some(Running { request, read: 0, written: Vec::new() });
            }
        }
        // One pass for all: a part of a prompt, or the token that was chosen last.
        let mut entries: Vec<(usize, &[u32])> = Vec::new();
        for (sequence, running) in running.iter_mut().enumerate() {
            let Some(Running { request, read, written }) = running else { continue };
            let next = match written.last() {
                Some(token) => std::slice::from_ref(token),
                None => &request.prompt[*read..][..CHUNK.min(request.prompt.len() - *read)],
            };
            if written.is_empty() {
                *read += next.len();
            }
            entries.push((sequence, next));
        }
        session.advance(&entries)?;
        (passes, tokens) =
            (passes + 1, tokens + entries.iter().map(|(_, t)| t.len()).sum::<usize>());
        for (sequence, seat) in running.iter_mut().enumerate() {
            let Some(Running { request, read, written }) = seat else { continue };
            if *read < request.prompt.len() {
                continue;
            }
            let token = session.sample(sequence, &mut Sampler::greedy())?;
            let is_over = MODEL.is_stop(token);
            if !is_over {
                written.push(token);
            }
            if is_over || written.len() >= request.tokens || session.room(sequence)? == 0 {
                // A client that has gone does not stop the others.
                let _ = request.answer.send(std::mem::take(written));
                *seat = None;
            }
        }
    }
}

/// What a request gets in a session of its own.
fn alone(
    prompt: &[u32],
    adapter: &Option<(Pinned, Choice)>,
    tokens: usize,
) -> Result<Vec<u32>, Failure> {
    let mut session = OwnedSession::open(BASE, Arc::new(Serial), |_, _| Limits::new(CONTEXT))?;
    session.with(|session| {
        if let Some((pinned, choice)) = adapter {
            session.select(0, pinned, &[*choice])?;
        }
        session.prefill(0, prompt)?;
        let mut written = Vec::new();
        while written.len() < tokens {
            let token = session.sample(0, &mut Sampler::greedy())?;
            if MODEL.is_stop(token) {
                break;
            }
            written.push(token);
            if session.room(0)? == 0 {
                break;
            }
            session.step(&[(0, token)])?;
        }
        Ok(written)
    })
}

/// Asks for answers of all lengths, one after the other, and compares each with the one that it
/// gets alone; returns how many there were under the base and each adapter.
fn client(
    number: usize,
    set: &SharedSet<Llama<'static>>,
    tokenizer: &Tokenizer,
    requests: &Sender<Request>,
    is_learnt: &AtomicBool,
) -> Result<[usize; 4], Failure> {
    let topics = ["Duck and boat:", "A cat:", "The old man and the long road to the sea:"];
    let mut counts = [0; 4];
    // Once around all adapters after the last of them has come.
    let mut left = NAMES.len() + 1;
    for round in 0.. {
        if is_learnt.load(Ordering::Acquire) {
            if left == 0 {
                break;
            }
            left -= 1;
        }
        let topic = topics[(number + round) % topics.len()].repeat(1 + (number * round) % 2);
        let prompt = tokenizer.encode_prompt(&topic)?;
        let wanted = (number + round) % 4;
        // The adapter that is being learnt may not be there yet: then the base answers.
        let pinned = (wanted > 0).then(|| set.pin(&[wanted as u32 - 1]).ok()).flatten();
        let adapter = pinned.map(|pinned| (pinned, Choice::slot(wanted as u32 - 1)));
        counts[if adapter.is_some() { wanted } else { 0 }] += 1;
        let tokens = 5 + 7 * ((number + 2 * round) % 4);
        let (answer, answered) = mpsc::channel();
        let request = Request { prompt: prompt.clone(), adapter: adapter.clone(), tokens, answer };
        requests.send(request)?;
        let written = answered.recv()?;
        if written != alone(&prompt, &adapter, tokens)? {
            return Err(format!("client {number}, round {round}: another answer than alone").into());
        }
    }
    Ok(counts)
}

/// Learns an adapter over the base that is being served.
fn learn(tokenizer: &Tokenizer) -> Result<SharedAdapter, Failure> {
    let example = Example::Text("Duck and boat: quack, quack, said the duck in the boat.".into());
    let options = DataOptions { max_length: 64, ..DataOptions::default() };
    let data = Dataset::from_examples([example], Task::LanguageModel, Some(tokenizer), options)?;
    let options = Options { learning_rate: 5e-3, ..Options::new(Method::QLora) };
    let mut trainer = Trainer::new(*MODEL, options, Vec::new())?;
    let length = RunOptions { length: Length::Steps(20), batch_size: 1, ..RunOptions::default() };
    run(&mut trainer, &data, None, &length, &Serial, &mut |_| Control::Continue)?;
    Ok(SharedAdapter::open(trainer.archive("learnt", None)?)?)
}

fn main() -> Result<(), Failure> {
    let tokenizer = Tokenizer::new(&MODEL)?;
    let set = SharedSet::new(*MODEL);
    for (slot, archive) in (0..).zip([PIRATE, NOTES]) {
        set.replace(slot, 0, Arc::new(SharedAdapter::open(archive)?))?;
    }
    let mut session = OwnedSession::open(BASE, Arc::new(Threads::new(0)?), |model, executor| {
        // Exact, so that answers do not depend on who else is in the batch.
        let limits = Limits::for_model(model, CONTEXT, executor);
        Limits { batch: BATCH, precision: lowrank::kernel::Precision::Exact, ..limits }
    })?;
    let (sender, requests) = mpsc::channel();
    let is_learnt = &AtomicBool::new(false);
    let (counts, (passes, tokens)) = std::thread::scope(|scope| -> Result<_, Failure> {
        let (set, tokenizer) = (&set, &tokenizer);
        let server = scope.spawn(move || session.with(|session| serve(session, &requests)));
        let clients: Vec<_> = (0..5)
            .map(|number| {
                let requests = sender.clone();
                scope.spawn(move || client(number, set, tokenizer, &requests, is_learnt))
            })
            .collect();
        drop(sender);
        let published =
            learn(tokenizer).and_then(|adapter| Ok(set.replace(LEARNT, 0, Arc::new(adapter))?));
        is_learnt.store(true, Ordering::Release);
        published?;
        let mut counts = [0; 4];
        for client in clients {
            let found = client.join().map_err(|_| "a client panicked")??;
            counts.iter_mut().zip(found).for_each(|(all, found)| *all += found);
        }
        Ok((counts, server.join().map_err(|_| "the server panicked")??))
    })?;
    println!("answers: {} from the base", counts[0]);
    for (name, count) in NAMES.iter().zip(&counts[1..]) {
        println!("         {count} under {name}");
    }
    println!("{tokens} tokens in {passes} passes; each answer is the one it gets alone");
    Ok(())
}
