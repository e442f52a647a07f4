//! Buffers carved out of one byte slice that the caller owns.

use bytemuck::Pod;

use crate::error::{Error, Result};

/// The alignment of the workspace and of every buffer in it, in bytes.
const ALIGN: usize = 64;

/// What is left of the caller's memory.
#[derive(Debug)]
pub(super) struct Workspace<'w> {
    rest: &'w mut [u8],
    /// For the error: the total that is needed and was given.
    need: usize,
    have: usize,
}

impl<'w> Workspace<'w> {
    /// The caller's memory, of which `need` bytes will be taken.
    pub(super) fn new(memory: &'w mut [u8], need: usize) -> Result<Self> {
        let remainder = memory.as_ptr().addr() % ALIGN;
        if remainder != 0 {
            return Err(Error::Misaligned { remainder });
        }
        let have = memory.len();
        if have < need {
            return Err(Error::WorkspaceTooSmall { need, have });
        }
        Ok(Self { rest: memory, need, have })
    }

    /// `count` numbers, with whatever the memory held.
    pub(super) fn numbers<T: Pod>(&mut self, count: usize) -> Result<&'w mut [T]> {
        let bytes = self.bytes(count, size_of::<T>())?;
        Ok(bytemuck::cast_slice_mut(bytes))
    }

    /// `count` copies of `value`. Bytes between the fields (padding) become zero, not what the
    /// stack held: the memory is the caller's to read afterwards.
    pub(super) fn values<T: Copy>(&mut self, count: usize, value: T) -> Result<&'w mut [T]> {
        const { assert!(align_of::<T>() <= ALIGN) };
        let bytes = self.bytes(count, size_of::<T>())?;
        bytes.fill(0);
        let start = bytes.as_mut_ptr().cast::<T>();
        for i in 0..count {
            // SAFETY: `bytes` has room for `count` values and starts on a 64-byte boundary.
            unsafe { start.add(i).write(value) };
        }
        // SAFETY: all values were just written; the memory is borrowed exclusively for 'w and T
        // needs no drop (Copy).
        Ok(unsafe { core::slice::from_raw_parts_mut(start, count) })
    }

    fn bytes(&mut self, count: usize, size: usize) -> Result<&'w mut [u8]> {
        let small = Error::WorkspaceTooSmall { need: self.need, have: self.have };
        let len = count.checked_mul(size).ok_or(small)?;
        let padded = len.checked_next_multiple_of(ALIGN).ok_or(small)?;
        let rest = core::mem::take(&mut self.rest);
        let (taken, rest) = rest.split_at_mut_checked(padded).ok_or(small)?;
        self.rest = rest;
        Ok(&mut taken[..len])
    }
}

/// An owned workspace, aligned as sessions want it. Needs `alloc`.
#[cfg(feature = "alloc")]
#[derive(Debug, Clone, Default)]
pub struct Memory {
    lines: alloc::vec::Vec<crate::archive::Line>,
    bytes: usize,
}

#[cfg(feature = "alloc")]
impl Memory {
    /// Memory for `need`, zeroed (pages are touched when they are used).
    pub fn new(need: super::Need) -> Self {
        Self { lines: bytemuck::zeroed_vec(need.bytes.div_ceil(ALIGN)), bytes: need.bytes }
    }
}

#[cfg(feature = "alloc")]
impl AsMut<[u8]> for Memory {
    /// The bytes, for [`Session::new`](super::Session::new).
    fn as_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.bytes]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, Copy)]
    #[allow(dead_code, reason = "its bytes are looked at")]
    struct Padded {
        wide: u64,
        narrow: u8,
    }

    #[test]
    fn values_with_padding_leave_zeros_between_their_fields() {
        let mut lines = [crate::archive::Line::ZERO; 2];
        let memory = bytemuck::cast_slice_mut::<_, u8>(&mut lines);
        memory.fill(0xaa);
        let mut workspace = Workspace::new(memory, 128).unwrap();
        workspace.values(4, Padded { wide: u64::MAX, narrow: 0xff }).unwrap();
        workspace.values(2, None::<Padded>).unwrap();
        let bytes = bytemuck::cast_slice::<_, u8>(&lines);
        let left = bytes[..64 + 2 * size_of::<Option<Padded>>()].iter().filter(|&&b| b == 0xaa);
        assert_eq!(left.count(), 0, "{bytes:x?}");
        assert_eq!(bytes[..64].iter().filter(|&&byte| byte == 0xff).count(), 4 * 9);
    }
}
