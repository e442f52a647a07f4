//! An opened base of any family: what all of them do alike. The parts that differ are handed out in
//! the family's folder.

use core::fmt;

use rkyv::vec::ArchivedVec;

use super::family::{Family, Place, VectorPlace};
#[cfg(feature = "std")]
use super::stored::Frame;
#[cfg(feature = "alloc")]
use super::stored::{Parts, Stored};
use crate::adapter::Base;
use crate::archive::schema::{ArchivedText, check_vector, vector};
use crate::archive::{self, Fingerprint, Header, Line, check_finite};
#[cfg(feature = "alloc")]
use crate::archive::{Hasher, schema};
use crate::error::{Error, Field, Result, RootKind};
#[cfg(feature = "alloc")]
use crate::nn::Linear;
use crate::quant::Matrix;

/// An opened base of the family `F`. Borrows the archive; copying it copies a few words.
pub struct Opened<'a, F: Family> {
    pub(super) root: &'a F,
    pub(super) config: F::Config,
    header: Header,
}

impl<F: Family> Clone for Opened<'_, F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F: Family> Copy for Opened<'_, F> {}

impl<F: Family> fmt::Debug for Opened<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(F::NAME)
            .field("config", &self.config)
            .field("header", &self.header)
            .finish_non_exhaustive()
    }
}

impl<'a, F: Family> Opened<'a, F> {
    /// Opens an archive in place. The time depends on the number of tensors, not on their size:
    /// weights are not read.
    ///
    /// # Errors
    /// Those of [`Header::parse`]; [`Error::WrongRoot`], [`Error::Invalid`], [`Error::Config`],
    /// [`Error::Shape`], [`Error::Format`], [`Error::PayloadLength`], [`Error::NotFinite`]
    /// (norms and biases are read), [`Error::Token`]; of an encoder [`Error::NoPooler`] if its own
    /// pooling asks for one that is absent; of an LSTM [`Error::NoHead`]; of models with labels
    /// [`Error::Labels`].
    pub fn open(archive: &'a [u8]) -> Result<Self> {
        F::open(archive)
    }

    /// Reads the whole archive: its checksum, every scale, and with `alloc` its fingerprint.
    ///
    /// # Errors
    /// [`Error::Checksum`], [`Error::NotFinite`], with `alloc` [`Error::Content`], and those of
    /// [`open`](Self::open).
    pub fn verify(archive: &'a [u8]) -> Result<Self> {
        archive::verify(archive)?;
        let model = Self::open(archive)?;
        let sites = F::sites(&model.config);
        for number in 0..sites + F::TABLES {
            if let Some(place) = model.root.place(&model.config, number) {
                place.weight.check_values(number.min(sites))?;
            }
        }
        #[cfg(feature = "alloc")]
        Hasher::check(model.header.fingerprint, model.header.root, |hasher| {
            let frame = model.root.frame(&model.config, &[]);
            let layer = |index| <F::Stored<'_> as Stored<'_>>::layer(&model, frame.layers, index);
            F::Stored::new(&frame, &model, &[]).feed((0..frame.layers).map(layer), hasher);
        })?;
        Ok(model)
    }

    /// The model's numbers.
    pub fn config(&self) -> &F::Config {
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
        self.root.name()
    }

    /// The label names of the model's own head, one per output; none without such a head.
    pub fn labels(&self) -> impl Iterator<Item = &'a str> + use<'a, F> {
        self.root.labels().split('\n').filter(|label| !label.is_empty())
    }

    /// `tokenizer.json`, or empty.
    pub fn tokenizer_json(&self) -> &'a [u8] {
        self.root.text().map_or(&[], |text| &text.tokenizer)
    }

    /// The chat template (Jinja), or empty.
    pub fn chat_template(&self) -> &'a str {
        self.root.text().map_or("", |text| &text.chat_template)
    }

    /// The begin-of-sequence token.
    pub fn bos(&self) -> Option<u32> {
        self.root.text()?.bos.as_ref().map(|id| id.to_native())
    }

    /// The token put before every text, if the model's rule asks for one.
    pub fn leading_bos(&self) -> Option<u32> {
        self.bos().filter(|_| self.root.text().is_some_and(|text| text.add_bos))
    }

    /// Does this token end a turn?
    pub fn is_stop(&self, token: u32) -> bool {
        self.stop_tokens().any(|id| id == token)
    }

    /// The tokens that end a turn.
    pub fn stop_tokens(&self) -> impl Iterator<Item = u32> + use<'a, F> {
        let stop = self.root.text().map_or(&[][..], |text| text.stop.get());
        stop.iter().map(|id| id.to_native())
    }

    /// Where its archive lies.
    #[cfg(all(feature = "cuda", feature = "capi"))]
    pub(crate) fn address(&self) -> usize {
        core::ptr::from_ref(self.root).addr()
    }

    /// The layer at a place that is not absent; an embedding or table as one without bias.
    #[cfg(feature = "std")]
    pub(crate) fn linear(&self, number: u32) -> Option<Linear<'a>> {
        self.place(number).map(|place| place.view(number))
    }

    /// As [`linear`](Self::linear); a tied head is absent.
    #[cfg(feature = "alloc")]
    pub(crate) fn own_linear(&self, number: u32) -> Option<Linear<'a>> {
        self.root.place(&self.config, number).map(|place| place.view(number))
    }

    /// The place with this number; of a tied head the embedding's weight.
    pub(super) fn place(&self, number: u32) -> Option<Place<'a>> {
        match self.root.tied(&self.config) {
            Some((embedding, head)) if number == head => {
                let embedding = self.root.place(&self.config, embedding)?;
                Some(Place { is_embedding: false, ..embedding })
            }
            _ => self.root.place(&self.config, number),
        }
    }

    /// The weight at a place that is there, and whether it is an embedding or output head.
    #[cfg(feature = "std")]
    pub(crate) fn own_weight(&self, number: u32) -> Option<(Matrix<'a>, bool)> {
        let place = self.root.place(&self.config, number)?;
        Some((place.weight.view(), place.is_edge))
    }

    /// What is stored beside the tensors; `stop` are the [`stop_tokens`](Self::stop_tokens).
    #[cfg(feature = "std")]
    pub(crate) fn frame<'s>(&self, stop: &'s [u32]) -> Frame<'s, F::StoredConfig>
    where
        'a: 's,
    {
        self.root.frame(&self.config, stop)
    }

    /// How many vectors there are; absent ones are counted.
    #[cfg(feature = "std")]
    pub(crate) fn vectors(&self) -> u32 {
        (0..).take_while(|&number| self.root.vector(&self.config, number).is_some()).count() as u32
    }

    /// The vector with this number; empty if it is absent.
    #[cfg(feature = "alloc")]
    pub(crate) fn vector(&self, number: u32) -> &'a [f32] {
        let place = self.root.vector(&self.config, number);
        place.map_or(&[], |place| vector(place.lines, place.len))
    }
}

impl<F: Family> Base for Opened<'_, F> {
    fn fingerprint(&self) -> Fingerprint {
        self.header.fingerprint
    }

    fn root(&self) -> RootKind {
        self.header.root
    }

    fn sites(&self) -> u32 {
        F::sites(&self.config)
    }

    fn site(&self, site: u32) -> Option<(usize, usize, bool)> {
        let place = self.place(site).filter(|_| site < self.sites())?;
        Some((place.shape.0, place.shape.1, place.is_embedding))
    }

    fn dim(&self) -> usize {
        F::width(&self.config)
    }

    fn weight_at(&self, site: u32) -> Option<Matrix<'_>> {
        let place = self.place(site).filter(|_| site < self.sites())?;
        Some(place.weight.view())
    }

    #[cfg(feature = "std")]
    fn bias_at(&self, site: u32) -> &[f32] {
        self.linear(site).filter(|_| site < self.sites()).map_or(&[], |linear| linear.bias)
    }

    fn scales_inputs(&self, site: u32) -> bool {
        F::owns_inputs(&self.config, site)
    }

    fn write_path(&self, site: u32, out: &mut dyn fmt::Write) -> fmt::Result {
        F::write_path(&self.config, site, out)
    }

    fn tied(&self) -> Option<(u32, u32)> {
        self.root.tied(&self.config)
    }
}

#[cfg(feature = "alloc")]
impl<F: Family> Parts for Opened<'_, F> {
    fn linear(&self, place: u32) -> Option<schema::Linear<'_>> {
        let Linear { weight, bias, .. } = self.own_linear(place)?;
        Some(schema::Linear { weight: weight.into(), bias })
    }

    fn vector(&self, number: u32) -> &[f32] {
        Opened::vector(self, number)
    }
}

/// [`Opened::open`]. Families call it, so that it is compiled in this crate and not in the one that
/// uses it: only then does the compiler see through an archive that is a constant in flash.
pub(super) fn open<F: Family>(archive: &[u8]) -> Result<Opened<'_, F>> {
    let (header, root) = archive::open_root::<F>(archive, F::KINDS)?;
    let config = root.config(header.root)?;
    check(root, &config)?;
    Ok(Opened { root, config, header })
}

/// Every shape, length, tag and vector, so that those who hand them out can trust them.
fn check<F: Family>(root: &F, config: &F::Config) -> Result<()> {
    let (found, stated) = root.layers();
    check_layers(found, stated)?;
    let sites = F::sites(config);
    for number in 0..sites + F::TABLES {
        if let Some(place) = root.place(config, number) {
            place.check(number.min(sites))?;
        }
    }
    let mut number = 0;
    while let Some(VectorPlace { lines, len, is_optional }) = root.vector(config, number) {
        check_small(sites, lines, len, is_optional)?;
        number += 1;
    }
    root.check(config)
}

/// A vector of `len` finite values, or none where `optional`.
pub(super) fn check_small(
    site: u32,
    lines: &ArchivedVec<Line>,
    len: usize,
    optional: bool,
) -> Result<()> {
    check_vector(site, lines, len, optional)?;
    check_finite(site, vector(lines, len))
}

/// Refuses a root that has `found` layers where its configuration says `layers`.
pub(super) fn check_layers(found: usize, layers: usize) -> Result<()> {
    let (found, layers) = (found as u64, layers as u64);
    if found == layers {
        return Ok(());
    }
    Err(Error::Config { field: Field::LayerCount, found, least: layers, most: layers })
}

/// Refuses special tokens outside a vocabulary of `vocab`.
pub(super) fn check_tokens(text: &ArchivedText<'static>, vocab: usize) -> Result<()> {
    let mut ids = text.bos.as_ref().into_iter().chain(text.stop.iter());
    match ids.find(|id| id.to_native() as usize >= vocab) {
        Some(id) => Err(Error::Token { token: id.to_native(), vocab: vocab as u32 }),
        None => Ok(()),
    }
}
