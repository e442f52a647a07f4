//! AVX2 with FMA and F16C: every function of the table.
//!
//! A matrix-vector product (decoding, bound by the bytes of the weights) dequantizes in registers,
//! row after row: `nf4` and `int8` say how. A matrix times several vectors (prefill, bound by
//! arithmetic) dequantizes a tile once for all of them: `tile`. A row's sums run in the same order
//! whether it is one of four or the rest of a lane's range: results do not depend on how rows are
//! split among lanes.

pub(super) mod exp;
pub(super) mod fast;
pub(super) mod int8;
pub(super) mod lanes;
pub(super) mod mix;
mod nf4;
mod panel;
pub(super) mod tile;
pub(super) mod vector;

use super::fast::Weights;
use super::form::Form;
use super::scales::INT8_GROUP;
use super::{Input, Kernels, LayerNorm, Quantized, scalar};
use crate::quant::Matrix;
use crate::tensor::columns::Columns;

pub(super) static AVX2: Kernels = Kernels {
    name: "avx2",
    several: [(1.45, 0.26), (1.2, 0.35)],
    product,
    product_fast,
    read_row: tile::read_row,
    quantize: fast::quantize,
    dot: vector::dot,
    dot_f16: vector::dot_f16,
    dot_i8: vector::dot_i8,
    axpy: vector::axpy,
    axpy_f16: vector::axpy_f16,
    axpy_i8: vector::axpy_i8,
    scale,
    to_f16: vector::to_f16,
    rms_norm: vector::rms_norm,
    softmax: Some(exp::softmax),
    softmax_step: exp::softmax_step,
    mix: mix::mix,
    mix_f16: mix::mix_f16,
    mix_i8: mix::mix_i8,
    dots: mix::dots,
    dots_f16: mix::dots_f16,
    dots_i8: mix::dots_i8,
    silu_mul: exp::silu_mul,
    gelu: Some(exp::gelu),
    #[cfg(feature = "train")]
    gelu_and_derivative: exp::gelu_and_derivative,
    layer_norm: Some(layer_norm),
    #[cfg(feature = "train")]
    layer_norm_back,
};

/// The portable loops, compiled with these registers.
#[target_feature(enable = "avx2")]
pub(super) fn scale(l: &[f32], w: f32, x: &mut [f32]) {
    scalar::scale(l, w, x);
}

/// As [`scale`].
#[target_feature(enable = "avx2")]
fn layer_norm(norm: &LayerNorm<'_>, x: &mut [f32]) {
    norm.forward(x);
}

/// As [`scale`].
#[cfg(feature = "train")]
#[target_feature(enable = "avx2")]
fn layer_norm_back(norm: &LayerNorm<'_>, x: &[f32], d: &mut [f32]) {
    norm.backward(x, d);
}

/// y = W x for the rows that `y` owns.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn product(weights: &Matrix<'_>, input: &Input<'_>, y: &mut Columns<'_>) {
    let (x, start, cols) = (input.x, y.range().start, input.cols);
    match Form::of(weights) {
        _ if input.n() != 1 => tile::product(weights, input, y),
        Form::F32(values) => {
            one_row(y.row(0), |r| vector::dot(&values[(start + r) * cols..][..cols], x))
        }
        Form::F16(values) => {
            one_row(y.row(0), |r| vector::dot_f16(&values[(start + r) * cols..][..cols], x))
        }
        Form::Int8(int8) => {
            int8::product::<64>(&int8, start, x.as_chunks().0, y.row(0));
        }
        Form::Int8Half(int8) => {
            int8::product::<INT8_GROUP>(&int8, start, x.as_chunks().0, y.row(0))
        }
        Form::Nf4(nf4) => nf4::product(&nf4, start, x.as_chunks().0, y.row(0)),
        _ => tile::product(weights, input, y),
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn one_row(y: &mut [f32], row: impl Fn(usize) -> f32) {
    y.iter_mut().enumerate().for_each(|(r, y)| *y = row(r));
}

/// Vectors from which packing a panel pays.
const PANEL: usize = 3;

/// y = W x over integers for the rows that `y` owns.
#[target_feature(enable = "avx2,fma,f16c")]
fn product_fast(weights: &Weights<'_>, x: &Quantized<'_>, cols: usize, y: &mut Columns<'_>) {
    if y.rows() < PANEL {
        fast::product(weights, x, cols, y)
    } else {
        panel::product(weights, x, cols, y)
    }
}
