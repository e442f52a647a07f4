//! The root of an adapter, and what of it is hashed. Checks of meaning are in `adapter`.

use rkyv::with::InlineAsBox;
use rkyv::{Archive, Serialize};

use super::{Linear, Lines};
#[cfg(feature = "alloc")]
use crate::archive::{Hasher, Root};
#[cfg(feature = "alloc")]
use crate::error::RootKind;

/// A low-rank factor `[rows, width]`.
#[derive(Debug, Clone, Copy, Archive, Serialize)]
pub struct Factor<'a> {
    /// f32, f16 or int8 ([`Format`](crate::quant::Format) as a number).
    pub format: u8,
    /// The numbers, row after row.
    #[rkyv(with = Lines)]
    pub values: &'a [u8],
    /// int8: one f32 per row; else empty.
    #[rkyv(with = Lines)]
    pub scales: &'a [f32],
}

/// What an adapter does to one linear layer or embedding.
#[derive(Debug, Clone, Copy, Archive, Serialize)]
pub struct Target<'a> {
    /// The number of the layer in its base; see the model's `Site`.
    pub site: u32,
    /// 0 linear, 1 embedding, 2 IA3 on the outputs of a linear layer, 3 IA3 on its inputs.
    pub kind: u8,
    /// How the scale follows from alpha and rank: 0 alpha / r, 1 alpha / √r.
    pub scaling: u8,
    /// r; 0 of kinds 2 and 3, whose factors are empty.
    pub rank: u32,
    /// Columns of W (linear) or the vocabulary (embedding).
    pub inputs: u32,
    /// Rows of W (linear) or the dimension (embedding).
    pub outputs: u32,
    /// alpha.
    pub alpha: f32,
    /// Linear: A, `[rank, inputs]`. Embedding: A transposed, `[inputs, rank]`.
    pub a: Factor<'a>,
    /// B transposed, `[rank, outputs]`: a smaller run-time rank is a prefix.
    pub b: Factor<'a>,
    /// The bias of B, `[outputs]`, or empty.
    #[rkyv(with = Lines)]
    pub bias: &'a [f32],
    /// DoRA's m, `[outputs]`, or empty. Kinds 2 and 3: IA3's l, `[outputs]` or `[inputs]`.
    #[rkyv(with = Lines)]
    pub magnitude: &'a [f32],
    /// DoRA's k = m / ‖W + s·B A‖ per output row, `[outputs]`, or empty.
    #[rkyv(with = Lines)]
    pub gain: &'a [f32],
}

/// A tensor that replaces one of the base's (PEFT's modules_to_save).
#[derive(Debug, Clone, Copy, Archive, Serialize)]
pub struct Replaced<'a> {
    /// The number of the layer in its base.
    pub site: u32,
    /// The new layer.
    pub linear: Linear<'a>,
}

/// A classifier on top of the base's last hidden state.
#[derive(Debug, Clone, Copy, Archive, Serialize)]
pub struct Classifier<'a> {
    /// `[labels, dim]`.
    pub linear: Linear<'a>,
    /// The label names, one per row, joined by line feeds.
    #[rkyv(with = InlineAsBox)]
    pub labels: &'a str,
}

/// The root of an adapter.
#[derive(Debug, Clone, Copy, Archive, Serialize)]
pub struct Adapter<'a> {
    /// The fingerprint of the base it was made for.
    pub base: [u8; 16],
    /// The base's root kind.
    pub base_root: u32,
    /// A name for people.
    #[rkyv(with = InlineAsBox)]
    pub name: &'a str,
    /// The method that made it, as PEFT spells it (`lora`, `rslora`, `dora` …).
    #[rkyv(with = InlineAsBox)]
    pub method: &'a str,
    /// Training facts, JSON, or empty.
    #[rkyv(with = InlineAsBox)]
    pub facts: &'a str,
    /// Per site of the base: 1 + the index of its target, or 0.
    #[rkyv(with = InlineAsBox)]
    pub index: &'a [u16],
    /// The targets, by rising site.
    #[rkyv(with = InlineAsBox)]
    pub targets: &'a [Target<'a>],
    /// Replaced tensors, by rising site.
    #[rkyv(with = InlineAsBox)]
    pub replaced: &'a [Replaced<'a>],
    /// A classifier.
    pub classifier: Option<Classifier<'a>>,
}

#[cfg(feature = "alloc")]
impl Adapter<'_> {
    /// Feeds the content with these `targets` instead of its own: those that are read in place make
    /// no list.
    pub(crate) fn feed<'t>(
        &self,
        targets: impl ExactSizeIterator<Item = Target<'t>>,
        hasher: &mut Hasher,
    ) {
        hasher.raw(&self.base);
        hasher.numbers(&[targets.len() as u32, self.replaced.len() as u32]);
        for t in targets {
            hasher.numbers(&[t.site, t.kind.into(), t.scaling.into(), t.rank, t.inputs, t.outputs]);
            hasher.floats(&[t.alpha]);
            for factor in [t.a, t.b] {
                hasher.numbers(&[factor.format.into()]);
                hasher.bytes(factor.values);
                hasher.floats(factor.scales);
            }
            [t.bias, t.magnitude, t.gain].iter().for_each(|vector| hasher.floats(vector));
        }
        for replaced in self.replaced {
            hasher.numbers(&[replaced.site]);
            hasher.linear(&replaced.linear);
        }
        if let Some(classifier) = &self.classifier {
            hasher.linear(&classifier.linear);
        }
    }
}

#[cfg(feature = "alloc")]
impl Root for Adapter<'_> {
    fn kind(&self) -> RootKind {
        RootKind::ADAPTER
    }

    fn hash(&self, hasher: &mut Hasher) {
        self.feed(self.targets.iter().copied(), hasher);
    }
}
