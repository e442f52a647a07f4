//! Where a call tells a classification: logits, how many there are, the likeliest label.

use super::failure::{Outcome, Refusal};
use super::memory::Region;
use crate::error::Result;

/// Where a classification is told: logits, their number, and the label with the largest one.
pub(super) struct Classified {
    pub(super) logits: *mut f32,
    pub(super) capacity: usize,
    pub(super) count: *mut usize,
    pub(super) label: *mut u32,
}

impl Classified {
    /// The regions of the four arguments, the first of which has number `first`.
    pub(super) fn regions(&self, first: u32) -> [Region; 3] {
        [
            Region::writes(self.logits, self.capacity, first),
            Region::writes(self.count, 1, first + 2),
            Region::writes(self.label, 1, first + 3).optional(),
        ]
    }

    /// Lets `classify` fill `need` logits and tells their number and the largest one's label.
    ///
    /// # Safety
    /// The [`regions`](Self::regions) were checked.
    pub(super) unsafe fn fill(
        &self,
        need: usize,
        classify: impl FnOnce(&mut [f32]) -> Result<()>,
    ) -> Outcome {
        // SAFETY: the caller's promise; what the buffer holds is no float before it is written.
        unsafe {
            self.count.write(need);
            if need > self.capacity {
                return Err(Refusal::BufferTooSmall { have: self.capacity, need }.into());
            }
            self.logits.write_bytes(0, need);
            let logits = core::slice::from_raw_parts_mut(self.logits, need);
            classify(logits)?;
            if !self.label.is_null() {
                let best =
                    logits.iter().enumerate().fold((0, f32::NEG_INFINITY), |best, (i, &at)| {
                        if at > best.1 { (i, at) } else { best }
                    });
                self.label.write(best.0 as u32);
            }
        }
        Ok(())
    }
}
