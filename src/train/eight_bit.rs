//! Optimizer moments in 8 bits: blocks of 256 values, each with the largest magnitude of its block
//! in f32 and codes of the dynamic maps (arXiv 2110.02861); the signed map for the mean of the
//! gradients, the unsigned one for the mean of their squares.
//!
//! `absmax = max|x|`, `code = table[bin(x / absmax)]`, back: `x ≈ MAP[code] · absmax`. Byte for
//! byte what bitsandbytes 0.50 does on a CPU: a value is first rounded to one of 65536 bins of [-1,
//! 1]. The bins are wider than the smallest codes, so a mean of squares far below its block's
//! largest comes back as 1.5e-5 of it instead of 0, which keeps the step below it bounded.

use std::sync::LazyLock;

use crate::quant::double;

/// Values per block.
pub(super) const BLOCK: usize = 256;

/// The unsigned dynamic 8-bit map: 0, per decade 10⁻⁶ … 10⁰ twice as many midpoints as the signed
/// one, and 1.
pub(super) static UNSIGNED: LazyLock<[f32; 256]> = LazyLock::new(unsigned_map);

static SIGNED_TABLE: LazyLock<Vec<u8>> = LazyLock::new(|| table(&double::MAP));
static UNSIGNED_TABLE: LazyLock<Vec<u8>> = LazyLock::new(|| table(&UNSIGNED));

/// A tensor of moments.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Moments {
    pub(super) codes: Vec<u8>,
    /// One per block.
    pub(super) absmax: Vec<f32>,
}

/// A map and the codes of its bins.
#[derive(Clone, Copy)]
pub(super) struct Coder {
    map: &'static [f32; 256],
    table: &'static [u8],
}

impl Coder {
    /// For values of both signs.
    pub(super) fn signed() -> Self {
        Self { map: &double::MAP, table: &SIGNED_TABLE }
    }

    /// For values from 0 on.
    pub(super) fn unsigned() -> Self {
        Self { map: &UNSIGNED, table: &UNSIGNED_TABLE }
    }

    /// The values of a block.
    pub(super) fn decode(&self, codes: &[u8], absmax: f32, values: &mut [f32]) {
        for (value, &code) in values.iter_mut().zip(codes) {
            *value = self.map[usize::from(code)] * absmax;
        }
    }

    /// The codes of a block; returns its absmax.
    pub(super) fn encode(&self, values: &[f32], codes: &mut [u8]) -> f32 {
        let absmax = values.iter().fold(0.0f32, |most, value| most.max(value.abs()));
        let reciprocal = 1.0 / absmax;
        for (code, value) in codes.iter_mut().zip(values) {
            *code = if absmax == 0.0 {
                0
            } else {
                self.encode_one((value * reciprocal).clamp(-1.0, 1.0))
            };
        }
        absmax
    }

    fn encode_one(&self, value: f32) -> u8 {
        // NaN falls into bin 0.
        let bin = ((value + 1.0) * 0.5 * 65535.0 + 0.5) as u16;
        self.table[usize::from(bin)]
    }
}

impl Moments {
    /// `length` zeros.
    pub(super) fn zeros(length: usize) -> Self {
        Self { codes: vec![0; length], absmax: vec![0.0; length.div_ceil(BLOCK)] }
    }
}

/// For each bin the number of midpoints of the map below its centre.
fn table(map: &[f32; 256]) -> Vec<u8> {
    let mut code = 0u8;
    let next = |bin: u32| {
        let centre = -1.0 + (2 * bin) as f32 / 65535.0;
        while code < 255 && 0.5 * (map[usize::from(code)] + map[usize::from(code) + 1]) < centre {
            code += 1;
        }
        code
    };
    (0..65536).map(next).collect()
}

/// For each of 7 decades 10⁻⁶ … 10⁰: the 2^(i+1) midpoints of evenly spaced points in 0.1 to 1;
/// then 0 and 1.
///
/// bitsandbytes takes the points from `torch.linspace` in f32, rounded once from the nearer end;
/// the midpoint is their f32 mean.
fn unsigned_map() -> [f32; 256] {
    const DECADES: [f64; 7] = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0];
    let mut map = [0.0f32; 256];
    let decades = DECADES.iter().enumerate();
    let midpoints = decades.flat_map(|(i, decade)| {
        (0..2usize << i).map(move |k| midpoint(k, 2 << i) * *decade as f32)
    });
    for (value, midpoint) in map[1..].iter_mut().zip(midpoints) {
        *value = midpoint;
    }
    map[255] = 1.0;
    map
}

fn midpoint(k: usize, parts: usize) -> f32 {
    let step = f64::from((1.0f32 - 0.1f32) / parts as f32);
    let point = |k: usize| {
        let value = if k < parts.div_ceil(2) {
            f64::from(0.1f32) + step * k as f64
        } else {
            1.0 - step * (parts - k) as f64
        };
        value as f32
    };
    (point(k) + point(k + 1)) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_maps_rise_and_hold_the_ends() {
        assert!(UNSIGNED.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!((UNSIGNED[0], UNSIGNED[255]), (0.0, 1.0));
        assert_eq!((SIGNED_TABLE.len(), UNSIGNED_TABLE.len()), (65536, 65536));
    }

    #[test]
    fn a_block_comes_back_within_the_step_of_its_map() {
        let values: Vec<f32> = (0..BLOCK).map(|i| (i as f32 - 100.0) * 0.01).collect();
        let (mut codes, mut back) = (vec![0; BLOCK], vec![0.0; BLOCK]);
        let absmax = Coder::signed().encode(&values, &mut codes);
        Coder::signed().decode(&codes, absmax, &mut back);
        assert_eq!(absmax, values[BLOCK - 1]);
        for (value, back) in values.iter().zip(&back) {
            assert!((value - back).abs() <= 0.008 * absmax, "{value} {back}");
        }
    }

    #[test]
    fn zeros_stay_zero_and_what_is_not_a_number_does_not_panic() {
        let (mut codes, mut back) = ([7u8; 3], [7.0; 3]);
        let absmax = Coder::unsigned().encode(&[0.0; 3], &mut codes);
        Coder::unsigned().decode(&codes, absmax, &mut back);
        assert_eq!((codes, back), ([0; 3], [0.0; 3]));
        Coder::signed().encode(&[f32::NAN, f32::INFINITY, 1.0], &mut codes);
    }
}
