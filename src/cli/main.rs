//! The command line: argument definitions, dispatch, exit status. One file per command; none
//! computes anything itself.
//!
//! Exit status 0; 1 with one line on stderr that says what and where; 2 for wrong usage.

mod commands;
mod shared;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

#[cfg(feature = "serve")]
use commands::serve;
use commands::{
    adapter, bench, chat, classify, compare, completions, embed, evaluate, export, generate,
    import, init, inspect, logits, memory, tokenize, train,
};
#[cfg(feature = "cuda")]
use shared::card;
use shared::{
    attach, estimate, files, methods, model, output, progress, prompt, reply, results, sampling,
    template, train_names, train_options,
};

/// Counts the heap's high-water mark.
#[global_allocator]
static PEAK: peak_alloc::PeakAlloc = peak_alloc::PeakAlloc;

/// Any error: printed as one line.
type Failure = Box<dyn std::error::Error>;

/// One 4-bit base model, many small adapters, swapped while it runs.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, max_term_width = 120)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Import a base model: a .gguf file or a Hugging Face directory (plain or bitsandbytes 4-bit)
    Import(import::Arguments),
    /// Make a fresh model to pre-train: llama, bert, lstm or mlp
    Init(init::Arguments),
    /// Import or export a low-rank adapter
    Adapter(adapter::Arguments),
    /// Export a base for other programs
    Export(export::Arguments),
    /// Show what an archive holds
    Inspect(inspect::Arguments),
    /// Read a whole archive and check its checksum and every scale
    Verify(inspect::VerifyArguments),
    /// Continue a prompt
    Generate(generate::Arguments),
    /// Talk to the model; /adapter NAME swaps while the conversation goes on
    Chat(chat::Arguments),
    /// Write the logits after each of given tokens to a .npy file, [tokens, vocab] f32; keys and
    /// values are kept in f32
    Logits(logits::Arguments),
    /// Turn texts into vectors with an encoder: a .npy file, [texts, dim] f32
    Embed(embed::Arguments),
    /// Say which label texts have, with a classifier that was trained or imported
    Classify(classify::Arguments),
    /// Turn text into token ids
    Tokenize(tokenize::Arguments),
    /// Fine-tune an adapter, or a whole float base, on a data file
    Train(train::Arguments),
    /// Measure a model (and an adapter) on a data file
    Evaluate(evaluate::Arguments),
    /// Train several methods on the same data and write a report: table, CSV and pictures
    Compare(compare::Arguments),
    /// What running a base, or with --method training on it, will take, before running it
    Memory(memory::Arguments),
    /// Tokens per second, bytes per token, and bytes per second beside what this machine's memory
    /// gives
    Bench(bench::Arguments),
    /// Answer over HTTP in OpenAI's dialect, each request under the adapter that it names
    #[cfg(feature = "serve")]
    Serve(serve::Arguments),
    /// Print the script that completes commands and options in a shell
    Completions(completions::Arguments),
}

fn main() -> ExitCode {
    match run(&parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads our output has seen enough.
        Err(error) if is_broken_pipe(error.as_ref()) => ExitCode::SUCCESS,
        Err(error) => {
            output::note(format_args!("lowrank: {}", error.to_string().replace(['\n', '\r'], " ")));
            ExitCode::FAILURE
        }
    }
}

/// What was asked for; wrong usage ends the program here.
fn parse() -> Arguments {
    let command = Arguments::command().mut_subcommand("memory", memory::only_with_method);
    Arguments::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit())
}

fn run(command: &Command) -> Result<(), Failure> {
    model::check_isa()?;
    match command {
        Command::Import(arguments) => import::run(arguments),
        Command::Init(arguments) => init::run(arguments),
        Command::Adapter(arguments) => adapter::run(arguments),
        Command::Export(arguments) => export::run(arguments),
        Command::Inspect(arguments) => inspect::run(arguments),
        Command::Verify(arguments) => inspect::verify(arguments),
        Command::Generate(arguments) => generate::run(arguments),
        Command::Chat(arguments) => chat::run(arguments),
        Command::Logits(arguments) => logits::run(arguments),
        Command::Embed(arguments) => embed::run(arguments),
        Command::Classify(arguments) => classify::run(arguments),
        Command::Tokenize(arguments) => tokenize::run(arguments),
        Command::Train(arguments) => train::run(arguments),
        Command::Evaluate(arguments) => evaluate::run(arguments),
        Command::Compare(arguments) => compare::run(arguments),
        Command::Memory(arguments) => memory::run(arguments),
        Command::Bench(arguments) => bench::run(arguments),
        #[cfg(feature = "serve")]
        Command::Serve(arguments) => serve::run(arguments),
        Command::Completions(arguments) => completions::run(arguments),
    }
}

fn is_broken_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
