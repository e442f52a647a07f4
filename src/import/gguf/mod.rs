//! GGUF: llama.cpp's file format, as a source of models and of LoRA adapters.
//!
//! [`Gguf`] is a [`Source`](super::Source) over a memory map: `reader` checks the container,
//! `config` and `rope` read the numbers, `dequantize` turns one tensor at a time into f32, `text`
//! and the files it names rebuild the tokenizer. An adapter is read by [`GgufAdapter::open`].
//! Nothing here writes GGUF.
//!
//! Architectures: llama, qwen2, qwen3. Tensor types: F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0,
//! Q4_K, Q5_K, Q6_K, IQ4_NL. Tokenizers: byte-level BPE whose pre-tokenizer is known,
//! SentencePiece, WordPiece. Everything else is refused by name.

mod adapter;
mod config;
mod cursor;
mod dequantize;
mod metadata;
mod names;
mod pretokenizers;
mod reader;
mod rope;
mod sentencepiece;
mod special;
mod text;
mod tokenizer;
mod vocabulary;
mod wordpiece;

use std::collections::BTreeMap;
use std::path::Path;

pub use adapter::{GgufAdapter, GgufTarget, import_gguf_adapter};
pub(super) use tokenizer::byte_characters;

use self::config::Architecture;
use self::names::Part;
use self::reader::Reader;
use super::json::last_part;
use super::{Pieces, Source, Tensor, TextParts};
use crate::file::FileError;
use crate::model::llama::{Config, Site};

/// A model in a GGUF file, opened and checked: structure, architecture, numbers, the name and shape
/// of every tensor.
#[derive(Debug)]
pub struct Gguf {
    reader: Reader,
    architecture: Architecture,
    config: Config,
    /// transformers' name → the part and GGUF's name.
    parts: BTreeMap<String, (Part, String)>,
}

impl Gguf {
    /// Maps and checks the file at `path`. Reads no weights. The file must not change while it is
    /// open.
    ///
    /// # Errors
    /// A [`FileError`] that names the key or tensor which is damaged, missing or not supported.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, FileError> {
        let reader = Reader::open(path.as_ref())?;
        config::check_type(&reader, "model")?;
        let architecture = Architecture::of(&reader)?;
        let config = config::config(&reader, architecture)?;
        let parts = parts(&reader, architecture, &config)?;
        Ok(Self { reader, architecture, config, parts })
    }
}

/// Every tensor of the file by its transformers' name, its shape checked.
fn parts(
    reader: &Reader,
    architecture: Architecture,
    config: &Config,
) -> Result<BTreeMap<String, (Part, String)>, FileError> {
    let mut parts = BTreeMap::new();
    for (name, tensor) in reader.tensors() {
        if name == rope::DIVISORS {
            continue;
        }
        let known = Part::from_gguf(name).filter(|part| match part {
            Part::QNorm(_) | Part::KNorm(_) => architecture == Architecture::Qwen3,
            _ => true,
        });
        let Some(part) =
            known.filter(|part| part.layer().is_none_or(|layer| layer < config.layers))
        else {
            let reason = format!(
                "a {} model of {} blocks has no such tensor, or it is not supported",
                architecture.name(),
                config.layers
            );
            return Err(reader.error(name, reason));
        };
        let expected = part.shape(config);
        if tensor.shape != expected {
            return Err(
                reader.error(name, format!("shape {:?}, expected {expected:?}", tensor.shape))
            );
        }
        parts.insert(part.transformers(), (part, name.clone()));
    }
    let missing = required(architecture, config.layers)
        .map(Part::transformers)
        .find(|name| !parts.contains_key(name));
    match missing {
        Some(name) => Err(reader.error(name, "the file has no such tensor")),
        None => Ok(parts),
    }
}

/// The parts without which there is no model.
fn required(architecture: Architecture, layers: usize) -> impl Iterator<Item = Part> {
    let norms: &[fn(usize) -> Part] = match architecture {
        Architecture::Qwen3 => {
            &[Part::AttentionNorm, Part::FeedForwardNorm, Part::QNorm, Part::KNorm]
        }
        _ => &[Part::AttentionNorm, Part::FeedForwardNorm],
    };
    let norms = move |layer| norms.iter().map(move |norm| norm(layer));
    [Part::Weight(Site::Embedding), Part::FinalNorm]
        .into_iter()
        .chain(Site::linears(layers).map(Part::Weight))
        .chain((0..layers).flat_map(norms))
}

impl Source for Gguf {
    fn path(&self) -> &Path {
        self.reader.path()
    }

    fn name(&self) -> String {
        let named = self.reader.string("general.name").ok().flatten().map(last_part);
        let named = named.filter(|name| !name.is_empty());
        let stem =
            || self.reader.path().file_stem().unwrap_or_default().to_string_lossy().into_owned();
        named.map_or_else(stem, str::to_owned)
    }

    fn config(&self) -> Result<Config, FileError> {
        Ok(self.config)
    }

    fn text(&self) -> Result<TextParts, FileError> {
        text::text(&self.reader, self.config.vocab)
    }

    fn tensor(&self, name: &str) -> Result<Option<Tensor>, FileError> {
        let Some((part, stored)) = self.parts.get(name) else { return Ok(None) };
        let Some(info) = self.reader.tensors().get(stored) else { return Ok(None) };
        let mut values = self.reader.values(info);
        if self.architecture == Architecture::Llama && part.is_rotated() {
            let cols = info.shape.get(1).copied().unwrap_or(1);
            names::unpermute(&mut values, self.config.head_dim, cols);
        }
        Ok(Some(Tensor::Dense { shape: info.shape.clone(), values }))
    }

    fn pieces(&self, name: &str) -> Result<Option<Pieces<'_>>, FileError> {
        let Some((part, stored)) = self.parts.get(name) else { return Ok(None) };
        // Rows in another order are put right as a whole.
        if self.architecture == Architecture::Llama && part.is_rotated() {
            return Ok(None);
        }
        let Some(info) = self.reader.tensors().get(stored) else { return Ok(None) };
        let read = Box::new(|first, out: &mut [f32]| self.reader.read(info, first, out));
        Ok(Some(Pieces { shape: info.shape.clone(), read }))
    }

    fn names(&self) -> Vec<String> {
        self.parts.keys().cloned().collect()
    }
}
