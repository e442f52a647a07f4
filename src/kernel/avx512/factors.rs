//! The scales of weights times those of one vector's activations, sixteen at a time.
//!
//! `(MAP[code] · nested + offset) · t`. Between two powers of two the map is a straight line, but for
//! its rounding: with 23 bits slope and start are enough, looked up by the exponent of `code − 127`.

use core::arch::x86_64::*;

use super::lanes::{self, load};
use super::scales;
use crate::kernel::GROUP;
use crate::kernel::avx2::fast::expand_scales;
use crate::kernel::fast::Weights;
use crate::kernel::scales::NF4_GROUP;
use crate::quant::{Nf4, Scales, double};

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

/// Groups that [`Period`] holds at most.
const SPAN: usize = 64;

/// Numbers of a row's groups, to be read from any group on: behind the last stands the first again.
pub(super) struct Period {
    values: [f32; SPAN + 16],
    len: usize,
    /// 16 modulo the length.
    step: usize,
}

impl Default for Period {
    fn default() -> Self {
        Self { values: [0.0; SPAN + 16], len: 1, step: 0 }
    }
}

impl Period {
    /// Takes over `values · unit`; at most [`SPAN`].
    pub(super) fn fill(&mut self, values: &[f32], unit: f32) {
        (self.len, self.step) = (values.len(), 16 % values.len());
        self.values
            .iter_mut()
            .zip(values.iter().cycle())
            .for_each(|(to, value)| *to = value * unit);
    }

    /// The phase sixteen numbers on.
    #[inline(always)]
    fn next(&self, phase: usize) -> usize {
        let next = phase + self.step;
        if next < self.len { next } else { next - self.len }
    }

    /// The sixteen numbers from `phase` on.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load(&self, phase: usize) -> __m512 {
        if let Some(values) = self.values[phase..].first_chunk() {
            load(values)
        } else {
            _mm512_setzero_ps()
        }
    }
}

/// Asks for what the scales of groups `first .. first + count` are made of. Between two runs of
/// scales pass so many weights that no hardware follows that stream: each run would wait for memory
/// anew.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn prefetch(weights: &Weights<'_>, first: usize, count: usize) {
    match weights {
        Weights::Nf4(Nf4 { scales: Scales::Double { codes, .. }, block: NF4_GROUP, .. }) => {
            lanes::prefetch_all(codes, first, count)
        }
        Weights::Int8(int8) if int8.block == GROUP => {
            lanes::prefetch_all(int8.scales, first, count)
        }
        _ => {}
    }
}

/// The scales of groups `first ..` times those of activations, `ts`, which begin at `first`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,f16c")]
pub(super) fn factors(weights: &Weights<'_>, first: usize, ts: &Period, out: &mut [f32]) {
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
                lines(
                    &codes[at..at + run],
                    nested[at / double::GROUP],
                    *offset,
                    ts,
                    (at - first) % ts.len,
                    now,
                );
                (at, rest) = (at + run, later);
            }
        }
        _ => {
            expand(weights, first, out);
            let (out, rest) = out.as_chunks_mut();
            let mut phase = 0;
            for out in out {
                lanes::store(out, _mm512_mul_ps(load(out), ts.load(phase)));
                phase = ts.next(phase);
            }
            lanes::put(rest, _mm512_mul_ps(lanes::load_some(rest), ts.load(phase)), false);
        }
    }
}

/// `(MAP[code] · nested + offset) · t`, with ts from `phase` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn lines(codes: &[u8], nested: f32, offset: f32, ts: &Period, phase: usize, out: &mut [f32]) {
    let nested = _mm512_set1_ps(nested);
    let (slopes, starts) =
        (_mm512_mul_ps(load(&LINES[0]), nested), _mm512_mul_ps(load(&LINES[1]), nested));
    let (sign, offset) = (_mm512_set1_epi32(i32::MIN), _mm512_set1_ps(offset));
    let mut phase = phase;
    let step = |codes: __m512i, phase| {
        let signed = _mm512_sub_epi32(codes, _mm512_set1_epi32(127));
        let not_zero = _mm512_test_epi32_mask(signed, signed);
        let x = _mm512_cvtepi32_ps(signed);
        let exponent = _mm512_srli_epi32::<23>(_mm512_castps_si512(x));
        let start = _mm512_castps_si512(_mm512_maskz_permutexvar_ps(not_zero, exponent, starts));
        // start ^ (signed & sign)
        let start = _mm512_castsi512_ps(_mm512_ternarylogic_epi32::<0x78>(start, signed, sign));
        let scale = _mm512_fmadd_ps(
            x,
            _mm512_permutexvar_ps(exponent, slopes),
            _mm512_add_ps(start, offset),
        );
        _mm512_mul_ps(scale, ts.load(phase))
    };
    let ((codes, rest), (out, out_rest)) = (codes.as_chunks(), out.as_chunks_mut());
    for (codes, out) in codes.iter().zip(out) {
        lanes::store(out, step(lanes::widen_bytes(codes), phase));
        phase = ts.next(phase);
    }
    if !rest.is_empty() {
        lanes::put(out_rest, step(lanes::widen_some_bytes(rest), phase), false);
    }
}

/// The scales of groups `first ..`, as [`Weights::scales`] has them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,f16c")]
fn expand(weights: &Weights<'_>, first: usize, out: &mut [f32]) {
    match weights {
        Weights::Nf4(nf4) => scales::nf4(nf4, first, out),
        Weights::Int8(_) => expand_scales(weights, first, out),
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
    fn factors_are_scales_times_those_of_the_activations() {
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
            for per_row in [1, 3, 9, 15, 16, 17, 24, 64] {
                let ts: Vec<f32> = (0..per_row).map(|g| 0.5 + g as f32).collect();
                let mut period = Period::default();
                period.fill(&ts, 0.25);
                for (first, len) in [(0, 1024), (9, 4), (250, 9), (255, 33), (511, 300)] {
                    let (mut found, mut scales) = (std::vec![f32::NAN; len], std::vec![0.0; len]);
                    // SAFETY: the first line.
                    unsafe { factors(&weights, first, &period, &mut found) };
                    weights.scales(first, &mut scales);
                    for (i, (found, scale)) in found.iter().zip(&scales).enumerate() {
                        let most = nested[(first + i) / 256].max(0.043);
                        let t = 0.25 * ts[i % per_row];
                        assert!(
                            (found - scale * t).abs() <= 2e-7 * most.max(scale.abs()) * t,
                            "{found} instead of {scale} · {t}"
                        );
                    }
                }
            }
        }
    }
}
