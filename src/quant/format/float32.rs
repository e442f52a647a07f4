//! 32-bit floats: weights as they are.

#[cfg(feature = "alloc")]
use alloc::vec::Vec;

use super::{Facts, Numbers, Parts, after, start};
#[cfg(feature = "alloc")]
use super::{OwnedValues, Pieces};
#[cfg(feature = "alloc")]
use crate::error::Result;
use crate::tensor::line::{Line, floats};

pub(super) const FACTS: Facts = Facts {
    name: "f32",
    bits: 32,
    scale: 0,
    nested: 0,
    // The copy that is compared with it may be bf16.
    #[cfg(feature = "import")]
    rounding: [0.004, 0.0, 1e-7],
};

pub(super) fn in_place<'a>(count: usize, parts: &Parts<'a, Line>) -> &'a [f32] {
    start(floats(parts.codes), count)
}

impl<'a> Numbers<'a> for &'a [f32] {
    fn read(&self, first: usize, out: &mut [f32]) {
        let own = start(after(self, first), out.len());
        if own.len() == out.len() {
            out.copy_from_slice(own);
        }
    }

    fn first_not_finite(&self) -> Option<usize> {
        self.iter().position(|value| !value.is_finite())
    }

    fn parts(&self) -> Parts<'a, u8> {
        Parts { codes: bytemuck::cast_slice(self), scales: &[], nested: &[], offset: 0.0 }
    }
}

#[cfg(feature = "alloc")]
pub(super) fn quantize(pieces: &mut Pieces<'_>) -> Result<OwnedValues> {
    let mut values = Vec::with_capacity(pieces.count);
    pieces.each(|_, weights| {
        values.extend_from_slice(weights);
        Ok(())
    })?;
    Ok(OwnedValues::F32(values))
}
