//! Weighted sums of stored rows, and dot products of several stored rows with one vector, sixteen
//! lanes at a time.
//!
//! As `avx2::mix`, with tiles of up to six results by 64 columns: 24 sums and four widened vectors
//! in registers, the weights broadcast from memory. Columns that fill no register of sixteen are
//! left to AVX2, which adds in the same order.

use core::arch::x86_64::*;

use half::f16;

use super::lanes::{load, store, sums, widen_f16, widen_i8};
use crate::kernel::avx2::lanes as narrow;
use crate::kernel::avx2::mix::{self, Rows, weights};

/// Results of a tile at most.
const MOST: usize = 6;

/// The columns in whole registers, of all results; returns the first column that is left.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx2,fma,f16c")]
fn mix_with<T: Copy>(
    w: &[&[f32]],
    rows: Rows<'_, T>,
    out: &mut [&mut [f32]],
    widen: impl Fn(&[T; 16]) -> __m512 + Copy,
) -> usize {
    let mut i = 0;
    while i < w.len() {
        let (w, out) = (&w[i..], &mut out[i..]);
        // Nearly equal strips: eight results as 4 + 4, not 6 + 2.
        i += match w.len().div_ceil(w.len().div_ceil(MOST)) {
            1 => strip::<T, 1>(w, rows, out, widen),
            2 => strip::<T, 2>(w, rows, out, widen),
            3 => strip::<T, 3>(w, rows, out, widen),
            4 => strip::<T, 4>(w, rows, out, widen),
            5 => strip::<T, 5>(w, rows, out, widen),
            _ => strip::<T, MOST>(w, rows, out, widen),
        };
    }
    out.first().map_or(0, |out| out.len() / 16 * 16)
}

#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx2,fma,f16c")]
fn strip<T: Copy, const M: usize>(
    w: &[&[f32]],
    rows: Rows<'_, T>,
    out: &mut [&mut [f32]],
    widen: impl Fn(&[T; 16]) -> __m512 + Copy,
) -> usize {
    let (w, cols) = (weights::<M>(w), out[0].len());
    let mut at = 0;
    while at + 64 <= cols {
        tile::<T, M, 4>(at, &w, rows, out, widen);
        at += 64;
    }
    while at + 32 <= cols {
        tile::<T, M, 2>(at, &w, rows, out, widen);
        at += 32;
    }
    while at + 16 <= cols {
        tile::<T, M, 1>(at, &w, rows, out, widen);
        at += 16;
    }
    M
}

#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx2,fma,f16c")]
fn tile<T: Copy, const M: usize, const V: usize>(
    at: usize,
    w: &[&[f32]; M],
    rows: Rows<'_, T>,
    out: &mut [&mut [f32]],
    widen: impl Fn(&[T; 16]) -> __m512 + Copy,
) {
    let mut sums = [[_mm512_setzero_ps(); V]; M];
    for (sums, out) in sums.iter_mut().zip(out.iter()) {
        for (sum, out) in sums.iter_mut().zip(out[at..at + 16 * V].as_chunks().0) {
            *sum = load(out);
        }
    }
    for t in 0..w[0].len() {
        let row = rows.part(t, at, 16 * V).as_chunks().0;
        let mut values = [_mm512_setzero_ps(); V];
        for (value, row) in values.iter_mut().zip(row) {
            *value = widen(row);
        }
        for (sums, w) in sums.iter_mut().zip(w) {
            let w = _mm512_set1_ps(w[t]);
            for (sum, &value) in sums.iter_mut().zip(&values) {
                *sum = _mm512_fmadd_ps(w, value, *sum);
            }
        }
    }
    for (sums, out) in sums.iter().zip(out) {
        for (&sum, out) in sums.iter().zip(out[at..at + 16 * V].as_chunks_mut().0) {
            store(out, sum);
        }
    }
}

#[target_feature(enable = "avx512f,avx512vl,avx2,fma,f16c")]
pub(super) fn mix(w: &[&[f32]], values: &[f32], stride: usize, out: &mut [&mut [f32]]) {
    let rows = Rows { values, stride };
    let left = mix_with(w, rows, out, |v| load(v));
    mix::from(left, w, rows, out, |v| narrow::load(v), |v| v);
}

#[target_feature(enable = "avx512f,avx512vl,avx2,fma,f16c")]
pub(super) fn mix_f16(w: &[&[f32]], values: &[u16], stride: usize, out: &mut [&mut [f32]]) {
    let rows = Rows { values, stride };
    let left = mix_with(w, rows, out, |v| widen_f16(v));
    mix::from(left, w, rows, out, |v| narrow::widen_f16(v), |bits| f16::from_bits(bits).to_f32());
}

#[target_feature(enable = "avx512f,avx512vl,avx2,fma,f16c")]
pub(super) fn mix_i8(w: &[&[f32]], values: &[i8], stride: usize, out: &mut [&mut [f32]]) {
    let rows = Rows { values, stride };
    let left = mix_with(w, rows, out, |v| widen_i8(v));
    mix::from(left, w, rows, out, |v| narrow::widen_i8(v), f32::from);
}

/// `out[j] = Σ_i a[j, i] · x[i]`, four rows at a time, each in two chains of sixteen lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx2,fma,f16c")]
fn dots_with<T: Copy>(
    a: &[T],
    x: &[f32],
    out: &mut [f32],
    widen: impl Fn(&[T; 16]) -> __m512 + Copy,
    one: impl Fn(T) -> f32 + Copy,
) {
    let (fours, rest) = out.as_chunks_mut::<4>();
    let done = 4 * fours.len();
    for (i, out) in fours.iter_mut().enumerate() {
        *out = dots_of_rows::<T, 4>(&a[4 * i * x.len()..], x, widen, one);
    }
    for (i, out) in rest.iter_mut().enumerate() {
        *out = dots_of_rows::<T, 1>(&a[(done + i) * x.len()..], x, widen, one)[0];
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx2,fma,f16c")]
fn dots_of_rows<T: Copy, const R: usize>(
    a: &[T],
    x: &[f32],
    widen: impl Fn(&[T; 16]) -> __m512,
    one: impl Fn(T) -> f32,
) -> [f32; 4] {
    let (x16, x_rest) = x.as_chunks::<16>();
    let mut rows: [&[[T; 16]]; R] = [&[]; R];
    for (r, row) in rows.iter_mut().enumerate() {
        *row = &a[r * x.len()..][..x.len()].as_chunks().0[..x16.len()];
    }
    let mut chains = [[_mm512_setzero_ps(); 2]; R];
    for i in 0..x16.len() / 2 {
        for k in 0..2 {
            let x = load(&x16[2 * i + k]);
            for (chains, row) in chains.iter_mut().zip(&rows) {
                chains[k] = _mm512_fmadd_ps(widen(&row[2 * i + k]), x, chains[k]);
            }
        }
    }
    if !x16.len().is_multiple_of(2) {
        let last = x16.len() - 1;
        for (chains, row) in chains.iter_mut().zip(&rows) {
            chains[0] = _mm512_fmadd_ps(widen(&row[last]), load(&x16[last]), chains[0]);
        }
    }
    let mut totals = [_mm512_setzero_ps(); 4];
    for (total, [even, odd]) in totals.iter_mut().zip(chains) {
        *total = _mm512_add_ps(even, odd);
    }
    let mut totals = sums(totals);
    for (r, total) in totals.iter_mut().enumerate().take(R) {
        let rest = &a[(r + 1) * x.len() - x_rest.len()..][..x_rest.len()];
        *total = rest.iter().zip(x_rest).fold(*total, |total, (&a, &x)| total + one(a) * x);
    }
    totals
}

#[target_feature(enable = "avx512f,avx512vl,avx2,fma,f16c")]
pub(super) fn dots(a: &[f32], x: &[f32], out: &mut [f32]) {
    dots_with(a, x, out, |a| load(a), |a| a);
}

#[target_feature(enable = "avx512f,avx512vl,avx2,fma,f16c")]
pub(super) fn dots_f16(a: &[u16], x: &[f32], out: &mut [f32]) {
    dots_with(a, x, out, |a| widen_f16(a), |bits| f16::from_bits(bits).to_f32());
}

#[target_feature(enable = "avx512f,avx512vl,avx2,fma,f16c")]
pub(super) fn dots_i8(a: &[i8], x: &[f32], out: &mut [f32]) {
    dots_with(a, x, out, |a| widen_i8(a), f32::from);
}
