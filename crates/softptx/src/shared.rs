//! A block's shared memory, with who wrote and read every byte since the last barrier.

use std::ops::Range;

use crate::{Fault, Kind, Result};

/// Nobody, or several warps.
const NONE: u16 = u16::MAX;
const SEVERAL: u16 = u16::MAX - 1;

/// Who accessed a byte between the barriers number `since` and the next.
#[derive(Debug, Clone, Copy)]
struct Users {
    writer: u16,
    reader: u16,
    since: u32,
}

impl Users {
    /// Who did since barrier `now`.
    fn since(self, now: u32) -> Self {
        let unused = Self { writer: NONE, reader: NONE, since: now };
        if self.since == now { self } else { unused }
    }
}

#[derive(Debug)]
pub(crate) struct Shared {
    bytes: Vec<u8>,
    written: Vec<bool>,
    users: Vec<Users>,
    barriers: u32,
}

impl Shared {
    pub(crate) fn new(size: usize) -> Self {
        let unused = Users { writer: NONE, reader: NONE, since: 0 };
        let (bytes, written) = (vec![0xaa; size], vec![false; size]);
        Self { bytes, written, users: vec![unused; size], barriers: 0 }
    }

    /// All warps have passed a barrier.
    pub(crate) fn barrier(&mut self) {
        self.barriers += 1;
    }

    fn find(&self, what: &str, address: u64, size: usize) -> Result<Range<usize>> {
        let end = (address as usize).saturating_add(size);
        if end <= self.bytes.len() {
            return Ok(address as usize..end);
        }
        let have = self.bytes.len();
        let text = format!("shared {what} of {size} bytes at {address:#x}, past {have}");
        Err(Fault::new(0, Kind::OutOfBounds, text))
    }

    pub(crate) fn write(&mut self, warp: u16, address: u64, bytes: &[u8]) -> Result<()> {
        let range = self.find("store", address, bytes.len())?;
        let others = |user: u16| user != NONE && user != warp;
        for users in &mut self.users[range.clone()] {
            *users = users.since(self.barriers);
            if others(users.writer) || others(users.reader) {
                return Err(race(warp, address, "written"));
            }
            users.writer = warp;
        }
        self.written[range.clone()].fill(true);
        self.bytes[range].copy_from_slice(bytes);
        Ok(())
    }

    pub(crate) fn read(&mut self, warp: u16, address: u64, out: &mut [u8]) -> Result<()> {
        let range = self.find("load", address, out.len())?;
        if self.written[range.clone()].contains(&false) {
            let text = format!("shared load at {address:#x}, which nothing wrote");
            return Err(Fault::new(0, Kind::Uninitialized, text));
        }
        for users in &mut self.users[range.clone()] {
            *users = users.since(self.barriers);
            if users.writer != NONE && users.writer != warp {
                return Err(race(warp, address, "read"));
            }
            let alone = users.reader == NONE || users.reader == warp;
            users.reader = if alone { warp } else { SEVERAL };
        }
        out.copy_from_slice(&self.bytes[range]);
        Ok(())
    }
}

fn race(warp: u16, address: u64, what: &str) -> Fault {
    let text = format!(
        "shared memory at {address:#x} is {what} by warp {warp}, no barrier after another's access"
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
