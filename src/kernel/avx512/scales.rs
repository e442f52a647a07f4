//! The scales of NF4's double quantization, sixteen codes at a time.
//!
//! `scale = MAP[code] · nested + offset`. The map is antisymmetric around code 127, `MAP[127 − a] =
//! −MAP[127 + a]`, but for its last value, 1.0 at code 255: 128 magnitudes in eight registers are
//! looked up by a two-register permute each 32, the sign is that of `code − 127`. Between two
//! powers of two the map is a straight line, but for its rounding: with 23 bits that is enough for
//! [`times_unit`], which looks up slope and start by the exponent of `code − 127`.

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

/// `MAP[127 + a] ≈ SLOPES[e] · a + STARTS[e]`, e the low four bits of the exponent of a ≥ 1 as a
/// float.
const LINES: [[f32; 16]; 2] = {
    let mut lines = [[0.0; 16]; 2];
    let mut i = 0;
    while i < 7 {
        let (first, last) = (1 << i, (2 << i) - 1);
        let (from, to) = (double::MAP[127 + first] as f64, double::MAP[127 + last] as f64);
        let slope = if i == 0 { 0.0 } else { (to - from) / (last - first) as f64 };
        let e = (127 + i) % 16;
        (lines[0][e], lines[1][e]) = (slope as f32, (from - slope * first as f64) as f32);
        i += 1;
    }
    lines[1][(127 + 7) % 16] = double::MAP[255];
    lines
};

/// `s` of groups `first ..`: scales times the unit.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,f16c")]
pub(super) fn times_unit(weights: &Weights<'_>, first: usize, out: &mut [f32]) {
    let unit = weights.unit();
    match weights {
        Weights::Nf4(Nf4 {
            scales: Scales::Double { codes, nested, offset },
            block: NF4_GROUP,
            ..
        }) => {
            let (mut at, mut rest) = (first, out);
            while !rest.is_empty() {
                let run = (double::GROUP - at % double::GROUP).min(rest.len());
                let (now, later) = rest.split_at_mut(run);
                let nested = nested[at / double::GROUP];
                lines(&codes[at..at + run], nested * unit, offset * unit, now);
                (at, rest) = (at + run, later);
            }
        }
        _ => {
            expand_scales(weights, first, out);
            if unit != 1.0 {
                out.iter_mut().for_each(|scale| *scale *= unit);
            }
        }
    }
}

/// `MAP[code] · nested + offset`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn lines(codes: &[u8], nested: f32, offset: f32, out: &mut [f32]) {
    let nested = _mm512_set1_ps(nested);
    let (slopes, starts) =
        (_mm512_mul_ps(load(&LINES[0]), nested), _mm512_mul_ps(load(&LINES[1]), nested));
    let (sign, offset) = (_mm512_set1_epi32(i32::MIN), _mm512_set1_ps(offset));
    let step = |codes: __m512i| {
        let signed = _mm512_sub_epi32(codes, _mm512_set1_epi32(127));
        let not_zero = _mm512_test_epi32_mask(signed, signed);
        let x = _mm512_cvtepi32_ps(signed);
        let exponent = _mm512_srli_epi32::<23>(_mm512_castps_si512(x));
        let start = _mm512_castps_si512(_mm512_maskz_permutexvar_ps(not_zero, exponent, starts));
        // start ^ (signed & sign)
        let start = _mm512_castsi512_ps(_mm512_ternarylogic_epi32::<0x78>(start, signed, sign));
        _mm512_fmadd_ps(x, _mm512_permutexvar_ps(exponent, slopes), _mm512_add_ps(start, offset))
    };
    let ((codes, rest), (out, out_rest)) = (codes.as_chunks(), out.as_chunks_mut());
    for (codes, out) in codes.iter().zip(out) {
        lanes::store(out, step(lanes::widen_bytes(codes)));
    }
    if !rest.is_empty() {
        lanes::put(out_rest, step(lanes::widen_some_bytes(rest)), false);
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

    #[test]
    fn scales_times_the_unit_are_those_of_the_map() {
        if crate::kernel::by_name("avx512vnni").is_none() {
            return eprintln!("SKIPPED: this CPU cannot run avx512vnni");
        }
        let codes: Vec<u8> = (0..2048u32).map(|i| (i * 167 % 256) as u8).collect();
        let nested: Vec<f32> = (0..8).map(|i| [0.37, 1.0, 3e-9, 1.7e8][i % 4]).collect();
        let halves: Vec<u16> =
            (0..2048).map(|i| half::f16::from_f32(0.01 + i as f32 / 700.0).to_bits()).collect();
        let scales = Scales::Double { codes: &codes, nested: &nested, offset: 0.043 };
        let nf4 = Nf4 { codes: &[], scales, block: 64, layout: Layout::Split64 };
        let larger = Nf4 { block: 128, ..nf4 };
        let int8 = crate::quant::Int8 { values: &[], scales: &halves, block: 64 };
        for weights in [Weights::Nf4(nf4), Weights::Nf4(larger), Weights::Int8(int8)] {
            for (first, len) in [(0, 1024), (9, 4), (250, 9), (255, 33), (511, 300)] {
                let (mut found, mut scales) = (std::vec![f32::NAN; len], std::vec![0.0; len]);
                // SAFETY: the first line.
                unsafe { times_unit(&weights, first, &mut found) };
                weights.scales(first, &mut scales);
                for (i, (found, scale)) in found.iter().zip(&scales).enumerate() {
                    let (most, unit) = (nested[(first + i) / 256].max(0.043), weights.unit());
                    assert!(
                        (found - scale * unit).abs() <= 2e-7 * most.max(scale.abs()) * unit,
                        "{found} instead of {scale} · {unit}"
                    );
                }
            }
        }
    }
}
