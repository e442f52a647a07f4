//! Matrix times several vectors on AVX-512, exactly: a panel of weights is dequantized once, column
//! by column, for all vectors.
//!
//! `y[i, r] = Σ_c W[r, c] · x[i, c]`. With the columns of one row in a register, every sum would
//! end in adding up sixteen lanes, a tenth of the work on rows of a few hundred weights. With
//! sixteen rows in the lanes nothing is left to add up: a panel is 64 rows by at most [`COLS`]
//! columns, and 64 rows by six vectors are 24 sums in registers, fed by four loads and six
//! broadcasts a column.
//!
//! A sum is one chain over the columns of a part of a row, and the parts are added up in order.
//! They depend on the row's length alone: results depend neither on what is computed beside them
//! nor on how rows are split among lanes.

use core::arch::x86_64::*;
use core::ops::Range;

use super::fast::transpose;
use super::lanes::Rows;
use super::scales::nf4 as expand;
use super::{exact, lanes};
use crate::kernel::avx2::int8::expand_scales;
use crate::kernel::avx2::lanes as narrow;
use crate::kernel::avx2::tile::{self, fill};
use crate::kernel::form::Form;
use crate::kernel::scales::{self, NF4_GROUP};
use crate::kernel::walk::Tiles;
use crate::kernel::{GROUP, Input};
use crate::quant::{Int8, Matrix, Nf4, nf4::CODEBOOK};
use crate::tensor::columns::Columns;

/// Rows in the lanes of a register.
const LANES: usize = 16;

/// Registers of a panel's column.
const WIDE: usize = 4;

/// Columns of a panel at most: its 32 KB stay in the first-level cache.
const COLS: usize = 128;

/// Vectors that pass over all panels of a column range before the next range: their part of it, 510
/// · 128 · 4 = 261 KB, stays in a second-level cache of 512 KB or more. A multiple of [`STRIP`].
const BATCH: usize = 510;

/// Vectors at a time at most.
const STRIP: usize = 6;

/// Groups of a row whose scales are expanded together.
const SPAN: usize = 32;

/// Dequantized weights: the rows of every column.
#[repr(align(64))]
struct Panel([[[f32; LANES]; WIDE]; COLS]);

/// y = W x for the rows that `y` owns and all vectors.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
pub(super) fn product(weights: &Matrix<'_>, input: &Input<'_>, y: &mut Columns<'_>) {
    let mut panel = Panel([[[0.0; LANES]; WIDE]; COLS]);
    Tiles { rows: WIDE * LANES, cols: COLS, batch: BATCH }.walk(
        input,
        y.range(),
        |batch, cols, rows| {
            panel.pack(weights, &rows, &cols);
            panel.multiply(&rows, &cols, input, batch, y);
        },
    );
}

/// The dequantized weights of a row.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
pub(super) fn read_row(weights: &Matrix<'_>, row: usize, out: &mut [f32]) {
    let nf4 = match Form::of(weights) {
        Form::Nf4(nf4) => nf4,
        _ => return tile::read_row(weights, row, out),
    };
    let codebook = lanes::load(&CODEBOOK);
    let first = row * weights.cols() / NF4_GROUP;
    let mut scale = [0.0; SPAN];
    for (part, out) in out.as_chunks_mut::<NF4_GROUP>().0.chunks_mut(SPAN).enumerate() {
        let first = first + part * SPAN;
        let scale = &mut scale[..out.len()];
        expand(&nf4, first, scale);
        for ((out, codes), &scale) in
            out.iter_mut().zip(&nf4.codes.as_chunks().0[first..]).zip(&*scale)
        {
            for (out, w) in
                out.as_chunks_mut::<LANES>().0.iter_mut().zip(exact::decode(codebook, codes))
            {
                lanes::store(out, _mm512_mul_ps(w, _mm512_set1_ps(scale)));
            }
        }
    }
}

impl Panel {
    /// Dequantizes columns `cols` of rows `rows`; what is in lanes behind the last row is anything.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    fn pack(&mut self, weights: &Matrix<'_>, rows: &Range<usize>, cols: &Range<usize>) {
        for (k, first) in rows.clone().step_by(LANES).enumerate() {
            let rows = first..rows.end.min(first + LANES);
            match Form::of(weights) {
                Form::Nf4(nf4) => self.pack_nf4(k, &nf4, weights.cols(), rows, cols),
                Form::Int8(int8) => {
                    self.pack_int8(k, &int8, weights.cols(), rows, cols);
                }
                _ => self.pack_floats(k, weights, rows, cols),
            }
        }
    }

    /// Codes change places four columns at a time, before they are looked up.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    fn pack_nf4(
        &mut self,
        k: usize,
        nf4: &Nf4<'_>,
        per_row: usize,
        rows: Range<usize>,
        cols: &Range<usize>,
    ) {
        let codebook = lanes::load(&CODEBOOK);
        let first =
            |r: usize| ((rows.start + r).min(rows.end - 1) * per_row + cols.start) / NF4_GROUP;
        let groups = cols.len() / NF4_GROUP;
        let codes = Rows::<32>::new(nf4.codes, first(0), per_row / NF4_GROUP, rows.len(), groups);
        let mut scale = [[0.0; LANES]; COLS / NF4_GROUP];
        for r in 0..rows.len() {
            let mut one = [0.0; COLS / NF4_GROUP];
            scales::nf4(nf4, first(r), &mut one[..groups]);
            scale.iter_mut().zip(one).for_each(|(scale, one)| scale[r] = one);
        }
        for (g, (columns, scale)) in
            self.0.as_chunks_mut::<NF4_GROUP>().0.iter_mut().zip(&scale).take(groups).enumerate()
        {
            let (scale, block) = (lanes::load(scale), codes.block(g));
            let weight = |codes| _mm512_mul_ps(_mm512_permutexvar_ps(codes, codebook), scale);
            let (low, high) = columns.split_at_mut(NF4_GROUP / 2);
            let fours = low.as_chunks_mut::<4>().0.iter_mut().zip(high.as_chunks_mut::<4>().0);
            for ((low, high), b0) in fours.zip(transpose(|r| block.load(r, 0))) {
                // The permute reads four bits of each word.
                let bytes = [
                    b0,
                    _mm512_srli_epi32::<8>(b0),
                    _mm512_srli_epi32::<16>(b0),
                    _mm512_srli_epi32::<24>(b0),
                ];
                for ((low, high), byte) in low.iter_mut().zip(high).zip(bytes) {
                    lanes::store(&mut low[k], weight(byte));
                    lanes::store(&mut high[k], weight(_mm512_srli_epi32::<4>(byte)));
                }
            }
        }
    }

    /// Integers change places four columns at a time, before they are floats.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    fn pack_int8(
        &mut self,
        k: usize,
        int8: &Int8<'_>,
        per_row: usize,
        rows: Range<usize>,
        cols: &Range<usize>,
    ) {
        let values = bytemuck::cast_slice(int8.values);
        let first = |r: usize| ((rows.start + r).min(rows.end - 1) * per_row + cols.start) / GROUP;
        let groups = cols.len() / GROUP;
        let integers = Rows::<GROUP>::new(values, first(0), per_row / GROUP, rows.len(), groups);
        let mut scale = [[0.0; LANES]; COLS / GROUP];
        for r in 0..rows.len() {
            let mut one = [0.0; COLS / GROUP];
            expand_scales::<GROUP>(int8, first(r), &mut one[..groups]);
            scale.iter_mut().zip(one).for_each(|(scale, one)| scale[r] = one);
        }
        for (g, (columns, scale)) in
            self.0.as_chunks_mut::<GROUP>().0.iter_mut().zip(&scale).take(groups).enumerate()
        {
            let (scale, block) = (lanes::load(scale), integers.block(g));
            let weight =
                |high| _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_srai_epi32::<24>(high)), scale);
            for (half, columns) in columns.as_chunks_mut::<{ GROUP / 2 }>().0.iter_mut().enumerate()
            {
                let words = transpose(|r| block.load(r, GROUP / 2 * half));
                for (columns, b3) in columns.as_chunks_mut::<4>().0.iter_mut().zip(words) {
                    let bytes = [
                        _mm512_slli_epi32::<24>(b3),
                        _mm512_slli_epi32::<16>(b3),
                        _mm512_slli_epi32::<8>(b3),
                        b3,
                    ];
                    columns
                        .iter_mut()
                        .zip(bytes)
                        .for_each(|(column, byte)| lanes::store(&mut column[k], weight(byte)));
                }
            }
        }
    }

    /// Rows are dequantized, then change places with columns.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    fn pack_floats(
        &mut self,
        k: usize,
        weights: &Matrix<'_>,
        rows: Range<usize>,
        cols: &Range<usize>,
    ) {
        let mut plain = [[0.0; COLS]; LANES];
        for (row, out) in rows.zip(&mut plain) {
            fill(weights, row, cols.start, &mut out[..cols.len()]);
        }
        for (i, columns) in
            self.0.as_chunks_mut::<8>().0.iter_mut().take(cols.len().div_ceil(8)).enumerate()
        {
            let words =
                transpose(|r| _mm256_castps_si256(narrow::load(&plain[r].as_chunks().0[i])));
            columns.iter_mut().zip(words).for_each(|(column, words)| {
                lanes::store(&mut column[k], _mm512_castsi512_ps(words))
            });
        }
    }

    /// The panel against the vectors `batch`, in strips of nearly equal width.
    #[target_feature(enable = "avx512f,avx2")]
    fn multiply(
        &self,
        rows: &Range<usize>,
        cols: &Range<usize>,
        input: &Input<'_>,
        batch: Range<usize>,
        y: &mut Columns<'_>,
    ) {
        let mut i = batch.start;
        while i < batch.end {
            let left = batch.end - i;
            i += match left.div_ceil(left.div_ceil(STRIP)) {
                1 => self.strip::<1>(rows, cols, input, i, y),
                2 => self.strip::<2>(rows, cols, input, i, y),
                3 => self.strip::<3>(rows, cols, input, i, y),
                4 => self.strip::<4>(rows, cols, input, i, y),
                5 => self.strip::<5>(rows, cols, input, i, y),
                _ => self.strip::<STRIP>(rows, cols, input, i, y),
            };
        }
    }

    /// The panel against vectors `i .. i + V`; returns V.
    #[inline]
    #[target_feature(enable = "avx512f,avx2")]
    fn strip<const V: usize>(
        &self,
        rows: &Range<usize>,
        cols: &Range<usize>,
        input: &Input<'_>,
        i: usize,
        y: &mut Columns<'_>,
    ) -> usize {
        match rows.len().div_ceil(LANES) {
            1 => self.sums::<V, 1>(rows, cols, input, i, y),
            2 => self.sums::<V, 2>(rows, cols, input, i, y),
            _ => self.sums::<V, WIDE>(rows, cols, input, i, y),
        }
        V
    }

    /// The first K registers of the panel's columns against vectors `i .. i + V`, put into `y` or
    /// added to it.
    #[inline]
    #[target_feature(enable = "avx512f,avx2")]
    fn sums<const V: usize, const K: usize>(
        &self,
        rows: &Range<usize>,
        cols: &Range<usize>,
        input: &Input<'_>,
        i: usize,
        y: &mut Columns<'_>,
    ) {
        let columns = &self.0[..cols.len()];
        let mut x: [&[f32]; V] = [&[]; V];
        x.iter_mut()
            .enumerate()
            .for_each(|(v, x)| *x = &input.vector(i + v)[cols.clone()][..columns.len()]);
        let mut sums = [[_mm512_setzero_ps(); K]; V];
        for (c, column) in columns.iter().enumerate() {
            let mut w = [_mm512_setzero_ps(); K];
            w.iter_mut().zip(column).for_each(|(w, column)| *w = lanes::load(column));
            for (sums, x) in sums.iter_mut().zip(&x) {
                let x = _mm512_set1_ps(x[c]);
                sums.iter_mut().zip(&w).for_each(|(sum, &w)| *sum = _mm512_fmadd_ps(w, x, *sum));
            }
        }
        let start = rows.start - y.range().start;
        for (v, sums) in sums.iter().enumerate() {
            let out = &mut y.row(i + v)[start..][..rows.len()];
            out.chunks_mut(LANES)
                .zip(sums)
                .for_each(|(out, &sum)| lanes::put(out, sum, cols.start > 0));
        }
    }
}
