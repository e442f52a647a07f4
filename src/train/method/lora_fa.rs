//! LoRA-FA (arXiv 2308.03303): A keeps what it was drawn as, only B learns; of a layer's input
//! nothing but A x is needed for the backward pass.
//!
//! Plain: the optimizer gets dB as it is. Preconditioned, it is PEFT's optimizer under transformers'
//! Trainer: gradients are clipped, then `dB ← dB·(A Aᵀ + 1e-8·I)⁻¹ / s²`, ε is added to √v before
//! the bias of v is corrected, and everything decays after the step. PEFT's ε is 1e-6: it is taken
//! where the optimizer has torch's 1e-8.

use std::sync::Arc;

use super::lora::{Factors, Lora};
use super::{Layer, Parametrized, Technique, Update};
use crate::train::TrainError;
use crate::train::optimizer::OptimizerKind;
use crate::train::options::Options;
use crate::train::plan::{Plan, Tensor};

#[derive(Default)]
pub(super) struct LoraFa {
    layers: Vec<Factors>,
}

/// PEFT's ε, and torch's, which stands for "nothing else was asked for".
const EPSILON: f64 = 1e-6;
const TORCH_EPSILON: f64 = 1e-8;

/// What is added to the diagonal of A Aᵀ.
const RIDGE: f64 = 1e-8;

impl Technique for LoraFa {
    fn takes(&self, option: &str) -> bool {
        option == "lora-fa-preconditioned" || Lora.takes(option)
    }

    fn parametrize(&mut self, layer: &Layer<'_>, plan: &mut Plan) -> Parametrized {
        if layer.is_embedding {
            let why = match layer.start {
                Some(_) => "A of an embedding would stay as it is",
                None => "an embedding's A starts at zero and would stay there",
            };
            return Err(TrainError::options(format!("lora-fa cannot train {}: {why}", layer.name)));
        }
        let factors = Factors::with(layer, plan, true);
        self.layers.push(factors.clone());
        Ok(Arc::new(factors))
    }

    fn group(&self, tensor: &Tensor, options: &Options) -> (f32, f32) {
        match options.lora_fa_preconditioned {
            true => (1.0, options.weight_decay),
            false => Lora.group(tensor, options),
        }
    }

    fn before_step(&mut self, update: Update<'_>) -> bool {
        let Update { options, values, gradients, optimizer, step } = update;
        if !options.lora_fa_preconditioned {
            return true;
        }
        self.layers.iter().for_each(|low| precondition(low, values, gradients));
        optimizer.set_decay_after(true);
        if let OptimizerKind::AdamW { beta2, epsilon, .. }
        | OptimizerKind::AdamW8Bit { beta2, epsilon, .. } = options.optimizer
        {
            let epsilon = if epsilon == TORCH_EPSILON { EPSILON } else { epsilon };
            optimizer.set_epsilon(epsilon / (1.0 - beta2.powf(step as f64)).sqrt());
        }
        gradients.iter().all(|gradient| gradient.is_finite())
    }
}

/// `dB ← dB·(A Aᵀ + 1e-8·I)⁻¹ / s²`.
fn precondition(low: &Factors, values: &[f32], gradients: &mut [f32]) {
    let inverse = inverse_gram(&values[low.a.clone()], low.rank);
    let scale = f64::from(low.scale(low.rank)).powi(2);
    let gradient = &mut gradients[low.b.clone()];
    let outputs = gradient.len() / low.rank;
    let old = gradient.to_vec();
    let rows = inverse.chunks_exact(low.rank).zip(gradient.chunks_exact_mut(outputs));
    for (inverse, new) in rows {
        for (j, new) in new.iter_mut().enumerate() {
            let term = |(q, inverse): (usize, &f64)| inverse * f64::from(old[q * outputs + j]);
            *new = (inverse.iter().enumerate().map(term).sum::<f64>() / scale) as f32;
        }
    }
}

/// `(A Aᵀ + 1e-8·I)⁻¹`, `[r, r]`, of A `[r, in]`, by Gauss and Jordan; the matrix is symmetric and
/// positive.
fn inverse_gram(a: &[f32], rank: usize) -> Vec<f64> {
    let inputs = a.len() / rank;
    let row = |i: usize| &a[i * inputs..][..inputs];
    let dot = |i: usize, j: usize| {
        row(i).iter().zip(row(j)).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>()
    };
    let mut left: Vec<f64> = (0..rank * rank).map(|at| dot(at / rank, at % rank)).collect();
    let mut right = vec![0.0; rank * rank];
    for i in 0..rank {
        left[i * rank + i] += RIDGE;
        right[i * rank + i] = 1.0;
    }
    for i in 0..rank {
        let pivot = 1.0 / left[i * rank + i];
        for matrix in [&mut left, &mut right] {
            matrix[i * rank..(i + 1) * rank].iter_mut().for_each(|v| *v *= pivot);
        }
        for other in (0..rank).filter(|&other| other != i) {
            let factor = left[other * rank + i];
            for matrix in [&mut left, &mut right] {
                for j in 0..rank {
                    matrix[other * rank + j] -= factor * matrix[i * rank + j];
                }
            }
        }
    }
    right
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inverse_times_gram_is_one() {
        let a: Vec<f32> = (0..3 * 7).map(|i| ((i * 37 % 19) as f32 - 9.0) / 10.0).collect();
        let inverse = inverse_gram(&a, 3);
        for i in 0..3 {
            for j in 0..3 {
                let gram = |q: usize| {
                    (0..7).map(|c| f64::from(a[q * 7 + c]) * f64::from(a[j * 7 + c])).sum::<f64>()
                };
                let one: f64 = (0..3).map(|q| inverse[i * 3 + q] * gram(q)).sum();
                assert!((one - f64::from(u8::from(i == j))).abs() < 1e-6, "{i} {j}: {one}");
            }
        }
    }
}
