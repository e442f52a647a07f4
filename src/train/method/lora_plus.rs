//! LoRA+ (arXiv 2402.12354): B learns λ times as fast as A.
//!
//! Grouped as PEFT groups: factors of embeddings have a rate of their own; B and everything with
//! one dimension (biases, vectors, magnitudes) learn at λ·rate, the rest at the rate.

use super::lora::Lora;
use super::{Part, Technique};
use crate::train::TrainError;
use crate::train::options::{Options, within};
use crate::train::plan::{Plan, Tensor};

pub(super) struct LoraPlus;

impl Technique for LoraPlus {
    fn takes(&self, option: &str) -> bool {
        ["lora-plus-ratio", "lora-plus-embedding-rate"].contains(&option) || Lora.takes(option)
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

    fn group(&self, tensor: &Tensor, options: &Options) -> (f32, f32) {
        let (_, decay) = Lora.group(tensor, options);
        let rate = match tensor.part {
            Part::A | Part::B if tensor.embedding => {
                options.lora_plus_embedding_rate / options.learning_rate
            }
            Part::A | Part::Weight | Part::ClassifierWeight => 1.0,
            _ => options.lora_plus_ratio,
        };
        (rate, decay)
    }
}
