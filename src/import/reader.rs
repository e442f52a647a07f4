//! Asks a source for its tensors one by one and brings each into its final form: what the importers
//! of all families share.

use std::collections::BTreeSet;
use std::path::Path;

use super::base::{BaseOptions, Progress};
use super::{Pieces, Source, Tensor};
use crate::archive::schema;
use crate::error::Error;
use crate::file::FileError;
use crate::quant::{BlockScale, Format, Layout, OwnedMatrix, Quantization};

/// Tensors by transformers' names; see [`Source`] for what is promised of them.
pub(crate) trait Tensors {
    fn path(&self) -> &Path;
    fn names(&self) -> Vec<String>;
    fn tensor(&self, name: &str) -> Result<Option<Tensor>, FileError>;
    fn pieces(&self, name: &str) -> Result<Option<Pieces<'_>>, FileError>;
    fn kept(&self, name: &str) -> Option<Format>;
}

impl<S: Source + ?Sized> Tensors for S {
    fn path(&self) -> &Path {
        Source::path(self)
    }

    fn names(&self) -> Vec<String> {
        Source::names(self)
    }

    fn tensor(&self, name: &str) -> Result<Option<Tensor>, FileError> {
        Source::tensor(self, name)
    }

    fn pieces(&self, name: &str) -> Result<Option<Pieces<'_>>, FileError> {
        Source::pieces(self, name)
    }

    fn kept(&self, name: &str) -> Option<Format> {
        Source::kept(self, name)
    }
}

/// A linear layer, finished.
pub(crate) struct Layer {
    weight: OwnedMatrix,
    bias: Vec<f32>,
}

impl From<OwnedMatrix> for Layer {
    fn from(weight: OwnedMatrix) -> Self {
        Self { weight, bias: Vec::new() }
    }
}

impl Layer {
    pub(crate) fn view(&self) -> schema::Linear<'_> {
        schema::Linear { weight: self.weight.view().into(), bias: &self.bias }
    }
}

/// Asks a source for tensors and finishes them.
pub(crate) struct Reader<'r, T: ?Sized> {
    source: &'r T,
    options: &'r BaseOptions,
    /// Names that nobody has asked for yet.
    left: BTreeSet<String>,
    done: usize,
    total: usize,
    progress: &'r mut dyn FnMut(Progress<'_>),
}

impl<'r, T: Tensors + ?Sized> Reader<'r, T> {
    pub(crate) fn new(
        source: &'r T,
        options: &'r BaseOptions,
        progress: &'r mut dyn FnMut(Progress<'_>),
    ) -> Self {
        let left: BTreeSet<String> = source.names().into_iter().collect();
        Self { source, options, total: left.len(), left, done: 0, progress }
    }

    /// The linear layer at a module path, `[rows, cols]`; its bias may be absent.
    pub(crate) fn linear(&mut self, path: &str, shape: (usize, usize)) -> Result<Layer, FileError> {
        let bias = self.optional_vector(&format!("{path}.bias"), shape.0)?.unwrap_or_default();
        Ok(Layer { weight: self.weight(path, shape, self.linear_format(path))?, bias })
    }

    /// The format of the linear layer at a module path.
    fn linear_format(&self, path: &str) -> Format {
        self.format(path, self.options.weights, self.options.keep_skipped_weights)
    }

    /// The format of the embedding or head at a module path.
    pub(crate) fn edge_format(&self, path: &str) -> Format {
        self.format(path, self.options.embedding, self.options.keep_skipped_embedding)
    }

    /// What `asked` for becomes where the source left the weight at `path` in float on purpose and
    /// such weights are kept: no further loss is added.
    fn format(&self, path: &str, asked: Format, keep: bool) -> Format {
        match asked {
            Format::F32 | Format::F16 => asked,
            _ if !keep => asked,
            _ => self.source.kept(&format!("{path}.weight")).unwrap_or(asked),
        }
    }

    /// As [`linear`](Self::linear), with a bias that must be there.
    pub(crate) fn biased_linear(
        &mut self,
        path: &str,
        shape: (usize, usize),
    ) -> Result<Layer, FileError> {
        let bias = self.vector(&format!("{path}.bias"), shape.0)?;
        Ok(Layer { weight: self.weight(path, shape, self.linear_format(path))?, bias })
    }

    /// [`biased_linear`](Self::biased_linear) or [`linear`](Self::linear).
    pub(crate) fn any_linear(
        &mut self,
        path: &str,
        shape: (usize, usize),
        biased: bool,
    ) -> Result<Layer, FileError> {
        if biased { self.biased_linear(path, shape) } else { self.linear(path, shape) }
    }

    /// The linear layer at a module path in the format of embeddings and heads; unless `biased` its
    /// bias may be absent.
    pub(crate) fn edge(
        &mut self,
        path: &str,
        shape: (usize, usize),
        biased: bool,
    ) -> Result<Layer, FileError> {
        let bias = self.optional_vector(&format!("{path}.bias"), shape.0)?;
        let bias = if biased {
            bias.ok_or_else(|| self.missing(&format!("{path}.bias")))?
        } else {
            bias.unwrap_or_default()
        };
        Ok(Layer { weight: self.weight(path, shape, self.edge_format(path))?, bias })
    }

    /// The weight at a module path in `format`.
    pub(crate) fn weight(
        &mut self,
        path: &str,
        shape: (usize, usize),
        format: Format,
    ) -> Result<OwnedMatrix, FileError> {
        self.optional_weight(path, shape, format)?
            .ok_or_else(|| self.missing(&format!("{path}.weight")))
    }

    pub(crate) fn optional_weight(
        &mut self,
        path: &str,
        (rows, cols): (usize, usize),
        format: Format,
    ) -> Result<Option<OwnedMatrix>, FileError> {
        let name = format!("{path}.weight");
        if !self.left.contains(&name) {
            return Ok(None);
        }
        if let Some(Pieces { shape, mut read }) = self.source.pieces(&name)? {
            self.tell(&name);
            self.check_shape(&name, &shape, &[rows, cols])?;
            return self.quantized(&name, (rows, cols), format, &mut read);
        }
        match self.take(&name)? {
            None => Ok(None),
            Some(Tensor::Dense { shape, values }) => {
                self.check_shape(&name, &shape, &[rows, cols])?;
                self.quantized(&name, (rows, cols), format, &mut |first, out| {
                    out.copy_from_slice(&values[first..][..out.len()]);
                })
            }
            Some(Tensor::Packed(matrix)) => {
                let view = matrix.view();
                self.check_shape(&name, &[view.rows(), view.cols()], &[rows, cols])?;
                if self.options.scale != BlockScale::Absmax {
                    let why = "its codes and scales can only be taken over as they are: nothing can be \
                               fitted to weights that are lost";
                    return Err(FileError::format(self.source.path(), &name, why));
                }
                if matches!(format, Format::Nf4 | Format::Nf4Plain) {
                    return Ok(Some(matrix.with_layout(Layout::Split64)));
                }
                let read = &mut |first, out: &mut [f32]| view.read_flat(first, out);
                self.quantized(&name, (rows, cols), format, read)
            }
        }
    }

    fn quantized(
        &self,
        name: &str,
        (rows, cols): (usize, usize),
        format: Format,
        read: &mut dyn FnMut(usize, &mut [f32]),
    ) -> Result<Option<OwnedMatrix>, FileError> {
        let BaseOptions { block, scale, .. } = *self.options;
        OwnedMatrix::quantize_pieces(&Quantization { format, block, scale }, rows, cols, read)
            .map(Some)
            .map_err(|error| self.refused(name, error))
    }

    pub(crate) fn vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>, FileError> {
        self.optional_vector(name, len)?.ok_or_else(|| self.missing(name))
    }

    pub(crate) fn optional_vector(
        &mut self,
        name: &str,
        len: usize,
    ) -> Result<Option<Vec<f32>>, FileError> {
        let values = match self.take(name)? {
            None => return Ok(None),
            Some(Tensor::Dense { shape, values }) => {
                self.check_shape(name, &shape, &[len])?;
                values
            }
            Some(Tensor::Packed(_)) => {
                return Err(FileError::format(
                    self.source.path(),
                    name,
                    "a norm or bias cannot be packed in 4 bits",
                ));
            }
        };
        if let Some(index) = values.iter().position(|value| !value.is_finite()) {
            return Err(
                self.refused(name, Error::Range { index: index as u64, value: values[index] })
            );
        }
        Ok(Some(values))
    }

    /// Is there a tensor of this name that nobody has asked for?
    pub(crate) fn has(&self, name: &str) -> bool {
        self.left.contains(name)
    }

    fn take(&mut self, name: &str) -> Result<Option<Tensor>, FileError> {
        if !self.left.contains(name) {
            return Ok(None);
        }
        self.tell(name);
        self.source.tensor(name)
    }

    /// The tensor `name` comes next.
    fn tell(&mut self, name: &str) {
        self.left.remove(name);
        (self.progress)(Progress { done: self.done, total: self.total, name });
        self.done += 1;
    }

    fn check_shape(
        &self,
        name: &str,
        found: &[usize],
        expected: &[usize],
    ) -> Result<(), FileError> {
        if found == expected {
            return Ok(());
        }
        let reason =
            format!("the tensor has shape {found:?}, the configuration asks for {expected:?}");
        Err(FileError::format(self.source.path(), name, reason))
    }

    /// What the core said of `name`; no format holds a value that is not finite, so none is
    /// recommended.
    fn refused(&self, name: &str, error: Error) -> FileError {
        match error {
            Error::Range { index, value } if !value.is_finite() => FileError::format(
                self.source.path(),
                name,
                format!("value {index} is {value}; weights must be finite"),
            ),
            other => FileError::core(self.source.path(), name, other),
        }
    }

    fn missing(&self, name: &str) -> FileError {
        FileError::format(self.source.path(), name, "the tensor is missing")
    }

    /// A tensor that nobody asked for would change the model silently, unless it is `harmless`.
    pub(crate) fn refuse_leftovers(
        &self,
        harmless: impl Fn(&str) -> bool,
    ) -> Result<(), FileError> {
        match self.left.iter().find(|name| !harmless(name)) {
            None => Ok(()),
            Some(name) => Err(FileError::format(
                self.source.path(),
                name,
                "this build does not know what the tensor is for",
            )),
        }
    }
}
