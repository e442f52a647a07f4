//! The offset that makes weights unsigned bytes, as `vpdpbusd` takes them, and what it adds to a
//! group's sum.

use core::arch::x86_64::*;

use crate::kernel::GROUP;
use crate::kernel::avx2::lanes::{load_integers, sum_words};
use crate::kernel::fast::{UNIT, Weights};

/// What makes int8 weights unsigned.
pub(super) const INT8_OFFSET: i8 = -128;

/// The offset o of this kind of weights, as the bits of an unsigned byte.
pub(super) fn offset(weights: &Weights<'_>) -> i8 {
    match weights {
        Weights::Nf4(_) => UNIT,
        Weights::Int8(_) => INT8_OFFSET,
    }
}

/// `−o · Σ p` of every group.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx512vnni,avx2")]
pub(super) fn correct(offset: i8, integers: &[[i8; GROUP]], firsts: &mut [i32]) {
    let offset = _mm256_set1_epi8(offset);
    for (first, p) in firsts.iter_mut().zip(integers) {
        let [p0, p1] = load_integers(p);
        let sum = _mm256_dpbusd_epi32(
            _mm256_dpbusd_epi32(_mm256_setzero_si256(), offset, p0),
            offset,
            p1,
        );
        *first = -sum_words(sum);
    }
}
