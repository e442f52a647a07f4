//! The architectures of the BERT family, and all in which they differ once a model is imported: the
//! root's number, module paths as transformers has them, what follows the pooler. How their
//! checkpoints are read is in `import`.

use core::fmt;

use super::Site;
use crate::error::RootKind;
use crate::tensor::math;

/// Which model of transformers an encoder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Architecture {
    /// BERT (arXiv 1810.04805).
    Bert,
    /// RoBERTa (arXiv 1907.11692), XLM-R and CamemBERT.
    Roberta,
    /// DistilBERT (arXiv 1910.01108).
    DistilBert,
}

impl Architecture {
    /// All of them, with the number of their root.
    pub(super) const KINDS: &'static [RootKind] =
        &[RootKind::BERT, RootKind::ROBERTA, RootKind::DISTILBERT];

    /// That of bases with this root; `None` if they are no encoders.
    pub const fn of(kind: RootKind) -> Option<Self> {
        match kind {
            RootKind::BERT => Some(Self::Bert),
            RootKind::ROBERTA => Some(Self::Roberta),
            RootKind::DISTILBERT => Some(Self::DistilBert),
            _ => None,
        }
    }

    /// The number of its root.
    pub const fn kind(self) -> RootKind {
        match self {
            Self::Bert => RootKind::BERT,
            Self::Roberta => RootKind::ROBERTA,
            Self::DistilBert => RootKind::DISTILBERT,
        }
    }

    /// What task models put before the encoder's module paths.
    #[cfg(feature = "std")]
    pub(crate) const fn prefix(self) -> &'static str {
        match self {
            Self::Bert => "bert.",
            Self::Roberta => "roberta.",
            Self::DistilBert => "distilbert.",
        }
    }

    /// Where task models have the last layer of a classifier of texts.
    #[cfg(feature = "std")]
    pub(crate) const fn head_classifier(self) -> &'static str {
        match self {
            Self::Roberta => "classifier.out_proj",
            _ => "classifier",
        }
    }

    /// Where they have its pooler, if it is part of the head and not of the encoder.
    #[cfg(feature = "std")]
    pub(crate) const fn head_pooler(self) -> Option<&'static str> {
        match self {
            Self::Bert => None,
            Self::Roberta => Some("classifier.dense"),
            Self::DistilBert => Some("pre_classifier"),
        }
    }

    /// What follows the pooler's linear layer: tanh, of DistilBERT ReLU.
    pub(crate) fn activate_pooled(self, values: &mut [f32]) {
        match self {
            Self::DistilBert => values.iter_mut().for_each(|value| *value = value.max(0.0)),
            _ => values.iter_mut().for_each(|value| *value = math::tanh(*value)),
        }
    }

    /// The derivative of [`activate_pooled`](Self::activate_pooled) where it gave `out`.
    #[cfg(feature = "train")]
    pub(super) fn pooled_slope(self, out: f32) -> f32 {
        match self {
            Self::DistilBert => f32::from(u8::from(out > 0.0)),
            _ => 1.0 - out * out,
        }
    }

    /// Writes the module path of `site` in transformers' `BertModel`, `RobertaModel` or
    /// `DistilBertModel`; DistilBERT's pooler stands outside of it, in the task models.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_path(self, site: Site, out: &mut dyn fmt::Write) -> fmt::Result {
        let is_distil = self == Self::DistilBert;
        let (layer, part) = match site {
            Site::Embedding => return out.write_str("embeddings.word_embeddings"),
            Site::Pooler if is_distil => return out.write_str("pre_classifier"),
            Site::Pooler => return out.write_str("pooler.dense"),
            Site::Q(layer) => (layer, ["attention.self.query", "attention.q_lin"]),
            Site::K(layer) => (layer, ["attention.self.key", "attention.k_lin"]),
            Site::V(layer) => (layer, ["attention.self.value", "attention.v_lin"]),
            Site::O(layer) => (layer, ["attention.output.dense", "attention.out_lin"]),
            Site::Up(layer) => (layer, ["intermediate.dense", "ffn.lin1"]),
            Site::Down(layer) => (layer, ["output.dense", "ffn.lin2"]),
        };
        self.write_block(layer, part, out)
    }

    fn write_block(
        self,
        layer: usize,
        [bert, distil]: [&str; 2],
        out: &mut dyn fmt::Write,
    ) -> fmt::Result {
        match self {
            Self::DistilBert => write!(out, "transformer.layer.{layer}.{distil}"),
            _ => write!(out, "encoder.layer.{layer}.{bert}"),
        }
    }

    /// The module path of `site`.
    #[cfg(feature = "std")]
    pub(crate) fn path(self, site: Site) -> String {
        let mut path = String::new();
        // Writing to a string cannot fail.
        let _ = self.write_path(site, &mut path);
        path
    }

    /// The module path of a norm: 0 is the embeddings', 2i + 1 and 2i + 2 are block i's.
    #[cfg(feature = "std")]
    pub(crate) fn norm_path(self, norm: usize) -> String {
        let Some(before) = norm.checked_sub(1) else { return "embeddings.LayerNorm".into() };
        let part = match before % 2 {
            0 => ["attention.output.LayerNorm", "sa_layer_norm"],
            _ => ["output.LayerNorm", "output_layer_norm"],
        };
        let mut path = String::new();
        // Writing to a string cannot fail.
        let _ = self.write_block(before / 2, part, &mut path);
        path
    }
}
