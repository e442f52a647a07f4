//! LoRA+ (arXiv 2402.12354): B learns λ times as fast as A.
//!
//! Grouped as PEFT groups: factors of embeddings have a rate of their own; B and everything with
//! one dimension (biases, vectors, magnitudes) learn at λ·rate, the rest at the rate.

use super::Rules;
use crate::train::options::Options;
use crate::train::plan::{Part, Tensor};

pub(super) struct LoraPlus;

impl Rules for LoraPlus {
    fn rate(&self, tensor: &Tensor, options: &Options) -> f32 {
        match tensor.part {
            Part::A | Part::B if tensor.embedding => {
                options.lora_plus_embedding_rate / options.learning_rate
            }
            Part::B | Part::Magnitude | Part::Bias | Part::Vector | Part::ClassifierBias => {
                options.lora_plus_ratio
            }
            Part::A | Part::Weight | Part::ClassifierWeight => 1.0,
        }
    }
}
