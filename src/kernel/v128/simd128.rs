//! WebAssembly's simd128: what [`Simd`] asks for.
//!
//! A module either has the instructions or is not accepted by an engine without them, so there is
//! nothing to detect: this file is compiled with `-C target-feature=+simd128`. There is no fused
//! multiply-add and no f16; conversions work on the bits.

use core::arch::wasm32::*;

use super::{Simd, table};
use crate::kernel::Kernels;

static SIMD128: Kernels = table::<Simd128>("simd128");

/// The tables of this build.
pub(in crate::kernel) fn tables() -> [Option<&'static Kernels>; 1] {
    [Some(&SIMD128)]
}

#[derive(Clone, Copy)]
struct Simd128;

/// The even and the odd lanes of a pair of vectors.
#[inline(always)]
fn unzip(a: v128, b: v128) -> [v128; 2] {
    [i32x4_shuffle::<0, 2, 4, 6>(a, b), i32x4_shuffle::<1, 3, 5, 7>(a, b)]
}

/// Four f16 in the lower halves of words, as floats: the exponent moves by the product with 2^112,
/// which is exact and makes subnormals normal; what was ∞ or NaN is then at least 2^16 and gets the
/// full exponent.
#[inline(always)]
fn f16_to_f32(words: v128) -> v128 {
    let sign = i32x4_shl(v128_and(words, i32x4_splat(0x8000)), 16);
    let magnitude = i32x4_shl(v128_and(words, i32x4_splat(0x7fff)), 13);
    let value = f32x4_mul(magnitude, f32x4_splat(f32::from_bits((127 + 112) << 23)));
    let special =
        v128_and(i32x4_ge(magnitude, i32x4_splat(0x7c00 << 13)), i32x4_splat(0x7f80_0000));
    v128_or(sign, v128_or(value, special))
}

/// Four floats to f16 in the lower halves of words, ties to even, by integers; subnormals by the
/// rounding of an addition of 0.5, whose last bit is the least f16.
#[inline(always)]
fn f32_to_f16(v: v128) -> v128 {
    let magnitude = v128_and(v, i32x4_splat(0x7fff_ffff));
    let sign = v128_and(u32x4_shr(v, 16), i32x4_splat(0x8000));
    let odd = v128_and(u32x4_shr(magnitude, 13), i32x4_splat(1));
    let rebias = i32x4_splat(0xfff - (112 << 23));
    let normal = u32x4_shr(i32x4_add(i32x4_add(magnitude, rebias), odd), 13);
    let half = f32x4_splat(0.5);
    let small = i32x4_sub(f32x4_add(magnitude, half), half);
    let value = v128_bitselect(small, normal, i32x4_lt(magnitude, i32x4_splat(113 << 23)));
    let value =
        v128_bitselect(i32x4_splat(0x7c00), value, i32x4_ge(magnitude, i32x4_splat(143 << 23)));
    let value =
        v128_bitselect(i32x4_splat(0x7e00), value, i32x4_gt(magnitude, i32x4_splat(0x7f80_0000)));
    v128_or(sign, value)
}

impl Simd for Simd128 {
    type Floats = v128;
    type Words = v128;
    type Bytes = v128;

    #[inline(always)]
    fn load(x: &[f32; 4]) -> v128 {
        // SAFETY: the array is 16 readable bytes; the load needs no alignment.
        unsafe { v128_load(x.as_ptr().cast()) }
    }

    #[inline(always)]
    fn store(out: &mut [f32; 4], v: v128) {
        // SAFETY: the array is 16 writable bytes; the store needs no alignment.
        unsafe { v128_store(out.as_mut_ptr().cast(), v) }
    }

    #[inline(always)]
    fn splat(x: f32) -> v128 {
        f32x4_splat(x)
    }

    #[inline(always)]
    fn add(a: v128, b: v128) -> v128 {
        f32x4_add(a, b)
    }

    #[inline(always)]
    fn sub(a: v128, b: v128) -> v128 {
        f32x4_sub(a, b)
    }

    #[inline(always)]
    fn mul(a: v128, b: v128) -> v128 {
        f32x4_mul(a, b)
    }

    #[inline(always)]
    fn div(a: v128, b: v128) -> v128 {
        f32x4_div(a, b)
    }

    #[inline(always)]
    fn mul_add(a: v128, b: v128, sum: v128) -> v128 {
        f32x4_add(f32x4_mul(a, b), sum)
    }

    #[inline(always)]
    fn min(a: v128, b: v128) -> v128 {
        f32x4_min(a, b)
    }

    #[inline(always)]
    fn max(a: v128, b: v128) -> v128 {
        f32x4_max(a, b)
    }

    #[inline(always)]
    fn abs(v: v128) -> v128 {
        f32x4_abs(v)
    }

    #[inline(always)]
    fn round(v: v128) -> v128 {
        f32x4_nearest(v)
    }

    #[inline(always)]
    fn times_power_of_two(v: v128, n: v128) -> v128 {
        let n = i32x4_trunc_sat_f32x4(n);
        let half = i32x4_shr(n, 1);
        let power = |n| i32x4_shl(i32x4_add(n, i32x4_splat(127)), 23);
        f32x4_mul(f32x4_mul(v, power(half)), power(i32x4_sub(n, half)))
    }

    #[inline(always)]
    fn fold([a, b, c, d]: [v128; 4]) -> v128 {
        let pairs = |a, b| {
            let [even, odd] = unzip(a, b);
            f32x4_add(even, odd)
        };
        pairs(pairs(a, b), pairs(c, d))
    }

    #[inline(always)]
    fn largest(v: v128) -> f32 {
        let v = f32x4_max(v, i32x4_shuffle::<2, 3, 0, 1>(v, v));
        f32x4_extract_lane::<0>(f32x4_max(v, i32x4_shuffle::<1, 0, 3, 2>(v, v)))
    }

    #[inline(always)]
    fn widen_f16(x: &[u16; 8]) -> [v128; 2] {
        // SAFETY: the array is 16 readable bytes; the load needs no alignment.
        let halves = unsafe { v128_load(x.as_ptr().cast()) };
        [f16_to_f32(u32x4_extend_low_u16x8(halves)), f16_to_f32(u32x4_extend_high_u16x8(halves))]
    }

    #[inline(always)]
    fn narrow_f16(out: &mut [u16; 8], [a, b]: [v128; 2]) {
        let halves = u16x8_narrow_i32x4(f32_to_f16(a), f32_to_f16(b));
        // SAFETY: the array is 16 writable bytes; the store needs no alignment.
        unsafe { v128_store(out.as_mut_ptr().cast(), halves) }
    }

    #[inline(always)]
    fn widen_i8(x: &[i8; 8]) -> [v128; 2] {
        // SAFETY: the array is 8 readable bytes; the load needs no alignment.
        let wide = unsafe { i16x8_load_extend_i8x8(x.as_ptr()) };
        [
            f32x4_convert_i32x4(i32x4_extend_low_i16x8(wide)),
            f32x4_convert_i32x4(i32x4_extend_high_i16x8(wide)),
        ]
    }

    #[inline(always)]
    fn load_bytes(x: &[u8; 16]) -> v128 {
        // SAFETY: the array is 16 readable bytes; the load needs no alignment.
        unsafe { v128_load(x.as_ptr().cast()) }
    }

    #[inline(always)]
    fn load_integers(x: &[i8; 16]) -> v128 {
        // SAFETY: the array is 16 readable bytes; the load needs no alignment.
        unsafe { v128_load(x.as_ptr().cast()) }
    }

    #[inline(always)]
    fn store_integers(out: &mut [i8; 16], v: v128) {
        // SAFETY: the array is 16 writable bytes; the store needs no alignment.
        unsafe { v128_store(out.as_mut_ptr().cast(), v) }
    }

    #[inline(always)]
    fn low(v: v128) -> v128 {
        v128_and(v, u8x16_splat(15))
    }

    #[inline(always)]
    fn high(v: v128) -> v128 {
        u8x16_shr(v, 4)
    }

    #[inline(always)]
    fn look_up(table: v128, index: v128) -> v128 {
        i8x16_swizzle(table, index)
    }

    #[inline(always)]
    fn assemble([b0, b1, b2, b3]: [v128; 4]) -> [v128; 4] {
        let low =
            |a, b| i8x16_shuffle::<0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23>(a, b);
        let high = |a, b| {
            i8x16_shuffle::<8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31>(a, b)
        };
        let pairs = |l, h| {
            [
                i16x8_shuffle::<0, 8, 1, 9, 2, 10, 3, 11>(l, h),
                i16x8_shuffle::<4, 12, 5, 13, 6, 14, 7, 15>(l, h),
            ]
        };
        let ([a, b], [c, d]) = (pairs(low(b0, b1), low(b2, b3)), pairs(high(b0, b1), high(b2, b3)));
        [a, b, c, d]
    }

    #[inline(always)]
    fn round_to_integers(v: [v128; 4]) -> v128 {
        let [a, b, c, d] = v.map(|v| i32x4_trunc_sat_f32x4(f32x4_nearest(v)));
        i8x16_narrow_i16x8(i16x8_narrow_i32x4(a, b), i16x8_narrow_i32x4(c, d))
    }

    #[inline(always)]
    fn dot(q: [v128; 4], p: [v128; 4]) -> v128 {
        let mut sum = i32x4_splat(0);
        for (q, p) in q.into_iter().zip(p) {
            // Two products of at most 128 · 127 fit 16 bits.
            let pairs = i16x8_add(i16x8_extmul_low_i8x16(q, p), i16x8_extmul_high_i8x16(q, p));
            sum = i32x4_add(sum, i32x4_extadd_pairwise_i16x8(pairs));
        }
        sum
    }

    #[inline(always)]
    fn fold_words([a, b, c, d]: [v128; 4]) -> v128 {
        let pairs = |a, b| {
            let [even, odd] = unzip(a, b);
            i32x4_add(even, odd)
        };
        pairs(pairs(a, b), pairs(c, d))
    }

    #[inline(always)]
    fn to_floats(v: v128) -> v128 {
        f32x4_convert_i32x4(v)
    }
}
