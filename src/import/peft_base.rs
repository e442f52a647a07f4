//! The base's own embedding or head as PEFT stores it beside an adapter of it
//! (`….base_layer.weight`).
//!
//! An adapter only adds to the base, so a base layer that was trained or replaced would be lost if
//! it were ignored: its values must be the base's, up to what the base's format has rounded away. A
//! change smaller than that rounding can't be seen.

use super::safetensors::Stored;
use crate::quant::{Matrix, Values};

/// Refuses a stored base layer that is not `weight`.
pub(crate) fn check_base(stored: &Stored<'_>, weight: &Matrix<'_>) -> Result<(), String> {
    let (rows, cols) = (weight.rows(), weight.cols());
    if stored.shape != [rows, cols] {
        return Err(format!(
            "the shape is {:?}, the base's is [{rows}, {cols}]: a resized layer is not supported",
            stored.shape
        ));
    }
    let values = stored.to_f32().ok_or_else(|| {
        format!("tensors of type {:?} are not supported; F32, F16 and BF16 are", stored.dtype)
    })?;
    let [mut relative, of_largest, absolute] = weight.format().rounding();
    if matches!(weight.values(), Values::Nf4(nf4) if nf4.is_fitted()) {
        relative = FITTED;
    }
    let absolute = of_largest * largest(&values) + absolute;
    // What a format rounds is relative to the largest weight of its block; of its row if it has no
    // blocks.
    let block = if weight.block() > 1 { weight.block() } else { cols };
    let absmax: Vec<f32> = values.chunks(block).map(largest).collect();
    let mut row = vec![0.0; cols];
    for (i, values) in values.chunks_exact(cols).enumerate() {
        weight.read(i, 0, &mut row);
        for (j, (&theirs, &ours)) in values.iter().zip(&row).enumerate() {
            let close =
                (theirs - ours).abs() <= relative * absmax[(i * cols + j) / block] + absolute;
            // Not "further apart": NaN must be refused.
            if !close {
                return Err(format!(
                    "[{i}, {j}] is {theirs}, the base has {ours}: the adapter belongs to a base whose layer was trained or replaced, \
                     or that was imported from other weights"
                ));
            }
        }
    }
    Ok(())
}

/// Of the largest weight of a block a fitted scale cuts off a part.
const FITTED: f32 = 0.4;

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |most, value| most.max(value.abs()))
}
