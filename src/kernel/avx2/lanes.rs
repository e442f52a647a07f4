//! Loads, stores and sums of eight f32 lanes: the only `unsafe` of the AVX2 kernels.
//!
//! Every function takes arrays of the size it touches, so a caller cannot get an address wrong.

use core::arch::x86_64::*;

/// Eight floats.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::kernel) fn load(x: &[f32; 8]) -> __m256 {
    // SAFETY: the array is 32 readable bytes; the load needs no alignment.
    unsafe { _mm256_loadu_ps(x.as_ptr()) }
}

/// The first `x.len()` lanes, zero in the others; at most eight.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::kernel) fn load_some(x: &[f32]) -> __m256 {
    let count = _mm256_set1_epi32(x.len().min(8) as i32);
    let mask = _mm256_cmpgt_epi32(count, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    // SAFETY: lanes beyond the slice are masked off and not read.
    unsafe { _mm256_maskload_ps(x.as_ptr(), mask) }
}

/// Eight floats back to memory.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::kernel) fn store(out: &mut [f32; 8], v: __m256) {
    // SAFETY: the array is 32 writable bytes; the store needs no alignment.
    unsafe { _mm256_storeu_ps(out.as_mut_ptr(), v) }
}

/// 32 bytes.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::kernel) fn load_bytes(x: &[u8; 32]) -> __m256i {
    // SAFETY: the array is 32 readable bytes; the load needs no alignment.
    unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
}

/// 64 signed bytes.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::kernel) fn load_integers(x: &[i8; 64]) -> [__m256i; 2] {
    // SAFETY: the array is 64 readable bytes; the loads need no alignment.
    unsafe { [_mm256_loadu_si256(x.as_ptr().cast()), _mm256_loadu_si256(x[32..].as_ptr().cast())] }
}

/// Eight 32-bit integers.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::kernel) fn load_words(x: &[i32; 8]) -> __m256i {
    // SAFETY: the array is 32 readable bytes; the load needs no alignment.
    unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
}

/// Eight 32-bit integers back to memory.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::kernel) fn store_words(out: &mut [i32; 8], v: __m256i) {
    // SAFETY: the array is 32 writable bytes; the store needs no alignment.
    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), v) }
}

/// 16 signed bytes.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::kernel) fn load_codebook(x: &[i8; 16]) -> __m128i {
    // SAFETY: the array is 16 readable bytes; the load needs no alignment.
    unsafe { _mm_loadu_si128(x.as_ptr().cast()) }
}

/// 32 signed bytes back to memory.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::kernel) fn store_bytes(out: &mut [i8; 32], v: __m256i) {
    // SAFETY: the array is 32 writable bytes; the store needs no alignment.
    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), v) }
}

/// Eight f16, as floats.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(in crate::kernel) fn widen_f16(x: &[u16; 8]) -> __m256 {
    // SAFETY: the array is 16 readable bytes; the load needs no alignment.
    _mm256_cvtph_ps(unsafe { _mm_loadu_si128(x.as_ptr().cast()) })
}

/// f16 bits as floats. The lengths are equal.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(in crate::kernel) fn widen_all(x: &[u16], out: &mut [f32]) {
    let ((x, x_rest), (out, out_rest)) = (x.as_chunks(), out.as_chunks_mut());
    out.iter_mut().zip(x).for_each(|(out, x)| store(out, widen_f16(x)));
    for (out, &bits) in out_rest.iter_mut().zip(x_rest) {
        *out = _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(bits))));
    }
}

/// Eight integers, as floats.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::kernel) fn widen_i8(x: &[i8; 8]) -> __m256 {
    // SAFETY: the array is 8 readable bytes; the load needs no alignment.
    let bytes = unsafe { _mm_loadl_epi64(x.as_ptr().cast()) };
    _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes))
}

/// Eight floats rounded to f16, ties to even.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(in crate::kernel) fn narrow_f16(out: &mut [u16; 8], v: __m256) {
    // SAFETY: the array is 16 writable bytes; the store needs no alignment.
    unsafe {
        _mm_storeu_si128(out.as_mut_ptr().cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v))
    }
}

/// The sums of the lanes of four vectors; each sum is ((0+1)+(2+3)) + ((4+5)+(6+7)) whatever stands
/// beside it.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::kernel) fn sums([a, b, c, d]: [__m256; 4]) -> [f32; 4] {
    let pairs = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    let sums = _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps::<1>(pairs));
    let mut out = [0.0; 4];
    // SAFETY: the array is 16 writable bytes; the store needs no alignment.
    unsafe { _mm_storeu_ps(out.as_mut_ptr(), sums) };
    out
}

/// The sum of the lanes of one vector, in the same order.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::kernel) fn sum(v: __m256) -> f32 {
    let zero = _mm256_setzero_ps();
    sums([v, zero, zero, zero])[0]
}

/// The sum of eight 32-bit integers.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::kernel) fn sum_words(v: __m256i) -> i32 {
    let four = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
    let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b01_00_11_10>(four));
    _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<0b10_11_00_01>(two)))
}

/// The largest lane.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::kernel) fn largest(v: __m256) -> f32 {
    let four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
}

/// The largest lane of eight non-negative integers, as the float that has its bits.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::kernel) fn largest_bits(v: __m256i) -> f32 {
    let four = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
    let two = _mm_max_epi32(four, _mm_shuffle_epi32::<0b01_00_11_10>(four));
    f32::from_bits(
        _mm_cvtsi128_si32(_mm_max_epi32(two, _mm_shuffle_epi32::<0b10_11_00_01>(two))) as u32
    )
}
