//! The device's memory: allocations in an address space of its own, with a gap behind each, and for
//! every byte whether something wrote it.

use crate::{Fault, Kind, Result};

/// The first address; far from anything a host pointer could be.
const FIRST: u64 = 0x0700_0000_0000;
/// Allocations start at multiples of this.
const ALIGN: u64 = 256;

#[derive(Debug)]
struct Allocation {
    start: u64,
    bytes: Vec<u8>,
    written: Vec<bool>,
}

/// Device memory.
#[derive(Debug, Default)]
pub struct Memory {
    /// By rising address.
    allocations: Vec<Allocation>,
    /// Where the last access was.
    last: usize,
    next: u64,
}

impl Memory {
    /// Allocates `size` bytes that nothing wrote.
    pub fn allocate(&mut self, size: usize) -> u64 {
        let start = FIRST + self.next;
        self.next += (size as u64).next_multiple_of(ALIGN) + ALIGN;
        let (bytes, written) = (vec![0xcd; size], vec![false; size]);
        self.allocations.push(Allocation { start, bytes, written });
        start
    }

    /// Allocates what `bytes` hold.
    pub fn upload(&mut self, bytes: &[u8]) -> u64 {
        let address = self.allocate(bytes.len());
        let held = self.allocations.last_mut().expect("just made");
        held.bytes.copy_from_slice(bytes);
        held.written.fill(true);
        address
    }

    /// Frees an allocation; false if none starts there.
    pub fn free(&mut self, address: u64) -> bool {
        let found = self.allocations.iter().position(|held| held.start == address);
        found.map(|at| self.allocations.remove(at)).is_some()
    }

    /// Bytes in all allocations.
    pub fn used(&self) -> usize {
        self.allocations.iter().map(|held| held.bytes.len()).sum()
    }

    /// Where `size` bytes at `address` are, if they are in one allocation.
    fn find(&mut self, address: u64, size: usize) -> Option<(&mut Allocation, usize)> {
        let inside = |held: &Allocation| {
            let at = address.checked_sub(held.start)? as usize;
            (at <= held.bytes.len() && size <= held.bytes.len() - at).then_some(at)
        };
        if let Some(at) = self.allocations.get(self.last).and_then(inside) {
            return Some((&mut self.allocations[self.last], at));
        }
        self.last =
            self.allocations.partition_point(|held| held.start <= address).checked_sub(1)?;
        let held = &mut self.allocations[self.last];
        let at = inside(held)?;
        Some((held, at))
    }

    /// Writes bytes.
    ///
    /// # Errors
    /// [`Kind::OutOfBounds`].
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<()> {
        let size = bytes.len();
        let (held, at) = self.find(address, size).ok_or_else(|| outside("store", address, size))?;
        held.bytes[at..at + size].copy_from_slice(bytes);
        held.written[at..at + size].fill(true);
        Ok(())
    }

    /// Reads bytes.
    ///
    /// # Errors
    /// [`Kind::OutOfBounds`]; [`Kind::Uninitialized`] if one of them was never written.
    pub fn read(&mut self, address: u64, out: &mut [u8]) -> Result<()> {
        let size = out.len();
        let (held, at) = self.find(address, size).ok_or_else(|| outside("load", address, size))?;
        if !held.written[at..at + size].iter().all(|&written| written) {
            let text = format!("load of {size} bytes at {address:#x}, which nothing wrote");
            return Err(Fault::new(0, Kind::Uninitialized, text));
        }
        out.copy_from_slice(&held.bytes[at..at + size]);
        Ok(())
    }

    /// Copies bytes, with what is known of them.
    ///
    /// # Errors
    /// [`Kind::OutOfBounds`].
    pub fn copy(&mut self, to: u64, from: u64, size: usize) -> Result<()> {
        let (held, at) = self.find(from, size).ok_or_else(|| outside("copy", from, size))?;
        let (bytes, written) =
            (held.bytes[at..at + size].to_vec(), held.written[at..at + size].to_vec());
        let (held, at) = self.find(to, size).ok_or_else(|| outside("copy", to, size))?;
        held.bytes[at..at + size].copy_from_slice(&bytes);
        held.written[at..at + size].copy_from_slice(&written);
        Ok(())
    }
}

fn outside(what: &str, address: u64, size: usize) -> Fault {
    let text = format!("{what} of {size} bytes at {address:#x}, outside every allocation");
    Fault::new(0, Kind::OutOfBounds, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accesses_stay_in_one_allocation() {
        let mut memory = Memory::default();
        let (a, b) = (memory.upload(&[1, 2, 3, 4]), memory.allocate(4));
        let mut two = [0; 2];
        memory.read(a + 2, &mut two).unwrap();
        assert_eq!(two, [3, 4]);
        assert_eq!(memory.read(a + 3, &mut two).unwrap_err().kind, Kind::OutOfBounds);
        assert_eq!(memory.read(a - 1, &mut two).unwrap_err().kind, Kind::OutOfBounds);
        assert_eq!(memory.read(b, &mut two).unwrap_err().kind, Kind::Uninitialized);
        memory.write(b, &[9]).unwrap();
        assert_eq!(memory.read(b, &mut two).unwrap_err().kind, Kind::Uninitialized);
        memory.copy(b, a, 4).unwrap();
        memory.read(b, &mut two).unwrap();
        assert_eq!(two, [1, 2]);
        assert_eq!(memory.used(), 8);
        assert!(memory.free(a) && !memory.free(a));
        assert_eq!(memory.write(a, &[0]).unwrap_err().kind, Kind::OutOfBounds);
    }
}
