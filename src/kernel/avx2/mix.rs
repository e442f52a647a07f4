//! Weighted sums of stored rows, and dot products of several stored rows with one vector, on AVX2.
//!
//! `out[r, c] += Σ_t w[r, t] · rows[t, c]`: a tile of M results by 8·V columns stays in registers
//! while t runs, so a stored row is read and widened once for M results. Every column is one chain
//! of fused multiply-adds in the order of t, whatever tile it is in: results depend neither on M
//! nor on where a range of columns starts.

use core::arch::x86_64::*;

use half::f16;

use super::lanes::{load, store, sums, widen_f16, widen_i8};

/// Results of a tile at most.
const MOST: usize = 4;

/// What is read of the stored rows: `[terms, stride]`.
#[derive(Clone, Copy)]
pub(in crate::kernel) struct Rows<'a, T> {
    pub(in crate::kernel) values: &'a [T],
    pub(in crate::kernel) stride: usize,
}

impl<T> Rows<'_, T> {
    /// Columns `first .. first + N` of row `t`.
    #[inline(always)]
    pub(in crate::kernel) fn part(&self, t: usize, first: usize, n: usize) -> &[T] {
        &self.values[t * self.stride + first..][..n]
    }
}

/// One row of weights per result.
#[inline(always)]
pub(in crate::kernel) fn weights<'a, const M: usize>(w: &[&'a [f32]]) -> [&'a [f32]; M] {
    let terms = w[0].len();
    let mut all = [w[0]; M];
    all.iter_mut().zip(w).for_each(|(to, from)| *to = &from[..terms]);
    all
}

/// All columns from `first` on of all results.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::kernel) fn from<T: Copy>(
    first: usize,
    w: &[&[f32]],
    rows: Rows<'_, T>,
    out: &mut [&mut [f32]],
    widen: impl Fn(&[T; 8]) -> __m256 + Copy,
    one: impl Fn(T) -> f32 + Copy,
) {
    let mut i = 0;
    while i < w.len() {
        let (w, out) = (&w[i..], &mut out[i..]);
        i += match w.len() {
            1 => strip::<T, 1>(first, w, rows, out, widen, one),
            2 => strip::<T, 2>(first, w, rows, out, widen, one),
            3 => strip::<T, 3>(first, w, rows, out, widen, one),
            _ => strip::<T, MOST>(first, w, rows, out, widen, one),
        };
    }
}

/// All columns from `first` on of M results; returns M.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn strip<T: Copy, const M: usize>(
    first: usize,
    w: &[&[f32]],
    rows: Rows<'_, T>,
    out: &mut [&mut [f32]],
    widen: impl Fn(&[T; 8]) -> __m256 + Copy,
    one: impl Fn(T) -> f32 + Copy,
) -> usize {
    let (w, cols) = (weights::<M>(w), out[0].len());
    let mut at = first;
    while M == 1 && at + 32 <= cols {
        tile::<T, M, 4>(at, &w, rows, out, widen);
        at += 32;
    }
    while at + 16 <= cols {
        tile::<T, M, 2>(at, &w, rows, out, widen);
        at += 16;
    }
    while at + 8 <= cols {
        tile::<T, M, 1>(at, &w, rows, out, widen);
        at += 8;
    }
    for (w, out) in w.iter().zip(out) {
        for (c, out) in out.iter_mut().enumerate().skip(at) {
            let term = |sum, (t, &w): (usize, &f32)| fused(w, one(rows.part(t, c, 1)[0]), sum);
            *out = w.iter().enumerate().fold(*out, term);
        }
    }
    M
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn tile<T: Copy, const M: usize, const V: usize>(
    at: usize,
    w: &[&[f32]; M],
    rows: Rows<'_, T>,
    out: &mut [&mut [f32]],
    widen: impl Fn(&[T; 8]) -> __m256 + Copy,
) {
    let mut sums = [[_mm256_setzero_ps(); V]; M];
    for (sums, out) in sums.iter_mut().zip(out.iter()) {
        for (sum, out) in sums.iter_mut().zip(out[at..at + 8 * V].as_chunks().0) {
            *sum = load(out);
        }
    }
    for t in 0..w[0].len() {
        let row = rows.part(t, at, 8 * V).as_chunks().0;
        let mut values = [_mm256_setzero_ps(); V];
        for (value, row) in values.iter_mut().zip(row) {
            *value = widen(row);
        }
        for (sums, w) in sums.iter_mut().zip(w) {
            let w = _mm256_set1_ps(w[t]);
            for (sum, &value) in sums.iter_mut().zip(&values) {
                *sum = _mm256_fmadd_ps(w, value, *sum);
            }
        }
    }
    for (sums, out) in sums.iter().zip(out) {
        for (&sum, out) in sums.iter().zip(out[at..at + 8 * V].as_chunks_mut().0) {
            store(out, sum);
        }
    }
}

/// `a · b + c`, rounded once.
#[inline]
#[target_feature(enable = "fma")]
fn fused(a: f32, b: f32, c: f32) -> f32 {
    _mm_cvtss_f32(_mm_fmadd_ss(_mm_set_ss(a), _mm_set_ss(b), _mm_set_ss(c)))
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::kernel) fn mix(w: &[&[f32]], values: &[f32], stride: usize, out: &mut [&mut [f32]]) {
    from(0, w, Rows { values, stride }, out, |v| load(v), |v| v);
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::kernel) fn mix_f16(
    w: &[&[f32]],
    values: &[u16],
    stride: usize,
    out: &mut [&mut [f32]],
) {
    from(
        0,
        w,
        Rows { values, stride },
        out,
        |v| widen_f16(v),
        |bits| f16::from_bits(bits).to_f32(),
    );
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::kernel) fn mix_i8(
    w: &[&[f32]],
    values: &[i8],
    stride: usize,
    out: &mut [&mut [f32]],
) {
    from(0, w, Rows { values, stride }, out, |v| widen_i8(v), f32::from);
}

/// `out[j] = Σ_i a[j, i] · x[i]`, four rows at a time, each in two chains of eight lanes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dots_with<T: Copy>(
    a: &[T],
    x: &[f32],
    out: &mut [f32],
    widen: impl Fn(&[T; 8]) -> __m256 + Copy,
    one: impl Fn(T) -> f32 + Copy,
) {
    let (fours, rest) = out.as_chunks_mut::<4>();
    let done = 4 * fours.len();
    for (i, out) in fours.iter_mut().enumerate() {
        *out = rows::<T, 4>(&a[4 * i * x.len()..], x, widen, one);
    }
    for (i, out) in rest.iter_mut().enumerate() {
        *out = rows::<T, 1>(&a[(done + i) * x.len()..], x, widen, one)[0];
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn rows<T: Copy, const R: usize>(
    a: &[T],
    x: &[f32],
    widen: impl Fn(&[T; 8]) -> __m256,
    one: impl Fn(T) -> f32,
) -> [f32; 4] {
    let (x8, x_rest) = x.as_chunks::<8>();
    let mut rows: [&[[T; 8]]; R] = [&[]; R];
    for (r, row) in rows.iter_mut().enumerate() {
        *row = &a[r * x.len()..][..x.len()].as_chunks().0[..x8.len()];
    }
    let mut chains = [[_mm256_setzero_ps(); 2]; R];
    for i in 0..x8.len() / 2 {
        for k in 0..2 {
            let x = load(&x8[2 * i + k]);
            for (chains, row) in chains.iter_mut().zip(&rows) {
                chains[k] = _mm256_fmadd_ps(widen(&row[2 * i + k]), x, chains[k]);
            }
        }
    }
    if !x8.len().is_multiple_of(2) {
        let last = x8.len() - 1;
        for (chains, row) in chains.iter_mut().zip(&rows) {
            chains[0] = _mm256_fmadd_ps(widen(&row[last]), load(&x8[last]), chains[0]);
        }
    }
    let mut totals = [_mm256_setzero_ps(); 4];
    for (total, [even, odd]) in totals.iter_mut().zip(chains) {
        *total = _mm256_add_ps(even, odd);
    }
    let mut totals = sums(totals);
    for (r, total) in totals.iter_mut().enumerate().take(R) {
        let rest = &a[(r + 1) * x.len() - x_rest.len()..][..x_rest.len()];
        *total = rest.iter().zip(x_rest).fold(*total, |total, (&a, &x)| total + one(a) * x);
    }
    totals
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::kernel) fn dots(a: &[f32], x: &[f32], out: &mut [f32]) {
    dots_with(a, x, out, |a| load(a), |a| a);
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::kernel) fn dots_f16(a: &[u16], x: &[f32], out: &mut [f32]) {
    dots_with(a, x, out, |a| widen_f16(a), |bits| f16::from_bits(bits).to_f32());
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::kernel) fn dots_i8(a: &[i8], x: &[f32], out: &mut [f32]) {
    dots_with(a, x, out, |a| widen_i8(a), f32::from);
}
