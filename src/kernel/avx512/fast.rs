//! `Precision::Fast` on AVX-512 VNNI, one vector.
//!
//! `vpdpbusd` multiplies unsigned by signed bytes and adds fours to 32-bit sums. Weights are made unsigned by an offset,
//! `Σ q·p = Σ (q + o)·p − o·Σ p`, and a group's sums start at `−o·Σ p`, computed once for all rows. In 256-bit registers: a group of
//! 64 fills two of them, and its end (conversion, two scales) would cost twice as much in a 512-bit one.

use core::arch::x86_64::*;

use crate::kernel::avx2::fast::expand_scales;
use crate::kernel::avx2::lanes::{self, load_bytes, load_codebook, load_integers};
use crate::kernel::fast::{INTEGERS, UNIT, Weights};
use crate::kernel::walk;
use crate::kernel::{GROUP, Quantized};
use crate::tensor::columns::Columns;

/// What makes int8 weights unsigned.
const INT8_OFFSET: i8 = -128;

/// The offset o of this kind of weights, as the bits of an unsigned byte.
pub(super) fn offset(weights: &Weights<'_>) -> i8 {
    match weights {
        Weights::Nf4(_) => UNIT,
        Weights::Int8(_) => INT8_OFFSET,
    }
}

/// y = W x for the rows that `y` owns, vector after vector.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn product(weights: &Weights<'_>, x: &Quantized<'_>, cols: usize, y: &mut Columns<'_>) {
    let (groups, start) = (cols / GROUP, y.range().start);
    let codebook = _mm256_add_epi8(_mm256_broadcastsi128_si256(load_codebook(&INTEGERS)), _mm256_set1_epi8(UNIT));
    let look_up = |codes: &[u8; 32]| {
        let (codes, nibble) = (load_bytes(codes), _mm256_set1_epi8(15));
        let (low, high) = (_mm256_and_si256(codes, nibble), _mm256_and_si256(_mm256_srli_epi16::<4>(codes), nibble));
        [_mm256_shuffle_epi8(codebook, low), _mm256_shuffle_epi8(codebook, high)]
    };
    let shift = |q: &[i8; GROUP]| load_integers(q).map(|q| _mm256_xor_si256(q, _mm256_set1_epi8(INT8_OFFSET)));
    for i in 0..y.rows() {
        let x = Vector { integers: &x.values.as_chunks().0[i * groups..][..groups], scales: &x.scales[i * groups..][..groups] };
        match weights {
            Weights::Nf4(nf4) => vector(weights, nf4.codes.as_chunks().0, look_up, &x, start, y.row(i)),
            Weights::Int8(int8) => vector(weights, int8.values.as_chunks().0, shift, &x, start, y.row(i)),
        }
    }
}

/// One vector of activations.
struct Vector<'a> {
    integers: &'a [[i8; GROUP]],
    scales: &'a [f32],
}

/// The products of rows `start ..` with one vector; `groups` holds what `decode` turns into the 64 unsigned integers of a group.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn vector<T>(weights: &Weights<'_>, groups: &[T], decode: impl Fn(&T) -> [__m256i; 2], x: &Vector<'_>, start: usize, y: &mut [f32]) {
    let unit = _mm256_set1_ps(weights.unit());
    let expand = |first, out: &mut [f32]| expand_scales(weights, first, out);
    let per_row = x.scales.len();
    let mut firsts = [0; walk::SPAN];
    for part in walk::parts(per_row) {
        let integers = &x.integers[part.clone()];
        let ts = &x.scales[part.clone()][..integers.len()];
        correct(offset(weights), integers, &mut firsts);
        let row = |groups: &[T], scales: &[f32]| {
            let len = integers.len();
            let (groups, scales, firsts) = (&groups[..len], &scales[..len], &firsts[..len]);
            let [even, odd] = walk::two_chains(len, _mm256_setzero_ps(), |total, g| {
                let ([q0, q1], [p0, p1]) = (decode(&groups[g]), load_integers(&integers[g]));
                // The whole correction in one lane: they are all added up in the end.
                let first = _mm256_zextsi128_si256(_mm_cvtsi32_si128(firsts[g]));
                let sum = _mm256_dpbusd_epi32(_mm256_dpbusd_epi32(first, q0, p0), q1, p1);
                let sum = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), _mm256_set1_ps(ts[g]));
                _mm256_fmadd_ps(sum, _mm256_set1_ps(scales[g]), total)
            });
            _mm256_mul_ps(_mm256_add_ps(even, odd), unit)
        };
        walk::Groups { all: groups, per_row, part }.rows(start, y, expand, row, |v| lanes::sums(v));
    }
}

/// `−o · Σ p` of every group.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx512vnni,avx2")]
pub(super) fn correct(offset: i8, integers: &[[i8; GROUP]], firsts: &mut [i32]) {
    let offset = _mm256_set1_epi8(offset);
    for (first, p) in firsts.iter_mut().zip(integers) {
        let [p0, p1] = load_integers(p);
        let sum = _mm256_dpbusd_epi32(_mm256_dpbusd_epi32(_mm256_setzero_si256(), offset, p0), offset, p1);
        *first = -lanes::sum_words(sum);
    }
}
