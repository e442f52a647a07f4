//! The inner loops, one table of functions per instruction set, and the choice among them.
//!
//! | table | needs | products |
//! |---|---|---|
//! | `scalar` | nothing | one weight at a time |
//! | `avx2` | AVX2, FMA, F16C | 8 floats, or 32 bytes, at a time |
//! | `avx512vnni` | AVX-512 F, BW, VL, VNNI | 16 floats at a time; fast ones with integer dot products |
//! | `neon` | 64-bit Arm, little-endian | 4 floats, or 16 bytes, at a time |
//! | `neondot` | the same and the dot-product extension | fast ones with `sdot` |
//! | `simd128` | wasm32 built with `-C target-feature=+simd128` | 4 floats, or 16 bytes, at a time |
//!
//! On Arm's M profile with the DSP extension `scalar`'s fast products sum with `smlad` (`dsp`), to
//! the same results.
//!
//! `scalar` is the oracle: plain loops that define the answer. Every other table must agree with it
//! within the tolerances stated in its tests. Kernels know nothing of threads, adapters or models:
//! a product gets the columns it owns and fills them.
//!
//! A [`Kernels`] can only be had from [`kernels`], [`available`] or [`by_name`], which check the
//! CPU first: holding one is the proof that its instructions may run, so its methods are safe.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod detect;
#[cfg(all(target_arch = "arm", target_feature = "dsp", not(lowrank_isa = "scalar")))]
mod dsp;
#[cfg(any(
    target_arch = "x86_64",
    all(target_arch = "aarch64", target_feature = "neon", target_endian = "little"),
    all(target_arch = "wasm32", target_feature = "simd128")
))]
mod exponential;
mod fast;
#[cfg(any(
    target_arch = "x86_64",
    all(target_arch = "aarch64", target_feature = "neon", target_endian = "little"),
    all(target_arch = "wasm32", target_feature = "simd128")
))]
mod form;
mod gelu;
mod norm;
mod precision;
mod scalar;
mod scales;
mod table;
#[cfg(any(
    all(target_arch = "aarch64", target_feature = "neon", target_endian = "little"),
    all(target_arch = "wasm32", target_feature = "simd128")
))]
mod v128;
mod vectors;
#[cfg(any(
    target_arch = "x86_64",
    all(target_arch = "aarch64", target_feature = "neon", target_endian = "little"),
    all(target_arch = "wasm32", target_feature = "simd128")
))]
mod walk;

pub use detect::{available, by_name, kernels};
pub(crate) use fast::scale_of;
pub(crate) use gelu::gelu;
pub use norm::LayerNorm;
pub use precision::Precision;
pub use table::{Kernels, SoftmaxStep};

/// Activations that share a scale in [`Precision::Fast`].
pub const GROUP: usize = 64;

/// Activations as integers: `x ≈ value · scale`, made by [`Kernels::quantize`].
#[derive(Debug, Clone, Copy)]
pub struct Quantized<'a> {
    /// The integers, `[n, cols]`.
    pub values: &'a [i8],
    /// The scales, `[n, cols / GROUP]`.
    pub scales: &'a [f32],
}

/// The right-hand side of a product: `n` vectors of `cols` activations.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// The vectors, `[n, cols]` row-major.
    pub x: &'a [f32],
    /// Activations per vector.
    pub cols: usize,
    /// The same activations as integers: asks for [`Precision::Fast`] where the weights have it.
    pub quantized: Option<Quantized<'a>>,
}

impl<'a> Input<'a> {
    /// Vectors of `cols` activations.
    pub fn new(x: &'a [f32], cols: usize) -> Self {
        Self { x, cols, quantized: None }
    }

    /// The number of vectors.
    pub fn n(&self) -> usize {
        self.x.len() / self.cols
    }

    /// Vector `i`, `[cols]`.
    #[inline]
    pub fn vector(&self, i: usize) -> &[f32] {
        &self.x[i * self.cols..][..self.cols]
    }
}
