//! The tensors of an adapted layer under PEFT's names, each in the type and the order that PEFT has.

use std::borrow::Cow;

use safetensors::{Dtype, View};

use super::peft_ia3 as ia3;
use crate::adapter::{Factor, FactorValues, LowRank};

/// A tensor as safetensors stores it.
pub(super) struct Tensor {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    pub(super) bytes: Vec<u8>,
}

impl View for Tensor {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// A layer's tensors under PEFT's names; with a bias (of zeros, if it has none) where `biased`.
pub(super) fn tensors(module: &str, target: &LowRank<'_>, biased: bool) -> Vec<(String, Tensor)> {
    let name = |part: &str| format!("base_model.model.{module}.{part}");
    let (rank, inputs, outputs) = (target.rank, target.inputs, target.outputs);
    if let Some(side) = target.scaled {
        return vec![(name("ia3_l"), ia3::tensor(side, target.magnitude))];
    }
    let b = factor(&target.b, [outputs, rank], |row, col| (col, row));
    if target.is_embedding {
        let a = factor(&target.a, [rank, inputs], |row, col| (col, row));
        return vec![(name("lora_embedding_A"), a), (name("lora_embedding_B"), b)];
    }
    let a = factor(&target.a, [rank, inputs], |row, col| (row, col));
    let mut tensors = vec![(name("lora_A.weight"), a), (name("lora_B.weight"), b)];
    if biased {
        let bias = if target.bias.is_empty() { vec![0.0; outputs] } else { target.bias.to_vec() };
        tensors.push((name("lora_B.bias"), vector(&bias)));
    }
    if !target.magnitude.is_empty() {
        tensors.push((name("lora_magnitude_vector"), vector(target.magnitude)));
    }
    tensors
}

/// f32 numbers.
pub(super) fn vector(values: &[f32]) -> Tensor {
    Tensor {
        dtype: Dtype::F32,
        shape: vec![values.len()],
        bytes: bytemuck::cast_slice(values).to_vec(),
    }
}

/// The matrix of `shape` whose `[row, col]` is where `place` says in `factor`.
fn factor(
    factor: &Factor<'_>,
    shape: [usize; 2],
    place: impl Fn(usize, usize) -> (usize, usize),
) -> Tensor {
    let [rows, cols] = shape;
    let places = (0..rows)
        .flat_map(|row| (0..cols).map(move |col| (row, col)))
        .map(|(row, col)| place(row, col));
    let (dtype, bytes) = match factor.values() {
        FactorValues::F16(bits) => {
            let bits: Vec<u16> =
                places.map(|(row, col)| bits[row * factor.width() + col]).collect();
            (Dtype::F16, bytemuck::cast_slice(&bits).to_vec())
        }
        _ => {
            let values: Vec<f32> = places.map(|(row, col)| factor.get(row, col)).collect();
            (Dtype::F32, bytemuck::cast_slice(&values).to_vec())
        }
    };
    Tensor { dtype, shape: shape.to_vec(), bytes }
}
