//! Llama-family decoders: Llama, Qwen2 (biases on q, k, v) and Qwen3 (norms on query and key
//! heads).
//!
//! This file opens the archive and hands out its parts; [`Config`] has the numbers; `forward` is
//! the forward pass.

mod config;
pub(crate) mod forward;

use core::fmt;

use crate::adapter::Base;
use crate::archive::schema::{ArchivedLinear, ArchivedLlama, ArchivedText, check_vector, vector};
use crate::archive::{self, Fingerprint, Header, check_finite};
use crate::error::{Error, Field, Result, RootKind};
use crate::nn::Linear;
use crate::quant::Matrix;

pub use config::{Config, RopeScaling, Site};

/// An opened Llama-family base. Borrows the archive; copying it copies a few words.
#[derive(Clone, Copy)]
pub struct Llama<'a> {
    root: &'a ArchivedLlama<'static>,
    config: Config,
    header: Header,
}

impl fmt::Debug for Llama<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Llama")
            .field("config", &self.config)
            .field("header", &self.header)
            .finish_non_exhaustive()
    }
}

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

impl<'a> Llama<'a> {
    /// Opens an archive in place. The time depends on the number of tensors, not on their size:
    /// weights are not read.
    ///
    /// # Errors
    /// Those of [`Header::parse`]; [`Error::WrongRoot`], [`Error::Invalid`], [`Error::Config`],
    /// [`Error::Shape`], [`Error::Format`], [`Error::PayloadLength`], [`Error::NotFinite`]
    /// (norms and biases are read).
    pub fn open(archive: &'a [u8]) -> Result<Self> {
        let (header, root) =
            archive::open_root::<ArchivedLlama<'static>>(archive, RootKind::LLAMA)?;
        let config = Config::from_archived(&root.config)?;
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
        let layers = model.config.layers;
        for (i, layer) in model.root.layers.iter().enumerate() {
            for (site, linear) in linears(i, layer) {
                linear.weight.check_values(site.number(layers))?;
            }
        }
        model.root.embedding.check_values(Site::Embedding.number(layers))?;
        model
            .root
            .head
            .as_ref()
            .map_or(Ok(()), |head| head.check_values(Site::Head.number(layers)))?;
        #[cfg(feature = "alloc")]
        archive::twin::llama(model.header.fingerprint, model.root)?;
        Ok(model)
    }

    /// Every shape, length, tag and small vector, so that the accessors below can trust them.
    fn check(&self) -> Result<()> {
        let (c, root) = (&self.config, self.root);
        if root.layers.len() != c.layers {
            let (found, layers) = (root.layers.len() as u64, c.layers as u64);
            return Err(Error::Config {
                field: Field::LayerCount,
                found,
                least: layers,
                most: layers,
            });
        }
        let norm_site = c.sites() as u32;
        let norm = |site, lines, len, optional| {
            check_vector(site, lines, len, optional)?;
            check_finite(site, vector(lines, len))
        };
        for (i, layer) in root.layers.iter().enumerate() {
            for (site, linear) in linears(i, layer) {
                let (rows, cols) = site.shape(c);
                linear.weight.check(site.number(c.layers), rows, cols)?;
                norm(site.number(c.layers), &linear.bias, rows, true)?;
            }
            norm(norm_site, &layer.attention_norm, c.dim, false)?;
            norm(norm_site, &layer.feed_forward_norm, c.dim, false)?;
            norm(norm_site, &layer.q_norm, c.head_dim, true)?;
            norm(norm_site, &layer.k_norm, c.head_dim, true)?;
        }
        norm(norm_site, &root.norm, c.dim, false)?;
        root.embedding.check(Site::Embedding.number(c.layers), c.vocab, c.dim)?;
        root.head
            .as_ref()
            .map_or(Ok(()), |head| head.check(Site::Head.number(c.layers), c.vocab, c.dim))?;
        let out_of_range = root
            .text
            .bos
            .as_ref()
            .into_iter()
            .chain(root.text.stop.iter())
            .find(|id| id.to_native() as usize >= c.vocab);
        out_of_range
            .map_or(Ok(()), |id| Err(Error::Token { token: id.to_native(), vocab: c.vocab as u32 }))
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

    /// Decoder block `index`. Panics past the last one, like slice indexing.
    pub fn layer(&self, index: usize) -> Layer<'a> {
        let (c, layer) = (&self.config, &self.root.layers[index]);
        let part = |site: Site, linear: &'a ArchivedLinear<'static>| Linear {
            weight: linear.weight.view(),
            bias: vector(&linear.bias, site.shape(c).0),
            site: site.number(c.layers),
        };
        Layer {
            attention_norm: vector(&layer.attention_norm, c.dim),
            q: part(Site::Q(index), &layer.q),
            k: part(Site::K(index), &layer.k),
            v: part(Site::V(index), &layer.v),
            o: part(Site::O(index), &layer.o),
            q_norm: vector(&layer.q_norm, c.head_dim),
            k_norm: vector(&layer.k_norm, c.head_dim),
            feed_forward_norm: vector(&layer.feed_forward_norm, c.dim),
            gate: part(Site::Gate(index), &layer.gate),
            up: part(Site::Up(index), &layer.up),
            down: part(Site::Down(index), &layer.down),
        }
    }

    /// The weight at `site`; the head if it is the embedding too.
    pub fn weight(&self, site: Site) -> Matrix<'a> {
        match site {
            Site::Embedding => self.embedding(),
            Site::Head => self.head(),
            Site::Q(i) => self.layer(i).q.weight,
            Site::K(i) => self.layer(i).k.weight,
            Site::V(i) => self.layer(i).v.weight,
            Site::O(i) => self.layer(i).o.weight,
            Site::Gate(i) => self.layer(i).gate.weight,
            Site::Up(i) => self.layer(i).up.weight,
            Site::Down(i) => self.layer(i).down.weight,
        }
    }

    /// `tokenizer.json`, or empty.
    pub fn tokenizer_json(&self) -> &'a [u8] {
        &self.root.text.tokenizer
    }

    /// The chat template (Jinja), or empty.
    pub fn chat_template(&self) -> &'a str {
        &self.root.text.chat_template
    }

    /// The begin-of-sequence token.
    pub fn bos(&self) -> Option<u32> {
        self.root.text.bos.as_ref().map(|id| id.to_native())
    }

    /// The token put before every prompt, if the model's rule asks for one.
    pub fn leading_bos(&self) -> Option<u32> {
        self.bos().filter(|_| self.root.text.add_bos)
    }

    /// Does this token end a turn?
    pub fn is_stop(&self, token: u32) -> bool {
        self.stop_tokens().any(|id| id == token)
    }

    /// The tokens that end a turn.
    pub fn stop_tokens(&self) -> impl Iterator<Item = u32> + use<'a> {
        let text: &'a ArchivedText<'static> = &self.root.text;
        text.stop.iter().map(|id| id.to_native())
    }
}

impl Base for Llama<'_> {
    fn fingerprint(&self) -> Fingerprint {
        self.header.fingerprint
    }

    fn root(&self) -> RootKind {
        RootKind::LLAMA
    }

    fn sites(&self) -> u32 {
        self.config.sites() as u32
    }

    fn site(&self, site: u32) -> Option<(usize, usize, bool)> {
        let site = Site::from_number(site, self.config.layers)?;
        let (rows, cols) = site.shape(&self.config);
        Some((rows, cols, site == Site::Embedding))
    }

    fn dim(&self) -> usize {
        self.config.dim
    }

    fn weight_at(&self, site: u32) -> Option<Matrix<'_>> {
        Site::from_number(site, self.config.layers).map(|site| self.weight(site))
    }

    fn write_path(&self, site: u32, out: &mut dyn fmt::Write) -> fmt::Result {
        Site::from_number(site, self.config.layers).map_or(Ok(()), |site| write!(out, "{site}"))
    }

    fn tied(&self) -> Option<(u32, u32)> {
        let layers = self.config.layers;
        self.is_tied().then(|| (Site::Embedding.number(layers), Site::Head.number(layers)))
    }
}

type ArchivedLayer = archive::schema::ArchivedLlamaLayer<'static>;

/// The linear layers of a block with their places.
fn linears(i: usize, layer: &ArchivedLayer) -> [(Site, &ArchivedLinear<'static>); 7] {
    [
        (Site::Q(i), &layer.q),
        (Site::K(i), &layer.k),
        (Site::V(i), &layer.v),
        (Site::O(i), &layer.o),
        (Site::Gate(i), &layer.gate),
        (Site::Up(i), &layer.up),
        (Site::Down(i), &layer.down),
    ]
}
