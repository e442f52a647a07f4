//! `lowrank train`: fine-tunes an adapter (or a whole float base) on a data file, with checkpoints
//! that resume bit for bit.
//!
//! Interrupted (SIGINT, SIGTERM) it finishes the step, writes a checkpoint and ends with status 1;
//! `--resume` goes on from there. The options of training are in `train_options`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use lowrank::adapter::SharedAdapter;
use lowrank::archive::ArchiveFile;
use lowrank::file::{FileError, Kind, Output};
use lowrank::runtime::Executor;
use lowrank::train::data::{Dataset, Task, Tokenize};
use lowrank::train::{
    AnyBase, Control, Event, Method, Options, Report, RunOptions, Start, TrainError, Trainer,
    Workload, estimate, kind, run as run_training, save, unfinished,
};
use serde_json::{Value, json};

use crate::Failure;
use crate::memory::peak_resident;
use crate::model::ModelOptions;
use crate::output::{Force, note, written};
use crate::progress::Progress;
use crate::results::{measures_json, measures_text, say_data};
use crate::train_options::{TaskName, TrainOptions, counted};

const EXAMPLES: &str = r"Examples:
  lowrank train --base base.lrk --data style.jsonl --epochs 3 -o style.lrk
  lowrank train --base minilm.lrk --data reviews.tsv --task classify \
    --validation dev.tsv --method lora --rank 8 -o sentiment.lrk
  lowrank train --base base.lrk --adapter style.lrk --data more.jsonl \
    --epochs 1 -o style-2.lrk";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelOptions,
    #[arg(help_heading = "Data")]
    /// Training data: .txt, .jsonl, .tsv, or .csv (numbers and a label)
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    #[arg(help_heading = "Data")]
    /// Data that is measured after every epoch
    #[arg(long, value_name = "FILE")]
    validation: Option<PathBuf>,
    #[arg(help_heading = "Method")]
    /// The method [default: qlora; with --adapter that of the adapter]
    #[arg(long, value_parser = crate::methods::MethodParser, value_name = "METHOD")]
    method: Option<Method>,
    #[arg(help_heading = "Method")]
    /// Go on from this adapter, trained or imported: its layers, rank, alpha and scale stay; a
    /// classifier alone gets all-linear layers of rank 8
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = [
            "rank", "alpha", "target_modules", "rank_pattern", "alpha_pattern", "init",
        ],
    )]
    adapter: Option<PathBuf>,
    #[command(flatten)]
    options: TrainOptions,
    #[arg(help_heading = "Output")]
    /// The adapter (with full: the base) that is written
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    force: Force,
    #[arg(help_heading = "Output")]
    /// Steps between checkpoints; 0 for none but on interruption
    #[arg(long, default_value_t = 100, value_name = "N")]
    checkpoint_every: u64,
    #[arg(help_heading = "Output")]
    /// Go on from OUTPUT.checkpoint, as if the run had never stopped
    #[arg(long, conflicts_with = "restart")]
    resume: bool,
    #[arg(help_heading = "Output")]
    /// Begin anew and replace the OUTPUT.checkpoint of a run that was not finished
    #[arg(long)]
    restart: bool,
    #[arg(help_heading = "Output")]
    /// Refuse in advance what would take more: bytes, or 400M, 2G, 512MiB
    #[arg(long, value_parser = crate::estimate::bytes, value_name = "BYTES")]
    memory_limit: Option<u64>,
    #[arg(help_heading = "Output")]
    /// Print JSON with stable names
    #[arg(long)]
    json: bool,
}

impl Arguments {
    /// Is a base written? (One that goes on from an adapter writes an adapter.)
    fn is_full(&self) -> bool {
        self.method.is_some_and(|method| kind(method) == Kind::Base)
    }

    /// Tries the places of the result and of its checkpoints, before there is anything to lose.
    fn try_output(&self) -> Result<(Output, Option<PathBuf>), Failure> {
        let mut inputs = vec![self.model.base.as_path(), &self.data];
        inputs.extend(self.validation.as_deref());
        inputs.extend(self.adapter.as_deref());
        let written = if self.is_full() { Kind::Base } else { Kind::Adapter };
        let output = self.force.output(&self.output, written, &inputs)?;
        let checkpoint = output.beside("checkpoint");
        let path = output.path().display();
        if checkpoint.is_none() && (self.resume || self.restart) {
            return Err(format!(
                "{path}: no checkpoint lies beside it, so --resume and --restart have no effect"
            )
            .into());
        }
        if self.is_full() && self.options.task == TaskName::Classify {
            let classifier = output.beside("classifier.lrk").ok_or_else(|| {
                format!(
                    "{path}: the classifier is written to a second file beside the base: name a \
                     file"
                )
            })?;
            self.force.output(&classifier, Kind::Adapter, &inputs)?;
        }
        Ok((output, checkpoint))
    }

    /// Refuses to begin beside the checkpoint of a run that was not finished, unless asked to.
    fn check_checkpoint(&self, checkpoint: &Path) -> Result<(), Failure> {
        let path = checkpoint.display();
        if !checkpoint.exists() {
            if self.resume {
                note(format_args!("{path}: no checkpoint there, the run starts anew"));
            }
            return Ok(());
        }
        lowrank::file::open(checkpoint)?;
        if self.resume {
            return Ok(());
        }
        // A damaged checkpoint is one too: nothing of it is needed.
        if Output::new(checkpoint, Kind::Checkpoint, &[], false).is_err() {
            return Err(format!("{path} is no checkpoint: move it away to train here").into());
        }
        if self.restart {
            return Ok(());
        }
        match unfinished(checkpoint) {
            Ok(None) => Ok(()),
            Ok(Some(steps)) => Err(format!(
                "{path} is of a run that was not finished (step {steps}): --resume goes on with \
                 it, --restart begins anew and replaces it"
            )
            .into()),
            Err(error) => Err(format!("{error}: --restart begins anew and replaces it").into()),
        }
    }

    /// The adapter to go on from.
    fn start(&self) -> Result<Option<Start>, Failure> {
        let open = |path: &PathBuf| {
            let file = ArchiveFile::open(path)?;
            let adapter = SharedAdapter::open(Box::new(file))
                .map_err(|error| FileError::core(path, "", error))?;
            Ok(Start::from(Arc::new(adapter)))
        };
        self.adapter.as_ref().map(open).transpose()
    }

    /// What the trainer is told.
    fn trainer_options(&self, start: Option<Start>) -> Result<Options, Failure> {
        let precision = self.model.exact_precision();
        let Some(start) = start else {
            return self.options.trainer(self.method.unwrap_or(Method::QLora), precision);
        };
        let method = self.method.unwrap_or(start.method());
        Ok(self.options.trainer(method, precision)?.going_on(start))
    }

    /// The name of the result.
    fn name(&self) -> String {
        let stem = self.output.file_stem();
        stem.map_or_else(|| "adapter".into(), |stem| stem.to_string_lossy().into_owned())
    }
}

/// The usual learning rate is for thousands of steps; after fewer than these nearly nothing is learnt.
const FEW: u64 = 50;

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let (output, checkpoint) = arguments.try_output()?;
    checkpoint.as_ref().map_or(Ok(()), |path| arguments.check_checkpoint(path))?;
    let base = arguments.model.file()?;
    let model = base.wrap(AnyBase::open(&base.map))?;
    let tokenizer = arguments.options.template.apply_to(base.text().ok())?;
    let tokenize = tokenizer.as_ref().map(|tokenizer| tokenizer as &dyn Tokenize);
    let (options, start, input) = (&arguments.options, arguments.start()?, model.input());
    let training = options.open_training(&arguments.data, input, tokenize, start.as_ref())?;
    let labels = (options.task == TaskName::Classify).then(|| training.labels().to_vec());
    let validation = arguments
        .validation
        .as_ref()
        .map(|path| options.open(path, input, tokenize, labels.clone()))
        .transpose()?;
    options.template.check_used(tokenizer.as_ref())?;
    let every = if arguments.checkpoint_every == 0 { u64::MAX } else { arguments.checkpoint_every };
    let run_options = RunOptions {
        checkpoint: checkpoint.clone().map(|path| (path, every)),
        resume: arguments.resume,
        ..options.run()
    };
    let executor = arguments.model.executor()?;
    let trainer_options = arguments.trainer_options(start)?;
    if let Some(limit) = arguments.memory_limit {
        let workload = Workload::of(
            &training,
            validation.as_ref(),
            &run_options,
            trainer_options.seed,
            executor.threads(),
        );
        let estimate = estimate(model, &trainer_options, &run_options, &workload)?;
        crate::estimate::check(limit, crate::estimate::peak(&estimate, base.map.len()))?;
    }
    if let (Some(_), AnyBase::Bert(encoder)) = (&labels, &model)
        && encoder.pooler().is_none()
    {
        note(
            "lowrank: the base has no pooler, through which transformers' classifiers read: the result works here and cannot be exported",
        );
    }
    let mut trainer = Trainer::new(model, trainer_options, labels.unwrap_or_default())?;
    arguments.model.place(&mut trainer, validation.is_some(), arguments.memory_limit)?;
    output.check_room(4 * trainer.trainable_parameters() as u64)?;
    say_data(&arguments.data, &training);
    if let (Some(path), Some(data)) = (&arguments.validation, &validation) {
        say_data(path, data);
    }
    let outcome = watched(&mut trainer, &training, validation.as_ref(), &run_options, &*executor)?;
    let report = finish(arguments, &trainer, outcome, &output, checkpoint)?;
    tell(arguments, &output, &training, &trainer, &report)
}

/// Writes what came of the run; one that stopped or diverged is an error.
fn finish(
    arguments: &Arguments,
    trainer: &Trainer<'_>,
    outcome: Result<Report, TrainError>,
    output: &Output,
    checkpoint: Option<PathBuf>,
) -> Result<Report, Failure> {
    let place = arguments.output.display();
    let report = match outcome {
        Err(error @ TrainError::Diverged { kept: Some(_), .. }) => {
            save(trainer, None, &arguments.name(), output)?;
            return Err(format!("{error} in {place}").into());
        }
        Err(error @ TrainError::Diverged { kept: None, .. }) => {
            return Err(format!("{error}: {place} was not written").into());
        }
        outcome => outcome?,
    };
    if report.stopped {
        let step = report.steps;
        let sentence = match checkpoint {
            None => format!("stopped at step {step}; nothing was written"),
            Some(checkpoint) => format!(
                "stopped at step {step}; the same command with --resume goes on from {}",
                checkpoint.display()
            ),
        };
        return Err(sentence.into());
    }
    save(trainer, report.rank, &arguments.name(), output)?;
    // The run is complete: a later --resume has nothing to go on from.
    if let Some(checkpoint) = checkpoint {
        let _ = std::fs::remove_file(checkpoint);
    }
    Ok(report)
}

/// Trains under a progress bar; signals stop it between two steps.
fn watched(
    trainer: &mut Trainer<'_>,
    training: &Dataset<'_>,
    validation: Option<&Dataset<'_>>,
    options: &RunOptions,
    executor: &dyn Executor,
) -> Result<Result<Report, TrainError>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let signalled = Arc::clone(&stop);
    ctrlc::set_handler(move || signalled.store(true, Ordering::Relaxed))?;
    let mut progress = Progress::with_details("training");
    let mut watch = |event| {
        match event {
            Event::Step { step, total, loss } => {
                progress.show(step, total, &format!("loss {loss:.4}"))
            }
            Event::Validation { step, loss, accuracy } => {
                let accuracy = accuracy
                    .map_or_else(String::new, |accuracy| format!("  accuracy {accuracy:.4}"));
                progress.note(format_args!("step {step}: validation loss {loss:.4}{accuracy}"));
            }
            _ => {}
        }
        if stop.load(Ordering::Relaxed) { Control::Stop } else { Control::Continue }
    };
    let outcome = run_training(trainer, training, validation, options, executor, &mut watch);
    progress.finish();
    Ok(outcome)
}

/// Says that a short run at the usual rate has learnt little.
fn note_few(trainer: &Trainer<'_>, report: &Report) {
    let Options { method, learning_rate, .. } = *trainer.options();
    if report.steps < FEW && learning_rate == Options::new(method).learning_rate {
        note(format_args!(
            "lowrank: {} at the usual rate teach little: --epochs 40 --learning-rate 2e-3 suits a few dozen examples",
            counted(report.steps, "step")
        ));
    }
}

/// The stable names of what a file holds.
fn data_json(data: &Dataset<'_>) -> Value {
    let mut facts = json!({
        "examples": data.len(),
        "tokens": if data.width() == 0 { data.rows() } else { 0 },
        "cut": data.truncated(),
        "left_out": data.skipped(),
    });
    if data.task() == Task::Classify {
        let each = data.labels().iter().cloned().zip(data.label_counts().iter().map(|n| json!(n)));
        facts["labels"] = each.collect::<serde_json::Map<_, _>>().into();
    }
    facts
}

fn tell(
    arguments: &Arguments,
    output: &Output,
    training: &Dataset<'_>,
    trainer: &Trainer<'_>,
    report: &Report,
) -> Result<(), Failure> {
    let line = |text: &dyn std::fmt::Display| written(output, text);
    let speed = report.rows as f64 / report.seconds.max(1e-9);
    if arguments.json {
        let mut facts = json!({
            "method": trainer.options().method.name(),
            "precision": arguments.model.exact_precision().name(),
            "steps": report.steps,
            "loss": report.loss,
            "seconds": report.seconds,
            "tokens_per_s": speed,
            "peak_bytes": crate::PEAK.peak_usage() + std::fs::metadata(arguments.model.base.as_path()).map_or(0, |m| m.len() as usize),
            "peak_resident": peak_resident(),
            "trainable_parameters": trainer.trainable_parameters(),
            "losses": report.losses,
            "data": data_json(training),
        });
        if let Some(rank) = report.rank {
            facts["rank"] = json!(rank);
            facts["rank_losses"] = json!(report.ranks);
        }
        if let Some(measures) = &report.validation {
            facts["validation"] = measures_json(measures);
        }
        return Ok(line(&facts)?);
    }
    line(&format_args!(
        "{}: {}, loss {:.4}, {:.1} s, {speed:.0} tokens/s, {} trained parameters",
        arguments.output.display(),
        counted(report.steps, "step"),
        report.loss,
        report.seconds,
        trainer.trainable_parameters()
    ))?;
    if trainer.options().method == Method::Full
        && !trainer.labels().is_empty()
        && let Some(classifier) = output.beside("classifier.lrk")
    {
        line(&format_args!("{}: its classifier, for --adapter", classifier.display()))?;
    }
    note_few(trainer, report);
    if let Some(rank) = report.rank {
        line(&format_args!(
            "rank {rank} kept; validation loss by rank: {}",
            report.ranks.iter().map(|l| format!("{l:.4}")).collect::<Vec<_>>().join(" ")
        ))?;
    }
    match &report.validation {
        Some(measures) => Ok(line(&measures_text(measures))?),
        None => Ok(()),
    }
}
