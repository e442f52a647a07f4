//! `Precision::Fast` on AVX-512 VNNI, several vectors: weights are packed once so that a register's
//! lanes are 16 rows.
//!
//! With the columns of one row in a register, every group of 64 would end in a conversion and a
//! scale after a single integer instruction. With 16 rows in the lanes, a register holds 4 columns
//! of 16 rows, a group is 16 integer instructions, and its end is shared by 16 rows: `sum[16 rows]
//! += q[16 rows, 4 columns] · p[4 columns]`, the four activations broadcast from memory.
//!
//! A panel is 16 rows by at most [`SPAN`] groups, packed (codes transposed, then looked up) and met
//! by every vector, up to eight at a time with their sums in registers. Weights carry an offset as
//! in `fast`; sums start at `−offset · Σ p` of their group.

use core::arch::x86_64::*;
use core::ops::Range;

use super::lanes;
use super::offset::{correct, offset};
use super::scales::expand;
use crate::kernel::avx2::lanes::{load_bytes, load_codebook, load_integers};
use crate::kernel::fast::{INTEGERS, UNIT, Weights};
use crate::kernel::walk::Part;
use crate::kernel::{GROUP, Quantized};
use crate::tensor::columns::Columns;

/// Rows of a panel.
const ROWS: usize = 16;

/// Groups of a panel at most: its integers, 12 KB, stay in the first-level cache.
const SPAN: usize = 12;

/// Vectors that pass over all panels of a column range before the next range: their part of it, 64 ·
/// 12 groups · 64 bytes = 48 KB, stays in the second-level cache. A multiple of [`STRIP`].
const BATCH: usize = 64;

/// Vectors at a time at most: eight integer and eight float sums leave registers for weights and
/// scales.
const STRIP: usize = 8;

/// Packed weights of 16 rows: per group 16 registers of 4 columns each, and the scale of every row.
struct Panel {
    integers: [[[i32; ROWS]; GROUP / 4]; SPAN],
    scales: [[f32; ROWS]; SPAN],
}

/// The integers of NF4's codes, made unsigned.
#[derive(Clone, Copy)]
struct Decoder {
    codebook: __m512i,
}

impl Decoder {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx2")]
    fn new() -> Self {
        let codebook = _mm512_broadcast_i32x4(load_codebook(&INTEGERS));
        Self { codebook: _mm512_add_epi8(codebook, _mm512_set1_epi8(UNIT)) }
    }

    /// Codes stand one to a byte in the low four bits; the others are ignored.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn look_up(self, codes: __m512i) -> __m512i {
        _mm512_shuffle_epi8(self.codebook, _mm512_and_si512(codes, _mm512_set1_epi8(15)))
    }
}

/// y = W x for the rows that `y` owns and all vectors.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn product(weights: &Weights<'_>, x: &Quantized<'_>, cols: usize, y: &mut Columns<'_>) {
    let decoder = Decoder::new();
    let per_row = cols / GROUP;
    let mut panel = Panel { integers: [[[0; ROWS]; GROUP / 4]; SPAN], scales: [[0.0; ROWS]; SPAN] };
    let mut starts = [[0; SPAN]; BATCH];
    for batch in (0..y.rows()).step_by(BATCH) {
        let batch = batch..y.rows().min(batch + BATCH);
        for first in (0..per_row).step_by(SPAN) {
            let part = Part { x: *x, per_row, first, groups: SPAN.min(per_row - first) };
            for (i, starts) in batch.clone().zip(&mut starts) {
                correct(offset(weights), part.integers(i), starts);
            }
            for row in y.range().step_by(ROWS) {
                let rows = row..y.range().end.min(row + ROWS);
                panel.pack(&decoder, weights, &rows, &part);
                panel.multiply(&part, batch.clone(), &starts, rows, y);
            }
        }
    }
}

impl Panel {
    /// Packs the groups of `part` of rows `rows`; fewer than 16 rows leave the last one in the
    /// other lanes.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,f16c")]
    fn pack(
        &mut self,
        decoder: &Decoder,
        weights: &Weights<'_>,
        rows: &Range<usize>,
        part: &Part<'_>,
    ) {
        let first = |r: usize| (rows.start + r).min(rows.end - 1) * part.per_row + part.first;
        for g in 0..part.groups {
            let (low, high) = self.integers[g].split_at_mut(GROUP / 8);
            match weights {
                Weights::Nf4(nf4) => {
                    let codes = nf4.codes.as_chunks::<32>().0;
                    let columns = transpose(|r| load_bytes(&codes[first(r) + g]));
                    for ((low, high), codes) in low.iter_mut().zip(high).zip(columns) {
                        lanes::store_words(low, decoder.look_up(codes));
                        lanes::store_words(high, decoder.look_up(_mm512_srli_epi16::<4>(codes)));
                    }
                }
                Weights::Int8(int8) => {
                    let halves = int8.values.as_chunks::<GROUP>().0;
                    for (half, out) in [low, high].into_iter().enumerate() {
                        let columns = transpose(|r| load_integers(&halves[first(r) + g])[half]);
                        out.iter_mut().zip(columns).for_each(|(out, q)| {
                            lanes::store_words(out, _mm512_xor_si512(q, _mm512_set1_epi8(-128)))
                        });
                    }
                }
            }
        }
        for r in 0..rows.len() {
            let mut scale = [0.0; SPAN];
            expand(weights, first(r), &mut scale[..part.groups]);
            self.scales
                .iter_mut()
                .zip(scale)
                .for_each(|(scales, scale)| scales[r] = scale * weights.unit());
        }
    }

    /// The panel against the vectors `batch`, in strips of nearly equal width.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma")]
    fn multiply(
        &self,
        part: &Part<'_>,
        batch: Range<usize>,
        starts: &[[i32; SPAN]; BATCH],
        rows: Range<usize>,
        y: &mut Columns<'_>,
    ) {
        let mut done = 0;
        while done < batch.len() {
            let left = batch.len() - done;
            let (i, starts) = (batch.start + done, &starts[done..]);
            done += match left.div_ceil(left.div_ceil(STRIP)) {
                1 => self.strip::<1>(part, i, starts, &rows, y),
                2 => self.strip::<2>(part, i, starts, &rows, y),
                3 => self.strip::<3>(part, i, starts, &rows, y),
                4 => self.strip::<4>(part, i, starts, &rows, y),
                5 => self.strip::<5>(part, i, starts, &rows, y),
                6 => self.strip::<6>(part, i, starts, &rows, y),
                7 => self.strip::<7>(part, i, starts, &rows, y),
                _ => self.strip::<8>(part, i, starts, &rows, y),
            };
        }
    }

    /// The panel against vectors `i .. i + V`, put into `y` or added to it; returns V.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma")]
    fn strip<const V: usize>(
        &self,
        part: &Part<'_>,
        i: usize,
        starts: &[[i32; SPAN]],
        rows: &Range<usize>,
        y: &mut Columns<'_>,
    ) -> usize {
        let mut integers: [&[[i8; GROUP]]; V] = [&[]; V];
        let mut scales: [&[f32]; V] = [&[]; V];
        for v in 0..V {
            (integers[v], scales[v]) = (part.integers(i + v), part.scales(i + v));
        }
        let mut total = [_mm512_setzero_ps(); V];
        for (g, (weights, s)) in
            self.integers.iter().zip(&self.scales).take(part.groups).enumerate()
        {
            let mut sum = [_mm512_setzero_si512(); V];
            for v in 0..V {
                sum[v] = _mm512_set1_epi32(starts[v][g]);
            }
            for (k, q) in weights.iter().enumerate() {
                let q = lanes::load_words(q);
                for v in 0..V {
                    sum[v] = _mm512_dpbusd_epi32(
                        sum[v],
                        q,
                        lanes::broadcast(&integers[v][g].as_chunks::<4>().0[k]),
                    );
                }
            }
            let s = lanes::load(s);
            for v in 0..V {
                let scale = _mm512_mul_ps(s, _mm512_set1_ps(scales[v][g]));
                total[v] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[v]), scale, total[v]);
            }
        }
        let start = rows.start - y.range().start;
        for (v, &total) in total.iter().enumerate() {
            lanes::put(&mut y.row(i + v)[start..][..rows.len()], total, part.first > 0);
        }
        V
    }
}

/// 16 rows of 8 words to 8 registers with a word of every row, in order of rows.
#[inline]
#[target_feature(enable = "avx512f,avx2")]
pub(super) fn transpose(row: impl Fn(usize) -> __m256i) -> [__m512i; 8] {
    let pair = |a, b| _mm512_inserti64x4::<1>(_mm512_castsi256_si512(row(a)), row(b));
    // Word c of four rows in each quarter: of rows 0-3 word c, word c + 4, of rows 4-7 word c, word
    // c + 4.
    let quad = |first: usize| {
        let [a, b, c, d] = [
            pair(first, first + 4),
            pair(first + 1, first + 5),
            pair(first + 2, first + 6),
            pair(first + 3, first + 7),
        ];
        let (low_ab, low_cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
        let (high_ab, high_cd) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
        [
            _mm512_unpacklo_epi64(low_ab, low_cd),
            _mm512_unpackhi_epi64(low_ab, low_cd),
            _mm512_unpacklo_epi64(high_ab, high_cd),
            _mm512_unpackhi_epi64(high_ab, high_cd),
        ]
    };
    let ([u0, u1, u2, u3], [v0, v1, v2, v3]) = (quad(0), quad(8));
    let even = |u, v| _mm512_shuffle_i32x4::<0b10_00_10_00>(u, v);
    let odd = |u, v| _mm512_shuffle_i32x4::<0b11_01_11_01>(u, v);
    [
        even(u0, v0),
        even(u1, v1),
        even(u2, v2),
        even(u3, v3),
        odd(u0, v0),
        odd(u1, v1),
        odd(u2, v2),
        odd(u3, v3),
    ]
}
