//! `Precision::Fast` on AVX2, several vectors: weights are packed once so that a register's lanes
//! are 8 rows.
//!
//! `sum[8 rows] += q[8 rows, 2 columns] · p[2 columns]`: `_mm256_madd_epi16` multiplies 16-bit
//! integers and adds pairs, exactly, and two activations are broadcast from memory; the conversion
//! and the scale at the end of a group are shared by 8 rows. Two columns of 16 bits an instruction
//! are as many products as bytes with the sign trick would give, without its extra steps.
//!
//! Bytes are widened in fours: columns 0 and 2 of four make one pair, columns 1 and 3 the other,
//! weights and activations alike. A group's 32 pairs stand as 16 even ones and 16 odd ones.

use core::arch::x86_64::*;
use core::array;
use core::ops::Range;

use super::fast::expand_scales;
use super::lanes::{
    load, load_bytes, load_codebook, load_integers, load_words, store, store_words,
};
use crate::kernel::fast::{INTEGERS, Weights};
use crate::kernel::walk::Part;
use crate::kernel::{GROUP, Quantized};
use crate::tensor::columns::Columns;

/// Rows of a panel.
const ROWS: usize = 8;

/// Pairs of columns in a group.
const PAIRS: usize = GROUP / 2;

/// Groups of a panel at most: its integers, 12 KB, stay in the first-level cache.
const SPAN: usize = 12;

/// Vectors that are widened at once and pass over all panels of a column range before the next
/// range: 24 · 12 groups · 128 bytes = 36 KB. A multiple of [`STRIP`].
const BATCH: usize = 24;

/// Vectors at a time at most: six integer and six float sums leave four registers.
const STRIP: usize = 6;

/// Packed weights of 8 rows: per group 32 registers of a pair of columns each, and the scale of
/// every row.
#[repr(align(32))]
struct Panel {
    integers: [[[i32; ROWS]; PAIRS]; SPAN],
    scales: [[f32; ROWS]; SPAN],
}

/// Widened activations: pairs of 16 bits.
type Wide = [[i32; PAIRS]; SPAN];

/// y = W x for the rows that `y` owns and all vectors.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn product(weights: &Weights<'_>, x: &Quantized<'_>, cols: usize, y: &mut Columns<'_>) {
    let per_row = cols / GROUP;
    let mut panel = Panel { integers: [[[0; ROWS]; PAIRS]; SPAN], scales: [[0.0; ROWS]; SPAN] };
    let mut wide = [[[0; PAIRS]; SPAN]; BATCH];
    for batch in (0..y.rows()).step_by(BATCH) {
        let batch = batch..y.rows().min(batch + BATCH);
        for first in (0..per_row).step_by(SPAN) {
            let part = Part { x: *x, per_row, first, groups: SPAN.min(per_row - first) };
            for (i, wide) in batch.clone().zip(&mut wide) {
                widen_activations(part.integers(i), wide);
            }
            for row in y.range().step_by(ROWS) {
                let rows = row..y.range().end.min(row + ROWS);
                panel.pack(weights, &rows, &part);
                panel.multiply(&part, batch.clone(), &wide, rows, y);
            }
        }
    }
}

/// Bytes to the pairs (0, 2) and (1, 3) of each four.
#[inline]
#[target_feature(enable = "avx2")]
fn widen(bytes: __m256i) -> [__m256i; 2] {
    [_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(bytes)), _mm256_srai_epi16::<8>(bytes)]
}

#[inline]
#[target_feature(enable = "avx2")]
fn widen_activations(integers: &[[i8; GROUP]], wide: &mut Wide) {
    for (p, out) in integers.iter().zip(wide) {
        let [low, high] = load_integers(p).map(|p| widen(p));
        let vectors = [low[0], high[0], low[1], high[1]];
        out.as_chunks_mut().0.iter_mut().zip(vectors).for_each(|(out, v)| store_words(out, v));
    }
}

impl Panel {
    /// Packs the groups of `part` of rows `rows`; fewer than 8 rows leave the last one in the other
    /// lanes.
    #[target_feature(enable = "avx2,f16c")]
    fn pack(&mut self, weights: &Weights<'_>, rows: &Range<usize>, part: &Part<'_>) {
        let first = |r: usize| (rows.start + r).min(rows.end - 1) * part.per_row + part.first;
        let codebook = _mm256_broadcastsi128_si256(load_codebook(&INTEGERS));
        let look_up =
            |codes| _mm256_shuffle_epi8(codebook, _mm256_and_si256(codes, _mm256_set1_epi8(15)));
        let panel = &mut self.integers[..part.groups];
        match weights {
            Weights::Nf4(nf4) => {
                let codes = nf4.codes.as_chunks::<32>().0;
                let rows: [_; ROWS] = array::from_fn(|r| &codes[first(r)..][..panel.len()]);
                for (g, pairs) in panel.iter_mut().enumerate() {
                    for (d, codes) in transpose(|r| load_bytes(&rows[r][g])).into_iter().enumerate()
                    {
                        put(pairs, d, look_up(codes));
                        put(pairs, 8 + d, look_up(_mm256_srli_epi16::<4>(codes)));
                    }
                }
            }
            Weights::Int8(int8) => {
                let halves = bytemuck::cast_slice::<_, u8>(int8.values).as_chunks::<32>().0;
                let rows: [_; ROWS] =
                    array::from_fn(|r| &halves[2 * first(r)..][..2 * panel.len()]);
                for (g, pairs) in panel.iter_mut().enumerate() {
                    for half in 0..2 {
                        let columns = transpose(|r| load_bytes(&rows[r][2 * g + half]));
                        for (d, q) in columns.into_iter().enumerate() {
                            put(pairs, 8 * half + d, q);
                        }
                    }
                }
            }
        }
        for r in 0..rows.len() {
            let mut scale = [0.0; SPAN];
            expand_scales(weights, first(r), &mut scale[..part.groups]);
            self.scales
                .iter_mut()
                .zip(scale)
                .for_each(|(scales, scale)| scales[r] = scale * weights.unit());
        }
    }

    /// The panel against the vectors `batch`, in strips of nearly equal width.
    #[target_feature(enable = "avx2,fma")]
    fn multiply(
        &self,
        part: &Part<'_>,
        batch: Range<usize>,
        wide: &[Wide; BATCH],
        rows: Range<usize>,
        y: &mut Columns<'_>,
    ) {
        let mut done = 0;
        while done < batch.len() {
            let left = batch.len() - done;
            let (i, wide) = (batch.start + done, &wide[done..]);
            done += match left.div_ceil(left.div_ceil(STRIP)) {
                1 => self.strip::<1>(part, i, wide, &rows, y),
                2 => self.strip::<2>(part, i, wide, &rows, y),
                3 => self.strip::<3>(part, i, wide, &rows, y),
                4 => self.strip::<4>(part, i, wide, &rows, y),
                5 => self.strip::<5>(part, i, wide, &rows, y),
                _ => self.strip::<6>(part, i, wide, &rows, y),
            };
        }
    }

    /// The panel against vectors `i .. i + V`, put into `y` or added to it; returns V.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn strip<const V: usize>(
        &self,
        part: &Part<'_>,
        i: usize,
        wide: &[Wide],
        rows: &Range<usize>,
        y: &mut Columns<'_>,
    ) -> usize {
        let mut scales: [&[f32]; V] = [&[]; V];
        scales.iter_mut().enumerate().for_each(|(v, scales)| *scales = part.scales(i + v));
        let wide = &wide[..V];
        let mut total = [_mm256_setzero_ps(); V];
        for (g, (weights, s)) in
            self.integers.iter().zip(&self.scales).take(part.groups).enumerate()
        {
            let mut sum = [_mm256_setzero_si256(); V];
            for (k, q) in weights.iter().enumerate() {
                let q = load_words(q);
                for v in 0..V {
                    sum[v] = _mm256_add_epi32(
                        sum[v],
                        _mm256_madd_epi16(q, _mm256_set1_epi32(wide[v][g][k])),
                    );
                }
            }
            let s = load(s);
            for v in 0..V {
                let scale = _mm256_mul_ps(s, _mm256_set1_ps(scales[v][g]));
                total[v] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[v]), scale, total[v]);
            }
        }
        let start = rows.start - y.range().start;
        for (v, &total) in total.iter().enumerate() {
            let mut sums = [0.0; ROWS];
            store(&mut sums, total);
            let out = &mut y.row(i + v)[start..][..rows.len()];
            out.iter_mut()
                .zip(sums)
                .for_each(|(y, sum)| *y = if part.first > 0 { *y + sum } else { sum });
        }
        V
    }
}

/// Writes four columns of 8 rows as the even and the odd pair `d`.
#[inline]
#[target_feature(enable = "avx2")]
fn put(pairs: &mut [[i32; ROWS]; PAIRS], d: usize, q: __m256i) {
    let [even, odd] = widen(q);
    store_words(&mut pairs[d], even);
    store_words(&mut pairs[PAIRS / 2 + d], odd);
}

/// 8 rows of 8 words to 8 registers with a word of every row, in order of rows.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose(row: impl Fn(usize) -> __m256i) -> [__m256i; 8] {
    // Word c of four rows in the lower half, word c + 4 in the upper.
    let quad = |first: usize| {
        let [a, b, c, d] = [row(first), row(first + 1), row(first + 2), row(first + 3)];
        let (low_ab, low_cd) = (_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d));
        let (high_ab, high_cd) = (_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d));
        [
            _mm256_unpacklo_epi64(low_ab, low_cd),
            _mm256_unpackhi_epi64(low_ab, low_cd),
            _mm256_unpacklo_epi64(high_ab, high_cd),
            _mm256_unpackhi_epi64(high_ab, high_cd),
        ]
    };
    let ([u0, u1, u2, u3], [v0, v1, v2, v3]) = (quad(0), quad(4));
    let low = |u, v| _mm256_permute2x128_si256::<0x20>(u, v);
    let high = |u, v| _mm256_permute2x128_si256::<0x31>(u, v);
    [
        low(u0, v0),
        low(u1, v1),
        low(u2, v2),
        low(u3, v3),
        high(u0, v0),
        high(u1, v1),
        high(u2, v2),
        high(u3, v3),
    ]
}
