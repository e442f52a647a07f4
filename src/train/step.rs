//! One step's view of a model that is being trained, and the linear layer both ways.
//!
//! ```text
//! u = s·A x'        x' = dropout(x)
//! LoRA   y = W x + b + B u
//! DoRA   y = W x + b + (k − 1)·W x' + k·B u,   k = m / C,  C = ‖W + s·B A‖ per output row, a constant on the way back
//! ```
//! Back, with v = W x' + B u and dv = k ⊙ dy (LoRA: dv = dy):
//! ```text
//! dB = dvᵀ u    du = s·dv B    dA = duᵀ x'    dm = Σ dy ⊙ v / C    dx = dy W + dropout'( (k − 1) ⊙ dy W + du A )
//! ```

use std::borrow::Cow;
use std::ops::Range;

use super::parallel::Machine;
use super::plan::{Change, LowRank, Plan};
use super::pool::Floats;
use crate::archive::schema;
use crate::kernel::{GROUP, Precision};
use crate::nn::{self, Linear, Pass, Scratch, Segment};
use crate::quant::Matrix;
use crate::random;
use crate::runtime::{Executor, Serial};

/// Rows of a lane's own from which lanes share the rows of a product and not its outputs: every
/// lane dequantizes all weights then, and fewer rows do not repay that.
const ROWS: usize = 256;

/// What one forward and backward pass shares.
#[derive(Clone, Copy)]
pub(crate) struct Step<'s> {
    pub(crate) machine: Machine<'s>,
    pub(crate) plan: &'s Plan,
    /// The arena.
    pub(crate) values: &'s [f32],
    /// Per site, DoRA's C; empty elsewhere.
    pub(crate) norms: &'s [Vec<f32>],
    /// DyLoRA's rank of this step.
    pub(crate) rank: Option<usize>,
    pub(crate) dropout: Option<Dropout>,
    /// Of forward products with frozen weights.
    pub(crate) precision: Precision,
}

/// Which activations are dropped: a pure function of (seed, site, index), so the way back needs no
/// memory of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Dropout {
    /// The probability.
    pub(crate) p: f32,
    /// Of this step and batch.
    pub(crate) seed: u64,
}

impl Dropout {
    /// x with dropped elements zero and the others scaled by 1 / (1 − p).
    fn apply(&self, site: u32, x: &mut [f32]) {
        let keep = 1.0 / (1.0 - self.p);
        for (i, x) in x.iter_mut().enumerate() {
            *x = if random::uniform(self.seed, u64::from(site), i as u64) < self.p {
                0.0
            } else {
                *x * keep
            };
        }
    }
}

/// What the way back needs of one linear layer beside its input.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    /// s·A x', `[n, rank]`.
    u: Floats,
    /// DoRA: W x' + B u, `[n, out]`.
    v: Floats,
}

impl<'s> Step<'s> {
    /// The vector `id` of the model, `archived` unless it is trained.
    pub(crate) fn vector<'v>(&self, id: u32, archived: &'v [f32]) -> &'v [f32]
    where
        's: 'v,
    {
        self.plan.vectors.get(&id).map_or(archived, |range| &self.values[range.clone()])
    }

    /// The weight at `site`, `archived` unless it is trained itself.
    pub(crate) fn weight<'w>(&self, site: u32, archived: Matrix<'w>) -> Matrix<'w>
    where
        's: 'w,
    {
        match self.plan.change(site) {
            Change::Full { weight, .. } => archived.with_floats(&self.values[weight.clone()]),
            _ => archived,
        }
    }

    fn effective<'w>(&self, linear: &Linear<'w>) -> Linear<'w>
    where
        's: 'w,
    {
        match self.plan.change(linear.site) {
            Change::Full { bias, .. } => Linear {
                weight: self.weight(linear.site, linear.weight),
                bias: &self.values[bias.clone()],
                site: linear.site,
            },
            _ => *linear,
        }
    }

    /// y of a linear layer, x `[n, in]`, y `[n, out]`.
    pub(crate) fn linear(&self, linear: &Linear<'_>, x: &[f32], y: &mut [f32]) -> Trace {
        let linear = self.effective(linear);
        let Change::LowRank(low) = self.plan.change(linear.site) else {
            self.base(&linear, x, y);
            return Trace::default();
        };
        let (rank, outputs) = (low.rank(self.rank), linear.weight.rows());
        let dropped = self.dropped(linear.site, x);
        let u = self.u(&linear, low, &dropped);
        let b = self.b(low, rank, outputs);
        if low.magnitude.is_empty() {
            self.base(&linear, x, y);
            self.machine.forward_transposed(1.0, &u, b, rank, 1.0, y);
            return Trace { u, v: Floats::default() };
        }

        let bare = Linear { bias: &[], ..linear };
        let mut v = self.machine.unset(y.len());
        self.base(&bare, &dropped, &mut v);
        if self.dropout.is_some() {
            self.base(&bare, x, y);
            self.machine.kernels.axpy(-1.0, &v, y);
        } else {
            y.fill(0.0);
        }
        self.machine.forward_transposed(1.0, &u, b, rank, 1.0, &mut v);
        let gain = self.gain(linear.site, low);
        for (y, v) in y.chunks_exact_mut(outputs).zip(v.chunks_exact(outputs)) {
            for ((y, v), k) in y.iter_mut().zip(v).zip(&gain) {
                *y += k * v;
            }
            if !linear.bias.is_empty() {
                self.machine.kernels.axpy(1.0, linear.bias, y);
            }
        }
        Trace { u, v }
    }

    /// What [`linear`](Self::linear) returns, without y where that saves the product with W.
    pub(crate) fn trace(&self, linear: &Linear<'_>, x: &[f32]) -> Trace {
        match self.plan.change(linear.site) {
            Change::LowRank(low) if low.magnitude.is_empty() => Trace {
                u: self.u(linear, low, &self.dropped(linear.site, x)),
                v: Floats::default(),
            },
            Change::LowRank(_) => self.linear(
                linear,
                x,
                &mut self.machine.unset(x.len() / linear.weight.cols() * linear.weight.rows()),
            ),
            _ => Trace::default(),
        }
    }

    /// `s·A x'`, `[n, rank]`.
    fn u(&self, linear: &Linear<'_>, low: &LowRank, dropped: &[f32]) -> Floats {
        let (rank, inputs) = (low.rank(self.rank), linear.weight.cols());
        let mut u = self.machine.unset(dropped.len() / inputs * rank);
        self.machine.forward(
            low.scale(rank),
            dropped,
            self.a(low, rank, inputs),
            rank,
            0.0,
            &mut u,
        );
        u
    }

    /// The way back: adds to `gradients` and, if it is asked for, to dx, `[n, in]`.
    pub(crate) fn linear_back(
        &self,
        linear: &Linear<'_>,
        trace: &Trace,
        x: &[f32],
        dy: &[f32],
        dx: Option<&mut [f32]>,
        gradients: &mut [f32],
    ) {
        let linear = self.effective(linear);
        let (outputs, inputs) = (linear.weight.rows(), linear.weight.cols());
        match self.plan.change(linear.site) {
            Change::Frozen => {}
            Change::Full { weight, bias } => {
                self.machine.outer(dy, x, outputs, &mut gradients[weight.clone()]);
                sum_rows(dy, &mut gradients[bias.clone()]);
            }
            Change::LowRank(low) => {
                return self.low_rank_back(&linear, low, trace, x, dy, dx, gradients);
            }
        }
        if let Some(dx) = dx {
            debug_assert_eq!(dx.len() / inputs, dy.len() / outputs);
            self.machine.back_through(&linear.weight, dy, dx);
        }
    }

    #[allow(clippy::too_many_arguments, reason = "each is one tensor of the formula")]
    fn low_rank_back(
        &self,
        linear: &Linear<'_>,
        low: &LowRank,
        trace: &Trace,
        x: &[f32],
        dy: &[f32],
        dx: Option<&mut [f32]>,
        gradients: &mut [f32],
    ) {
        let (rank, outputs, inputs) =
            (low.rank(self.rank), linear.weight.rows(), linear.weight.cols());
        let gain = if low.magnitude.is_empty() { Vec::new() } else { self.gain(linear.site, low) };
        let mut dv = Cow::Borrowed(dy);
        if !gain.is_empty() {
            let norms = &self.norms[linear.site as usize];
            let dm = &mut gradients[low.magnitude.clone()];
            for (dy, v) in dy.chunks_exact(outputs).zip(trace.v.chunks_exact(outputs)) {
                for (((dm, dy), v), c) in dm.iter_mut().zip(dy).zip(v).zip(norms) {
                    *dm += dy * v / c;
                }
            }
            scale_columns(dv.to_mut(), &gain, 0.0);
        }

        let b = self.b(low, rank, outputs);
        self.machine.outer(&trace.u, &dv, rank, &mut gradients[prefix(&low.b, rank * outputs)]);
        let mut du = self.machine.unset(trace.u.len());
        self.machine.forward(low.scale(rank), &dv, b, rank, 0.0, &mut du);
        if !low.a_frozen {
            let dropped = self.dropped(linear.site, x);
            self.machine.outer(&du, &dropped, rank, &mut gradients[prefix(&low.a, rank * inputs)]);
        }
        let Some(dx) = dx else { return };
        let a = self.a(low, rank, inputs);
        let Some(dropout) = self.dropout else {
            self.machine.forward_transposed(1.0, &du, a, rank, 1.0, dx);
            return self.machine.back_through(&linear.weight, &dv, dx);
        };
        let mut through = self.machine.zeros(dx.len());
        self.machine.forward_transposed(1.0, &du, a, rank, 0.0, &mut through);
        if !gain.is_empty() {
            let mut rest = dy.to_vec();
            scale_columns(&mut rest, &gain, -1.0);
            self.machine.back_through(&linear.weight, &rest, &mut through);
        }
        dropout.apply(linear.site, &mut through);
        self.machine.kernels.axpy(1.0, &through, dx);
        self.machine.back_through(&linear.weight, dy, dx);
    }

    /// `W x + b` as the core computes it in this precision. Lanes share the rows where there are
    /// enough for each: what comes before and after does too, and a lane finds its own rows in
    /// its caches. Else they share the outputs.
    fn base(&self, linear: &Linear<'_>, x: &[f32], y: &mut [f32]) {
        let (outputs, inputs, m) = (linear.weight.rows(), linear.weight.cols(), &self.machine);
        let is_fast = self.precision == Precision::Fast && m.kernels.has_fast(&linear.weight);
        let n = x.len() / inputs;
        let share = m.share(n);
        let multiply = |x: &[f32], y: &mut [f32], executor: &dyn Executor, lanes: usize| {
            let segment = [Segment { first: 0, rows: x.len() / inputs, sequence: 0 }];
            let pass = Pass {
                kernels: m.kernels,
                executor,
                lanes,
                segments: &segment,
                active: &[],
                max_active: 0,
            };
            let integers = if is_fast { x.len() } else { 0 };
            let (mut values, mut scales) = (vec![0; integers], vec![0.0; integers / GROUP]);
            let mut scratch =
                Scratch { low_rank: &mut [], width: 0, values: &mut values, scales: &mut scales };
            linear.forward(&pass, x, y, &mut scratch);
        };
        // Fast products make x integers once for all lanes; and one row alone is computed another
        // way than one of many.
        if is_fast || share < ROWS || n % share == 1 {
            return multiply(x, y, m.executor, m.lanes());
        }
        m.each(y.chunks_mut(share * outputs).zip(x.chunks(share * inputs)), |(y, x)| {
            multiply(x, y, &Serial, 1)
        });
    }

    /// The vectors of `tokens`, `[n, dim]`, of a table with or without an adapter.
    pub(crate) fn embed(&self, table: &nn::Embedding<'_>, tokens: &[u32], y: &mut [f32]) {
        let (weight, dim) = (self.weight(table.site, table.table), table.table.cols());
        let share = self.machine.share(tokens.len());
        self.machine.each(y.chunks_mut(share * dim).zip(tokens.chunks(share)), |(y, tokens)| {
            y.chunks_exact_mut(dim)
                .zip(tokens)
                .for_each(|(y, &token)| weight.read(token as usize, 0, y));
        });
        if let Change::LowRank(low) = self.plan.change(table.site) {
            let rank = low.rank(self.rank);
            let u = self.embedding_rows(low, rank, tokens, low.scale(rank));
            self.machine.forward_transposed(1.0, &u, self.b(low, rank, dim), rank, 1.0, y);
        }
    }

    /// The way back of [`embed`](Self::embed).
    pub(crate) fn embed_back(
        &self,
        table: &nn::Embedding<'_>,
        tokens: &[u32],
        dy: &[f32],
        gradients: &mut [f32],
    ) {
        let dim = table.table.cols();
        match self.plan.change(table.site) {
            Change::Frozen => {}
            Change::Full { weight, .. } => {
                let gradient = &mut gradients[weight.clone()];
                for (&token, dy) in tokens.iter().zip(dy.chunks_exact(dim)) {
                    self.machine.kernels.axpy(
                        1.0,
                        dy,
                        &mut gradient[token as usize * dim..][..dim],
                    );
                }
            }
            Change::LowRank(low) => {
                let rank = low.rank(self.rank);
                let scale = low.scale(rank);
                let u = self.embedding_rows(low, rank, tokens, scale);
                self.machine.outer(&u, dy, rank, &mut gradients[prefix(&low.b, rank * dim)]);
                if low.a_frozen {
                    return;
                }
                let mut du = vec![0.0; u.len()];
                self.machine.forward(scale, dy, self.b(low, rank, dim), rank, 0.0, &mut du);
                let gradient = &mut gradients[low.a.clone()];
                for (&token, du) in tokens.iter().zip(du.chunks_exact(rank)) {
                    self.machine.kernels.axpy(
                        1.0,
                        du,
                        &mut gradient[token as usize * low.rank..][..rank],
                    );
                }
            }
        }
    }

    /// s·A's columns of the tokens, `[n, rank]`.
    fn embedding_rows(&self, low: &LowRank, rank: usize, tokens: &[u32], scale: f32) -> Vec<f32> {
        let a = &self.values[low.a.clone()];
        tokens
            .iter()
            .flat_map(|&token| a[token as usize * low.rank..][..rank].iter().map(|a| scale * a))
            .collect()
    }

    /// DoRA's k = m / C of `site`; 1 where C is zero.
    fn gain(&self, site: u32, low: &LowRank) -> Vec<f32> {
        let m = &self.values[low.magnitude.clone()];
        let finite = |k: f32| if k.is_finite() { k } else { 1.0 };
        m.iter().zip(&self.norms[site as usize]).map(|(m, c)| finite(m / c)).collect()
    }

    fn dropped<'x>(&self, site: u32, x: &'x [f32]) -> Cow<'x, [f32]> {
        let mut x = Cow::Borrowed(x);
        if let Some(dropout) = self.dropout {
            dropout.apply(site, x.to_mut());
        }
        x
    }

    fn a(&self, low: &LowRank, rank: usize, inputs: usize) -> &'s [f32] {
        &self.values[prefix(&low.a, rank * inputs)]
    }

    fn b(&self, low: &LowRank, rank: usize, outputs: usize) -> &'s [f32] {
        &self.values[prefix(&low.b, rank * outputs)]
    }
}

/// A layer with what was trained in place of its own numbers.
pub(crate) fn trained<'v>(
    plan: &Plan,
    values: &'v [f32],
    linear: Linear<'v>,
) -> schema::Linear<'v> {
    let (weight, bias) = match plan.change(linear.site) {
        Change::Full { weight, bias } => {
            (linear.weight.with_floats(&values[weight.clone()]), &values[bias.clone()])
        }
        _ => (linear.weight, linear.bias),
    };
    schema::Linear { weight: weight.into(), bias }
}

/// The first `len` numbers of a range.
fn prefix(range: &Range<usize>, len: usize) -> Range<usize> {
    range.start..range.start + len
}

/// Every column j of x times (k_j + shift).
fn scale_columns(x: &mut [f32], k: &[f32], shift: f32) {
    for x in x.chunks_exact_mut(k.len()) {
        x.iter_mut().zip(k).for_each(|(x, k)| *x *= k + shift);
    }
}

/// `sum += Σ rows of x`; nothing if `sum` is empty.
pub(crate) fn sum_rows(x: &[f32], sum: &mut [f32]) {
    if sum.is_empty() {
        return;
    }
    for x in x.chunks_exact(sum.len()) {
        sum.iter_mut().zip(x).for_each(|(sum, x)| *sum += x);
    }
}
