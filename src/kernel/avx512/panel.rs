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
use super::offset::{INT8_OFFSET, correct, offset};
use super::scales;
use crate::kernel::avx2::lanes::{load, load_codebook};
use crate::kernel::fast::{INTEGERS, UNIT, Weights};
use crate::kernel::walk::Part;
use crate::kernel::{GROUP, Quantized};
use crate::tensor::columns::Columns;

/// Rows of a panel.
const ROWS: usize = 16;

/// Groups of a panel at most: its integers, 12 KB, stay in the first-level cache.
const SPAN: usize = 12;

/// Groups of rows that are walked before the next ones: their scales are read together.
const PART: usize = 2 * SPAN;

/// Vectors that pass over all panels of a part before the next part: their share of it, 64 · 24
/// groups · 64 bytes = 96 KB, stays in the second-level cache. A multiple of [`STRIP`].
const BATCH: usize = 64;

/// Vectors at a time at most: eight integer and eight float sums leave registers for weights and
/// scales.
const STRIP: usize = 8;

/// Vectors up to which weights are not packed.
const FEW: usize = 4;

/// Packed weights of 16 rows: per group 16 registers of 4 columns each, and the scale of every row.
#[repr(align(64))]
struct Panel {
    integers: [[[i32; ROWS]; GROUP / 4]; SPAN],
    scales: [[f32; ROWS]; PART],
    /// The scales row by row, and room to read eight at a time.
    flat: [f32; ROWS * PART + 8],
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

    /// The integers of the low or the high four bits of each byte.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn half(self, codes: __m512i, half: usize) -> __m512i {
        self.look_up(if half == 0 { codes } else { _mm512_srli_epi16::<4>(codes) })
    }
}

/// y = W x for the rows that `y` owns and all vectors.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn product(weights: &Weights<'_>, x: &Quantized<'_>, cols: usize, y: &mut Columns<'_>) {
    let decoder = Decoder::new();
    let per_row = cols / GROUP;
    let mut panel = Panel {
        integers: [[[0; ROWS]; GROUP / 4]; SPAN],
        scales: [[0.0; ROWS]; PART],
        flat: [0.0; ROWS * PART + 8],
    };
    let mut starts = [[0; PART]; BATCH];
    for batch in (0..y.rows()).step_by(BATCH) {
        let batch = batch..y.rows().min(batch + BATCH);
        for first in (0..per_row).step_by(PART) {
            let part = Part { x: *x, per_row, first, groups: PART.min(per_row - first) };
            for (i, starts) in batch.clone().zip(&mut starts) {
                correct(offset(weights), part.integers(i), starts);
            }
            let starts = &starts[..batch.len()];
            match batch.len() {
                1 => direct::<1>(&decoder, weights, &part, batch.start, starts, &mut panel, y),
                2 => direct::<2>(&decoder, weights, &part, batch.start, starts, &mut panel, y),
                3 => direct::<3>(&decoder, weights, &part, batch.start, starts, &mut panel, y),
                4 => direct::<4>(&decoder, weights, &part, batch.start, starts, &mut panel, y),
                5 => direct::<5>(&decoder, weights, &part, batch.start, starts, &mut panel, y),
                6 => direct::<6>(&decoder, weights, &part, batch.start, starts, &mut panel, y),
                7 => direct::<7>(&decoder, weights, &part, batch.start, starts, &mut panel, y),
                8 => direct::<8>(&decoder, weights, &part, batch.start, starts, &mut panel, y),
                _ => packed(&decoder, weights, &part, batch.clone(), starts, &mut panel, y),
            }
        }
    }
}

/// The rows of a panel, and of those that y owns.
struct Place {
    rows: Range<usize>,
    /// Where they begin in y's rows.
    start: usize,
}

/// The rows that `y` owns, sixteen at a time.
fn places(y: &Columns<'_>) -> impl Iterator<Item = Place> + use<> {
    let all = y.range();
    all.clone().step_by(ROWS).map(move |row| Place {
        rows: row..all.end.min(row + ROWS),
        start: row - all.start,
    })
}

/// Packs panels and multiplies them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn packed(
    decoder: &Decoder,
    weights: &Weights<'_>,
    part: &Part<'_>,
    batch: Range<usize>,
    starts: &[[i32; PART]],
    panel: &mut Panel,
    y: &mut Columns<'_>,
) {
    for place in places(y) {
        panel.expand(weights, &place.rows, part);
        for first in (0..part.groups).step_by(SPAN) {
            let groups = first..part.groups.min(first + SPAN);
            panel.pack(decoder, weights, &place.rows, part, &groups);
            let mut done = 0;
            while done < batch.len() {
                let left = batch.len() - done;
                let (i, starts) = (batch.start + done, &starts[done..]);
                let groups = groups.clone();
                done += match left.div_ceil(left.div_ceil(STRIP)) {
                    1 => panel.strip(&Strip::<1>::new(part, groups, i, starts), &place, y),
                    2 => panel.strip(&Strip::<2>::new(part, groups, i, starts), &place, y),
                    3 => panel.strip(&Strip::<3>::new(part, groups, i, starts), &place, y),
                    4 => panel.strip(&Strip::<4>::new(part, groups, i, starts), &place, y),
                    5 => panel.strip(&Strip::<5>::new(part, groups, i, starts), &place, y),
                    6 => panel.strip(&Strip::<6>::new(part, groups, i, starts), &place, y),
                    7 => panel.strip(&Strip::<7>::new(part, groups, i, starts), &place, y),
                    _ => panel.strip(&Strip::<8>::new(part, groups, i, starts), &place, y),
                };
            }
        }
    }
}

/// Multiplies weights with V vectors, from `i` on, while they are in registers.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn direct<const V: usize>(
    decoder: &Decoder,
    weights: &Weights<'_>,
    part: &Part<'_>,
    i: usize,
    starts: &[[i32; PART]],
    panel: &mut Panel,
    y: &mut Columns<'_>,
) {
    let strip = Strip::<V>::new(part, 0..part.groups, i, starts);
    for place in places(y) {
        panel.expand(weights, &place.rows, part);
        let mut total = strip.totals(&place, y);
        let (first, count) = (part.group(place.rows.start), place.rows.len());
        match weights {
            Weights::Nf4(nf4) => {
                let all = lanes::Rows::<32>::new(nf4.codes, first, part.per_row, count, part.groups);
                for (g, s) in panel.scales[..part.groups].iter().enumerate() {
                    let codes = {
                        let codes = all.block(g);
                        all.prefetch(g);
                        transpose(|r| codes.load(r, 0))
                    };
                    strip.group(g, s, &mut total, |k| decoder.half(codes[k % 8], k / 8));
                }
            }
            Weights::Int8(int8) => {
                let values = bytemuck::cast_slice(int8.values);
                let all = lanes::Rows::<64>::new(values, first, part.per_row, count, part.groups);
                let offset = _mm512_set1_epi8(INT8_OFFSET);
                for (g, s) in panel.scales[..part.groups].iter().enumerate() {
                    let values = all.block(g);
                    all.prefetch(g);
                    let low = transpose(|r| values.load(r, 0));
                    let high = transpose(|r| values.load(r, 32));
                    strip.group(g, s, &mut total, |k| {
                        _mm512_xor_si512(if k < 8 { low[k % 8] } else { high[k % 8] }, offset)
                    });
                }
            }
        }
        strip.put(&total, &place, y);
    }
}

impl Panel {
    /// Packs groups `groups` of `part` of rows `rows`; fewer than 16 rows leave the last one in the
    /// other lanes.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,f16c")]
    fn pack(
        &mut self,
        decoder: &Decoder,
        weights: &Weights<'_>,
        rows: &Range<usize>,
        part: &Part<'_>,
        groups: &Range<usize>,
    ) {
        let (first, count) = (part.group(rows.start) + groups.start, rows.len());
        let panel = &mut self.integers[..groups.len()];
        match weights {
            Weights::Nf4(nf4) => {
                let all =
                    lanes::Rows::<32>::new(nf4.codes, first, part.per_row, count, panel.len());
                for (g, out) in panel.iter_mut().enumerate() {
                    let block = all.block(g);
                    all.prefetch(g);
                    let columns = transpose(|r| block.load(r, 0));
                    for (c, codes) in columns.into_iter().enumerate() {
                        lanes::store_words(&mut out[c], decoder.look_up(codes));
                        let high = _mm512_srli_epi16::<4>(codes);
                        lanes::store_words(&mut out[8 + c], decoder.look_up(high));
                    }
                }
            }
            Weights::Int8(int8) => {
                let values = bytemuck::cast_slice(int8.values);
                let all = lanes::Rows::<64>::new(values, first, part.per_row, count, panel.len());
                for (g, out) in panel.iter_mut().enumerate() {
                    let block = all.block(g);
                    all.prefetch(g);
                    for half in 0..2 {
                        let columns = transpose(|r| block.load(r, 32 * half));
                        for (c, q) in columns.into_iter().enumerate() {
                            let q = _mm512_xor_si512(q, _mm512_set1_epi8(INT8_OFFSET));
                            lanes::store_words(&mut out[8 * half + c], q);
                        }
                    }
                }
            }
        }
    }

    /// The scales of the groups of `part` of rows `rows`, which change places with the rows.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,f16c")]
    fn expand(&mut self, weights: &Weights<'_>, rows: &Range<usize>, part: &Part<'_>) {
        let (groups, first) = (part.groups, rows.start * part.per_row + part.first);
        let flat = &mut self.flat[..rows.len() * groups];
        if groups == part.per_row {
            scales::scaled(weights, first, flat);
        } else {
            for (r, flat) in flat.chunks_mut(groups).enumerate() {
                scales::scaled(weights, first + r * part.per_row, flat);
            }
        }
        let (eights, rest) = (groups / 8, groups % 8);
        // Few are moved one by one.
        let turns = if rest > 2 { eights + 1 } else { eights };
        for (i, scales) in self.scales.as_chunks_mut::<8>().0.iter_mut().enumerate().take(turns) {
            let columns = transpose(|r| {
                let eight = self.flat[r * groups + 8 * i..].first_chunk();
                eight.map_or(_mm256_setzero_si256(), |eight| _mm256_castps_si256(load(eight)))
            });
            for (scales, column) in scales.iter_mut().zip(columns) {
                lanes::store(scales, _mm512_castsi512_ps(column));
            }
        }
        for g in 8 * turns..groups {
            for (r, scale) in self.scales[g].iter_mut().enumerate() {
                *scale = self.flat[r * groups + g];
            }
        }
    }

    /// The panel against the vectors of `strip`; returns how many they are.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma")]
    fn strip<const V: usize>(
        &self,
        strip: &Strip<'_, V>,
        place: &Place,
        y: &mut Columns<'_>,
    ) -> usize {
        let mut total = strip.totals(place, y);
        let groups = self.integers.iter().zip(&self.scales[strip.first..]).take(strip.len);
        for (g, (weights, s)) in groups.enumerate() {
            strip.group(g, s, &mut total, |k| lanes::load_words(&weights[k]));
        }
        strip.put(&total, place, y);
        V
    }
}

/// Some groups of V vectors.
struct Strip<'a, const V: usize> {
    /// The number of the first vector.
    i: usize,
    /// The first group, counted in its part.
    first: usize,
    len: usize,
    /// Are these the first groups of a row?
    new: bool,
    integers: [&'a [[i8; GROUP]]; V],
    scales: [&'a [f32]; V],
    starts: [&'a [i32]; V],
}

impl<'a, const V: usize> Strip<'a, V> {
    /// Groups `groups` of `part` of vectors `i ..`, whose sums begin with `starts`.
    #[inline]
    fn new(part: &Part<'a>, groups: Range<usize>, i: usize, starts: &'a [[i32; PART]]) -> Self {
        let mut strip = Self {
            i,
            first: groups.start,
            len: groups.len(),
            new: part.first + groups.start == 0,
            integers: [&[]; V],
            scales: [&[]; V],
            starts: [&[]; V],
        };
        for v in 0..V {
            strip.integers[v] = &part.integers(i + v)[groups.clone()];
            strip.scales[v] = &part.scales(i + v)[groups.clone()];
            strip.starts[v] = &starts[v][groups.clone()];
        }
        strip
    }

    /// The sums so far.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn totals(&self, place: &Place, y: &mut Columns<'_>) -> [__m512; V] {
        let mut total = [_mm512_setzero_ps(); V];
        if !self.new {
            for (v, total) in total.iter_mut().enumerate() {
                let y = &y.row(self.i + v)[place.start..][..place.rows.len()];
                *total = lanes::load_some(y);
            }
        }
        total
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn put(&self, total: &[__m512; V], place: &Place, y: &mut Columns<'_>) {
        for (v, &total) in total.iter().enumerate() {
            let y = &mut y.row(self.i + v)[place.start..][..place.rows.len()];
            lanes::put(y, total, false);
        }
    }

    /// What the sums of group `g` begin with.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn starts(&self, g: usize) -> [__m512i; V] {
        let mut sum = [_mm512_setzero_si512(); V];
        for v in 0..V {
            sum[v] = _mm512_set1_epi32(self.starts[v][g]);
        }
        sum
    }

    /// Adds group `g` of weights `q(0) .. q(15)`, each read once.
    #[inline]
    #[target_feature(enable = "avx512f,avx512vnni,fma")]
    fn group(
        &self,
        g: usize,
        scales: &[f32; ROWS],
        total: &mut [__m512; V],
        q: impl Fn(usize) -> __m512i,
    ) {
        let (mut sum, mut other) = (self.starts(g), [_mm512_setzero_si512(); V]);
        let mut p = [&[0; GROUP]; V];
        for v in 0..V {
            p[v] = &self.integers[v][g];
        }
        macro_rules! steps {
            ($($k:literal)*) => {$(
                let (low, high) = (q($k), q(8 + $k));
                for v in 0..V {
                    sum[v] = lanes::dot::<{ 4 * $k }>(sum[v], low, p[v]);
                }
                for v in 0..V {
                    // Few sums would wait for themselves.
                    if V <= FEW {
                        other[v] = lanes::dot::<{ 32 + 4 * $k }>(other[v], high, p[v]);
                    } else {
                        sum[v] = lanes::dot::<{ 32 + 4 * $k }>(sum[v], high, p[v]);
                    }
                }
            )*};
        }
        steps!(0 1 2 3 4 5 6 7);
        if V <= FEW {
            for v in 0..V {
                sum[v] = _mm512_add_epi32(sum[v], other[v]);
            }
        }
        self.add(g, scales, sum, total);
    }

    /// Adds the sums of group `g`, times the scales.
    #[inline]
    #[target_feature(enable = "avx512f,fma")]
    fn add(
        &self,
        g: usize,
        scales: &[f32; ROWS],
        sum: [__m512i; V],
        total: &mut [__m512; V],
    ) {
        let s = lanes::load(scales);
        for v in 0..V {
            let scale = _mm512_mul_ps(s, _mm512_set1_ps(self.scales[v][g]));
            total[v] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[v]), scale, total[v]);
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
