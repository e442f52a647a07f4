//! A model directory or file of whatever kind, told apart by what it is. What a source says is in
//! the module of its format.

use std::path::Path;

use super::{
    BaseOptions, Gguf, HuggingFace, HuggingFaceBert, Progress, PyTorch, base_to_buffer,
    bert_to_buffer, directory_kind, pytorch_to_buffer, write_base, write_bert, write_pytorch,
};
use crate::archive::{Buffer, Header};
use crate::error::RootKind;
use crate::file::{FileError, ToOutput};

/// An opened source of any kind that is imported.
#[derive(Debug)]
#[non_exhaustive]
pub enum AnySource {
    /// A decoder in a GGUF file.
    Gguf(Gguf),
    /// A decoder in a Hugging Face directory, plain or bitsandbytes 4-bit.
    HuggingFace(HuggingFace),
    /// An encoder in such a directory.
    Bert(HuggingFaceBert),
    /// An LSTM or MLP in such a directory.
    PyTorch(PyTorch),
}

impl AnySource {
    /// Opens a directory by the `model_type` in its config.json, and a file as GGUF.
    ///
    /// # Errors
    /// A [`FileError`] that names the file and the key: what is not there, damaged or refused.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, FileError> {
        let path = path.as_ref();
        if !path.is_dir() {
            return Gguf::open(path).map(Self::Gguf);
        }
        match directory_kind(path)? {
            kind if kind.is_encoder() => HuggingFaceBert::open(path).map(Self::Bert),
            RootKind::LSTM | RootKind::MLP => PyTorch::open(path).map(Self::PyTorch),
            _ => HuggingFace::open(path).map(Self::HuggingFace),
        }
    }

    /// Imports it into the file `output`, a path or an [`Output`](crate::file::Output) that was
    /// tried: whole or not at all.
    ///
    /// # Errors
    /// As [`write_base`].
    pub fn write(
        &self,
        options: &BaseOptions,
        output: impl ToOutput,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Header, FileError> {
        match self {
            Self::Gguf(source) => write_base(source, options, output, progress),
            Self::HuggingFace(source) => write_base(source, options, output, progress),
            Self::Bert(source) => write_bert(source, options, output, progress),
            Self::PyTorch(source) => write_pytorch(source, options, output, progress),
        }
    }

    /// Imports it into memory.
    ///
    /// # Errors
    /// As [`write_base`].
    pub fn to_buffer(
        &self,
        options: &BaseOptions,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Buffer, FileError> {
        match self {
            Self::Gguf(source) => base_to_buffer(source, options, progress),
            Self::HuggingFace(source) => base_to_buffer(source, options, progress),
            Self::Bert(source) => bert_to_buffer(source, options, progress),
            Self::PyTorch(source) => pytorch_to_buffer(source, options, progress),
        }
    }
}

/// Imports the model at `path`, a GGUF file or a Hugging Face directory of any family, into memory.
/// [`AnySource`] writes it to a file, and tells how far it is.
///
/// ```no_run
/// use lowrank::import::{BaseOptions, import};
/// use lowrank::model::llama::Llama;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let base = import("SmolLM2-135M-Instruct", &BaseOptions::default())?;
/// let model = Llama::open(&base)?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// As [`AnySource::open`] and [`write_base`].
pub fn import(path: impl AsRef<Path>, options: &BaseOptions) -> Result<Buffer, FileError> {
    AnySource::open(path)?.to_buffer(options, &mut |_| ())
}
