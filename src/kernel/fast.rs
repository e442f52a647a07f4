//! What `Precision::Fast` means, and its portable form.
//!
//! `y[i, r] ≈ Σ_g s[r, g] · t[i, g] · Σ_c q[r, g, c] · p[i, g, c]`, groups g of 64 columns:
//! integers p and one scale t per group of activations, integers q and one scale s per group of
//! weights. Sums of integers are exact, so every instruction set gets the same ones and only the
//! f32 scales and the f32 sum over groups round differently.
//!
//! Activations: `t = max |x| / 127`, `p = round(x / t)`. Int8 weights are such integers already.
//! NF4 weights get integer codebook values `q = round(112 · c)` and `s = absmax / 112`: of all
//! factors up to 127 the one whose rounded codebook is closest to the real one (root mean square
//! 0.17 % of absmax; 127 would give 0.22 %).

use super::scales::{self, INT8_GROUP, NF4_GROUP};
use super::{GROUP, Quantized};
use crate::quant::{Int8, Layout, Matrix, Nf4, Values, nf4::CODEBOOK};
use crate::tensor::columns::Columns;

/// The codebook value 1.0 as an integer.
pub(super) const UNIT: i8 = 112;

/// `round(112 · c)` of each codebook value.
pub(super) const INTEGERS: [i8; 16] = {
    let mut integers = [0; 16];
    let mut i = 0;
    while i < 16 {
        let scaled = CODEBOOK[i] * UNIT as f32;
        integers[i] = (scaled + if scaled < 0.0 { -0.5 } else { 0.5 }) as i8;
        i += 1;
    }
    integers
};

/// A group whose activations are all smaller counts as zero: the reciprocal of the scale must not
/// overflow.
pub(super) const TINY: f32 = 1e-35;

/// Weights that have integers: rows of whole groups, a scale that is constant within a group.
pub(super) enum Weights<'a> {
    Nf4(Nf4<'a>),
    Int8(Int8<'a>),
}

impl<'a> Weights<'a> {
    /// The weights of `matrix`, if its format, layout and shape have a fast form.
    pub(super) fn of(matrix: &Matrix<'a>) -> Option<Self> {
        match matrix.values() {
            Values::Nf4(nf4) if nf4.layout == Layout::Split64 => Some(Self::Nf4(nf4)),
            Values::Int8(int8)
                if matrix.cols().is_multiple_of(GROUP) && int8.block.is_multiple_of(GROUP) =>
            {
                Some(Self::Int8(int8))
            }
            _ => None,
        }
    }

    /// What the scales are to be multiplied with: s = [`Self::scales`] · unit.
    #[inline]
    pub(super) fn unit(&self) -> f32 {
        match self {
            Self::Nf4(_) => 1.0 / f32::from(UNIT),
            Self::Int8(_) => 1.0,
        }
    }

    /// The scales of groups `first ..`.
    #[inline]
    pub(super) fn scales(&self, first: usize, out: &mut [f32]) {
        match self {
            Self::Nf4(nf4) => scales::nf4(nf4, first, out),
            Self::Int8(int8) => scales::int8::<GROUP>(int8, first, out),
        }
    }

    /// q of group `group`.
    fn integers(&self, group: usize, out: &mut [i8; GROUP]) {
        match self {
            Self::Nf4(nf4) => {
                let (low, high) = out.split_at_mut(GROUP / 2);
                for ((low, high), &byte) in
                    low.iter_mut().zip(high).zip(&nf4.codes[group * (GROUP / 2)..])
                {
                    (*low, *high) =
                        (INTEGERS[usize::from(byte & 15)], INTEGERS[usize::from(byte >> 4)]);
                }
            }
            Self::Int8(int8) => out.copy_from_slice(&int8.values[group * GROUP..][..GROUP]),
        }
    }
}

#[cfg(all(target_arch = "arm", target_feature = "dsp", not(lowrank_isa = "scalar")))]
use super::dsp::sum;

/// Σ qᵢ·pᵢ.
#[cfg(not(all(target_arch = "arm", target_feature = "dsp", not(lowrank_isa = "scalar"))))]
fn sum(q: &[i8; GROUP], p: &[i8; GROUP]) -> i32 {
    q.iter().zip(p).map(|(&q, &p)| i32::from(q) * i32::from(p)).sum()
}

/// The product, group by group, each group of weights against every vector.
pub(super) fn product(weights: &Weights<'_>, x: &Quantized<'_>, cols: usize, y: &mut Columns<'_>) {
    let groups = cols / GROUP;
    let mut q = [0; GROUP];
    let mut scale = [0.0];
    for row in y.range() {
        (0..y.rows()).for_each(|i| y.set(i, row, 0.0));
        for g in 0..groups {
            weights.integers(row * groups + g, &mut q);
            weights.scales(row * groups + g, &mut scale);
            for i in 0..y.rows() {
                // Shapes were checked: there is a group.
                let Some(p) = x.values[(i * groups + g) * GROUP..].first_chunk() else { continue };
                y.add(
                    i,
                    row,
                    scale[0] * weights.unit() * x.scales[i * groups + g] * sum(&q, p) as f32,
                );
            }
        }
    }
}

/// Activations to integers and scales, group by group; a group with a NaN gets a NaN scale.
pub(super) fn quantize(x: &[f32], values: &mut [i8], scales: &mut [f32]) {
    for ((x, values), scale) in x.chunks(GROUP).zip(values.chunks_mut(GROUP)).zip(scales) {
        // Without the sign, the bits of floats are ordered as the floats are, with NaN above
        // infinity.
        let most = f32::from_bits(x.iter().fold(0, |most, x| most.max(x.to_bits() & 0x7fff_ffff)));
        let reciprocal;
        (*scale, reciprocal) = scale_of(most);
        values
            .iter_mut()
            .zip(x)
            .for_each(|(value, &x)| *value = libm::roundevenf(x * reciprocal) as i8);
    }
}

/// (t, 1 / t) of a group with this largest magnitude.
#[inline]
pub(crate) fn scale_of(most: f32) -> (f32, f32) {
    if most < TINY { (0.0, 0.0) } else { (most * (1.0 / 127.0), 127.0 / most) }
}

const _: () = assert!(GROUP == NF4_GROUP && GROUP == 2 * INT8_GROUP);
