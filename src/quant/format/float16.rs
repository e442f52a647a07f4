//! 16-bit floats (IEEE 754 binary16), kept as bits.

#[cfg(feature = "alloc")]
use alloc::vec::Vec;

use half::f16;

use super::{Facts, Numbers, Parts, after, start};
#[cfg(feature = "alloc")]
use super::{OwnedValues, Pieces};
#[cfg(feature = "alloc")]
use crate::error::{Error, Result};
use crate::tensor::line::{Line, halves};

pub(super) const FACTS: Facts = Facts {
    name: "f16",
    bits: 16,
    scale: 0,
    nested: 0,
    // The copy that is compared with it may be bf16.
    #[cfg(feature = "import")]
    rounding: [0.004, 0.0, 1e-7],
};

pub(super) fn in_place<'a>(count: usize, parts: &Parts<'a, Line>) -> &'a [u16] {
    start(halves(parts.codes), count)
}

impl<'a> Numbers<'a> for &'a [u16] {
    fn read(&self, first: usize, out: &mut [f32]) {
        for (out, &bits) in out.iter_mut().zip(after(self, first)) {
            *out = f16::from_bits(bits).to_f32();
        }
    }

    fn first_not_finite(&self) -> Option<usize> {
        self.iter().position(|&bits| !f16::from_bits(bits).is_finite())
    }

    fn parts(&self) -> Parts<'a, u8> {
        Parts { codes: bytemuck::cast_slice(self), scales: &[], nested: &[], offset: 0.0 }
    }
}

/// Refuses the first weight that becomes infinite.
#[cfg(feature = "alloc")]
pub(super) fn quantize(pieces: &mut Pieces<'_>) -> Result<OwnedValues> {
    let mut halves = Vec::with_capacity(pieces.count);
    pieces.each(|first, weights| {
        for (i, &value) in weights.iter().enumerate() {
            let half = f16::from_f32(value);
            if !half.is_finite() {
                return Err(Error::Range { index: (first + i) as u64, value });
            }
            halves.push(half.to_bits());
        }
        Ok(())
    })?;
    Ok(OwnedValues::F16(halves))
}
