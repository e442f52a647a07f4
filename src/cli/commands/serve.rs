//! `lowrank serve`: the library's HTTP server over a decoder, an encoder or both, adapters by name and a
//! folder of them.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use lowrank::adapter::Bytes;
use lowrank::archive::ArchiveFile;
use lowrank::engine::{
    EncoderScheduler, Expected, Registry, RegistryOptions, ReplyError, Scheduler,
};
use lowrank::file::FileError;
use lowrank::model::AnyBase;
use lowrank::model::bert::Bert;
use lowrank::model::llama::Llama;
use lowrank::runtime::{EncoderLimits, Executor, KvFormat, Limits};
use lowrank::serve::{Models, Served, ServerOptions, open_registry, register_folder, serve};

use crate::Failure;
use crate::attach::{AdapterArgument, argument};
use crate::files::File;
use crate::model::{Kv, ModelOptions, executor};
use crate::output::{line, note};

const EXAMPLES: &str = r#"Examples:
  lowrank serve --base base.lrk --adapter pirate=pirate.lrk --adapters adapters/
  curl http://127.0.0.1:8080/v1/chat/completions -H 'Content-Type: application/json' \
    -d '{"model": "pirate", "messages": [{"role": "user", "content": "What is tea?"}]}'

  lowrank serve --base base.lrk --embed-base minilm.lrk --adapter sentiment=sentiment.lrk
  curl http://127.0.0.1:8080/v1/embeddings -H 'Content-Type: application/json' \
    -d '{"input": ["Knives stay sharp on wood", "How do I sharpen a knife?"]}'

Clients for OpenAI's interface work with the address http://127.0.0.1:8080/v1; a browser shows a page
to try it at http://127.0.0.1:8080/. SIGTERM and Ctrl-C let what was asked be answered first; a
second one ends at once, with status 130."#;

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelOptions,
    /// An adapter that clients name as model (its file's name if none is given); may be repeated
    #[arg(long = "adapter", value_name = "[NAME=]FILE", value_parser = argument())]
    adapters: Vec<AdapterArgument>,
    /// A folder of adapters, archives and PEFT directories, each read when a client first names it;
    /// clients load from it
    #[arg(long = "adapters", value_name = "DIR")]
    folder: Option<PathBuf>,
    /// An encoder beside a decoder, for vectors and labels of texts; --base alone may be one too
    #[arg(long, value_name = "FILE")]
    embed_base: Option<PathBuf>,
    /// The name of --base for clients [default: its archive's]
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    name: Option<String>,
    /// The name of --embed-base
    #[arg(long, value_name = "NAME", requires = "embed_base", value_parser = NonEmptyStringValueParser::new())]
    embed_name: Option<String>,
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS", help_heading = "Server")]
    host: String,
    /// The port; 0 takes a free one
    #[arg(long, default_value_t = 8080, value_name = "PORT", help_heading = "Server")]
    port: u16,
    /// A file with a key on each line (not those with # in front): requests must bring one
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    api_key_file: Option<PathBuf>,
    /// The same for loading and unloading adapters; without it, the other file's keys do
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    admin_key_file: Option<PathBuf>,
    /// Replies that are written side by side
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = positive, help_heading = "Limits")]
    batch: usize,
    /// Requests that may wait; one more is told to come again
    #[arg(long, default_value_t = 256, value_name = "N", help_heading = "Limits")]
    waiting: usize,
    /// Tokens of prompt and reply of a decoder [default: 2048, at most what the model takes]
    #[arg(long, value_name = "N", value_parser = positive, help_heading = "Limits")]
    context: Option<usize>,
    /// How keys and values are kept [default: f16]
    #[arg(long, value_enum, help_heading = "Limits")]
    kv: Option<Kv>,
    /// Adapters from files in memory at a time
    #[arg(long, default_value_t = 256, value_name = "N", value_parser = positive, help_heading = "Limits")]
    resident: usize,
    /// The largest rank of an adapter
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = positive, help_heading = "Limits")]
    max_rank: usize,
}

/// Adapters that one request may combine.
const ACTIVE: usize = 4;
/// Tokens of prompts that one pass reads: enough to be fast, and few, since replies wait for them.
const CHUNK: usize = 64;
/// Tokens of prompt and reply where none are asked for.
const CONTEXT: usize = 2048;

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let keys = read_keys(arguments.api_key_file.as_deref())?;
    let admin_keys = read_keys(arguments.admin_key_file.as_deref())?;
    let bases = bases(arguments)?;
    let maps: Vec<Bytes> = bases.iter().map(|base| Arc::clone(&base.map).into()).collect();
    let options = RegistryOptions { resident: arguments.resident, max_rank: arguments.max_rank };
    let registry = open_registry(&maps, options)?;
    let count = fill(arguments, &registry, &bases)?;
    let executor = Arc::from(executor(arguments.model.threads)?);
    let models = models(arguments, &bases, &executor)?;
    let (host, port) = (arguments.host.as_str(), arguments.port);
    let listener = TcpListener::bind((host, port))
        .map_err(|error| format!("--host {host} --port {port}: {error}"))?;
    let place = listener.local_addr()?;
    if !place.ip().is_loopback() && keys.is_empty() {
        note("lowrank: everybody who reaches this machine may ask: --api-key-file asks for a key");
    }
    let names: Vec<&str> = bases.iter().map(|base| base.name.as_str()).collect();
    let names = names.join(", ");
    line(format_args!("http://{place}/v1: {names} and {count} adapters, Ctrl-C ends"))?;
    let folder = arguments.folder.clone();
    let options = ServerOptions { folder, keys, admin_keys, ..ServerOptions::default() };
    serve(listener, models, registry, options, end())?;
    Ok(())
}

/// A base and its name.
struct Base {
    name: String,
    path: PathBuf,
    map: Arc<ArchiveFile>,
    is_encoder: bool,
}

impl Base {
    fn new(file: File, name: Option<&str>) -> Result<Self, Failure> {
        let (is_encoder, own) = match file.any_base()? {
            AnyBase::Llama(model) => (false, model.name().to_owned()),
            AnyBase::Bert(model) => (true, model.name().to_owned()),
            other => {
                let (path, root) = (file.path.display(), other.as_base().root());
                let text = format!("{path}: {root}: decoders and encoders are served");
                return Err(text.into());
            }
        };
        let name = name.map_or(own, str::to_owned);
        let name = if name.is_empty() { "base".to_owned() } else { name };
        Ok(Self { name, path: file.path, map: Arc::new(file.map), is_encoder })
    }
}

/// The bases of the command line: at most one that writes, and one that reads.
fn bases(arguments: &Arguments) -> Result<Vec<Base>, Failure> {
    let first = Base::new(arguments.model.open()?, arguments.name.as_deref())?;
    let Some(path) = &arguments.embed_base else { return Ok(vec![first]) };
    let second = Base::new(File::open(path)?, arguments.embed_name.as_deref())?;
    for (base, option, wanted) in [(&first, "--base", false), (&second, "--embed-base", true)] {
        if base.is_encoder != wanted {
            let (path, expected) =
                (base.path.display(), if wanted { "encoder" } else { "decoder" });
            return Err(
                format!("{option} {path}: with --embed-base, this is the {expected}").into()
            );
        }
    }
    if first.name == second.name {
        let name = &first.name;
        return Err(
            format!("both bases are called {name}: --name or --embed-name renames one").into()
        );
    }
    Ok(vec![first, second])
}

/// Starts who answers.
fn models(
    arguments: &Arguments,
    bases: &[Base],
    executor: &Arc<dyn Executor + Send>,
) -> Result<Models, Failure> {
    let mut models = Models::default();
    for base in bases {
        let (map, executor) = (Arc::clone(&base.map), Arc::clone(executor));
        let failed = |error| match error {
            ReplyError::Text(error) => format!("{}: {error}", base.path.display()),
            error => error.to_string(),
        };
        let (name, waiting) = (base.name.clone(), arguments.waiting);
        if base.is_encoder {
            let limits = |model: &Bert<'_>, executor: &dyn Executor| EncoderLimits {
                precision: arguments.model.exact_precision(),
                max_active: ACTIVE,
                max_total_rank: ACTIVE.saturating_mul(arguments.max_rank),
                ..EncoderLimits::for_model(model, executor)
            };
            let most = waiting.saturating_add(arguments.batch);
            let scheduler = EncoderScheduler::start(map, executor, most, limits).map_err(failed)?;
            models.encoder = Some(Served { name, scheduler });
        } else {
            let limits = |model: &Llama<'_>, executor: &dyn Executor| {
                decoder_limits(arguments, model, executor)
            };
            let scheduler = Scheduler::start(map, executor, waiting, limits).map_err(failed)?;
            models.decoder = Some(Served { name, scheduler });
        }
    }
    Ok(models)
}

fn decoder_limits(arguments: &Arguments, model: &Llama<'_>, executor: &dyn Executor) -> Limits {
    let most = model.config().context;
    let context = arguments.context.unwrap_or(CONTEXT.min(most));
    let limits = arguments.model.limits(model, context, executor);
    Limits {
        batch: arguments.batch,
        prefill_chunk: CHUNK.min(context),
        max_active: ACTIVE,
        max_total_rank: ACTIVE.saturating_mul(arguments.max_rank),
        kv_format: arguments.kv.map_or(limits.kv_format, KvFormat::from),
        ..limits
    }
}

/// Gives the adapters of the command line their names, and those of the folder; returns how many.
fn fill(arguments: &Arguments, registry: &Registry, bases: &[Base]) -> Result<usize, Failure> {
    for typed in &arguments.adapters {
        let (name, path, weight) = typed.parts()?;
        if weight != 1.0 {
            let reason = "a request gives the weight, in its list of adapters";
            return Err(format!("--adapter {name}: {reason}").into());
        }
        if bases.iter().any(|base| base.name == name) {
            return Err(format!("--adapter {name}: a base is called so; --name renames it").into());
        }
        registry.load(name, path, Expected::Absent)?;
    }
    if let Some(folder) = &arguments.folder {
        let names: Vec<&str> = bases.iter().map(|base| base.name.as_str()).collect();
        let left = register_folder(registry, folder, &names);
        for path in left.map_err(|error| FileError::io(folder, error))? {
            let path = path.display();
            note(format_args!(
                "lowrank: {path}: not served: its name is taken or is no text, or it is a link to \
                 elsewhere"
            ));
        }
    }
    Ok(registry.known().len())
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("a whole number from 1 on was expected".into()),
        Ok(number) => Ok(number),
    }
}

/// The keys in a file.
fn read_keys(path: Option<&Path>) -> Result<Vec<String>, Failure> {
    let Some(path) = path else { return Ok(Vec::new()) };
    let text = std::fs::read_to_string(path).map_err(|error| FileError::io(path, error))?;
    let mut keys = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let key = line.trim();
        if key.is_empty() || key.starts_with('#') {
            continue;
        }
        if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            let (place, reason) = (
                format!("line {number}"),
                "a key is ASCII letters, digits and signs without spaces: others cannot be sent",
            );
            return Err(FileError::format(path, place, reason).into());
        }
        keys.push(key.to_owned());
    }
    if keys.is_empty() {
        return Err(FileError::format(path, "", "no key is in it: one on each line").into());
    }
    Ok(keys)
}

/// Comes true with SIGTERM or Ctrl-C; a second one ends the program.
async fn end() {
    signal().await;
    tokio::spawn(async {
        signal().await;
        std::process::exit(130);
    });
}

#[cfg(unix)]
async fn signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let wait = |kind| async move {
        match signal(kind) {
            Ok(mut signals) => drop(signals.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = wait(SignalKind::terminate()) => {}
        () = wait(SignalKind::interrupt()) => {}
    }
}

#[cfg(not(unix))]
async fn signal() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}
