//! Int8 weights on AVX2: the matrix-vector product.
//!
//! `y[r] = Σ_g scale[r, g] · Σ_i q[r, g, i] · x[g, i]`, groups g of 32 weights; rows are whole groups.

use core::arch::x86_64::*;

use super::lanes::{load, widen_i8};
use crate::kernel::scales::INT8_GROUP;
use crate::quant::Int8;

/// Groups whose scales are expanded at once.
const SPAN: usize = 64;

/// The scale of groups `first ..`, as `scales::int8` has it but converted by the hardware.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(super) fn expand_scales(int8: &Int8<'_>, first: usize, out: &mut [f32]) {
    let shift = (int8.block / INT8_GROUP).trailing_zeros();
    let convert = |bits: u16| _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(bits))));
    out.iter_mut().enumerate().for_each(|(i, out)| *out = convert(int8.scales[(first + i) >> shift]));
}

/// The lanewise sums of one row's products with one vector.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn row(int8: &Int8<'_>, row: usize, x: &[[f32; INT8_GROUP]]) -> __m256 {
    let first = row * x.len();
    let values = &int8.values.as_chunks::<INT8_GROUP>().0[first..][..x.len()];
    let mut scale = [0.0; SPAN];
    let mut total = _mm256_setzero_ps();
    for (span, (values, x)) in values.chunks(SPAN).zip(x.chunks(SPAN)).enumerate() {
        let scale = &mut scale[..values.len()];
        expand_scales(int8, first + span * SPAN, scale);
        for ((values, x), &scale) in values.iter().zip(x).zip(&*scale) {
            total = _mm256_fmadd_ps(group_dot(values, x), _mm256_set1_ps(scale), total);
        }
    }
    total
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
