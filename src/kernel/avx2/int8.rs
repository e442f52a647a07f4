//! Int8 weights on AVX2: the matrix-vector product.
//!
//! `y[r] = Σ_g scale[r, g] · Σ_i q[r, g, i] · x[g, i]`, groups g of 32 weights; rows are whole groups.

use core::arch::x86_64::*;

use super::lanes::{load, sums, widen_i8};
use crate::kernel::scales::{self, INT8_GROUP};
use crate::quant::Int8;

/// Groups whose scales are expanded at once.
const SPAN: usize = 64;

/// The products of rows `first .. first + R` (at most four) with one vector.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn rows<const R: usize>(int8: &Int8<'_>, first: usize, x: &[[f32; INT8_GROUP]]) -> [f32; 4] {
    let values = &int8.values.as_chunks::<INT8_GROUP>().0[first * x.len()..][..R * x.len()];
    let mut scale = [[0.0; SPAN]; R];
    let mut total = [_mm256_setzero_ps(); 4];
    for (span, x_span) in x.chunks(SPAN).enumerate() {
        let start = span * SPAN;
        for r in 0..R {
            scales::int8(int8, (first + r) * x.len() + start, &mut scale[r][..x_span.len()]);
        }
        for (g, x_group) in x_span.iter().enumerate() {
            for r in 0..R {
                let sum = group_dot(&values[r * x.len() + start + g], x_group);
                total[r] = _mm256_fmadd_ps(sum, _mm256_set1_ps(scale[r][g]), total[r]);
            }
        }
    }
    sums(total)
}

/// The lanewise sums of 32 products.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn group_dot(w: &[i8; INT8_GROUP], x: &[f32; INT8_GROUP]) -> __m256 {
    let (w, x) = (w.as_chunks::<8>().0, x.as_chunks::<8>().0);
    let mut sum = _mm256_mul_ps(widen_i8(&w[0]), load(&x[0]));
    for i in 1..4 {
        sum = _mm256_fmadd_ps(widen_i8(&w[i]), load(&x[i]), sum);
    }
    sum
}
