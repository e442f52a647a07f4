//! The linear layer: the only place where base and adapter meet.
//!
//! ```text
//! x' = x ⊙ Πⱼ (wⱼ lⱼ + 1 − wⱼ)             over those that scale inputs (IA3; [`Linear::forward_own`])
//! p  = W x'
//! y  = p + b + Σᵢ wᵢ · [ (kᵢ − 1) ⊙ p + kᵢ ⊙ sᵢ · (Bᵢ (Aᵢ x') + b_Bᵢ) ]
//! y' = y ⊙ Πⱼ (wⱼ lⱼ + 1 − wⱼ)             over those that scale outputs (IA3)
//! ```
//!
//! One base product serves all rows, whatever adapters they use; a row's adapters touch only that
//! row. `u = s·A x` is made by all workers together (`inner`); `B u`, k and b are applied by the worker
//! that made p, while it is in cache.

use core::ops::Range;

use super::inner::{self, Inner};
use super::{Pass, Segment, Size};
use crate::adapter::{Active, Classifier, LowRank, Scaled};
use crate::kernel::{GROUP, Input, Precision, Quantized};
use crate::quant::Matrix;
use crate::tensor::columns::Columns;
use crate::tensor::exchange::Exchange;
use crate::tensor::workers::{Output, Outputs, Parts, for_each, share};
use crate::tensor::workspace::{Pointers, Workspace, bytes_of, times};

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
    /// s·A x of all active adapters: [`inner::need`] numbers.
    pub(crate) low_rank: &'s mut [f32],
    /// The ranks of a row's adapters fit into it.
    pub(crate) width: usize,
    /// Activations as integers, `[rows, widest]`; empty in
    /// [`Precision::Exact`](crate::kernel::Precision::Exact).
    pub(crate) values: &'s mut [i8],
    /// Their scales, one per [`GROUP`].
    pub(crate) scales: &'s mut [f32],
}

impl<'s> Scratch<'s> {
    /// The bytes for up to `layers` layers side by side, none of which reads more than `widest`
    /// numbers a row.
    pub(crate) const fn bytes(
        size: &Size,
        layers: usize,
        widest: usize,
        pointers: Pointers,
    ) -> usize {
        let (low_rank, values) = Self::lengths(size, layers, widest);
        bytes_of::<f32>(low_rank, pointers)
            .saturating_add(bytes_of::<i8>(values, pointers))
            .saturating_add(bytes_of::<f32>(values.div_ceil(GROUP), pointers))
    }

    /// Takes what [`bytes`](Self::bytes) announces.
    pub(crate) fn carve(w: &mut Workspace<'s>, size: &Size, layers: usize, widest: usize) -> Self {
        let (low_rank, values) = Self::lengths(size, layers, widest);
        Self {
            low_rank: w.numbers(low_rank),
            width: size.max_total_rank,
            values: w.numbers(values),
            scales: w.numbers(values.div_ceil(GROUP)),
        }
    }

    /// The lengths of `low_rank` and `values`.
    const fn lengths(size: &Size, layers: usize, widest: usize) -> (usize, usize) {
        let values = match size.precision {
            Precision::Exact => 0,
            Precision::Fast => times(size.rows, widest),
        };
        (inner::need(size.rows, layers, size.max_total_rank, size.threads), values)
    }
}

/// Outputs that one step of the epilogue handles on the stack.
const STEP: usize = 128;

/// Rows that one call of the epilogue's kernel handles.
const ROWS: usize = 6;

/// Rows from which making x integers is shared out among workers.
const MANY: usize = 8;

impl<'a> Linear<'a> {
    /// `y = W x + b` and the active adapters, for all rows: x `[n, in]`, y `[n, out]`.
    pub(crate) fn forward(
        &self,
        pass: &Pass<'_, '_>,
        x: &[f32],
        y: &mut [f32],
        scratch: &mut Scratch<'_>,
    ) {
        forward(pass, x, &mut [self.to(y)], scratch);
    }

    /// The same for a layer that alone reads x, where adapters can scale x: in place.
    pub(crate) fn forward_own(
        &self,
        pass: &Pass<'_, '_>,
        x: &mut [f32],
        y: &mut [f32],
        scratch: &mut Scratch<'_>,
    ) {
        if pass.has_scales {
            self.scale(pass, Scaled::Input, &mut Columns::of(x, self.weight.cols()));
        }
        self.forward(pass, x, y, scratch);
    }

    /// `x ← x ⊙ Π (w l + 1 − w)` over the adapters that scale this side of the layer: exactly l
    /// where w is 1, and exactly 1 where it is 0.
    #[inline(always)]
    pub(crate) fn scale(&self, pass: &Pass<'_, '_>, side: Scaled, columns: &mut Columns<'_>) {
        match pass.active {
            // One sequence that has one adapter: all rows are its.
            [Some(active)] => self.scale_rows(pass, active, side, 0..columns.rows(), columns),
            _ => self.scale_segments(pass, side, columns),
        }
    }

    #[inline(never)]
    fn scale_segments(&self, pass: &Pass<'_, '_>, side: Scaled, columns: &mut Columns<'_>) {
        for segment in pass.segments {
            let rows = segment.first..segment.first + segment.rows;
            for active in pass.active(segment) {
                self.scale_rows(pass, active, side, rows.clone(), columns);
            }
        }
    }

    #[inline(always)]
    fn scale_rows(
        &self,
        pass: &Pass<'_, '_>,
        active: &Active<'_>,
        side: Scaled,
        rows: Range<usize>,
        columns: &mut Columns<'_>,
    ) {
        if let Some(l) = active.adapter.scaling(self.site, side) {
            let l = l.get(columns.range().start..).unwrap_or_default();
            rows.for_each(|row| pass.kernels.scale(l, active.weight, columns.row(row)));
        }
    }

    /// The layer with the place of its outputs, for [`forward`].
    pub(crate) fn to<'y>(self, y: &'y mut [f32]) -> Job<'a, 'y> {
        Output::new(self, y, self.weight.rows())
    }
}

/// A layer and where its outputs go.
pub(crate) type Job<'a, 'y> = Output<'y, Linear<'a>>;

/// `y = W x + b` and the active adapters, for all rows, of layers that read the same x, `[n, in]`,
/// [`inner::SIDE_BY_SIDE`] of them at most: workers are called together once for all, and x is made
/// integers once.
pub(crate) fn forward(
    pass: &Pass<'_, '_>,
    x: &[f32],
    jobs: &mut [Job<'_, '_>],
    scratch: &mut Scratch<'_>,
) {
    let Some(inputs) = jobs.first().map(|job| job.of.weight.cols()) else { return };
    let mut input = Input::new(x, inputs);
    let fast =
        !scratch.values.is_empty() && jobs.iter().any(|job| pass.kernels.has_fast(&job.of.weight));
    if fast {
        let (values, scales) =
            (&mut scratch.values[..x.len()], &mut scratch.scales[..x.len() / GROUP]);
        quantize(pass, &input, values, scales);
        input.quantized = Some(Quantized { values, scales });
    }
    let outputs = Outputs::new(jobs);
    let inner = Inner { pass, jobs: outputs.list(), input: &input, width: scratch.width };
    let mut flags = Exchange::flags();
    let buffers = inner.buffers(scratch.low_rank, &mut flags);
    for_each(
        pass.executor,
        pass.threads,
        (outputs, buffers),
        |worker, (mut columns, (u, mut seat))| {
            inner.share(worker, u, &mut seat);
            for (i, Job { of: linear, .. }) in inner.jobs.iter().enumerate() {
                let mut columns = columns.of(i);
                pass.kernels.product(&linear.weight, &input, &mut columns);
                if i == 0 {
                    inner.gather(worker, u, &seat);
                }
                let (u, stride) = inner.of_job(u, i);
                linear.finish(pass, u, stride, &mut columns);
            }
        },
    );
}

/// x as integers; of many rows by all workers.
fn quantize(pass: &Pass<'_, '_>, input: &Input<'_>, values: &mut [i8], scales: &mut [f32]) {
    if input.n() < MANY || pass.threads == 1 {
        return pass.kernels.quantize(input.x, values, scales);
    }
    let parts = (Parts::new(values, input.cols), Parts::new(scales, input.cols / GROUP));
    for_each(pass.executor, pass.threads, parts, |worker, (values, scales)| {
        let first = share(input.n(), worker, pass.threads).start * input.cols;
        let x = input.x.get(first..first + values.len()).unwrap_or_default();
        pass.kernels.quantize(x, values, scales);
    });
}

impl<'a> Classifier<'a> {
    /// As a layer that no adapter changes.
    pub(crate) fn linear(&self) -> Linear<'a> {
        Linear { weight: self.weight(), bias: self.bias(), site: u32::MAX }
    }
}

impl Linear<'_> {
    /// Turns p into y in the worker's columns.
    fn finish(&self, pass: &Pass<'_, '_>, u: &[f32], stride: usize, columns: &mut Columns<'_>) {
        let first = columns.range().start;
        for segment in pass.groups() {
            let (mut count, mut weight, mut rescales, mut gain) = (0, 1.0, false, &[][..]);
            for active in pass.active(&segment) {
                let Some(k) = active.adapter.gain(self.site) else { continue };
                rescales |= !k.is_empty();
                (count, weight, gain) =
                    (count + 1, active.weight, k.get(first..).unwrap_or_default());
            }
            // Of an adapter alone and as it was trained: y = k ⊙ (p + B u + s b_B).
            let mixed = rescales && (count > 1 || weight != 1.0);
            if mixed {
                gain = &[];
            } else {
                self.add(pass, &segment, u, stride, columns);
            }
            for row in segment.first..segment.first + segment.rows {
                let y = columns.row(row);
                if mixed {
                    for (i, y) in y.chunks_mut(STEP).enumerate() {
                        self.adapt(pass, &segment, &u[row * stride..], first + i * STEP, y);
                    }
                }
                y.iter_mut().zip(gain).for_each(|(y, k)| *y *= k);
            }
        }
        if !self.bias.is_empty() {
            let bias = &self.bias[first..];
            (0..columns.rows()).for_each(|row| pass.kernels.axpy(1.0, bias, columns.row(row)));
        }
        if pass.has_scales {
            self.scale(pass, Scaled::Output, columns);
        }
    }

    /// `y += Σ (B u + w s b_B)` for the rows of `segment`; u holds w·s·A x.
    fn add(
        &self,
        pass: &Pass<'_, '_>,
        segment: &Segment,
        u: &[f32],
        stride: usize,
        columns: &mut Columns<'_>,
    ) {
        let first = columns.range().start;
        let mut at = 0;
        for (active, target, rank) in self.targets(pass, segment) {
            for row in (segment.first..segment.first + segment.rows).step_by(ROWS) {
                let count = ROWS.min(segment.first + segment.rows - row);
                let mut w: [&[f32]; ROWS] = Default::default();
                w[..count]
                    .iter_mut()
                    .zip(row..)
                    .for_each(|(w, row)| *w = &u[row * stride + at..][..rank]);
                let mut y = columns.some_rows::<ROWS>(row);
                up(pass, (active, &target, rank), first, &w[..count], &mut y[..count]);
            }
            at += rank;
        }
    }

    /// `y += Σ [ w (k − 1) ⊙ p + k ⊙ (B u + w s b_B) ]` for outputs `first ..`, where y holds p and
    /// u holds w·s·A x.
    fn adapt(
        &self,
        pass: &Pass<'_, '_>,
        segment: &Segment,
        u: &[f32],
        first: usize,
        y: &mut [f32],
    ) {
        let mut p = [0.0; STEP];
        let p = &mut p[..y.len()];
        p.copy_from_slice(y);
        let mut at = 0;
        for (active, target, rank) in self.targets(pass, segment) {
            let mut delta = [0.0; STEP];
            let delta = &mut delta[..y.len()];
            let u = &u[at..at + rank];
            up(pass, (active, &target, rank), first, &[u], &mut [&mut *delta]);
            if target.gain.is_empty() {
                pass.kernels.axpy(1.0, delta, y);
            } else {
                for (((y, p), delta), k) in
                    y.iter_mut().zip(&*p).zip(delta).zip(&target.gain[first..])
                {
                    *y += active.weight * (k - 1.0) * p + k * *delta;
                }
            }
            at += rank;
        }
    }

    /// The active adapters of `segment` with factors for this layer, and their run-time rank.
    pub(super) fn targets<'p, 'a>(
        &self,
        pass: &Pass<'p, 'a>,
        segment: &Segment,
    ) -> impl Iterator<Item = (&'p Active<'a>, LowRank<'a>, usize)> + use<'p, 'a> {
        targets(pass, segment, self.site)
    }
}

/// `y += B u + w s b_B` of some rows, for outputs `first ..`.
fn up(
    pass: &Pass<'_, '_>,
    (active, target, rank): (&Active<'_>, &LowRank<'_>, usize),
    first: usize,
    u: &[&[f32]],
    y: &mut [&mut [f32]],
) {
    target.b.mix(pass.kernels, first, u, y);
    if !target.bias.is_empty() {
        let scale = target.scale(rank) * active.weight;
        y.iter_mut().for_each(|y| pass.kernels.axpy(scale, &target.bias[first..], y));
    }
}

/// The active adapters of `segment` with factors for `site`, and their run-time rank.
pub(super) fn targets<'p, 'a>(
    pass: &Pass<'p, 'a>,
    segment: &Segment,
    site: u32,
) -> impl Iterator<Item = (&'p Active<'a>, LowRank<'a>, usize)> + use<'p, 'a> {
    pass.active(segment).filter_map(move |active| {
        let target = active.adapter.low_rank(site)?;
        let rank = active.rank.map_or(target.rank, |rank| target.rank.min(rank as usize));
        Some((active, target, rank))
    })
}
