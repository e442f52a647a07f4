//! LoRA+ (arXiv 2402.12354): B learns λ times as fast as A.
//!
//! Grouped as PEFT groups: factors of embeddings have a rate of their own; B and everything with
//! one dimension (biases, vectors, magnitudes) learn at λ·rate, the rest at the rate.

use std::sync::Arc;

use super::lora::Lora;
use super::{Layer, Parametrization, Technique};
use crate::adapter::Adapter;
use crate::train::TrainError;
use crate::train::options::{Options, within};
use crate::train::plan::{Part, Plan, Tensor};

pub(super) struct LoraPlus;

impl Technique for LoraPlus {
    fn options(&self) -> &'static [&'static str] {
        &[
            "rank",
            "alpha",
            "rank-pattern",
            "alpha-pattern",
            "init",
            "dropout",
            "lora-plus-ratio",
            "lora-plus-embedding-rate",
        ]
    }

    fn check(&self, options: &Options) -> Result<(), TrainError> {
        within("lora-plus-ratio", options.lora_plus_ratio, 1.0, 1e6)?;
        within("lora-plus-embedding-rate", options.lora_plus_embedding_rate, 0.0, 1e3)
    }

    fn check_plan(&self, options: &Options, plan: &Plan) -> Result<(), TrainError> {
        let default = Options::new(options.method).lora_plus_embedding_rate;
        let is_set = options.lora_plus_embedding_rate != default;
        if is_set && !plan.tensors.iter().any(|tensor| tensor.embedding) {
            return Err(TrainError::options(
                "lora-plus-embedding-rate has no effect: target-modules names no embedding",
            ));
        }
        Ok(())
    }

    fn continues(&self, adapter: &Adapter<'_>) -> bool {
        Lora.continues(adapter)
    }

    fn parametrize(
        &mut self,
        layer: &Layer<'_>,
        plan: &mut Plan,
    ) -> Result<Arc<dyn Parametrization>, TrainError> {
        Lora.parametrize(layer, plan)
    }

    fn group(&self, tensor: &Tensor, options: &Options) -> (f32, f32) {
        let (_, decay) = Lora.group(tensor, options);
        let rate = match tensor.part {
            Part::A | Part::B if tensor.embedding => {
                options.lora_plus_embedding_rate / options.learning_rate
            }
            Part::B | Part::Magnitude | Part::Bias | Part::Vector | Part::ClassifierBias => {
                options.lora_plus_ratio
            }
            Part::A | Part::Weight | Part::ClassifierWeight => 1.0,
        };
        (rate, decay)
    }
}
