//! LoRA-FA (arXiv 2308.03303): A keeps what it was drawn as, only B learns; of a layer's input
//! nothing but A x is needed on the way back.
//!
//! Plain: the optimizer gets dB as it is. Preconditioned, it is PEFT's optimizer under transformers'
//! Trainer: gradients are clipped, then `dB ← dB·(A Aᵀ + 1e-8·I)⁻¹ / s²`, ε is added to √v before
//! the bias of v is corrected, and everything decays after the step. PEFT's ε is 1e-6: it is taken
//! where the optimizer has torch's 1e-8.

use super::Rules;
use crate::train::optimizer::OptimizerKind;
use crate::train::options::Options;
use crate::train::plan::{Change, Plan};

pub(super) struct LoraFa;

/// PEFT's ε, and torch's, which stands for "nothing else was asked for".
const EPSILON: f64 = 1e-6;
const TORCH_EPSILON: f64 = 1e-8;

/// What is added to the diagonal of A Aᵀ.
const RIDGE: f64 = 1e-8;

impl Rules for LoraFa {
    fn freezes_a(&self) -> bool {
        true
    }

    fn epsilon(&self, options: &Options, step: u64) -> Option<f64> {
        match options.optimizer {
            OptimizerKind::AdamW { beta2, epsilon, .. }
            | OptimizerKind::AdamW8Bit { beta2, epsilon, .. }
                if options.lora_fa_preconditioned =>
            {
                let epsilon = if epsilon == TORCH_EPSILON { EPSILON } else { epsilon };
                Some(epsilon / (1.0 - beta2.powf(step as f64)).sqrt())
            }
            _ => None,
        }
    }

    fn decays_after(&self, options: &Options) -> bool {
        options.lora_fa_preconditioned
    }

    fn precondition(&self, plan: &Plan, options: &Options, values: &[f32], gradients: &mut [f32]) {
        if !options.lora_fa_preconditioned {
            return;
        }
        for change in &plan.changes {
            if let Change::LowRank(low) = change {
                let inverse = inverse_gram(&values[low.a.clone()], low.rank);
                let scale = f64::from(low.scale(low.rank)).powi(2);
                let gradient = &mut gradients[low.b.clone()];
                let outputs = gradient.len() / low.rank;
                let old = gradient.to_vec();
                for (inverse, new) in
                    inverse.chunks_exact(low.rank).zip(gradient.chunks_exact_mut(outputs))
                {
                    for (j, new) in new.iter_mut().enumerate() {
                        let sum: f64 = inverse
                            .iter()
                            .enumerate()
                            .map(|(q, inverse)| inverse * f64::from(old[q * outputs + j]))
                            .sum();
                        *new = (sum / scale) as f32;
                    }
                }
            }
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
