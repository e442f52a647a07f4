//! A chat model writes many short texts: rows of a batch side by side, each refilled as soon as its
//! text has ended.
//!
//! `cargo run --release --example write -- BASE.lrk PROMPTS.jsonl TEXTS.jsonl [ROWS] [WORKERS]`. A
//! prompt is a line `{"messages": [{"role", "content"}, …], "start", "until", "seed"}`: a
//! conversation, what the answer has to begin with, what ends it besides the end of the turn, what
//! its sampling follows from; all but the messages may be missing. A text is a line `{"text", "
//! ended"}` at the same place: the start and what the model wrote behind it; `ended` is false where
//! it was cut at the most tokens. `assets/make.sh` has the embedded model's texts written by this.
//!
//! Why it is several times faster than one text after the other: a pass over 32 rows reads the
//! weights once for all of them, and a row keeps the keys and values of what its next prompt has in
//! common with the last one. Workers share nothing. The same prompts give the same texts on
//! machines with the same instruction set. Not a server: all prompts are there at the start.

use std::error::Error;
use std::fs;
use std::time::Instant;

use lowrank::archive::ArchiveFile;
use lowrank::kernel::{Precision, kernels};
use lowrank::model::llama::Llama;
use lowrank::quant::Format;
use lowrank::runtime::{Limits, Memory, Sampler, SamplerOptions, Serial, Session, need};
use lowrank::text::{Message, Tokenizer};
use serde_json::{Value, json};

type Failure = Box<dyn Error + Send + Sync>;

/// The most tokens of a prompt and its text together.
const CONTEXT: usize = 320;

/// The most tokens of a text.
const LONGEST: usize = 48;

/// A prompt, ready to be answered.
struct Prompt {
    tokens: Vec<u32>,
    start: String,
    until: Option<String>,
    seed: u64,
}

/// A text that is being written.
struct Row<'p> {
    prompt: &'p Prompt,
    /// Where it goes.
    place: usize,
    sampler: Sampler,
    written: Vec<u32>,
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [base, prompts, texts, numbers @ ..] = &arguments[..] else {
        return Err("usage: write BASE.lrk PROMPTS.jsonl TEXTS.jsonl [ROWS] [WORKERS]".into());
    };
    let number =
        |i: usize, default| numbers.get(i).map_or(Ok(default), |text| text.parse::<usize>());
    let (rows, workers) = (number(0, 32)?.max(1), number(1, 2)?.max(1));
    let file = ArchiveFile::open(base)?;
    let model = Llama::open(&file)?;
    let tokenizer = Tokenizer::new(&model)?;
    let source = fs::read_to_string(prompts)?;
    let prompts = source
        .lines()
        .enumerate()
        .map(|(i, line)| prompt(&tokenizer, line, i))
        .collect::<Result<Vec<_>, _>>()?;

    let start = Instant::now();
    let mut all = vec![String::new(); prompts.len()];
    let count = std::thread::scope(|scope| -> Result<usize, Failure> {
        let mut handles = Vec::new();
        for worker in 0..workers {
            let own: Vec<(usize, &Prompt)> =
                prompts.iter().enumerate().skip(worker).step_by(workers).collect();
            let tokenizer = &tokenizer;
            handles.push(scope.spawn(move || write(model, tokenizer, &own, rows)));
        }
        let mut count = 0;
        for handle in handles {
            let (texts, tokens) = handle.join().map_err(|_| "a worker panicked")??;
            count += tokens;
            texts.into_iter().for_each(|(place, text)| all[place] = text);
        }
        Ok(count)
    })?;
    let seconds = start.elapsed().as_secs_f64();
    fs::write(texts, all.concat())?;
    eprintln!(
        "{} texts, {count} tokens in {seconds:.0} s, {:.0} tokens/s",
        all.len(),
        count as f64 / seconds
    );
    Ok(())
}

/// A line of the prompts' file.
fn prompt(tokenizer: &Tokenizer, line: &str, number: usize) -> Result<Prompt, Failure> {
    let json: Value = serde_json::from_str(line)?;
    let wrong = |what: &str| format!("line {}: {what}", number + 1);
    let mut messages = Vec::new();
    for message in json["messages"].as_array().ok_or_else(|| wrong("no list under \"messages\""))? {
        let part = |key: &str| {
            message[key].as_str().ok_or_else(|| wrong("a message without role or content"))
        };
        messages.push(Message::new(part("role")?, part("content")?));
    }
    let text = |key: &str| json[key].as_str().map(str::to_owned);
    let start = text("start").unwrap_or_default();
    let tokens = tokenizer.encode_prompt(&(tokenizer.render_chat(&messages, true)? + &start))?;
    if tokens.len() + LONGEST > CONTEXT {
        return Err(
            wrong(&format!("{} tokens, at most {} fit", tokens.len(), CONTEXT - LONGEST)).into()
        );
    }
    Ok(Prompt {
        tokens,
        start,
        until: text("until"),
        seed: json["seed"].as_u64().unwrap_or(number as u64),
    })
}

/// The lines of all these texts with their places, and how many tokens were written.
fn write(
    model: Llama<'_>,
    tokenizer: &Tokenizer,
    prompts: &[(usize, &Prompt)],
    rows: usize,
) -> Result<(Vec<(usize, String)>, usize), Failure> {
    let precision = Precision::default_for(kernels(), Format::Nf4);
    let limits = Limits { batch: rows, precision, ..Limits::new(CONTEXT) };
    let mut memory = Memory::new(need(model.config(), &limits));
    let mut session = Session::new(model, &limits, memory.as_mut(), &Serial)?;
    let (mut waiting, mut texts, mut count) =
        (prompts.iter(), Vec::with_capacity(prompts.len()), 0);
    let mut writing: Vec<Option<Row<'_>>> = (0..rows).map(|_| None).collect();
    while texts.len() < prompts.len() {
        let mut next = Vec::with_capacity(rows);
        for (i, row) in writing.iter_mut().enumerate() {
            if row.is_none()
                && let Some(&(place, prompt)) = waiting.next()
            {
                refill(&mut session, i, &prompt.tokens)?;
                let options = SamplerOptions {
                    temperature: 0.8,
                    top_k: 40,
                    top_p: 0.95,
                    seed: prompt.seed,
                    ..SamplerOptions::default()
                };
                *row = Some(Row {
                    prompt,
                    place,
                    sampler: Sampler::new(options)?,
                    written: Vec::new(),
                });
            }
            let Some(Row { prompt, place, sampler, written }) = row else { continue };
            let token = session.sample(i, sampler)?;
            let text = tokenizer.decode(written, false)?;
            let ended = tokenizer.is_stop(token)
                || prompt.until.as_ref().is_some_and(|until| text.contains(until));
            if ended || written.len() == LONGEST {
                texts.push((
                    *place,
                    json!({ "text": prompt.start.clone() + &text, "ended": ended }).to_string()
                        + "\n",
                ));
                *row = None;
                if texts.len() % 200 == 0 {
                    eprintln!("{} of {}, {count} tokens", texts.len(), prompts.len());
                }
                continue;
            }
            written.push(token);
            next.push((i, token));
        }
        if !next.is_empty() {
            session.step(&next)?;
            count += next.len();
        }
    }
    Ok((texts, count))
}

/// Makes `tokens` the row's; what they have in common with those that are there is not computed
/// again.
fn refill(session: &mut Session<'_, '_>, row: usize, tokens: &[u32]) -> Result<(), Failure> {
    let common =
        session.tokens(row)?.iter().zip(tokens).take_while(|(old, new)| old == new).count();
    // At least one token has to come, for its logits.
    let common = common.min(tokens.len().saturating_sub(1));
    session.rewind(row, common)?;
    session.prefill(row, &tokens[common..])?;
    Ok(())
}
