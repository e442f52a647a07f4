//! `lowrank memory`: what running a base will take, before running it.

use std::path::PathBuf;

use clap::Args;
use lowrank::runtime::{Limits, need};
use serde_json::json;

use crate::Failure;
use crate::files::File;
use crate::model::{Kv, ModelOptions};
use crate::output::line;

const EXAMPLES: &str = "Example:
  lowrank memory --base base.lrk --adapter style.lrk --context 2048";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelOptions,
    /// Adapter archives that are active together
    #[arg(long = "adapter", value_name = "FILE")]
    adapters: Vec<PathBuf>,
    /// Tokens of a sequence
    #[arg(long, default_value_t = 512, value_name = "N")]
    context: usize,
    /// Sequences side by side
    #[arg(long, default_value_t = 1, value_name = "N")]
    batch: usize,
    /// Prompt tokens computed at once
    #[arg(long, default_value_t = 32, value_name = "N")]
    prefill_chunk: usize,
    /// How keys and values are kept
    #[arg(long, value_enum, default_value_t = Kv::F16)]
    kv: Kv,
    /// Print JSON with stable names
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let base = arguments.model.open()?;
    let model = base.base()?;
    let adapters = arguments.adapters.iter().map(File::open).collect::<Result<Vec<_>, _>>()?;
    let mut rank = 0;
    for file in &adapters {
        rank += file.adapter()?.max_rank();
    }
    let limits = Limits {
        batch: arguments.batch,
        prefill_chunk: arguments.prefill_chunk,
        kv_format: arguments.kv.into(),
        precision: arguments.model.precision(&model),
        lanes: arguments.model.executor()?.lanes(),
        max_active: adapters.len(),
        max_total_rank: rank,
        ..Limits::new(arguments.context)
    };
    // Refuses limits that a session would refuse.
    if let Err(error @ lowrank::Error::Limit { .. }) = limits.check(model.config()) {
        return Err(error.into());
    }
    let need = need(model.config(), &limits);
    let files: usize = adapters.iter().map(|file| file.map.len()).sum();
    let peak = need.bytes + base.map.len() + files;
    if arguments.json {
        let facts = json!({
            "workspace_bytes": need.bytes, "kv_bytes": need.kv_bytes, "base_bytes": base.map.len(), "adapter_bytes": files,
            "peak_bytes": peak,
        });
        line(&facts)?;
    } else {
        let entries = [
            ("base (mapped)", base.map.len()),
            ("adapters (mapped)", files),
            ("workspace", need.bytes),
            ("  of which keys and values", need.kv_bytes),
            ("together", peak),
        ];
        for (what, bytes) in entries {
            line(format_args!("{what:<28}{bytes:>14} bytes"))?;
        }
    }
    Ok(())
}

/// The most memory this process has had resident, in bytes, where the system tells.
pub(crate) fn peak_resident() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<usize>().ok().map(|kib| kib * 1024)
}
