//! Token embedding, LSTM layers, and a head for the next token or for labels, or none.
//!
//! This file says what an archive holds and hands out its parts; [`Config`] has the numbers, `schema`
//! the root as it is written; `forward` is
//! the forward pass. One direction only; projections of h (PyTorch's `proj_size`) are no part of
//! it.

mod config;
pub(crate) mod forward;
#[cfg(feature = "import")]
pub(crate) mod import;
pub mod schema;
#[cfg(feature = "train")]
mod train;

use core::fmt;

use self::schema::{ArchivedLstm, ArchivedLstmLayer};
use super::family::{Family, Place, sealed, view};
use super::opened::{Opened, check_tokens, open};
#[cfg(feature = "alloc")]
use super::stored::Frame;
#[cfg(feature = "std")]
use super::stored::{Parts, Stored, all_layers};
use crate::adapter::check_labels;
use crate::archive::schema::{ArchivedLinear, ArchivedText};
use crate::error::{Error, Field, Result, RootKind};
use crate::nn::Linear;
use crate::quant::Matrix;

use config::PER_LAYER;
pub use config::{Config, Head, Site};

/// An opened base of LSTM layers. Borrows the archive; copying it copies a few words.
pub type Lstm<'a> = Opened<'a, ArchivedLstm<'static>>;

/// One layer's parts.
#[derive(Debug, Clone, Copy)]
pub struct Layer<'a> {
    /// `[4 · hidden, in]`, on what the layer reads.
    pub ih: Linear<'a>,
    /// `[4 · hidden, hidden]`, on its h of the token before.
    pub hh: Linear<'a>,
}

impl sealed::Sealed for ArchivedLstm<'_> {}

impl Family for ArchivedLstm<'static> {
    const KINDS: &'static [RootKind] = &[RootKind::LSTM];
    const NAME: &'static str = "Lstm";
    type Config = Config;
    #[cfg(feature = "alloc")]
    type StoredConfig = schema::LstmConfig;
    #[cfg(feature = "alloc")]
    type Stored<'a> = schema::Lstm<'a>;

    fn open(archive: &[u8]) -> Result<Opened<'_, Self>> {
        open(archive)
    }

    fn config(&self, _: RootKind) -> Result<Config> {
        Config::from_archived(&self.config)
    }

    fn layers(&self) -> (usize, usize) {
        (self.layers.len(), self.config.layers.to_native() as usize)
    }

    #[cfg(feature = "alloc")]
    fn frame<'a>(&'a self, config: &Config, stop: &'a [u32]) -> Frame<'a, schema::LstmConfig> {
        Frame {
            name: &self.name,
            config: config.to_schema(),
            layers: self.layers.len(),
            text: self.text.with_stop(stop),
            labels: &self.labels,
            max_length: 0,
        }
    }

    #[cfg(feature = "std")]
    fn with_root<T>(
        frame: &Frame<'_, schema::LstmConfig>,
        parts: &dyn Parts,
        use_it: impl FnOnce(&schema::Lstm<'_>) -> T,
    ) -> T {
        let layers = all_layers::<schema::Lstm<'_>>(frame, parts);
        use_it(&Stored::new(frame, parts, &layers))
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn text(&self) -> Option<&ArchivedText<'static>> {
        Some(&self.text)
    }

    fn labels(&self) -> &str {
        &self.labels
    }

    fn sites(config: &Config) -> u32 {
        config.sites() as u32
    }

    fn place(&self, config: &Config, number: u32) -> Option<Place<'_>> {
        let site = Site::from_number(number, config.layers)?;
        let shape = site.shape(config);
        match site {
            Site::Embedding => Some(Place::embedding(&self.embedding, shape)),
            Site::Head => Some(Place::linear(self.head.as_ref()?, shape).edge(true)),
            Site::Ih(layer) | Site::Hh(layer) => {
                let part = number as usize % PER_LAYER;
                Some(Place::linear(linears(&self.layers[layer])[part], shape))
            }
        }
    }

    fn check(&self, config: &Config) -> Result<()> {
        match (config.head == Head::None, self.head.is_none()) {
            (false, true) => return Err(Error::NoHead),
            (true, false) => {
                return Err(Error::Config { field: Field::Head, found: 0, least: 1, most: 2 });
            }
            _ => {}
        }
        match config.head {
            Head::Labels => check_labels(&self.labels, config.outputs)?,
            _ if !self.labels.is_empty() => {
                let names = self.labels.split('\n').count() as u64;
                return Err(Error::Labels { names, rows: 0 });
            }
            _ => {}
        }
        check_tokens(&self.text, config.vocab)
    }

    fn width(config: &Config) -> usize {
        config.hidden
    }

    fn write_path(config: &Config, site: u32, out: &mut dyn fmt::Write) -> fmt::Result {
        Site::from_number(site, config.layers).map_or(Ok(()), |site| write!(out, "{site}"))
    }
}

impl<'a> Lstm<'a> {
    /// The token embedding, `[vocab, dim]`.
    pub fn embedding(&self) -> Matrix<'a> {
        self.root.embedding.view()
    }

    /// The weight at `site`; `None` for a head that is absent and past the end.
    pub fn weight(&self, site: Site) -> Option<Matrix<'a>> {
        Some(self.place(site.number(self.config.layers))?.weight.view())
    }

    /// Layer `index`. Panics past the last one, like slice indexing.
    pub fn layer(&self, index: usize) -> Layer<'a> {
        let first = Site::Ih(index).number(self.config.layers);
        let [ih, hh] = linears(&self.root.layers[index]);
        Layer { ih: view(ih, first), hh: view(hh, first + 1) }
    }

    /// The head, `[outputs, hidden]`.
    pub fn head(&self) -> Option<Linear<'a>> {
        let site = Site::Head.number(self.config.layers);
        self.root.head.as_ref().map(|head| view(head, site))
    }
}

/// The linear layers of a layer by rising site.
fn linears<'l>(layer: &'l ArchivedLstmLayer<'static>) -> [&'l ArchivedLinear<'static>; PER_LAYER] {
    [&layer.ih, &layer.hh]
}
