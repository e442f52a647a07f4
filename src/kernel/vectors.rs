//! The functions of a table that work on vectors and on stored rows.

use super::LayerNorm;
use super::scalar;
use super::table::{Kernels, SoftmaxStep};

impl Kernels {
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

    /// xᵢ ← xᵢ · (w lᵢ + 1 − w) over the shorter length: exactly xᵢ lᵢ where w is 1, and exactly xᵢ
    /// where it is 0. The same bits on every instruction set.
    #[inline]
    pub fn scale(&self, l: &[f32], w: f32, x: &mut [f32]) {
        let n = l.len().min(x.len());
        // SAFETY: as in `dot`.
        unsafe { (self.scale)(&l[..n], w, &mut x[..n]) }
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

    /// One part of a softmax that is taken in parts: with `max` the largest of the parts before
    /// (any finite number less than what could matter, for the first), xᵢ ← exp(scale · xᵢ −
    /// m), m the larger of `max` and the part's largest scale · xᵢ. `scale` is positive.
    #[inline]
    pub fn softmax_step(&self, x: &mut [f32], scale: f32, max: f32) -> SoftmaxStep {
        // SAFETY: the table was handed out for this CPU.
        unsafe { (self.softmax_step)(x, scale, max) }
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
    #[cfg(feature = "train")]
    #[inline]
    pub fn gelu_and_derivative(&self, x: &mut [f32], y: &mut [f32]) {
        let n = x.len().min(y.len());
        // SAFETY: as in `dot`.
        unsafe { (self.gelu_and_derivative)(&mut x[..n], &mut y[..n]) }
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
    #[cfg(feature = "train")]
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
