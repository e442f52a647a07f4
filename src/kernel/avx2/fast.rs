//! `Precision::Fast` on AVX2: integer dot products of 64, and rounding activations to integers.
//!
//! `_mm256_maddubs_epi16` multiplies unsigned by signed bytes and adds pairs: q · p = |p| ·
//! (sign(p) · q), and 2 · 127 · 127 fits 16 bits, so nothing saturates. Pairs are widened to 32
//! bits by a multiplication with ones; one conversion and one multiply-add with the group's scale
//! end a group.

use core::arch::x86_64::*;

use super::int8;
use super::lanes::{self, load, load_bytes};
use crate::kernel::fast::{self, INTEGERS, Weights};
use crate::kernel::{GROUP, Quantized};
use crate::kernel::{scales, walk};
use crate::tensor::columns::Columns;

/// y = W x for the rows that `y` owns, vector after vector.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn product(weights: &Weights<'_>, x: &Quantized<'_>, cols: usize, y: &mut Columns<'_>) {
    let (groups, start) = (cols / GROUP, y.range().start);
    let nibble = _mm256_set1_epi8(15);
    let codebook = _mm256_broadcastsi128_si256(lanes::load_codebook(&INTEGERS));
    let look_up = |codes: &[u8; 32]| {
        let codes = load_bytes(codes);
        let (low, high) = (
            _mm256_and_si256(codes, nibble),
            _mm256_and_si256(_mm256_srli_epi16::<4>(codes), nibble),
        );
        [_mm256_shuffle_epi8(codebook, low), _mm256_shuffle_epi8(codebook, high)]
    };
    for i in 0..y.rows() {
        let x = Vector {
            integers: &x.values.as_chunks().0[i * groups..][..groups],
            scales: &x.scales[i * groups..][..groups],
        };
        match weights {
            Weights::Nf4(nf4) => {
                vector(weights, nf4.codes.as_chunks().0, look_up, &x, start, y.row(i))
            }
            Weights::Int8(int8) => vector(
                weights,
                int8.values.as_chunks().0,
                |q| lanes::load_integers(q),
                &x,
                start,
                y.row(i),
            ),
        }
    }
}

/// One vector of activations.
struct Vector<'a> {
    integers: &'a [[i8; GROUP]],
    scales: &'a [f32],
}

/// The products of rows `start ..` with one vector; `groups` holds what `decode` turns into the 64
/// integers of a group.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn vector<T>(
    weights: &Weights<'_>,
    groups: &[T],
    decode: impl Fn(&T) -> [__m256i; 2],
    x: &Vector<'_>,
    start: usize,
    y: &mut [f32],
) {
    let unit = _mm256_set1_ps(weights.unit());
    let expand = |first, out: &mut [f32]| expand_scales(weights, first, out);
    let per_row = x.scales.len();
    for part in walk::parts(per_row, walk::SPAN) {
        let integers = &x.integers[part.clone()];
        let ts = &x.scales[part.clone()][..integers.len()];
        let row = |groups: &[T], scales: &[f32]| {
            let len = integers.len();
            let (groups, scales) = (&groups[..len], &scales[..len]);
            let [even, odd] = walk::two_chains(len, _mm256_setzero_ps(), |total, g| {
                let sum = _mm256_cvtepi32_ps(group_dot(
                    decode(&groups[g]),
                    lanes::load_integers(&integers[g]),
                ));
                _mm256_fmadd_ps(
                    _mm256_mul_ps(sum, _mm256_set1_ps(ts[g])),
                    _mm256_set1_ps(scales[g]),
                    total,
                )
            });
            _mm256_mul_ps(_mm256_add_ps(even, odd), unit)
        };
        walk::Groups { all: groups, per_row, part }.rows(start, y, expand, row, |v| lanes::sums(v));
    }
}

/// The scale of groups `first ..`, as [`Weights::scales`] has it, f16 converted by the hardware.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(in crate::kernel) fn expand_scales(weights: &Weights<'_>, first: usize, out: &mut [f32]) {
    match weights {
        Weights::Int8(int8) => int8::expand_scales::<GROUP>(int8, first, out),
        Weights::Nf4(nf4) => scales::nf4(nf4, first, out),
    }
}

/// The lanewise sums of 64 products of integers.
#[inline]
#[target_feature(enable = "avx2")]
fn group_dot(q: [__m256i; 2], p: [__m256i; 2]) -> __m256i {
    let pairs = |q, p| _mm256_maddubs_epi16(_mm256_abs_epi8(p), _mm256_sign_epi8(q, p));
    let ones = _mm256_set1_epi16(1);
    let (low, high) =
        (_mm256_madd_epi16(pairs(q[0], p[0]), ones), _mm256_madd_epi16(pairs(q[1], p[1]), ones));
    _mm256_add_epi32(low, high)
}

/// Activations to integers and scales, as `fast::quantize` defines it and bit for bit the same.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::kernel) fn quantize(x: &[f32], values: &mut [i8], scales: &mut [f32]) {
    let groups = x.as_chunks::<GROUP>().0.iter().zip(values.as_chunks_mut::<GROUP>().0).zip(scales);
    for ((x, values), scale) in groups {
        let x = x.as_chunks::<8>().0;
        let magnitude = _mm256_set1_epi32(0x7fff_ffff);
        let mut most = _mm256_setzero_si256();
        for x in x {
            most =
                _mm256_max_epi32(most, _mm256_and_si256(_mm256_castps_si256(load(x)), magnitude));
        }
        let reciprocal;
        (*scale, reciprocal) = fast::scale_of(lanes::largest_bits(most));
        let reciprocal = _mm256_set1_ps(reciprocal);
        for (x, out) in x.as_chunks::<4>().0.iter().zip(values.as_chunks_mut::<32>().0) {
            lanes::store_bytes(out, round(x, reciprocal));
        }
    }
}

/// 32 activations times `reciprocal`, rounded to bytes.
#[inline]
#[target_feature(enable = "avx2")]
fn round(x: &[[f32; 8]; 4], reciprocal: __m256) -> __m256i {
    let whole = |x| _mm256_cvtps_epi32(_mm256_mul_ps(load(x), reciprocal));
    let (a, b) = (
        _mm256_packs_epi32(whole(&x[0]), whole(&x[1])),
        _mm256_packs_epi32(whole(&x[2]), whole(&x[3])),
    );
    // Packing works within 128-bit halves; this puts the fours back in order.
    _mm256_permutevar8x32_epi32(_mm256_packs_epi16(a, b), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))
}
