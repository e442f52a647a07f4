//! `lowrank adapter import` and `lowrank adapter export`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use lowrank::adapter::{AdapterBuilder, FactorFormat};
use lowrank::export::{PEFT, export_peft};
use lowrank::file::{Kind, OutputFolder};
use lowrank::import::{AdapterOptions, import_gguf_adapter, import_peft};

use crate::Failure;
use crate::files::File;
use crate::output::{Force, line, note, written};

const EXAMPLES: &str = "Examples:
  lowrank adapter import peft-directory --base base.lrk -o style.lrk
  lowrank adapter import peft-classifier --base base.lrk -o topics.lrk \\
    --labels sports,politics,weather
  lowrank adapter import lora.gguf --base base.lrk -o style.lrk --factors int8
  lowrank adapter export style.lrk --base base.lrk -o peft-directory";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// A PEFT directory or a GGUF LoRA file becomes an adapter archive, bound to its base; so does
    /// the classifier of a checkpoint that classifies texts
    Import {
        /// A PEFT directory, a .gguf LoRA file, or the directory of an encoder with a classifier
        source: PathBuf,
        /// The base archive it was trained for
        #[arg(long, value_name = "FILE")]
        base: PathBuf,
        /// The archive to write
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
        #[command(flatten)]
        force: Force,
        /// How the factors A and B are stored
        #[arg(long, value_enum, default_value_t = Factors::AsIs)]
        factors: Factors,
        /// The adapter's name; its file's or folder's if not given
        #[arg(long)]
        name: Option<String>,
        /// The names of a classifier's labels, in the order of its rows [default: those the
        /// directory has, else LABEL_0, LABEL_1, …]
        #[arg(long, value_delimiter = ',', value_name = "NAMES")]
        labels: Option<Vec<String>>,
    },
    /// An adapter archive becomes a PEFT directory
    Export {
        /// The adapter archive
        adapter: PathBuf,
        /// Its base archive
        #[arg(long, value_name = "FILE")]
        base: PathBuf,
        /// The directory to write
        #[arg(short, long, value_name = "DIR")]
        output: PathBuf,
        #[command(flatten)]
        force: Force,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Factors {
    /// f32 or f16, as the source has them
    AsIs,
    F32,
    F16,
    /// 8 bits with one scale per row
    Int8,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    match &arguments.command {
        Command::Import { source, base, output, force, factors, name, labels } => {
            let output = force.output(output, Kind::Adapter, &[source, base])?;
            let base = File::open(base)?;
            let format = match factors {
                Factors::AsIs => FactorFormat::AsIs,
                Factors::F32 => FactorFormat::F32,
                Factors::F16 => FactorFormat::F16,
                Factors::Int8 => FactorFormat::Int8,
            };
            let options = AdapterOptions { name: name.clone(), format };
            let model = base.peft_base()?;
            let mut builder = match source.is_dir() {
                true => import_peft(source, model.as_base(), &options)?,
                false => {
                    // Before anything is said of the base.
                    lowrank::file::open(source)?;
                    import_gguf_adapter(source, &base.base()?, &options)?
                }
            };
            if let Some(labels) = labels {
                name_labels(&mut builder, source, labels)?;
            }
            builder.notes.iter().for_each(note);
            let header = builder.write(model.as_base(), &output)?;
            let bytes = header.payload + lowrank::archive::HEADER_LEN as u64;
            let (path, targets) = (output.path().display(), builder.targets.len());
            let text =
                format_args!("{path}: {bytes} bytes, {targets} targets, method {}", builder.method);
            Ok(written(&output, text)?)
        }
        Command::Export { adapter, base, output, force } => {
            let folder = OutputFolder::new(output, &PEFT, &[adapter, base], force.force)?;
            let (adapter, base) = (File::open(adapter)?, File::open(base)?);
            export_peft(&adapter.adapter()?, base.peft_base()?.as_base(), &folder)?;
            line(format_args!("{}", output.display()))?;
            Ok(())
        }
    }
}

/// Gives the imported classifier's labels their names, and forgets what was said of others.
fn name_labels(
    builder: &mut AdapterBuilder,
    source: &Path,
    labels: &[String],
) -> Result<(), Failure> {
    let Some(classifier) = &builder.classifier else {
        let source = source.display();
        return Err(format!("{source}: it brings no classifier, so --labels has no effect").into());
    };
    let rows = classifier.labels.len();
    builder.name_labels(labels.iter().map(|label| label.trim().to_owned()).collect()).map_err(
        |_| {
            format!(
                "--labels {}: {rows} different names were expected, one for each row of the \
                 classifier in {}",
                labels.join(","),
                source.display()
            )
        },
    )?;
    builder.notes.retain(|note| !note.contains("id2label"));
    Ok(())
}
