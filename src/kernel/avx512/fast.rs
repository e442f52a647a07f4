//! `Precision::Fast` on AVX-512 VNNI, one vector.
//!
//! `vpdpbusd` multiplies unsigned by signed bytes and adds fours to 32-bit sums. Weights are made unsigned by an offset,
//! `Σ q·p = Σ (q + o)·p − o·Σ p`, and a group's sums start at `−o·Σ p`, computed once for all rows.
//!
//! A register of int8 weights is a group of 64. A register of NF4 codes is two of them: after the look-up one register has the first
//! 32 integers of both, another the last 32, so the activations are put into that order once for all rows. Each half of the sums
//! then meets its own group's scales, spread from a register that holds `s · t` of sixteen groups.

use core::arch::x86_64::*;

use super::{lanes, scales};
use crate::kernel::avx2::lanes::{load_bytes, load_codebook, load_integers, sum_words};
use crate::kernel::fast::{INTEGERS, UNIT, Weights};
use crate::kernel::walk;
use crate::kernel::{GROUP, Quantized};
use crate::tensor::columns::Columns;

/// What makes int8 weights unsigned.
const INT8_OFFSET: i8 = -128;

/// Groups of a row that are walked at a time at most; a multiple of 16.
const SPAN: usize = 64;

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
    let (per_row, start) = (cols / GROUP, y.range().start);
    let mut side = Side::new();
    for i in 0..y.rows() {
        let integers = &x.values.as_chunks::<GROUP>().0[i * per_row..][..per_row];
        let ts = &x.scales[i * per_row..][..per_row];
        for part in walk::parts(per_row, SPAN) {
            let (integers, ts) = (&integers[part.clone()], &ts[part.clone()]);
            side.fill(weights, integers, ts);
            let expand = |first, out: &mut [f32]| scales::expand(weights, first, out);
            let len = part.len();
            match weights {
                Weights::Nf4(nf4) => {
                    let groups = walk::Groups { all: nf4.codes.as_chunks::<32>().0, per_row, part };
                    groups.rows(start, y.row(i), expand, |codes, scales| side.nf4(&codes[..len], &scales[..len]), |v| lanes::sums(v));
                }
                Weights::Int8(int8) => {
                    let groups = walk::Groups { all: int8.values.as_chunks::<GROUP>().0, per_row, part };
                    groups.rows(start, y.row(i), expand, |q, scales| side.int8(&q[..len], &scales[..len]), |v| lanes::sums(v));
                }
            }
        }
    }
}

/// What rows need of the activations of a part.
struct Side {
    /// A register's worth of integers for every register of weights.
    integers: [[i8; GROUP]; SPAN],
    /// What the sums start from.
    firsts: [[i32; 16]; SPAN],
    /// t times the unit of the weights' scales; zero behind the last.
    ts: [f32; SPAN],
    codebook: __m512i,
}

impl Side {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2")]
    fn new() -> Self {
        let codebook = _mm512_add_epi8(_mm512_broadcast_i32x4(load_codebook(&INTEGERS)), _mm512_set1_epi8(UNIT));
        Self { integers: [[0; GROUP]; SPAN], firsts: [[0; 16]; SPAN], ts: [0.0; SPAN], codebook }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512vl,avx512vnni,avx2")]
    fn fill(&mut self, weights: &Weights<'_>, integers: &[[i8; GROUP]], ts: &[f32]) {
        self.ts.fill(0.0);
        self.ts.iter_mut().zip(ts).for_each(|(to, t)| *to = t * weights.unit());
        let mut firsts = [0; SPAN];
        correct(offset(weights), integers, &mut firsts);
        match weights {
            Weights::Int8(_) => {
                self.integers[..integers.len()].copy_from_slice(integers);
                self.firsts.iter_mut().zip(firsts).for_each(|(to, first)| to[0] = first);
            }
            Weights::Nf4(_) => {
                let (pairs, last) = integers.as_chunks::<2>();
                for ([low, high], [a, b]) in self.integers.as_chunks_mut::<2>().0.iter_mut().zip(pairs) {
                    for (half, to) in [low, high].into_iter().enumerate() {
                        to[..32].copy_from_slice(&a[32 * half..][..32]);
                        to[32..].copy_from_slice(&b[32 * half..][..32]);
                    }
                }
                // A group without a partner is multiplied by itself, in order.
                if let [last] = last {
                    self.integers[2 * pairs.len()] = *last;
                }
                for (to, [a, b]) in self.firsts.iter_mut().zip(firsts.as_chunks::<2>().0) {
                    (to[0], to[8]) = (*a, *b);
                }
            }
        }
    }

    /// s · t of sixteen groups from `first` on.
    #[inline]
    #[target_feature(enable = "avx512f,avx512vl")]
    fn factors(&self, scales: &[f32], first: usize) -> __m512 {
        let ts = self.ts[first..].first_chunk().map_or(_mm512_setzero_ps(), |ts| lanes::load(ts));
        _mm512_mul_ps(lanes::load_some(&scales[first..]), ts)
    }

    /// The product of a row by lanes: groups in twos.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma")]
    fn nf4(&self, codes: &[[u8; 32]], scales: &[f32]) -> __m512 {
        let (nibble, two) = (_mm512_set1_epi8(15), _mm512_set1_epi32(2));
        let (pairs, last) = codes.as_chunks::<2>();
        let integers = &self.integers.as_chunks::<2>().0[..pairs.len()];
        let firsts = &self.firsts[..pairs.len()];
        let mut total = _mm512_setzero_ps();
        let mut i = 0;
        while i < pairs.len() {
            let factors = self.factors(scales, 2 * i);
            let mut lanes_of = _mm512_set_epi32(1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0);
            let end = pairs.len().min(i + 8);
            while i < end {
                let codes = lanes::load_bytes(pairs[i].as_flattened());
                let (low, high) = (_mm512_and_si512(codes, nibble), _mm512_and_si512(_mm512_srli_epi16::<4>(codes), nibble));
                let [p_low, p_high] = &integers[i];
                let sum = lanes::load_words(&firsts[i]);
                let sum = _mm512_dpbusd_epi32(sum, _mm512_shuffle_epi8(self.codebook, low), lanes::load_integers(p_low));
                let sum = _mm512_dpbusd_epi32(sum, _mm512_shuffle_epi8(self.codebook, high), lanes::load_integers(p_high));
                total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_permutexvar_ps(lanes_of, factors), total);
                lanes_of = _mm512_add_epi32(lanes_of, two);
                i += 1;
            }
        }
        if let [codes] = last {
            let at = 2 * pairs.len();
            let rest = self.one(codes, &self.integers[at], self.firsts[pairs.len()][0], scales[at] * self.ts[at]);
            total = _mm512_add_ps(total, _mm512_zextps256_ps512(rest));
        }
        total
    }

    /// The product of one group of NF4 codes by lanes.
    #[inline]
    #[target_feature(enable = "avx512f,avx512vl,avx512vnni,avx2")]
    fn one(&self, codes: &[u8; 32], integers: &[i8; GROUP], first: i32, factor: f32) -> __m256 {
        let (codes, nibble, codebook) = (load_bytes(codes), _mm256_set1_epi8(15), _mm512_castsi512_si256(self.codebook));
        let (low, high) = (_mm256_and_si256(codes, nibble), _mm256_and_si256(_mm256_srli_epi16::<4>(codes), nibble));
        let [p_low, p_high] = load_integers(integers);
        let sum = _mm256_zextsi128_si256(_mm_cvtsi32_si128(first));
        let sum = _mm256_dpbusd_epi32(sum, _mm256_shuffle_epi8(codebook, low), p_low);
        let sum = _mm256_dpbusd_epi32(sum, _mm256_shuffle_epi8(codebook, high), p_high);
        _mm256_mul_ps(_mm256_cvtepi32_ps(sum), _mm256_set1_ps(factor))
    }

    /// The product of a row by lanes.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma")]
    fn int8(&self, groups: &[[i8; GROUP]], scales: &[f32]) -> __m512 {
        let (integers, firsts) = (&self.integers[..groups.len()], &self.firsts[..groups.len()]);
        let mut total = _mm512_setzero_ps();
        let mut i = 0;
        while i < groups.len() {
            let factors = self.factors(scales, i);
            let mut lanes_of = _mm512_setzero_si512();
            let end = groups.len().min(i + 16);
            while i < end {
                let q = _mm512_xor_si512(lanes::load_integers(&groups[i]), _mm512_set1_epi8(INT8_OFFSET));
                let sum = _mm512_dpbusd_epi32(lanes::load_words(&firsts[i]), q, lanes::load_integers(&integers[i]));
                total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_permutexvar_ps(lanes_of, factors), total);
                lanes_of = _mm512_add_epi32(lanes_of, _mm512_set1_epi32(1));
                i += 1;
            }
        }
        total
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
        *first = -sum_words(sum);
    }
}
