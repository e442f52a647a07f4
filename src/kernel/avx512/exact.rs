//! NF4 on AVX-512, exactly: the codebook is one register, and a permute looks up 16 weights.
//!
//! `y[r] = Σ_g scale[r, g] · Σ_i CODEBOOK[code[r, g, i]] · x[g, i]`, groups g of 64 weights in the
//! layout `Split64`. The permute reads four bits of each index, so the low nibble of a widened byte
//! needs no mask and the high one only a shift.

use core::arch::x86_64::*;

use super::lanes::{load, sums, widen_bytes};
use super::scales;
use crate::kernel::scales::NF4_GROUP;
use crate::kernel::walk;
use crate::quant::{Nf4, nf4::CODEBOOK};

/// The products of rows `start ..` with one vector.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma")]
pub(super) fn product(nf4: &Nf4<'_>, start: usize, x: &[[f32; NF4_GROUP]], y: &mut [f32]) {
    let codebook = load(&CODEBOOK);
    let expand = |first, out: &mut [f32]| scales::nf4(nf4, first, out);
    let per_row = x.len();
    for part in walk::parts(per_row, walk::SPAN) {
        let x = &x[part.clone()];
        let row = |codes: &[[u8; 32]], scales: &[f32]| {
            let (codes, scales) = (&codes[..x.len()], &scales[..x.len()]);
            let [even, odd] = walk::two_chains(x.len(), _mm512_setzero_ps(), |total, g| {
                _mm512_fmadd_ps(
                    group_dot(codebook, &codes[g], &x[g]),
                    _mm512_set1_ps(scales[g]),
                    total,
                )
            });
            _mm512_add_ps(even, odd)
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
#[target_feature(enable = "avx512f,avx2,fma")]
fn group_dot(codebook: __m512, codes: &[u8; 32], x: &[f32; NF4_GROUP]) -> __m512 {
    let (w, x) = (decode(codebook, codes), x.as_chunks::<16>().0);
    let low = _mm512_mul_ps(w[0], load(&x[0]));
    let high = _mm512_mul_ps(w[2], load(&x[2]));
    let low = _mm512_fmadd_ps(w[1], load(&x[1]), low);
    let high = _mm512_fmadd_ps(w[3], load(&x[3]), high);
    _mm512_add_ps(low, high)
}

/// The codebook values of 64 weights, in order.
#[inline]
#[target_feature(enable = "avx512f,avx2")]
pub(super) fn decode(codebook: __m512, codes: &[u8; 32]) -> [__m512; 4] {
    let codes = codes.as_chunks::<16>().0;
    let (first, second) = (widen_bytes(&codes[0]), widen_bytes(&codes[1]));
    let weights = |codes| _mm512_permutexvar_ps(codes, codebook);
    [
        weights(first),
        weights(second),
        weights(_mm512_srli_epi32::<4>(first)),
        weights(_mm512_srli_epi32::<4>(second)),
    ]
}
