//! The oracle: every kernel as its formula, in portable Rust.
//!
//! Sums run in blocks of [`CHUNK`], which bounds the rounding error of long rows to that of 64 terms plus that of the blocks.

use half::f16;

use super::{Input, Kernels};
use crate::quant::Matrix;
use crate::tensor::columns::Columns;
use crate::tensor::math;

/// Terms summed before they join the total.
const CHUNK: usize = 64;

pub(super) static SCALAR: Kernels = TABLE;

pub(super) const TABLE: Kernels =
    Kernels { name: "scalar", product, dot, dot_f16, dot_i8, axpy, axpy_f16, axpy_i8, to_f16, rms_norm, softmax, silu_mul };

/// Dequantizes one row chunk at a time and multiplies it with every vector.
pub(super) fn product(weights: &Matrix<'_>, input: &Input<'_>, y: &mut Columns<'_>) {
    let mut chunk = [0.0; CHUNK];
    for row in y.range() {
        (0..input.n()).for_each(|i| y.set(i, row, 0.0));
        for first in (0..input.cols).step_by(CHUNK) {
            let w = &mut chunk[..CHUNK.min(input.cols - first)];
            weights.read(row, first, w);
            for i in 0..input.n() {
                y.add(i, row, sum(w, &input.vector(i)[first..], |w| w));
            }
        }
    }
}

#[inline]
fn sum<T: Copy>(a: &[T], b: &[f32], to_f32: impl Fn(T) -> f32) -> f32 {
    a.iter().zip(b).fold(0.0, |sum, (&a, &b)| sum + to_f32(a) * b)
}

#[inline]
fn dot_with<T: Copy>(a: &[T], b: &[f32], to_f32: impl Fn(T) -> f32 + Copy) -> f32 {
    a.chunks(CHUNK).zip(b.chunks(CHUNK)).fold(0.0, |total, (a, b)| total + sum(a, b, to_f32))
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    dot_with(a, b, |a| a)
}

fn dot_f16(a: &[u16], b: &[f32]) -> f32 {
    dot_with(a, b, |bits| f16::from_bits(bits).to_f32())
}

fn dot_i8(a: &[i8], b: &[f32]) -> f32 {
    dot_with(a, b, f32::from)
}

fn axpy(s: f32, a: &[f32], y: &mut [f32]) {
    y.iter_mut().zip(a).for_each(|(y, a)| *y += s * a);
}

fn axpy_f16(s: f32, a: &[u16], y: &mut [f32]) {
    y.iter_mut().zip(a).for_each(|(y, &bits)| *y += s * f16::from_bits(bits).to_f32());
}

fn axpy_i8(s: f32, a: &[i8], y: &mut [f32]) {
    y.iter_mut().zip(a).for_each(|(y, &a)| *y += s * f32::from(a));
}

fn to_f16(x: &[f32], out: &mut [u16]) {
    out.iter_mut().zip(x).for_each(|(out, &x)| *out = f16::from_f32(x).to_bits());
}

fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    let mean = dot(x, x) / x.len() as f32;
    let scale = 1.0 / math::sqrt(mean + epsilon);
    out.iter_mut().zip(x).zip(weight).for_each(|((out, x), w)| *out = x * scale * w);
}

fn softmax(x: &mut [f32]) {
    let most = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut total = 0.0;
    for x in x.iter_mut() {
        *x = math::exp(*x - most);
        total += *x;
    }
    x.iter_mut().for_each(|x| *x /= total);
}

fn silu_mul(gate: &mut [f32], up: &[f32]) {
    gate.iter_mut().zip(up).for_each(|(gate, up)| *gate = *gate / (1.0 + math::exp(-*gate)) * up);
}
