//! What an encoder has beside linear layers, as it is trained: norms, positions and token types.

use super::BertBody;
use crate::nn::LayerNorm;
use crate::quant::Matrix;
use crate::train::ops;
use crate::train::step::Step;

/// The numbers of a norm's weight and bias among the family's vectors.
pub(super) fn norm_ids(norm: usize) -> [u32; 2] {
    [2 * norm as u32, 2 * norm as u32 + 1]
}

impl<'a> BertBody<'a> {
    /// The number of the last block's second norm.
    pub(super) fn last_norm(&self) -> usize {
        2 * self.model.config().layers
    }

    /// Norm `number` as the archive has it.
    pub(super) fn archived_norm(&self, number: usize) -> LayerNorm<'a> {
        match number {
            0 => self.model.embedding_norm(),
            odd if !odd.is_multiple_of(2) => self.model.layer(odd / 2).attention_norm,
            even => self.model.layer(even / 2 - 1).output_norm,
        }
    }

    /// Norm `number` as it is now.
    pub(super) fn norm<'s>(&self, step: &Step<'s>, number: usize) -> LayerNorm<'s>
    where
        'a: 's,
    {
        let ([weight, bias], archived) = (norm_ids(number), self.archived_norm(number));
        LayerNorm {
            weight: step.vector(weight, archived.weight),
            bias: step.vector(bias, archived.bias),
            ..archived
        }
    }

    /// The backward pass of norm `number`, in place.
    pub(super) fn norm_back(
        &self,
        step: &Step<'_>,
        number: usize,
        sum: &[f32],
        d: &mut [f32],
        gradients: &mut [f32],
    ) {
        let ranges = norm_ids(number).map(|id| step.plan.vectors.get(&id).cloned());
        let [dw, db] = match ranges {
            [Some(weight), Some(bias)] => {
                gradients.get_disjoint_mut([weight, bias]).unwrap_or_default()
            }
            _ => Default::default(),
        };
        ops::layer_norm_back(&step.machine, sum, &self.norm(step, number), d, dw, db);
    }

    /// The tables of positions and token types by their numbers. They are trained (by `full`) where
    /// they are f32.
    pub(super) fn tables(&self) -> [(u32, Matrix<'a>); 2] {
        let next = norm_ids(self.last_norm() + 1);
        [(next[0], self.model.positions()), (next[1], self.model.token_types())]
    }

    /// Adds the embeddings of every row's position and of token type 0.
    pub(super) fn add_places(&self, step: &Step<'_>, starts: &[usize], x: &mut [f32]) {
        let dim = self.model.config().dim;
        let [positions, types] =
            self.tables().map(|(id, table)| match step.plan.vectors.get(&id) {
                Some(range) => table.with_floats(&step.values[range.clone()]),
                None => table,
            });
        let (mut position, mut kind) = (vec![0.0; dim], vec![0.0; dim]);
        step.machine.compute(|| {
            types.read(0, 0, &mut kind);
            for (at, x) in places(starts).zip(x.chunks_exact_mut(dim)) {
                positions.read(at, 0, &mut position);
                step.machine.kernels.axpy(1.0, &position, x);
                step.machine.kernels.axpy(1.0, &kind, x);
            }
        });
    }

    /// The backward pass of [`add_places`](Self::add_places).
    pub(super) fn add_places_back(
        &self,
        step: &Step<'_>,
        starts: &[usize],
        d: &[f32],
        gradients: &mut [f32],
    ) {
        let dim = self.model.config().dim;
        let [positions, types] = self.tables().map(|(id, _)| step.plan.vectors.get(&id).cloned());
        if let Some(range) = positions {
            let gradient = &mut gradients[range];
            step.machine.compute(|| {
                for (at, d) in places(starts).zip(d.chunks_exact(dim)) {
                    step.machine.kernels.axpy(1.0, d, &mut gradient[at * dim..][..dim]);
                }
            });
        }
        if let Some(range) = types {
            ops::sum_rows(&step.machine, d, &mut gradients[range.start..range.start + dim]);
        }
    }
}

/// The position of every row in its sequence.
fn places(starts: &[usize]) -> impl Iterator<Item = usize> + '_ {
    starts.windows(2).flat_map(|pair| 0..pair[1] - pair[0])
}
