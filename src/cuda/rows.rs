//! Rows of numbers that go to the device and come back, in memory that is kept from one to the next.

use std::borrow::Cow;
use std::sync::Arc;

use super::buffer::{Address, Buffer};
use super::{CudaError, Device};

/// Rows of `width` numbers on the device, each `stride` numbers behind the one before.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rows {
    pub(super) at: Address,
    pub(super) width: usize,
    pub(super) stride: usize,
}

/// Memory for rows, as much as was ever asked for.
#[derive(Debug, Default)]
pub(super) struct Place(Option<Buffer>);

impl Place {
    /// Room for `n` rows; what was here may be lost.
    pub(super) fn room(
        &mut self,
        device: &Arc<Device>,
        n: usize,
        width: usize,
        stride: usize,
    ) -> Result<Rows, CudaError> {
        let bytes = 4 * n * stride;
        if self.0.as_ref().is_some_and(|buffer| buffer.bytes() < bytes) {
            // Before its successor is made: both need not fit.
            self.0 = None;
        }
        let buffer = match &mut self.0 {
            Some(buffer) => buffer,
            none => none.insert(Buffer::zeroed(device, bytes)?),
        };
        Ok(Rows { at: buffer.address(), width, stride })
    }

    /// Copies rows here, each with zeros up to the next.
    pub(super) fn put(
        &mut self,
        device: &Arc<Device>,
        values: &[f32],
        width: usize,
        stride: usize,
    ) -> Result<Rows, CudaError> {
        let n = values.len() / width.max(1);
        let values = match stride == width {
            true => Cow::Borrowed(values),
            false => {
                let mut rows = vec![0.0; n * stride];
                let each = rows.chunks_exact_mut(stride).zip(values.chunks_exact(width));
                each.for_each(|(to, from)| to[..width].copy_from_slice(from));
                Cow::Owned(rows)
            }
        };
        let rows = self.room(device, n, width, stride)?;
        self.write(&values)?;
        Ok(rows)
    }

    /// Copies what the first bytes here are to be.
    pub(super) fn write<T: bytemuck::NoUninit>(&self, values: &[T]) -> Result<(), CudaError> {
        self.0.as_ref().map_or(Ok(()), |buffer| buffer.write(0, values))
    }

    /// Copies `rows`, which are here, to `out`.
    pub(super) fn get(&self, rows: Rows, out: &mut [f32]) -> Result<(), CudaError> {
        let (Some(buffer), Rows { width, stride, .. }) = (&self.0, rows) else { return Ok(()) };
        if stride == width {
            return buffer.read(0, out);
        }
        let mut all = vec![0.0; out.len() / width.max(1) * stride];
        buffer.read(0, &mut all)?;
        let each = out.chunks_exact_mut(width).zip(all.chunks_exact(stride));
        each.for_each(|(to, from)| to.copy_from_slice(&from[..width]));
        Ok(())
    }

    /// Adds `rows`, which are here, to `sum`.
    pub(super) fn add_to(&self, rows: Rows, sum: &mut [f32]) -> Result<(), CudaError> {
        let mut terms = vec![0.0; sum.len()];
        self.get(rows, &mut terms)?;
        sum.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
        Ok(())
    }
}
