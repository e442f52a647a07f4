//! Multilayer perceptrons: linear layers with an activation between them, on numeric features.
//!
//! `x ← f(W x + b)` for all layers but the last, whose `W x + b` are the outputs. This file opens
//! the archive and hands out its parts; [`Config`] has the numbers; `forward` is the forward pass.
//! Features are taken as they are: scaling them is the caller's.

mod config;
pub(crate) mod forward;

use core::fmt;

use crate::adapter::{Base, check_labels};
use crate::archive::schema::mlp::ArchivedMlp;
use crate::archive::schema::{check_vector, vector};
use crate::archive::{self, Fingerprint, Header, check_finite};
use crate::error::{Error, Field, Result, RootKind};
use crate::nn::Linear;
use crate::quant::Matrix;

pub use crate::nn::Activation;
pub use config::{Config, Site};

/// An opened multilayer perceptron. Borrows the archive; copying it copies a few words.
#[derive(Clone, Copy)]
pub struct Mlp<'a> {
    root: &'a ArchivedMlp<'static>,
    config: Config,
    header: Header,
}

impl fmt::Debug for Mlp<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mlp")
            .field("config", &self.config)
            .field("header", &self.header)
            .finish_non_exhaustive()
    }
}

impl<'a> Mlp<'a> {
    /// Opens an archive in place. The time depends on the number of tensors, not on their size:
    /// weights are not read.
    ///
    /// # Errors
    /// Those of [`Header::parse`]; [`Error::WrongRoot`], [`Error::Invalid`], [`Error::Config`],
    /// [`Error::Shape`], [`Error::Format`], [`Error::PayloadLength`], [`Error::NotFinite`]
    /// (biases are read), [`Error::Labels`].
    pub fn open(archive: &'a [u8]) -> Result<Self> {
        let (header, root) = archive::open_root::<ArchivedMlp<'static>>(archive, RootKind::MLP)?;
        let found = root.layers.len() as u64;
        let layers = u64::from(root.config.layers.to_native());
        if found != layers {
            return Err(Error::Config {
                field: Field::LayerCount,
                found,
                least: layers,
                most: layers,
            });
        }
        let widths = root.layers.iter().map(|layer| layer.weight.rows.to_native() as usize);
        let config = Config::from_archived(&root.config, widths)?;
        let model = Self { root, config, header };
        model.check()?;
        Ok(model)
    }

    /// Reads the whole archive: its checksum, every scale, and with `alloc` its fingerprint.
    ///
    /// # Errors
    /// [`Error::Checksum`], [`Error::NotFinite`], with `alloc` [`Error::Content`], and those of
    /// [`open`](Self::open).
    pub fn verify(archive: &'a [u8]) -> Result<Self> {
        archive::verify(archive)?;
        let model = Self::open(archive)?;
        for (site, layer) in (0..).zip(model.root.layers.iter()) {
            layer.weight.check_values(site)?;
        }
        #[cfg(feature = "alloc")]
        archive::twin::mlp(model.header.fingerprint, model.root)?;
        Ok(model)
    }

    /// Every shape, length, tag and bias, so that the accessors below can trust them.
    fn check(&self) -> Result<()> {
        let mut inputs = self.config.inputs;
        for (site, layer) in (0..).zip(self.root.layers.iter()) {
            let rows = layer.weight.rows.to_native() as usize;
            layer.weight.check(site, rows, inputs)?;
            check_vector(site, &layer.bias, rows, true)?;
            check_finite(site, vector(&layer.bias, rows))?;
            inputs = rows;
        }
        if self.root.labels.is_empty() {
            Ok(())
        } else {
            check_labels(&self.root.labels, self.config.outputs)
        }
    }

    /// The model's numbers.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The archive's header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The hash of the model's content: what adapters are bound to.
    pub fn fingerprint(&self) -> Fingerprint {
        self.header.fingerprint
    }

    /// The model's name as its source had it.
    pub fn name(&self) -> &'a str {
        &self.root.name
    }

    /// Layer `index`. Panics past the last one, like slice indexing.
    pub fn layer(&self, index: usize) -> Linear<'a> {
        let layer = &self.root.layers[index];
        let weight = layer.weight.view();
        Linear { weight, bias: vector(&layer.bias, weight.rows()), site: Site(index).number() }
    }

    /// The label names, one per output; none if outputs have no names.
    pub fn labels(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let labels: &'a str = &self.root.labels;
        labels.split('\n').filter(|label| !label.is_empty())
    }
}

impl Base for Mlp<'_> {
    fn fingerprint(&self) -> Fingerprint {
        self.header.fingerprint
    }

    fn root(&self) -> RootKind {
        RootKind::MLP
    }

    fn sites(&self) -> u32 {
        self.config.layers as u32
    }

    fn site(&self, site: u32) -> Option<(usize, usize, bool)> {
        let weight = self.weight_at(site)?;
        Some((weight.rows(), weight.cols(), false))
    }

    fn dim(&self) -> usize {
        self.config.dim
    }

    fn weight_at(&self, site: u32) -> Option<Matrix<'_>> {
        ((site as usize) < self.config.layers).then(|| self.layer(site as usize).weight)
    }

    fn write_path(&self, site: u32, out: &mut dyn fmt::Write) -> fmt::Result {
        if (site as usize) < self.config.layers {
            write!(out, "{}", Site(site as usize))
        } else {
            Ok(())
        }
    }
}
