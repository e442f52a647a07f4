//! NEON, the baseline of 64-bit Arm, and its dot-product extension: what [`Simd`] asks for.
//!
//! `neon` needs no detection: this file is compiled where the target has it. `neondot` differs in
//! one instruction, `sdot`, whose intrinsic stable Rust lacks; it is written out, and the table is
//! handed out where the CPU has it.

use core::arch::aarch64::*;
use core::arch::asm;

use super::{Simd, fast, table};
use crate::kernel::Kernels;

static NEON: Kernels = table::<Neon<false>>("neon");
static NEON_DOT: Kernels =
    Kernels { product_fast: fast::product::<Neon<true>>, ..table::<Neon<false>>("neondot") };

/// The tables of this CPU, best first.
pub(in crate::kernel) fn tables() -> [Option<&'static Kernels>; 2] {
    #[cfg(feature = "std")]
    let dot = std::arch::is_aarch64_feature_detected!("dotprod");
    // Without std the registers that tell are an operating system's to read: trust the build's
    // flags.
    #[cfg(not(feature = "std"))]
    let dot = cfg!(target_feature = "dotprod");
    [dot.then_some(&NEON_DOT), Some(&NEON)]
}

/// NEON, with `sdot` if DOT.
#[derive(Clone, Copy)]
struct Neon<const DOT: bool>;

/// Intrinsics that touch no memory, or functions whose promise is kept beside the call.
macro_rules! neon {
    ($($body:tt)*) => {{
        // SAFETY: this file is compiled for targets that have NEON, so the CPU has it.
        unsafe { $($body)* }
    }};
}

/// sum[k] + Σ of the products of bytes 4k to 4k + 3.
///
/// # Safety
/// The CPU must have the dot-product extension.
#[inline(always)]
unsafe fn sdot(mut sum: int32x4_t, q: int8x16_t, p: int8x16_t) -> int32x4_t {
    // SAFETY: the caller's promise; registers only. The directive lets the assembler take the
    // instruction whatever features the crate is built for; it ends with this piece of
    // assembly.
    unsafe {
        asm!(
            ".arch_extension dotprod",
            "sdot {sum:v}.4s, {q:v}.16b, {p:v}.16b",
            sum = inout(vreg) sum, q = in(vreg) q, p = in(vreg) p,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

impl<const DOT: bool> Simd for Neon<DOT> {
    type Floats = float32x4_t;
    type Words = int32x4_t;
    type Bytes = uint8x16_t;

    #[inline(always)]
    fn load(x: &[f32; 4]) -> float32x4_t {
        // SAFETY: the array is 16 readable bytes.
        unsafe { vld1q_f32(x.as_ptr()) }
    }

    #[inline(always)]
    fn store(out: &mut [f32; 4], v: float32x4_t) {
        // SAFETY: the array is 16 writable bytes.
        unsafe { vst1q_f32(out.as_mut_ptr(), v) }
    }

    #[inline(always)]
    fn splat(x: f32) -> float32x4_t {
        neon! { vdupq_n_f32(x) }
    }

    #[inline(always)]
    fn add(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        neon! { vaddq_f32(a, b) }
    }

    #[inline(always)]
    fn sub(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        neon! { vsubq_f32(a, b) }
    }

    #[inline(always)]
    fn mul(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        neon! { vmulq_f32(a, b) }
    }

    #[inline(always)]
    fn div(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        neon! { vdivq_f32(a, b) }
    }

    #[inline(always)]
    fn mul_add(a: float32x4_t, b: float32x4_t, sum: float32x4_t) -> float32x4_t {
        neon! { vfmaq_f32(sum, a, b) }
    }

    #[inline(always)]
    fn min(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        neon! { vminq_f32(a, b) }
    }

    #[inline(always)]
    fn max(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        neon! { vmaxq_f32(a, b) }
    }

    #[inline(always)]
    fn abs(v: float32x4_t) -> float32x4_t {
        neon! { vabsq_f32(v) }
    }

    #[inline(always)]
    fn round(v: float32x4_t) -> float32x4_t {
        neon! { vrndnq_f32(v) }
    }

    #[inline(always)]
    fn times_power_of_two(v: float32x4_t, n: float32x4_t) -> float32x4_t {
        neon! {
            let n = vcvtq_s32_f32(n);
            let half = vshrq_n_s32::<1>(n);
            let power = |n| vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(n, vdupq_n_s32(127))));
            vmulq_f32(vmulq_f32(v, power(half)), power(vsubq_s32(n, half)))
        }
    }

    #[inline(always)]
    fn fold([a, b, c, d]: [float32x4_t; 4]) -> float32x4_t {
        neon! { vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d)) }
    }

    #[inline(always)]
    fn largest(v: float32x4_t) -> f32 {
        neon! { vmaxvq_f32(v) }
    }

    #[inline(always)]
    fn widen_f16(x: &[u16; 8]) -> [float32x4_t; 2] {
        // SAFETY: the array is 16 readable bytes.
        let halves = unsafe { vld1q_u16(x.as_ptr()) };
        neon! {
            let halves = vreinterpretq_f16_u16(halves);
            [vcvt_f32_f16(vget_low_f16(halves)), vcvt_high_f32_f16(halves)]
        }
    }

    #[inline(always)]
    fn narrow_f16(out: &mut [u16; 8], [a, b]: [float32x4_t; 2]) {
        let halves = neon! { vreinterpretq_u16_f16(vcvt_high_f16_f32(vcvt_f16_f32(a), b)) };
        // SAFETY: the array is 16 writable bytes.
        unsafe { vst1q_u16(out.as_mut_ptr(), halves) }
    }

    #[inline(always)]
    fn widen_i8(x: &[i8; 8]) -> [float32x4_t; 2] {
        // SAFETY: the array is 8 readable bytes.
        let bytes = unsafe { vld1_s8(x.as_ptr()) };
        neon! {
            let wide = vmovl_s8(bytes);
            [vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide))), vcvtq_f32_s32(vmovl_high_s16(wide))]
        }
    }

    #[inline(always)]
    fn load_bytes(x: &[u8; 16]) -> uint8x16_t {
        // SAFETY: the array is 16 readable bytes.
        unsafe { vld1q_u8(x.as_ptr()) }
    }

    #[inline(always)]
    fn load_integers(x: &[i8; 16]) -> uint8x16_t {
        // SAFETY: the array is 16 readable bytes.
        unsafe { vreinterpretq_u8_s8(vld1q_s8(x.as_ptr())) }
    }

    #[inline(always)]
    fn store_integers(out: &mut [i8; 16], v: uint8x16_t) {
        // SAFETY: the array is 16 writable bytes.
        unsafe { vst1q_s8(out.as_mut_ptr(), vreinterpretq_s8_u8(v)) }
    }

    #[inline(always)]
    fn low(v: uint8x16_t) -> uint8x16_t {
        neon! { vandq_u8(v, vdupq_n_u8(15)) }
    }

    #[inline(always)]
    fn high(v: uint8x16_t) -> uint8x16_t {
        neon! { vshrq_n_u8::<4>(v) }
    }

    #[inline(always)]
    fn look_up(table: uint8x16_t, index: uint8x16_t) -> uint8x16_t {
        neon! { vqtbl1q_u8(table, index) }
    }

    #[inline(always)]
    fn assemble([b0, b1, b2, b3]: [uint8x16_t; 4]) -> [float32x4_t; 4] {
        neon! {
            let pairs = |lower, upper| (vreinterpretq_u16_u8(lower), vreinterpretq_u16_u8(upper));
            let (l, h) = pairs(vzip1q_u8(b0, b1), vzip1q_u8(b2, b3));
            let (l2, h2) = pairs(vzip2q_u8(b0, b1), vzip2q_u8(b2, b3));
            [vzip1q_u16(l, h), vzip2q_u16(l, h), vzip1q_u16(l2, h2), vzip2q_u16(l2, h2)].map(|w| vreinterpretq_f32_u16(w))
        }
    }

    #[inline(always)]
    fn round_to_integers(v: [float32x4_t; 4]) -> uint8x16_t {
        neon! {
            let [a, b, c, d] = v.map(|v| vqmovn_s32(vcvtnq_s32_f32(v)));
            let (low, high) = (vcombine_s16(a, b), vcombine_s16(c, d));
            vreinterpretq_u8_s8(vqmovn_high_s16(vqmovn_s16(low), high))
        }
    }

    #[inline(always)]
    fn dot(q: [uint8x16_t; 4], p: [uint8x16_t; 4]) -> int32x4_t {
        neon! {
            let mut sum = vdupq_n_s32(0);
            for (q, p) in q.into_iter().zip(p) {
                let (q, p) = (vreinterpretq_s8_u8(q), vreinterpretq_s8_u8(p));
                sum = if DOT {
                    // A table with DOT is handed out where the CPU has the extension.
                    sdot(sum, q, p)
                } else {
                    // Two products of at most 128 · 127 fit 16 bits.
                    vpadalq_s16(sum, vmlal_high_s8(vmull_s8(vget_low_s8(q), vget_low_s8(p)), q, p))
                };
            }
            sum
        }
    }

    #[inline(always)]
    fn fold_words([a, b, c, d]: [int32x4_t; 4]) -> int32x4_t {
        neon! { vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d)) }
    }

    #[inline(always)]
    fn to_floats(v: int32x4_t) -> float32x4_t {
        neon! { vcvtq_f32_s32(v) }
    }
}
