//! Which instruction sets this CPU can run, and which table is used.
//!
//! Order of truth: `--cfg lowrank_isa="NAME"` at build time, then the environment variable `LOWRANK_ISA` (std), then CPUID.
//! CPUID alone is not enough: XGETBV tells whether the operating system saves the wide registers.

use core::sync::atomic::{AtomicPtr, Ordering};

use super::Kernels;
#[cfg(target_arch = "x86_64")]
use super::avx2::AVX2;
use super::scalar::SCALAR;

/// The tables this CPU can run, best first; `scalar` is always the last.
pub fn available() -> impl Iterator<Item = &'static Kernels> {
    #[cfg(target_arch = "x86_64")]
    let wide = [has_avx2().then_some(&AVX2)];
    #[cfg(not(target_arch = "x86_64"))]
    let wide = [None];
    wide.into_iter().flatten().chain([&SCALAR])
}

/// The table called `name`, if this CPU can run it.
pub fn by_name(name: &str) -> Option<&'static Kernels> {
    available().find(|table| table.name == name)
}

/// The table in use: the forced one, else the best. A forced name that this CPU cannot run falls back to `scalar`; callers that
/// must not fall back compare [`Kernels::name`].
pub fn kernels() -> &'static Kernels {
    static CHOSEN: AtomicPtr<Kernels> = AtomicPtr::new(core::ptr::null_mut());
    let chosen = CHOSEN.load(Ordering::Relaxed);
    if chosen.is_null() {
        let table = choose();
        CHOSEN.store(core::ptr::from_ref(table).cast_mut(), Ordering::Relaxed);
        return table;
    }
    // SAFETY: the only values ever stored are null and pointers to 'static tables, which nobody writes to.
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

/// AVX2, FMA and F16C, with the ymm state saved by the operating system.
#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    use core::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
    const OSXSAVE_AVX_FMA_F16C: u32 = 1 << 27 | 1 << 28 | 1 << 12 | 1 << 29;
    const AVX2: u32 = 1 << 5;
    const XMM_YMM: u64 = 0b110;

    /// # Safety
    /// CPUID must have reported OSXSAVE.
    #[target_feature(enable = "xsave")]
    unsafe fn xcr0() -> u64 {
        // SAFETY: the caller's promise.
        unsafe { _xgetbv(0) }
    }

    if cfg!(target_os = "none") && !cfg!(target_feature = "avx2") || __cpuid(0).eax < 7 {
        return false;
    }
    let leaf1 = __cpuid(1).ecx;
    leaf1 & OSXSAVE_AVX_FMA_F16C == OSXSAVE_AVX_FMA_F16C
        && __cpuid_count(7, 0).ebx & AVX2 != 0
        // SAFETY: OSXSAVE was checked two lines above.
        && unsafe { xcr0() } & XMM_YMM == XMM_YMM
}
