//! What a classifier on an encoder reads of its hidden states, and the backward pass.

use super::BertBody;
use crate::model::bert::Pooling;
use crate::train::device::Floats;
use crate::train::ops;
use crate::train::step::{Saved, Step};

/// What the backward pass needs of pooling.
pub(crate) enum Pool {
    /// The first token's state.
    First,
    Mean,
    /// BERT's pooler: the first tokens' states, what came out of its activation, and the layer's own.
    Pooler {
        first: Floats,
        out: Floats,
        saved: Saved,
    },
}

impl BertBody<'_> {
    /// As [`Bert::classifier_pooling`] says.
    pub(super) fn pooled(
        &self,
        step: &Step<'_>,
        hidden: &[f32],
        starts: &[usize],
    ) -> (Floats, Pool) {
        let (m, dim) = (&step.machine, self.model.config().dim);
        let first =
            || ops::gather(m, hidden, dim, starts[1..].iter().zip(starts).map(|(_, at)| *at));
        match (self.model.classifier_pooling(), self.model.pooler()) {
            (Pooling::Pooler, Some(pooler)) => {
                let first = first();
                let mut out = m.alone(first.len());
                let saved = step.linear(&pooler, &first, &mut out);
                m.compute(|| self.model.config().architecture.activate_pooled(&mut out));
                let mut pooled = m.alone(out.len());
                m.assign(&mut pooled, &out);
                (pooled, Pool::Pooler { first, out, saved })
            }
            (Pooling::Mean, _) => {
                let mut means = m.alone((starts.len() - 1) * dim);
                m.compute(|| {
                    for (pair, mean) in starts.windows(2).zip(means.chunks_exact_mut(dim)) {
                        hidden[pair[0] * dim..pair[1] * dim]
                            .chunks_exact(dim)
                            .for_each(|state| m.kernels.axpy(1.0, state, mean));
                        mean.iter_mut().for_each(|value| *value /= (pair[1] - pair[0]) as f32);
                    }
                });
                (means, Pool::Mean)
            }
            _ => (first(), Pool::First),
        }
    }

    pub(super) fn pooled_back(
        &self,
        step: &Step<'_>,
        starts: &[usize],
        pool: Pool,
        d_pooled: &[f32],
        d_hidden: &mut [f32],
        gradients: &mut [f32],
    ) {
        let (m, dim) = (&step.machine, self.model.config().dim);
        let mut first = |d: &[f32]| {
            m.compute(|| {
                for (start, d) in starts.iter().zip(d.chunks_exact(dim)) {
                    m.kernels.axpy(1.0, d, &mut d_hidden[start * dim..][..dim]);
                }
            })
        };
        match (pool, self.model.pooler()) {
            // out = f(P h + b)
            (Pool::Pooler { first: states, out, saved }, Some(pooler)) => {
                let (mut d, mut d_states) = (m.alone(out.len()), m.alone(states.len()));
                let architecture = self.model.config().architecture;
                m.compute(|| {
                    let slope = |out: &f32| architecture.pooled_slope(*out);
                    let terms = d_pooled.iter().zip(&*out).map(|(d, out)| d * slope(out));
                    d.iter_mut().zip(terms).for_each(|(d, term)| *d = term);
                });
                step.linear_back(&pooler, &saved, &states, &d, Some(&mut d_states), gradients);
                first(&d_states);
            }
            (Pool::Mean, _) => m.compute(|| {
                for (pair, d) in starts.windows(2).zip(d_pooled.chunks_exact(dim)) {
                    let share = 1.0 / (pair[1] - pair[0]) as f32;
                    d_hidden[pair[0] * dim..pair[1] * dim]
                        .chunks_exact_mut(dim)
                        .for_each(|d_hidden| m.kernels.axpy(share, d, d_hidden));
                }
            }),
            _ => first(d_pooled),
        }
    }
}
