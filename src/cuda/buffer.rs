//! Device memory that is owned, and copies to and from it.

use core::ffi::c_void;
use std::sync::Arc;

use bytemuck::{NoUninit, Pod};
use cust::sys::{
    cuMemAlloc_v2, cuMemFree_v2, cuMemcpyDtoDAsync_v2, cuMemcpyDtoHAsync_v2, cuMemcpyHtoDAsync_v2,
    cuMemsetD8Async,
};

use super::{CudaError, Device};

/// An address of the device; 0 is none.
pub(super) type Address = u64;

/// Memory of a device.
#[derive(Debug)]
pub(super) struct Buffer {
    device: Arc<Device>,
    address: Address,
    bytes: usize,
}

impl Buffer {
    /// `bytes` of zeros, at least one.
    pub(super) fn zeroed(device: &Arc<Device>, bytes: usize) -> Result<Self, CudaError> {
        let (bytes, mut address) = (bytes.max(1), 0);
        device.enter()?;
        let what = format!("{bytes} bytes of memory");
        // SAFETY: a place for the address.
        CudaError::check(&what, unsafe { cuMemAlloc_v2(&mut address, bytes) })?;
        let buffer = Self { device: Arc::clone(device), address, bytes };
        // SAFETY: all of the allocation, and nothing else.
        CudaError::check(&what, unsafe { cuMemsetD8Async(address, 0, bytes, device.stream()) })?;
        Ok(buffer)
    }

    /// As many zeros as all `factors` together.
    pub(super) fn of(device: &Arc<Device>, factors: &[usize]) -> Result<Self, CudaError> {
        let bytes = factors.iter().try_fold(1usize, |all, &n| all.checked_mul(n));
        let bytes = bytes
            .ok_or_else(|| CudaError::refused("more bytes are needed than there are addresses"))?;
        Self::zeroed(device, bytes)
    }

    /// What `values` hold, in memory of its own.
    pub(super) fn upload<T: NoUninit>(
        device: &Arc<Device>,
        values: &[T],
    ) -> Result<Self, CudaError> {
        let buffer = Self::zeroed(device, size_of_val(values))?;
        buffer.write(0, values)?;
        Ok(buffer)
    }

    /// Where it is.
    pub(super) fn address(&self) -> Address {
        self.address
    }

    /// How many bytes it has.
    #[cfg(feature = "train")]
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Is `at .. at + bytes` inside?
    fn check(&self, at: usize, bytes: usize) -> Result<(), CudaError> {
        if at.checked_add(bytes).is_some_and(|end| end <= self.bytes) {
            return Ok(());
        }
        let have = self.bytes;
        Err(CudaError::refused(format!("bytes {at}.. + {bytes} of {have} on the device")))
    }

    /// Copies `values` to byte `at`.
    pub(super) fn write<T: NoUninit>(&self, at: usize, values: &[T]) -> Result<(), CudaError> {
        let bytes = size_of_val(values);
        self.check(at, bytes)?;
        self.device.enter()?;
        let from = values.as_ptr().cast::<c_void>();
        let to = self.address + at as u64;
        // SAFETY: `bytes` may be read from `values`, which the driver has copied when it returns
        // (they are pageable memory), and lie inside the allocation.
        let result = unsafe { cuMemcpyHtoDAsync_v2(to, from, bytes, self.device.stream()) };
        CudaError::check("a copy to the card", result)
    }

    /// Copies from byte `at` into `out`, when all work before it is done.
    pub(super) fn read<T: Pod>(&self, at: usize, out: &mut [T]) -> Result<(), CudaError> {
        let bytes = size_of_val(out);
        self.check(at, bytes)?;
        self.device.enter()?;
        let (to, from) = (out.as_mut_ptr().cast::<c_void>(), self.address + at as u64);
        // SAFETY: `out` has room for `bytes`, which lie inside the allocation, any bits are a `T`,
        // and `out` is borrowed until the line below has waited for the copy.
        let copied = unsafe { cuMemcpyDtoHAsync_v2(to, from, bytes, self.device.stream()) };
        // Also where the copy was refused: nothing may write to `out` any more.
        let waited = self.device.wait();
        CudaError::check("a copy from the card", copied).and(waited)
    }

    /// Copies `bytes` from one place to another of this memory, which do not overlap.
    pub(super) fn copy(&self, from: usize, to: usize, bytes: usize) -> Result<(), CudaError> {
        self.check(from, bytes)?;
        self.check(to, bytes)?;
        self.device.enter()?;
        let (to, from) = (self.address + to as u64, self.address + from as u64);
        // SAFETY: both inside the allocation.
        let result = unsafe { cuMemcpyDtoDAsync_v2(to, from, bytes, self.device.stream()) };
        CudaError::check("a copy on the card", result)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // Freeing waits for the work that uses it. A lost card has nothing left to free.
        if self.device.enter().is_ok() {
            // SAFETY: allocated in `zeroed`, freed once.
            let _ = unsafe { cuMemFree_v2(self.address) };
        }
    }
}
