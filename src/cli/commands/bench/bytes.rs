//! The bytes that decoding one token reads.

use lowrank::adapter::{Factor, FactorValues, LowRank};
use lowrank::model::llama::{Llama, Site};

/// The bytes of weights and scales that decoding one token reads: blocks and head. Of the embedding
/// it reads one row.
pub(super) fn weight_bytes(model: Llama<'_>) -> u64 {
    let layers = model.config().layers;
    let sites =
        (0..model.config().sites() as u32).filter_map(|number| Site::from_number(number, layers));
    sites.filter(|&site| site != Site::Embedding).map(|site| model.weight(site).bytes()).sum()
}

pub(super) fn row_bytes(bytes: u64, rows: usize) -> u64 {
    bytes.div_ceil(rows.max(1) as u64)
}

/// The bytes of one target that decoding one token reads.
pub(super) fn target_bytes(target: &LowRank<'_>, model: Llama<'_>) -> u64 {
    let a = factor_bytes(&target.a);
    // Of an adapted embedding one row of A is read.
    let a = if target.is_embedding { row_bytes(a, model.config().vocab) } else { a };
    let scale = if target.scaled.is_some() { target.magnitude } else { target.gain };
    a + factor_bytes(&target.b) + (size_of_val(target.bias) + size_of_val(scale)) as u64
}

fn factor_bytes(factor: &Factor<'_>) -> u64 {
    (match factor.values() {
        FactorValues::F32(values) => size_of_val(values),
        FactorValues::F16(values) => size_of_val(values),
        FactorValues::Int8 { values, scales } => size_of_val(values) + size_of_val(scales),
    }) as u64
}
