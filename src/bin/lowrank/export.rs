//! `lowrank export`: a base for other programs.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use lowrank::export::export_bitsandbytes;

use crate::Failure;
use crate::files::File;
use crate::output::line;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A directory that transformers loads with bitsandbytes: 4-bit codes as they are, the rest f32
    Bitsandbytes,
}

const EXAMPLES: &str = "Example:
  lowrank export base.lrk --format bitsandbytes -o directory";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The base archive
    base: PathBuf,
    /// What to write
    #[arg(long, value_enum)]
    format: Format,
    /// The directory to write
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let base = File::open(&arguments.base)?;
    match arguments.format {
        Format::Bitsandbytes => export_bitsandbytes(&base.base()?, &arguments.output)?,
    }
    line(format_args!("{}", arguments.output.display()))?;
    Ok(())
}
