//! Multilayer perceptrons, trained: `model::mlp::forward` with its activations kept, and the way
//! back.
//!
//! What a classifier reads are the activations in front of the last layer; the classifier that is
//! trained takes that layer's place and goes on from it if the labels are the same. A sequence of a
//! batch is one row of features.
//!
//! Of a layer are kept what it reads and the derivatives of the activation behind it: `dz = dy ⊙
//! f'(z)`,
//! `dx = dz W`. There is nothing to checkpoint: what a layer reads is all there is.

use crate::adapter::Base;
use crate::archive::Buffer;
use crate::error::{Error, Result};
use crate::kernel::Precision;
use crate::model::mlp::{Config, Mlp};
use crate::nn::Linear;
use crate::runtime::{Executor, Memory, Predictor, PredictorLimits, predictor_need};
use crate::train::TrainError;
use crate::train::body::{Body, InputSpec, Network};
use crate::train::data::{Batch, Inputs, Targets};
use crate::train::device::Floats;
use crate::train::evaluate::{Listener, with_adapters};
use crate::train::ops;
use crate::train::plan::Plan;
use crate::train::rebuilt;
use crate::train::step::{Saved, Step};
use crate::train::trainer::sealed::Sealed;

/// A multilayer perceptron in training.
pub(crate) struct MlpBody<'a> {
    model: Mlp<'a>,
}

impl<'a> Sealed<'a> for Mlp<'a> {
    #[allow(private_interfaces, reason = "sealed")]
    fn network(self, _: bool) -> Box<dyn Network + Send + Sync + 'a> {
        Box::new(MlpBody { model: self })
    }
}

/// What the backward pass needs of one layer.
pub(crate) struct Kept {
    /// What it reads, `[n, in]`.
    x: Floats,
    /// f'(z), `[n, out]`.
    derivative: Floats,
    saved: Saved,
}

impl MlpBody<'_> {
    /// Under what limits the runtime measures.
    fn limits(
        precision: Precision,
        threads: usize,
        adapters: usize,
        rank: usize,
    ) -> PredictorLimits {
        PredictorLimits {
            precision,
            threads,
            max_active: adapters,
            max_total_rank: rank,
            ..PredictorLimits::new(1)
        }
    }

    /// Layers in front of the last one.
    fn inner_layers(&self) -> usize {
        self.model.config().layers - 1
    }
}

impl Body for MlpBody<'_> {
    type Saved = Vec<Kept>;
    type Pool = ();

    fn base(&self) -> &dyn Base {
        &self.model
    }

    fn input_spec(&self) -> InputSpec {
        InputSpec {
            tokens: 0,
            features: self.model.config().inputs,
            context: 1,
            classifier_bias: true,
        }
    }

    fn head(&self) -> Option<Linear<'_>> {
        None
    }

    fn classifier(&self) -> Option<(Linear<'_>, Vec<String>)> {
        Some((
            self.model.layer(self.inner_layers()),
            self.model.labels().map(str::to_owned).collect(),
        ))
    }

    fn layer_at(&self, site: u32) -> Option<Linear<'_>> {
        ((site as usize) < self.inner_layers()).then(|| self.model.layer(site as usize))
    }

    fn vectors(&self) -> Vec<(u32, &[f32])> {
        Vec::new()
    }

    fn write_base(&self, name: &str, plan: &Plan, values: &[f32]) -> Result<Buffer> {
        let replaced = plan.classifier.as_ref().map(|classifier| {
            let config = Config { outputs: classifier.labels.len(), ..*self.model.config() };
            (self.inner_layers() as u32, config.to_schema())
        });
        rebuilt::write_base(&self.model, name, plan, values, replaced)
    }

    fn reopen<'b>(&self, archive: &'b [u8]) -> Result<Box<dyn Base + 'b>> {
        Ok(Box::new(Mlp::open(archive)?))
    }

    fn measure(
        &self,
        base: Option<&[u8]>,
        adapters: &[(&[u8], f32)],
        _: usize,
        batches: &mut dyn Iterator<Item = Result<Batch, TrainError>>,
        precision: Precision,
        executor: &dyn Executor,
        listener: &mut dyn Listener,
    ) -> Result<(), TrainError> {
        let model = base.map_or(Ok(self.model), Mlp::open)?;
        with_adapters(&model, adapters, |set, choices, rank| {
            let limits = Self::limits(precision, executor.threads(), choices.len(), rank);
            let mut memory = Memory::new(predictor_need(model.config(), &limits));
            let mut predictor = Predictor::new(model, &limits, memory.as_mut(), executor)?;
            predictor.select(0, set, choices)?;
            for batch in batches {
                let batch = batch?;
                let (Inputs::Features { values, width }, Targets::Class(classes)) =
                    (&batch.inputs, &batch.targets)
                else {
                    return Err(TrainError::options(
                        "an MLP is measured as a classifier of numbers (--task classify)",
                    ));
                };
                for (features, &class) in values.chunks_exact(*width).zip(classes) {
                    predictor.infer(features)?;
                    match predictor.classifier(0) {
                        Ok(classifier) => {
                            let mut logits = vec![0.0; classifier.len()];
                            predictor.classify(0, &mut logits)?;
                            listener.class(&logits, class)?;
                        }
                        Err(Error::Classifiers { found: 0, .. }) => {
                            listener.class(predictor.outputs(0)?, class)?
                        }
                        Err(error) => return Err(error.into()),
                    }
                }
            }
            Ok(())
        })
    }

    fn forward(
        &self,
        step: &Step<'_>,
        inputs: &Inputs,
        starts: &[usize],
        keep: bool,
    ) -> (Floats, Vec<Kept>) {
        let Inputs::Features { values, .. } = inputs else { return Default::default() };
        let activation = self.model.config().activation;
        let n = starts[starts.len() - 1];
        let mut x = step.machine.unset(n * self.model.config().inputs);
        step.machine.assign(&mut x, values);
        let mut kept = Vec::new();
        for index in 0..self.inner_layers() {
            let layer = self.model.layer(index);
            let mut y = step.machine.unset(n * layer.weight.rows());
            let saved = step.linear(&layer, &x, &mut y);
            let (y, derivative) = match keep {
                true => ops::activate_with_derivative(&step.machine, activation, y),
                false => (ops::activate(&step.machine, activation, &y), Floats::default()),
            };
            let x = std::mem::replace(&mut x, y);
            if keep {
                kept.push(Kept { x, derivative, saved });
            }
        }
        (x, kept)
    }

    fn backward(
        &self,
        step: &Step<'_>,
        _: &Inputs,
        _: &[usize],
        mut saved: Vec<Kept>,
        d_hidden: Floats,
        gradients: &mut [f32],
    ) {
        let inner = self.inner_layers();
        let lowest = (0..inner).find(|&index| step.plan.trains(index as u32)).unwrap_or(inner);
        let mut d = d_hidden;
        for index in (lowest..inner).rev() {
            let Some(Kept { x, derivative, saved }) = saved.pop() else { return };
            ops::multiply_by(&step.machine, &mut d, &derivative);
            let input = index > lowest;
            let mut dx = if input { step.machine.zeros(x.len()) } else { Floats::default() };
            step.linear_back(
                &self.model.layer(index),
                &saved,
                &x,
                &d,
                input.then_some(&mut dx[..]),
                gradients,
            );
            d = dx;
        }
    }

    fn measure_bytes(&self, _: usize, threads: usize, rank: usize) -> u64 {
        predictor_need(self.model.config(), &Self::limits(Precision::Exact, threads, 1, rank)).bytes
            as u64
    }

    fn pool(&self, step: &Step<'_>, hidden: &[f32], _: &[usize]) -> (Floats, ()) {
        let mut pooled = step.machine.alone(hidden.len());
        step.machine.assign(&mut pooled, hidden);
        (pooled, ())
    }

    fn pool_back(
        &self,
        step: &Step<'_>,
        _: &[usize],
        (): (),
        d_pooled: &[f32],
        d_hidden: &mut [f32],
        _: &mut [f32],
    ) {
        step.machine.assign(d_hidden, d_pooled);
    }
}
