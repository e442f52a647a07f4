//! The ways that products take through a matrix: tile by tile with several vectors ([`Tiles`]), and
//! row by row with one, where the matrix is made of groups, each with a scale ([`Groups`]).
//!
//! Of a walk over groups, scales are expanded for as many rows at once as fit a small buffer: a row
//! of a small model has too few groups to pay for starting that loop, and a loop that reads scales
//! just written would wait for the stores. The rows themselves are read one after the other, the
//! order in which memory is fastest. The caller multiplies a row and adds up its lanes.

use core::ops::Range;

use super::{GROUP, Input, Quantized};

/// Scales in the buffer: four rows of 16384 columns. Longer rows are walked in parts.
pub(super) const SPAN: usize = 1024;

/// The parts of a row of `groups` groups, of `span` groups (at most [`SPAN`]) each but the last.
pub(super) fn parts(groups: usize, span: usize) -> impl Iterator<Item = Range<usize>> {
    (0..groups).step_by(span).map(move |first| first..groups.min(first + span))
}

/// How a matrix is cut for an exact product with several vectors: rows and columns of a tile at
/// most, columns a multiple of 64, and vectors that pass over all tiles of a column range before
/// the next range, so that their part of the range stays in a cache.
pub(super) struct Tiles {
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) batch: usize,
}

impl Tiles {
    /// `each(vectors, columns, rows)` one after the other.
    #[inline(always)]
    pub(super) fn walk(
        &self,
        input: &Input<'_>,
        rows: Range<usize>,
        mut each: impl FnMut(Range<usize>, Range<usize>, Range<usize>),
    ) {
        // Equal parts rather than full tiles and a short rest; they depend on the row length alone,
        // and so do the results.
        let part = input.cols.div_ceil(input.cols.div_ceil(self.cols)).next_multiple_of(64);
        for vector in (0..input.n()).step_by(self.batch) {
            for first in (0..input.cols).step_by(part) {
                for row in rows.clone().step_by(self.rows) {
                    let (vectors, cols) = (
                        vector..input.n().min(vector + self.batch),
                        first..input.cols.min(first + part),
                    );
                    each(vectors, cols, row..rows.end.min(row + self.rows));
                }
            }
        }
    }
}

/// A matrix made of groups, `per_row` to a row and side by side in memory, and which part of its
/// rows is meant.
pub(super) struct Groups<'a, T> {
    pub(super) all: &'a [T],
    pub(super) per_row: usize,
    pub(super) part: Range<usize>,
}

impl<T> Groups<'_, T> {
    /// Fills `y` with the products of rows `start ..`; adds to `y` if the part is not the first.
    ///
    /// `expand(first, out)` writes the scales of the matrix's groups `first ..`. `row(groups,
    /// scales)` multiplies the part of a row with its activations and returns sums by lanes;
    /// `sums` adds up the lanes of four rows, each the same way whatever the others are.
    #[inline(always)]
    pub(super) fn rows<V: Copy>(
        &self,
        start: usize,
        y: &mut [f32],
        expand: impl Fn(usize, &mut [f32]),
        row: impl Fn(&[T], &[f32]) -> V,
        sums: impl Fn([V; 4]) -> [f32; 4],
    ) {
        let mut buffer = [0.0; SPAN];
        let len = self.part.len();
        // Only whole rows lie side by side.
        let run = if len < self.per_row { 1 } else { SPAN / len };
        let run = if run < 4 { run } else { run / 4 * 4 };
        let put = |y: &mut f32, sum: f32| *y = if self.part.start == 0 { sum } else { *y + sum };
        for (i, y) in y.chunks_mut(run).enumerate() {
            let first = (start + i * run) * self.per_row + self.part.start;
            let scales = &mut buffer[..y.len() * len];
            expand(first, scales);
            let groups = &self.all[first..][..scales.len()];
            let row = |r: usize| row(&groups[r * len..][..len], &scales[r * len..][..len]);
            let (fours, rest) = y.as_chunks_mut::<4>();
            let done = 4 * fours.len();
            for (i, y) in fours.iter_mut().enumerate() {
                let sums = sums([row(4 * i), row(4 * i + 1), row(4 * i + 2), row(4 * i + 3)]);
                y.iter_mut().zip(sums).for_each(|(y, sum)| put(y, sum));
            }
            for (r, y) in rest.iter_mut().enumerate() {
                put(y, sums([row(done + r); 4])[0]);
            }
        }
    }
}

/// A range of groups of some vectors: what rows of weights are multiplied with at a time.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    pub(super) x: Quantized<'a>,
    pub(super) per_row: usize,
    pub(super) first: usize,
    pub(super) groups: usize,
}

impl<'a> Part<'a> {
    /// The integers of vector `i`.
    #[inline(always)]
    pub(super) fn integers(&self, i: usize) -> &'a [[i8; GROUP]] {
        &self.x.values.as_chunks::<GROUP>().0[i * self.per_row + self.first..][..self.groups]
    }

    /// The scales of vector `i`.
    #[inline(always)]
    pub(super) fn scales(&self, i: usize) -> &'a [f32] {
        &self.x.scales[i * self.per_row + self.first..][..self.groups]
    }
}

/// Folds groups `0 .. len` in two chains, even and odd: one chain of multiply-adds would take turns
/// with its own latency.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) fn two_chains<V: Copy>(len: usize, zero: V, step: impl Fn(V, usize) -> V) -> [V; 2] {
    let (mut even, mut odd) = (zero, zero);
    for pair in 0..len / 2 {
        even = step(even, 2 * pair);
        odd = step(odd, 2 * pair + 1);
    }
    if !len.is_multiple_of(2) {
        even = step(even, len - 1);
    }
    [even, odd]
}
