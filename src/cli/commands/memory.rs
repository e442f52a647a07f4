//! `lowrank memory`: what running a base will take, before running it. Training is in `estimate`.

use clap::Args;
use lowrank::runtime::{Limits, Need, need, need_on_32_bits};
use serde_json::json;

use crate::Failure;
use crate::attach::{AdapterOptions, open_adapters};
use crate::estimate;
use crate::model::{Kv, ModelOptions};
use crate::output::line;
use crate::sampling::draft;

const EXAMPLES: &str = r"Examples:
  lowrank memory --base base.lrk --adapter style.lrk --context 2048
  lowrank memory --base tiny.lrk --adapter style.lrk --context 128 \
    --prefill-chunk 8 --firmware
  lowrank memory --base base.lrk --method qlora --batch-size 4 \
    --max-length 256
  lowrank memory --base base.lrk --method qlora --batch-size 4 \
    --data style.jsonl --validation held-out.jsonl

With --method it predicts what `lowrank train` with the same options reports:
peak_bytes is the heap's high-water mark and the mapped base. Without --data
every batch is full: batch-size sequences of max-length tokens.";

/// Tokens of a sequence where none is asked for.
const CONTEXT: usize = 512;

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    adapters: AdapterOptions,
    /// Tokens of a sequence [default: 512, at most what the model takes]
    #[arg(long, value_name = "N", conflicts_with = "method")]
    context: Option<usize>,
    /// Sequences side by side
    #[arg(long, default_value_t = 1, value_name = "N", conflicts_with = "method")]
    batch: usize,
    /// Prompt tokens computed at once
    #[arg(long, default_value_t = 32, value_name = "N", conflicts_with = "method")]
    prefill_chunk: usize,
    /// Tokens that generate and chat guess ahead
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = draft)]
    #[arg(conflicts_with = "method")]
    lookup: usize,
    /// How keys and values are kept
    #[arg(long, value_enum, default_value_t = Kv::F16, conflicts_with = "method")]
    kv: Kv,
    /// The workspace on a 32-bit target, and the lines that reserve it in Rust and in C; one
    /// thread and exact products unless told otherwise
    #[arg(long)]
    firmware: bool,
    /// Print JSON with stable names
    #[arg(long)]
    json: bool,
    #[command(flatten, next_help_heading = "Training")]
    training: estimate::Arguments,
}

/// The headings of what `--method` alone makes use of.
const TRAINING: [&str; 5] = ["Training", "Data", "Method", "Optimization", "Validation"];

/// The command, with the options of training refused where no `--method` asks for it.
pub(crate) fn only_with_method(command: clap::Command) -> clap::Command {
    command.mut_args(|option| match option.get_help_heading() {
        Some(heading) if TRAINING.contains(&heading) && option.get_id() != "method" => {
            option.requires("method")
        }
        _ => option,
    })
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    if let Some(method) = arguments.training.method {
        return estimate::run(&arguments.training, &arguments.model, method, arguments.json);
    }
    let base = arguments.model.open()?;
    let model = base.base()?;
    let adapters = open_adapters(&arguments.adapters.adapters)?;
    let mut rank = 0;
    for adapter in &adapters {
        rank += adapter.file.adapter()?.max_rank();
    }
    let context = arguments.context.unwrap_or(CONTEXT.min(model.config().context));
    let limits = match arguments.firmware {
        true => Limits {
            threads: arguments.model.threads.max(1),
            precision: arguments.model.exact_precision(),
            ..Limits::new(context)
        },
        false => {
            let executor = arguments.model.executor()?;
            arguments.model.limits(&model, context, executor.as_ref())
        }
    };
    let limits = Limits {
        batch: arguments.batch,
        prefill_chunk: arguments.prefill_chunk,
        kv_format: arguments.kv.into(),
        max_active: adapters.len(),
        max_total_rank: rank,
        draft: arguments.lookup,
        ..limits
    };
    // Refuses limits that a session would refuse.
    if let Err(error @ lowrank::Error::Limit { .. }) = limits.check(model.config()) {
        return Err(error.into());
    }
    if need(model.config(), &limits).bytes == usize::MAX {
        return Err("the workspace would have more bytes than can be counted".into());
    }
    if arguments.firmware {
        return report_firmware(
            need_on_32_bits(model.config(), &limits),
            need(model.config(), &limits),
            arguments.json,
        );
    }
    let files = adapters.iter().map(|adapter| adapter.file.map.len()).sum();
    let before = crate::PEAK.current_usage();
    let tokenizer = base.text().ok();
    let text = crate::PEAK.current_usage().saturating_sub(before);
    drop(tokenizer);
    report(need(model.config(), &limits), base.map.len(), files, text, arguments.json)
}

/// A session on this machine: its workspace, the base and the adapters' files, and the tokenizer of
/// `text` bytes.
fn report(
    need: Need,
    base: usize,
    files: usize,
    text: usize,
    as_json: bool,
) -> Result<(), Failure> {
    let parts = [need.bytes, base, files, text];
    let peak = parts.into_iter().fold(0, usize::saturating_add);
    if as_json {
        return Ok(line(json!({
            "workspace_bytes": need.bytes, "kv_bytes": need.kv_bytes, "base_bytes": base,
            "adapter_bytes": files, "tokenizer_bytes": text, "peak_bytes": peak,
        }))?);
    }
    let entries = [
        ("base (mapped)", base),
        ("adapters (mapped)", files),
        ("tokenizer (where text goes in)", text),
        ("workspace", need.bytes),
        ("  of which keys and values", need.kv_bytes),
        ("together", peak),
    ];
    for (what, bytes) in entries {
        line(format_args!("{what:<32}{bytes:>14} bytes"))?;
    }
    Ok(())
}

/// The static buffer of a session on a microcontroller, ready to be pasted.
fn report_firmware(narrow: Need, here: Need, as_json: bool) -> Result<(), Failure> {
    let bytes = narrow.bytes;
    let rust = format!(
        "#[repr(align(64))] struct Workspace([u8; {bytes}]); static mut WORKSPACE: Workspace = Workspace([0; {bytes}]);"
    );
    let c = format!("static unsigned char workspace[{bytes}] __attribute__((aligned(64)));");
    if as_json {
        let facts =
            json!({"workspace_bytes": bytes, "kv_bytes": narrow.kv_bytes, "rust": rust, "c": c});
        return Ok(line(&facts)?);
    }
    line(format_args!("{:<28}{bytes:>14} bytes", "workspace, 32-bit target"))?;
    line(format_args!("{:<28}{:>14} bytes", "  of which keys and values", narrow.kv_bytes))?;
    line(format_args!("{:<28}{:>14} bytes", "workspace on this machine", here.bytes))?;
    line(format_args!("Rust  {rust}"))?;
    Ok(line(format_args!("C     {c}"))?)
}

/// The most memory this process has had resident, in bytes, where the system tells.
pub(crate) fn peak_resident() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<usize>().ok().map(|kib| kib * 1024)
}
