//! AVX2 with FMA and F16C: every function of the table.
//!
//! A matrix-vector product (decoding, bound by the bytes of the weights) dequantizes in registers, row after row: `nf4` and
//! `int8` say how. A matrix times several vectors (prefill, bound by arithmetic) dequantizes a tile once for all of
//! them: `tile`. A row's sums run in the same order whether it is one of four or the rest of a lane's range: results do not
//! depend on how rows are split among lanes.

mod exp;
mod int8;
mod lanes;
mod nf4;
mod tile;
mod vector;

use core::arch::x86_64::__m256;

use super::scales::INT8_GROUP;
use super::{Input, Kernels};
use crate::quant::{Layout, Matrix, Values};
use crate::tensor::columns::Columns;

pub(super) static AVX2: Kernels = Kernels {
    name: "avx2",
    product,
    dot: vector::dot,
    dot_f16: vector::dot_f16,
    dot_i8: vector::dot_i8,
    axpy: vector::axpy,
    axpy_f16: vector::axpy_f16,
    axpy_i8: vector::axpy_i8,
    to_f16: vector::to_f16,
    rms_norm: vector::rms_norm,
    softmax: exp::softmax,
    silu_mul: exp::silu_mul,
};

/// y = W x for the rows that `y` owns.
#[target_feature(enable = "avx2,fma,f16c")]
fn product(weights: &Matrix<'_>, input: &Input<'_>, y: &mut Columns<'_>) {
    let (x, start, cols) = (input.x, y.range().start, input.cols);
    match weights.values() {
        _ if input.n() != 1 => tile::product(weights, input, y),
        Values::F32(values) => one_row(y.row(0), |r| vector::dot(&values[(start + r) * cols..][..cols], x)),
        Values::F16(values) => one_row(y.row(0), |r| vector::dot_f16(&values[(start + r) * cols..][..cols], x)),
        Values::Int8(int8) if cols.is_multiple_of(INT8_GROUP) => {
            let x = x.as_chunks().0;
            four_rows(y.row(0), |r| int8::row(&int8, start + r, x));
        }
        Values::Nf4(nf4) if nf4.layout == Layout::Split64 => {
            let x = x.as_chunks().0;
            four_rows(y.row(0), |r| nf4::row(&nf4, start + r, x));
        }
        _ => tile::product(weights, input, y),
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn one_row(y: &mut [f32], row: impl Fn(usize) -> f32) {
    y.iter_mut().enumerate().for_each(|(r, y)| *y = row(r));
}

/// Fills `y` from each row's lanewise sums, which are added up four rows together.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn four_rows(y: &mut [f32], row: impl Fn(usize) -> __m256) {
    let (fours, rest) = y.as_chunks_mut::<4>();
    let done = 4 * fours.len();
    for (i, y) in fours.iter_mut().enumerate() {
        *y = lanes::sums([row(4 * i), row(4 * i + 1), row(4 * i + 2), row(4 * i + 3)]);
    }
    rest.iter_mut().enumerate().for_each(|(r, y)| *y = lanes::sum(row(done + r)));
}
