//! An owned workspace. Needs `alloc`.

use alloc::vec::Vec;

use super::Need;
use crate::archive::Line;
use crate::error::{Error, Result};

/// An owned workspace, aligned as sessions want it. Needs `alloc`.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    lines: Vec<Line>,
    bytes: usize,
}

impl Memory {
    /// Memory for `need`, zeroed (pages are touched when they are used).
    pub fn new(need: Need) -> Self {
        Self {
            lines: bytemuck::zeroed_vec(need.bytes.div_ceil(size_of::<Line>())),
            bytes: need.bytes,
        }
    }

    /// As [`new`](Self::new), for a need that may be larger than what there is.
    ///
    /// # Errors
    /// [`Error::WorkspaceTooSmall`] where the system does not give as much.
    pub fn try_new(need: Need) -> Result<Self> {
        let refused = |()| Error::WorkspaceTooSmall { need: need.bytes, have: 0 };
        let lines = bytemuck::allocation::try_zeroed_vec(need.bytes.div_ceil(size_of::<Line>()));
        Ok(Self { lines: lines.map_err(refused)?, bytes: need.bytes })
    }
}

impl AsMut<[u8]> for Memory {
    /// The bytes, for [`Session::new`](super::Session::new).
    fn as_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.bytes]
    }
}
