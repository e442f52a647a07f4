//! Weighted sums of stored rows, and dot products of several stored rows with one vector, on
//! 128-bit vectors.
//!
//! `out[r, c] += Σ_t w[r, t] · rows[t, c]`: eight columns of up to four results stay in registers
//! while t runs, so a stored row is read and widened once for them. Every column is one chain in
//! the order of t, whatever is computed beside it.

use super::{Simd, vector};

/// Results at a time at most.
const MOST: usize = 4;

#[inline(always)]
fn mix_with<S: Simd, T: Copy>(
    w: &[&[f32]],
    rows: &[T],
    stride: usize,
    out: &mut [&mut [f32]],
    widen: impl Fn(&[T; 8]) -> [S::Floats; 2] + Copy,
) {
    for (w, out) in w.chunks(MOST).zip(out.chunks_mut(MOST)) {
        match w.len() {
            1 => strip::<S, T, 1>(w, rows, stride, out, widen),
            2 => strip::<S, T, 2>(w, rows, stride, out, widen),
            3 => strip::<S, T, 3>(w, rows, stride, out, widen),
            _ => strip::<S, T, MOST>(w, rows, stride, out, widen),
        }
    }
}

/// All columns of M results.
#[inline(always)]
fn strip<S: Simd, T: Copy, const M: usize>(
    w: &[&[f32]],
    rows: &[T],
    stride: usize,
    out: &mut [&mut [f32]],
    widen: impl Fn(&[T; 8]) -> [S::Floats; 2],
) {
    let (terms, cols) = (w[0].len(), out[0].len());
    let mut all: [&[f32]; M] = [&[]; M];
    all.iter_mut().zip(w).for_each(|(to, from)| *to = &from[..terms]);
    let mut part = [[0.0; 8]; M];
    for at in (0..cols).step_by(8) {
        let width = (cols - at).min(8);
        for m in 0..M {
            part[m][..width].copy_from_slice(&out[m][at..][..width]);
        }
        let mut sums = part.map(|part| vector::load::<S>(&part));
        for (t, row) in rows[at..].chunks(stride).take(terms).enumerate() {
            let row = match row.first_chunk() {
                Some(row) if width == 8 => widen(row),
                _ => {
                    let mut eight = [row[0]; 8];
                    eight[..width].copy_from_slice(&row[..width]);
                    widen(&eight)
                }
            };
            for m in 0..M {
                let weight = S::splat(all[m][t]);
                sums[m] = [
                    S::mul_add(weight, row[0], sums[m][0]),
                    S::mul_add(weight, row[1], sums[m][1]),
                ];
            }
        }
        part.iter_mut().zip(sums).for_each(|(part, sums)| vector::store::<S>(part, sums));
        for m in 0..M {
            out[m][at..][..width].copy_from_slice(&part[m][..width]);
        }
    }
}

pub(super) fn mix<S: Simd>(w: &[&[f32]], rows: &[f32], stride: usize, out: &mut [&mut [f32]]) {
    mix_with::<S, _>(w, rows, stride, out, vector::load::<S>);
}

pub(super) fn mix_f16<S: Simd>(w: &[&[f32]], rows: &[u16], stride: usize, out: &mut [&mut [f32]]) {
    mix_with::<S, _>(w, rows, stride, out, S::widen_f16);
}

pub(super) fn mix_i8<S: Simd>(w: &[&[f32]], rows: &[i8], stride: usize, out: &mut [&mut [f32]]) {
    mix_with::<S, _>(w, rows, stride, out, S::widen_i8);
}

#[inline(always)]
fn each<T>(a: &[T], x: &[f32], out: &mut [f32], dot: impl Fn(&[T], &[f32]) -> f32) {
    out.iter_mut().zip(a.chunks_exact(x.len().max(1))).for_each(|(out, a)| *out = dot(a, x));
}

pub(super) fn dots<S: Simd>(a: &[f32], x: &[f32], out: &mut [f32]) {
    each(a, x, out, vector::dot::<S>);
}

pub(super) fn dots_f16<S: Simd>(a: &[u16], x: &[f32], out: &mut [f32]) {
    each(a, x, out, vector::dot_f16::<S>);
}

pub(super) fn dots_i8<S: Simd>(a: &[i8], x: &[f32], out: &mut [f32]) {
    each(a, x, out, vector::dot_i8::<S>);
}
