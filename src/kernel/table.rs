//! The table of an instruction set's functions, and its products. The functions on vectors and rows
//! are in `vectors`.
//!
//! Methods check shapes and are safe; the functions behind them trust their arguments.

use super::fast;
use super::{GROUP, Input, LayerNorm, Precision, Quantized};
use crate::quant::Matrix;
use crate::tensor::columns::Columns;

type Product = unsafe fn(&Matrix<'_>, &Input<'_>, &mut Columns<'_>);
type ProductFast = unsafe fn(&fast::Weights<'_>, &Quantized<'_>, usize, &mut Columns<'_>);

/// (weights, stored rows, their stride, results)
type Mix<T> = unsafe fn(&[&[f32]], &[T], usize, &mut [&mut [f32]]);
/// (stored rows, x, results)
type Dots<T> = unsafe fn(&[T], &[f32], &mut [f32]);

/// What a softmax over parts (online softmax) knows after a part: [`Kernels::softmax_step`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SoftmaxStep {
    /// The largest (scaled) number so far.
    pub max: f32,
    /// Σ exp(scale · xᵢ − max) over the new part.
    pub sum: f32,
    /// What everything before is worth now: exp(max before − max).
    pub rescale: f32,
}

/// One instruction set's functions. The unsafe pointers may be called on a CPU that has the
/// instruction set.
#[derive(Debug)]
pub struct Kernels {
    pub(super) name: &'static str,
    /// [`Kernels::several`], exact and fast.
    pub(super) several: [(f32, f32); 2],
    pub(super) product: Product,
    pub(super) product_fast: ProductFast,
    pub(super) read_row: unsafe fn(&Matrix<'_>, usize, &mut [f32]),
    pub(super) quantize: unsafe fn(&[f32], &mut [i8], &mut [f32]),
    pub(super) dot: unsafe fn(&[f32], &[f32]) -> f32,
    pub(super) dot_f16: unsafe fn(&[u16], &[f32]) -> f32,
    pub(super) dot_i8: unsafe fn(&[i8], &[f32]) -> f32,
    pub(super) axpy: unsafe fn(f32, &[f32], &mut [f32]),
    pub(super) axpy_f16: unsafe fn(f32, &[u16], &mut [f32]),
    pub(super) axpy_i8: unsafe fn(f32, &[i8], &mut [f32]),
    pub(super) scale: unsafe fn(&[f32], f32, &mut [f32]),
    pub(super) to_f16: unsafe fn(&[f32], &mut [u16]),
    pub(super) rms_norm: unsafe fn(&[f32], &[f32], f32, &mut [f32]),
    /// `None`: the portable one, which a program that never calls it does without.
    pub(super) softmax: Option<unsafe fn(&mut [f32])>,
    pub(super) softmax_step: unsafe fn(&mut [f32], f32, f32) -> SoftmaxStep,
    pub(super) mix: Mix<f32>,
    pub(super) mix_f16: Mix<u16>,
    pub(super) mix_i8: Mix<i8>,
    pub(super) dots: Dots<f32>,
    pub(super) dots_f16: Dots<u16>,
    pub(super) dots_i8: Dots<i8>,
    pub(super) silu_mul: unsafe fn(&mut [f32], &[f32]),
    /// As `softmax`.
    pub(super) gelu: Option<unsafe fn(&mut [f32])>,
    #[cfg(feature = "train")]
    pub(super) gelu_and_derivative: unsafe fn(&mut [f32], &mut [f32]),
    /// As `softmax`.
    pub(super) layer_norm: Option<unsafe fn(&LayerNorm<'_>, &mut [f32])>,
    #[cfg(feature = "train")]
    pub(super) layer_norm_back: unsafe fn(&LayerNorm<'_>, &[f32], &mut [f32]),
}

impl Kernels {
    /// The instruction set, as `LOWRANK_ISA` spells it.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What a product with 1 + k vectors takes, in products with one: about `start + each · k` for a
    /// few, `(start, each)`, as measured (`benches/kernels.rs`). `(1, 1)` where nothing is gained by
    /// several at a time.
    pub fn several(&self, precision: Precision) -> (f32, f32) {
        self.several[usize::from(precision == Precision::Fast)]
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
}
