//! IA3 (arXiv 2205.05638): a vector l, from ones on, scales the outputs of a layer or its inputs.
//!
//! ```text
//! outputs:  v = W x + b    y = l ⊙ v          dl = Σ dy ⊙ v    dx = (l ⊙ dy) W
//! inputs:   y = W (l ⊙ x) + b    z = dy W     dl = Σ x ⊙ z     dx = l ⊙ z
//! ```
//!
//! Which layers, and which side of them, is as PEFT has it by default: outputs of keys and values,
//! inputs of the layers that end a feed-forward part (and, in BERT, of `attention.output.dense`,
//! whose name ends like theirs). Other layers that are named have their outputs scaled.

use std::ops::Range;
use std::sync::Arc;

use super::{Backward, Layer, Parametrization, Parametrized, Part, Saved, Technique};
use crate::adapter::{Adapter, Scaled, TargetParts};
use crate::nn::Linear;
use crate::train::TrainError;
use crate::train::device::{Floats, Machine};
use crate::train::ops;
use crate::train::options::{Options, TargetModules};
use crate::train::plan::Plan;
use crate::train::step::Step;

pub(super) struct Ia3;

/// The layers that are trained unless others are named: PEFT's for Llama, BERT and RoBERTa, and
/// their counterparts in DistilBERT.
const USUAL: &str = r".*\.(k_proj|v_proj|down_proj|key|value|output\.dense|k_lin|v_lin|lin2)";

/// How paths of layers end whose inputs are scaled.
const INPUTS: [&str; 3] = [".down_proj", ".output.dense", ".lin2"];

impl Technique for Ia3 {
    fn takes(&self, _: &str) -> bool {
        false
    }

    fn targets(&self) -> TargetModules {
        TargetModules::Pattern(USUAL.into())
    }

    fn continues(&self, adapter: &Adapter<'_>) -> bool {
        adapter.targets().all(|target| target.scaled.is_some())
    }

    fn parametrize(&mut self, layer: &Layer<'_>, plan: &mut Plan) -> Parametrized {
        if layer.is_embedding {
            return Err(TrainError::options(format!(
                "ia3 cannot train {}: embeddings take A and B only",
                layer.name
            )));
        }
        let usual = match INPUTS.iter().any(|end| layer.name.ends_with(end)) {
            true => Scaled::Input,
            false => Scaled::Output,
        };
        let side = layer.start.and_then(|start| start.scaled).unwrap_or(usual);
        let len = match side {
            Scaled::Input => layer.inputs(),
            Scaled::Output => layer.outputs(),
        };
        Ok(Arc::new(Scale { side, l: plan.push(layer.linear.site, Part::Scale, len) }))
    }
}

/// One layer: l, `[out]` or `[in]`.
#[derive(Debug)]
struct Scale {
    side: Scaled,
    l: Range<usize>,
}

impl Scale {
    /// x with every row times l.
    fn times(&self, step: &Step<'_>, x: &[f32]) -> Floats {
        let (mut scaled, l) = (step.machine.copy(x), &step.values[self.l.clone()]);
        let share = step.machine.share(x.len() / l.len()) * l.len();
        step.machine.each(scaled.chunks_mut(share), |rows| {
            for row in rows.chunks_exact_mut(l.len()) {
                row.iter_mut().zip(l).for_each(|(x, l)| *x *= l);
            }
        });
        scaled
    }

    /// `dl += Σ x ⊙ y` over the rows.
    fn learn(&self, machine: &Machine<'_>, x: &[f32], y: &[f32], gradients: &mut [f32]) {
        let dl = &mut gradients[self.l.clone()];
        machine.compute(|| {
            for (x, y) in x.chunks_exact(dl.len()).zip(y.chunks_exact(dl.len())) {
                dl.iter_mut().zip(x).zip(y).for_each(|((dl, x), y)| *dl += x * y);
            }
        });
    }
}

impl Parametrization for Scale {
    fn init(&self, layer: &Layer<'_>, _: &Options, values: &mut [f32]) {
        let l = &mut values[self.l.clone()];
        match &layer.start {
            Some(start) => l.copy_from_slice(start.magnitude),
            None => l.fill(1.0),
        }
    }

    fn forward(&self, step: &Step<'_>, linear: &Linear<'_>, x: &[f32], y: &mut [f32]) -> Saved {
        if self.side == Scaled::Input {
            step.frozen(linear, &self.times(step, x), y);
            return Saved::new();
        }
        let saved = self.save(step, linear, x);
        step.machine.assign(y, &self.times(step, &saved[0]));
        saved
    }

    fn save(&self, step: &Step<'_>, linear: &Linear<'_>, x: &[f32]) -> Saved {
        if self.side == Scaled::Input {
            return Saved::new();
        }
        let mut v = step.machine.unset(x.len() / linear.weight.cols() * linear.weight.rows());
        step.frozen(linear, x, &mut v);
        vec![v]
    }

    fn backward(&self, step: &Step<'_>, pass: Backward<'_>) {
        let Backward { linear, saved, x, dy, dx, gradients } = pass;
        let machine = &step.machine;
        if self.side == Scaled::Output {
            self.learn(machine, dy, &saved[0], gradients);
            if let Some(dx) = dx {
                machine.back_through(linear, &self.times(step, dy), dx);
            }
            return;
        }
        let mut z = machine.zeros(x.len());
        machine.back_through(linear, dy, &mut z);
        self.learn(machine, x, &z, gradients);
        if let Some(dx) = dx {
            ops::add(machine, dx, &self.times(step, &z));
        }
    }

    /// Nothing: embeddings are refused.
    fn embed_backward(&self, _: &Step<'_>, _: &[u32], _: &[f32], _: &mut [f32]) {}

    fn finish(&self, values: &[f32], _: Option<usize>) -> Option<TargetParts> {
        Some(TargetParts::scaling(self.side, values[self.l.clone()].to_vec()))
    }
}
