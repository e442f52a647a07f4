//! Kernels for 128-bit vectors, written once over [`Simd`]: NEON and WebAssembly's simd128 say what
//! four floats, four words and sixteen bytes are and how they add up, everything else is the same
//! for both.
//!
//! A matrix-vector product (decoding) dequantizes in registers, row after row: `exact`. A matrix
//! times several vectors (prefill) dequantizes a tile once for all of them: `tile`. Products of
//! integers have one form for any number of vectors: `fast`. A row's sums run in the same order
//! whatever rows stand beside it: results do not depend on how rows are split among lanes.
//!
//! Not for AVX: its functions carry `target_feature`, which a trait's cannot. Here the features are
//! the target's own, known when the crate is built, so the intrinsics may be called from anywhere;
//! the one that is not (`sdot`) is an instruction in `neon`.

mod exact;
mod exp;
mod fast;
mod mix;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "wasm32")]
mod simd128;
mod tile;
mod vector;

use super::form::Form;
use super::scalar;
use super::scales::INT8_GROUP;
use super::{Input, Kernels};
use crate::quant::Matrix;
use crate::tensor::columns::Columns;

#[cfg(target_arch = "aarch64")]
pub(super) use neon::tables;
#[cfg(target_arch = "wasm32")]
pub(super) use simd128::tables;

/// An instruction set with 128-bit vectors.
///
/// Loads and stores take arrays of the size they touch, so a caller cannot get an address wrong.
trait Simd: Copy + 'static {
    /// Four f32.
    type Floats: Copy;
    /// Four i32.
    type Words: Copy;
    /// Sixteen bytes.
    type Bytes: Copy;

    fn load(x: &[f32; 4]) -> Self::Floats;
    fn store(out: &mut [f32; 4], v: Self::Floats);
    fn splat(x: f32) -> Self::Floats;
    fn add(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    fn sub(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    fn mul(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    fn div(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// a·b + sum, rounded once or twice.
    fn mul_add(a: Self::Floats, b: Self::Floats, sum: Self::Floats) -> Self::Floats;
    /// NaN where either is.
    fn min(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// NaN where either is.
    fn max(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    fn abs(v: Self::Floats) -> Self::Floats;
    /// To whole numbers, ties to even.
    fn round(v: Self::Floats) -> Self::Floats;
    /// v · 2ⁿ for whole n in -252 to 254, in two steps, so that results run through the subnormals;
    /// any v where n is NaN.
    fn times_power_of_two(v: Self::Floats, n: Self::Floats) -> Self::Floats;
    /// Lane k is (0+1) + (2+3) over the lanes of vector k.
    fn fold(v: [Self::Floats; 4]) -> Self::Floats;
    /// The largest lane; NaN if one is.
    fn largest(v: Self::Floats) -> f32;

    /// Eight f16, as floats.
    fn widen_f16(x: &[u16; 8]) -> [Self::Floats; 2];
    /// Eight floats rounded to f16, ties to even.
    fn narrow_f16(out: &mut [u16; 8], v: [Self::Floats; 2]);
    /// Eight integers, as floats.
    fn widen_i8(x: &[i8; 8]) -> [Self::Floats; 2];

    fn load_bytes(x: &[u8; 16]) -> Self::Bytes;
    fn load_integers(x: &[i8; 16]) -> Self::Bytes;
    fn store_integers(out: &mut [i8; 16], v: Self::Bytes);
    /// The low four bits of each byte.
    fn low(v: Self::Bytes) -> Self::Bytes;
    /// The high four bits of each byte.
    fn high(v: Self::Bytes) -> Self::Bytes;
    /// `table[i]` for every index i, all below 16.
    fn look_up(table: Self::Bytes, index: Self::Bytes) -> Self::Bytes;
    /// Sixteen floats from bytes 0, 1, 2 and 3 of each.
    fn assemble(planes: [Self::Bytes; 4]) -> [Self::Floats; 4];
    /// Sixteen floats within ±127.5, rounded to integers, ties to even; any integer for a NaN.
    fn round_to_integers(v: [Self::Floats; 4]) -> Self::Bytes;

    /// The lanewise sums of 64 products of signed bytes, exact; none of p may be −128.
    fn dot(q: [Self::Bytes; 4], p: [Self::Bytes; 4]) -> Self::Words;
    /// Lane k is the sum of the lanes of vector k.
    fn fold_words(v: [Self::Words; 4]) -> Self::Words;
    fn to_floats(v: Self::Words) -> Self::Floats;
}

/// The table of instruction set S.
const fn table<S: Simd>(name: &'static str) -> Kernels {
    Kernels {
        name,
        several: [(1.2, 0.5); 2],
        product: product::<S>,
        product_fast: fast::product::<S>,
        read_row: tile::read_row::<S>,
        quantize: fast::quantize::<S>,
        dot: vector::dot::<S>,
        dot_f16: vector::dot_f16::<S>,
        dot_i8: vector::dot_i8::<S>,
        axpy: vector::axpy::<S>,
        axpy_f16: vector::axpy_f16::<S>,
        axpy_i8: vector::axpy_i8::<S>,
        scale: scalar::scale,
        to_f16: vector::to_f16::<S>,
        rms_norm: vector::rms_norm::<S>,
        softmax: Some(exp::softmax::<S>),
        softmax_step: exp::softmax_step::<S>,
        mix: mix::mix::<S>,
        mix_f16: mix::mix_f16::<S>,
        mix_i8: mix::mix_i8::<S>,
        dots: mix::dots::<S>,
        dots_f16: mix::dots_f16::<S>,
        dots_i8: mix::dots_i8::<S>,
        silu_mul: exp::silu_mul::<S>,
        gelu: None,
        #[cfg(feature = "train")]
        gelu_and_derivative: scalar::gelu_and_derivative,
        layer_norm: None,
        #[cfg(feature = "train")]
        layer_norm_back: |norm, x, d| norm.backward(x, d),
    }
}

/// y = W x for the rows that `y` owns.
fn product<S: Simd>(weights: &Matrix<'_>, input: &Input<'_>, y: &mut Columns<'_>) {
    let (x, start, cols) = (input.x, y.range().start, input.cols);
    match Form::of(weights) {
        _ if input.n() != 1 => tile::product::<S>(weights, input, y),
        Form::F32(values) => {
            one_row(y.row(0), |r| vector::dot::<S>(&values[(start + r) * cols..][..cols], x))
        }
        Form::F16(values) => {
            one_row(y.row(0), |r| vector::dot_f16::<S>(&values[(start + r) * cols..][..cols], x))
        }
        Form::Int8(int8) => {
            exact::int8::<S, 64>(&int8, start, x.as_chunks().0, y.row(0));
        }
        Form::Int8Half(int8) => {
            exact::int8::<S, INT8_GROUP>(&int8, start, x.as_chunks().0, y.row(0))
        }
        Form::Nf4(nf4) => exact::nf4::<S>(&nf4, start, x.as_chunks().0, y.row(0)),
        _ => tile::product::<S>(weights, input, y),
    }
}

#[inline]
fn one_row(y: &mut [f32], row: impl Fn(usize) -> f32) {
    y.iter_mut().enumerate().for_each(|(r, y)| *y = row(r));
}

/// The sums of the lanes of four vectors, each the same way whatever stands beside it.
#[inline(always)]
fn sums<S: Simd>(v: [S::Floats; 4]) -> [f32; 4] {
    let mut out = [0.0; 4];
    S::store(&mut out, S::fold(v));
    out
}

/// The first lane.
#[inline(always)]
fn first<S: Simd>(v: S::Floats) -> f32 {
    let mut out = [0.0; 4];
    S::store(&mut out, v);
    out[0]
}

/// The codes of 64 weights in the layout `Split64`, sixteen to a vector, in order.
#[inline(always)]
fn codes<S: Simd>(bytes: &[u8; 32]) -> [S::Bytes; 4] {
    let halves = bytes.as_chunks::<16>().0;
    let (a, b) = (S::load_bytes(&halves[0]), S::load_bytes(&halves[1]));
    [S::low(a), S::low(b), S::high(a), S::high(b)]
}
