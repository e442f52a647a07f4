//! Matrix times several vectors on AVX2: a tile of weights is dequantized once and multiplied with
//! every vector.
//!
//! `y[i, r] = Σ_c W[r, c] · x[i, c]`: loop over tiles of [`ROWS`] rows and at most [`COLS`]
//! columns; within a tile over three vectors at a time, then over four rows at a time. Four rows by
//! three vectors are twelve sums in registers, fed by seven loads per eight columns, so the two
//! multiply-add units are the limit. A tile fits the first-level cache beside three vectors.
//!
//! This is also the path of every matrix that the special loops do not know (odd row lengths, other
//! layouts).

use core::arch::x86_64::*;
use core::ops::Range;

use super::int8::expand_scales;
use super::lanes::{load, load_some, store, sums, widen_all, widen_i8};
use super::nf4::Decoder;
use crate::kernel::Input;
use crate::kernel::form::Form;
use crate::kernel::scales::{self, INT8_GROUP, NF4_GROUP};
use crate::kernel::walk::Tiles;
use crate::quant::{Int8, Matrix, Nf4};
use crate::tensor::columns::Columns;

/// Rows of a tile.
const ROWS: usize = 8;

/// Columns of a tile at most; a multiple of the 64 that every special loop wants.
const COLS: usize = 768;

/// Vectors that pass over all tiles of a column range before the next range: their part of it, 66 ·
/// 768 · 4 = 203 KB, stays in a second-level cache of 256 KB. A multiple of the three at a time.
const BATCH: usize = 66;

/// y = W x for the rows that `y` owns and all vectors.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn product(weights: &Matrix<'_>, input: &Input<'_>, y: &mut Columns<'_>) {
    let mut tile = [[0.0; COLS]; ROWS];
    Tiles { rows: ROWS, cols: COLS, batch: BATCH }.walk(input, y.range(), |batch, cols, rows| {
        for (row, out) in rows.clone().zip(&mut tile) {
            fill(weights, row, cols.start, &mut out[..cols.len()]);
        }
        multiply(&tile, &rows, &cols, input, batch, y);
    });
}

/// The dequantized weights of a row.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::kernel) fn read_row(weights: &Matrix<'_>, row: usize, out: &mut [f32]) {
    out.chunks_mut(COLS).enumerate().for_each(|(i, out)| fill(weights, row, i * COLS, out));
}

/// The dequantized weights `first ..` of a row, at most [`COLS`]; `first` is a multiple of 64.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::kernel) fn fill(weights: &Matrix<'_>, row: usize, first: usize, out: &mut [f32]) {
    let at = row * weights.cols() + first;
    match Form::of(weights) {
        Form::F16(values) => widen_all(&values[at..][..out.len()], out),
        Form::Int8(int8) => fill_int8::<64>(&int8, at, out),
        Form::Int8Half(int8) => fill_int8::<INT8_GROUP>(&int8, at, out),
        Form::Nf4(nf4) => fill_nf4(&nf4, at, out),
        _ => weights.read(row, first, out),
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn fill_int8<const G: usize>(int8: &Int8<'_>, at: usize, out: &mut [f32]) {
    let mut scale = [0.0; COLS / INT8_GROUP];
    let scale = &mut scale[..out.len() / G];
    expand_scales::<G>(int8, at / G, scale);
    let groups = int8.values[at..].as_chunks::<G>().0;
    for ((out, group), &scale) in out.as_chunks_mut::<G>().0.iter_mut().zip(groups).zip(&*scale) {
        let scale = _mm256_set1_ps(scale);
        for (out, values) in out.as_chunks_mut::<8>().0.iter_mut().zip(group.as_chunks::<8>().0) {
            store(out, _mm256_mul_ps(widen_i8(values), scale));
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn fill_nf4(nf4: &Nf4<'_>, at: usize, out: &mut [f32]) {
    let decoder = Decoder::new();
    let mut scale = [0.0; COLS / NF4_GROUP];
    let scale = &mut scale[..out.len() / NF4_GROUP];
    scales::nf4(nf4, at / NF4_GROUP, scale);
    let groups = &nf4.codes.as_chunks::<32>().0[at / NF4_GROUP..];
    for ((out, group), &scale) in
        out.as_chunks_mut::<NF4_GROUP>().0.iter_mut().zip(groups).zip(&*scale)
    {
        let scale = _mm256_set1_ps(scale);
        for (out, w) in out.as_chunks_mut::<8>().0.iter_mut().zip(decoder.decode(group)) {
            store(out, _mm256_mul_ps(w, scale));
        }
    }
}

/// Adds the tile's share to rows `rows` of the vectors `batch`; the share of column 0 replaces what
/// was there.
#[target_feature(enable = "avx2,fma")]
fn multiply(
    tile: &[[f32; COLS]; ROWS],
    rows: &Range<usize>,
    cols: &Range<usize>,
    input: &Input<'_>,
    batch: Range<usize>,
    y: &mut Columns<'_>,
) {
    let mut i = batch.start;
    while i < batch.end {
        i += match batch.end - i {
            1 => strip::<1>(tile, i, rows, cols, input, y),
            2 => strip::<2>(tile, i, rows, cols, input, y),
            _ => strip::<3>(tile, i, rows, cols, input, y),
        };
    }
}

/// The tile against vectors `i .. i + V`; returns V.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn strip<const V: usize>(
    tile: &[[f32; COLS]; ROWS],
    i: usize,
    rows: &Range<usize>,
    cols: &Range<usize>,
    input: &Input<'_>,
    y: &mut Columns<'_>,
) -> usize {
    let mut x: [&[f32]; V] = [&[]; V];
    x.iter_mut().enumerate().for_each(|(v, x)| *x = &input.vector(i + v)[cols.clone()]);
    for r in (0..rows.len()).step_by(4) {
        let count = (rows.len() - r).min(4);
        let shares = if count == 4 {
            dots::<4, V>([&tile[r], &tile[r + 1], &tile[r + 2], &tile[r + 3]], x, cols.len())
        } else {
            let mut shares = [[0.0; 4]; V];
            for k in 0..count {
                let one = dots::<1, V>([&tile[r + k]], x, cols.len());
                (0..V).for_each(|v| shares[v][k] = one[v][0]);
            }
            shares
        };
        for (v, shares) in shares.iter().enumerate() {
            let start = rows.start + r - y.range().start;
            let out = &mut y.row(i + v)[start..start + count];
            for (out, &share) in out.iter_mut().zip(shares) {
                *out = if cols.start == 0 { share } else { *out + share };
            }
        }
    }
    V
}

/// The dot products of R rows (at most four) with V vectors of `n` numbers, as `[V][row]`.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn dots<const R: usize, const V: usize>(
    w: [&[f32; COLS]; R],
    x: [&[f32]; V],
    n: usize,
) -> [[f32; 4]; V] {
    let mut acc = [[_mm256_setzero_ps(); 4]; V];
    let whole = n / 8;
    let mut w8: [&[[f32; 8]]; R] = [&[]; R];
    let mut x8: [&[[f32; 8]]; V] = [&[]; V];
    for r in 0..R {
        w8[r] = &w[r].as_chunks::<8>().0[..whole];
    }
    for v in 0..V {
        x8[v] = &x[v].as_chunks::<8>().0[..whole];
    }
    for j in 0..whole {
        for r in 0..R {
            let w = load(&w8[r][j]);
            for v in 0..V {
                acc[v][r] = _mm256_fmadd_ps(w, load(&x8[v][j]), acc[v][r]);
            }
        }
    }
    if !n.is_multiple_of(8) {
        for r in 0..R {
            let w = load_some(&w[r][8 * whole..n]);
            for v in 0..V {
                acc[v][r] = _mm256_fmadd_ps(w, load_some(&x[v][8 * whole..n]), acc[v][r]);
            }
        }
    }
    let mut out = [[0.0; 4]; V];
    for v in 0..V {
        out[v] = sums(acc[v]);
    }
    out
}
