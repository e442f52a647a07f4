//! A block's shared memory, with who wrote and read every byte since the last barrier.

use crate::{Fault, Kind, Result};

/// Nobody, or several warps.
const NONE: u16 = u16::MAX;
const SEVERAL: u16 = u16::MAX - 1;

#[derive(Debug, Clone, Copy)]
struct Byte {
    value: u8,
    written: bool,
    /// Since the last barrier.
    writer: u16,
    reader: u16,
}

#[derive(Debug)]
pub(crate) struct Shared {
    bytes: Vec<Byte>,
}

impl Shared {
    pub(crate) fn new(size: usize) -> Self {
        let byte = Byte { value: 0xaa, written: false, writer: NONE, reader: NONE };
        Self { bytes: vec![byte; size] }
    }

    /// All warps have passed a barrier.
    pub(crate) fn barrier(&mut self) {
        self.bytes.iter_mut().for_each(|byte| (byte.writer, byte.reader) = (NONE, NONE));
    }

    fn find(&mut self, what: &str, address: u64, size: usize) -> Result<&mut [Byte]> {
        let range = address as usize..(address as usize).saturating_add(size);
        let have = self.bytes.len();
        self.bytes.get_mut(range).ok_or_else(|| {
            let text = format!("shared {what} of {size} bytes at {address:#x}, past {have}");
            Fault::new(0, Kind::OutOfBounds, text)
        })
    }

    pub(crate) fn write(&mut self, warp: u16, address: u64, bytes: &[u8]) -> Result<()> {
        for (byte, &value) in self.find("store", address, bytes.len())?.iter_mut().zip(bytes) {
            if ![NONE, warp].contains(&byte.writer) || ![NONE, warp].contains(&byte.reader) {
                return Err(race(warp, address, "written"));
            }
            (byte.value, byte.written, byte.writer) = (value, true, warp);
        }
        Ok(())
    }

    pub(crate) fn read(&mut self, warp: u16, address: u64, out: &mut [u8]) -> Result<()> {
        for (byte, out) in self.find("load", address, out.len())?.iter_mut().zip(out) {
            if !byte.written {
                let text = format!("shared load at {address:#x}, which nothing wrote");
                return Err(Fault::new(0, Kind::Uninitialized, text));
            }
            if ![NONE, warp].contains(&byte.writer) {
                return Err(race(warp, address, "read"));
            }
            byte.reader = if [NONE, warp].contains(&byte.reader) { warp } else { SEVERAL };
            *out = byte.value;
        }
        Ok(())
    }
}

fn race(warp: u16, address: u64, what: &str) -> Fault {
    let text = format!(
        "shared memory at {address:#x} is {what} by warp {warp} with no barrier after another warp's access"
    );
    Fault::new(0, Kind::Race, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warps_race_unless_a_barrier_is_between() {
        let kind = |result: Result<()>| result.map_err(|fault| fault.kind);
        let mut shared = Shared::new(4);
        let mut out = [0];
        assert_eq!(kind(shared.read(0, 0, &mut out)), Err(Kind::Uninitialized));
        shared.write(0, 0, &[7]).unwrap();
        shared.read(0, 0, &mut out).unwrap();
        assert_eq!(kind(shared.read(1, 0, &mut out)), Err(Kind::Race));
        shared.barrier();
        shared.read(1, 0, &mut out).unwrap();
        shared.read(2, 0, &mut out).unwrap();
        assert_eq!(out, [7]);
        for warp in [0, 1, 2] {
            assert_eq!(kind(shared.write(warp, 0, &[8])), Err(Kind::Race));
        }
        assert_eq!(kind(shared.write(0, 4, &[8])), Err(Kind::OutOfBounds));
    }
}
