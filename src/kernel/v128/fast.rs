//! `Precision::Fast` on 128-bit vectors: integer dot products of 64, and rounding activations to
//! integers.
//!
//! Four rows at a time: a group of each is decoded once and multiplied with up to four vectors. The
//! integer sums of four rows are folded into the lanes of one vector, so that the conversion and
//! the scales at a group's end are paid once for four rows, and no lanes are left to add up at a
//! row's end.

use core::ops::Range;

use super::exact::int8_scales;
use super::{Simd, codes};
use crate::kernel::fast::{INTEGERS, Weights, scale_of};
use crate::kernel::scales;
use crate::kernel::walk::Part;
use crate::kernel::{GROUP, Quantized};
use crate::tensor::columns::Columns;

/// Rows at a time.
const ROWS: usize = 4;

/// Groups whose scales are expanded at once.
const SPAN: usize = 64;

/// Vectors that pass over all rows of a column range before the next range: 64 KB of integers.
const BATCH: usize = 16;

/// The scales of groups of four rows.
type RowScales = [[f32; ROWS]; SPAN];

/// Some groups of four rows: the rows' numbers, their weights, their scales.
struct Rows<'a, T> {
    range: Range<usize>,
    groups: [&'a [T]; ROWS],
    scales: &'a RowScales,
}

/// y = W x for the rows that `y` owns and all vectors.
pub(super) fn product<S: Simd>(
    weights: &Weights<'_>,
    x: &Quantized<'_>,
    cols: usize,
    y: &mut Columns<'_>,
) {
    match weights {
        Weights::Nf4(nf4) => {
            let codebook = S::load_integers(&INTEGERS);
            let look_up =
                |bytes: &[u8; 32]| codes::<S>(bytes).map(|index| S::look_up(codebook, index));
            rows::<S, _>(weights, nf4.codes.as_chunks().0, x, cols, y, look_up);
        }
        Weights::Int8(int8) => {
            rows::<S, _>(weights, int8.values.as_chunks().0, x, cols, y, load::<S>)
        }
    }
}

/// 64 integers.
#[inline(always)]
fn load<S: Simd>(x: &[i8; GROUP]) -> [S::Bytes; 4] {
    let x = x.as_chunks::<16>().0;
    [0, 1, 2, 3].map(|k| S::load_integers(&x[k]))
}

/// The product; `all` holds what `decode` turns into the 64 integers of a group.
#[inline(always)]
fn rows<S: Simd, T>(
    weights: &Weights<'_>,
    all: &[T],
    x: &Quantized<'_>,
    cols: usize,
    y: &mut Columns<'_>,
    decode: impl Fn(&T) -> [S::Bytes; 4],
) {
    let per_row = cols / GROUP;
    let mut scales = [[0.0; ROWS]; SPAN];
    for batch in (0..y.rows()).step_by(BATCH) {
        let batch = batch..y.rows().min(batch + BATCH);
        for first in (0..per_row).step_by(SPAN) {
            let part = Part { x: *x, per_row, first, groups: SPAN.min(per_row - first) };
            for row in y.range().step_by(ROWS) {
                let rows = row..y.range().end.min(row + ROWS);
                expand_scales::<S>(weights, &rows, &part, &mut scales);
                let row =
                    |r: usize| &all[(row + r).min(rows.end - 1) * per_row + first..][..part.groups];
                let four = Rows {
                    range: rows.clone(),
                    groups: [row(0), row(1), row(2), row(3)],
                    scales: &scales,
                };
                let mut i = batch.start;
                while i < batch.end {
                    i += match batch.end - i {
                        1 => strip::<S, T, 1>(&part, i, &four, y, &decode),
                        2 => strip::<S, T, 2>(&part, i, &four, y, &decode),
                        3 => strip::<S, T, 3>(&part, i, &four, y, &decode),
                        _ => strip::<S, T, 4>(&part, i, &four, y, &decode),
                    };
                }
            }
        }
    }
}

/// The scales of the groups of `part` of rows `rows`; fewer than four rows leave the other lanes as
/// they are.
fn expand_scales<S: Simd>(
    weights: &Weights<'_>,
    rows: &Range<usize>,
    part: &Part<'_>,
    out: &mut RowScales,
) {
    for (r, row) in rows.clone().enumerate() {
        let mut scale = [0.0; SPAN];
        let scale = &mut scale[..part.groups];
        match weights {
            Weights::Int8(int8) => {
                int8_scales::<S, GROUP>(int8, row * part.per_row + part.first, scale)
            }
            Weights::Nf4(nf4) => scales::nf4(nf4, row * part.per_row + part.first, scale),
        }
        out.iter_mut().zip(scale).for_each(|(out, scale)| out[r] = *scale * weights.unit());
    }
}

/// Four rows (fewer: the last one again) against vectors `i .. i + V`, put into `y` or added to it;
/// returns V.
#[inline(always)]
fn strip<S: Simd, T, const V: usize>(
    part: &Part<'_>,
    i: usize,
    rows: &Rows<'_, T>,
    y: &mut Columns<'_>,
    decode: &impl Fn(&T) -> [S::Bytes; 4],
) -> usize {
    let groups = part.groups;
    let mut integers: [&[[i8; GROUP]]; V] = [&[]; V];
    let mut ts: [&[f32]; V] = [&[]; V];
    for v in 0..V {
        (integers[v], ts[v]) = (&part.integers(i + v)[..groups], &part.scales(i + v)[..groups]);
    }
    let weights = rows.groups.map(|row| &row[..groups]);
    let scales = &rows.scales[..groups];
    let mut total = [S::splat(0.0); V];
    for g in 0..groups {
        let q = weights.map(|row| decode(&row[g]));
        let scales = S::load(&scales[g]);
        for v in 0..V {
            let p = load::<S>(&integers[v][g]);
            let sums = S::to_floats(S::fold_words(q.map(|q| S::dot(q, p))));
            total[v] = S::mul_add(sums, S::mul(scales, S::splat(ts[v][g])), total[v]);
        }
    }
    let start = rows.range.start - y.range().start;
    for (v, &total) in total.iter().enumerate() {
        let mut sums = [0.0; ROWS];
        S::store(&mut sums, total);
        let out = &mut y.row(i + v)[start..][..rows.range.len()];
        out.iter_mut()
            .zip(sums)
            .for_each(|(y, sum)| *y = if part.first > 0 { *y + sum } else { sum });
    }
    V
}

/// Activations to integers and scales, as `kernel::fast::quantize` defines it and bit for bit the
/// same.
pub(super) fn quantize<S: Simd>(x: &[f32], values: &mut [i8], scales: &mut [f32]) {
    let groups = x.as_chunks::<GROUP>().0.iter().zip(values.as_chunks_mut::<GROUP>().0).zip(scales);
    for ((x, values), scale) in groups {
        let x = x.as_chunks::<4>().0;
        let most = x.iter().fold(S::splat(0.0), |most, x| S::max(most, S::abs(S::load(x))));
        let reciprocal;
        (*scale, reciprocal) = scale_of(S::largest(most));
        let reciprocal = S::splat(reciprocal);
        for (x, out) in x.as_chunks::<4>().0.iter().zip(values.as_chunks_mut::<16>().0) {
            let scaled = [0, 1, 2, 3].map(|k| S::mul(S::load(&x[k]), reciprocal));
            S::store_integers(out, S::round_to_integers(scaled));
        }
    }
}
