//! Multilayer perceptrons: linear layers with an activation between them, on numeric features.
//!
//! `x ← f(W x + b)` for all layers but the last, whose `W x + b` are the outputs. This file says
//! what an archive holds and hands out its parts; [`Config`] has the numbers, `schema` the root as it
//! is written; `forward` is the forward pass.
//! Features are taken as they are: scaling them is the caller's.

mod config;
pub(crate) mod forward;
#[cfg(feature = "import")]
pub(crate) mod import;
pub mod schema;
#[cfg(feature = "train")]
mod train;

use core::fmt;

use self::schema::ArchivedMlp;
use super::family::{Family, Place, sealed, view};
use super::opened::{Opened, check_layers, open};
#[cfg(feature = "alloc")]
use super::stored::Frame;
#[cfg(feature = "std")]
use super::stored::{Parts, Stored, all_layers};
use crate::adapter::check_labels;
use crate::archive::schema::ArchivedText;
#[cfg(feature = "alloc")]
use crate::archive::schema::Text;
use crate::error::{Result, RootKind};
use crate::nn::Linear;

pub use crate::nn::Activation;
pub use config::{Config, Site};

/// An opened multilayer perceptron. Borrows the archive; copying it copies a few words.
pub type Mlp<'a> = Opened<'a, ArchivedMlp<'static>>;

impl sealed::Sealed for ArchivedMlp<'_> {}

impl Family for ArchivedMlp<'static> {
    const KINDS: &'static [RootKind] = &[RootKind::MLP];
    const NAME: &'static str = "Mlp";
    type Config = Config;
    #[cfg(feature = "alloc")]
    type StoredConfig = schema::MlpConfig;
    #[cfg(feature = "alloc")]
    type Stored<'a> = schema::Mlp<'a>;

    fn open(archive: &[u8]) -> Result<Opened<'_, Self>> {
        open(archive)
    }

    fn config(&self, _: RootKind) -> Result<Config> {
        let (found, stated) = self.layers();
        check_layers(found, stated)?;
        let widths = self.layers.iter().map(|layer| layer.weight.rows.to_native() as usize);
        Config::from_archived(&self.config, widths)
    }

    fn layers(&self) -> (usize, usize) {
        (self.layers.len(), self.config.layers.to_native() as usize)
    }

    #[cfg(feature = "alloc")]
    fn frame<'a>(&'a self, config: &Config, _: &'a [u32]) -> Frame<'a, schema::MlpConfig> {
        Frame {
            name: &self.name,
            config: config.to_schema(),
            layers: self.layers.len(),
            text: Text::default(),
            labels: &self.labels,
            max_length: 0,
        }
    }

    #[cfg(feature = "std")]
    fn with_root<T>(
        frame: &Frame<'_, schema::MlpConfig>,
        parts: &dyn Parts,
        use_it: impl FnOnce(&schema::Mlp<'_>) -> T,
    ) -> T {
        let layers = all_layers::<schema::Mlp<'_>>(frame, parts);
        use_it(&Stored::new(frame, parts, &layers))
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn text(&self) -> Option<&ArchivedText<'static>> {
        None
    }

    fn labels(&self) -> &str {
        &self.labels
    }

    fn sites(config: &Config) -> u32 {
        config.layers as u32
    }

    /// A layer has as many columns as the one before it has rows.
    fn place(&self, config: &Config, number: u32) -> Option<Place<'_>> {
        let index = number as usize;
        let layer = self.layers.get().get(index)?;
        let rows = |index: usize| self.layers[index].weight.rows.to_native() as usize;
        let inputs = index.checked_sub(1).map_or(config.inputs, rows);
        let is_last = index + 1 == config.layers;
        Some(Place::linear(layer, (rows(index), inputs)).edge(is_last))
    }

    fn check(&self, config: &Config) -> Result<()> {
        if self.labels.is_empty() { Ok(()) } else { check_labels(&self.labels, config.outputs) }
    }

    fn width(config: &Config) -> usize {
        config.dim
    }

    fn write_path(config: &Config, site: u32, out: &mut dyn fmt::Write) -> fmt::Result {
        let site = Site(site as usize);
        if site.0 < config.layers { write!(out, "{site}") } else { Ok(()) }
    }
}

impl<'a> Mlp<'a> {
    /// Layer `index`. Panics past the last one, like slice indexing.
    pub fn layer(&self, index: usize) -> Linear<'a> {
        view(&self.root.layers[index], Site(index).number())
    }
}
