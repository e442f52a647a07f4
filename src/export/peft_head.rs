//! The classifier of an adapter, and the pooler before it where transformers has that in the head,
//! as PEFT saves them whole (`modules_to_save`). Low-rank changes of other layers are `peft`'s.

use super::peft_tensors::{Tensor, vector};
use crate::adapter::{Adapter, Base, Classifier};
use crate::error::RootKind;
use crate::import::peft_classifier::{Head, bias, weight};
use crate::quant::Matrix;

/// `modules_to_save`. PEFT lists the two names that classifiers have in transformers, whichever the
/// model uses.
pub(super) fn modules(base: RootKind) -> Vec<&'static str> {
    let pooler = Head::of(base).and_then(Head::pooler);
    // RoBERTa's lies in its `classifier`.
    let alone = pooler.filter(|path| !path.starts_with("classifier."));
    ["classifier", "score"].into_iter().chain(alone).collect()
}

/// The tensors of the head under PEFT's names, as f32; an encoder's classifier without bias gets
/// zeros, a decoder's has none.
pub(super) fn tensors(
    adapter: &Adapter<'_>,
    classifier: &Classifier<'_>,
    base: &dyn Base,
) -> Vec<(String, Tensor)> {
    let Some(head) = Head::of(base.root()) else { return Vec::new() };
    let (own, rows) = (classifier.weight(), classifier.len());
    let zeros = vec![0.0; rows];
    let own_bias = if classifier.bias().is_empty() { &zeros[..] } else { classifier.bias() };
    let mut all = vec![(weight(head.path()), matrix(&floats(&own), rows))];
    if base.root().is_encoder() {
        all.push((bias(head.path()), vector(own_bias)));
    }
    let site = base.sites() - 1;
    if let Some(path) = head.pooler()
        && let Some((own, own_bias)) =
            adapter.pooler().or_else(|| Some((base.weight_at(site)?, base.bias_at(site))))
    {
        let (mut values, mut added) = (floats(&own), own_bias.to_vec());
        added.resize(own.rows(), 0.0);
        merge(adapter, site, &mut values, &mut added);
        all.push((weight(path), matrix(&values, own.rows())));
        all.push((bias(path), vector(&added)));
    }
    all
}

/// What the adapter changes at `site` into `values`, `[rows, cols]`, and `bias`, `[rows]`:
/// `k ⊙ (W + s B A)` and `b + k ⊙ s b_B`; of IA3 `l ⊙ W` and `l ⊙ b`.
fn merge(adapter: &Adapter<'_>, site: u32, values: &mut [f32], bias: &mut [f32]) {
    let Some(change) = adapter.target(site) else { return };
    if change.scaled.is_some() {
        let rows = values.chunks_exact_mut(change.inputs).zip(bias).zip(change.magnitude);
        return rows.for_each(|((row, bias), l)| {
            row.iter_mut().for_each(|value| *value *= l);
            *bias *= l;
        });
    }
    let scale = change.scale(change.rank);
    for (row, values) in values.chunks_exact_mut(change.inputs).enumerate() {
        let gain = change.gain.get(row).copied().unwrap_or(1.0);
        for (col, value) in values.iter_mut().enumerate() {
            let of = |r: usize| f64::from(change.b.get(r, row)) * f64::from(change.a.get(r, col));
            let product: f64 = (0..change.rank).map(of).sum();
            *value = (f64::from(gain) * (f64::from(*value) + f64::from(scale) * product)) as f32;
        }
        bias[row] += gain * scale * change.bias.get(row).copied().unwrap_or(0.0);
    }
}

/// `[rows, cols]`, row after row.
fn floats(matrix: &Matrix<'_>) -> Vec<f32> {
    let mut values = vec![0.0; matrix.rows() * matrix.cols()];
    let rows = values.chunks_exact_mut(matrix.cols()).enumerate();
    rows.for_each(|(row, out)| matrix.read(row, 0, out));
    values
}

fn matrix(values: &[f32], rows: usize) -> Tensor {
    Tensor { shape: vec![rows, values.len() / rows], ..vector(values) }
}
