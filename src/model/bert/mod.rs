//! BERT-family encoders (arXiv 1810.04805): absolute positions, attention in both directions, a
//! norm after each residual.
//!
//! This file opens the archive and hands out its parts; [`Config`] has the numbers; `forward` is
//! the forward pass. Heads for classification come from adapters; language-model heads are no part
//! of it.

mod config;
pub(crate) mod forward;

use core::fmt;

use rkyv::vec::ArchivedVec;

use crate::adapter::Base;
use crate::archive::schema::bert::{ArchivedBert, ArchivedBertLayer, ArchivedLayerNorm};
use crate::archive::schema::{ArchivedLinear, check_vector, vector};
use crate::archive::{self, Fingerprint, Header, Line, check_finite};
use crate::error::{Error, Field, Result, RootKind};
use crate::nn::{LayerNorm, Linear};
use crate::quant::Matrix;

pub use crate::nn::Activation;
pub use config::{Config, Pooling, Site};

/// An opened BERT-family base. Borrows the archive; copying it copies a few words.
#[derive(Clone, Copy)]
pub struct Bert<'a> {
    root: &'a ArchivedBert<'static>,
    config: Config,
    header: Header,
}

impl fmt::Debug for Bert<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bert")
            .field("config", &self.config)
            .field("header", &self.header)
            .finish_non_exhaustive()
    }
}

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

impl<'a> Bert<'a> {
    /// Opens an archive in place. The time depends on the number of tensors, not on their size:
    /// weights are not read.
    ///
    /// # Errors
    /// Those of [`Header::parse`]; [`Error::WrongRoot`], [`Error::Invalid`], [`Error::Config`],
    /// [`Error::Shape`], [`Error::Format`], [`Error::PayloadLength`], [`Error::NotFinite`]
    /// (norms and biases are read), [`Error::NoPooler`] if its own pooling asks for one that is
    /// absent.
    pub fn open(archive: &'a [u8]) -> Result<Self> {
        let (header, root) = archive::open_root::<ArchivedBert<'static>>(archive, RootKind::BERT)?;
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
        let (root, layers) = (model.root, model.config.layers);
        for (i, layer) in root.layers.iter().enumerate() {
            for (site, linear) in linears(i, layer) {
                linear.weight.check_values(site.number(layers))?;
            }
        }
        root.embedding.check_values(Site::Embedding.number(layers))?;
        for table in [&root.positions, &root.token_types] {
            table.check_values(model.other_site())?;
        }
        root.pooler
            .as_ref()
            .map_or(Ok(()), |pooler| pooler.weight.check_values(Site::Pooler.number(layers)))?;
        #[cfg(feature = "alloc")]
        archive::twin::bert(model.header.fingerprint, model.root)?;
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
        let linear = |site: Site, linear: &ArchivedLinear<'static>| {
            let (rows, cols) = site.shape(c);
            linear.weight.check(site.number(c.layers), rows, cols)?;
            check_small(site.number(c.layers), &linear.bias, rows, true)
        };
        let norm = |norm: &ArchivedLayerNorm<'static>| {
            check_small(self.other_site(), &norm.weight, c.dim, false)?;
            check_small(self.other_site(), &norm.bias, c.dim, false)
        };
        for (i, layer) in root.layers.iter().enumerate() {
            linears(i, layer).into_iter().try_for_each(|(site, part)| linear(site, part))?;
            norm(&layer.attention_norm)?;
            norm(&layer.output_norm)?;
        }
        norm(&root.embedding_norm)?;
        root.embedding.check(Site::Embedding.number(c.layers), c.vocab, c.dim)?;
        root.positions.check(self.other_site(), c.context, c.dim)?;
        root.token_types.check(self.other_site(), c.token_types, c.dim)?;
        root.pooler.as_ref().map_or(Ok(()), |pooler| linear(Site::Pooler, pooler))?;
        if c.pooling == Pooling::Pooler && root.pooler.is_none() {
            return Err(Error::NoPooler);
        }
        let (found, most) = (root.max_length.to_native(), c.context as u64);
        if found == 0 || u64::from(found) > most {
            return Err(Error::Config {
                field: Field::MaxLength,
                found: found.into(),
                least: 1,
                most,
            });
        }
        Ok(())
    }

    /// What errors call tensors that no adapter can change.
    fn other_site(&self) -> u32 {
        self.config.sites() as u32
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
        let layer: &'a ArchivedLayer = &self.root.layers[index];
        Layer {
            q: self.linear(Site::Q(index), &layer.q),
            k: self.linear(Site::K(index), &layer.k),
            v: self.linear(Site::V(index), &layer.v),
            o: self.linear(Site::O(index), &layer.o),
            attention_norm: self.norm(&layer.attention_norm),
            up: self.linear(Site::Up(index), &layer.up),
            down: self.linear(Site::Down(index), &layer.down),
            output_norm: self.norm(&layer.output_norm),
        }
    }

    /// BERT's pooler, `[dim, dim]`, to be followed by tanh.
    pub fn pooler(&self) -> Option<Linear<'a>> {
        self.root.pooler.as_ref().map(|pooler| self.linear(Site::Pooler, pooler))
    }

    /// What a classifier reads: the pooler's output, as transformers'
    /// `BertForSequenceClassification` does; without a pooler the model's own pooling.
    pub fn classifier_pooling(&self) -> Pooling {
        if self.root.pooler.is_some() { Pooling::Pooler } else { self.config.pooling }
    }

    /// The weight at `site`; `None` for a pooler that is absent.
    pub fn weight(&self, site: Site) -> Option<Matrix<'a>> {
        Some(match site {
            Site::Embedding => self.embedding(),
            Site::Pooler => self.pooler()?.weight,
            Site::Q(i) => self.layer(i).q.weight,
            Site::K(i) => self.layer(i).k.weight,
            Site::V(i) => self.layer(i).v.weight,
            Site::O(i) => self.layer(i).o.weight,
            Site::Up(i) => self.layer(i).up.weight,
            Site::Down(i) => self.layer(i).down.weight,
        })
    }

    /// The longest text that the model's source reads, in tokens with the special ones; at most the
    /// context.
    pub fn max_length(&self) -> usize {
        self.root.max_length.to_native() as usize
    }

    /// `tokenizer.json`, or empty.
    pub fn tokenizer_json(&self) -> &'a [u8] {
        &self.root.text.tokenizer
    }

    fn linear(&self, site: Site, linear: &'a ArchivedLinear<'static>) -> Linear<'a> {
        let rows = site.shape(&self.config).0;
        Linear {
            weight: linear.weight.view(),
            bias: vector(&linear.bias, rows),
            site: site.number(self.config.layers),
        }
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

impl Base for Bert<'_> {
    fn fingerprint(&self) -> Fingerprint {
        self.header.fingerprint
    }

    fn root(&self) -> RootKind {
        RootKind::BERT
    }

    fn sites(&self) -> u32 {
        self.config.sites() as u32
    }

    fn site(&self, site: u32) -> Option<(usize, usize, bool)> {
        let site = Site::from_number(site, self.config.layers)?;
        if site == Site::Pooler && self.root.pooler.is_none() {
            return None;
        }
        let (rows, cols) = site.shape(&self.config);
        Some((rows, cols, site == Site::Embedding))
    }

    fn dim(&self) -> usize {
        self.config.dim
    }

    fn weight_at(&self, site: u32) -> Option<Matrix<'_>> {
        self.weight(Site::from_number(site, self.config.layers)?)
    }

    fn write_path(&self, site: u32, out: &mut dyn fmt::Write) -> fmt::Result {
        Site::from_number(site, self.config.layers).map_or(Ok(()), |site| write!(out, "{site}"))
    }
}

/// A vector of `len` finite values, or none where `optional`.
fn check_small(site: u32, lines: &ArchivedVec<Line>, len: usize, optional: bool) -> Result<()> {
    check_vector(site, lines, len, optional)?;
    check_finite(site, vector(lines, len))
}

type ArchivedLayer = ArchivedBertLayer<'static>;

/// The linear layers of a block with their places.
fn linears(i: usize, layer: &ArchivedLayer) -> [(Site, &ArchivedLinear<'static>); 6] {
    [
        (Site::Q(i), &layer.q),
        (Site::K(i), &layer.k),
        (Site::V(i), &layer.v),
        (Site::O(i), &layer.o),
        (Site::Up(i), &layer.up),
        (Site::Down(i), &layer.down),
    ]
}
