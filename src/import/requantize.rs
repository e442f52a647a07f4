//! A float base with its linear layers in NF4, in memory: what `lowrank import FILE.lrk` writes and
//! `qlora` trains on when methods are compared. Reads no foreign format.

use std::collections::BTreeMap;

use crate::adapter::Base;
use crate::archive::{Buffer, schema, to_buffer};
use crate::error::Result;
use crate::model::stored::Parts;
use crate::model::{AnyBase, Family, Opened, with_family};
use crate::nn::Linear;
use crate::quant::{BlockScale, Format, Matrix, OwnedMatrix, Quantization};

/// A float base as `lowrank import` makes it by default: linear layers in NF4, embedding and output
/// head in 8 bits; `None` if its linear layers are no floats. `scale` is how NF4 chooses the scale
/// of a block.
///
/// # Errors
/// Those of the writers.
pub fn with_nf4(base: &AnyBase<'_>, scale: BlockScale) -> Result<Option<Buffer>> {
    let first = base.as_base().weight_at(0);
    if !first.is_some_and(|weight| matches!(weight.format(), Format::F32 | Format::F16)) {
        return Ok(None);
    }
    with_family!(base, model => requantized(model, scale)).map(Some)
}

/// A base whose weights at its sites are replaced.
struct Requantized<'m, F: Family> {
    model: &'m Opened<'m, F>,
    weights: BTreeMap<u32, OwnedMatrix>,
}

impl<F: Family> Parts for Requantized<'_, F> {
    fn linear(&self, place: u32) -> Option<schema::Linear<'_>> {
        let Linear { weight, bias, .. } = self.model.own_linear(place)?;
        let weight = self.weights.get(&place).map_or(weight, OwnedMatrix::view);
        Some(schema::Linear { weight: weight.into(), bias })
    }

    fn vector(&self, number: u32) -> &[f32] {
        self.model.vector(number)
    }
}

fn requantized<F: Family>(model: &Opened<'_, F>, scale: BlockScale) -> Result<Buffer> {
    let mut weights = BTreeMap::new();
    for site in 0..model.sites() {
        if let Some((weight, is_edge)) = model.own_weight(site) {
            let format = if is_edge { Format::Int8 } else { Format::Nf4 };
            let how = Quantization { scale, ..Quantization::new(format) };
            weights.insert(site, converted(weight, &how)?);
        }
    }
    let stop: Vec<u32> = model.stop_tokens().collect();
    let parts = Requantized { model, weights };
    F::with_root(&model.frame(&stop), &parts, |root| to_buffer(root, 1))
}

/// A matrix in another format.
fn converted(weight: Matrix<'_>, how: &Quantization) -> Result<OwnedMatrix> {
    let (rows, cols) = (weight.rows(), weight.cols());
    OwnedMatrix::quantize_pieces(how, rows, cols, &mut |first, out| weight.read_flat(first, out))
}
