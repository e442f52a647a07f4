//! AVX-512 (F, BW, VL) with VNNI: products in fast, with several vectors, and of NF4 weights with
//! one.
//!
//! Everything else is the AVX2 table's: there memory or the multiply-add units are the limit, and
//! vectors of 512 bits are no faster. `exact` and `single` (fast) multiply with one vector, `tile` and
//! `fast` with several.

mod exact;
mod factors;
mod fast;
mod lanes;
mod mix;
mod offset;
mod panel;
mod scales;
mod single;
mod strip;
mod tile;

use super::avx2::{self, exp, vector};
use super::fast::Weights;
use super::form::Form;
use super::{Input, Kernels, LayerNorm, Quantized, scalar};
use crate::quant::Matrix;
use crate::tensor::columns::Columns;

pub(super) static AVX512_VNNI: Kernels = Kernels {
    name: "avx512vnni",
    several: [(2.4, 0.23), (0.95, 0.18)],
    product,
    product_fast,
    read_row: tile::read_row,
    quantize: avx2::fast::quantize,
    dot: vector::dot,
    dot_f16: vector::dot_f16,
    dot_i8: vector::dot_i8,
    axpy: vector::axpy,
    axpy_f16: vector::axpy_f16,
    axpy_i8: vector::axpy_i8,
    scale: avx2::scale,
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
    gelu: Some(gelu),
    #[cfg(feature = "train")]
    gelu_and_derivative,
    layer_norm: Some(layer_norm),
    #[cfg(feature = "train")]
    layer_norm_back,
};

/// Rows of a matrix from which an exact product packs panels, all of whose lanes are filled. How
/// many vectors there are, beyond one, does not decide: a vector's products do not depend on those
/// beside it.
const ROWS: usize = 16;

/// y = W x for the rows that `y` owns.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn product(weights: &Matrix<'_>, input: &Input<'_>, y: &mut Columns<'_>) {
    match Form::of(weights) {
        Form::Nf4(nf4) if input.n() == 1 => {
            exact::product(&nf4, y.range().start, input.x.as_chunks().0, y.row(0));
        }
        _ if input.n() > 1 && weights.rows() >= ROWS => tile::product(weights, input, y),
        _ => avx2::product(weights, input, y),
    }
}

/// y = W x over integers for the rows that `y` owns.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn product_fast(weights: &Weights<'_>, x: &Quantized<'_>, cols: usize, y: &mut Columns<'_>) {
    match y.rows() {
        1 => single::product(weights, x, cols, y),
        _ => fast::product(weights, x, cols, y),
    }
}

/// The portable loop, as vectors of sixteen.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn gelu(x: &mut [f32]) {
    scalar::gelu(x);
}

/// As [`gelu`].
#[cfg(feature = "train")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn gelu_and_derivative(x: &mut [f32], y: &mut [f32]) {
    scalar::gelu_and_derivative(x, y);
}

/// As [`gelu`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn layer_norm(norm: &LayerNorm<'_>, x: &mut [f32]) {
    norm.forward(x);
}

/// As [`gelu`].
#[cfg(feature = "train")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn layer_norm_back(norm: &LayerNorm<'_>, x: &[f32], d: &mut [f32]) {
    norm.backward(x, d);
}
