//! `lowrank export`: a base for other programs.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use lowrank::export::{BITSANDBYTES, export_bitsandbytes};
use lowrank::file::OutputFolder;

use crate::Failure;
use crate::files::File;
use crate::output::{Force, line};

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
    #[command(flatten)]
    force: Force,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let kind = match arguments.format {
        Format::Bitsandbytes => &BITSANDBYTES,
    };
    let (source, force) = (&arguments.base, arguments.force.force);
    let folder = OutputFolder::new(&arguments.output, kind, &[source], force)?;
    let base = File::open(source)?;
    match arguments.format {
        Format::Bitsandbytes => export_bitsandbytes(&base.base()?, &folder)?,
    }
    line(format_args!("{}", arguments.output.display()))?;
    Ok(())
}
