//! `lowrank import`: a model from another format, or a float archive, becomes a base archive.

mod calibrate;

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use lowrank::RootKind;
use lowrank::archive::Header;
use lowrank::file::{FileError, Kind, Output};
use lowrank::import::{AnySource, BaseOptions, with_nf4};
use lowrank::model::AnyBase;
use lowrank::quant::{BlockScale, Format};
use lowrank::text::Message;

use crate::Failure;
use crate::files::File;
use crate::output::{Force, note, written};
use crate::progress::Progress;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Weights {
    /// 4-bit NormalFloat, double quantization: 4.127 bits per weight
    Nf4,
    /// 8-bit integers: 8.25 bits per weight
    Int8,
    /// 16 bits per weight
    F16,
    /// 32 bits per weight
    F32,
}

impl From<Weights> for Format {
    fn from(weights: Weights) -> Self {
        match weights {
            Weights::Nf4 => Self::Nf4,
            Weights::Int8 => Self::Int8,
            Weights::F16 => Self::F16,
            Weights::F32 => Self::F32,
        }
    }
}

const EXAMPLES: &str = r"Examples:
  lowrank import model.gguf -o base.lrk
  lowrank import model.gguf -o base.lrk --fit
  lowrank import model.gguf -o base.lrk --calibrate self
  lowrank import model-directory -o base.lrk --weights f16 --embedding f16
  lowrank import trained.lrk -o base.lrk

The second one takes longer and gives better text, the third one takes
minutes and gives the best. The last one brings a float archive, as init and
full fine-tuning write it, to 4 bits.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// A .gguf file, a Hugging Face directory with config.json and safetensors, or an archive
    /// (.lrk) of float weights
    source: PathBuf,
    /// The archive to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    force: Force,
    /// The format of the linear layers [default: nf4, but layers that a bitsandbytes checkpoint
    /// left in float stay so]
    #[arg(long, value_enum)]
    weights: Option<Weights>,
    /// The format of the embedding of tokens and the output head [default: int8, but a head that a
    /// bitsandbytes checkpoint left in float stays so]
    #[arg(long, value_enum)]
    embedding: Option<Weights>,
    /// Weights per block of nf4 and int8: a power of two from 32 to 4096
    #[arg(long, default_value_t = lowrank::quant::BLOCK, value_name = "N")]
    block: usize,
    /// Choose the scales of nf4 blocks by the error they leave, not by the largest weight: nearer
    /// to the floats in the same bytes, read by the same programs; takes longer, needs no data
    #[arg(long)]
    fit: bool,
    /// Read no tokenizer: the model alone, with or without one beside it
    #[arg(long)]
    without_tokenizer: bool,
    /// The content version to write into the header
    #[arg(long, default_value_t = 1, value_name = "N")]
    content_version: u64,
    #[command(flatten)]
    calibration: calibrate::Calibration,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let default = BaseOptions::default();
    let options = BaseOptions {
        weights: arguments.weights.map_or(default.weights, Format::from),
        embedding: arguments.embedding.map_or(default.embedding, Format::from),
        block: arguments.block,
        scale: if arguments.fit { BlockScale::Fitted } else { BlockScale::Absmax },
        keep_skipped_weights: arguments.weights.is_none(),
        keep_skipped_embedding: arguments.embedding.is_none(),
        allow_missing_tokenizer: arguments.without_tokenizer,
        without_tokenizer: arguments.without_tokenizer,
        content_version: arguments.content_version,
    };
    if arguments.fit && ![options.weights, options.embedding].contains(&Format::Nf4) {
        return Err("--fit has no effect: neither --weights nor --embedding is nf4".into());
    }
    let mut progress = Progress::new("importing");
    let source = &arguments.source;
    let output = &arguments.force.output(&arguments.output, Kind::Base, &[source])?;
    let mut show =
        |p: lowrank::import::Progress<'_>| progress.show(p.done as u64, p.total as u64, p.name);
    let is_archive = source.extension().is_some_and(|extension| extension == "lrk");
    let opened = if is_archive { None } else { Some(AnySource::open(source)?) };
    let header = match (&arguments.calibration.calibrate, &opened) {
        (Some(text), opened) => {
            let source = calibrate::Source { path: source, opened: opened.as_ref() };
            calibrate::write(&arguments.calibration, text, &source, &options, output)?
        }
        (None, Some(opened)) => opened.write(&options, output, &mut show)?,
        (None, None) => quantize(source, &options, output)?,
    };
    progress.finish();
    if matches!(&opened, Some(AnySource::Bert(encoder)) if encoder.has_classifier()) {
        note(format_args!(
            "lowrank: the base has no classifier; lowrank adapter import {} --base {} -o head.lrk \
             makes an adapter of the one in the directory",
            source.display(),
            arguments.output.display()
        ));
    }
    let bytes = header.payload + lowrank::archive::HEADER_LEN as u64;
    let (path, fingerprint) = (arguments.output.display(), header.fingerprint);
    written(output, format_args!("{path}: {bytes} bytes, fingerprint {fingerprint}"))?;
    // What went into a pipe or a device cannot be read again.
    if header.root == RootKind::LLAMA && arguments.output.is_file() {
        check_template(&File::open(&arguments.output)?)?;
    }
    Ok(())
}

/// Tells that conversations cannot be rendered, before somebody tries.
fn check_template(base: &File) -> Result<(), Failure> {
    let Ok(tokenizer) = base.text() else { return Ok(()) };
    if tokenizer.has_template()
        && let Err(error) = tokenizer.render_chat(&[Message::new("user", "?")], true)
    {
        let path = base.path.display();
        note(format_args!("lowrank: {path}: chat will not work with this model: {error}"));
    }
    Ok(())
}

/// A float archive to the default formats.
fn quantize(source: &Path, options: &BaseOptions, output: &Output) -> Result<Header, Failure> {
    let default = BaseOptions {
        keep_skipped_weights: options.keep_skipped_weights,
        keep_skipped_embedding: options.keep_skipped_embedding,
        scale: options.scale,
        ..BaseOptions::default()
    };
    if *options != default {
        return Err(format!(
            "{}: an archive is imported with the default --weights, --embedding, --block and --content-version, and with its tokenizer",
            source.display()
        )
        .into());
    }
    let file = File::open(source)?;
    let base = file.wrap(AnyBase::open(&file.map))?;
    let quantized = file.wrap(with_nf4(&base, options.scale))?;
    let quantized = quantized.ok_or_else(|| {
        format!(
            "{}: its linear layers are quantized already: float ones were expected",
            source.display()
        )
    })?;
    output.write(|file| {
        file.write_all(&quantized).map_err(|error| FileError::io(output.path(), error))
    })?;
    Ok(Header::parse(&quantized).map_err(|error| FileError::core(output.path(), "", error))?)
}
