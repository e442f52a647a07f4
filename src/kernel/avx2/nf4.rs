//! NF4 on AVX2: 64 codes to 64 floats, and the matrix-vector product.
//!
//! `y[r] = Σ_g scale[r, g] · Σ_i CODEBOOK[code[r, g, i]] · x[g, i]`, groups g of 64 weights in the
//! layout `Split64`.
//!
//! The 16 codebook values are four tables of 16 bytes: byte 0 of every f32, byte 1, byte 2, byte 3.
//! One byte shuffle per table looks up 32 codes at once; interleaving bytes, then pairs, assembles
//! the floats exactly: 12 shuffles for 32 weights, where looking floats up eight at a time takes
//! two permutes and a blend per eight, besides widening the codes. Interleaving works inside
//! 128-bit halves, so the code bytes are first dealt to the halves four by four and come out in
//! order.

use core::arch::x86_64::*;

use super::lanes::{load, load_bytes, sums};
use crate::kernel::scales::{self, NF4_GROUP};
use crate::kernel::walk;
use crate::quant::{Nf4, nf4::CODEBOOK};

/// Byte `k` of each codebook value, twice: a shuffle looks up within 128-bit halves.
const PLANES: [[u8; 32]; 4] = {
    let mut planes = [[0; 32]; 4];
    let mut i = 0;
    while i < 128 {
        planes[i / 32][i % 32] = CODEBOOK[i % 16].to_bits().to_le_bytes()[i / 32];
        i += 1;
    }
    planes
};

/// The codebook in registers.
#[derive(Clone, Copy)]
pub(super) struct Decoder {
    planes: [__m256i; 4],
    deal: __m256i,
}

impl Decoder {
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn new() -> Self {
        let [p0, p1, p2, p3] = &PLANES;
        let planes = [load_bytes(p0), load_bytes(p1), load_bytes(p2), load_bytes(p3)];
        Self { planes, deal: _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7) }
    }

    /// The codebook values of 64 weights, in order.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn decode(&self, codes: &[u8; 32]) -> [__m256; 8] {
        let nibble = _mm256_set1_epi8(15);
        let codes = _mm256_permutevar8x32_epi32(load_bytes(codes), self.deal);
        let [a, b, c, d] = self.look_up(_mm256_and_si256(codes, nibble));
        let [e, f, g, h] = self.look_up(_mm256_and_si256(_mm256_srli_epi16::<4>(codes), nibble));
        [a, b, c, d, e, f, g, h]
    }

    /// The codebook values of 32 dealt codes, in order.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn look_up(&self, codes: __m256i) -> [__m256; 4] {
        let [p0, p1, p2, p3] = self.planes;
        let (b0, b1) = (_mm256_shuffle_epi8(p0, codes), _mm256_shuffle_epi8(p1, codes));
        let (b2, b3) = (_mm256_shuffle_epi8(p2, codes), _mm256_shuffle_epi8(p3, codes));
        let (low, high) = (_mm256_unpacklo_epi8(b0, b1), _mm256_unpacklo_epi8(b2, b3));
        let (low2, high2) = (_mm256_unpackhi_epi8(b0, b1), _mm256_unpackhi_epi8(b2, b3));
        [
            _mm256_castsi256_ps(_mm256_unpacklo_epi16(low, high)),
            _mm256_castsi256_ps(_mm256_unpackhi_epi16(low, high)),
            _mm256_castsi256_ps(_mm256_unpacklo_epi16(low2, high2)),
            _mm256_castsi256_ps(_mm256_unpackhi_epi16(low2, high2)),
        ]
    }
}

/// The products of rows `start ..` with one vector.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn product(nf4: &Nf4<'_>, start: usize, x: &[[f32; NF4_GROUP]], y: &mut [f32]) {
    let decoder = Decoder::new();
    let expand = |first, out: &mut [f32]| scales::nf4(nf4, first, out);
    let per_row = x.len();
    for part in walk::parts(per_row, walk::SPAN) {
        let x = &x[part.clone()];
        let row = |codes: &[[u8; 32]], scales: &[f32]| {
            let mut total = _mm256_setzero_ps();
            for ((codes, x), &scale) in codes.iter().zip(x).zip(scales) {
                total = _mm256_fmadd_ps(
                    group_dot(decoder.decode(codes), x),
                    _mm256_set1_ps(scale),
                    total,
                );
            }
            total
        };
        walk::Groups { all: nf4.codes.as_chunks().0, per_row, part }.rows(
            start,
            y,
            expand,
            row,
            |v| sums(v),
        );
    }
}

/// The lanewise sums of 64 products, in two chains.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn group_dot(w: [__m256; 8], x: &[f32; NF4_GROUP]) -> __m256 {
    let x = x.as_chunks::<8>().0;
    let mut chains = [_mm256_mul_ps(w[0], load(&x[0])), _mm256_mul_ps(w[4], load(&x[4]))];
    for i in 1..4 {
        chains[0] = _mm256_fmadd_ps(w[i], load(&x[i]), chains[0]);
        chains[1] = _mm256_fmadd_ps(w[4 + i], load(&x[4 + i]), chains[1]);
    }
    _mm256_add_ps(chains[0], chains[1])
}
