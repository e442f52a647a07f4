//! Full fine-tuning: the baseline. Trains every targeted weight with its bias, and all norms;
//! needs a float base and writes a base. `dW = dyᵀ x`, `db = Σ dy`, `dx = dy W`.

use std::ops::Range;
use std::sync::Arc;

use super::{Backward, Layer, Parametrization, Parametrized, Part, Saved, Technique};
use crate::adapter::{Adapter, TargetParts};
use crate::file::Kind;
use crate::nn::Linear;
use crate::quant::Format;
use crate::train::TrainError;
use crate::train::ops;
use crate::train::options::Options;
use crate::train::plan::{Plan, Tensor};
use crate::train::step::Step;

pub(super) struct Full;

impl Technique for Full {
    fn takes(&self, _: &str) -> bool {
        false
    }

    fn result(&self) -> Kind {
        Kind::Base
    }

    fn continues(&self, _: &Adapter<'_>) -> bool {
        false
    }

    fn parametrize(&mut self, layer: &Layer<'_>, plan: &mut Plan) -> Parametrized {
        let Linear { weight, bias, site } = layer.linear;
        if !matches!(weight.format(), Format::F32 | Format::F16) {
            return Err(TrainError::options(format!(
                "full fine-tuning trains a float base, a target of this one is {}; import it with \
                 --weights f32 --embedding f32",
                weight.format().name()
            )));
        }
        let weight = plan.append(Tensor {
            place: site,
            part: Part::Weight,
            range: 0..weight.rows() * weight.cols(),
            embedding: layer.is_embedding,
            frozen: false,
        });
        Ok(Arc::new(Whole { weight, bias: plan.push(site, Part::Bias, bias.len()) }))
    }
}

/// One layer itself: W, `[out, in]`, and its bias, `[out]` or empty.
#[derive(Debug)]
struct Whole {
    weight: Range<usize>,
    bias: Range<usize>,
}

impl Parametrization for Whole {
    fn init(&self, layer: &Layer<'_>, _: &Options, values: &mut [f32]) {
        let Linear { weight, bias, .. } = layer.linear;
        let rows = values[self.weight.clone()].chunks_exact_mut(weight.cols());
        rows.enumerate().for_each(|(row, out)| weight.read(row, 0, out));
        values[self.bias.clone()].copy_from_slice(bias);
    }

    fn layer<'v>(&self, linear: Linear<'v>, values: &'v [f32]) -> Linear<'v> {
        let weight = linear.weight.with_floats(&values[self.weight.clone()]);
        Linear { weight, bias: &values[self.bias.clone()], ..linear }
    }

    fn forward(&self, step: &Step<'_>, linear: &Linear<'_>, x: &[f32], y: &mut [f32]) -> Saved {
        step.frozen(&self.layer(*linear, step.values), x, y);
        Saved::new()
    }

    fn save(&self, _: &Step<'_>, _: &Linear<'_>, _: &[f32]) -> Saved {
        Saved::new()
    }

    fn backward(&self, step: &Step<'_>, pass: Backward<'_>) {
        let linear = self.layer(*pass.linear, step.values);
        let weight = &mut pass.gradients[self.weight.clone()];
        step.machine.outer(pass.dy, pass.x, linear.weight.rows(), weight);
        ops::sum_rows(&step.machine, pass.dy, &mut pass.gradients[self.bias.clone()]);
        if let Some(dx) = pass.dx {
            step.machine.back_through(&linear, pass.dy, dx);
        }
    }

    fn embed_backward(&self, step: &Step<'_>, tokens: &[u32], dy: &[f32], gradients: &mut [f32]) {
        let dim = dy.len() / tokens.len().max(1);
        let gradient = &mut gradients[self.weight.clone()];
        step.machine.compute(|| {
            for (&token, dy) in tokens.iter().zip(dy.chunks_exact(dim.max(1))) {
                step.machine.kernels.axpy(1.0, dy, &mut gradient[token as usize * dim..][..dim]);
            }
        });
    }

    fn finish(&self, _: &[f32], _: Option<usize>) -> Option<TargetParts> {
        None
    }
}
