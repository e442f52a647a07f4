//! `Precision::Fast` on AVX-512 VNNI: products of 16 rows, one in each lane.
//!
//! With the columns of one row in a register, every group of 64 would end in a conversion and a
//! scale after a single integer instruction. With 16 rows in the lanes, a register holds 4 columns
//! of 16 rows, a group is 16 integer instructions, and its end is shared by 16 rows: `sum[16 rows]
//! += q[16 rows, 4 columns] · p[4 columns]`, the four activations broadcast from memory.
//!
//! Up to eight vectors meet a group's weights while these are in registers, codes transposed and
//! looked up: [`direct`]. For more, `panel` keeps them packed. Either way a row's product with a
//! vector is a chain over each [`SPAN`] groups, of sums of integers, which are exact, and these are
//! added in order: it depends neither on the vectors beside it nor on how rows are split among
//! workers.

use core::arch::x86_64::*;
use core::ops::Range;

use super::lanes::{self, Rows};
use super::offset::{INT8_OFFSET, correct, offset};
use super::panel::{Panel, packed};
use super::scales;
use super::strip::{STRIP, Strip};
use crate::kernel::avx2::lanes::{load, load_codebook};
use crate::kernel::fast::{INTEGERS, UNIT, Weights};
use crate::kernel::walk::Part;
use crate::kernel::{GROUP, Quantized};
use crate::tensor::columns::Columns;

/// Rows of a register.
pub(super) const ROWS: usize = 16;

/// Groups that are one chain of sums, and a panel at most.
pub(super) const SPAN: usize = 12;

/// Groups of rows that are walked before the next ones: their scales are read together.
pub(super) const PART: usize = 2 * SPAN;

/// Vectors that pass over all rows of a part before the next part: their share of it, 64 · 24
/// groups · 64 bytes = 96 KB, stays in the second-level cache. A multiple of [`STRIP`].
const BATCH: usize = 64;

/// What sums of the groups of a part begin with.
pub(super) type Starts = [i32; PART];

/// A part of the weights and the vectors that meet it.
pub(super) struct Work<'a> {
    pub(super) decoder: Decoder,
    pub(super) weights: &'a Weights<'a>,
    pub(super) part: &'a Part<'a>,
    /// The vectors.
    pub(super) batch: Range<usize>,
    /// Of every vector.
    pub(super) starts: &'a [Starts],
}

/// Some rows, at most [`ROWS`], of those that y owns.
pub(super) struct Place {
    pub(super) rows: Range<usize>,
    /// Where they begin in y's rows.
    pub(super) start: usize,
}

/// The rows that `y` owns, sixteen at a time.
pub(super) fn places(y: &Columns<'_>) -> impl Iterator<Item = Place> + use<> {
    let all = y.range();
    all.clone()
        .step_by(ROWS)
        .map(move |row| Place { rows: row..all.end.min(row + ROWS), start: row - all.start })
}

/// The integers of NF4's codes, made unsigned.
#[derive(Clone, Copy)]
pub(super) struct Decoder {
    codebook: __m512i,
}

impl Decoder {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx2")]
    fn new() -> Self {
        let codebook = _mm512_broadcast_i32x4(load_codebook(&INTEGERS));
        Self { codebook: _mm512_add_epi8(codebook, _mm512_set1_epi8(UNIT)) }
    }

    /// The integers of the codes in the low four bits of bytes, or in the high ones.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn look_up(self, codes: __m512i, high: bool) -> __m512i {
        let codes = if high { _mm512_srli_epi16::<4>(codes) } else { codes };
        _mm512_shuffle_epi8(self.codebook, _mm512_and_si512(codes, _mm512_set1_epi8(15)))
    }
}

/// y = W x for the rows that `y` owns and all vectors.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn product(weights: &Weights<'_>, x: &Quantized<'_>, cols: usize, y: &mut Columns<'_>) {
    let (decoder, per_row) = (Decoder::new(), cols / GROUP);
    let mut starts = [[0; PART]; BATCH];
    for batch in (0..y.rows()).step_by(BATCH) {
        let batch = batch..y.rows().min(batch + BATCH);
        let starts = &mut starts[..batch.len()];
        for first in (0..per_row).step_by(PART) {
            let part = &Part { x: *x, per_row, first, groups: PART.min(per_row - first) };
            for (i, starts) in batch.clone().zip(&mut *starts) {
                correct(offset(weights), part.integers(i), starts);
            }
            let work = Work { decoder, weights, part, batch: batch.clone(), starts };
            match batch.len() {
                1 => direct::<1>(&work, y),
                2 => direct::<2>(&work, y),
                3 => direct::<3>(&work, y),
                4 => direct::<4>(&work, y),
                5 => direct::<5>(&work, y),
                6 => direct::<6>(&work, y),
                7 => direct::<7>(&work, y),
                STRIP => direct::<STRIP>(&work, y),
                _ => packed(&work, &mut Panel::new(), y),
            }
        }
    }
}

/// Multiplies weights with V vectors while they are in registers.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn direct<const V: usize>(work: &Work<'_>, y: &mut Columns<'_>) {
    let part = work.part;
    let strip = Strip::<V>::new(work, 0..part.groups, 0);
    let mut scales = Scales::new();
    for place in places(y) {
        scales.read(work, &place);
        match work.weights {
            Weights::Nf4(nf4) => {
                let rows = rows::<32>(nf4.codes, part, &place, 0..part.groups);
                for first in (0..part.groups).step_by(SPAN) {
                    let mut total = [_mm512_setzero_ps(); V];
                    for g in first..part.groups.min(first + SPAN) {
                        let block = rows.block(g);
                        let codes = transpose(|r| block.load(r, 0));
                        let q = |k: usize| work.decoder.look_up(codes[k % 8], k >= 8);
                        strip.group(g, &scales.groups[g], &mut total, q);
                    }
                    strip.put(&total, first, &place, y);
                }
            }
            Weights::Int8(int8) => {
                let values = bytemuck::cast_slice(int8.values);
                let rows = rows::<GROUP>(values, part, &place, 0..part.groups);
                let offset = _mm512_set1_epi8(INT8_OFFSET);
                for first in (0..part.groups).step_by(SPAN) {
                    let mut total = [_mm512_setzero_ps(); V];
                    for g in first..part.groups.min(first + SPAN) {
                        let block = rows.block(g);
                        let low = transpose(|r| block.load(r, 0));
                        let high = transpose(|r| block.load(r, GROUP / 2));
                        let q = |k: usize| if k < 8 { low[k % 8] } else { high[k % 8] };
                        let q = |k: usize| _mm512_xor_si512(q(k), offset);
                        strip.group(g, &scales.groups[g], &mut total, q);
                    }
                    strip.put(&total, first, &place, y);
                }
            }
        }
    }
}

/// Groups `groups` of `part`, of N bytes each, of some rows.
#[inline(always)]
pub(super) fn rows<'a, const N: usize>(
    all: &'a [u8],
    part: &Part<'_>,
    place: &Place,
    groups: Range<usize>,
) -> Rows<'a, N> {
    let first = place.rows.start * part.per_row + part.first + groups.start;
    Rows::new(all, first, part.per_row, place.rows.len(), groups.len())
}

/// The scales of 16 rows.
#[repr(align(64))]
pub(super) struct Scales {
    /// Group by group.
    pub(super) groups: [[f32; ROWS]; PART],
    /// Row by row, and room to read eight at a time.
    rows: [f32; ROWS * PART + 8],
}

impl Scales {
    pub(super) fn new() -> Self {
        Self { groups: [[0.0; ROWS]; PART], rows: [0.0; ROWS * PART + 8] }
    }

    /// Reads those of a part of some rows; in lanes behind the last row is anything.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,f16c")]
    pub(super) fn read(&mut self, work: &Work<'_>, place: &Place) {
        let Part { per_row, first, groups, .. } = *work.part;
        let first = place.rows.start * per_row + first;
        let rows = &mut self.rows[..place.rows.len() * groups];
        if groups == per_row {
            scales::times_unit(work.weights, first, rows);
        } else {
            for (r, row) in rows.chunks_mut(groups).enumerate() {
                scales::times_unit(work.weights, first + r * per_row, row);
            }
        }
        // One or two groups behind the eights are moved one by one.
        let eights = if groups % 8 > 2 { groups / 8 + 1 } else { groups / 8 };
        for (i, out) in self.groups.as_chunks_mut::<8>().0.iter_mut().enumerate().take(eights) {
            let columns = transpose(|r| {
                let eight = self.rows[r * groups + 8 * i..].first_chunk();
                eight.map_or(_mm256_setzero_si256(), |eight| _mm256_castps_si256(load(eight)))
            });
            for (out, column) in out.iter_mut().zip(columns) {
                lanes::store(out, _mm512_castsi512_ps(column));
            }
        }
        for g in 8 * eights..groups {
            for (r, scale) in self.groups[g].iter_mut().enumerate() {
                *scale = self.rows[r * groups + g];
            }
        }
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
