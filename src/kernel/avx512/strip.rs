//! Some groups of V vectors, with their sums in registers: what weights are multiplied with.

use core::arch::x86_64::*;
use core::array;
use core::ops::Range;

use super::fast::{Place, ROWS, Work};
use super::lanes;
use crate::kernel::GROUP;
use crate::tensor::columns::Columns;

/// Vectors at most: eight integer and eight float sums leave registers for weights and scales.
pub(super) const STRIP: usize = 8;

/// Vectors up to which there are two integer sums of each: few would wait for themselves.
const FEW: usize = 4;

/// Some groups of V vectors.
pub(super) struct Strip<'a, const V: usize> {
    /// The number of the first vector.
    i: usize,
    /// Are there groups before these?
    next: bool,
    integers: [&'a [[i8; GROUP]]; V],
    scales: [&'a [f32]; V],
    starts: [&'a [i32]; V],
}

impl<'a, const V: usize> Strip<'a, V> {
    /// Groups `groups` of the part of `work`, of its vectors `first ..`.
    #[inline(always)]
    pub(super) fn new(work: &Work<'a>, groups: Range<usize>, first: usize) -> Self {
        let (part, i) = (work.part, work.batch.start + first);
        Self {
            i,
            next: part.first + groups.start > 0,
            integers: array::from_fn(|v| &part.integers(i + v)[groups.clone()]),
            scales: array::from_fn(|v| &part.scales(i + v)[groups.clone()]),
            starts: array::from_fn(|v| &work.starts[first + v][groups.clone()]),
        }
    }

    /// Adds group `g` of the weights `q(0) .. q(15)`, each asked for once.
    #[inline]
    #[target_feature(enable = "avx512f,avx512vnni,fma")]
    pub(super) fn group(
        &self,
        g: usize,
        scales: &[f32; ROWS],
        total: &mut [__m512; V],
        q: impl Fn(usize) -> __m512i,
    ) {
        let (mut sum, mut other) = ([_mm512_setzero_si512(); V], [_mm512_setzero_si512(); V]);
        let mut p = [&[0; GROUP]; V];
        for v in 0..V {
            (sum[v], p[v]) = (_mm512_set1_epi32(self.starts[v][g]), &self.integers[v][g]);
        }
        macro_rules! steps {
            ($($k:literal)*) => {$(
                let (low, high) = (q($k), q(8 + $k));
                for v in 0..V {
                    sum[v] = lanes::dot::<{ 4 * $k }>(sum[v], low, p[v]);
                }
                for v in 0..V {
                    let sum = if V <= FEW { &mut other[v] } else { &mut sum[v] };
                    *sum = lanes::dot::<{ 32 + 4 * $k }>(*sum, high, p[v]);
                }
            )*};
        }
        steps!(0 1 2 3 4 5 6 7);
        let s = lanes::load(scales);
        for v in 0..V {
            let sum = if V <= FEW { _mm512_add_epi32(sum[v], other[v]) } else { sum[v] };
            let scale = _mm512_mul_ps(s, _mm512_set1_ps(self.scales[v][g]));
            total[v] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, total[v]);
        }
    }

    /// Puts the sums of groups `first ..` of these into `y`, or adds them to those before.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn put(
        &self,
        total: &[__m512; V],
        first: usize,
        place: &Place,
        y: &mut Columns<'_>,
    ) {
        for (v, &total) in total.iter().enumerate() {
            let y = &mut y.row(self.i + v)[place.start..][..place.rows.len()];
            lanes::put(y, total, self.next || first > 0);
        }
    }
}
