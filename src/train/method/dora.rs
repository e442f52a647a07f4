//! DoRA (arXiv 2402.09353): `W' = m ⊙ V / ‖V‖`, V = W + s·B A, norms per output row, m trained from
//! ‖W‖. With k = m / C, C = ‖V‖ and u = s·A x', x' = dropout(x):
//!
//! ```text
//! v = W x' + B u        y = W x + b + (k − 1)·W x' + k·B u
//! dv = k ⊙ dy    dB = dvᵀ u    du = s·dv B    dA = duᵀ x'    dm = Σ dy ⊙ v / C
//! dx = dy W + dropout'( (k − 1) ⊙ dy W + du A )
//! ```
//!
//! C is a constant in the backward pass, as the paper proposes (section 4.3). It is computed anew
//! before every step, without V:
//! `C² = ‖W‖² + 2s·Σ_r (W Aᵀ)_r B_r + s²·Σ_rq B_r (A Aᵀ)_rq B_q`, row by row. ‖W‖² does not change
//! and is computed once; W Aᵀ is one base product with r vectors. Sums in f64.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use super::lora::Factors;
use super::{Backward, Layer, Parametrization, Parametrized, Part, Saved, Technique};
use crate::adapter::{Adapter, TargetParts};
use crate::kernel::Input;
use crate::nn::Linear;
use crate::quant::Matrix;
use crate::tensor::MatMut;
use crate::tensor::columns::Columns;
use crate::train::TrainError;
use crate::train::device::Floats;
use crate::train::device::Machine;
use crate::train::options::Options;
use crate::train::plan::Plan;
use crate::train::step::Step;

pub(super) struct Dora;

impl Technique for Dora {
    fn continues(&self, adapter: &Adapter<'_>) -> bool {
        adapter.is_dora() && !adapter.is_ia3()
    }

    fn parametrize(&mut self, layer: &Layer<'_>, plan: &mut Plan) -> Parametrized {
        if layer.is_embedding {
            return Err(TrainError::options(format!(
                "dora cannot train {}: embeddings take A and B only",
                layer.name
            )));
        }
        let factors = Factors::new(layer, plan);
        let magnitude = plan.push(layer.linear.site, Part::Magnitude, layer.outputs());
        Ok(Arc::new(Decomposed { factors, magnitude, squared: OnceLock::new() }))
    }
}

/// One layer: factors for the direction, and m, `[out]`.
#[derive(Debug)]
struct Decomposed {
    factors: Factors,
    magnitude: Range<usize>,
    /// ‖W‖² of every row.
    squared: OnceLock<Vec<f64>>,
}

impl Decomposed {
    fn squared(&self, weight: &Matrix<'_>) -> &[f64] {
        self.squared.get_or_init(|| {
            let mut row = vec![0.0; weight.cols()];
            let square = |index| {
                weight.read(index, 0, &mut row);
                row.iter().map(|&w| f64::from(w) * f64::from(w)).sum()
            };
            (0..weight.rows()).map(square).collect()
        })
    }

    /// k = m / C of every row; 1 where C is zero.
    fn gain(&self, step: &Step<'_>, site: u32) -> Floats {
        let finite = |k: f32| if k.is_finite() { k } else { 1.0 };
        let (m, norms) = (&step.values[self.magnitude.clone()], step.prepared(site));
        let mut gain = step.machine.alone(m.len());
        step.machine.compute(|| {
            gain.iter_mut().zip(m.iter().zip(norms)).for_each(|(k, (m, c))| *k = finite(m / c));
        });
        gain
    }
}

impl Parametrization for Decomposed {
    fn init(&self, layer: &Layer<'_>, options: &Options, values: &mut [f32]) {
        self.factors.init(layer, options, values);
        let m = &mut values[self.magnitude.clone()];
        match &layer.start {
            Some(start) => m.copy_from_slice(start.magnitude),
            None => {
                let squared = self.squared(&layer.linear.weight);
                m.iter_mut().zip(squared).for_each(|(m, squared)| *m = squared.sqrt() as f32);
            }
        }
    }

    /// C of every row; infinite where it is zero, so that such a row adds nothing.
    fn prepare(&self, machine: &Machine<'_>, linear: &Linear<'_>, values: &[f32]) -> Vec<f32> {
        let (weight, low) = (&linear.weight, &self.factors);
        let (rows, rank, s) = (weight.rows(), low.rank, f64::from(low.scale(low.rank)));
        let (a, b) = (&values[low.a.clone()], &values[low.b.clone()]);
        let mut wa = vec![0.0; rank * rows];
        if let Some(card) = machine.card(linear.site) {
            card.forward(&Linear { bias: &[], ..*linear }, a, None, &mut wa);
        } else if let Ok(mut y) = MatMut::new(&mut wa, rows) {
            let input = Input::new(a, weight.cols());
            machine.kernels.product(weight, &input, &mut Columns::all(&mut y));
        }
        let row = |i: usize| &a[i * weight.cols()..][..weight.cols()];
        let dot = |x: &[f32], y: &[f32]| -> f64 {
            x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
        };
        let gram: Vec<f64> =
            (0..rank * rank).map(|at| dot(row(at / rank), row(at % rank))).collect();
        let b = |r: usize, j: usize| f64::from(b[r * rows + j]);
        let norm = |(j, squared): (usize, &f64)| {
            let mixed: f64 = (0..rank).map(|r| f64::from(wa[r * rows + j]) * b(r, j)).sum();
            let own: f64 =
                (0..rank * rank).map(|at| b(at / rank, j) * gram[at] * b(at % rank, j)).sum();
            let norm = (squared + 2.0 * s * mixed + s * s * own).max(0.0).sqrt() as f32;
            if norm > 0.0 { norm } else { f32::INFINITY }
        };
        self.squared(weight).iter().enumerate().map(norm).collect()
    }

    fn forward(&self, step: &Step<'_>, linear: &Linear<'_>, x: &[f32], y: &mut [f32]) -> Saved {
        let (bare, machine) = (Linear { bias: &[], ..*linear }, &step.machine);
        let own = step.dropped(linear.site, x);
        let dropped = own.as_deref().unwrap_or(x);
        let mut v = machine.unset(y.len());
        let mut saved;
        if own.is_some() {
            saved = vec![self.factors.down(step, dropped)];
            step.frozen(&bare, dropped, &mut v);
            step.frozen(&bare, x, y);
            machine.compute(|| machine.kernels.axpy(-1.0, &v, y));
            self.factors.up(step, &saved[0], &mut v);
        } else {
            saved = self.factors.forward(step, &bare, x, &mut v);
            machine.clear(y);
        }
        let gain = self.gain(step, linear.site);
        machine.compute(|| {
            for (y, v) in y.chunks_exact_mut(gain.len()).zip(v.chunks_exact(gain.len())) {
                for ((y, v), k) in y.iter_mut().zip(v).zip(&*gain) {
                    *y += k * v;
                }
                if !linear.bias.is_empty() {
                    machine.kernels.axpy(1.0, linear.bias, y);
                }
            }
        });
        saved.push(v);
        saved
    }

    fn backward(&self, step: &Step<'_>, pass: Backward<'_>) {
        let Backward { linear, saved, x, dy, dx, gradients } = pass;
        let (gain, machine) = (self.gain(step, linear.site), &step.machine);
        let dm = &mut gradients[self.magnitude.clone()];
        let norms = step.prepared(linear.site);
        machine.compute(|| {
            for (dy, v) in dy.chunks_exact(gain.len()).zip(saved[1].chunks_exact(gain.len())) {
                for (((dm, dy), v), c) in dm.iter_mut().zip(dy).zip(v).zip(norms) {
                    *dm += dy * v / c;
                }
            }
        });
        let dv = scaled(machine, dy, &gain, 0.0);
        if step.dropout.is_none() {
            let pass = Backward { linear, saved, x, dy: &dv, dx, gradients };
            return self.factors.backward_all(step, pass);
        }
        let at = (linear.site, x);
        let du = self.factors.backward_factors(step, at, &saved[0], &dv, gradients);
        let Some(dx) = dx else { return };
        step.through_dropout(linear.site, dx, |dx, beta| {
            self.factors.backward_input(step, &du, beta, dx);
            let rest = scaled(machine, dy, &gain, -1.0);
            machine.back_through(linear, &rest, dx);
        });
        machine.back_through(linear, dy, dx);
    }

    /// Nothing: embeddings are refused.
    fn embed_backward(&self, _: &Step<'_>, _: &[u32], _: &[f32], _: &mut [f32]) {}

    fn rank(&self) -> usize {
        self.factors.rank
    }

    fn finish(&self, values: &[f32], rank: Option<usize>) -> Option<TargetParts> {
        let magnitude = values[self.magnitude.clone()].to_vec();
        self.factors.finish(values, rank).map(|parts| TargetParts { magnitude, ..parts })
    }
}

/// x with every column j times (k_j + shift).
fn scaled(machine: &Machine<'_>, x: &[f32], k: &[f32], shift: f32) -> Floats {
    let mut scaled = machine.copy(x);
    machine.compute(|| {
        for x in scaled.chunks_exact_mut(k.len()) {
            x.iter_mut().zip(k).for_each(|(x, k)| *x *= k + shift);
        }
    });
    scaled
}
