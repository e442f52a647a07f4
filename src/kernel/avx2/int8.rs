//! Int8 weights on AVX2: the matrix-vector product.
//!
//! `y[r] = Σ_g scale[r, g] · Σ_i q[r, g, i] · x[g, i]`, groups g of 64 weights, or of 32 where rows
//! or blocks are not whole 64s.

use core::arch::x86_64::*;

use super::lanes::{load, sums, widen_all, widen_i8};
use crate::kernel::scales;
use crate::kernel::walk;
use crate::quant::Int8;

/// The products of rows `start ..` with one vector; a row is whole groups of G weights, a block
/// too.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn product<const G: usize>(
    int8: &Int8<'_>,
    start: usize,
    x: &[[f32; G]],
    y: &mut [f32],
) {
    let expand = |first, out: &mut [f32]| expand_scales::<G>(int8, first, out);
    let per_row = x.len();
    for part in walk::parts(per_row, walk::SPAN) {
        let x = &x[part.clone()];
        let row = |values: &[[i8; G]], scales: &[f32]| {
            let mut total = _mm256_setzero_ps();
            for ((values, x), &scale) in values.iter().zip(x).zip(scales) {
                total = _mm256_fmadd_ps(group_dot(values, x), _mm256_set1_ps(scale), total);
            }
            total
        };
        walk::Groups { all: int8.values.as_chunks().0, per_row, part }.rows(
            start,
            y,
            expand,
            row,
            |v| sums(v),
        );
    }
}

/// The scale of groups `first ..` of G weights.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(in crate::kernel) fn expand_scales<const G: usize>(
    int8: &Int8<'_>,
    first: usize,
    out: &mut [f32],
) {
    if int8.block == G {
        widen_all(&int8.scales[first..][..out.len()], out)
    } else {
        scales::int8::<G>(int8, first, out)
    }
}

/// The lanewise sums of G products.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn group_dot<const G: usize>(w: &[i8; G], x: &[f32; G]) -> __m256 {
    let (w, x) = (w.as_chunks::<8>().0, x.as_chunks::<8>().0);
    let mut sum = _mm256_mul_ps(widen_i8(&w[0]), load(&x[0]));
    for (w, x) in w[1..].iter().zip(&x[1..]) {
        sum = _mm256_fmadd_ps(widen_i8(w), load(x), sum);
    }
    sum
}
