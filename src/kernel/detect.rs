//! Which instruction sets this CPU can run, and which table is used.
//!
//! Order of truth: `--cfg lowrank_isa="NAME"` at build time, then the environment variable
//! `LOWRANK_ISA` (std), then what the CPU has. On x86-64 CPUID alone is not enough: XGETBV tells
//! whether the operating system saves the wide registers. On other architectures `v128` knows.

use core::sync::atomic::{AtomicPtr, Ordering};

use super::Kernels;
use super::scalar::SCALAR;
#[cfg(target_arch = "x86_64")]
use super::{avx2::AVX2, avx512::AVX512_VNNI};

/// The tables this CPU can run, best first; `scalar` is always the last.
pub fn available() -> impl Iterator<Item = &'static Kernels> {
    #[cfg(target_arch = "x86_64")]
    let wide = x86_64();
    #[cfg(any(
        all(target_arch = "aarch64", target_feature = "neon", target_endian = "little"),
        all(target_arch = "wasm32", target_feature = "simd128")
    ))]
    let wide = super::v128::tables();
    #[cfg(not(any(
        target_arch = "x86_64",
        all(target_arch = "aarch64", target_feature = "neon", target_endian = "little"),
        all(target_arch = "wasm32", target_feature = "simd128")
    )))]
    let wide = [None; 0];
    wide.into_iter().flatten().chain([&SCALAR])
}

/// The table called `name`, if this CPU can run it.
pub fn by_name(name: &str) -> Option<&'static Kernels> {
    available().find(|table| table.name == name)
}

/// The table in use: the forced one, else the best. A forced name that this CPU cannot run falls
/// back to `scalar`; callers that must not fall back compare [`Kernels::name`].
pub fn kernels() -> &'static Kernels {
    static CHOSEN: AtomicPtr<Kernels> = AtomicPtr::new(core::ptr::null_mut());
    let chosen = CHOSEN.load(Ordering::Relaxed);
    if chosen.is_null() {
        let table = choose();
        CHOSEN.store(core::ptr::from_ref(table).cast_mut(), Ordering::Relaxed);
        return table;
    }
    // SAFETY: the only values ever stored are null and pointers to 'static tables, which nobody
    // writes to.
    unsafe { &*chosen }
}

fn choose() -> &'static Kernels {
    if cfg!(lowrank_isa = "scalar") {
        return &SCALAR;
    }
    #[cfg(feature = "std")]
    if let Ok(name) = std::env::var("LOWRANK_ISA") {
        return by_name(&name).unwrap_or(&SCALAR);
    }
    available().next().unwrap_or(&SCALAR)
}

/// The tables of this x86-64 processor: registers that the operating system saves (XCR0), then
/// instructions.
#[cfg(target_arch = "x86_64")]
fn x86_64() -> [Option<&'static Kernels>; 2] {
    use core::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
    // Leaf 1, ecx: FMA, OSXSAVE, AVX, F16C. Leaf 7, ebx: AVX2; AVX512F, BW, VL; ecx: VNNI.
    const LEAF1_ECX: u32 = 1 << 12 | 1 << 27 | 1 << 28 | 1 << 29;
    const LEAF7_EBX: u32 = 1 << 5;
    const WIDE_EBX: u32 = 1 << 16 | 1 << 30 | 1 << 31;
    const WIDE_ECX: u32 = 1 << 11;
    const XMM_YMM: u64 = 0b110;
    const MASKS_ZMM: u64 = 0xE0;

    /// # Safety
    /// CPUID must have reported OSXSAVE.
    #[target_feature(enable = "xsave")]
    unsafe fn xcr0() -> u64 {
        // SAFETY: the caller's promise.
        unsafe { _xgetbv(0) }
    }

    // Without an operating system nobody may have switched the wide registers on: trust the build's
    // flags there.
    if cfg!(target_os = "none") && !cfg!(target_feature = "avx2") || __cpuid(0).eax < 7 {
        return [None; 2];
    }
    let (leaf1, leaf7) = (__cpuid(1), __cpuid_count(7, 0));
    if leaf1.ecx & LEAF1_ECX != LEAF1_ECX || leaf7.ebx & LEAF7_EBX == 0 {
        return [None; 2];
    }
    // SAFETY: OSXSAVE is among the bits just checked.
    let saved = unsafe { xcr0() };
    if saved & XMM_YMM != XMM_YMM {
        return [None; 2];
    }
    let wide = saved & MASKS_ZMM == MASKS_ZMM
        && leaf7.ebx & WIDE_EBX == WIDE_EBX
        && leaf7.ecx & WIDE_ECX != 0;
    [wide.then_some(&AVX512_VNNI), Some(&AVX2)]
}
