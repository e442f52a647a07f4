//! A float base with its linear layers in NF4, in memory: what `lowrank import FILE.lrk` writes and
//! `qlora` trains on when methods are compared. Reads no foreign format.

use std::collections::BTreeMap;

use crate::adapter::Base;
use crate::archive::Buffer;
use crate::error::Result;
use crate::model::{AnyBase, Family, Opened, converted, rewritten, with_family};
use crate::quant::{BlockScale, Format, Quantization};

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

fn requantized<F: Family>(model: &Opened<'_, F>, scale: BlockScale) -> Result<Buffer> {
    let mut weights = BTreeMap::new();
    for site in 0..model.sites() {
        if let Some((weight, is_edge)) = model.own_weight(site) {
            let format = if is_edge { Format::Int8 } else { Format::Nf4 };
            let how = Quantization { scale, ..Quantization::new(format) };
            weights.insert(site, converted(weight, &how)?);
        }
    }
    rewritten(model, weights, 1)
}
