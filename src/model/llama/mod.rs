//! Llama-family decoders: Llama, Qwen2 (biases on q, k, v) and Qwen3 (norms on query and key
//! heads).
//!
//! This file says what an archive holds and hands out its parts; [`Config`] has the numbers,
//! `schema` the root as it is written; `forward` is the forward pass.

mod config;
pub(crate) mod forward;
#[cfg(feature = "import")]
pub(crate) mod import;
pub mod schema;
#[cfg(feature = "train")]
pub(crate) mod train;

use core::fmt;

use self::schema::{ArchivedLlama, ArchivedLlamaLayer};
use super::family::{Family, Place, VectorPlace, sealed, view};
use super::opened::{Opened, check_tokens, open};
#[cfg(feature = "alloc")]
use super::stored::Frame;
#[cfg(feature = "std")]
use super::stored::{Parts, Stored, all_layers};
use crate::archive::schema::{ArchivedLinear, ArchivedText, vector};
use crate::error::{Result, RootKind};
use crate::nn::Linear;
use crate::quant::Matrix;

use config::PER_LAYER;
pub(crate) use config::Vector;
pub use config::{Config, RopeScaling, Site};

/// An opened Llama-family base. Borrows the archive; copying it copies a few words.
pub type Llama<'a> = Opened<'a, ArchivedLlama<'static>>;

/// One decoder block's parts.
#[derive(Debug, Clone, Copy)]
#[allow(
    missing_docs,
    reason = "the names are those of the model's parts; shapes are in the schema"
)]
pub struct Layer<'a> {
    pub attention_norm: &'a [f32],
    pub q: Linear<'a>,
    pub k: Linear<'a>,
    pub v: Linear<'a>,
    pub o: Linear<'a>,
    pub q_norm: &'a [f32],
    pub k_norm: &'a [f32],
    pub feed_forward_norm: &'a [f32],
    pub gate: Linear<'a>,
    pub up: Linear<'a>,
    pub down: Linear<'a>,
}

impl sealed::Sealed for ArchivedLlama<'_> {}

impl Family for ArchivedLlama<'static> {
    const KINDS: &'static [RootKind] = &[RootKind::LLAMA];
    const NAME: &'static str = "Llama";
    type Config = Config;
    #[cfg(feature = "alloc")]
    type StoredConfig = schema::LlamaConfig;
    #[cfg(feature = "alloc")]
    type Stored<'a> = schema::Llama<'a>;

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
    fn frame<'a>(&'a self, config: &Config, stop: &'a [u32]) -> Frame<'a, schema::LlamaConfig> {
        Frame {
            name: &self.name,
            config: config.to_schema(),
            layers: self.layers.len(),
            text: self.text.with_stop(stop),
            labels: "",
            max_length: 0,
        }
    }

    #[cfg(feature = "std")]
    fn with_root<T>(
        frame: &Frame<'_, schema::LlamaConfig>,
        parts: &dyn Parts,
        use_it: impl FnOnce(&schema::Llama<'_>) -> T,
    ) -> T {
        let layers = all_layers::<schema::Llama<'_>>(frame, parts);
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
        let site = Site::from_number(number, config.layers)?;
        let shape = site.shape(config);
        match site {
            Site::Embedding => Some(Place::embedding(&self.embedding, shape)),
            Site::Head => Some(Place::table(self.head.as_ref()?, shape).edge(true)),
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
        let vector = Vector::from_number(number, config.layers)?;
        let Some(layer) = self.layers.get().get(number as usize / Vector::PER_LAYER) else {
            return Some(VectorPlace { lines: &self.norm, len: config.dim, is_optional: false });
        };
        let (lines, len, is_optional) = match vector {
            Vector::AttentionNorm(_) => (&layer.attention_norm, config.dim, false),
            Vector::FeedForwardNorm(_) => (&layer.feed_forward_norm, config.dim, false),
            Vector::QNorm(_) => (&layer.q_norm, config.head_dim, true),
            Vector::KNorm(_) => (&layer.k_norm, config.head_dim, true),
            Vector::Norm => (&self.norm, config.dim, false),
        };
        Some(VectorPlace { lines, len, is_optional })
    }

    fn check(&self, config: &Config) -> Result<()> {
        check_tokens(&self.text, config.vocab)
    }

    fn width(config: &Config) -> usize {
        config.dim
    }

    fn write_path(config: &Config, site: u32, out: &mut dyn fmt::Write) -> fmt::Result {
        Site::from_number(site, config.layers).map_or(Ok(()), |site| write!(out, "{site}"))
    }

    fn tied(&self, config: &Config) -> Option<(u32, u32)> {
        let number = |site: Site| site.number(config.layers);
        self.head.is_none().then(|| (number(Site::Embedding), number(Site::Head)))
    }
}

impl<'a> Llama<'a> {
    /// The token embedding, `[vocab, dim]`.
    pub fn embedding(&self) -> Matrix<'a> {
        self.root.embedding.view()
    }

    /// The output head, `[vocab, dim]`: the embedding if the two are tied.
    pub fn head(&self) -> Matrix<'a> {
        self.root.head.as_ref().map_or_else(|| self.embedding(), |head| head.view())
    }

    /// Is the output head the embedding?
    pub fn is_tied(&self) -> bool {
        self.root.head.is_none()
    }

    /// The last norm, `[dim]`.
    pub fn norm(&self) -> &'a [f32] {
        vector(&self.root.norm, self.config.dim)
    }

    /// The weight at `site`; the head's if it is the embedding too. Panics past the last block, like
    /// slice indexing.
    pub fn weight(&self, site: Site) -> Matrix<'a> {
        match site {
            Site::Head => self.head(),
            _ => self
                .place(site.number(self.config.layers))
                .expect("a place of the model")
                .weight
                .view(),
        }
    }

    /// Decoder block `index`. Panics past the last one, like slice indexing.
    pub fn layer(&self, index: usize) -> Layer<'a> {
        let (c, stored) = (&self.config, &self.root.layers[index]);
        let first = Site::Q(index).number(c.layers);
        let linear = |part: usize| view(linears(stored)[part], first + part as u32);
        Layer {
            attention_norm: vector(&stored.attention_norm, c.dim),
            q: linear(0),
            k: linear(1),
            v: linear(2),
            o: linear(3),
            q_norm: vector(&stored.q_norm, c.head_dim),
            k_norm: vector(&stored.k_norm, c.head_dim),
            feed_forward_norm: vector(&stored.feed_forward_norm, c.dim),
            gate: linear(4),
            up: linear(5),
            down: linear(6),
        }
    }
}

/// The linear layers of a block by rising site.
fn linears<'l>(layer: &'l ArchivedLlamaLayer<'static>) -> [&'l ArchivedLinear<'static>; PER_LAYER] {
    [&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down]
}
