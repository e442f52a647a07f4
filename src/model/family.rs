//! What a model family is: the places and vectors of its archived root, listed once, by number.
//!
//! Opening, verifying and being the base of adapters follow from it for all families, in `opened`;
//! building a root from other tensors, in `stored`. No forward pass is here.

use core::fmt;

use rkyv::Portable;
use rkyv::api::low::LowValidator;
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Failure;
use rkyv::vec::ArchivedVec;

use super::opened::{Opened, check_small};
#[cfg(feature = "std")]
use super::stored::Parts;
#[cfg(feature = "alloc")]
use super::stored::{Frame, Stored};
use crate::archive::Line;
use crate::archive::schema::{ArchivedLinear, ArchivedMatrix, ArchivedText, vector};
use crate::error::{Result, RootKind};
use crate::nn::Linear;

pub(crate) mod sealed {
    /// Families are made here only: what is opened relies on their checks.
    pub trait Sealed {}
}

/// One place of an archived root: a weight, and a bias unless it is an embedding or a table.
#[derive(Clone, Copy)]
#[allow(missing_debug_implementations, reason = "archived parts have none")]
pub struct Place<'a> {
    /// The weight as it is stored.
    pub weight: &'a ArchivedMatrix<'static>,
    /// The bias, `[rows]`, or empty.
    pub bias: Option<&'a ArchivedVec<Line>>,
    /// `[rows, cols]` that the configuration asks for.
    pub shape: (usize, usize),
    /// Is it the embedding of tokens?
    pub is_embedding: bool,
    /// Is it the embedding or the output head, which are stored finer than what is between?
    pub is_edge: bool,
}

impl<'a> Place<'a> {
    /// A linear layer.
    pub(crate) fn linear(linear: &'a ArchivedLinear<'static>, shape: (usize, usize)) -> Self {
        Self { bias: Some(&linear.bias), ..Self::table(&linear.weight, shape) }
    }

    /// A matrix without bias.
    pub(crate) fn table(weight: &'a ArchivedMatrix<'static>, shape: (usize, usize)) -> Self {
        Self { weight, bias: None, shape, is_embedding: false, is_edge: false }
    }

    /// The embedding of tokens.
    pub(crate) fn embedding(weight: &'a ArchivedMatrix<'static>, shape: (usize, usize)) -> Self {
        Self { is_embedding: true, ..Self::table(weight, shape) }.edge(true)
    }

    /// The same, as the output head if `is_edge`.
    pub(crate) fn edge(self, is_edge: bool) -> Self {
        Self { is_edge, ..self }
    }

    /// As a layer that adapters know as `site`; after `check` has succeeded.
    #[cfg(feature = "alloc")]
    pub(super) fn view(&self, site: u32) -> Linear<'a> {
        let bias = self.bias.map_or(&[][..], |bias| vector(bias, self.shape.0));
        Linear { weight: self.weight.view(), bias, site }
    }

    pub(super) fn check(&self, site: u32) -> Result<()> {
        self.weight.check(site, self.shape.0, self.shape.1)?;
        self.bias.map_or(Ok(()), |bias| check_small(site, bias, self.shape.0, true))
    }
}

/// A vector of an archived root beside its places: `len` numbers, or none where `is_optional`.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "the sentence above has them")]
pub struct VectorPlace<'a> {
    pub lines: &'a ArchivedVec<Line>,
    pub len: usize,
    pub is_optional: bool,
}

/// A model family, as its archived root: what is stored where. Only this crate has families.
pub trait Family:
    Portable + for<'v> CheckBytes<LowValidator<'v, Failure>> + sealed::Sealed + Sync + Sized + 'static
{
    /// Its root's numbers: one for each architecture that has this root.
    const KINDS: &'static [RootKind];
    /// Its name in debug output.
    const NAME: &'static str;
    /// Tables that no adapter changes; their numbers follow those of the sites.
    const TABLES: u32 = 0;
    /// The numbers that define a model.
    type Config: Copy + fmt::Debug + Send + Sync;
    /// The numbers as they are stored.
    #[cfg(feature = "alloc")]
    type StoredConfig: Copy;
    /// The root as it is written.
    #[cfg(feature = "alloc")]
    type Stored<'a>: Stored<'a, Config = Self::StoredConfig>;

    /// Opens an archive; see [`Opened::open`].
    ///
    /// # Errors
    /// As there.
    fn open(archive: &[u8]) -> Result<Opened<'_, Self>>;
    /// The numbers of the root of an archive of this kind, checked.
    ///
    /// # Errors
    /// A number outside its range.
    fn config(&self, kind: RootKind) -> Result<Self::Config>;
    /// How many layers there are, and how many the stored configuration says.
    fn layers(&self) -> (usize, usize);
    /// What is stored beside the tensors. `stop` are the text's tokens that end a turn.
    #[cfg(feature = "alloc")]
    fn frame<'a>(&'a self, config: &Self::Config, stop: &'a [u32])
    -> Frame<'a, Self::StoredConfig>;
    /// Lends `use_it` the root that `frame` and `parts` make.
    #[cfg(feature = "std")]
    fn with_root<T>(
        frame: &Frame<'_, Self::StoredConfig>,
        parts: &dyn Parts,
        use_it: impl FnOnce(&Self::Stored<'_>) -> T,
    ) -> T;
    /// The model's name as its source had it.
    fn name(&self) -> &str;
    /// The tokenizer, if models of the family read text.
    fn text(&self) -> Option<&ArchivedText<'static>>;
    /// Label names of the model's own head, joined by line feeds, or empty.
    fn labels(&self) -> &str {
        ""
    }
    /// How many places adapters can change; absent ones are counted.
    fn sites(config: &Self::Config) -> u32;
    /// The place with this number; `None` for an absent one and past the end.
    fn place(&self, config: &Self::Config, number: u32) -> Option<Place<'_>>;
    /// Is this a layer whose inputs nothing else reads, so that adapters can scale them in place?
    fn owns_inputs(_config: &Self::Config, _site: u32) -> bool {
        false
    }
    /// The vector with this number; `None` past the end.
    fn vector(&self, _config: &Self::Config, _number: u32) -> Option<VectorPlace<'_>> {
        None
    }
    /// What must hold beside the shapes of places and vectors.
    ///
    /// # Errors
    /// The family's own.
    fn check(&self, config: &Self::Config) -> Result<()>;
    /// The dimension of the hidden states that classifiers read.
    fn width(config: &Self::Config) -> usize;
    /// Writes the module path of a site; nothing past the end.
    ///
    /// # Errors
    /// Those of `out`.
    fn write_path(config: &Self::Config, site: u32, out: &mut dyn fmt::Write) -> fmt::Result;
    /// The sites of embedding and output head, if the two share the embedding's weight.
    fn tied(&self, _config: &Self::Config) -> Option<(u32, u32)> {
        None
    }
}

/// A linear layer that adapters know as `site`; after it was checked.
pub(super) fn view<'a>(linear: &'a ArchivedLinear<'static>, site: u32) -> Linear<'a> {
    let weight = linear.weight.view();
    Linear { weight, bias: vector(&linear.bias, weight.rows()), site }
}
