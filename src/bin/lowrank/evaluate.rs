//! `lowrank evaluate --task lm`: perplexity on a text file or JSON lines.
//!
//! Non-overlapping windows of `--max-length` tokens, each behind the begin-of-sequence token where the model's rule asks for one;
//! the first token of a window is not scored; all scored tokens have the same weight.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use lowrank::file::FileError;
use lowrank::runtime::{KvFormat, Limits};
use lowrank::text::TextBorder;
use serde_json::json;

use crate::Failure;
use crate::model::{AdapterOptions, ModelOptions, open_adapters, with_session};
use crate::output::line;
use crate::progress::Progress;
use crate::tokenize::texts;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Task {
    /// Language modelling: loss and perplexity
    Lm,
}

const EXAMPLES: &str = "Example:
  lowrank evaluate --base base.lrk --adapter style.lrk --data held-out.jsonl --task lm --json";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    adapters: AdapterOptions,
    /// A text file, or JSON lines {"text": …} if it ends in .jsonl
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// What to measure
    #[arg(long, value_enum, default_value_t = Task::Lm)]
    task: Task,
    /// Tokens per window
    #[arg(long, default_value_t = 512, value_name = "N")]
    max_length: usize,
    /// Print JSON with stable names
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let Task::Lm = arguments.task;
    let base = arguments.model.open()?;
    let model = base.base()?;
    let border = TextBorder::new(&model).map_err(|error| format!("{}: {error}", base.path.display()))?;
    let windows = windows(arguments, &border, model.leading_bos())?;
    let adapters = open_adapters(&arguments.adapters.adapters)?;
    let limits = Limits {
        kv_format: KvFormat::F32,
        precision: arguments.model.exact_precision(),
        batch: 8,
        prefill_chunk: 64,
        ..Limits::new(arguments.max_length)
    };
    let executor = arguments.model.executor()?;
    let mut progress = Progress::new("evaluating");
    let (mut loss, mut scored) = (0.0, 0usize);
    with_session(model, &adapters, limits, executor.as_ref(), |session, _| {
        for (i, window) in windows.iter().enumerate() {
            progress.show(i, windows.len(), "");
            session.reset(0)?;
            session.score(0, window, |position, logits| {
                if let Some(&next) = window.get(position + 1) {
                    loss += negative_log_likelihood(logits, next);
                    scored += 1;
                }
            })?;
        }
        Ok(())
    })?;
    progress.finish();
    let loss = loss / scored as f64;
    if !loss.is_finite() {
        return Err(format!("{}: the loss is not a number; run verify", base.path.display()).into());
    }
    if arguments.json {
        line(format_args!("{}", json!({ "loss": loss, "perplexity": loss.exp(), "examples": windows.len(), "tokens": scored })))?;
    } else {
        line(format_args!("perplexity {:.4}  loss {loss:.4}  windows {}  scored tokens {scored}", loss.exp(), windows.len()))?;
    }
    Ok(())
}

fn windows(arguments: &Arguments, border: &TextBorder, bos: Option<u32>) -> Result<Vec<Vec<u32>>, Failure> {
    let path = &arguments.data;
    if arguments.max_length < 2 {
        return Err("--max-length: at least 2 tokens are needed to score one".into());
    }
    let texts: Vec<String> = if path.extension().is_some_and(|extension| extension == "jsonl") {
        texts(path)?.collect::<Result<_, _>>()?
    } else {
        vec![std::fs::read_to_string(path).map_err(|error| FileError::io(path, error))?]
    };
    let room = arguments.max_length - usize::from(bos.is_some());
    let mut windows = Vec::new();
    for text in texts {
        let ids = border.encode(&text, true)?;
        windows.extend(ids.chunks(room).map(|chunk| bos.into_iter().chain(chunk.iter().copied()).collect::<Vec<_>>()));
    }
    windows.retain(|window| window.len() > 1);
    if windows.is_empty() {
        return Err(FileError::format(path, "", "the file holds no text of at least two tokens").into());
    }
    Ok(windows)
}

/// −log softmax(logits)[next], in f64.
fn negative_log_likelihood(logits: &[f32], next: u32) -> f64 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits.iter().map(|&logit| f64::from(logit - most).exp()).sum();
    total.ln() - f64::from(logits[next as usize] - most)
}
