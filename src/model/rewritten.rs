//! A base with other weights at some of its sites: what quantizes an archive anew. Reads no foreign
//! format.

use alloc::collections::BTreeMap;

use super::stored::Parts;
use super::{Family, Opened};
use crate::archive::{Buffer, schema, to_buffer};
use crate::error::Result;
use crate::nn::Linear;
use crate::quant::{Matrix, OwnedMatrix, Quantization};

/// A base whose weights at some sites are replaced.
struct Rewritten<'m, F: Family> {
    model: &'m Opened<'m, F>,
    weights: BTreeMap<u32, OwnedMatrix>,
}

impl<F: Family> Parts for Rewritten<'_, F> {
    fn linear(&self, place: u32) -> Option<schema::Linear<'_>> {
        let Linear { weight, bias, .. } = self.model.own_linear(place)?;
        let weight = self.weights.get(&place).map_or(weight, OwnedMatrix::view);
        Some(schema::Linear { weight: weight.into(), bias })
    }

    fn vector(&self, number: u32) -> &[f32] {
        self.model.vector(number)
    }
}

/// The archive of `model` with `weights` at their sites.
pub(crate) fn rewritten<F: Family>(
    model: &Opened<'_, F>,
    weights: BTreeMap<u32, OwnedMatrix>,
    content_version: u64,
) -> Result<Buffer> {
    let stop: alloc::vec::Vec<u32> = model.stop_tokens().collect();
    let parts = Rewritten { model, weights };
    F::with_root(&model.frame(&stop), &parts, |root| to_buffer(root, content_version))
}

/// A matrix in another format.
pub(crate) fn converted(weight: Matrix<'_>, how: &Quantization) -> Result<OwnedMatrix> {
    let (rows, cols) = (weight.rows(), weight.cols());
    OwnedMatrix::quantize_pieces(how, rows, cols, &mut |first, out| weight.read_flat(first, out))
}
