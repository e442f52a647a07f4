//! What archives hold: the fields of each root. Borrowed structs are written; their `Archived…`
//! twins are read in place.
//!
//! A new model family is a new root with a number of its own, so old files never change. Presence
//! of an optional vector is its length. Lengths and meanings are checked by the `check` of each
//! part, called when a root is opened, so that the views handed out afterwards need no checks.

pub mod bert;
pub mod checkpoint;
pub mod lstm;
pub mod mlp;

use rkyv::rend::{f32_le, u16_le, u32_le};
use rkyv::vec::ArchivedVec;
use rkyv::with::InlineAsBox;
use rkyv::{Archive, Serialize};

use super::floats;
use super::line::{Line, Lines};
use crate::error::{Error, Result};
use crate::quant::{Format, Layout, Matrix as View, Parts, Values};

/// A weight matrix `[rows, cols]`, in one format.
#[derive(Debug, Clone, Copy, Archive, Serialize)]
pub struct Matrix<'a> {
    /// Outputs.
    pub rows: u32,
    /// Inputs.
    pub cols: u32,
    /// Weights per block; 1 for formats without blocks.
    pub block: u32,
    /// NF4: the mean of the scales; else 0.
    pub offset: f32,
    /// [`Format`] as a number.
    pub format: u8,
    /// [`Layout`] as a number.
    pub layout: u8,
    /// Codes or values.
    #[rkyv(with = Lines)]
    pub codes: &'a [u8],
    /// Block scales: f32, f16, or 8-bit codes.
    #[rkyv(with = Lines)]
    pub scales: &'a [u8],
    /// NF4: the scale of each group of scale codes.
    #[rkyv(with = Lines)]
    pub nested: &'a [f32],
}

impl<'a> From<View<'a>> for Matrix<'a> {
    fn from(view: View<'a>) -> Self {
        let Parts { codes, scales, nested, offset } = view.values().parts();
        Self {
            rows: view.rows() as u32,
            cols: view.cols() as u32,
            block: view.block() as u32,
            offset,
            format: view.format() as u8,
            layout: view.layout() as u8,
            codes,
            scales,
            nested: bytemuck::cast_slice(nested),
        }
    }
}

impl ArchivedMatrix<'_> {
    fn known_format(&self) -> Option<(Format, Layout)> {
        Some((Format::from_stored(self.format)?, Layout::from_stored(self.layout)?))
    }

    /// Proves what [`view`](Self::view) relies on: known format, the expected shape, and payloads
    /// of the right length.
    pub(crate) fn check(&self, site: u32, rows: usize, cols: usize) -> Result<()> {
        let (have_rows, have_cols) = (self.rows.to_native(), self.cols.to_native());
        if (have_rows as usize, have_cols as usize) != (rows, cols) {
            return Err(Error::Shape {
                site,
                rows: have_rows.into(),
                cols: have_cols.into(),
                expected_rows: rows as u64,
                expected_cols: cols as u64,
            });
        }
        let block = self.block.to_native() as usize;
        let unknown = Error::Format {
            site,
            format: self.format.into(),
            layout: self.layout.into(),
            block: block as u32,
        };
        let (format, layout) = self.known_format().ok_or(unknown)?;
        if !format.allows(block, layout, cols) {
            return Err(unknown);
        }
        let (main, scales, nested) =
            format.payload(u64::from(have_rows) * u64::from(have_cols), block as u64);
        check_lines(site, &self.codes, main)?;
        check_lines(site, &self.scales, scales)?;
        check_lines(site, &self.nested, nested)
    }

    /// Proves that every scale (or plain value) is finite; reads them all.
    pub(crate) fn check_values(&self, site: u32) -> Result<()> {
        self.view().first_not_finite().map_or(Ok(()), |index| Err(Error::NotFinite { site, index }))
    }

    /// The matrix, after [`check`](Self::check) has succeeded.
    pub(crate) fn view(&self) -> View<'_> {
        let (rows, cols, block) = (
            self.rows.to_native() as usize,
            self.cols.to_native() as usize,
            self.block.to_native() as usize,
        );
        let (format, layout) = self.known_format().unwrap_or((Format::F32, Layout::Sequential));
        let parts = Parts {
            codes: &self.codes,
            scales: &self.scales,
            nested: &self.nested,
            offset: self.offset.to_native(),
        };
        let values = Values::in_place(format, rows * cols, block, layout, &parts);
        View::trusted(rows, cols, values)
    }
}

/// Exactly the lines that `bytes` need.
pub(crate) fn check_lines(site: u32, lines: &ArchivedVec<Line>, bytes: u64) -> Result<()> {
    let have = lines.len() as u64;
    if have == bytes.div_ceil(size_of::<Line>() as u64) {
        return Ok(());
    }
    Err(Error::PayloadLength { site, have: have * size_of::<Line>() as u64, need: bytes })
}

/// Checks a vector of `len` f32 values, or that it is absent where `optional`; says whether it is
/// there.
pub(crate) fn check_vector(
    site: u32,
    lines: &ArchivedVec<Line>,
    len: usize,
    optional: bool,
) -> Result<bool> {
    if optional && lines.is_empty() {
        return Ok(false);
    }
    check_lines(site, lines, len as u64 * 4)?;
    Ok(true)
}

/// A vector of `len` f32 values after [`check_vector`]; empty if absent.
pub(crate) fn vector(lines: &ArchivedVec<Line>, len: usize) -> &[f32] {
    if lines.is_empty() { &[] } else { &floats(lines)[..len] }
}

/// A linear layer: `y = W x + b`.
#[derive(Debug, Clone, Copy, Archive, Serialize)]
pub struct Linear<'a> {
    /// W, `[out, in]`.
    pub weight: Matrix<'a>,
    /// b, `[out]`, or empty.
    #[rkyv(with = Lines)]
    pub bias: &'a [f32],
}

/// The text border of a language model, carried as it came.
#[derive(Debug, Clone, Copy, Default, Archive, Serialize)]
pub struct Text<'a> {
    /// `tokenizer.json`, or empty.
    #[rkyv(with = InlineAsBox)]
    pub tokenizer: &'a [u8],
    /// The chat template (Jinja), or empty.
    #[rkyv(with = InlineAsBox)]
    pub chat_template: &'a str,
    /// The begin-of-sequence token.
    pub bos: Option<u32>,
    /// Is it put before every prompt?
    pub add_bos: bool,
    /// Tokens that end a turn; the end-of-sequence token first.
    #[rkyv(with = InlineAsBox)]
    pub stop: &'a [u32],
}

/// The numbers that define a Llama-family decoder; see [`crate::model::llama::Config`].
#[derive(Debug, Clone, Copy, Archive, Serialize)]
#[allow(missing_docs, reason = "the twin documents every field")]
pub struct LlamaConfig {
    pub vocab: u32,
    pub dim: u32,
    pub layers: u32,
    pub heads: u32,
    pub kv_heads: u32,
    pub head_dim: u32,
    pub hidden: u32,
    pub context: u32,
    pub rope_theta: f32,
    /// 0 none, 1 linear, 2 Llama 3.
    pub rope_scaling: u32,
    /// Factor, low frequency factor, high frequency factor, original context.
    pub rope_parameters: [f32; 4],
    pub norm_epsilon: f32,
}

/// One decoder block.
#[derive(Debug, Clone, Copy, Archive, Serialize)]
pub struct LlamaLayer<'a> {
    /// RMSNorm before attention, `[dim]`.
    #[rkyv(with = Lines)]
    pub attention_norm: &'a [f32],
    /// `[heads · head_dim, dim]`.
    pub q: Linear<'a>,
    /// `[kv_heads · head_dim, dim]`.
    pub k: Linear<'a>,
    /// `[kv_heads · head_dim, dim]`.
    pub v: Linear<'a>,
    /// `[dim, heads · head_dim]`.
    pub o: Linear<'a>,
    /// RMSNorm of each query head, `[head_dim]`, or empty (Qwen3).
    #[rkyv(with = Lines)]
    pub q_norm: &'a [f32],
    /// RMSNorm of each key head, `[head_dim]`, or empty (Qwen3).
    #[rkyv(with = Lines)]
    pub k_norm: &'a [f32],
    /// RMSNorm before the feed-forward part, `[dim]`.
    #[rkyv(with = Lines)]
    pub feed_forward_norm: &'a [f32],
    /// `[hidden, dim]`.
    pub gate: Linear<'a>,
    /// `[hidden, dim]`.
    pub up: Linear<'a>,
    /// `[dim, hidden]`.
    pub down: Linear<'a>,
}

/// The root of a Llama-family base.
#[derive(Debug, Clone, Copy, Archive, Serialize)]
pub struct Llama<'a> {
    /// The model's name as its source had it.
    #[rkyv(with = InlineAsBox)]
    pub name: &'a str,
    /// The numbers.
    pub config: LlamaConfig,
    /// Tokenizer and template.
    pub text: Text<'a>,
    /// `[vocab, dim]`.
    pub embedding: Matrix<'a>,
    /// The blocks, first to last.
    #[rkyv(with = InlineAsBox)]
    pub layers: &'a [LlamaLayer<'a>],
    /// The last RMSNorm, `[dim]`.
    #[rkyv(with = Lines)]
    pub norm: &'a [f32],
    /// The output head `[vocab, dim]`; absent if it is the embedding (tied).
    pub head: Option<Matrix<'a>>,
}

/// A low-rank factor `[rows, width]`.
#[derive(Debug, Clone, Copy, Archive, Serialize)]
pub struct Factor<'a> {
    /// f32, f16 or int8 ([`Format`] as a number).
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
    /// 0 linear, 1 embedding.
    pub kind: u8,
    /// How the scale follows from alpha and rank: 0 alpha / r, 1 alpha / √r.
    pub scaling: u8,
    /// r.
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
    /// DoRA's m, `[outputs]`, or empty.
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

// The format features of rkyv show in these.
const _: () = assert!(size_of::<ArchivedMatrix<'static>>() == 72);
const _: () = assert!(size_of::<ArchivedLlamaConfig>() == 60);
const _: (u16_le, u32_le, f32_le) =
    (u16_le::from_native(0), u32_le::from_native(0), f32_le::from_native(0.0));
