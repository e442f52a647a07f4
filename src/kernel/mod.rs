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
mod precision;
mod scalar;
mod scales;
#[cfg(any(
    all(target_arch = "aarch64", target_feature = "neon", target_endian = "little"),
    all(target_arch = "wasm32", target_feature = "simd128")
))]
mod v128;
#[cfg(any(
    target_arch = "x86_64",
    all(target_arch = "aarch64", target_feature = "neon", target_endian = "little"),
    all(target_arch = "wasm32", target_feature = "simd128")
))]
mod walk;

use crate::nn::LayerNorm;
use crate::quant::Matrix;
use crate::tensor::columns::Columns;

pub use detect::{available, by_name, kernels};
pub(crate) use fast::scale_of;
pub use precision::Precision;

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

type Product = unsafe fn(&Matrix<'_>, &Input<'_>, &mut Columns<'_>);
type ProductFast = unsafe fn(&fast::Weights<'_>, &Quantized<'_>, usize, &mut Columns<'_>);

/// (weights, stored rows, their stride, results)
type Mix<T> = unsafe fn(&[&[f32]], &[T], usize, &mut [&mut [f32]]);
/// (stored rows, x, results)
type Dots<T> = unsafe fn(&[T], &[f32], &mut [f32]);

/// What a softmax over parts knows after a part: [`Kernels::softmax_step`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SoftmaxStep {
    /// The largest (scaled) number so far.
    pub most: f32,
    /// Σ exp(scale · xᵢ − most) over the new part.
    pub total: f32,
    /// What everything before is worth now: exp(most before − most).
    pub kept: f32,
}

/// One instruction set's functions. The unsafe pointers may be called on a CPU that has the
/// instruction set.
#[derive(Debug)]
pub struct Kernels {
    name: &'static str,
    product: Product,
    product_fast: ProductFast,
    read_row: unsafe fn(&Matrix<'_>, usize, &mut [f32]),
    quantize: unsafe fn(&[f32], &mut [i8], &mut [f32]),
    dot: unsafe fn(&[f32], &[f32]) -> f32,
    dot_f16: unsafe fn(&[u16], &[f32]) -> f32,
    dot_i8: unsafe fn(&[i8], &[f32]) -> f32,
    axpy: unsafe fn(f32, &[f32], &mut [f32]),
    axpy_f16: unsafe fn(f32, &[u16], &mut [f32]),
    axpy_i8: unsafe fn(f32, &[i8], &mut [f32]),
    to_f16: unsafe fn(&[f32], &mut [u16]),
    rms_norm: unsafe fn(&[f32], &[f32], f32, &mut [f32]),
    /// `None`: the portable one, which a program that never calls it does without.
    softmax: Option<unsafe fn(&mut [f32])>,
    softmax_step: unsafe fn(&mut [f32], f32, f32) -> SoftmaxStep,
    mix: Mix<f32>,
    mix_f16: Mix<u16>,
    mix_i8: Mix<i8>,
    dots: Dots<f32>,
    dots_f16: Dots<u16>,
    dots_i8: Dots<i8>,
    silu_mul: unsafe fn(&mut [f32], &[f32]),
    /// As `softmax`.
    gelu: Option<unsafe fn(&mut [f32])>,
    #[cfg(feature = "std")]
    gelu_with_slope: unsafe fn(&mut [f32], &mut [f32]),
    /// As `softmax`.
    layer_norm: Option<unsafe fn(&LayerNorm<'_>, &mut [f32])>,
    #[cfg(feature = "std")]
    layer_norm_back: unsafe fn(&LayerNorm<'_>, &[f32], &mut [f32]),
}

impl Kernels {
    /// The instruction set, as `LOWRANK_ISA` spells it.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// `y[i, r] = Σ_c W[r, c] · x[i, c]` for every vector i and the rows r that `y` owns;
    /// [`Precision::Fast`] if `input` has integers and `weights` have them too.
    ///
    /// # Panics
    /// If the shapes of `weights`, `input` and `y` do not fit each other.
    pub fn product(&self, weights: &Matrix<'_>, input: &Input<'_>, y: &mut Columns<'_>) {
        let fit = weights.cols() == input.cols
            && y.rows() == input.n()
            && y.range().end <= weights.rows();
        assert!(fit, "shapes of weights, input and output do not fit");
        if let Some(x) = &input.quantized
            && let Some(weights) = fast::Weights::of(weights)
        {
            let whole = y.rows() * input.cols;
            assert!(
                x.values.len() == whole && x.scales.len() * GROUP == whole,
                "shapes of floats and integers do not fit"
            );
            // SAFETY: the table was handed out for this CPU; shapes were checked in the lines
            // above.
            return unsafe { (self.product_fast)(&weights, x, input.cols, y) };
        }
        // SAFETY: as above.
        unsafe { (self.product)(weights, input, y) }
    }

    /// Does a product with `weights` profit from integers in its input?
    pub fn has_fast(&self, weights: &Matrix<'_>) -> bool {
        fast::Weights::of(weights).is_some()
    }

    /// The dequantized weights of row `row`, to the bit as [`Matrix::read`] has them.
    ///
    /// # Panics
    /// If there is no such row, or `out` is not as long as it.
    pub fn read_row(&self, weights: &Matrix<'_>, row: usize, out: &mut [f32]) {
        assert!(row < weights.rows() && out.len() == weights.cols(), "row and matrix do not fit");
        // SAFETY: the table was handed out for this CPU; the line above checked the shapes.
        unsafe { (self.read_row)(weights, row, out) }
    }

    /// Rounds activations to integers: per group of [`GROUP`], `scale = max |x| / 127` and `value =
    /// round(x / scale)`. A NaN makes its group's scale NaN.
    ///
    /// # Panics
    /// If `x` is not a whole number of groups, or the other lengths are not one value per
    /// activation and one scale per group.
    pub fn quantize(&self, x: &[f32], values: &mut [i8], scales: &mut [f32]) {
        assert!(
            x.len() == values.len() && x.len() == scales.len() * GROUP,
            "activations are not whole groups"
        );
        // SAFETY: the table was handed out for this CPU; the lengths fit.
        unsafe { (self.quantize)(x, values, scales) }
    }

    /// Σ aᵢ·bᵢ over the shorter length.
    #[inline]
    pub fn dot(&self, a: &[f32], b: &[f32]) -> f32 {
        let n = a.len().min(b.len());
        // SAFETY: the table was handed out for this CPU; both slices have n elements.
        unsafe { (self.dot)(&a[..n], &b[..n]) }
    }

    /// Σ aᵢ·bᵢ with `a` as f16 bits, over the shorter length.
    #[inline]
    pub fn dot_f16(&self, a: &[u16], b: &[f32]) -> f32 {
        let n = a.len().min(b.len());
        // SAFETY: as in `dot`.
        unsafe { (self.dot_f16)(&a[..n], &b[..n]) }
    }

    /// Σ aᵢ·bᵢ with integer `a`, over the shorter length.
    #[inline]
    pub fn dot_i8(&self, a: &[i8], b: &[f32]) -> f32 {
        let n = a.len().min(b.len());
        // SAFETY: as in `dot`.
        unsafe { (self.dot_i8)(&a[..n], &b[..n]) }
    }

    /// yᵢ += s·aᵢ over the shorter length.
    #[inline]
    pub fn axpy(&self, s: f32, a: &[f32], y: &mut [f32]) {
        let n = a.len().min(y.len());
        // SAFETY: as in `dot`.
        unsafe { (self.axpy)(s, &a[..n], &mut y[..n]) }
    }

    /// yᵢ += s·aᵢ with `a` as f16 bits, over the shorter length.
    #[inline]
    pub fn axpy_f16(&self, s: f32, a: &[u16], y: &mut [f32]) {
        let n = a.len().min(y.len());
        // SAFETY: as in `dot`.
        unsafe { (self.axpy_f16)(s, &a[..n], &mut y[..n]) }
    }

    /// yᵢ += s·aᵢ with integer `a`, over the shorter length.
    #[inline]
    pub fn axpy_i8(&self, s: f32, a: &[i8], y: &mut [f32]) {
        let n = a.len().min(y.len());
        // SAFETY: as in `dot`.
        unsafe { (self.axpy_i8)(s, &a[..n], &mut y[..n]) }
    }

    /// Rounds `x` to f16 bits, over the shorter length.
    #[inline]
    pub fn to_f16(&self, x: &[f32], out: &mut [u16]) {
        let n = x.len().min(out.len());
        // SAFETY: as in `dot`.
        unsafe { (self.to_f16)(&x[..n], &mut out[..n]) }
    }

    /// outᵢ = xᵢ / √(mean(x²) + ε) · wᵢ (RMSNorm, arXiv 1910.07467, equation 4).
    ///
    /// # Panics
    /// If the three lengths differ.
    #[inline]
    pub fn rms_norm(&self, x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
        assert!(x.len() == weight.len() && x.len() == out.len());
        // SAFETY: the table was handed out for this CPU; the lengths are equal.
        unsafe { (self.rms_norm)(x, weight, epsilon, out) }
    }

    /// xᵢ ← exp(xᵢ − max x) / Σ exp(xⱼ − max x).
    #[inline]
    pub fn softmax(&self, x: &mut [f32]) {
        match self.softmax {
            // SAFETY: the table was handed out for this CPU.
            Some(softmax) => unsafe { softmax(x) },
            None => scalar::softmax(x),
        }
    }

    /// One part of a softmax that is taken in parts: with `most` the largest of the parts before
    /// (any finite number less than what could matter, for the first), xᵢ ← exp(scale · xᵢ −
    /// m), m the larger of `most` and the part's largest scale · xᵢ. `scale` is positive.
    #[inline]
    pub fn softmax_step(&self, x: &mut [f32], scale: f32, most: f32) -> SoftmaxStep {
        // SAFETY: the table was handed out for this CPU.
        unsafe { (self.softmax_step)(x, scale, most) }
    }

    /// `out[r][c] += Σ_t w[r][t] · rows[t · stride + c]`: weighted sums of stored rows, for several
    /// sets of weights at once. A column's terms are added in the order of t, whatever else is
    /// computed beside it.
    ///
    /// # Panics
    /// If there is not one result per set of weights, sets or results differ in length, or `rows`
    /// is too short.
    #[inline]
    pub fn mix(&self, w: &[&[f32]], rows: &[f32], stride: usize, out: &mut [&mut [f32]]) {
        if check_mix(w, rows.len(), stride, out) {
            // SAFETY: the table was handed out for this CPU; the line above checked the lengths.
            unsafe { (self.mix)(w, rows, stride, out) }
        }
    }

    /// [`mix`](Self::mix) of rows stored as f16 bits.
    ///
    /// # Panics
    /// As `mix`.
    #[inline]
    pub fn mix_f16(&self, w: &[&[f32]], rows: &[u16], stride: usize, out: &mut [&mut [f32]]) {
        if check_mix(w, rows.len(), stride, out) {
            // SAFETY: as in `mix`.
            unsafe { (self.mix_f16)(w, rows, stride, out) }
        }
    }

    /// [`mix`](Self::mix) of rows of integers.
    ///
    /// # Panics
    /// As `mix`.
    #[inline]
    pub fn mix_i8(&self, w: &[&[f32]], rows: &[i8], stride: usize, out: &mut [&mut [f32]]) {
        if check_mix(w, rows.len(), stride, out) {
            // SAFETY: as in `mix`.
            unsafe { (self.mix_i8)(w, rows, stride, out) }
        }
    }

    /// `out[j] = Σ_i a[j, i] · x[i]`: several stored rows, `[out.len(), x.len()]`, with one vector.
    ///
    /// # Panics
    /// If `a` is shorter.
    #[inline]
    pub fn dots(&self, a: &[f32], x: &[f32], out: &mut [f32]) {
        let a = &a[..out.len() * x.len()];
        // SAFETY: the table was handed out for this CPU; the line above checked the length.
        unsafe { (self.dots)(a, x, out) }
    }

    /// [`dots`](Self::dots) of rows stored as f16 bits.
    ///
    /// # Panics
    /// As `dots`.
    #[inline]
    pub fn dots_f16(&self, a: &[u16], x: &[f32], out: &mut [f32]) {
        let a = &a[..out.len() * x.len()];
        // SAFETY: as in `dots`.
        unsafe { (self.dots_f16)(a, x, out) }
    }

    /// [`dots`](Self::dots) of rows of integers.
    ///
    /// # Panics
    /// As `dots`.
    #[inline]
    pub fn dots_i8(&self, a: &[i8], x: &[f32], out: &mut [f32]) {
        let a = &a[..out.len() * x.len()];
        // SAFETY: as in `dots`.
        unsafe { (self.dots_i8)(a, x, out) }
    }

    /// gateᵢ ← silu(gateᵢ) · upᵢ with silu(z) = z / (1 + e^−z), over the shorter length (SwiGLU,
    /// arXiv 2002.05202).
    #[inline]
    pub fn silu_mul(&self, gate: &mut [f32], up: &[f32]) {
        let n = gate.len().min(up.len());
        // SAFETY: as in `dot`.
        unsafe { (self.silu_mul)(&mut gate[..n], &up[..n]) }
    }

    /// xᵢ ← xᵢ Φ(xᵢ) (GELU, arXiv 1606.08415). The same bits on every instruction set.
    #[inline]
    pub fn gelu(&self, x: &mut [f32]) {
        match self.gelu {
            // SAFETY: the table was handed out for this CPU.
            Some(gelu) => unsafe { gelu(x) },
            None => scalar::gelu(x),
        }
    }

    /// yᵢ ← GELU(xᵢ) and xᵢ ← GELU'(xᵢ), over the shorter length: what training asks for.
    #[cfg(feature = "std")]
    #[inline]
    pub fn gelu_with_slope(&self, x: &mut [f32], y: &mut [f32]) {
        let n = x.len().min(y.len());
        // SAFETY: as in `dot`.
        unsafe { (self.gelu_with_slope)(&mut x[..n], &mut y[..n]) }
    }

    /// [`LayerNorm::forward`] of every row of x, `[n, dim]`, in place.
    pub(crate) fn layer_norm(&self, norm: &LayerNorm<'_>, x: &mut [f32]) {
        match self.layer_norm {
            // SAFETY: the table was handed out for this CPU.
            Some(layer_norm) => unsafe { layer_norm(norm, x) },
            None => norm.forward(x),
        }
    }

    /// [`LayerNorm::backward`] of every row of x, `[n, dim]`: dy becomes dx in place.
    #[cfg(feature = "std")]
    pub(crate) fn layer_norm_back(&self, norm: &LayerNorm<'_>, x: &[f32], d: &mut [f32]) {
        // SAFETY: as in `dot`.
        unsafe { (self.layer_norm_back)(norm, x, d) }
    }
}

/// Is there anything to add? Panics unless the lengths fit.
#[inline]
fn check_mix(w: &[&[f32]], rows: usize, stride: usize, out: &[&mut [f32]]) -> bool {
    let (terms, cols) = (w.first().map_or(0, |w| w.len()), out.first().map_or(0, |out| out.len()));
    let equal = w.len() == out.len()
        && w.iter().all(|w| w.len() == terms)
        && out.iter().all(|out| out.len() == cols);
    let fits = terms == 0 || cols <= stride && rows >= (terms - 1) * stride + cols;
    assert!(equal && fits, "lengths of weights, rows and results do not fit");
    terms > 0 && cols > 0
}
