//! `lowrank embed`: texts become vectors. Pooling and normalization are the base's; the special
//! tokens are its tokenizer's.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use lowrank::adapter::{AdapterSet, Slot};
use lowrank::file::{FileError, Kind, Output};
use lowrank::model::bert::{Bert, Pooling};
use lowrank::runtime::{Encoder, EncoderLimits, Executor, Memory, encoder_need};

use crate::Failure;
use crate::attach::{
    AdapterOptions, NOT_FINITE, OpenAdapter, attach, note_classifiers, open_adapters,
};
use crate::files::File;
use crate::logits::npy_header;
use crate::model::ModelOptions;
use crate::output::{Force, note, written};
use crate::tokenize::TextOptions;

const EXAMPLES: &str = r#"Examples:
  lowrank embed --base minilm.lrk --text "Knives stay sharp on wood" \
    --text "How do I sharpen a knife?" -o vectors.npy
  lowrank embed --base minilm.lrk --adapter domain.lrk --file texts.jsonl \
    -o vectors.npy"#;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PoolingName {
    /// The mean of all tokens
    Mean,
    /// The first token
    Cls,
    /// The base's pooler over the first token
    Pooler,
}

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    adapters: AdapterOptions,
    #[command(flatten)]
    texts: TextOptions,
    /// Tokens of a text, special ones included; what is longer is cut [default: the base's]
    #[arg(long, value_name = "N")]
    max_length: Option<usize>,
    /// Another pooling than the base's; the vectors are then not normalized
    #[arg(long, value_enum)]
    pooling: Option<PoolingName>,
    /// The .npy file to write: [texts, dim] f32
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    force: Force,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let mut inputs = arguments.adapters.inputs(&arguments.model);
    inputs.extend(arguments.texts.file().cloned());
    let inputs: Vec<&Path> = inputs.iter().map(PathBuf::as_path).collect();
    let output = arguments.force.output(&arguments.output, Kind::Npy, &inputs)?;
    let base = arguments.model.file()?;
    let model = base.encoder()?;
    let ids = tokenize(arguments, &base, &model)?;
    let adapters = open_adapters(&arguments.adapters.adapters)?;
    note_classifiers(&adapters)?;
    let executor = arguments.model.executor()?;
    let dim = model.config().dim;
    output.check_room(4 * ids.len() as u64 * dim as u64)?;
    let limits = EncoderLimits {
        precision: arguments.model.exact_precision(),
        ..EncoderLimits::for_texts(&model, &ids, executor.as_ref())
    };
    let pooling = arguments.pooling.map(|name| match name {
        PoolingName::Mean => Pooling::Mean,
        PoolingName::Cls => Pooling::Cls,
        PoolingName::Pooler => Pooling::Pooler,
    });
    let embed =
        |embed: &mut Embed<'_>| write(&output, &[ids.len(), dim], limits.batches(&ids), embed);
    match arguments.model.card()? {
        #[cfg(feature = "cuda")]
        Some(card) => crate::card::with_encoder(&card, model, &adapters, limits, |encoder| {
            embed(&mut |texts| vectors!(encoder, texts, pooling))
        }),
        #[cfg(not(feature = "cuda"))]
        Some(never) => match never {},
        None => with_encoder(model, &adapters, limits, executor.as_ref(), |encoder| {
            embed(&mut |texts| vectors!(encoder, texts, pooling))
        }),
    }?;
    let text = format_args!("{}: [{}, {dim}] f32", output.path().display(), ids.len());
    Ok(written(&output, text)?)
}

/// The vectors of a batch of texts, `[texts, dim]`, of some encoder.
type Embed<'e> = dyn FnMut(&[Vec<u32>]) -> lowrank::Result<Vec<f32>> + 'e;

/// [`Embed`] of an encoder, wherever it is.
macro_rules! vectors {
    ($encoder:ident, $texts:expr, $pooling:expr) => {{
        $encoder.encode(&$texts.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
        let mut all = Vec::new();
        for sequence in 0..$texts.len() {
            all.extend_from_slice(match $pooling {
                Some(pooling) => $encoder.pooled(sequence, pooling)?,
                None => $encoder.embedding(sequence)?,
            });
        }
        Ok(all)
    }};
}
use vectors;

/// Writes the vectors of all batches.
fn write<'i>(
    output: &Output,
    shape: &[usize; 2],
    batches: impl Iterator<Item = &'i [Vec<u32>]>,
    embed: &mut Embed<'_>,
) -> Result<(), Failure> {
    let mut refused = None;
    let written = output.write(|file| {
        let io = |error| FileError::io(output.path(), error);
        let mut out = BufWriter::new(file);
        out.write_all(&npy_header(shape)).map_err(io)?;
        let (mut first, dim) = (0, shape[1]);
        for batch in batches {
            let vectors = embed(batch).map_err(|error| {
                refused = Some(error);
                FileError::core(output.path(), "", error)
            })?;
            if let Some(at) = vectors.iter().position(|value| !value.is_finite()) {
                let text = format!("text {}", first + at / dim + 1);
                return Err(FileError::format(output.path(), text, NOT_FINITE));
            }
            first += batch.len();
            vectors.iter().try_for_each(|value| out.write_all(&value.to_le_bytes())).map_err(io)?;
        }
        out.flush().map_err(io)
    });
    // What the model refuses is not the output file's fault.
    Ok(refused.map_or(Ok(()), Err).map(|()| written)??)
}

/// The tokens of every text; says how many texts were cut.
fn tokenize(
    arguments: &Arguments,
    base: &File,
    model: &Bert<'_>,
) -> Result<Vec<Vec<u32>>, Failure> {
    let (tokenizer, context) = (base.text()?, model.config().context);
    let max_length = arguments.max_length.unwrap_or(model.max_length());
    if max_length > context {
        return Err(format!(
            "--max-length {max_length}: the base has positions for {context} tokens"
        )
        .into());
    }
    let (mut ids, mut cut) = (Vec::new(), 0);
    let mut add = |text: &str| -> Result<(), Failure> {
        let (tokens, lost) = tokenizer.encode_text(text, max_length)?;
        cut += usize::from(lost > 0);
        ids.push(tokens);
        Ok(())
    };
    arguments.texts.texts()?.try_for_each(|text| add(&text?))?;
    if ids.is_empty() {
        return Err("there are no texts to embed".into());
    }
    if cut > 0 {
        note(format_args!(
            "lowrank: {cut} of {} texts are longer than {max_length} tokens and were cut (--max-length)",
            ids.len()
        ));
    }
    Ok(ids)
}

/// Calls `use_it` with an encoder in which `adapters` (with weights) are active in every sequence.
fn with_encoder<T>(
    model: Bert<'_>,
    adapters: &[OpenAdapter],
    limits: EncoderLimits,
    executor: &dyn Executor,
    use_it: impl FnOnce(&mut Encoder<'_, '_>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let mut slots = vec![Slot::EMPTY; adapters.len()];
    let mut set = AdapterSet::new(&mut slots, &model);
    let attached = attach(&mut set, adapters)?;
    let limits =
        EncoderLimits { max_active: adapters.len(), max_total_rank: attached.rank, ..limits };
    let mut memory = Memory::try_new(encoder_need(model.config(), &limits))?;
    let mut encoder = Encoder::new(model, &limits, memory.as_mut(), executor)?;
    for sequence in 0..limits.batch {
        encoder.select(sequence, &set, &attached.choices)?;
    }
    use_it(&mut encoder)
}
