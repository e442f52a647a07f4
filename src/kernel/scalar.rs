//! The oracle: every kernel as its formula, in portable Rust.
//!
//! Also what a microcontroller runs, so inner loops are free of divisions and branches: NF4 in the
//! layout `Split64` and int8 are read group by group with the scale taken out of the loop;
//! everything else goes through [`Matrix::read`].
//!
//! Sums run in groups of [`GROUP`], which bounds the rounding error of long rows to that of 64
//! terms plus that of the groups.

use half::f16;

use super::scales::{self, INT8_GROUP, NF4_GROUP};
use super::{GROUP, Input, Kernels, SoftmaxStep, fast};
use crate::quant::{Layout, Matrix, Values, nf4::CODEBOOK};
use crate::tensor::columns::Columns;
use crate::tensor::math;

/// silu(z) is below every f32 in magnitude from here down: a gate of −∞ counts as this and gives
/// zero instead of −∞ / ∞.
pub(super) const SILU_ZERO: f32 = -128.0;

pub(super) static SCALAR: Kernels = Kernels {
    name: "scalar",
    several: [(1.0, 1.0); 2],
    product,
    product_fast: fast::product,
    read_row: |weights, row, out| weights.read(row, 0, out),
    quantize: fast::quantize,
    dot,
    dot_f16,
    dot_i8,
    axpy,
    axpy_f16,
    axpy_i8,
    scale,
    to_f16,
    rms_norm,
    softmax: None,
    softmax_step,
    mix,
    mix_f16,
    mix_i8,
    dots,
    dots_f16,
    dots_i8,
    silu_mul,
    gelu: None,
    #[cfg(feature = "train")]
    gelu_and_derivative,
    layer_norm: None,
    #[cfg(feature = "train")]
    layer_norm_back: |norm, x, d| norm.backward(x, d),
};

/// Takes one group of weights of a row at a time, unscaled, and multiplies it with every vector.
fn product(weights: &Matrix<'_>, input: &Input<'_>, y: &mut Columns<'_>) {
    let mut group = [0.0; GROUP];
    for row in y.range() {
        (0..input.n()).for_each(|i| y.set(i, row, 0.0));
        let mut first = 0;
        while first < input.cols {
            let (count, scale) = read(weights, row, first, &mut group);
            for i in 0..input.n() {
                y.add(i, row, scale * sum(&group[..count], &input.vector(i)[first..], |w| w));
            }
            first += count;
        }
    }
}

/// Weights `first ..` of a row up to the end of their group, not yet multiplied by the scale: (how
/// many, the scale).
fn read(weights: &Matrix<'_>, row: usize, first: usize, out: &mut [f32; GROUP]) -> (usize, f32) {
    let at = row * weights.cols() + first;
    let mut scale = [1.0];
    match weights.values() {
        Values::Nf4(nf4) if nf4.layout == Layout::Split64 => {
            scales::nf4(&nf4, at / NF4_GROUP, &mut scale);
            let (low, high) = out.split_at_mut(GROUP / 2);
            for ((low, high), &byte) in low.iter_mut().zip(high).zip(&nf4.codes[at / 2..]) {
                (*low, *high) =
                    (CODEBOOK[usize::from(byte & 15)], CODEBOOK[usize::from(byte >> 4)]);
            }
            (NF4_GROUP, scale[0])
        }
        Values::Int8(int8) if weights.cols().is_multiple_of(INT8_GROUP) => {
            scales::int8::<INT8_GROUP>(&int8, at / INT8_GROUP, &mut scale);
            out.iter_mut()
                .zip(&int8.values[at..][..INT8_GROUP])
                .for_each(|(out, &q)| *out = f32::from(q));
            (INT8_GROUP, scale[0])
        }
        _ => {
            let count = GROUP.min(weights.cols() - first);
            weights.read(row, first, &mut out[..count]);
            (count, 1.0)
        }
    }
}

#[inline]
fn sum<T: Copy>(a: &[T], b: &[f32], to_f32: impl Fn(T) -> f32) -> f32 {
    a.iter().zip(b).fold(0.0, |sum, (&a, &b)| sum + to_f32(a) * b)
}

#[inline]
fn dot_with<T: Copy>(a: &[T], b: &[f32], to_f32: impl Fn(T) -> f32 + Copy) -> f32 {
    a.chunks(GROUP).zip(b.chunks(GROUP)).fold(0.0, |total, (a, b)| total + sum(a, b, to_f32))
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

pub(super) fn softmax(x: &mut [f32]) {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut total = 0.0;
    for x in x.iter_mut() {
        *x = math::exp(*x - max);
        total += *x;
    }
    x.iter_mut().for_each(|x| *x /= total);
}

pub(super) fn softmax_step(x: &mut [f32], scale: f32, max: f32) -> SoftmaxStep {
    let largest = x.iter().fold(max, |max, &x| f32::max(max, scale * x));
    let mut total = 0.0;
    for x in x.iter_mut() {
        *x = math::exp(scale * *x - largest);
        total += *x;
    }
    SoftmaxStep { max: largest, sum: total, rescale: math::exp(max - largest) }
}

/// Four columns at a time, their sums in registers.
#[inline]
fn mix_with<T: Copy>(
    w: &[&[f32]],
    rows: &[T],
    stride: usize,
    out: &mut [&mut [f32]],
    to_f32: impl Fn(T) -> f32 + Copy,
) {
    for (w, out) in w.iter().zip(out) {
        let (fours, rest) = out.as_chunks_mut::<4>();
        let done = 4 * fours.len();
        for (i, out) in fours.iter_mut().enumerate() {
            let mut sums = *out;
            for (&w, row) in w.iter().zip(rows[4 * i..].chunks(stride)) {
                for (sum, &v) in sums.iter_mut().zip(row) {
                    *sum += w * to_f32(v);
                }
            }
            *out = sums;
        }
        for (i, out) in rest.iter_mut().enumerate() {
            let rows = rows[done + i..].iter().step_by(stride);
            *out = w.iter().zip(rows).fold(*out, |sum, (&w, &v)| sum + w * to_f32(v));
        }
    }
}

pub(super) fn mix(w: &[&[f32]], rows: &[f32], stride: usize, out: &mut [&mut [f32]]) {
    mix_with(w, rows, stride, out, |v| v);
}

pub(super) fn mix_f16(w: &[&[f32]], rows: &[u16], stride: usize, out: &mut [&mut [f32]]) {
    mix_with(w, rows, stride, out, |bits| f16::from_bits(bits).to_f32());
}

pub(super) fn mix_i8(w: &[&[f32]], rows: &[i8], stride: usize, out: &mut [&mut [f32]]) {
    mix_with(w, rows, stride, out, f32::from);
}

pub(super) fn dots(a: &[f32], x: &[f32], out: &mut [f32]) {
    out.iter_mut().zip(a.chunks_exact(x.len().max(1))).for_each(|(out, a)| *out = dot(a, x));
}

pub(super) fn dots_f16(a: &[u16], x: &[f32], out: &mut [f32]) {
    out.iter_mut().zip(a.chunks_exact(x.len().max(1))).for_each(|(out, a)| *out = dot_f16(a, x));
}

pub(super) fn dots_i8(a: &[i8], x: &[f32], out: &mut [f32]) {
    out.iter_mut().zip(a.chunks_exact(x.len().max(1))).for_each(|(out, a)| *out = dot_i8(a, x));
}

/// xᵢ ← xᵢ · (w lᵢ + 1 − w).
#[inline(always)]
pub(super) fn scale(l: &[f32], w: f32, x: &mut [f32]) {
    if w == 1.0 {
        return x.iter_mut().zip(l).for_each(|(x, l)| *x *= l);
    }
    x.iter_mut().zip(l).for_each(|(x, l)| *x *= w * l + (1.0 - w));
}

fn silu_mul(gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        let z = if *gate < SILU_ZERO { SILU_ZERO } else { *gate };
        *gate = z / (1.0 + math::exp(-z)) * up;
    }
}

/// x Φ(x); see [`super::gelu`].
#[inline(always)]
pub(super) fn gelu(x: &mut [f32]) {
    x.iter_mut().for_each(|x| *x = super::gelu(*x).0);
}

#[cfg(feature = "train")]
#[inline(always)]
pub(super) fn gelu_and_derivative(x: &mut [f32], y: &mut [f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| (*y, *x) = super::gelu(*x));
}
