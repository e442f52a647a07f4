//! The linear layer: the only place where base and adapter meet.
//!
//! ```text
//! p = W x
//! y = p + b + Σᵢ wᵢ · [ (kᵢ − 1) ⊙ p + kᵢ ⊙ sᵢ · (Bᵢ (Aᵢ x) + b_Bᵢ) ]
//! ```
//!
//! One base product serves all rows, whatever adapters they use; a row's adapters touch only that row. `u = s·A x` is computed
//! before the rows of W are shared out among lanes; `B u`, k and b are applied by the lane that made p, while it is in cache.

use super::{Pass, Segment};
use crate::adapter::{Active, LowRank};
use crate::kernel::{GROUP, Input, Quantized};
use crate::quant::Matrix;
use crate::tensor::MatMut;
use crate::tensor::columns::{Columns, Split};

/// A linear layer of the base: `y = W x + b`, with the number of its place for adapters.
#[derive(Debug, Clone, Copy)]
pub struct Linear<'a> {
    /// W, `[out, in]`.
    pub weight: Matrix<'a>,
    /// b, `[out]`, or empty.
    pub bias: &'a [f32],
    /// Where adapters know this layer.
    pub site: u32,
}

/// What linear layers compute in passing; overwritten by each.
#[derive(Debug)]
pub(crate) struct Scratch<'s> {
    /// s·A x of all active adapters, `[rows, width]`.
    pub(crate) low_rank: &'s mut [f32],
    /// The ranks of a row's adapters fit into it.
    pub(crate) width: usize,
    /// Activations as integers, `[rows, widest]`; empty in [`Precision::Exact`](crate::kernel::Precision::Exact).
    pub(crate) values: &'s mut [i8],
    /// Their scales, one per [`GROUP`].
    pub(crate) scales: &'s mut [f32],
}

/// Outputs that one step of the epilogue handles on the stack.
const STEP: usize = 128;

impl Linear<'_> {
    /// `y = W x + b` and the active adapters, for all rows: x `[n, in]`, y `[n, out]`.
    #[allow(unsafe_code)]
    pub(crate) fn forward(&self, pass: &Pass<'_, '_>, x: &[f32], y: &mut [f32], scratch: &mut Scratch<'_>) {
        let (outputs, inputs) = (self.weight.rows(), self.weight.cols());
        let Scratch { low_rank, width, values, scales } = scratch;
        let (u, width) = (&mut low_rank[..x.len() / inputs * *width], *width);
        let mut input = Input::new(x, inputs);
        self.reduce(pass, &input, u, width);
        let u = &*u;
        if !values.is_empty() && pass.kernels.has_fast(&self.weight) {
            let (values, scales) = (&mut values[..x.len()], &mut scales[..x.len() / GROUP]);
            pass.kernels.quantize(x, values, scales);
            input.quantized = Some(Quantized { values, scales });
        }
        let Ok(mut y) = MatMut::new(y, outputs) else { return };
        let split = Split::new(&mut y);
        pass.executor.run(pass.lanes, &|lane| {
            // SAFETY: `share` gives every lane columns of its own.
            let mut columns = unsafe { split.part(pass.share(outputs, lane)) };
            pass.kernels.product(&self.weight, &input, &mut columns);
            self.finish(pass, u, width, &mut columns);
        });
    }

    /// `u = s·A x` for every row and active adapter; the adapters of a row side by side.
    fn reduce(&self, pass: &Pass<'_, '_>, input: &Input<'_>, u: &mut [f32], width: usize) {
        for segment in pass.segments {
            let mut at = 0;
            for (active, target, rank) in self.targets(pass, segment) {
                let scale = target.scale(rank) * active.weight;
                for row in segment.first..segment.first + segment.rows {
                    for (j, u) in u[row * width + at..][..rank].iter_mut().enumerate() {
                        *u = scale * target.a.dot(pass.kernels, j, input.vector(row));
                    }
                }
                at += rank;
            }
        }
    }

    /// Turns p into y in the lane's columns.
    fn finish(&self, pass: &Pass<'_, '_>, u: &[f32], width: usize, columns: &mut Columns<'_>) {
        let range = columns.range();
        for segment in pass.segments {
            let adapted = self.targets(pass, segment).next().is_some();
            if !adapted && self.bias.is_empty() {
                continue;
            }
            for row in segment.first..segment.first + segment.rows {
                for (i, y) in columns.row(row).chunks_mut(STEP).enumerate() {
                    let first = range.start + i * STEP;
                    if adapted {
                        self.adapt(pass, segment, &u[row * width..][..width], first, y);
                    }
                    if !self.bias.is_empty() {
                        pass.kernels.axpy(1.0, &self.bias[first..], y);
                    }
                }
            }
        }
    }

    /// `y += Σ [ w (k − 1) ⊙ p + k ⊙ (B u + w s b_B) ]` for outputs `first ..`, where y holds p and u holds w·s·A x.
    fn adapt(&self, pass: &Pass<'_, '_>, segment: &Segment, u: &[f32], first: usize, y: &mut [f32]) {
        let mut p = [0.0; STEP];
        let p = &mut p[..y.len()];
        p.copy_from_slice(y);
        let mut at = 0;
        for (active, target, rank) in self.targets(pass, segment) {
            let mut delta = [0.0; STEP];
            let delta = &mut delta[..y.len()];
            for (j, &u) in u[at..at + rank].iter().enumerate() {
                target.b.axpy(pass.kernels, j, first, u, delta);
            }
            if !target.bias.is_empty() {
                pass.kernels.axpy(target.scale(rank) * active.weight, &target.bias[first..], delta);
            }
            if target.gain.is_empty() {
                pass.kernels.axpy(1.0, delta, y);
            } else {
                for (((y, p), delta), k) in y.iter_mut().zip(&*p).zip(delta).zip(&target.gain[first..]) {
                    *y += active.weight * (k - 1.0) * p + k * *delta;
                }
            }
            at += rank;
        }
    }

    /// The active adapters of `segment` that change this layer, with their run-time rank.
    fn targets<'p, 'a>(
        &self,
        pass: &Pass<'p, 'a>,
        segment: &Segment,
    ) -> impl Iterator<Item = (&'p Active<'a>, LowRank<'a>, usize)> + use<'p, 'a> {
        targets(pass, segment, self.site)
    }
}

/// The active adapters of `segment` that change `site`, with their run-time rank.
pub(super) fn targets<'p, 'a>(
    pass: &Pass<'p, 'a>,
    segment: &Segment,
    site: u32,
) -> impl Iterator<Item = (&'p Active<'a>, LowRank<'a>, usize)> + use<'p, 'a> {
    pass.active(segment).filter_map(move |active| {
        let target = active.adapter.target(site)?;
        let rank = active.rank.map_or(target.rank, |rank| target.rank.min(rank as usize));
        Some((active, target, rank))
    })
}
