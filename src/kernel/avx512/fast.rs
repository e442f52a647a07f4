//! `Precision::Fast` on AVX-512 VNNI, one vector: a group of 64 weights is one register and one instruction.
//!
//! `vpdpbusd` multiplies unsigned by signed bytes and adds fours to 32-bit sums. Weights are made unsigned by an offset,
//! `Σ q·p = Σ (q + o)·p − o·Σ p`, and a group's sums start at `−o·Σ p`, computed once for all rows.

use core::arch::x86_64::*;

use super::lanes;
use crate::kernel::avx2::fast::expand_scales;
use crate::kernel::fast::{INTEGERS, UNIT, Weights};
use crate::kernel::walk;
use crate::kernel::{GROUP, Quantized};
use crate::tensor::columns::Columns;

/// Turns the codes of NF4 groups, or int8 weights, into unsigned bytes: q + offset.
#[derive(Clone, Copy)]
pub(super) struct Decoder {
    codebook: __m512i,
    nf4_offset: __m512i,
    int8_offset: __m512i,
}

impl Decoder {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx2")]
    pub(super) fn new() -> Self {
        let nf4_offset = _mm512_set1_epi8(UNIT);
        let codebook = _mm512_broadcast_i32x4(crate::kernel::avx2::lanes::load_codebook(&INTEGERS));
        let codebook = _mm512_add_epi8(codebook, nf4_offset);
        Self { codebook, nf4_offset, int8_offset: _mm512_set1_epi8(-128) }
    }

    /// The offset of this kind of weights, unsigned, in every byte.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn offset(&self, weights: &Weights<'_>) -> __m512i {
        match weights {
            Weights::Nf4(_) => self.nf4_offset,
            Weights::Int8(_) => self.int8_offset,
        }
    }

    /// Integers, with their offset, of codes that stand one to a byte in the low four bits; the others are ignored.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn look_up(&self, codes: __m512i) -> __m512i {
        _mm512_shuffle_epi8(self.codebook, _mm512_and_si512(codes, _mm512_set1_epi8(15)))
    }

    /// The integers of int8 weights, with their offset.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn shift(&self, integers: __m512i) -> __m512i {
        _mm512_xor_si512(integers, self.int8_offset)
    }

    /// The integers of one group of NF4, in order, with their offset.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx2")]
    fn nf4(&self, codes: &[u8; 32]) -> __m512i {
        let low = crate::kernel::avx2::lanes::load_bytes(codes);
        let both = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), _mm256_srli_epi16::<4>(low));
        self.look_up(both)
    }
}

/// y = W x for the rows that `y` owns, vector after vector.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn product(weights: &Weights<'_>, x: &Quantized<'_>, cols: usize, y: &mut Columns<'_>) {
    let decoder = Decoder::new();
    let (groups, start) = (cols / GROUP, y.range().start);
    for i in 0..y.rows() {
        let x = Vector {
            integers: &x.values.as_chunks().0[i * groups..][..groups],
            scales: &x.scales[i * groups..][..groups],
            offset: decoder.offset(weights),
        };
        match weights {
            Weights::Nf4(nf4) => vector(weights, nf4.codes.as_chunks().0, |codes| decoder.nf4(codes), &x, start, y.row(i)),
            Weights::Int8(int8) => {
                vector(weights, int8.values.as_chunks().0, |q| decoder.shift(lanes::load_integers(q)), &x, start, y.row(i));
            }
        }
    }
}

/// One vector of activations, and the offset of the weights it meets.
struct Vector<'a> {
    integers: &'a [[i8; GROUP]],
    scales: &'a [f32],
    offset: __m512i,
}

/// The products of rows `start ..` with one vector; `groups` holds what `decode` turns into the 64 integers of a group.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn vector<T>(weights: &Weights<'_>, groups: &[T], decode: impl Fn(&T) -> __m512i, x: &Vector<'_>, start: usize, y: &mut [f32]) {
    let unit = _mm512_set1_ps(weights.unit());
    let expand = |first, out: &mut [f32]| expand_scales(weights, first, out);
    let per_row = x.scales.len();
    let mut firsts = [0; walk::SPAN];
    for part in walk::parts(per_row) {
        let (integers, ts) = (&x.integers[part.clone()], &x.scales[part.clone()]);
        correct(x.offset, integers, &mut firsts);
        let row = |groups: &[T], scales: &[f32]| {
            let mut total = _mm512_setzero_ps();
            for ((((q, p), &t), &s), &first) in groups.iter().zip(integers).zip(ts).zip(scales).zip(&firsts) {
                // The whole correction in one lane: they are all added up in the end.
                let first = _mm512_zextsi128_si512(_mm_cvtsi32_si128(first));
                let sum = _mm512_dpbusd_epi32(first, decode(q), lanes::load_integers(p));
                let sum = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(t));
                total = _mm512_fmadd_ps(sum, _mm512_set1_ps(s), total);
            }
            _mm512_mul_ps(total, unit)
        };
        walk::Groups { all: groups, per_row, part }.rows(start, y, expand, row, |v| lanes::sums(v));
    }
}

/// `−offset · Σ p` of every group.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
pub(super) fn correct(offset: __m512i, integers: &[[i8; GROUP]], firsts: &mut [i32]) {
    for (first, p) in firsts.iter_mut().zip(integers) {
        *first = -_mm512_reduce_add_epi32(_mm512_dpbusd_epi32(_mm512_setzero_si512(), offset, lanes::load_integers(p)));
    }
}
