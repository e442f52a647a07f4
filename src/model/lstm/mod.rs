//! Token embedding, LSTM layers, and a head for the next token or for labels, or none.
//!
//! This file opens the archive and hands out its parts; [`Config`] has the numbers; `forward` is
//! the forward pass. One direction only; projections of h (PyTorch's `proj_size`) are no part of
//! it.

mod config;
pub(crate) mod forward;

use core::fmt;

use crate::adapter::{Base, check_labels};
use crate::archive::schema::lstm::{ArchivedLstm, ArchivedLstmLayer};
use crate::archive::schema::{ArchivedLinear, ArchivedText, check_vector, vector};
use crate::archive::{self, Fingerprint, Header, check_finite};
use crate::error::{Error, Field, Result, RootKind};
use crate::nn::Linear;
use crate::quant::Matrix;

pub use config::{Config, Head, Site};

/// An opened base of LSTM layers. Borrows the archive; copying it copies a few words.
#[derive(Clone, Copy)]
pub struct Lstm<'a> {
    root: &'a ArchivedLstm<'static>,
    config: Config,
    header: Header,
}

impl fmt::Debug for Lstm<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lstm")
            .field("config", &self.config)
            .field("header", &self.header)
            .finish_non_exhaustive()
    }
}

/// One layer's parts.
#[derive(Debug, Clone, Copy)]
pub struct Layer<'a> {
    /// `[4 · hidden, in]`, on what the layer reads.
    pub ih: Linear<'a>,
    /// `[4 · hidden, hidden]`, on its h of the token before.
    pub hh: Linear<'a>,
}

impl<'a> Lstm<'a> {
    /// Opens an archive in place. The time depends on the number of tensors, not on their size:
    /// weights are not read.
    ///
    /// # Errors
    /// Those of [`Header::parse`]; [`Error::WrongRoot`], [`Error::Invalid`], [`Error::Config`],
    /// [`Error::Shape`], [`Error::Format`], [`Error::PayloadLength`], [`Error::NotFinite`]
    /// (biases are read), [`Error::NoHead`], [`Error::Labels`], [`Error::Token`].
    pub fn open(archive: &'a [u8]) -> Result<Self> {
        let (header, root) = archive::open_root::<ArchivedLstm<'static>>(archive, RootKind::LSTM)?;
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
        root.head
            .as_ref()
            .map_or(Ok(()), |head| head.weight.check_values(Site::Head.number(layers)))?;
        #[cfg(feature = "alloc")]
        archive::twin::lstm(model.header.fingerprint, model.root)?;
        Ok(model)
    }

    /// Every shape, length, tag and bias, so that the accessors below can trust them.
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
            let ((rows, cols), number) = (site.shape(c), site.number(c.layers));
            linear.weight.check(number, rows, cols)?;
            check_vector(number, &linear.bias, rows, true)?;
            check_finite(number, vector(&linear.bias, rows))
        };
        for (i, layer) in root.layers.iter().enumerate() {
            linears(i, layer).into_iter().try_for_each(|(site, part)| linear(site, part))?;
        }
        root.embedding.check(Site::Embedding.number(c.layers), c.vocab, c.dim)?;
        match root.head.as_ref() {
            None if c.head == Head::None => {}
            None => return Err(Error::NoHead),
            Some(_) if c.head == Head::None => {
                return Err(Error::Config { field: Field::Head, found: 0, least: 1, most: 2 });
            }
            Some(head) => linear(Site::Head, head)?,
        }
        match c.head {
            Head::Labels => check_labels(&root.labels, c.outputs)?,
            _ if !root.labels.is_empty() => {
                return Err(Error::Labels {
                    names: root.labels.split('\n').count() as u64,
                    rows: 0,
                });
            }
            _ => {}
        }
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

    /// Layer `index`. Panics past the last one, like slice indexing.
    pub fn layer(&self, index: usize) -> Layer<'a> {
        let layer: &'a ArchivedLstmLayer<'static> = &self.root.layers[index];
        Layer {
            ih: self.linear(Site::Ih(index), &layer.ih),
            hh: self.linear(Site::Hh(index), &layer.hh),
        }
    }

    /// The head, `[outputs, hidden]`.
    pub fn head(&self) -> Option<Linear<'a>> {
        self.root.head.as_ref().map(|head| self.linear(Site::Head, head))
    }

    /// The label names of a head of labels, one per output; of other heads none.
    pub fn labels(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let labels: &'a str = &self.root.labels;
        labels.split('\n').filter(|label| !label.is_empty())
    }

    /// The weight at `site`; `None` for a head that is absent.
    pub fn weight(&self, site: Site) -> Option<Matrix<'a>> {
        Some(match site {
            Site::Embedding => self.embedding(),
            Site::Head => self.head()?.weight,
            Site::Ih(i) => self.layer(i).ih.weight,
            Site::Hh(i) => self.layer(i).hh.weight,
        })
    }

    /// `tokenizer.json`, or empty.
    pub fn tokenizer_json(&self) -> &'a [u8] {
        &self.root.text.tokenizer
    }

    /// The begin-of-sequence token.
    pub fn bos(&self) -> Option<u32> {
        self.root.text.bos.as_ref().map(|id| id.to_native())
    }

    /// The token put before every text, if the model's rule asks for one.
    pub fn leading_bos(&self) -> Option<u32> {
        self.bos().filter(|_| self.root.text.add_bos)
    }

    /// Does this token end a text?
    pub fn is_stop(&self, token: u32) -> bool {
        self.stop_tokens().any(|id| id == token)
    }

    /// The tokens that end a text.
    pub fn stop_tokens(&self) -> impl Iterator<Item = u32> + use<'a> {
        let text: &'a ArchivedText<'static> = &self.root.text;
        text.stop.iter().map(|id| id.to_native())
    }

    fn linear(&self, site: Site, linear: &'a ArchivedLinear<'static>) -> Linear<'a> {
        let rows = site.shape(&self.config).0;
        Linear {
            weight: linear.weight.view(),
            bias: vector(&linear.bias, rows),
            site: site.number(self.config.layers),
        }
    }
}

impl Base for Lstm<'_> {
    fn fingerprint(&self) -> Fingerprint {
        self.header.fingerprint
    }

    fn root(&self) -> RootKind {
        RootKind::LSTM
    }

    fn sites(&self) -> u32 {
        self.config.sites() as u32
    }

    fn site(&self, site: u32) -> Option<(usize, usize, bool)> {
        let site = Site::from_number(site, self.config.layers)?;
        if site == Site::Head && self.root.head.is_none() {
            return None;
        }
        let (rows, cols) = site.shape(&self.config);
        Some((rows, cols, site == Site::Embedding))
    }

    #[allow(clippy::misnamed_getters, reason = "what classifiers read is as wide as h")]
    fn dim(&self) -> usize {
        self.config.hidden
    }

    fn weight_at(&self, site: u32) -> Option<Matrix<'_>> {
        self.weight(Site::from_number(site, self.config.layers)?)
    }

    fn write_path(&self, site: u32, out: &mut dyn fmt::Write) -> fmt::Result {
        Site::from_number(site, self.config.layers).map_or(Ok(()), |site| write!(out, "{site}"))
    }
}

/// The linear layers of a layer with their places.
fn linears<'l>(
    i: usize,
    layer: &'l ArchivedLstmLayer<'static>,
) -> [(Site, &'l ArchivedLinear<'static>); 2] {
    [(Site::Ih(i), &layer.ih), (Site::Hh(i), &layer.hh)]
}
