//! BERT-family encoders (arXiv 1810.04805): absolute positions, attention in both directions, a
//! norm after each residual. RoBERTa, XLM-R, CamemBERT and DistilBERT are the same mathematics under
//! other names ([`Architecture`]).
//!
//! This file says what an archive holds and hands out its parts; [`Config`] has the numbers, `schema`
//! the root as it is written; `forward` is the forward pass. Heads for classification come from adapters; language-model heads are no part
//! of it.

mod architecture;
mod config;
pub(crate) mod forward;
#[cfg(feature = "import")]
pub(crate) mod import;
pub mod schema;
#[cfg(feature = "train")]
pub(crate) mod train;

use core::fmt;

use self::schema::{ArchivedBert, ArchivedBertLayer, ArchivedLayerNorm};
use super::family::{Family, Place, VectorPlace, sealed, view};
use super::opened::{Opened, open};
#[cfg(feature = "alloc")]
use super::stored::Frame;
#[cfg(feature = "std")]
use super::stored::{Parts, Stored, all_layers};
use crate::archive::schema::{ArchivedLinear, ArchivedText, vector};
use crate::error::{Error, Field, Result, RootKind};
use crate::nn::{LayerNorm, Linear};
use crate::quant::Matrix;

pub use crate::nn::Activation;
pub use architecture::Architecture;
use config::PER_LAYER;
pub use config::{Config, Pooling, Site};

/// An opened BERT-family base. Borrows the archive; copying it copies a few words.
pub type Bert<'a> = Opened<'a, ArchivedBert<'static>>;

/// One encoder block's parts.
#[derive(Debug, Clone, Copy)]
#[allow(
    missing_docs,
    reason = "the names are those of the model's parts; shapes are in the schema"
)]
pub struct Layer<'a> {
    pub q: Linear<'a>,
    pub k: Linear<'a>,
    pub v: Linear<'a>,
    pub o: Linear<'a>,
    pub attention_norm: LayerNorm<'a>,
    pub up: Linear<'a>,
    pub down: Linear<'a>,
    pub output_norm: LayerNorm<'a>,
}

impl sealed::Sealed for ArchivedBert<'_> {}

impl Family for ArchivedBert<'static> {
    const KINDS: &'static [RootKind] = Architecture::KINDS;
    const NAME: &'static str = "Bert";
    const TABLES: u32 = 2;
    type Config = Config;
    #[cfg(feature = "alloc")]
    type StoredConfig = schema::BertConfig;
    #[cfg(feature = "alloc")]
    type Stored<'a> = schema::Bert<'a>;

    fn open(archive: &[u8]) -> Result<Opened<'_, Self>> {
        open(archive)
    }

    fn config(&self, kind: RootKind) -> Result<Config> {
        Config::from_archived(&self.config, kind)
    }

    fn layers(&self) -> (usize, usize) {
        (self.layers.len(), self.config.layers.to_native() as usize)
    }

    #[cfg(feature = "alloc")]
    fn frame<'a>(&'a self, config: &Config, stop: &'a [u32]) -> Frame<'a, schema::BertConfig> {
        Frame {
            name: &self.name,
            config: config.to_schema(),
            layers: self.layers.len(),
            text: self.text.with_stop(stop),
            labels: "",
            max_length: self.max_length.to_native(),
        }
    }

    #[cfg(feature = "std")]
    fn with_root<T>(
        frame: &Frame<'_, schema::BertConfig>,
        parts: &dyn Parts,
        use_it: impl FnOnce(&schema::Bert<'_>) -> T,
    ) -> T {
        let layers = all_layers::<schema::Bert<'_>>(frame, parts);
        use_it(&Stored::new(frame, parts, &layers))
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn text(&self) -> Option<&ArchivedText<'static>> {
        Some(&self.text)
    }

    fn sites(config: &Config) -> u32 {
        config.sites() as u32
    }

    fn place(&self, config: &Config, number: u32) -> Option<Place<'_>> {
        let Some(site) = Site::from_number(number, config.layers) else {
            let [positions, token_types] = tables(config.layers);
            return match number {
                _ if number == positions => {
                    Some(Place::table(&self.positions, (config.context, config.dim)))
                }
                _ if number == token_types => {
                    Some(Place::table(&self.token_types, (config.token_types, config.dim)))
                }
                _ => None,
            };
        };
        let shape = site.shape(config);
        match site {
            Site::Embedding => Some(Place::embedding(&self.embedding, shape)),
            Site::Pooler => Some(Place::linear(self.pooler.as_ref()?, shape)),
            _ => {
                let (layer, part) = (number as usize / PER_LAYER, number as usize % PER_LAYER);
                Some(Place::linear(linears(&self.layers[layer])[part], shape))
            }
        }
    }

    fn owns_inputs(config: &Config, site: u32) -> bool {
        let site = Site::from_number(site, config.layers);
        matches!(site, Some(Site::O(_) | Site::Down(_)))
    }

    fn vector(&self, config: &Config, number: u32) -> Option<VectorPlace<'_>> {
        let norm = match number as usize / 2 {
            0 => &self.embedding_norm,
            odd if !odd.is_multiple_of(2) => &self.layers.get().get(odd / 2)?.attention_norm,
            even => &self.layers.get().get(even / 2 - 1)?.output_norm,
        };
        let lines = if number.is_multiple_of(2) { &norm.weight } else { &norm.bias };
        Some(VectorPlace { lines, len: config.dim, is_optional: false })
    }

    fn check(&self, config: &Config) -> Result<()> {
        if config.pooling == Pooling::Pooler && self.pooler.is_none() {
            return Err(Error::NoPooler);
        }
        let (found, most) = (self.max_length.to_native().into(), config.context as u64);
        if (1..=most).contains(&found) {
            return Ok(());
        }
        Err(Error::Config { field: Field::MaxLength, found, least: 1, most })
    }

    fn width(config: &Config) -> usize {
        config.dim
    }

    fn write_path(config: &Config, site: u32, out: &mut dyn fmt::Write) -> fmt::Result {
        Site::from_number(site, config.layers)
            .map_or(Ok(()), |site| config.architecture.write_path(site, out))
    }
}

/// The numbers of a norm's weight and bias among the vectors. Norm 0 is the embeddings', norms
/// 2i + 1 and 2i + 2 are block i's.
#[cfg(feature = "alloc")]
pub(crate) const fn norm_vectors(norm: usize) -> [u32; 2] {
    [2 * norm as u32, 2 * norm as u32 + 1]
}

/// The numbers of the tables of positions and token types.
pub(crate) const fn tables(layers: usize) -> [u32; 2] {
    let next = Site::Pooler.number(layers) + 1;
    [next, next + 1]
}

impl<'a> Bert<'a> {
    /// The word embedding, `[vocab, dim]`.
    pub fn embedding(&self) -> Matrix<'a> {
        self.root.embedding.view()
    }

    /// The position embedding, `[context, dim]`.
    pub fn positions(&self) -> Matrix<'a> {
        self.root.positions.view()
    }

    /// The token-type embedding, `[token_types, dim]`.
    pub fn token_types(&self) -> Matrix<'a> {
        self.root.token_types.view()
    }

    /// The norm of the summed embeddings.
    pub fn embedding_norm(&self) -> LayerNorm<'a> {
        self.norm(&self.root.embedding_norm)
    }

    /// Encoder block `index`. Panics past the last one, like slice indexing.
    pub fn layer(&self, index: usize) -> Layer<'a> {
        let stored: &'a ArchivedBertLayer<'static> = &self.root.layers[index];
        let first = Site::Q(index).number(self.config.layers);
        let linear = |part: usize| view(linears(stored)[part], first + part as u32);
        Layer {
            q: linear(0),
            k: linear(1),
            v: linear(2),
            o: linear(3),
            attention_norm: self.norm(&stored.attention_norm),
            up: linear(4),
            down: linear(5),
            output_norm: self.norm(&stored.output_norm),
        }
    }

    /// The pooler, `[dim, dim]`, to be followed by tanh, of DistilBERT by ReLU.
    pub fn pooler(&self) -> Option<Linear<'a>> {
        let site = Site::Pooler.number(self.config.layers);
        self.root.pooler.as_ref().map(|pooler| view(pooler, site))
    }

    /// The weight at `site`; `None` for a pooler that is absent and past the end.
    pub fn weight(&self, site: Site) -> Option<Matrix<'a>> {
        Some(self.place(site.number(self.config.layers))?.weight.view())
    }

    /// What a classifier reads: the pooler's output, as transformers'
    /// `BertForSequenceClassification` does; without a pooler the model's own pooling.
    pub fn classifier_pooling(&self) -> Pooling {
        if self.root.pooler.is_some() { Pooling::Pooler } else { self.config.pooling }
    }

    /// The longest text that the model's source reads, in tokens with the special ones; at most the
    /// context.
    pub fn max_length(&self) -> usize {
        self.root.max_length.to_native() as usize
    }

    fn norm(&self, norm: &'a ArchivedLayerNorm<'static>) -> LayerNorm<'a> {
        let Config { dim, norm_epsilon, .. } = self.config;
        LayerNorm {
            weight: vector(&norm.weight, dim),
            bias: vector(&norm.bias, dim),
            epsilon: norm_epsilon,
        }
    }
}

/// The linear layers of a block by rising site.
fn linears<'l>(layer: &'l ArchivedBertLayer<'static>) -> [&'l ArchivedLinear<'static>; PER_LAYER] {
    [&layer.q, &layer.k, &layer.v, &layer.o, &layer.up, &layer.down]
}
