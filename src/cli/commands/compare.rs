//! `lowrank compare`: several methods on the same data and seeds, and a folder that says how they
//! did. The runs are the library's, the folder is `report`'s.
//!
//! Interrupted (SIGINT, SIGTERM), or when a method fails, it writes the report of the runs that are
//! finished and ends with status 1.

mod plot;
mod report;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use lowrank::archive::Buffer;
use lowrank::file::OutputFolder;
use lowrank::import::with_nf4;
use lowrank::quant::BlockScale;
use lowrank::train::data::{Dataset, Tokenize};
use lowrank::train::{
    AnyBase, Control, Event, Meter, Method, Options, Run, Workload, estimate, rows, run_method,
};
use serde_json::{Value, json};

use crate::Failure;
use crate::files::File;
use crate::model::ModelOptions;
use crate::output::{Force, line};
use crate::progress::Progress;
use crate::results::say_data;
use crate::train_options::{TaskName, TrainOptions};
use report::{REPORT, Report};

const EXAMPLES: &str = r"Examples:
  lowrank compare --base float.lrk --data train.tsv --validation dev.tsv \
    --task classify --methods lora,qlora,dora,full -o report
  lowrank compare --base float.lrk --data a.jsonl --validation b.jsonl \
    --methods lora,lora+ --seeds 3 -o report

The base should be float (import with --weights f32 or f16): qlora trains on
it quantized to nf4, with its embedding in 8 bits, as import does by default.
The other methods train on it as it is. --learning-rate and the other options
are the same for all.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelOptions,
    /// Training data: .txt, .jsonl, .tsv or .csv
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// The data that methods are measured on
    #[arg(long, value_name = "FILE")]
    validation: PathBuf,
    /// Methods, separated by commas
    #[arg(long, value_parser = crate::methods::MethodParser, value_delimiter = ',', required = true, value_name = "METHODS")]
    methods: Vec<Method>,
    /// Seeds to train each method with, from --seed on
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: u64,
    #[command(flatten)]
    options: TrainOptions,
    /// The folder that is written
    #[arg(short, long, value_name = "FOLDER")]
    output: PathBuf,
    #[command(flatten)]
    force: Force,
    /// Refuse in advance what would take more: bytes, or 400M, 2G, 512MiB
    #[arg(long, value_parser = crate::estimate::bytes, value_name = "BYTES")]
    memory_limit: Option<u64>,
    /// Print the table as JSON with stable names
    #[arg(long)]
    json: bool,
}

/// The program's allocator.
struct Heap;

impl Meter for Heap {
    fn restart(&self) {
        crate::PEAK.reset_peak_usage();
    }

    fn most(&self) -> u64 {
        crate::PEAK.peak_usage() as u64
    }
}

impl Arguments {
    /// Refuses seeds beyond the largest.
    fn check_seeds(&self) -> Result<(), Failure> {
        let first = self.options.seed();
        if self.seeds - 1 <= u64::MAX - first {
            return Ok(());
        }
        Err(format!(
            "--seed {first} and --seeds {}: the last seed would be larger than {}",
            self.seeds,
            u64::MAX
        )
        .into())
    }

    /// The methods as they were named, each once.
    fn each_method(&self) -> Vec<Method> {
        let mut methods = Vec::new();
        for method in &self.methods {
            if !methods.contains(method) {
                methods.push(*method);
            }
        }
        methods
    }
}

/// Everything that runs share.
struct Contest<'c> {
    base: &'c File,
    model: AnyBase<'c>,
    training: Dataset<'c>,
    validation: Dataset<'c>,
    labels: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let inputs = [arguments.model.base.as_path(), &arguments.data, &arguments.validation];
    let folder = OutputFolder::new(&arguments.output, &REPORT, &inputs, arguments.force.force)?;
    let base = arguments.model.open()?;
    let tokenizer = arguments.options.template.apply_to(base.text().ok())?;
    let tokenize = tokenizer.as_ref().map(|tokenizer| tokenizer as &dyn Tokenize);
    let options = &arguments.options;
    options.template.check_used(tokenizer.as_ref())?;
    let model = base.wrap(AnyBase::open(&base.map))?;
    let input = model.input();
    let training = options.open(&arguments.data, input, tokenize, None)?;
    let labels = (options.task == TaskName::Classify).then(|| training.labels().to_vec());
    let validation = options.open(&arguments.validation, input, tokenize, labels.clone())?;
    let contest =
        Contest { base: &base, model, training, validation, labels: labels.unwrap_or_default() };
    arguments.check_seeds()?;
    let methods = arguments.each_method();
    options.check_effects(&methods)?;
    for &method in &methods {
        contest.refuse(arguments, method)?;
    }
    say_data(&arguments.data, &contest.training);
    say_data(&arguments.validation, &contest.validation);

    let stop = Arc::new(AtomicBool::new(false));
    let signalled = Arc::clone(&stop);
    ctrlc::set_handler(move || signalled.store(true, Ordering::Relaxed))?;
    let mut runs = Vec::new();
    let ended = contest.run_all(arguments, &methods, &stop, &mut runs);
    if runs.is_empty() {
        return ended;
    }
    let rows = rows(&runs);
    let mut facts = facts(arguments, &contest)?;
    if let Err(error) = &ended {
        facts.push(("not all runs", error.to_string()));
    }
    let report = Report {
        runs: &runs,
        rows: &rows,
        facts: &facts,
        classifies: options.task == TaskName::Classify,
    };
    report.write(&folder)?;
    if arguments.json {
        let table: Vec<Value> = rows.iter().map(lowrank::train::Row::facts).collect();
        line(
            json!({ "task": if report.classifies { "classify" } else { "lm" }, "seeds": arguments.seeds, "methods": table }),
        )?;
    } else {
        line(report.table().trim_end())?;
        line(format_args!("written to {}", folder.path().display()))?;
    }
    let place = folder.path().display();
    ended.map_err(|error| format!("{error}; what was finished before is in {place}").into())
}

/// What the report says of the contest.
fn facts(
    arguments: &Arguments,
    contest: &Contest<'_>,
) -> Result<Vec<(&'static str, String)>, Failure> {
    let fingerprint =
        contest.base.wrap(lowrank::archive::Header::parse(&contest.base.map))?.fingerprint;
    let name = |path: &std::path::Path| {
        path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
    };
    let data = |path: &std::path::Path, data: &Dataset<'_>| {
        format!("{}: {} examples, {} rows", name(path), data.len(), data.rows())
    };
    let first = arguments.options.seed();
    let seeds = if arguments.seeds == 1 {
        first.to_string()
    } else {
        format!("{first} to {}", first + (arguments.seeds - 1))
    };
    let mut facts = vec![
        (
            "base",
            format!(
                "{} ({} bytes), fingerprint {fingerprint}",
                name(&arguments.model.base),
                contest.base.map.len()
            ),
        ),
        ("training data", data(&arguments.data, &contest.training)),
        ("validation data", data(&arguments.validation, &contest.validation)),
        ("seeds", seeds),
    ];
    facts.extend(arguments.options.facts(contest.model.input()));
    facts.push(("precision of forward products", arguments.model.exact_precision().name().into()));
    facts.push(("threads", arguments.model.executor()?.threads().to_string()));
    facts.push(("instruction set", lowrank::kernel::kernels().name().into()));
    Ok(facts)
}

impl Contest<'_> {
    /// Every method with every seed, until the end, a stop or an error; what is finished is in
    /// `runs`.
    fn run_all(
        &self,
        arguments: &Arguments,
        methods: &[Method],
        stop: &AtomicBool,
        runs: &mut Vec<Run>,
    ) -> Result<(), Failure> {
        let all = methods.len() as u64 * arguments.seeds;
        for &method in methods {
            let nf4 = self.quantized(method)?;
            let first = arguments.options.seed();
            for seed in (0..arguments.seeds).map(|index| first + index) {
                let run = self
                    .run(arguments, method, nf4.as_deref(), seed, stop)
                    .map_err(|error| format!("{method}, seed {seed}: {error}"))?;
                runs.extend(run);
                if stop.load(Ordering::Relaxed) && (runs.len() as u64) < all {
                    return Err(format!("stopped after {} of {all} runs", runs.len()).into());
                }
            }
        }
        Ok(())
    }

    /// The base that a method trains on, if it is not the one given.
    fn quantized(&self, method: Method) -> Result<Option<Buffer>, Failure> {
        Ok(if method == Method::QLora {
            self.base.wrap(with_nf4(&self.model, BlockScale::Absmax))?
        } else {
            None
        })
    }

    /// Refuses what cannot be trained, or not in the memory that is allowed, before anything is.
    fn refuse(&self, arguments: &Arguments, method: Method) -> Result<(), Failure> {
        let options = arguments.options.contestant(method, arguments.model.exact_precision())?;
        let run_options = arguments.options.run_of(method);
        let threads = arguments.model.executor()?.threads();
        let workload = Workload::of(
            &self.training,
            Some(&self.validation),
            &run_options,
            options.seed,
            threads,
        );
        let nf4 = self.quantized(method)?;
        let (model, mapped) = match &nf4 {
            Some(nf4) => (AnyBase::open(nf4)?, 0),
            None => (self.model, self.base.map.len()),
        };
        let estimate = estimate(model, &options, &run_options, &workload)
            .map_err(|error| format!("{method}: {error}"))?;
        let need = crate::PEAK.current_usage() as u64 + estimate.heap_bytes + mapped as u64;
        match arguments.memory_limit {
            Some(limit) => Ok(crate::estimate::check(limit, need)
                .map_err(|error| format!("{method}: {error}"))?),
            None => Ok(()),
        }
    }

    fn run(
        &self,
        arguments: &Arguments,
        method: Method,
        nf4: Option<&[u8]>,
        seed: u64,
        stop: &AtomicBool,
    ) -> Result<Option<Run>, Failure> {
        let options = Options {
            seed,
            ..arguments.options.contestant(method, arguments.model.exact_precision())?
        };
        let (model, mapped) = match nf4 {
            Some(nf4) => (AnyBase::open(nf4)?, 0),
            None => (self.model, self.base.map.len() as u64),
        };
        let executor = arguments.model.executor()?;
        let mut progress = Progress::with_details(method.name());
        let run = run_method(
            model,
            mapped,
            options,
            self.labels.clone(),
            &self.training,
            &self.validation,
            &arguments.options.run_of(method),
            executor.as_ref(),
            &Heap,
            &mut |event| {
                if let Event::Step { step, total, loss } = event {
                    progress.show(step, total, &format!("seed {seed}  loss {loss:.4}"));
                }
                if stop.load(Ordering::Relaxed) { Control::Stop } else { Control::Continue }
            },
        );
        progress.finish();
        Ok(run?)
    }
}
