//! A Llama-family model from any [`Source`]: which tensors there are, and in which format each is kept.
//! What a source is, and its formats, are in `import`.

pub(crate) mod config;

use super::schema::ArchivedLlama;
use super::{Config, Site, Vector};
use crate::archive::{Buffer, Header};
use crate::file::{FileError, Kind, ToOutput};
use crate::import::Source;
use crate::import::base::{BaseOptions, Finished, Progress, Tensors, checked_text};
use crate::import::reader::Reader;
use crate::quant::Format;

/// Imports `source` into the file `output`, a path or an [`Output`](crate::file::Output) that was
/// tried: whole or not at all.
///
/// # Errors
/// A [`FileError`] that names the file and the tensor or key; before any tensor is read, what
/// speaks against writing there.
pub fn write_base(
    source: &dyn Source,
    options: &BaseOptions,
    output: impl ToOutput,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Header, FileError> {
    let output = output.output(Kind::Base, &[source.path()])?;
    let config = source.config()?;
    config.check().map_err(|error| FileError::core(source.path(), "config", error))?;
    output.check_room(least_bytes(&config, options))?;
    read(source, options, progress)?.write(options, &output)
}

/// Bytes that the linear layers of a base will take at least.
fn least_bytes(config: &Config, options: &BaseOptions) -> u64 {
    let of = |site: Site, format: Format| {
        let (rows, cols) = site.shape(config);
        let (values, scales, nested) =
            format.payload(rows as u64 * cols as u64, options.block as u64);
        values.saturating_add(scales).saturating_add(nested)
    };
    let embedding = of(Site::Embedding, options.embedding);
    let layers = Site::linears(config.layers).map(|site| of(site, options.weights));
    layers.fold(embedding, u64::saturating_add)
}

/// Imports `source` into memory.
///
/// # Errors
/// As [`write_base`].
pub fn base_to_buffer(
    source: &dyn Source,
    options: &BaseOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Buffer, FileError> {
    read(source, options, progress)?.to_buffer(options, source.path())
}

fn read(
    source: &dyn Source,
    options: &BaseOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Finished<ArchivedLlama<'static>>, FileError> {
    let config = source.config()?;
    config.check().map_err(|error| FileError::core(source.path(), "config", error))?;
    let text = if options.without_tokenizer {
        source.text_without_tokenizer()?.within(config.vocab)
    } else {
        checked_text(source.path(), source.text(), config.vocab, options)?
    };
    let mut reader = Reader::new(source, options, progress);
    let (mut tensors, layers) = (Tensors::default(), config.layers);
    for site in Site::linears(layers) {
        let layer = reader.linear(&site.to_string(), site.shape(&config))?;
        tensors.places.insert(site.number(layers), layer);
    }
    for (number, vector) in (0..).map_while(|n| Some((n, Vector::from_number(n, layers)?))) {
        let name = format!("{vector}.weight");
        let values = match vector {
            Vector::QNorm(_) | Vector::KNorm(_) => {
                reader.optional_vector(&name, config.head_dim)?.unwrap_or_default()
            }
            _ => reader.vector(&name, config.dim)?,
        };
        tensors.vectors.insert(number, values);
    }
    for site in [Site::Embedding, Site::Head] {
        let path = site.to_string();
        let (shape, format) = (site.shape(&config), reader.edge_format(&path));
        let weight = match site {
            Site::Head => reader.optional_weight(&path, shape, format)?,
            _ => Some(reader.weight(&path, shape, format)?),
        };
        tensors.places.extend(weight.map(|weight| (site.number(layers), weight.into())));
    }
    // Buffers that are computed anew.
    reader.refuse_leftovers(|name| {
        name.ends_with("rotary_emb.inv_freq") || name.ends_with("attention.masked_bias")
    })?;
    let (name, config) = (source.name(), config.to_schema());
    Ok(Finished { name, config, layers, text, labels: Vec::new(), max_length: 0, tensors })
}
