//! The scales of NF4's double quantization, sixteen codes at a time.
//!
//! `scale = MAP[code] · nested + offset`. The map is antisymmetric around code 127, `MAP[127 − a] =
//! −MAP[127 + a]`, but for its last value, 1.0 at code 255: 128 magnitudes in eight registers are
//! looked up by a two-register permute each 32, the sign is that of `code − 127`.

use core::arch::x86_64::*;

use super::lanes::{self, load};
use crate::kernel::avx2::fast::expand_scales;
use crate::kernel::fast::Weights;
use crate::kernel::scales::{self, NF4_GROUP};
use crate::quant::{Nf4, Scales, double};

/// `MAP[127 + a]`.
const MAGNITUDES: [[f32; 16]; 8] = {
    let mut magnitudes = [[0.0; 16]; 8];
    let mut a = 0;
    while a < 128 {
        magnitudes[a / 16][a % 16] = double::MAP[127 + a];
        a += 1;
    }
    magnitudes
};

/// `s` of groups `first ..`: scales times the unit.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,f16c")]
pub(super) fn times_unit(weights: &Weights<'_>, first: usize, out: &mut [f32]) {
    match weights {
        Weights::Nf4(nf4) => {
            self::nf4(nf4, first, out);
            out.iter_mut().for_each(|scale| *scale *= weights.unit());
        }
        Weights::Int8(_) => expand_scales(weights, first, out),
    }
}

/// The absmax of groups `first ..` of 64 weights, bit for bit as `scales::nf4` has it.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn nf4(nf4: &Nf4<'_>, first: usize, out: &mut [f32]) {
    let Scales::Double { codes, nested, offset } = nf4.scales else {
        return scales::nf4(nf4, first, out);
    };
    if nf4.block != NF4_GROUP {
        return scales::nf4(nf4, first, out);
    }
    let (mut at, mut rest) = (first, out);
    while !rest.is_empty() {
        let run = (double::GROUP - at % double::GROUP).min(rest.len());
        let (now, later) = rest.split_at_mut(run);
        decode(&codes[at..at + run], nested[at / double::GROUP], offset, now);
        (at, rest) = (at + run, later);
    }
}

/// `MAP[code] · nested + offset`, multiplied and added, each rounded.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn decode(codes: &[u8], nested: f32, offset: f32, out: &mut [f32]) {
    let (nested, offset) = (_mm512_set1_ps(nested), _mm512_set1_ps(offset));
    let mut tables = [_mm512_setzero_ps(); 8];
    tables.iter_mut().zip(&MAGNITUDES).for_each(|(table, magnitudes)| *table = load(magnitudes));
    let (sign, last) = (_mm512_set1_epi32(i32::MIN), _mm512_set1_epi32(128));
    for (codes, out) in codes.chunks(16).zip(out.chunks_mut(16)) {
        let signed = _mm512_sub_epi32(lanes::widen_some_bytes(codes), _mm512_set1_epi32(127));
        let a = _mm512_abs_epi32(signed);
        let look_up = |i: usize| _mm512_permutex2var_ps(tables[2 * i], a, tables[2 * i + 1]);
        let (upper32, upper64) = (
            _mm512_test_epi32_mask(a, _mm512_set1_epi32(32)),
            _mm512_test_epi32_mask(a, _mm512_set1_epi32(64)),
        );
        let low = _mm512_mask_blend_ps(upper32, look_up(0), look_up(1));
        let high = _mm512_mask_blend_ps(upper32, look_up(2), look_up(3));
        let value = _mm512_mask_blend_ps(upper64, low, high);
        let value =
            _mm512_mask_blend_ps(_mm512_cmpeq_epi32_mask(a, last), value, _mm512_set1_ps(1.0));
        // value ^ (signed & sign)
        let value = _mm512_castsi512_ps(_mm512_ternarylogic_epi32::<0x78>(
            _mm512_castps_si512(value),
            signed,
            sign,
        ));
        lanes::put(out, _mm512_add_ps(_mm512_mul_ps(value, nested), offset), false);
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::eprintln;
    use std::vec::Vec;

    use super::*;
    use crate::quant::Layout;

    #[test]
    fn scales_are_those_of_the_map_to_the_bit() {
        if crate::kernel::by_name("avx512vnni").is_none() {
            return eprintln!("SKIPPED: this CPU cannot run avx512vnni");
        }
        // Every code, in an order that moves through every lane.
        let codes: Vec<u8> = (0..1024u32).map(|i| (i * 167 % 256) as u8).collect();
        let scales =
            Scales::Double { codes: &codes, nested: &[0.37, 1.0, 3e-9, 1.7e8], offset: 0.043 };
        let matrix = Nf4 { codes: &[], scales, block: 64, layout: Layout::Split64 };
        for first in [0, 1, 15, 250, 256, 511] {
            for len in (0..70).chain([256, 300, 512]) {
                let (mut found, mut expected) = (std::vec![f32::NAN; len], std::vec![0.0; len]);
                // SAFETY: the first line.
                unsafe { nf4(&matrix, first, &mut found) };
                scales::nf4(&matrix, first, &mut expected);
                let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&found), bits(&expected), "{len} from {first}");
            }
        }
    }
}
